"""JPEG photos decoded smaller for training: what the model sees is nearly the same, and lies where it lay."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset import batches
from hf_detr_panoptic.dataset.batches import PanopticDataset
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.transforms import Draw, Window
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Augmentation

SPACE = LabelSpace([Category("pipe", True), Category("wall", False)])
HEIGHT, WIDTH = 403, 601  # odd: what is decoded smaller is rounded up
SMALL = Preprocess(shortest_edge=64, longest_edge=107)
NO_COLOURS = {"brightness": 0, "contrast": 0, "saturation": 0}


def slopes() -> Image.Image:
    """Red grows to the right and green downwards, evenly: a value says where it was taken. Blue waves, in between."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = 128 + 60 * np.sin(rows / 25) * np.cos(columns / 40)
    values = np.stack([columns * 255 / (WIDTH - 1), rows * 255 / (HEIGHT - 1), waves], -1)
    return Image.fromarray(values.round().astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same picture as JPEG and as PNG."""
    root = tmp_path_factory.mktemp("draft")
    ids = np.full((HEIGHT, WIDTH), 1, dtype=np.int32)
    ids[100:300, 150:450] = 2
    panoptic = PanopticMap(ids, [Segment(1, 1), Segment(2, 0)], SPACE)
    slopes().save(root / "a.jpg", quality=95, subsampling=0)
    slopes().save(root / "b.png")
    with DatasetWriter(root / "set", SPACE) as writer:
        for name in ("a.jpg", "b.png"):
            writer.add("train", name, root / name, panoptic)
    return root / "set"


def test_a_jpeg_comes_smaller_and_upright_and_nothing_else_does(folder: Path) -> None:
    jpeg, png = sorted((folder / "images").rglob("*.*"))
    assert [open_image(jpeg, draft=times).size for times in (1, 2, 4, 8)] == [
        (601, 403), (301, 202), (151, 101), (76, 51),
    ]  # fmt: skip
    assert open_image(png, draft=4).size == (601, 403)
    turned, thin, exif = io.BytesIO(), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(jpeg).save(turned, "JPEG", exif=exif)
    assert open_image(turned.getvalue(), draft=2).size == (202, 301)
    Image.new("RGB", (3, 40)).save(thin, "JPEG")
    assert open_image(thin.getvalue(), draft=4).size == (3, 40)


@pytest.mark.parametrize(
    ("window", "size", "times"),
    [((0, 0, 800, 1200), (400, 600), 2), ((0, 0, 800, 1200), (401, 600), 1), ((5, 9, 480, 900), (60, 100), 8)],
)
def test_never_so_small_that_it_would_be_enlarged(
    window: tuple[int, int, int, int], size: tuple[int, int], times: int
) -> None:
    assert Draw(Window(*window), size).reduction == times


def test_windows_by_hand() -> None:
    """9 to 27 of 4 pixels each is 2.25 to 6.75."""
    small = Draw(Window(8, 9, 100, 18), (10, 4)).on(4)
    assert small.window == Window(2, 2, 25, 5)


def test_what_is_seen_is_nearly_the_same_and_lies_where_it_lay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a red and green that grow evenly: how far from its place a pixel was taken, in pixels of what is seen."""
    drafted = []
    real = batches.open_image
    monkeypatch.setattr(
        batches, "open_image", lambda source, *, draft=1: drafted.append(draft) or real(source, draft=draft)
    )
    rows = read_split(folder)
    plain = PanopticDataset(rows, SMALL, Augmentation(**NO_COLOURS), seed=3)
    quick = PanopticDataset(rows, SMALL, Augmentation(**NO_COLOURS, draft=True), seed=3)
    std = np.array(SMALL.std)[:, None, None] * 255
    for epoch in range(12):
        one, other = plain[epoch, 0], quick[epoch, 0]
        assert one["pixel_values"].shape == other["pixel_values"].shape
        assert one["labels"].keys() == other["labels"].keys()
        assert all(np.array_equal(one["labels"][key], other["labels"][key]) for key in one["labels"])
        away = (other["pixel_values"] - one["pixel_values"]).numpy() * std
        steps = [np.abs(np.diff(one["pixel_values"].numpy()[n] * std[n], axis=1 - n).mean()) for n in (0, 1)]
        assert np.abs(away[0]).mean() < 0.5 * steps[0] + 0.6  # half a pixel, and JPEG's own rounding
        assert np.abs(away[1]).mean() < 0.5 * steps[1] + 0.6
        assert np.abs(away[2]).mean() < 3
        assert np.array_equal(plain[epoch, 1]["pixel_values"], quick[epoch, 1]["pixel_values"])  # the PNG
    assert set(drafted[::4]) == {1}
    assert max(drafted[1::4]) >= 4


def test_what_is_pasted_into_is_decoded_whole(folder: Path) -> None:
    rows = read_split(folder)
    both = [PanopticDataset(rows, SMALL, Augmentation(paste=1.0, draft=draft), seed=3) for draft in (False, True)]
    one, other = (dataset[2, 0]["pixel_values"] for dataset in both)
    assert np.array_equal(one, other)


def test_a_photo_of_another_size_is_still_refused(folder: Path, tmp_path: Path) -> None:
    rows = read_split(folder)
    dataset = PanopticDataset(rows, SMALL, Augmentation(draft=True))
    with pytest.raises(DatasetError, match="the photo is 300×403, its map 601×403"):
        dataset.item(Image.new("RGB", (300, 403)), rows[0].map(), 1, "here")
    slopes().resize((301, 202)).save(tmp_path / "half.png")  # as large as a JPEG decoded at a half
    with pytest.raises(DatasetError, match="the photo is 301×202, its map 601×403"):
        dataset.item(open_image(tmp_path / "half.png", draft=2), rows[0].map(), 1, "here")
