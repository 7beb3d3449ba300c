"""Mask files: what their names and their values say."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.masks import Named, Names
from hf_detr_panoptic.annotations.pages import PhotoIndex
from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

PHOTOS = PhotoIndex(["00044.jpg", "img_1.jpg", "img_10.jpg", "sub/x.jpg", "wall.jpg"])


@pytest.mark.parametrize(
    ("pattern", "file", "named"),
    [
        ("{stem}{class}.jpg", "00044rebar.jpg", Named("00044", "rebar", False)),
        ("{stem}{class}.jpg", "00044rebar.JPG", Named("00044", "rebar", False)),
        ("{stem}{class}.jpg", "img_10crack.jpg", Named("img_10", "crack", False)),
        ("{stem}{class}.jpg", "img_100crack.jpg", None),
        ("{stem}{class}.jpg", "00044rebar.png", None),
        ("{stem}_{class}_{n}.png", "img_1_cable_tray_12.png", Named("img_1", "cable_tray", True)),
        ("{class}-{stem}.png", "wall-img_1.png", Named("img_1", "wall", False)),
        ("{class}/{stem}.png", "masks/pipe/img_1.png", Named("masks/img_1", "pipe", False)),
        ("{class}/{stem}.png", "img_1.png", None),
        ("{stem}_mask.png", "img_1_mask.png", Named("img_1", None, False)),
        (None, "masks/00044spall.jpg", Named("masks/00044", "spall", False)),
        (None, "img_1_crack_2.png", Named("img_1", "crack", True)),
        (None, "img_1_mask.png", Named("img_1", None, False)),
        (None, "img_2crack.png", None),
        (None, "img_12.png", None),
        (None, "pipe/img_1.png", Named("pipe/img_1", "pipe", False)),
        (None, "masks/img_1.png", Named("masks/img_1", None, False)),
        (None, "sub/x.png", Named("sub/x", None, False)),
    ],
)
def test_a_name_says_photo_class_and_object(pattern, file, named):
    assert Names(pattern, PHOTOS).read(file) == named


@pytest.mark.parametrize(
    ("pattern", "what"), [("{stem}{clas}.jpg", "Did you mean 'class'"), ("{class}.jpg", "{stem}")]
)
def test_a_pattern_that_cannot_work_is_refused(pattern, what):
    with pytest.raises(AnnotationError, match=what):
        Names(pattern, PHOTOS)


@pytest.fixture
def masks(tmp_path, save_mask, photo):
    """masks({name: values}, …) writes mask files and reads them against `a.jpg`, 8×6."""

    def write(files, **options):
        for name, values in files.items():
            save_mask(tmp_path / "masks" / name, values)
        return read_annotations(tmp_path / "masks", photo("a.jpg"), **options)

    return write


def sheet(*stripes):
    values = np.zeros((6, 8), dtype=np.uint8)
    for first, last, value in stripes:
        values[:, first:last] = value
    return values


def spans(result):
    return [(mark.name, int(mark.box[0]), int(mark.box[2])) for mark in result.photos[0].marks]


@pytest.mark.parametrize("value", [1, 127, 255])
def test_one_file_a_class_has_an_object_each_connected_part(masks, value):
    files = {"a_pipe.png": sheet((0, 2, value), (4, 5, value)), "a_wall.png": sheet((6, 7, value))}
    assert spans(masks(files)) == [("pipe", 0, 2), ("pipe", 4, 1), ("wall", 6, 1)]
    assert spans(masks(files, instances="whole")) == [("pipe", 0, 5), ("wall", 6, 1)]
    assert spans(masks(files, stuff=["pipe"])) == [("pipe", 0, 5), ("wall", 6, 1)]


def test_corners_connect(masks):
    assert len(masks({"a_crack.png": np.eye(6, 8) * 255}).photos[0].marks) == 1


def test_one_file_an_object_is_one_object(masks):
    files = {"a_pipe_1.png": sheet((0, 2, 255), (4, 5, 255)), "a_pipe_2.png": sheet((6, 7, 255))}
    assert spans(masks(files)) == [("pipe", 0, 5), ("pipe", 6, 1)]


def test_an_id_map_has_an_object_each_value(masks):
    assert spans(masks({"pipe/a.png": sheet((0, 2, 1), (2, 3, 2), (5, 6, 1))})) == [("pipe", 0, 6), ("pipe", 2, 1)]


def test_a_table_gives_values_their_classes(masks):
    files = {"a.png": sheet((0, 2, 127), (3, 4, 127), (5, 6, 254))}
    table = {0: "background", 127: "fire", 254: "ignore"}
    result = masks(files, values=table)
    assert spans(result) == [("fire", 0, 2), ("fire", 3, 1), ("ignore", 5, 1)]
    assert result.names == ("fire",)


def test_noise_of_a_jpeg_is_no_value(tmp_path, save_mask, photo, masks):
    values = np.zeros((48, 64), dtype=np.uint8)
    values[:, :30] = 254
    photo("a.jpg", 64, 48)
    noisy = values.copy()
    noisy[3, 3], noisy[40, 60] = 130, 100  # the one is nearer to white, the other to black
    save_mask(tmp_path / "masks/a_pipe.jpg", noisy, quality=100)
    result = read_annotations(tmp_path / "masks", tmp_path / "photos")
    assert spans(result) == [("pipe", 0, 30)]
    save_mask(tmp_path / "table/a.jpg", values // 2, quality=60)
    result = read_annotations(tmp_path / "table", tmp_path / "photos", values={127: "fire", 254: "smoke"})
    assert spans(result) == [("fire", 0, 30)]


def test_soft_edges_are_no_objects(tmp_path, save_mask, photo):
    values = np.zeros((48, 64), dtype=np.uint8)
    values[:, :30] = 255
    values[:, 30] = np.arange(48) + 103
    save_mask(tmp_path / "masks/a_pipe.png", values)
    (mark,) = read_annotations(tmp_path / "masks", photo("a.jpg", 64, 48)).photos[0].marks
    # 103, 104, … 150: 128 stands in row 25.
    assert coco_mask.area(mark.rle) == 30 * 48 + 23


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
def test_any_kind_of_image_is_a_mask(tmp_path, photo, mode):
    from PIL import Image

    image = Image.fromarray(sheet((2, 4, 255))).convert(mode)
    (tmp_path / "masks").mkdir()
    image.save(tmp_path / "masks" / "a_pipe.png")
    assert spans(read_annotations(tmp_path / "masks", photo("a.jpg"))) == [("pipe", 2, 2)]


def test_a_mask_on_a_transparent_sheet(tmp_path, save_mask, photo):
    pixels = np.zeros((6, 8, 4), dtype=np.uint8)
    pixels[:, 3:5, 3] = 90
    save_mask(tmp_path / "masks/a_pipe.png", pixels)
    assert spans(read_annotations(tmp_path / "masks", photo("a.jpg"))) == [("pipe", 3, 2)]


def test_masks_beside_the_photos_are_no_photos(tmp_path, save_mask, photo):
    folder = photo("images/a.jpg")
    save_mask(folder / "masks/a_pipe.png", sheet((2, 4, 255)))
    assert spans(read_annotations(folder, folder / "images")) == [("pipe", 2, 2)]


@pytest.mark.parametrize(
    ("name", "values", "options", "what"),
    [
        ("a.png", sheet((0, 1, 255)), {}, "neither the name nor the folder"),
        ("a.png", sheet((0, 1, 99)), {"values": {127: "fire"}}, "the value 99 has no class"),
        ("a_pipe.png", sheet((0, 1, 255))[:5], {}, "the marks were drawn on 8×5"),
        ("a_pipe.png", np.zeros((8, 6)), {}, "when upright"),
    ],
)
def test_a_mask_that_cannot_be_right_sets_its_photo_aside(masks, name, values, options, what):
    result = masks({name: values}, **options)
    (row,) = result.skipped
    assert (result.photos, row.photo, row.where) == ((), "a.jpg", f"masks/{name}")
    assert what in row.what


def test_a_damaged_mask_sets_its_photo_aside(tmp_path, photo):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a_pipe.png").write_bytes(b"no png")
    (row,) = read_annotations(tmp_path / "masks", photo("a.jpg")).skipped
    assert (row.photo, row.where) == ("a.jpg", "masks/a_pipe.png")


def test_dust_is_refused(tmp_path, save_mask, photo):
    dust = np.zeros((300, 300), dtype=np.uint8)
    dust[::2, ::2] = 255
    save_mask(tmp_path / "masks/a_pipe.png", dust)
    (row,) = read_annotations(tmp_path / "masks", photo("a.jpg", 300, 300)).skipped
    assert row.what == "the mask falls into 22,500 pieces"


def test_masks_of_no_photo_are_listed(masks):
    result = masks({"b_pipe.png": sheet((0, 1, 255)), "a_pipe.png": sheet((0, 1, 255))})
    assert [(u.name, u.why) for u in result.unmatched] == [("b_pipe.png", "its name fits no photo")]
    assert len(result.photos) == 1
    # A name of the wrong pattern is listed, also where a photo has it.
    result = masks({"a.png": sheet((0, 1, 255))}, pattern="{stem}_{class}.png")
    assert [u.name for u in result.unmatched] == ["a.png", "b_pipe.png"]


def test_an_empty_mask_marks_nothing(masks):
    assert masks({"a_pipe.png": sheet()}).photos[0].marks == ()


def test_masks_among_the_photos_need_a_pattern(save_mask, photo):
    folder = photo("a.jpg")
    save_mask(folder / "a_pipe.png", sheet((2, 4, 255)))
    with pytest.raises(AnnotationError, match="need a pattern"):
        read_annotations(folder, folder)
    result = read_annotations(folder, folder, pattern="{stem}_{class}.png")
    assert [(p.photo, p.marks[0].name) for p in result.photos] == [("a.jpg", "pipe")]
    assert result.unmatched == ()
