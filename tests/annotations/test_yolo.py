"""YOLO's labels: their layouts, their names, their numbers."""

from __future__ import annotations

import pytest

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

YAML = "train: ../train/images\nnc: 2\nnames: [wall, pipe]\n"
# On a photo of 8×6: columns 2 to 5, rows 1 to 4, by its corners.
PIPE = "1 0.25 0.16666667 0.75 0.16666667 0.75 0.83333333 0.25 0.83333333\n"


@pytest.fixture
def yolo(tmp_path, photo):
    """yolo({file: text}, photo, …) writes labels and photos of 8×6 below one folder."""

    def write(files, *photos):
        for name, text in files.items():
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in photos:
            photo(name)
        return tmp_path / "photos"

    return write


@pytest.mark.parametrize(
    ("files", "photos", "images"),
    [
        ({"data.yaml": YAML, "labels/train/a.txt": PIPE}, ["images/train/a.jpg", "images/val/a.jpg"], "."),
        ({"data.yaml": YAML, "labels/train/a.txt": PIPE}, ["images/train/a.jpg", "images/val/a.jpg"], "images"),
        ({"data.yaml": YAML, "train/labels/a.txt": PIPE}, ["train/images/a.jpg", "valid/images/b.jpg"], "."),
        ({"data.yaml": YAML, "train/labels/a.txt": PIPE}, ["train/images/a.jpg"], "train/images"),
        ({"classes.txt": "wall\npipe\n", "a.txt": PIPE}, ["a.jpg"], "."),
        ({"obj.names": "wall\npipe\n", "obj_train_data/a.txt": PIPE}, ["obj_train_data/a.jpg"], "."),
        ({"data.yaml": "names: {0: wall, 1: pipe}", "labels/a.txt": PIPE}, ["images/a.PNG"], "images"),
    ],
    ids=["Ultralytics", "its photos alone", "Roboflow", "its photos alone", "one folder", "darknet", "a mapping"],
)
def test_labels_find_their_photos_and_names(yolo, rows, files, photos, images):
    root = yolo(files, *photos)
    (marked,) = read_annotations(root, root / images, strict=True).photos
    assert (root / images / marked.photo).relative_to(root).as_posix() == photos[0]
    (mark,) = marked.marks
    assert (mark.name, mark.box) == ("pipe", (2, 1, 4, 4))
    assert rows(mark) == ["........", *["..####.."] * 4, "........"]


def test_a_line_of_four_places_is_a_box_by_its_centre_and_an_empty_file_is_a_photo_without_marks(yolo):
    root = yolo(
        {"data.yaml": YAML, "labels/a.txt": "0 0.5 0.5 0.5 0.5\n", "labels/b.txt": ""}, "images/a.jpg", "images/b.jpg"
    )
    found = {photo.photo: photo.marks for photo in read_annotations(root, root / "images").photos}
    assert [(mark.name, mark.rle, mark.box) for mark in found["a.jpg"]] == [("wall", None, (2, 1.5, 4, 3))]
    assert found["b.jpg"] == ()


def test_a_photo_of_the_other_side_is_not_taken_for_its_namesake(yolo):
    labels = {"data.yaml": YAML, "train/labels/a.txt": PIPE, "valid/labels/a.txt": PIPE}
    root = yolo(labels, "train/images/a.jpg", "valid/images/a.jpg")
    result = read_annotations(root, root / "train/images")
    assert [photo.photo for photo in result.photos] == ["a.jpg"]
    assert [(row.name, row.why) for row in result.unmatched] == [
        ("valid/images/a.jpg", "its photo is not in the folder of photos")
    ]


def test_values_name_the_numbers_and_the_yaml_alone_is_as_good_as_the_folder(yolo):
    root = yolo({"labels/a.txt": PIPE}, "images/a.jpg")
    assert read_annotations(root, root / "images", values={1: "rail"}).names == ("rail",)
    (root / "data.yaml").write_text(YAML)
    assert read_annotations(root / "data.yaml", root / "images").names == ("pipe",)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("5 0.1 0.1 0.2 0.2", "the class 5 has no name: there are 2, from 0 on"),
        ("1 0.1 0.1 0.2", "neither a box"),
        ("1 0.1 0.1 0.2 0.2 0.9", "neither a box"),
        ("1 10 10 200 10 200 90", "200 is no share of the photo"),
        ("pipe 0.1 0.1 0.2 0.2", "is no class and its outline"),
        ("1 0.1 nan 0.2 0.2", "is no class and its outline"),
        ("1 0.1 0.1 0.1 0.1 0.1 0.1", "it covers no pixel"),
        ("1.5 0.1 0.1 0.2 0.2", "is no class and its outline"),
    ],
)
def test_a_line_that_cannot_be_meant_sets_its_photo_aside(yolo, line, what):
    root = yolo({"data.yaml": YAML, "labels/a.txt": line, "labels/b.txt": PIPE}, "images/a.jpg", "images/b.jpg")
    result = read_annotations(root, root / "images")
    assert [photo.photo for photo in result.photos] == ["b.jpg"]
    (row,) = result.skipped
    assert (row.photo, row.where) == ("a.jpg", "photos/labels/a.txt, line 1")
    assert what in row.what


@pytest.mark.parametrize("text", ["names: &a [*a, *a]", "names: [*nobody]", "names: {x: pipe}", "names: [[]]", "\0"])
def test_a_yaml_that_cannot_be_read_is_refused(yolo, text):
    root = yolo({"data.yaml": text, "labels/a.txt": PIPE}, "images/a.jpg")
    with pytest.raises(AnnotationError, match=r"photos"):
        read_annotations(root, root / "images")


def test_labels_that_are_no_photos_are_not_read_to_their_end(yolo, monkeypatch):
    monkeypatch.setattr("hf_detr_panoptic.annotations.yolo.MOST_OBJECTS", 3)
    monkeypatch.setattr("hf_detr_panoptic.annotations.sources.MOST_TEXT", 1000)
    root = yolo(
        {"data.yaml": YAML, "labels/a.txt": PIPE * 4, "labels/b.txt": PIPE * 30}, "images/a.jpg", "images/b.jpg"
    )
    found = {row.photo: row.what for row in read_annotations(root, root / "images").skipped}
    assert found["a.jpg"] == "4 lines are no objects of a photo"
    assert found["b.jpg"].endswith("bytes, 1,000 are read")
