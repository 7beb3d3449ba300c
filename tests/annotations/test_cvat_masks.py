"""CVAT's Segmentation mask 1.1."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\npipe:250,50,83::\nwall:0,64,0::\nignore:9,9,9::\n"
PIPE, WALL, IGNORE, RED, GREEN = (250, 50, 83), (0, 64, 0), (9, 9, 9), (128, 0, 0), (0, 128, 0)


@pytest.fixture
def export(tmp_path, save_mask):
    """export(classes, objects) writes an export with one photo, sub/a, of 8×6."""

    def write(classes, objects=None, labelmap=LABELMAP):
        root = tmp_path / "export"
        save_mask(root / "SegmentationClass/sub/a.png", classes)
        if objects is not None:
            save_mask(root / "SegmentationObject/sub/a.png", objects)
        (root / "labelmap.txt").write_text(labelmap)
        return root

    return write


def sheet(*stripes):
    """Columns of colours on 8×6: (first, last, colour) …"""
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    for first, last, color in stripes:
        pixels[:, first:last] = color
    return pixels


def areas(result):
    return [(mark.name, mark.box[0], mark.box[2]) for mark in result.photos[0].marks]


def test_objects_are_told_apart_by_their_colours(photo, export):
    classes = sheet((0, 2, PIPE), (2, 3, PIPE), (4, 6, WALL))
    objects = sheet((0, 2, RED), (2, 3, GREEN), (4, 5, RED), (5, 6, RED))
    result = read_annotations(export(classes, objects), photo("sub/a.jpg"))
    assert sorted(areas(result)) == [("pipe", 0, 2), ("pipe", 2, 1), ("wall", 4, 2)]
    assert result.format == "CVAT segmentation mask"


def test_without_object_colours_each_connected_part_of_a_thing_is_an_object(photo, export):
    root = export(sheet((0, 2, PIPE), (3, 4, PIPE), (5, 6, WALL), (7, 8, WALL)))
    folder = photo("sub/a.jpg")
    result = read_annotations(root, folder, stuff=["wall"])
    assert sorted(areas(result)) == [("pipe", 0, 2), ("pipe", 3, 1), ("wall", 5, 3)]
    assert sorted(areas(read_annotations(root, folder, instances="whole"))) == [("pipe", 0, 4), ("wall", 5, 3)]


def test_black_is_no_mark_but_ignore_is(photo, export):
    (mark,) = read_annotations(export(sheet((6, 8, IGNORE))), photo("sub/a.jpg")).photos[0].marks
    assert (mark.name, mark.void, mark.box) == ("ignore", True, (6, 0, 2, 6))


@pytest.mark.parametrize(
    ("classes", "objects", "what"),
    [
        (sheet((0, 2, RED)), None, "the colour 128,0,0 is not in labelmap.txt"),
        (sheet((0, 2, PIPE)), sheet((0, 2, RED))[:5], "another size"),
    ],
)
def test_masks_that_do_not_fit_set_the_photo_aside(photo, export, classes, objects, what):
    result = read_annotations(export(classes, objects), photo("sub/a.jpg"))
    assert [(row.photo, what in row.what) for row in result.skipped] == [("sub/a.jpg", True)]


@pytest.mark.parametrize(
    "line", ["pipe", "pipe:1,2::", "pipe:1,2,300::", "pipe:a,b,c::", ":1,2,3::", "door:250,50,83::"]
)
def test_a_labelmap_that_cannot_be_read_is_refused(photo, export, line):
    with pytest.raises(AnnotationError, match=r"export/labelmap\.txt, line 6"):
        read_annotations(export(sheet(), labelmap=LABELMAP + line), photo("sub/a.jpg"))


@pytest.fixture
def voc(tmp_path):
    """A folder in Pascal VOC's layout: palette PNGs, 255 the seam, no labelmap.txt."""
    numbers = np.zeros((6, 8), np.uint8)
    numbers[:, :3], numbers[:, 4:6], numbers[:, 3] = 1, 2, 255
    for kind, values in (("Class", numbers), ("Object", np.where(numbers == 1, 7, numbers))):
        image = Image.fromarray(values, "P")
        image.putpalette([value for n in range(256) for value in (n, (n * 7) % 256, 9)])
        path = tmp_path / f"voc/Segmentation{kind}/sub/a.png"
        path.parent.mkdir(parents=True)
        image.save(path)
    return tmp_path / "voc"


def test_a_voc_folder_is_read_by_values_or_refused_by_name(photo, voc):
    with pytest.raises(AnnotationError, match=r"Pascal VOC's layout without a labelmap\.txt"):
        read_annotations(voc, photo("sub/a.jpg"))
    result = read_annotations(voc, photo("sub/a.jpg"), values={1: "pipe", 2: "wall"})
    assert sorted(areas(result)) == [("pipe", 0, 3), ("void", 3, 1), ("wall", 4, 2)]
    assert result.names == ("pipe", "wall")
    (row,) = read_annotations(voc, photo("sub/a.jpg"), values={1: "pipe"}).skipped
    assert (row.photo, row.what) == ("sub/a.jpg", "the number 2 has no class")
    (row,) = read_annotations(voc / "SegmentationClass", photo("sub/a.jpg"), format="masks").skipped
    assert "which class" in row.what  # the folder's name is none
