from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter

SPACE = LabelSpace([Category("pipe", True), Category("sky", False, source="auto")])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten photos, all in train, a pipe on the first two."""
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "set", SPACE) as writer:
        for place in range(10):
            ids = np.full((30, 30), 9, dtype=np.int32)
            segments = [Segment(9, 1, source="auto")]
            if place < 2:
                ids[:9, :9] = 4
                segments.append(Segment(4, 0))
            noise = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
            writer.add("train", f"p{place}.png", noise, PanopticMap(ids, segments, SPACE), original=f"IMG {place}.png")
    return tmp_path / "set"


def sides(folder: Path) -> dict[str, str]:
    return {record.file_name: name for name, split in read_dataset(folder).items() for record in split}


def test_a_dry_run_changes_nothing(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert main(["split", str(dataset), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "10 photos in 10 groups: train 8 (80%), val 2 (20%)" in out
    assert "pipe       1       1" in out
    assert "sky" not in out  # the labeler's classes need no stratification
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_in_place_and_with_a_test_part(dataset: Path) -> None:
    assert main(["split", str(dataset), "--test", "0.2", "--seed", "3"]) == 0
    found = sides(dataset)
    assert sorted(found.values()) == ["test"] * 2 + ["train"] * 6 + ["val"] * 2
    assert {found["p0.png"], found["p1.png"]} == {"train", "val"}
    report = check_dataset(dataset)
    assert report.ok
    assert not {"png-extra", "photo-extra"} & report.findings.keys()


def test_out_writes_a_new_dataset_and_keep_moves_nobody(dataset: Path, tmp_path: Path) -> None:
    maps = {record.file_name: record.map() for record in read_dataset(dataset)["train"]}
    assert main(["split", str(dataset), "--out", str(tmp_path / "new"), "--seed", "1"]) == 0
    assert set(sides(dataset).values()) == {"train"}
    new = read_dataset(tmp_path / "new")
    assert {record.file_name: record.map() for split in new.values() for record in split} == maps
    assert {record.original_file for record in new["val"]} <= {f"IMG {n}.png" for n in range(10)}
    assert main(["split", str(dataset), "--keep", str(tmp_path / "new"), "--seed", "77"]) == 0
    assert sides(dataset) == sides(tmp_path / "new")


def test_a_foreign_dataset_is_split_into_a_new_folder_only(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dataset / "annotations/panoptic_train.json"
    content = json.loads(path.read_text())
    del content["info"]
    path.write_text(json.dumps(content))
    assert main(["split", str(dataset)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["split", str(dataset), "--out", str(tmp_path / "new")]) == 0
    assert check_dataset(tmp_path / "new").ok


def test_a_name_in_two_splits_is_an_error(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["split", str(dataset)]) == 0
    path = dataset / "annotations" / "panoptic_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = read_dataset(dataset)["train"][0].file_name
    path.write_text(json.dumps(content))
    assert main(["split", str(dataset), "--dry-run"]) == 2
    assert "is there twice" in capsys.readouterr().err
