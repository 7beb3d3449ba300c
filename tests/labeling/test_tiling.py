"""Photos in tiles: what becomes of marks at a border, which tiles stay together, and what `check` advises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made import noise, save_tiny_labeler
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.marks import Mark, MarkedPhoto
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.labeling.tiling import parted
from hf_detr_panoptic.tiles import photo_of, rows_of_tiles


def mark(mask: np.ndarray, name: str = "pipe") -> Mark:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mark(name, rle, tuple(coco_mask.toBbox(rle).tolist()), False, "here")


def test_a_mark_that_a_border_cuts_keeps_its_pixels_on_both_sides_and_a_sliver_is_void() -> None:
    mask = np.zeros((60, 110), bool)
    mask[10:30, 20:90] = True  # cut in the middle
    sliver = np.zeros_like(mask)
    sliver[40:55, 5:63] = True  # 3 of its columns in the second tile
    small = np.zeros_like(mask)
    small[0:4, 100:104] = True  # small, and whole
    box = Mark("wall", None, (50.0, 5.0, 20.0, 10.0), False, "here")
    marks = (mark(mask), mark(sliver, "crack"), mark(small, "bolt"), box)
    photo = MarkedPhoto("a.png", 110, 60, marks, tagged=True)
    tiles = dict(zip(("left", "right"), rows_of_tiles((60, 110), 60, 10)[0], strict=True))
    assert [tile.left for tile in tiles.values()] == [0, 50]
    found = parted(photo, tiles, min_area=10)
    seen = {
        name: [(m.name, m.box, None if m.rle is None else int(coco_mask.area(m.rle))) for m in part.marks]
        for name, part in found.items()
    }
    assert seen["left"] == [
        ("pipe", (20, 10, 40, 20), 800),
        ("crack", (5, 40, 55, 15), 825),
        ("wall", (50, 5, 10, 10), None),
    ]
    assert seen["right"] == [
        ("pipe", (0, 10, 40, 20), 800),
        ("crack", (0, 40, 13, 15), 195),
        ("bolt", (50, 0, 4, 4), 16),
        ("wall", (0, 5, 20, 10), None),
    ]
    thin = parted(photo, dict(zip(("left", "right"), rows_of_tiles((60, 110), 60, 0)[0], strict=True)), min_area=10)
    assert [(m.name, m.box[2]) for m in thin["right"].marks] == [
        ("pipe", 40),
        ("crack", 13),
        ("bolt", 4),
        ("wall", 20),
    ]
    more = parted(photo, {"right": rows_of_tiles((60, 110), 50, 0)[0][2]}, min_area=10)["right"]
    assert [(m.name, m.void, m.box[2]) for m in more.marks] == [
        ("pipe", False, 30),
        ("void", True, 3),
        ("bolt", False, 4),
        ("wall", False, 10),
    ]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Six photos of 150×100 and one of 60×50, a pipe in the middle of each, a bolt of 4 pixels on the large ones."""
    (tmp_path / "photos").mkdir()
    images, annotations = [], []
    for number in range(7):
        width, height = (150, 100) if number < 6 else (60, 50)
        noise(number, (width, height)).save(tmp_path / f"photos/p{number}.{'png' if number else 'jpg'}")
        file_name = f"p{number}.{'png' if number else 'jpg'}"
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        boxes = [(1, width // 2 - 20, height // 2 - 10, 40, 20), (2, 3, 3, 2, 2)][: 2 if number < 6 else 1]
        for category, x, y, w, h in boxes:
            ring = [x, y, x + w, y, x + w, y + h, x, y + h]
            entry = {"id": len(annotations), "image_id": number, "category_id": category, "segmentation": [ring]}
            annotations.append(entry)
    categories = [{"id": 1, "name": "pipe"}, {"id": 2, "name": "bolt"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "marks.json").write_text(json.dumps(content))
    return tmp_path


def test_prepare_stores_tiles_that_stay_together(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labeler = save_tiny_labeler(site / "labeler")
    words = ["prepare", "--images", site / "photos", "--annotations", site / "marks.json", "--labeler", labeler]
    words += ["--out", site / "data", "--tile", 100, "--overlap", 20]
    assert main([*map(str, words), "--dry-run"]) == 0
    assert "cut into 13 tiles of 100 pixels" in capsys.readouterr().out
    assert not (site / "data").exists()
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "6 × tiles of one photo" in said
    assert "same photo" not in said
    # By photos, not by tiles: the pipe is on all of them, the bolt on six.
    assert "'bolt' is marked on 6 of 7 photos" in said
    assert "'pipe' is marked on" not in said
    dataset = read_dataset(site / "data")
    parts = {record.file_name: name for name, split in dataset.items() for record in split}
    assert len(parts) == 13
    assert parts["p6.png"]
    by_photo: dict[str, set[str]] = {}
    for name, part in parts.items():
        by_photo.setdefault(photo_of(name) or name, set()).add(part)
    assert set(by_photo) == {"p0.jpg", *(f"p{n}.png" for n in range(1, 7))}
    assert all(len(sides) == 1 for sides in by_photo.values())
    assert {side for sides in by_photo.values() for side in sides} == {"train", "val"}
    whole = Image.open(site / "photos/p1.png")
    tile = Image.open(site / "data/images/p1.png.tiles/00000_00050.png")
    assert np.array_equal(np.asarray(tile), np.asarray(whole)[:, 50:])
    record = next(r for split in dataset.values() for r in split if r.file_name == "p1.png.tiles/00000_00050.png")
    panoptic = record.map()
    pipe = next(s for s in panoptic.segments if panoptic.space[s.label].name == "pipe")
    assert panoptic.boxes()[pipe.id] == (5, 40, 40, 20)  # 55 - 50
    assert not any(record.incomplete for split in dataset.values() for record in split)
    words[-1] = 30  # cut otherwise: no photo changes sides
    assert main([*map(str, words)]) == 0
    assert "13 stay where an earlier split put them" in capsys.readouterr().out
    again = {record.file_name: name for name, split in read_dataset(site / "data").items() for record in split}
    assert {photo_of(name) or name: {part} for name, part in again.items()} == by_photo
    assert main(["split", str(site / "data"), "--dry-run"]) == 0
    assert "tiles of one photo" in capsys.readouterr().out
    assert main(["check", str(site / "data"), "--shortest-edge", "50", "--longest-edge", "100"]) == 0
    said = capsys.readouterr().out
    # A bolt of 4 pixels, seen at half size, has 1: by hand.
    assert "small where photos are seen at 50/100" in said
    assert "bolt: 6 of 6 vanish (100%)" in said
    assert "prepare … --tile 50" in said
