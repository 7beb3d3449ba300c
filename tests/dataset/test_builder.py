"""The builder: rows, processes, streaming, edits, Parquet, and folders that are wrong."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import datasets
import pytest

from hf_detr_panoptic import LabelSpace, PanopticMap
from hf_detr_panoptic.dataset.builder import PanopticBuilder
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.rows import to_panoptic_map
from hf_detr_panoptic.errors import DatasetError


def prepared(folder: Path, cache: Path, num_proc: int | None = None) -> datasets.DatasetDict:
    builder = PanopticBuilder(data_dir=str(folder), cache_dir=str(cache))
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset()


def test_as_a_class(dataset: Path, tmp_path: Path, space: LabelSpace, small_map: PanopticMap) -> None:
    found = prepared(dataset, tmp_path / "cache")
    assert {name: rows.num_rows for name, rows in found.items()} == {"train": 3, "validation": 2}
    for rows, split in ((found["train"], "train"), (found["validation"], "val")):
        for row, record in zip(rows, read_split(dataset, split), strict=True):
            assert (row["image_id"], row["file_name"]) == (record.image_id, record.file_name)
            assert to_panoptic_map(row, space) == small_map
            assert Path(row["image"].filename) == record.photo


def test_the_example(
    dataset: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["load_dataset.py", str(dataset)])
    runpy.run_path(str(root / "examples" / "load_dataset.py"), run_name="__main__")
    first, second, scene = capsys.readouterr().out.splitlines()
    columns = "photos, columns image, image_id, file_name, panoptic, segments"
    assert (first, second) == (f"train: 3 {columns}", f"validation: 2 {columns}")
    assert "pipe (custom)" in scene


def test_two_processes_and_streaming_give_the_same_rows(dataset: Path, tmp_path: Path) -> None:
    alone = prepared(dataset, tmp_path / "one")
    shared = prepared(dataset, tmp_path / "two", num_proc=2)
    stream = PanopticBuilder(data_dir=str(dataset), cache_dir=str(tmp_path / "three")).as_streaming_dataset("train")
    plain = datasets.Image(decode=False)
    assert list(stream.cast_column("image", plain)) == list(alone["train"].cast_column("image", plain))
    assert stream.num_shards == 3  # so that the workers of a loader can share the photos out
    for split in alone:
        one, two = (found[split].cast_column("image", plain) for found in (alone, shared))
        assert list(one) == list(two)
        assert one.features == two.features


def test_edited_annotations_are_read_anew(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert prepared(dataset, cache)["train"][0]["segments"][1]["score"] == 0.9
    path = dataset / "annotations" / "panoptic_train.json"
    path.write_text(path.read_text().replace('"score": 0.9', '"score": 0.1'))
    assert prepared(dataset, cache)["train"][0]["segments"][1]["score"] == 0.1


def test_as_parquet_it_holds_the_photos_bytes(dataset: Path, tmp_path: Path) -> None:
    builder = PanopticBuilder(data_dir=str(dataset), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    files = {name: str(next((tmp_path / "out").glob(f"*-{name}.parquet"))) for name in ("train", "validation")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache2"))
    row = loaded["train"].cast_column("image", datasets.Image(decode=False))[1]
    assert row["image"]["bytes"] == read_split(dataset)[1].photo.read_bytes()


def test_a_folder_that_is_wrong_says_so(dataset: Path, tmp_path: Path) -> None:
    cases = {
        "photo": (lambda root: (root / "images" / "p1.jpg").unlink(), "a photo is missing: p1.jpg"),
        "png": (lambda root: (root / "annotations/panoptic_train/p1.png").unlink(), "a PNG is missing: p1.png"),
        "unfinished": (lambda root: (root / "annotations/.incomplete").touch(), "not written to its end"),
        "category": (
            lambda root: edit(root, '"category_id": 3', '"category_id": 33'),
            "not in the list: category_id 33",
        ),
        "leak": (
            lambda root: edit(root, '"file_name": "p1.jpg"', '"file_name": "../../secret.jpg"'),
            "leads out of",
        ),
        "categories": (
            lambda root: edit(root, '"name": "pipe"', '"name": "tube"'),
            "different categories",
        ),
        "nothing": (lambda root: shutil.rmtree(root / "annotations"), "no COCO panoptic JSON"),
    }
    for name, (spoil, message) in cases.items():
        root = tmp_path / "cases" / name
        shutil.copytree(dataset, root)
        (tmp_path / "cases" / "secret.jpg").write_bytes(b"secret")
        spoil(root)
        with pytest.raises(DatasetError, match=message):
            prepared(root, tmp_path / "cache" / name)


def edit(root: Path, old: str, new: str) -> None:
    path = root / "annotations" / "panoptic_train.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
