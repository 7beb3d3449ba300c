"""What `prepare` does with photos that change, names that no file can have, and marks that a shrunk photo loses."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from made import save_photo

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, prepare
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter

WALL = LabelSpace([Category("wall", False, source="auto")])


class OneWall:
    """A labeler that sees nothing but wall; `then` happens once it has seen everything."""

    label_space = WALL
    fingerprint = "wall"

    def __init__(self, then: Any = lambda: None) -> None:
        self.then = then

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        self.then()
        return [
            PanopticMap(np.ones((image.height, image.width), np.int32), [Segment(1, 0, 0.9, "model")], WALL)
            for image in images
        ]


def write_marks(folder: Path, names: list[str], bolts: int = 0) -> Path:
    """A pipe of 20×10 on each photo of 60×40, and on the first `bolts` of them a bolt of 2×2."""
    images = [{"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(names)]
    squares = [(n, 1, 5, 5, 20, 10) for n in range(len(names))] + [(n, 2, 50, 33, 2, 2) for n in range(bolts)]
    annotations = [
        {
            "id": number,
            "image_id": n,
            "category_id": kind,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number, (n, kind, x, y, w, h) in enumerate(squares)
    ]
    categories = [{"id": 1, "name": "pipe"}, {"id": 2, "name": "bolt"}]
    path = folder / "marks.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


def skipped(folder: Path) -> list[tuple[str, str]]:
    with (folder / "skipped.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [(row["photo"], row["what"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("max_size", [None, 30])
def test_a_photo_that_changed_after_it_was_labelled_is_set_aside(tmp_path: Path, max_size: int | None) -> None:
    names = [f"{n}.png" for n in range(4)]
    for n, name in enumerate(names):
        save_photo(tmp_path / "photos" / name, (60, 40), seed=n)

    def swap() -> None:
        save_photo(tmp_path / "photos/2.png", (60, 40), seed=99)

    marks = write_marks(tmp_path, names)
    prepare(tmp_path / "photos", tmp_path / "out", marks, labeler=OneWall(swap), max_size=max_size)
    listed = {record.file_name for split in read_dataset(tmp_path / "out").values() for record in split}
    assert listed == {"0.png", "1.png", "3.png"}
    assert skipped(tmp_path / "out") == [("2.png", "the photo was changed since it was labelled")]
    prepare(tmp_path / "photos", tmp_path / "out", marks, labeler=OneWall(), max_size=max_size)
    assert skipped(tmp_path / "out") == []


def test_a_mark_below_a_pixel_is_told_and_not_counted(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(10)]
    for n, name in enumerate(names):
        save_photo(tmp_path / "photos" / name, (60, 40), seed=n)
    marks = write_marks(tmp_path, names, bolts=5)
    done = prepare(tmp_path / "photos", tmp_path / "out", marks, labeler=OneWall(), max_size=6)
    what = "a mark of 'bolt' is smaller than a pixel at max_size 6, and not in the dataset"
    assert sorted(skipped(tmp_path / "out")) == [(name, what) for name in names[:5]]
    assert f"5 × {what[:80]}" in str(done)
    assert set(done.split.classes) == {"pipe"}
    whole = prepare(tmp_path / "photos", tmp_path / "whole", marks, labeler=OneWall(), max_size=30)
    assert sum(whole.split.classes["bolt"].values()) == 5


@pytest.mark.skipif(os.name != "posix", reason="names that are not UTF-8 are of Unix")
def test_names_that_other_programs_cannot_bear_are_set_right_or_aside(tmp_path: Path) -> None:
    long = "x" * 246 + ".png"
    odd = os.fsdecode(b"caf\xe9.png")
    for n, name in enumerate(("a.png", "b.png", long, odd)):
        try:
            save_photo(tmp_path / f"photos/{n}.png", (60, 40), seed=n).rename(tmp_path / "photos" / name)
        except OSError:
            pytest.skip("this disk takes no such names")
    prepare(tmp_path / "photos", tmp_path / "out", labeler=OneWall())
    records = [record for split in read_dataset(tmp_path / "out").values() for record in split]
    assert {record.original_file or record.file_name for record in records} == {"a.png", "b.png", long}
    assert max(len(record.file_name) for record in records) < 200
    assert skipped(tmp_path / "out") == [(odd, "its name is not UTF-8")]


def test_load_dataset_takes_photos_for_photos_and_no_map_for_one(tmp_path: Path) -> None:
    for n in range(4):
        save_photo(tmp_path / f"photos/{n}.png", (60, 40), seed=n)
    prepare(tmp_path / "photos", tmp_path / "out", labeler=OneWall())
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: (len(rows), rows.column_names) for name, rows in loaded.items()} == {"photos": (4, ["image"])}


def test_no_mixed_photo_is_like_one_of_val_and_split_leaves_them_in_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{n}.png" for n in range(10)]
    for n, name in enumerate(names):
        save_photo(tmp_path / "photos" / name, (60, 40), seed=n)
    space = LabelSpace([Category("wall", False), Category("pipe", True)])
    truth = PanopticMap(np.full((40, 60), 2, np.int32), [Segment(2, 1)], space)
    with DatasetWriter(tmp_path / "foreign", space) as writer:
        for n in range(14):  # all of ours, and four others
            writer.add("train", f"f{n}.png", save_photo(tmp_path / f"f{n}.png", (60, 40), seed=n), truth)
    marks = write_marks(tmp_path, names)
    prepare(tmp_path / "photos", tmp_path / "out", marks, labeler=OneWall(), mix=tmp_path / "foreign")
    read = read_dataset(tmp_path / "out")
    val = {record.file_name for record in read["val"]}
    assert len(val) == 2
    twins = {f"mix/f{name}" for name in val}
    assert {record.file_name for record in read["train"] if record.mixed} == {
        f"mix/f{n}.png" for n in range(14)
    } - twins
    what = "a photo to be mixed in is like one of val or test"
    assert set(skipped(tmp_path / "out")) == {(name, what) for name in twins}
    for extra in ([], ["--out", str(tmp_path / "copy")]):
        assert main(["split", str(tmp_path / "out"), "--fraction", "0.5", "--seed", "5", *extra]) == 0
        assert "12 photos of another dataset: train" in capsys.readouterr().out
        read = read_dataset(tmp_path / ("copy" if extra else "out"))
        assert len(read["val"]) == 5
        assert not any(record.mixed for record in read["val"])
        assert sum(record.mixed for record in read["train"]) == 12
