"""Photos that EXIF turns, with maps as programs and as people draw them. Pillow's `exif_transpose` is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.rows import load_panoptic, rows_of
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.panoptic_map import ids_to_rgb


def scene(width: int, height: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Two things on a ground, which no turn lays upon itself; noise, and light that falls from one side."""
    ids = np.ones((height, width), dtype=np.int32)
    ids[4:18, 6:30] = 2
    ids[20:, 24:33] = 3
    light = np.array([0, 90, 150, 40])[ids] + np.linspace(0, 40, width)
    grey = light + np.random.default_rng(0).normal(0, 6, ids.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), ids


def foreign(folder: Path, orientation: int, size: tuple[int, int], drawn: str) -> npt.NDArray[np.int32]:
    """A dataset of one photo whose file EXIF turns; the map as it belongs on the photo as it is seen."""
    pixels, ids = scene(*size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "images/p.jpg", exif=exif, quality=90)
    labels = Image.fromarray(ids_to_rgb(ids))
    labels.getexif()[0x0112] = orientation
    seen = ImageOps.exif_transpose(labels)
    kept = seen if drawn == "as seen" else Image.fromarray(ids_to_rgb(ids))
    (folder / "annotations/panoptic_train").mkdir(parents=True)
    kept.save(folder / "annotations/panoptic_train/p.png")
    lies = np.asarray(kept)[..., 0]
    segments = []
    for number in (1, 2, 3):
        y, x = np.nonzero(lies == number)
        box = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
        segments.append({"id": number, "category_id": number, "area": len(x), "bbox": box, "iscrowd": 0})
    content = {
        "images": [{"id": 1, "file_name": "p.jpg", "width": kept.width, "height": kept.height}],
        "annotations": [{"image_id": 1, "file_name": "p.png", "segments_info": segments}],
        "categories": [{"id": number, "name": f"c{number}", "isthing": 1} for number in (1, 2, 3)],
    }
    (folder / "annotations/panoptic_train.json").write_text(json.dumps(content))
    return np.asarray(seen)[..., 0].astype(np.int32)


@pytest.mark.parametrize("size", [(48, 36), (40, 40)])
@pytest.mark.parametrize("drawn", ["as seen", "as stored"])
def test_map_and_photo_lie_alike_whoever_drew_the_map(tmp_path: Path, drawn: str, size: tuple[int, int]) -> None:
    for orientation in range(1, 9):
        folder = tmp_path / str(orientation)
        expected = foreign(folder, orientation, size, drawn)
        (record,) = read_split(folder)
        panoptic = record.map()
        np.testing.assert_array_equal(panoptic.ids, expected)
        assert open_image(record.photo).size == (panoptic.width, panoptic.height)
        report = check_dataset(folder)
        told = report.findings.pop("photo-rotated", None)
        assert (told is None) == (orientation == 1)
        assert told is None or (
            "as the photo is seen" if drawn == "as seen" else "as the pixels of its file do"
        ) in str(told)
        assert report.findings.keys() <= {"class-unmeasured", "vanishing", "tiny"}


def test_rows_of_a_table_lie_alike_too(tmp_path: Path) -> None:
    expected = foreign(tmp_path / "set", 3, (48, 36), "as stored")
    loaded = load_panoptic(tmp_path / "set")
    np.testing.assert_array_equal(rows_of(loaded["train"], loaded.label_space)[0].map().ids, expected)


def test_a_map_is_read_without_its_photo(tmp_path: Path) -> None:
    foreign(tmp_path, 3, (48, 36), "as stored")
    (tmp_path / "images/p.jpg").unlink()
    (record,) = read_split(tmp_path)
    np.testing.assert_array_equal(record.map().ids, scene(48, 36)[1])
