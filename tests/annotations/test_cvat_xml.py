"""CVAT's XML. Pixels are counted by hand on photos of 8×6."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hf_detr_panoptic import LabelSpace
from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError
from hf_detr_panoptic.labeling.inputs import label_space
from hf_detr_panoptic.settings import Prepare


@pytest.fixture
def cvat(tmp_path):
    """cvat(shapes) writes a CVAT file for images about `a.jpg`, 8×6."""

    def write(shapes, attributes='width="8" height="6"', name="a.jpg"):
        path = tmp_path / "annotations.xml"
        path.write_text(
            "<annotations><version>1.1</version>"
            f'<image id="4" name="{name}" {attributes}>{shapes}</image></annotations>'
        )
        return path

    return write


def test_reads_a_polygon(photo, cvat, rows):
    result = read_annotations(cvat('<polygon label="pipe" points="1,1;5.0,1.0;5,4;1,4"/>'), photo("a.jpg"))
    (mark,) = result.photos[0].marks
    assert rows(mark) == ["........", ".####...", ".####...", ".####...", "........", "........"]
    assert (mark.name, mark.where) == ("pipe", "annotations.xml, image 4 'a.jpg', shape 1 (polygon)")
    assert result.format == "CVAT XML"


def test_mask_runs_go_row_by_row_within_their_own_box(photo, cvat, rows):
    # 3×2 at (1, 2): 0 outside, 1 inside, 3 outside, 2 inside.
    path = cvat('<mask label="pipe" rle="0, 1, 3, 2" left="1" top="2" width="3" height="2"/>')
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == ["........", "........", ".#......", "..##....", "........", "........"]
    assert mark.box == (1.0, 2.0, 3.0, 2.0)
    assert mark.crowd is False


def test_a_mask_that_sticks_out_is_cut(photo, cvat, rows):
    path = cvat('<mask label="pipe" rle="0, 9" left="6" top="-1" width="3" height="3"/>')
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == ["......##", "......##", "........", "........", "........", "........"]


def test_reads_boxes_turned_or_not(photo, cvat):
    path = cvat(
        '<box label="pipe" xtl="1.5" ytl="2" xbr="4" ybr="5"/>'
        '<box label="pipe" xtl="2" ytl="2" xbr="6" ybr="4" rotation="90.0"/>'
    )
    straight, turned = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert (straight.rle, straight.box) == (None, (1.5, 2.0, 2.5, 3.0))
    assert turned.rle is None
    assert turned.box == pytest.approx((3, 1, 2, 4))


# 200×20 about (200, 200), turned by 45 degrees: 4,000 pixels, where the upright box around it has 24,000.
TURNED_BOX = {"xtl": 100, "ytl": 190, "xbr": 300, "ybr": 210}


def inside_turned_box(size):
    """Pixels whose centre lies in TURNED_BOX, by the distance from its two axes."""
    x, y = np.arange(size) + 0.5 - 200, np.arange(size)[:, None] + 0.5 - 200
    return (abs(x + y) <= 100 * np.sqrt(2)) & (abs(y - x) <= 10 * np.sqrt(2))


def test_a_turned_box_is_its_outline(photo, cvat, tmp_path):
    sides = " ".join(f'{side}="{value}"' for side, value in TURNED_BOX.items())
    path = cvat(f'<box label="pipe" {sides} rotation="45"/>', 'width="400" height="400"')
    entry = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [], "bbox": [100, 190, 200, 20]}
    images = [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 400}]
    content = {"images": images, "categories": [{"id": 1, "name": "pipe"}]}
    content |= {"annotations": [entry | {"attributes": {"rotation": 45.0}}]}
    (tmp_path / "marks.json").write_text(json.dumps(content))
    for marks in (path, tmp_path / "marks.json"):
        (mark,) = read_annotations(marks, photo("a.jpg", 400, 400)).photos[0].marks
        differ = coco_mask.decode(mark.rle).astype(bool) != inside_turned_box(400)
        assert differ.sum() < 2 * 440  # pycocotools draws the outline too: a pixel here and there along 440 of it
        assert int(coco_mask.area(mark.rle)) == pytest.approx(4000, rel=0.05)


def test_reads_a_turned_ellipse(photo, cvat, rows):
    # Half axes 3 and 1 about (4, 3), upright by the turn. Columns 3 and 4 are 0.5 from the axis: √(1 − 0.25)·3 = 2.6.
    path = cvat('<ellipse label="pipe" cx="4" cy="3" rx="3" ry="1" rotation="90"/>')
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == ["...##..."] * 6


def test_the_lowest_shape_comes_first(photo, cvat):
    shapes = "".join(
        f'<polygon label="{name}" points="1,1;5,1;5,4" z_order="{z}"/>' for name, z in (("c", 10), ("a", -1), ("b", 2))
    )
    assert [m.name for m in read_annotations(cvat(shapes), photo("a.jpg")).photos[0].marks] == ["a", "b", "c"]


def test_a_group_of_one_label_is_one_object(photo, cvat, rows):
    path = cvat(
        '<polygon label="pipe" points="0,0;2,0;2,1;0,1" group_id="3"/>'
        '<polygon label="pipe" points="4,0;5,0;5,1;4,1" group_id="0"/>'
        '<mask label="pipe" rle="0, 1" left="7" top="5" width="1" height="1" group_id="3"/>'
        '<polygon label="wall" points="4,0;5,0;5,1;4,1" group_id="3"/>'
    )
    marks = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert [mark.name for mark in marks] == ["pipe", "pipe", "wall"]
    assert rows(marks[0]) == ["##......", "........", "........", "........", "........", ".......#"]


def test_lines_and_points_are_counted_once(photo, cvat):
    path = cvat('<points label="a" points="1,2"/>' * 3 + '<polyline label="" points="1,2;3,4"/><tag label="x"/>')
    result = read_annotations(path, photo("a.jpg"), strict=True)
    assert [(row.what, row.photo) for row in result.skipped] == [
        ("no regions, left out: 3 × points, 1 × polyline", None)
    ]
    assert result.photos[0].marks == ()


def test_a_subset_is_a_folder(photo, tmp_path):
    box = '<box label="{0}" xtl="1" ytl="1" xbr="2" ybr="2"/>'
    image = f'<image id="0" name="a.jpg" subset="{{0}}" width="8" height="6">{box}</image>'
    images = "".join(image.format(subset) for subset in ("Train", "Test"))
    (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{images}</annotations>")
    photo("Train/a.jpg")
    result = read_annotations(tmp_path / "annotations.xml", photo("Test/a.jpg"))
    assert [(p.photo, p.marks[0].name) for p in result.photos] == [("Train/a.jpg", "Train"), ("Test/a.jpg", "Test")]
    assert [p.photo for p in read_annotations(tmp_path / "annotations.xml", None).photos] == [
        "Train/a.jpg",
        "Test/a.jpg",
    ]


def test_reads_a_zip(photo, cvat, tmp_path):
    inner = cvat('<polygon label="pipe" points="1,1;5,1;5,4"/>')
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(inner, "annotations.xml")
    assert len(read_annotations(tmp_path / "export.zip", photo("a.jpg")).photos[0].marks) == 1


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ('<polygon label="" points="1,1;5,1;5,4"/>', "no name"),
        ('<polygon points="1,1;5,1;5,4"/>', "no name"),
        ('<polygon label="pipe" points="1,1;5;5,4"/>', "are not 'x,y;x,y;…'"),
        ('<polygon label="pipe" points="1,1;nan,1;5,4"/>', "not a number"),
        ('<polygon label="pipe"/>', "are not 'x,y;x,y;…'"),
        ('<polygon label="pipe" points="1,1;5,4"/>', "covers no pixel"),
        ('<polygon label="pipe" points="11,1;15,1;15,4"/>', "wholly outside"),
        ('<box label="pipe" xtl="1" ytl="1" xbr="2"/>', "'ybr' is None"),
        ('<box label="pipe" xtl="3" ytl="1" xbr="2" ybr="3"/>', "covers no pixel"),
        ('<ellipse label="pipe" cx="1" cy="1" rx="x" ry="1"/>', "'rx' is 'x'"),
        ('<mask label="pipe" rle="1, 2" left="1" top="1" width="2" height="2"/>', "do not add up"),
        ('<mask label="pipe" rle="-1, 5" left="1" top="1" width="2" height="2"/>', "do not add up"),
        ('<mask label="pipe" rle="1 2" left="1" top="1" width="2" height="2"/>', "is not 'n, n, …'"),
        ('<mask label="pipe" rle="0, 4" left="1" top="1" width="99999" height="99999"/>', "the mask is 99999×99999"),
        (f'<mask label="pipe" rle="{10**30}" left="1" top="1" width="2" height="2"/>', "is not 'n, n, …'"),
        ('<polygon label="pipe" points="1,1;5,1;5,4" z_order="top"/>', "z_order"),
    ],
)
def test_a_shape_that_cannot_be_read_sets_its_photo_aside(photo, cvat, shape, what):
    path, folder = cvat(shape), photo("a.jpg")
    result = read_annotations(path, folder)
    (row,) = result.skipped
    assert (result.photos, row.photo) == ((), "a.jpg")
    assert what in row.what
    assert row.where.startswith("annotations.xml, image 4 'a.jpg'")
    with pytest.raises(AnnotationError):
        read_annotations(path, folder, strict=True)


@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", ""])
def test_a_name_that_leads_elsewhere_is_listed(photo, cvat, name):
    result = read_annotations(cvat("", name=name), photo("a.jpg"))
    assert (result.photos, len(result.skipped)) == ((), 1)


@pytest.mark.parametrize(
    "attributes", ['width="0" height="6"', 'width="8"', 'width="8" height="six"', 'width="1e9" height="1"']
)
def test_a_size_that_is_none_sets_the_photo_aside(photo, cvat, attributes):
    (row,) = read_annotations(cvat("", attributes), photo("a.jpg")).skipped
    assert row.photo == "a.jpg"


TRACKS = """<annotations><version>1.1</version><meta><task><original_size><width>8</width><height>6</height>
</original_size></task></meta><track id="0" label="pipe">
<box frame="0" outside="0" keyframe="1" xtl="1" ytl="1" xbr="3" ybr="3"/>
<polygon frame="2" outside="0" keyframe="0" points="1,1;5,1;5,4;1,4"/>
<box frame="4" outside="1" keyframe="1" xtl="1" ytl="1" xbr="3" ybr="3"/>
</track></annotations>"""


def test_tracks_are_read_frame_by_frame(photo, tmp_path):
    (tmp_path / "annotations.xml").write_text(TRACKS)
    for frame in (0, 2, 4, 6):
        folder = photo(f"frame_{frame:06d}.png")
    result = read_annotations(tmp_path / "annotations.xml", folder)
    assert [(p.photo, [(m.rle is None, m.box) for m in p.marks]) for p in result.photos] == [
        ("frame_000000.png", [(True, (1, 1, 2, 2))]),
        ("frame_000002.png", [(False, (1, 1, 4, 3))]),
        ("frame_000004.png", []),
    ]
    assert result.photos[1].marks[0].where == "annotations.xml, track 0, frame 2 (polygon)"


def test_a_frame_that_a_track_leaves_out_is_set_aside(photo, tmp_path):
    (tmp_path / "annotations.xml").write_text(TRACKS)
    for frame in range(5):
        folder = photo(f"frame_{frame:06d}.png")
    result = read_annotations(tmp_path / "annotations.xml", folder)
    assert [row.photo for row in result.skipped] == ["frame_000001.png", "frame_000003.png"]
    assert len(result.photos) == 3


def test_colours_of_the_tool_are_kept(photo, tmp_path):
    """And what is no colour is none; a class of theirs that the labeler has, too, is drawn as they draw it."""
    labels = [("pipe", "#33ddFF"), ("person", "#010203"), ("crack", "red"), ("", "#000000")]
    meta = "".join(f"<label><name>{name}</name><color>{color}</color></label>" for name, color in labels)
    path = tmp_path / "annotations.xml"
    path.write_text(
        f"<annotations><version>1.1</version><meta><task><labels>{meta}</labels></task></meta>"
        '<image id="4" name="a.jpg" width="8" height="6"><box label="pipe" xtl="1" ytl="2" xbr="4" ybr="5"/></image>'
        "</annotations>"
    )
    read = read_annotations(path, photo("a.jpg"))
    assert read.colors == {"pipe": (0x33, 0xDD, 0xFF), "person": (1, 2, 3)}
    settings = Prepare(images=tmp_path, annotations=path)
    _, space = label_space(settings, LabelSpace.coco(), ["pipe", "person", "crack"], read.colors)
    drawn = {name: space[space.index(name)].color for name in ("pipe", "person", "crack", "car")}
    assert drawn == {"pipe": (0x33, 0xDD, 0xFF), "person": (1, 2, 3), "crack": None, "car": (0, 0, 142)}
