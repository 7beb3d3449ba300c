"""The hand of the demo: what it draws is near the truth, in the shape that CVAT exports, and read back as it was."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.demo.photos import Place, drawn, make_photos, outlines, simplified
from hf_detr_panoptic.demo.scenes import CUSTOM, SITE


def ellipse(width: int, height: int) -> np.ndarray:
    canvas = Image.new("1", (80, 60))
    ImageDraw.Draw(canvas).ellipse((10, 12, 10 + width, 12 + height), fill=1)
    return np.array(canvas)


def area(rings: list[np.ndarray]) -> float:
    """The shoelace formula, holes negative."""
    return sum(float(np.sum(r[:, 0] * np.roll(r[:, 1], -1) - r[:, 1] * np.roll(r[:, 0], -1))) / 2 for r in rings)


def test_the_outline_of_one_pixel() -> None:
    mask = np.zeros((3, 4), dtype=bool)
    mask[1, 2] = True
    (ring,) = outlines(mask)
    assert sorted(map(tuple, ring.tolist())) == [(2, 1), (2, 2), (3, 1), (3, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_outlines_enclose_every_pixel_once(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < 0.6
    rings = outlines(mask)
    assert area(rings) == mask.sum()
    assert all((np.abs(np.diff(ring, axis=0, append=ring[:1])).sum(1) == 1).all() for ring in rings)


def test_a_hole_has_a_line_of_its_own_and_corners_part() -> None:
    ring = np.ones((4, 4), dtype=bool)
    ring[1:3, 1:3] = False
    assert sorted(area([line]) for line in outlines(ring)) == [-4, 16]
    assert len(outlines(np.eye(3, dtype=bool))) == 3
    assert outlines(np.zeros((3, 3), dtype=bool)) == []


def test_a_rectangle_is_four_corners() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:15, 6:25] = True
    corners = simplified(outlines(mask)[0], 0.2)
    assert sorted(map(tuple, corners.tolist())) == [(6, 4), (6, 15), (25, 4), (25, 15)]


def test_a_polygon_is_near_the_object_and_not_on_it() -> None:
    mask = ellipse(50, 30)
    entries = [drawn(mask, np.random.default_rng(seed)) for seed in range(40)]
    polygons = [entry for entry in entries if entry["iscrowd"] == 0]
    assert 25 <= len(polygons) < 40
    ious = []
    for entry in polygons:
        covered = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(entry["segmentation"], 60, 80))).astype(bool)
        ious.append((covered & mask).sum() / (covered | mask).sum())
        assert entry["area"] == pytest.approx(covered.sum(), rel=0.05)
    assert 0.9 < min(ious) <= max(ious) < 0.999
    assert len(set(ious)) > 20  # another hand each time


def test_what_has_a_hole_is_brushed() -> None:
    mask = ellipse(40, 40)
    mask[28:36, 26:34] = False
    entry = drawn(mask, np.random.default_rng(0))
    assert entry["iscrowd"] == 1
    assert entry["segmentation"]["size"] == [60, 80]
    assert isinstance(entry["segmentation"]["counts"], list)
    painted = coco_mask.decode(coco_mask.frPyObjects(entry["segmentation"], 60, 80)).astype(bool)
    assert (painted & mask).sum() / (painted | mask).sum() > 0.9
    assert entry["area"] == painted.sum()
    assert entry["bbox"] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(painted.astype(np.uint8)))).tolist()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("site"))
    make_photos(place, 14, 2, seed=3, size=(192, 144))
    return place


def test_the_file_is_as_cvat_writes_it(site: Place) -> None:
    with zipfile.ZipFile(site.marks) as archive:
        assert archive.namelist() == ["annotations/instances_default.json"]
        content = json.loads(archive.read("annotations/instances_default.json"))
    assert set(content) == {"licenses", "info", "categories", "images", "annotations"}
    assert [entry["name"] for entry in content["categories"]] == list(CUSTOM.names)
    assert len(content["images"]) == 14
    kinds = {entry["iscrowd"]: type(entry["segmentation"]) for entry in content["annotations"]}
    assert kinds == {0: list, 1: dict}
    keys = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "attributes"}
    assert all(set(entry) == keys for entry in content["annotations"])


def test_read_back_each_mark_is_its_object(site: Place) -> None:
    from hf_detr_panoptic.dataset.coco_panoptic import read_split

    read = read_annotations(site.marks, site.photos)
    assert not read.skipped
    assert not read.unmatched
    assert set(read.names) <= set(CUSTOM.names)
    truths = {record.file_name: record.map() for record in read_split(site.truth, "val")}
    assert {photo.photo for photo in read.photos} == set(truths)
    count = 0
    for photo in read.photos:
        truth = truths[photo.photo]
        objects = [segment for segment in truth.segments if SITE[segment.label].name in CUSTOM.names]
        assert [mark.name for mark in photo.marks] == [SITE[segment.label].name for segment in objects]
        for mark, segment in zip(photo.marks, objects, strict=True):
            covered, real = coco_mask.decode(mark.rle).astype(bool), truth.mask(segment.id)
            assert (covered & real).sum() / (covered | real).sum() >= 0.9
            assert not mark.crowd  # iscrowd is CVAT's word for a brush
            count += 1
    assert count > 14


def test_the_same_seed_makes_the_same_files(site: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "again")
    make_photos(other, 14, 2, seed=3, size=(192, 144))

    def files(place: Place) -> dict[str, bytes]:
        found = (path for path in place.folder.rglob("*") if path.is_file())
        return {path.relative_to(place.folder).as_posix(): path.read_bytes() for path in found}

    assert files(other) == files(site)
    make_photos(other, 14, 2, seed=4, size=(192, 144))
    assert files(other).keys() == files(site).keys()
    assert files(other)["site/photos/site_0000.jpg"] != files(site)["site/photos/site_0000.jpg"]
