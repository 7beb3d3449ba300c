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


def test_killed_anywhere_the_next_split_finishes_it(dataset, tmp_path, monkeypatch):
    import os
    import shutil

    from made import tree

    from hf_detr_panoptic.dataset.writer import finish_moving

    names = sorted(record.file_name for split in read_dataset(dataset).values() for record in split)
    assignment = {name: ("val", "train")[place % 2] for place, name in enumerate(names)}
    shutil.copytree(dataset, tmp_path / "done")
    reassign(tmp_path / "done", assignment)
    expected, before = tree(tmp_path / "done"), tree(dataset)
    assert expected != before
    real, stop = os.replace, 0
    outcomes = []
    while True:
        folder = tmp_path / f"killed{stop}"
        shutil.copytree(dataset, folder)
        calls = iter(range(1000))

        def replace(old, new, calls=calls, stop=stop):
            if next(calls) == stop:
                raise KeyboardInterrupt
            real(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                reassign(folder, assignment)
                break
            except KeyboardInterrupt:
                pass
        outcomes.append(finish_moving(folder / "annotations"))
        assert tree(folder) == (expected if outcomes[-1] else before)
        reassign(folder, assignment)
        assert tree(folder) == expected
        stop += 1
    assert {True, False} == set(outcomes)
