from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_ids
from hf_detr_panoptic.dataset.faults import KINDS
from hf_detr_panoptic.dataset.writer import DatasetWriter, encode_ids


def kinds(dataset: Path) -> dict[str, int]:
    """What was found, but for what every small set has: unused classes."""
    found = {kind: finding.count for kind, finding in check_dataset(dataset).findings.items()}
    found.pop("class-unused", None)
    return found


def change_json(dataset: Path, change, name: str = "panoptic_train") -> None:
    path = dataset / f"annotations/{name}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_ids(dataset: Path, change, png: str = "panoptic_train/p0.png") -> None:
    path = dataset / "annotations" / png
    ids = read_ids(path).copy()
    change(ids)
    path.write_bytes(encode_ids(ids))


def first_segment(content) -> dict:
    return content["annotations"][0]["segments_info"][0]


def test_a_right_dataset_has_nothing_wrong_and_is_not_touched(dataset: Path) -> None:
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in dataset.rglob("*") if path.is_file()}
    report = check_dataset(dataset)
    assert report.ok
    assert set(report.findings) == {"class-unused"}
    assert report.findings["class-unused"].examples == [("", "crack")]
    assert {
        path: hashlib.sha256(path.read_bytes()).digest() for path in dataset.rglob("*") if path.is_file()
    } == before
    train = report.splits["train"]
    assert (train.images, train.segments, train.pixels, train.in_images, train.void) == (
        3, {0: 6, 2: 3}, {0: 1800, 2: 3600}, {0: 3, 2: 3}, 1800,
    )  # fmt: skip


def set_area(content) -> None:
    first_segment(content)["area"] = 299


def set_box(content) -> None:
    first_segment(content)["bbox"] = [5, 20, 20.5, 15]


def set_category(content) -> None:
    first_segment(content)["category_id"] = 44


def set_crowd(content) -> None:
    first_segment(content)["iscrowd"] = 2


def crowd_of_stuff(content) -> None:
    content["annotations"][0]["segments_info"][2]["iscrowd"] = 1


def second_sky(content) -> None:
    first_segment(content)["category_id"] = 3


def other_size(content) -> None:
    content["images"][0]["width"] = 61


def no_kinds(content) -> None:
    for category in content["categories"]:
        del category["isthing"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_area, {"area-stale": 1}),
        (set_box, {"box-stale": 1}),
        (set_category, {"category-unknown": 1, "id-unlisted": 1, "instances-stale": 1}),
        (set_crowd, {"crowd-odd": 1}),
        (crowd_of_stuff, {"crowd-odd": 1}),
        (second_sky, {"stuff-twice": 1, "instances-stale": 1}),
        (other_size, {"size": 1}),
        (lambda content: content["images"].pop(1), {"annotation-orphan": 1, "photo-extra": 1, "png-extra": 1,
                                                    "instances-stale": 3}),
    ],
)  # fmt: skip
def test_what_the_json_says_wrongly(dataset: Path, change, expected: dict[str, int]) -> None:
    change_json(dataset, change)
    assert kinds(dataset) == expected
    assert check_dataset(dataset).ok is all(KINDS[kind].level == "warning" for kind in expected)


def test_missing_kinds_are_told_once_a_category(dataset: Path) -> None:
    change_json(dataset, no_kinds, "panoptic_train")
    change_json(dataset, no_kinds, "panoptic_val")
    assert kinds(dataset) == {"category-kind": 6}


def paint(ids) -> None:
    ids[39, 0] = 5


def wipe(ids) -> None:
    ids[ids == 1] = 0


def nibble(ids) -> None:
    ids[20, 5:25] = 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (paint, {"id-unlisted": 1}),
        (wipe, {"id-absent": 1}),
        (nibble, {"area-stale": 1, "box-stale": 1, "instances-stale": 1}),
    ],
)
def test_what_the_png_says_otherwise(dataset: Path, change, expected: dict[str, int]) -> None:
    change_ids(dataset, change)
    assert kinds(dataset) == expected


def test_the_detail_names_image_segment_and_both_figures(dataset: Path) -> None:
    change_json(dataset, set_area)
    finding = check_dataset(dataset).findings["area-stale"]
    assert finding.examples == [
        ("panoptic_train.json, image 1, segment 1", "the JSON says 299, the PNG 300 px")
    ]  # fmt: skip


def test_files_missing_extra_broken_or_of_another_kind(dataset: Path) -> None:
    pngs, images = dataset / "annotations/panoptic_train", dataset / "images"
    (pngs / "p0.png").unlink()
    (images / "p1.jpg").unlink()
    (images / "p2.jpg").write_bytes((images / "p3.jpg").read_bytes()[:400])
    Image.new("P", (60, 40)).save(dataset / "annotations/panoptic_val/p3.png")
    (dataset / "annotations/panoptic_val/p4.png").write_bytes(b"no PNG")
    (pngs / "p9.png").write_bytes(encode_ids(np.ones((2, 2), dtype=np.int32)))
    Image.new("RGB", (9, 9)).save(images / "stranger.png")
    assert kinds(dataset) == {
        "png-missing": 1, "photo-missing": 1, "photo-unreadable": 1, "png-mode": 1, "png-unreadable": 1,
        "png-extra": 1, "photo-extra": 1, "class-unmeasured": 2,
    }  # fmt: skip


def test_a_photo_of_another_size_or_turned(dataset: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.radial_gradient("L").resize((60, 40)).convert("RGB")
    turned.save(dataset / "images/p0.jpg", exif=exif)
    turned.crop((0, 0, 58, 40)).save(dataset / "images/p1.jpg", exif=exif)
    report = check_dataset(dataset)
    assert report.findings["size"].examples == [
        ("panoptic_train.json, image 2", "JSON 60×40, PNG 60×40, photo 40×58")
    ]  # fmt: skip
    assert [detail for _, detail in report.findings["photo-rotated"].examples] == [
        "p0.jpg, orientation 6: its map lies as the pixels of its file do, and is turned with them",
        "p1.jpg, orientation 6: its map lies as the photo is seen",
    ]


def test_names_that_lead_out_and_links(dataset: Path, tmp_path: Path) -> None:
    def lead_out(content) -> None:
        content["images"][1]["file_name"] = "../x.jpg"

    change_json(dataset, lead_out)
    (dataset / "images/p0.jpg").rename(tmp_path / "p0.jpg")
    (dataset / "images/p0.jpg").symlink_to(tmp_path / "p0.jpg")
    report = check_dataset(dataset)
    assert report.findings["unsafe-name"].count == 2
    assert report.findings["unsafe-name"].examples[0][0] == "panoptic_train.json, image 2"


def test_the_same_photo_on_two_sides(dataset: Path) -> None:
    images = dataset / "images"
    (images / "p3.jpg").write_bytes((images / "p0.jpg").read_bytes())
    Image.open(images / "p1.jpg").save(images / "p4.jpg", quality=60)
    (images / "p2.jpg").write_bytes((images / "p1.jpg").read_bytes())
    report = check_dataset(dataset)
    assert report.findings["copy-across"].examples == [("", "p0.jpg (train) and p3.jpg (val)")]
    assert report.findings["copy-within"].examples == [("", "p1.jpg (train) and p2.jpg (train)")]
    (near,) = report.findings["near-copy-across"].examples
    assert near[1].startswith("p1.jpg (train) and p4.jpg (val), ")
    assert not report.ok


def test_a_mirrored_photo_on_the_other_side(dataset: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.linspace(40, 200, 40)[:, None, None] + rng.normal(0, 30, (40, 60, 1)), 3, axis=2)
    photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((60, 40), Image.Resampling.BICUBIC)
    photo.save(dataset / "images/p0.jpg")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(dataset / "images/p3.jpg")
    (near,) = check_dataset(dataset).findings["near-copy-across"].examples
    assert near[1].startswith("p0.jpg (train) and p3.jpg (val), ")
    assert near[1].endswith(" of 256 bits apart, once turned or cropped")


def test_the_same_id_on_two_sides(dataset: Path) -> None:
    def renumber(content) -> None:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = 1

    change_json(dataset, renumber, "panoptic_val")
    assert kinds(dataset)["id-across"] == 1


def test_instances_that_are_missing_or_another(dataset: Path) -> None:
    def other_mask(content) -> None:
        content["annotations"][0]["segmentation"]["counts"] = "0"
        del content["annotations"][1]["segment_id"]

    change_json(dataset, other_mask, "instances_train")
    assert kinds(dataset) == {"instances-stale": 3}  # another mask, one malformed, and so one missing
    (dataset / "annotations/instances_train.json").unlink()
    assert check_dataset(dataset).findings["instances-stale"].examples == [
        ("instances_train.json", "the file is missing")
    ]  # fmt: skip


def test_specks_voids_and_one_sided_classes(tmp_path: Path, space, photo) -> None:
    ids = np.zeros((400, 600), dtype=np.int32)  # shown at 800 × 1200: twice the size, a mask cell is 2 × 2 pixels
    ids[:10, :10] = 1
    ids[50:57, 50:59] = 2  # 63 pixels
    ids[100, 100:103] = 3  # 3 pixels
    ids[200, 200:204] = 4  # one cell exactly
    map = PanopticMap(ids, [Segment(1, 2), Segment(2, 0), Segment(3, 0), Segment(4, 1)], space)
    with DatasetWriter(tmp_path / "set", space) as writer:
        writer.add("train", "a.jpg", photo(tmp_path / "a.jpg", 1, (600, 400)), map)
        writer.add("val", "b.jpg", photo(tmp_path / "b.jpg", 2, (600, 400)), map.without([1, 4]))
        writer.add("val", "c.jpg", photo(tmp_path / "c.jpg", 3, (600, 400)), map.without([1, 2, 3, 4]))
    assert kinds(tmp_path / "set") == {
        "vanishing": 2, "tiny": 3, "mostly-void": 2, "empty": 1, "class-unmeasured": 2
    }  # fmt: skip


def test_a_lone_class_far_behind_is_told(tmp_path: Path, space, photo) -> None:
    ids = np.zeros((100, 200), dtype=np.int32)
    ids[::2, ::2] = np.arange(1, 5001).reshape(50, 100)
    map = PanopticMap(ids, [Segment(n, int(n == 1)) for n in range(1, 5001)], space)
    with DatasetWriter(tmp_path / "set", space) as writer:
        writer.add("train", "a.jpg", photo(tmp_path / "a.jpg", 1, (200, 100)), map)
    assert check_dataset(tmp_path / "set").findings["imbalance"].examples == [("", "4999 × pipe, 1 × crack")]


def test_a_dataset_cut_off_and_a_broken_json_are_findings(dataset: Path, space) -> None:
    DatasetWriter(dataset, space)
    (dataset / "annotations/panoptic_val.json").write_text("{")
    found = kinds(dataset)
    assert (found["unfinished"], found["json-unreadable"]) == (2, 1)
    assert check_dataset(dataset).splits.keys() == {"train"}


def test_the_report_is_short_and_complete(dataset: Path) -> None:
    def everything_stale(content) -> None:
        for annotation in content["annotations"]:
            for entry in annotation["segments_info"]:
                entry["area"] += 1

    change_json(dataset, everything_stale)
    report = check_dataset(dataset)
    text = str(report)
    assert "error area-stale (9): an area is not what the pixels say" in text
    assert "… and 6 more" in text
    assert len(text.splitlines()) < 20
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is False
    assert plain["findings"][0] | {"examples": []} == {
        "kind": "area-stale", "level": "error", "count": 9, "examples": [],
        "what": KINDS["area-stale"].what, "fix": KINDS["area-stale"].fix,
    }  # fmt: skip
    assert plain["classes"][0] == {
        "name": "pipe", "isthing": True,
        "train": {"images": 3, "segments": 6, "pixels": 1800}, "val": {"images": 2, "segments": 4, "pixels": 1200},
    }  # fmt: skip
    assert report.to_dict() == check_dataset(dataset, workers=1).to_dict()


def test_real_datasets(shared_data: Path) -> None:
    coco = check_dataset(shared_data / "panopticapi_sample" / "sample_data")
    assert coco.ok
    assert set(coco.findings) == {"class-unused"}
    students = check_dataset(shared_data / "tsai_construction" / "complete_sample")
    assert {kind: finding.count for kind, finding in students.findings.items() if finding.level == "error"} == {
        "area-stale": 2, "box-stale": 2,
    }  # fmt: skip
    assert "the JSON says 72415.0, the PNG 73243 px" in str(students)
