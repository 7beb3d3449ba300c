from __future__ import annotations

import pytest

from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import reassign
from hf_detr_panoptic.errors import DatasetError


def sides(dataset) -> dict[str, str]:
    return {record.file_name: name for name, split in read_dataset(dataset).items() for record in split}


def test_photos_change_sides_and_nothing_else_changes(dataset, small_map) -> None:
    before = {path.name: path.read_bytes() for path in (dataset / "images").iterdir()}
    wanted = {"p0.jpg": "val", "p1.jpg": "train", "p2.jpg": "test", "p3.jpg": "train", "p4.jpg": "train"}
    assert reassign(dataset, wanted) == {"train": 3, "val": 1, "test": 1}
    assert sides(dataset) == wanted
    assert {path.name: path.read_bytes() for path in (dataset / "images").iterdir()} == before
    assert all(record.map() == small_map for split in read_dataset(dataset).values() for record in split)
    assert check_dataset(dataset).ok
    assert "png-extra" not in check_dataset(dataset).findings


def test_back_again_every_byte_is_as_before(dataset) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    first = sides(dataset)
    reassign(dataset, {name: "val" if part == "train" else "train" for name, part in first.items()})
    assert sides(dataset) != first
    reassign(dataset, first)
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_every_photo_needs_a_side_and_foreign_datasets_are_left_alone(dataset) -> None:
    with pytest.raises(DatasetError, match=r"p1\.jpg is assigned to no split"):
        reassign(dataset, {"p0.jpg": "train"})
    path = dataset / "annotations/panoptic_val.json"
    path.write_text(path.read_text().replace("hf_detr_panoptic", "another"))
    with pytest.raises(DatasetError, match="another program"):
        reassign(dataset, dict.fromkeys(sides(dataset), "train"))


def test_a_name_that_leads_out_moves_nothing(dataset) -> None:
    path = dataset / "annotations/panoptic_train.json"
    path.write_text(path.read_text().replace('"p0.png"', '"../../../p0.png"'))
    with pytest.raises(DatasetError, match="leads out"):
        reassign(dataset, dict.fromkeys((f"p{n}.jpg" for n in range(5)), "val"))
