"""COCO panoptic: colours are ids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

# Two rows of id 1, one of 256 + 2·65536 (R 0, G 1, B 2), three of void.
PIXELS = np.zeros((6, 8, 3), dtype=np.uint8)
PIXELS[:2, :, 0] = 1
PIXELS[2, :] = 0, 1, 2
SEGMENTS = [{"id": 1, "category_id": 7, "iscrowd": 0}, {"id": 256 + 2 * 65536, "category_id": 3, "iscrowd": 1}]


@pytest.fixture
def panoptic(tmp_path, save_mask):
    """panoptic(segments, key=value) writes a JSON and its PNG; the keys change the annotation."""

    def write(segments, pixels=PIXELS, file=None, **annotation):
        if pixels is not None:
            save_mask(tmp_path / "panoptic_val" / "a.png", pixels)
        data = {
            "images": [{"id": 5, "file_name": "a.jpg", "width": 8, "height": 6}],
            "categories": [{"id": 7, "name": "pipe"}, {"id": 3, "name": "wall"}],
            "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments} | annotation],
        } | (file or {})
        path = tmp_path / "panoptic_val.json"
        path.write_text(json.dumps(data))
        return path

    return write


def test_reads_ids_from_colours(photo, panoptic, rows):
    result = read_annotations(panoptic(SEGMENTS), photo("a.jpg"))
    pipe, wall = result.photos[0].marks
    assert (pipe.name, pipe.crowd, pipe.box, wall.name, wall.crowd) == ("pipe", False, (0, 0, 8, 2), "wall", True)
    assert rows(wall) == ["........", "........", "########", "........", "........", "........"]
    assert pipe.where == "panoptic_val.json, annotation of image 5, segment 1"
    assert result.format == "COCO panoptic"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"segments": SEGMENTS[:1]}, "1 id(s) that segments_info does not list, 131328 first"),
        ({"segments": [*SEGMENTS, {"id": 9, "category_id": 3}]}, "it has no pixel in the PNG"),
        ({"segments": [*SEGMENTS, SEGMENTS[0]]}, "it is listed twice"),
        ({"segments": [SEGMENTS[0], SEGMENTS[1] | {"category_id": 9}]}, "no category has the id 9"),
        ({"segments": "none"}, "'segments_info' is 'none'"),
        ({"segments": SEGMENTS, "pixels": None}, "the PNG a.png is missing"),
        ({"segments": SEGMENTS, "pixels": PIXELS[:5]}, "the PNG is 8×5, the JSON says 8×6"),
        ({"segments": SEGMENTS, "file_name": "../a.png"}, "does not lie in the folder of PNGs"),
        ({"segments": SEGMENTS, "file_name": 5}, "does not lie in the folder of PNGs"),
    ],
)
def test_a_map_that_cannot_be_right_sets_its_photo_aside(photo, panoptic, change, what):
    path, folder = panoptic(**change), photo("a.jpg")
    result = read_annotations(path, folder)
    (row,) = result.skipped
    assert (result.photos, row.photo) == ((), "a.jpg")
    assert what in row.what
    with pytest.raises(AnnotationError):
        read_annotations(path, folder, strict=True)


def test_a_damaged_png_sets_its_photo_aside(photo, panoptic, tmp_path):
    path = panoptic(SEGMENTS)
    png = tmp_path / "panoptic_val" / "a.png"
    png.write_bytes(png.read_bytes()[:45])
    (row,) = read_annotations(path, photo("a.jpg")).skipped
    assert row.what.startswith("the mask cannot be read")


def test_an_image_that_is_described_twice_is_set_aside(photo, panoptic):
    twice = [{"image_id": 5, "file_name": "a.png", "segments_info": SEGMENTS}] * 2
    (row,) = read_annotations(panoptic(SEGMENTS, file={"annotations": twice}), photo("a.jpg")).skipped
    assert (row.photo, "described twice" in row.what) == ("a.jpg", True)


def test_an_annotation_of_no_image_is_listed(photo, panoptic):
    result = read_annotations(panoptic(SEGMENTS, image_id=6), photo("a.jpg"))
    assert [(row.photo, "not in 'images'" in row.what) for row in result.skipped] == [(None, True)]


def test_without_images_the_png_names_its_photo(photo, panoptic, tmp_path):
    path = panoptic(SEGMENTS, image_id="a")
    data = json.loads(path.read_text())
    del data["images"]
    path.write_text(json.dumps(data))
    assert len(read_annotations(path, photo("a.jpg")).photos[0].marks) == 2
    assert read_annotations(path, None).photos[0].width == 8
