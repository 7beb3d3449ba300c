"""A run remembers what it learns from: a resume on anything else is refused, a moved dataset is not."""

from __future__ import annotations

import json
import os
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
from hf_detr_panoptic.training.run_folder import (
    check_same_dataset,
    check_unchanged,
    dataset_record,
    stamps_of,
    write_dataset_record,
)
from hf_detr_panoptic.training.sampling import Splits, check_sizes
from hf_detr_panoptic.training.stages import run_stages
from hf_detr_panoptic.training.trainer import PanopticTrainer


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
        return SimpleNamespace(image_id=1, photo=photo, png=png, segments=[], incomplete=(), where="row 1")

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


def test_a_photo_that_changes_while_a_run_learns_from_it(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    stamps = stamps_of(read_dataset(dataset))
    photo = min((dataset / "images").rglob("*.png"))
    check_unchanged(stamps)
    os.utime(photo, ns=(1, 1))
    check_unchanged(stamps)
    check_unchanged(stamps)
    assert [record.getMessage() for record in caplog.records] == [
        f"1 file was written while the run learns from it: {photo}"
    ]
    whole = photo.read_bytes()
    photo.write_bytes(whole + b"\0")
    with pytest.raises(DatasetError, match=f"{photo.name}: was changed while the run learns from it"):
        check_unchanged(stamps)
    photo.unlink()
    with pytest.raises(DatasetError, match=f"{photo.name}: is gone while"):
        check_unchanged(stamps)


def test_a_run_ends_where_a_photo_was_changed(
    dataset: Path, model_folder: Path, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first evaluation after it."""
    read = read_dataset(dataset)
    photo = read["train"].records[0].photo
    evaluate = PanopticTrainer.evaluate

    def evaluate_and_change(trainer: PanopticTrainer, *args: Any, **kwargs: Any) -> Any:
        photo.write_bytes(photo.read_bytes() + b"\0")
        return evaluate(trainer, *args, **kwargs)

    monkeypatch.setattr(PanopticTrainer, "evaluate", evaluate_and_change)
    recipe = make_recipe(dataset, model_folder, tmp_path / "run", every={"num_train_epochs": 1})
    with pytest.raises(DatasetError, match=f"{photo.name}: was changed"):
        run_stages(recipe, Splits(read["train"], read["val"], read["val"].space), stop="detection", say=str)


def test_a_photo_of_val_that_is_not_as_large_as_its_map(dataset: Path) -> None:
    val = read_dataset(dataset)["val"]
    check_sizes(val)
    photo = val.records[1].photo
    with Image.open(photo) as image:
        image.resize((image.width + 1, image.height)).save(photo)
    with pytest.raises(DatasetError, match="the upright photo is .*, its map") as raised:
        check_sizes(val)
    assert raised.value.where == val.records[1].where
