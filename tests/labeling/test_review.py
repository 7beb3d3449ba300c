from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.annotations.read import Mark, read_annotations
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import AnnotationError, LabelError
from hf_detr_panoptic.labeling.review import (
    export_review,
    labels_for_cvat,
    match_records,
    reviewed,
    reviewed_space,
    run_lengths,
)

SPACE = LabelSpace(
    [Category("pipe", True), Category("car", True, (1, 2, 255), source="auto"), Category("sky", False, source="auto")]
)


def first_map() -> PanopticMap:
    """Sky above, two cars and a pipe below, void in the last row."""
    ids = np.zeros((30, 40), dtype=np.int32)
    ids[:15] = 5
    ids[15:29, :20] = 300
    ids[15:29, 20:] = 7
    ids[20:25, 15:25] = 70000
    segments = [Segment(5, 2, 0.9, "auto"), Segment(300, 1, 0.8, "auto"), Segment(7, 1, 0.7, "auto")]
    return PanopticMap(ids, [*segments, Segment(70000, 0, 1.0, "custom")], SPACE)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "set", SPACE) as writer:
        photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
        writer.add("train", "a.png", photo, first_map(), original="Süd/a.png")
        writer.add("val", "b.png", photo, PanopticMap(np.ones((30, 40), np.int32), [Segment(1, 2)], SPACE))
    return tmp_path / "set"


def records_of(dataset: Path):
    return [record for split in read_dataset(dataset).values() for record in split]


@pytest.mark.parametrize("format", ["coco-panoptic", "coco"])
def test_there_and_back_nothing_changes(dataset: Path, tmp_path: Path, format: str) -> None:
    records = records_of(dataset)
    assert export_review(records, tmp_path / "review.zip", format) == 5
    read = read_annotations(tmp_path / "review.zip", None, strict=True)
    assert read.format == {"coco-panoptic": "COCO panoptic", "coco": "COCO instances"}[format]
    assert [photo.photo for photo in read.photos] == ["Süd/a.png", "b.png"]
    marks = match_records(read, records)
    assert list(marks) == ["a.png", "b.png"]
    for record in records:
        after = reviewed(record.map(), marks[record.file_name], SPACE)
        assert (after.kept, after.changed, after.deleted) == (len(record.segments), 0, 0)
        assert after.map.compacted() == record.map().compacted()


def test_the_same_bytes_each_time(dataset: Path, tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        export_review(records_of(dataset), tmp_path / name, "coco")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_the_layout_that_cvat_wants(dataset: Path, tmp_path: Path) -> None:
    records = records_of(dataset)
    export_review(records, tmp_path / "p.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as archive:
        assert sorted(archive.namelist()) == [
            "annotations/panoptic_default.json",
            "annotations/panoptic_default/Süd/a.png",
            "annotations/panoptic_default/b.png",
        ]
    export_review(records, tmp_path / "i.zip", "coco", stored_names=True)
    with zipfile.ZipFile(tmp_path / "i.zip") as archive:
        assert archive.namelist() == ["annotations/instances_default.json"]
        told = json.loads(archive.read("annotations/instances_default.json"))
    assert [image["file_name"] for image in told["images"]] == ["a.png", "b.png"]
    assert [entry["id"] for entry in told["annotations"]] == [1, 2, 3, 4, 5]
    pipe = told["annotations"][3]
    assert (pipe["category_id"], pipe["area"], pipe["bbox"], pipe["iscrowd"]) == (1, 50, [15, 20, 10, 5], 1)
    rle = coco_mask.frPyObjects(pipe["segmentation"], 30, 40)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), first_map().mask(70000))
    assert labels_for_cvat(SPACE)[1] == {"name": "car", "color": "#0102ff", "attributes": []}


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    rle = coco_mask.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert rle == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def mark(name: str, mask: np.ndarray) -> Mark:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mark(name, rle, tuple(coco_mask.toBbox(rle)), False, "corrected.json")


def test_what_a_person_changed_is_theirs() -> None:
    """One car is renamed, the other deleted, the pipe grows by two columns, the sky is left alone."""
    old = first_map()
    grown = old.mask(70000).copy()
    grown[20:25, 25:27] = True
    marks = [mark("sky", old.mask(5)), mark("pipe", old.mask(300)), mark("pipe", grown)]
    after = reviewed(old, marks, SPACE)
    assert (after.kept, after.changed, after.deleted) == (1, 2, 3)
    areas = after.map.areas()
    assert {(SPACE[s.label].name, s.source, s.score, areas[s.id]) for s in after.map.segments} == {
        ("sky", "auto", 0.9, 600),
        ("pipe", "custom", 1.0, 255),  # the car that was renamed: 280 pixels but for the 25 under the old pipe
        ("pipe", "custom", 1.0, 60),
    }
    assert after.map.ids[16, 30] == 0  # where the deleted car was


def test_a_pixel_at_the_border_is_no_correction() -> None:
    old = first_map()
    sky = old.mask(5).copy()
    sky[14, 0] = False
    after = reviewed(old, [mark("sky", sky)], SPACE)
    assert (after.kept, after.changed, after.deleted) == (1, 0, 3)
    assert (after.map.segments[0].source, after.map.areas()[1]) == ("auto", 599)


def test_new_classes_must_be_meant() -> None:
    with pytest.raises(LabelError, match=r"no class 'cra'. Did you mean 'car'\? If it is new and meant: --add 'cra'"):
        reviewed_space(SPACE, ["sky", "cra"])
    grown = reviewed_space(SPACE, ["sky", "crack"], add=["crack", "dust"], stuff=["dust"])
    assert grown.names == ("pipe", "car", "sky", "crack", "dust")
    assert [category.isthing for category in grown] == [True, True, False, True, False]


def test_photos_of_another_dataset_or_size(dataset: Path, tmp_path: Path) -> None:
    records = records_of(dataset)
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    told = {"images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}]}
    told |= {"annotations": [entry], "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "c.json").write_text(json.dumps(told))
    with pytest.raises(AnnotationError, match="corrected at 80×60, the dataset has it at 40×30"):
        match_records(read_annotations(tmp_path / "c.json", None), records)
    told["images"][0]["file_name"] = "c.png"
    (tmp_path / "c.json").write_text(json.dumps(told))
    with pytest.raises(AnnotationError, match=r"c\.png: the dataset has no such photo"):
        match_records(read_annotations(tmp_path / "c.json", None), records)
