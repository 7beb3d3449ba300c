from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import PanopticMap
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset, read_ids, read_split
from hf_detr_panoptic.errors import DatasetError


def edited(dataset: Path, change, split: str = "train") -> Path:
    """The dataset with its panoptic JSON passed through `change`."""
    path = dataset / f"annotations/panoptic_{split}.json"
    content = json.loads(path.read_text())
    replaced = change(content)
    path.write_text(json.dumps(content if replaced is None else replaced))
    return dataset


def test_the_panopticapi_sample_agrees_with_its_pixels(shared_data: Path) -> None:
    (split,) = read_dataset(shared_data / "panopticapi_sample" / "sample_data").values()
    maps = [record.map() for record in split]
    agreeing = [
        (map.areas()[entry["id"]], list(map.boxes()[entry["id"]])) == (entry["area"], entry["bbox"])
        for record, map in zip(split, maps, strict=True)
        for entry in record.entries
    ]
    assert len(agreeing) == 50
    assert all(agreeing)
    assert sum(segment.crowd for map in maps for segment in map.segments) == 3
    assert split.space[split.records[0].segments[0].label].name == "person"
    for record in split:
        assert Image.open(record.photo).size == record.size[::-1]


def test_the_two_cats_agree_with_their_pixels(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "transformers_fixtures" / "COCO"
    entries = json.loads((source / "coco_panoptic_annotations.txt").read_text())
    categories = json.loads((shared_data / "panopticapi_sample" / "panoptic_coco_categories.json").read_text())
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in source.rglob("*") if path.is_file()}
    image = {"id": 39769, "file_name": "000000039769.png", "height": 480, "width": 640}
    content = {
        "images": [image],
        "annotations": [{"image_id": 39769, "file_name": "000000039769.png", "segments_info": entries}],
        "categories": categories,
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    for name, original in (("annotations/panoptic_val2017", "coco_panoptic"), ("val2017", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000039769.png").write_bytes((source / original / "000000039769.png").read_bytes())
    (record,) = read_split(tmp_path, "validation")
    map = record.map()
    assert [map.areas()[entry["id"]] for entry in entries] == [entry["area"] for entry in entries]
    assert [list(map.boxes()[entry["id"]]) for entry in entries] == [entry["bbox"] for entry in entries]
    assert len(map.segments) == 6
    assert record.photo.parent.name == "val2017"
    after = {path: hashlib.sha256(path.read_bytes()).digest() for path in source.rglob("*") if path.is_file()}
    assert after == before


def test_records_travel_to_worker_processes(dataset: Path, small_map: PanopticMap) -> None:
    (record, *_) = pickle.loads(pickle.dumps(read_split(dataset).records))
    assert record.map() == small_map


def test_ids_with_gaps_and_no_extras_are_read(dataset: Path) -> None:
    def gaps(content):
        for category in content["categories"]:
            category["id"] *= 50
            del category["source"]
        for entry in content["annotations"][0]["segments_info"]:
            entry["category_id"] *= 50
            del entry["score"], entry["source"]
        content["annotations"] = content["annotations"][:1]
        content["images"] = content["images"][:1]

    (record,) = read_split(edited(dataset, gaps))
    assert [(s.label, s.score, s.source) for s in record.map().segments] == [
        (0, 1.0, "custom"), (0, 1.0, "custom"), (2, 1.0, "custom"),
    ]  # fmt: skip


def drop(*keys: str):
    def change(content):
        entry = content
        for key in keys[:-1]:
            entry = entry[int(key)] if key.isdigit() else entry[key]
        del entry[keys[-1]]

    return change


def put(value, *keys: str):
    def change(content):
        entry = content
        for key in keys[:-1]:
            entry = entry[int(key)] if key.isdigit() else entry[key]
        entry[keys[-1]] = value

    return change


def twice(key: str):
    return lambda content: content[key].append(dict(content[key][0]))


FIRST = ("annotations", "0", "segments_info", "0")

HOSTILE = [
    (lambda content: [content], "JSON is not COCO panoptic: a list"),
    (drop("images"), "'images' is missing"),
    (put({}, "annotations"), "'annotations' is not a list"),
    (drop("images", "0", "file_name"), r"images\[0\].*'id' and 'file_name'"),
    (put(True, "images", "0", "id"), r"images\[0\].*'id' and 'file_name'"),
    (put("60", "images", "0", "width"), "image 1: .*height and width are 40 and '60'"),
    (put(-1, "images", "0", "width"), "image 1: .*height and width"),
    (put(float("nan"), "images", "0", "width"), "NaN is not a number"),
    (put("../../etc/passwd", "images", "0", "file_name"), "image 1: a file name leads out of the dataset"),
    (put("/etc/passwd", "images", "0", "file_name"), "image 1: a file name leads out"),
    (put("C:\\a.jpg", "images", "0", "file_name"), "image 1: a file name leads out"),
    (put("a\\..\\..\\b.png", "annotations", "0", "file_name"), "image 1: a file name leads out"),
    (twice("images"), "image 1: an image id is used twice"),
    (put("p1.jpg", "images", "0", "file_name"), "image 2: a file name is listed twice"),
    (twice("annotations"), "image 1: an image is annotated twice"),
    (put(99, "annotations", "0", "image_id"), "image 99: an annotation belongs to no image"),
    (lambda content: content["annotations"].__delitem__(2), "image 3: an image has no annotation"),
    (put(None, "annotations", "0", "segments_info"), r"annotations\[0\].*segments_info"),
    (put(["x"], *FIRST[:-1]), r"image 1, segments_info\[0\]"),
    (put("1", *FIRST, "id"), r"image 1, segments_info\[0\].*whole numbers"),
    (put(0, *FIRST, "id"), "segment 0.*ids run from 1"),
    (put(256**3, *FIRST, "id"), "segment 16777216.*ids run from 1"),
    (put(70_000, *FIRST, "id"), "image 1, segment 70000: a segment id is listed twice"),
    (put(9, *FIRST, "category_id"), "image 1, segment 1: a segment's category is not in the list: category_id 9"),
    (put(1, "categories", "1", "id"), "id 1 stands at"),
    (put("pipe", "categories", "1", "name"), "'pipe' stands at labels"),
    (put(7, "categories", "1", "color"), "categories are wrong"),
    (drop("categories", "0", "id"), "needs 'id' and 'name'"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=[message for _, message in HOSTILE])
def test_a_hostile_json_is_one_error_that_says_where(dataset: Path, change, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_split(edited(dataset, change))
    assert "panoptic_train.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_broken_json_is_one_error(dataset: Path, content: bytes) -> None:
    (dataset / "annotations/panoptic_train.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"panoptic_train\.json: the JSON cannot be read"):
        read_split(dataset)


def test_files_that_disagree_are_errors_with_image_and_id(dataset: Path) -> None:
    pngs = dataset / "annotations/panoptic_train"
    Image.new("RGB", (59, 40)).save(pngs / "p0.png")
    Image.new("L", (60, 40)).save(pngs / "p1.png")
    ids = read_ids(pngs / "p2.png").copy()
    ids[ids == 1] = 2
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=2).astype(np.uint8)).save(pngs / "p2.png")
    first, second, third = read_split(dataset)
    with pytest.raises(DatasetError, match="the PNG is 59×40, the JSON says 60×40"):
        first.map()
    with pytest.raises(DatasetError, match="not RGB: its mode is L"):
        second.map()
    with pytest.raises(DatasetError, match=r"image 3 \(p2.png\): id 2 is in the pixels"):
        third.map()
    (pngs / "p0.png").write_bytes((pngs / "p2.png").read_bytes()[:60])
    with pytest.raises(DatasetError, match="cannot be read"):
        first.map()
    (pngs / "p0.png").unlink()
    with pytest.raises(DatasetError, match="a PNG is missing"):
        first.map()
    (dataset / "images/p0.jpg").unlink()
    with pytest.raises(DatasetError, match="a photo is missing"):
        _ = first.photo


def test_a_link_out_of_the_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((dataset / "images/p0.jpg").read_bytes())
    (dataset / "images/p0.jpg").unlink()
    (dataset / "images/p0.jpg").symlink_to(secret)
    record = read_split(dataset)[0]
    with pytest.raises(DatasetError, match=r"p0\.jpg is a link to a place outside"):
        _ = record.photo


def test_a_linked_photo_folder_must_be_named(dataset: Path, tmp_path: Path) -> None:
    (dataset / "images").rename(tmp_path / "elsewhere")
    (dataset / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="outside"):
        _ = read_split(dataset)[0].photo
    assert read_split(dataset, photos=dataset / "images")[0].photo == tmp_path / "elsewhere" / "p0.jpg"


def test_splits_share_their_categories(dataset: Path) -> None:
    edited(dataset, put("rod", "categories", "0", "name"), "val")
    with pytest.raises(DatasetError, match=r"panoptic_val\.json: splits have different categories"):
        read_dataset(dataset)
