from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.dataset.coco_panoptic import find_splits, inside, read_dataset, read_split, split_name
from hf_detr_panoptic.errors import DatasetError

CATEGORIES = [{"id": 7, "name": "road", "isthing": 0}, {"id": 26, "name": "car", "isthing": 1}]


def put_png(path: Path, ids: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.array(ids)
    Image.fromarray(np.stack([values % 256, values // 256 % 256, values // 65536], axis=2).astype(np.uint8)).save(path)


def put_json(path: Path, image: dict, png: str, segments: list[dict], categories=CATEGORIES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"height": 2, "width": 3, **image}],
        "annotations": [{"image_id": image["id"], "file_name": png, "segments_info": segments}],
        "categories": categories,
    }
    path.write_text(json.dumps(content))


def put_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), "grey").save(path)


ROAD_AND_CAR = [{"id": 7, "category_id": 7, "iscrowd": 0}, {"id": 26_001, "category_id": 26, "iscrowd": 0}]


def test_cocos_own_layout(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        folder = tmp_path / "annotations"
        put_json(folder / f"panoptic_{split}.json", {"id": 9, "file_name": "000009.jpg"}, "000009.png", ROAD_AND_CAR)
        put_png(folder / f"panoptic_{split}/000009.png", [[7, 7, 0], [7, 26_001, 26_001]])
        put_photo(tmp_path / split / "000009.jpg")
        (folder / f"instances_{split}.json").write_text('{"images": [], "annotations": [], "categories": []}')
        (folder / f"captions_{split}.json").write_text("{}")
    splits = read_dataset(tmp_path)
    assert list(splits) == ["train", "val"]
    assert splits["val"][0].photo == tmp_path / "val2017/000009.jpg"
    assert splits["train"][0].map().areas() == {7: 3, 26_001: 2}
    assert splits["train"][0].map().void_area == 1


@pytest.mark.parametrize("at", [".", "gtFine"])
def test_cityscapes_own_layout(tmp_path: Path, at: str) -> None:
    # Cityscapes' script names photos after the masks; without `gtFine` it would not be a name that exists.
    image = {"id": "aachen_000000_000019", "file_name": "aachen_000000_000019_gtFine_leftImg8bit.png"}
    png = "aachen_000000_000019_gtFine_panoptic.png"
    for suffix, ids in (("", (7, 26)), ("_trainId", (0, 13))):
        named = [{**category, "id": other} for category, other in zip(CATEGORIES, ids, strict=True)]
        segments = [{**s, "category_id": other} for s, other in zip(ROAD_AND_CAR, ids, strict=True)]
        stem = tmp_path / f"gtFine/cityscapes_panoptic_train{suffix}"
        put_json(stem.with_suffix(".json"), image, png, segments, named)
        put_png(stem / png, [[7, 7, 0], [7, 26_001, 26_001]])
    put_photo(tmp_path / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png")
    splits = read_dataset(tmp_path / at)
    assert list(splits) == ["train"]
    (record,) = splits["train"]
    assert record.image_id == "aachen_000000_000019"
    assert record.photo == tmp_path / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert [(s.id, splits["train"].space[s.label].name) for s in record.map().segments] == [
        (7, "road"), (26_001, "car"),
    ]  # fmt: skip


def test_cityscapes_train_ids_alone(tmp_path: Path) -> None:
    image = {"id": "a_0", "file_name": "a_0_gtFine_leftImg8bit.png"}
    put_json(tmp_path / "gtFine/cityscapes_panoptic_val_trainId.json", image, "a_0_gtFine_panoptic.png", ROAD_AND_CAR)
    put_png(tmp_path / "gtFine/cityscapes_panoptic_val_trainId/a_0_gtFine_panoptic.png", [[7] * 3, [26_001] * 3])
    assert len(read_split(tmp_path, "val")[0].map().segments) == 2


def test_the_cityscapes_crowd_is_read(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "deeplab2_pq" / "cityscapes_dummy"
    content = json.loads((source / "cityscapes_panoptic_dummy_trainId.json").read_text())
    used = {entry["category_id"] for entry in content["annotations"][0]["segments_info"]}
    content["categories"] = [{"id": used_id, "name": str(used_id), "isthing": 1} for used_id in sorted(used)]
    content["images"] = [{"id": "dummy_000000_000000", "file_name": "x.png"}]
    (tmp_path / "cityscapes_panoptic_train_trainId.json").write_text(json.dumps(content))
    pngs = tmp_path / "cityscapes_panoptic_train_trainId"
    pngs.mkdir()
    name = "dummy_000000_000000_gtFine_panoptic.png"
    (pngs / name).write_bytes((source / name).read_bytes())
    (record,) = read_split(tmp_path, "train")
    map = record.map()
    assert map.areas() == {entry["id"]: entry["area"] for entry in content["annotations"][0]["segments_info"]}
    assert [segment.id for segment in map.segments if segment.crowd] == [26]


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("panoptic_train.json", "train"),
        ("panoptic_val2017.json", "val"),
        ("cityscapes_panoptic_test_trainId.json", "test"),
        ("panoptic_validation.json", "val"),
        ("panoptic.json", "all"),
        ("panoptic_val_small.json", "val_small"),
    ],
)
def test_split_names(file: str, split: str) -> None:
    assert split_name(Path(file)) == split


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a\\b.jpg", "..a.jpg", "a..b/c.jpg"])
def test_names_inside(name: str) -> None:
    assert inside(name) is not None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../b", "/a", "\\a", "c:/a", "c:a", "a\0b", "//host/share/a"]
)
def test_names_that_lead_out(name: str) -> None:
    assert inside(name) is None


def test_a_folder_without_a_dataset_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"annotations/panoptic_train\.json"):
        find_splits(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        find_splits(tmp_path / "nowhere")


def test_an_unknown_split_offers_the_known(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="Known: train, val"):
        read_split(dataset, "test")


def test_a_list_that_is_a_device_is_refused_and_never_read(tmp_path: Path) -> None:
    """A stranger's link to /dev/zero has no end."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val.json").symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match="no regular file"):
        read_split(tmp_path, "val")
