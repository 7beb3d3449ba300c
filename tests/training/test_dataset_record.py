"""A run remembers what it learns from: a resume on anything else is refused, a moved dataset is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.training.run_folder import check_same_dataset, dataset_record, write_dataset_record
from hf_detr_panoptic.training.stages import run_stages


@pytest.fixture
def dataset(shapes_folder: Path, tmp_path: Path) -> Path:
    """With maps that are not compressed: whatever is in them, they have the same number of bytes."""
    folder = Path(shutil.copytree(shapes_folder, tmp_path / "set"))
    for path in folder.glob("annotations/*/*.png"):
        with Image.open(path) as image:
            image.load()
        image.save(path, compress_level=0)
    return folder


def one_pixel_of_a_map(folder: Path) -> None:
    path = min((folder / "annotations" / "panoptic_train").iterdir())
    size = path.stat().st_size
    with Image.open(path) as image:
        pixels = np.array(image)
    assert (pixels[0, 40] != pixels[-1, 40]).any()
    pixels[0, 40] = pixels[-1, 40]
    Image.fromarray(pixels).save(path, compress_level=0)
    assert path.stat().st_size == size


def a_class(folder: Path) -> None:
    path = folder / "annotations" / "panoptic_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 2
    path.write_text(json.dumps(content))


def a_photo(folder: Path) -> None:
    path = next(iter(sorted((folder / "images").rglob("p1.png"))))
    Image.new("RGB", Image.open(path).size).save(path)


@pytest.mark.parametrize("change", [one_pixel_of_a_map, a_class, a_photo])
def test_any_change_is_noticed(dataset: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_dataset_record(tmp_path / "run", read_dataset(dataset))
    check_same_dataset(tmp_path / "run", read_dataset(dataset))
    change(dataset)
    with pytest.raises(DatasetError, match="maps of train are not those.*another `output`"):
        check_same_dataset(tmp_path / "run", read_dataset(dataset))


def test_it_may_move_and_be_rewritten(dataset: Path, tmp_path: Path) -> None:
    write_dataset_record(tmp_path / "run", read_dataset(dataset))
    moved = dataset.rename(tmp_path / "elsewhere")
    for path in moved.rglob("*.png"):
        path.touch()
    check_same_dataset(tmp_path / "run", read_dataset(moved))


def test_embedded_photos_and_maps() -> None:
    def row(photo: bytes, png: bytes) -> Any:
        return SimpleNamespace(image_id=1, photo=photo, png=png, segments=[], where="row 1")

    one, same, other = (dataset_record({"train": [row(b"12", png)]}) for png in (b"ab", b"ab", b"ac"))
    assert one == same
    assert one != other
    assert one["train"]["photos"] == 1


def test_a_missing_photo_is_said_before_training(dataset: Path) -> None:
    next(iter((dataset / "images").rglob("p1.png"))).unlink()
    with pytest.raises(DatasetError, match=r"p1\.png"):
        dataset_record(read_dataset(dataset))


def test_a_run_is_not_resumed_on_other_photos(
    dataset: Path, model_folder: Path, tmp_path: Path, make_recipe: Any, splits: Any
) -> None:
    recipe = make_recipe(dataset, model_folder, tmp_path / "run", every={"num_train_epochs": 1})
    run_stages(recipe, splits, stop="detection", say=str)
    fewer = type(splits)(splits.train[:-1], splits.val, splits.space)
    with pytest.raises(DatasetError, match="7 photos then, 6 now"):
        run_stages(recipe, fewer, say=str)
    assert len(run_stages(recipe, splits, stop="mask_head", say=str)) == 2


def test_segments_are_counted_for_the_card(shapes_folder: Path, tmp_path: Path) -> None:
    """By hand: `shapes` puts one segment of each class on every photo; all are marked."""
    splits = read_dataset(shapes_folder)
    write_dataset_record(tmp_path, {"train": splits["train"], "val": splits["val"]})
    told = json.loads((tmp_path / "dataset.json").read_text())
    assert told["segments"]["val"] == {str(label): {"custom": 3} for label in range(4)}
    assert {split: told[split]["photos"] for split in ("train", "val")} == {"train": 7, "val": 3}
    check_same_dataset(tmp_path, {"train": splits["train"], "val": splits["val"]})
