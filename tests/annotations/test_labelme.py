"""LabelMe's JSON and XML. Pixels are counted by hand on photos of 8×6."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.read import read_annotations


@pytest.fixture
def labelme(tmp_path):
    """labelme(shape, …) writes a.json about `a.jpg`."""

    def write(*shapes, **changes):
        path = tmp_path / "a.json"
        data = {"imagePath": "..\\photos\\a.jpg", "imageWidth": 8, "imageHeight": 6, "imageData": None} | changes
        path.write_text(json.dumps(data | {"shapes": [{"label": "pipe"} | shape for shape in shapes]}))
        return path

    return write


SQUARE = [[1, 1], [5, 1], [5, 4], [1, 4]]


def test_reads_polygons(photo, labelme, rows):
    result = read_annotations(labelme({"points": SQUARE, "shape_type": "polygon"}, {"points": SQUARE}), photo("a.jpg"))
    for mark in result.photos[0].marks:
        assert rows(mark) == ["........", ".####...", ".####...", ".####...", "........", "........"]
    assert result.format == "LabelMe"
    assert result.photos[0].marks[1].where == "a.json, shape 2"


def test_reads_rectangles_from_any_corner(photo, labelme):
    (mark,) = (
        read_annotations(labelme({"points": [[5, 4], [1, 1.5]], "shape_type": "rectangle"}), photo("a.jpg"))
        .photos[0]
        .marks
    )
    assert (mark.rle, mark.box) == (None, (1.0, 1.5, 4.0, 2.5))


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation", "rectangle"])
def test_a_turned_rectangle_is_its_outline(photo, labelme, kind):
    # A square on its corner about (4, 3), half of the box around it; other tools give a "rectangle" by four corners.
    path = labelme({"points": [[4, 0], [7, 3], [4, 6], [1, 3]], "shape_type": kind})
    (mark,) = read_annotations(path, photo("a.jpg"), strict=True).photos[0].marks
    stock = coco_mask.frPyObjects([[4, 0, 7, 3, 4, 6, 1, 3]], 6, 8)[0]
    assert mark.rle["counts"] == stock["counts"]
    assert int(coco_mask.area(mark.rle)) < 24


def test_reads_a_circle_by_centre_and_edge(photo, labelme, rows):
    # Radius 2 about (4, 3): 12 centres within, those of the corners at √(1.5² + 1.5²) = 2.1 are not.
    (mark,) = (
        read_annotations(labelme({"points": [[4, 3], [4, 5]], "shape_type": "circle"}), photo("a.jpg")).photos[0].marks
    )
    assert rows(mark) == ["........", "...##...", "..####..", "..####..", "...##...", "........"]


def test_reads_a_mask(photo, labelme, rows):
    png = io.BytesIO()
    Image.fromarray(np.array([[1, 0, 1]], dtype=np.uint8) > 0).save(png, "PNG")
    shape = {"points": [[2, 3], [4, 3]], "shape_type": "mask", "mask": base64.b64encode(png.getvalue()).decode()}
    (mark,) = read_annotations(labelme(shape), photo("a.jpg")).photos[0].marks
    assert rows(mark)[3] == "..#.#..."


def test_a_group_is_one_object(photo, labelme):
    second = [[6, 0], [8, 0], [8, 2], [6, 2]]
    path = labelme({"points": SQUARE, "group_id": 1}, {"points": second, "group_id": 1}, {"points": second})
    marks = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert [mark.box for mark in marks] == [(1, 0, 7, 4), (6, 0, 2, 2)]


def test_lines_and_points_are_counted(photo, labelme):
    result = read_annotations(
        labelme({"points": [[1, 1]], "shape_type": "point"}, {"points": SQUARE, "shape_type": "linestrip"}),
        photo("a.jpg"),
    )
    assert [(row.what, row.photo) for row in result.skipped] == [
        ("no regions, left out: 1 × linestrip, 1 × point", None)
    ]


def test_files_lie_beside_their_photos(photo, tmp_path):
    for folder in ("one", "two"):
        photo(f"{folder}/a.jpg")
        data = {"imagePath": "a.jpg", "shapes": [{"label": folder, "points": SQUARE}]}
        (tmp_path / "photos" / folder / "a.json").write_text(json.dumps(data))
    result = read_annotations(tmp_path / "photos", tmp_path / "photos")
    assert [(p.photo, p.marks[0].name) for p in result.photos] == [("one/a.jpg", "one"), ("two/a.jpg", "two")]


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ({"points": [[1, 1], [5, 4]]}, "covers no pixel"),
        ({"points": [[1, 1], [5, "4"], [2, 3]]}, "'4'"),
        ({"points": [[1, 1], [5], [2, 3]]}, "points are a list of [x, y]"),
        ({"points": None}, "points are a list of [x, y]"),
        ({"points": SQUARE, "label": None}, "no name"),
        ({"points": SQUARE, "shape_type": "star"}, "a 'star' of 4 points is not known"),
        ({"points": SQUARE, "shape_type": "circle"}, "a 'circle' of 4 points is not known"),
        ({"points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": "%%"}, "not a PNG in base64"),
        ({"points": [[1, 1], [2, 2]], "shape_type": "mask", "mask": "AAAA"}, "the mask cannot be read"),
    ],
)
def test_a_shape_that_cannot_be_read_sets_its_photo_aside(photo, labelme, shape, what):
    (row,) = read_annotations(labelme(shape), photo("a.jpg")).skipped
    assert row.photo == "a.jpg"
    assert row.where == "a.json, shape 1"
    assert what in row.what


@pytest.mark.parametrize("changes", [{"imageWidth": "8"}, {"imageHeight": None}, {"shapes": {}}])
def test_a_file_that_cannot_be_read_sets_its_photo_aside(photo, tmp_path, changes):
    data = {"imagePath": "a.jpg", "imageWidth": 8, "imageHeight": 6, "shapes": []} | changes
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert [row.photo for row in read_annotations(tmp_path / "a.json", photo("a.jpg")).skipped] == ["a.jpg"]


XML = """<annotation><filename>a.jpg</filename><folder>{folder}</folder>
<imagesize><nrows>6</nrows><ncols>8</ncols></imagesize>
<object><name>pipe</name><deleted>0</deleted><id>0</id>{shape}</object>
<object><name>gone</name><deleted>1</deleted><id>1</id></object></annotation>"""
POINTS = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in SQUARE)


@pytest.mark.parametrize("kind", ["", "<type>bounding_box</type>"])
def test_reads_the_web_tools_polygons_and_boxes(photo, tmp_path, kind):
    (tmp_path / "a.xml").write_text(XML.format(folder="site", shape=f"{kind}<polygon>{POINTS}</polygon>"))
    (mark,) = read_annotations(tmp_path / "a.xml", photo("site/a.jpg")).photos[0].marks
    assert (mark.rle is None, mark.box, mark.where) == (bool(kind), (1, 1, 4, 3), "a.xml, object 0")


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ("<segm><mask>../secret.png</mask></segm>", "neither a polygon nor a mask"),
        ("<segm><mask>gone.png</mask></segm>", "its mask gone.png is missing"),
        ("<polygon><pt><x>1</x></pt></polygon>", "y is None"),
        ("<polygon></polygon>", "covers no pixel"),
    ],
)
def test_the_web_tools_broken_objects_set_the_photo_aside(photo, tmp_path, shape, what):
    (tmp_path / "a.xml").write_text(XML.format(folder="", shape=shape))
    (row,) = read_annotations(tmp_path / "a.xml", photo("a.jpg")).skipped
    assert (row.photo, row.where) == ("a.jpg", "a.xml, object 0")
    assert what in row.what
