"""Every folder of real photos with annotations through `prepare`, each kind of labeler on some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import tiny_eomt, tiny_mask2former, tree
from PIL import Image

from hf_detr_panoptic import prepare
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset

pytestmark = pytest.mark.slow

# Folder of the photos, annotations, settings, photos that come out, custom marks that a person could count.
FOLDERS = {
    "coco panoptic": (
        "panopticapi_sample/sample_data/input_images",
        "panopticapi_sample/sample_data/panoptic_examples.json",
        {},
        2,
    ),
    "masks as jpeg": (
        "dis_yolo_masks/data/train_sample/images",
        "dis_yolo_masks/data/train_sample/masks",
        {"stuff": ["rebar"]},
        4,
    ),
    "rectangles": ("cvat_fire_smoke/images", "cvat_fire_smoke/instances_default_subset.json", {"stuff": ["smoke"]}, 8),
    "masks by value": (
        "cvat_fire_smoke/images",
        "cvat_fire_smoke/masks",
        {"values": {127: "fire", 254: "smoke"}, "instances": "whole"},
        8,
    ),
    "construction": (
        "tsai_construction/images",
        "tsai_construction/subset_things_coco.json",
        {"rescale": True, "scheme": "stuff_groups"},
        4,
    ),
    "complete sample": (
        "tsai_construction/complete_sample",
        "tsai_construction/complete_sample/cvat_coco_things.json",
        {},
        1,
    ),
    "cvat project": (
        "datumaro_assets/cvat_dataset/for_images/export_project/images",
        "datumaro_assets/cvat_dataset/for_images/export_project/annotations.xml",
        {},
        6,
    ),
    "cvat video": (
        "datumaro_assets/cvat_dataset/for_video/images",
        "datumaro_assets/cvat_dataset/for_video/annotations.xml",
        {},
        3,
    ),
    "labelme": ("datumaro_assets/labelme_dataset/Images", "datumaro_assets/labelme_dataset", {}, 1),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder(name: str, shared_data: Path, tmp_path: Path, tiny_labeler: Path) -> None:
    images, annotations, settings, count = FOLDERS[name]
    source = shared_data / Path(images).parts[0]
    before = tree(source)
    done = prepare(
        shared_data / images, tmp_path / "out", shared_data / annotations, labeler=str(tiny_labeler), **settings
    )
    assert tree(source) == before
    assert len(done.photos) == count
    report = check_dataset(tmp_path / "out")
    assert report.ok, str(report)
    records = [record for split in read_dataset(tmp_path / "out").values() for record in split]
    assert len(records) == count
    for record in records:
        with Image.open(record.photo) as photo:
            assert (photo.height, photo.width) == record.size
    assert sum(done.tally.pixels.values()) == sum(h * w for h, w in (photo.size for photo in done.photos))
    assert done.tally.pixels["custom"] > 0
    assert json.loads((tmp_path / "out/prepare.json").read_text())["counts"]["pixels"] == {
        fate: pixels for fate, pixels in done.tally.pixels.items() if pixels
    }


@pytest.mark.parametrize("kind", [tiny_mask2former, tiny_eomt])
@pytest.mark.parametrize("name", ["coco panoptic", "masks as jpeg", "rectangles", "construction"])
def test_other_labelers(kind: Any, name: str, shared_data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hf_detr_panoptic.model.universal.OVERLAP", 0.0)
    model, processor = kind()
    model.save_pretrained(tmp_path / "labeler")
    processor.save_pretrained(tmp_path / "labeler")
    images, annotations, settings, count = FOLDERS[name]
    settings = {key: value for key, value in settings.items() if key != "scheme"}
    done = prepare(
        shared_data / images,
        tmp_path / "out",
        shared_data / annotations,
        labeler=tmp_path / "labeler",
        threshold=0.5,
        **settings,
    )
    assert len(done.photos) == count
    assert check_dataset(tmp_path / "out").ok
    assert any(done.answers.read(photo.digest).segments for photo in done.photos)
