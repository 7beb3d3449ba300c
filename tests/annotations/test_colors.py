"""Masks in colours, and the lists that say what colours and numbers mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.annotations.colors import listed_values
from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

RED, BLUE = {"128,0,0": "building"}, {"0,0,128": "car"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbuilding:128,0,0::\ncar:0,0,128::\n"),
        ("class_dict.csv", "name,r,g,b\nbuilding,128,0,0\ncar,0,0,128\n"),
        ("a.csv", "id;r;g;b;name\n1;128;0;0;building\n2;0;0;128;car\n"),
        ("label_colors.txt", "128 0 0 building\n0 0 128\tcar\n"),
        ("hex.csv", "building,#800000\ncar,#000080\n"),
        ("a.json", json.dumps({"building": [128, 0, 0], "car": "0,0,128"})),
        ("a.json", json.dumps({"128,0,0": "building", "#000080": "car"})),
        (
            "a.json",
            json.dumps([{"name": "building", "color": [128, 0, 0]}, {"label": "car", "rgb": [0, 0, 128]}]),
        ),
        (
            "a.json",
            json.dumps({"classes": [{"name": "building", "color": "#800000"}, {"title": "car", "value": "0,0,128"}]}),
        ),
    ],
)
def test_a_list_of_colours_however_it_is_written(name, text):
    assert listed_values(text.encode(), name) == RED | BLUE


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, pipe\n", {0: "background", 1: "pipe"}),
        ("a.json", '{"1": "pipe", "wall": 2}', {1: "pipe", 2: "wall"}),
        ("a.json", '["sky", "pipe"]', {0: "sky", 1: "pipe"}),
    ],
)
def test_a_list_of_numbers_however_it_is_written(name, text, values):
    assert listed_values(text.encode(), name) == values


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "", "holds no class"),
        ("a.csv", "building,128,0\n", r"a\.csv, line 1: .* names no class"),
        ("a.csv", "building,128,0,300\n", "is not 'label:red,green,blue::'"),
        ("a.csv", f"building,128,0,{'0' * 9999}\n", "is not 'label:red,green,blue::'"),
        ("a.csv", "building,1,2,3\ncar,1,2,3\n", "share 1,2,3"),
        ("a.json", "{", "not JSON"),
        ("a.json", "3", "no list of classes"),
        ("a.json", '{"building": [1, 2], "car": [1, 2, 3]}', "'building' is no colour and no value"),
        ("a.json", '{"building": null, "car": null}', "no colour and no value"),
        ("a.csv", "x,1\n" * 20_000, "20,000 lines"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(name, text, what):
    with pytest.raises(AnnotationError, match=what):
        listed_values(text.encode(), name)


@pytest.fixture
def colored(tmp_path, save_mask, photo):
    """A mask of 8×6: three columns red, one black, four blue."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, :3], pixels[:, 4:] = (128, 0, 0), (0, 0, 128)
    save_mask(tmp_path / "masks/a.png", pixels)
    return tmp_path / "masks", photo("a.jpg"), pixels


def spans(result):
    return [(mark.name, int(mark.box[0]), int(mark.box[2])) for mark in result.photos[0].marks]


def test_colours_are_classes_and_black_is_one_when_it_is_named(colored, tmp_path):
    masks, photos, pixels = colored
    assert spans(read_annotations(masks, photos, values=RED | BLUE)) == [("building", 0, 3), ("car", 4, 4)]
    named = RED | BLUE | {"0,0,0": "road"}
    assert spans(read_annotations(masks, photos, values=named)) == [("road", 3, 1), ("building", 0, 3), ("car", 4, 4)]
    palette = Image.fromarray(pixels).quantize(8)
    palette.save(masks / "a.png")
    assert palette.mode == "P"
    assert spans(read_annotations(masks, photos, values=RED | BLUE)) == [("building", 0, 3), ("car", 4, 4)]
    (tmp_path / "list.csv").write_text("building,128,0,0\ncar,0,0,128\n")
    assert spans(read_annotations(masks, photos, values=tmp_path / "list.csv")) == [("building", 0, 3), ("car", 4, 4)]
    (masks / "class_dict.csv").write_text("name,r,g,b\nbuilding,128,0,0\ncar,0,0,128\n")
    assert spans(read_annotations(masks, photos)) == [("building", 0, 3), ("car", 4, 4)]


def test_in_a_jpeg_the_nearest_colour_is_meant(colored):
    masks, photos, pixels = colored
    (masks / "a.png").unlink()
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(masks / "a.jpg", quality=80, subsampling=0)
    for path in photos.iterdir():
        Image.new("RGB", (64, 48)).save(path)
    assert spans(read_annotations(masks, photos, values=RED | BLUE)) == [("building", 0, 24), ("car", 32, 32)]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (None, "--values 128,0,0=NAME --values 0,0,128=NAME"),
        (RED, r"the colour 0,0,128 has no class.*Add --values 0,0,128=NAME; those that have one are 128,0,0"),
        ({128: "building"}, "has no class"),
    ],
)
def test_what_to_type_for_a_colour_that_nobody_named(colored, values, what):
    masks, photos, _ = colored
    with pytest.raises(AnnotationError, match=what):
        read_annotations(masks, photos, values=values, strict=True)
    with pytest.raises(AnnotationError, match="mixed"):
        read_annotations(masks, photos, values={1: "a", "1,2,3": "b"})


@pytest.mark.parametrize("listed", ["class_names.txt", "labelmap.txt", "Annotations/a.xml"])
def test_vocs_layout_says_its_classes_in_many_ways(tmp_path, photo, listed):
    """A bus (6) with a seam around it, by a list in order, datumaro's map without colours, or VOC's own boxes."""
    root = photo("JPEGImages/a.jpg")
    numbers = np.zeros((6, 8), np.uint8)
    numbers[:, 2:5], numbers[:, 1] = 6, 255
    names = ["_background_", "a", "b", "c", "d", "e", "bus"]
    mask = Image.fromarray(numbers, "P")
    # VOC's palette by hand: 6 is (0, 128, 128), 255 (224, 224, 192).
    mask.putpalette([*[0] * 18, 0, 128, 128, *[9] * 744, 224, 224, 192])
    (root / "SegmentationClass").mkdir()
    mask.save(root / "SegmentationClass/a.png")
    (root / "Annotations").mkdir()
    box = "<bndbox><xmin>3</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
    text = {
        "class_names.txt": "\n".join(names),
        "labelmap.txt": "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in names),
        "Annotations/a.xml": f"<annotation><object><name>bus</name>{box}</object></annotation>",
    }[listed]
    (root / listed).write_text(text)
    for images in (root, root / "JPEGImages"):
        (marked,) = read_annotations(root, images, strict=True).photos
        assert images / marked.photo == root / "JPEGImages/a.jpg"
        assert sorted((mark.name, mark.box) for mark in marked.marks) == [
            ("bus", (2, 0, 3, 6)),
            ("void", (1, 0, 1, 6)),
        ]


def test_boxes_and_outlines_of_vocs_xml(tmp_path, photo):
    outline = "".join(
        f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(1, 1), (5, 1), (5, 4), (1, 4)], 1)
    )
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox>"
    objects = (
        f"<object><name>pipe</name>{box}</object><object><name>wall</name>{box}<polygon>{outline}</polygon></object>"
    )
    size = "<size><width>8</width><height>6</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{objects}</annotation>")
    (marked,) = read_annotations(tmp_path / "a.xml", photo("a.jpg"), strict=True).photos
    assert [(mark.name, mark.box, mark.rle is None) for mark in marked.marks] == [
        ("pipe", (1, 1, 4, 3), True),
        ("wall", (1, 1, 4, 3), False),
    ]
