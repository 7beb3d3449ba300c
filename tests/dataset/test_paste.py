"""Copy-paste of marks: photo and map stay together, donors are what people marked elsewhere, draws are repeatable."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from made import SPACE
from PIL import Image
from torch.utils.data import DataLoader

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.dataset.batches import EpochSampler, PanopticDataset, collate
from hf_detr_panoptic.dataset.paste import LEAST_AREA, labels_to_paste
from hf_detr_panoptic.errors import DatasetError, LabelError, RecipeError
from hf_detr_panoptic.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from hf_detr_panoptic.settings import Augmentation

PIPE, CRANE, SKY, MUD = range(4)
AS_IT_IS = Preprocess(shortest_edge=None, longest_edge=None)
ALWAYS = Augmentation.none().changed(paste=1.0, paste_most=1, paste_scale=(1.0, 1.0), paste_shift=0.0)


@dataclass(frozen=True)
class Photo:
    """A row in memory. Each of its pixels has the colour (image id, id of the segment, 0)."""

    image_id: int
    ids: np.ndarray
    segments: Sequence[Segment]

    where = "a test"
    incomplete: ClassVar[tuple[str, ...]] = ()

    @property
    def photo(self) -> bytes:
        height, width = self.ids.shape
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = self.image_id, self.ids
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    png = b""

    def map(self) -> PanopticMap:
        return PanopticMap(self.ids, self.segments, SPACE)


def sky(image_id: int, height: int = 60, width: int = 80) -> Photo:
    return Photo(image_id, np.full((height, width), 9, dtype=np.int32), [Segment(9, SKY, source="auto")])


def with_thing(
    image_id: int, box: tuple[int, int, int, int], size: tuple[int, int] = (60, 80), label: int = PIPE, **more: Any
) -> Photo:
    """The sky with one thing whose box is (top, left, height, width)."""
    ids = np.full(size, 9, dtype=np.int32)
    top, left, height, width = box
    ids[top : top + height, left : left + width] = 5
    return Photo(image_id, ids, [Segment(9, SKY, source="auto"), Segment(5, label, **more)])


def pasted(
    rows: Sequence[Photo], index: int, augmentation: Augmentation = ALWAYS, epoch: int = 0, seed: int = 0
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """The item's pixels as bytes [H, W, 3], and its labels."""
    item = PanopticDataset(rows, AS_IT_IS, augmentation, seed=seed)[epoch, index]  # type: ignore[arg-type]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    values = (item["pixel_values"] * std + mean) * 255
    return values.permute(1, 2, 0).round().byte().numpy(), item["labels"]


def given(rows: Sequence[Photo], index: int, augmentation: Augmentation = ALWAYS, epochs: int = 40) -> set[int]:
    """The photos from which this one got things."""
    return {
        int(one) for epoch in range(epochs) for one in np.unique(pasted(rows, index, augmentation, epoch)[0][..., 0])
    }


def test_photo_and_map_stay_together_and_the_thing_stands_where_it_stood() -> None:
    rows = [sky(100), with_thing(200, (20, 30, 8, 12))]
    for epoch in range(30):
        pixels, labels = pasted(rows, 0, epoch=epoch)
        y, x = np.nonzero(pixels[..., 0] == 200)
        assert (set(pixels[y, x, 1]), len(y)) == ({5}, 8 * 12)  # the thing, and nothing that was around it
        assert (y.min(), y.max()) == (20, 27)
        assert labels["class_labels"].tolist() == [SKY, PIPE]
        assert labels["sources"].tolist() == [1, 0]
        new = int(labels["segment_ids"][1])
        assert np.array_equal(labels["panoptic"].numpy() == new, pixels[..., 0] == 200)
        left, width = int(x.min()), 12
        assert labels["boxes"][1].tolist() == pytest.approx([(left + width / 2) / 80, 24 / 60, 12 / 80, 8 / 60])
    lefts = {int(np.nonzero(pasted(rows, 0, epoch=e)[0][..., 0] == 200)[1].min()) for e in range(60)}
    assert len(lefts) > 20  # sideways it goes anywhere


@pytest.mark.parametrize(
    ("donor", "gives"),
    [
        (with_thing(200, (20, 30, 8, 12)), True),
        (with_thing(200, (20, 30, 8, 12), source="auto"), False),
        (with_thing(200, (20, 30, 8, 12), source="model"), False),
        (with_thing(200, (20, 30, 8, 12), crowd=True), False),
        (with_thing(200, (20, 30, 8, 12), label=MUD), False),
        (with_thing(200, (0, 30, 8, 12)), False),
        (with_thing(200, (52, 30, 8, 12)), False),
        (with_thing(200, (20, 0, 8, 12)), False),
        (with_thing(200, (20, 68, 8, 12)), False),
        (with_thing(200, (1, 1, 58, 78)), True),
        (with_thing(200, (2, 2, 150, 250), size=(154, 300)), False),  # at 60 pixels of height it is 97 wide
        (sky(200), False),
    ],
    ids=["pipe", "auto", "model", "crowd", "stuff", "top", "bottom", "left", "right", "large", "too large", "none"],
)
def test_who_gives(donor: Photo, gives: bool) -> None:
    assert given([sky(100), donor], 0) == ({100, 200} if gives else {100})


def test_one_mark_in_all_goes_to_the_others_only() -> None:
    rows = [with_thing(100, (20, 30, 8, 12)), sky(200)]
    assert given(rows, 1) == {100, 200}
    pixels, labels = pasted(rows, 0)
    assert np.array_equal(pixels[..., 1], rows[0].ids)
    assert labels["class_labels"].tolist() == [SKY, PIPE]


def test_scale_is_a_share_of_the_height() -> None:
    """By hand: 120 pixels high to 60 is half; times 1.5."""
    rows = [sky(100), with_thing(200, (40, 40, 16, 24), size=(120, 160))]
    for epoch in range(10):
        _, labels = pasted(rows, 0, ALWAYS.changed(paste_scale=(1.5, 1.5)), epoch)
        assert (labels["boxes"][1] * torch.tensor([80, 60, 80, 60])).tolist()[2:] == pytest.approx([18, 12])
        bottom = (labels["boxes"][1][1] + labels["boxes"][1][3] / 2).item()
        assert bottom == pytest.approx(56 / 120)


def test_the_shift_is_within_its_bounds() -> None:
    rows = [sky(100), with_thing(200, (20, 30, 8, 12))]
    shifted = ALWAYS.changed(paste_shift=0.1)
    tops = [int(np.nonzero(pasted(rows, 0, shifted, epoch)[0][..., 0] == 200)[0].min()) for epoch in range(80)]
    assert 14 <= min(tops) < 17
    assert 23 < max(tops) <= 26


@pytest.mark.parametrize(("left_over", "stays"), [(LEAST_AREA, True), (LEAST_AREA - 1, False), (0, False)])
def test_what_is_hidden_but_for_a_little_becomes_void(left_over: int, stays: bool) -> None:
    ids = np.full((60, 80), 9, dtype=np.int32)
    ids[20:28, 10:70] = 3  # wholly behind what is pasted
    ids[5, :left_over] = 3
    ids[50, 1] = 4  # small, but nothing hides it
    segments = [Segment(9, SKY), Segment(3, MUD, source="auto"), Segment(4, CRANE, source="auto")]
    _, labels = pasted([Photo(100, ids, segments), with_thing(200, (20, 1, 8, 78))], 0)
    assert labels["class_labels"].tolist() == [SKY, *([MUD] if stays else []), CRANE, PIPE]
    assert (labels["panoptic"][5, :left_over] == (3 if stays else 0)).all()
    assert (labels["panoptic"] == 0).sum() == (0 if stays else left_over)


def test_how_many_and_how_often() -> None:
    rows = [sky(100), with_thing(200, (20, 30, 2, 3))]  # so small that two seldom hide each other
    often = ALWAYS.changed(paste=0.5, paste_most=3)
    found = Counter(len(pasted(rows, 0, often, epoch)[1]["class_labels"]) - 1 for epoch in range(300))
    assert set(found) == {0, 1, 2, 3}
    assert found[0] == pytest.approx(150, abs=35)
    assert all(found[count] == pytest.approx(50, abs=25) for count in (1, 2, 3))


def test_rare_classes_come_as_often() -> None:
    rows = [sky(100), with_thing(200, (20, 30, 8, 12), label=CRANE)]
    rows += [with_thing(201 + place, (20, 30, 8, 12)) for place in range(20)]
    labels = Counter(int(pasted(rows, 0, epoch=epoch)[1]["class_labels"][1]) for epoch in range(200))
    assert labels[CRANE] == pytest.approx(100, abs=30)
    only = ALWAYS.changed(paste_classes=("pipe",))
    assert 200 not in given(rows, 0, only)
    assert labels_to_paste(SPACE, None) == {PIPE, CRANE}


def test_a_mirrored_thing_is_mirrored_on_both() -> None:
    ids = np.full((60, 80), 9, dtype=np.int32)
    ids[20:28, 30:32], ids[27, 30:42] = 5, 5  # an L
    rows = [sky(100), Photo(200, ids, [Segment(9, SKY, source="auto"), Segment(5, PIPE)])]
    upright = set()
    for epoch in range(20):
        pixels, labels = pasted(rows, 0, epoch=epoch)
        there = pixels[..., 0] == 200
        assert np.array_equal(there, labels["panoptic"].numpy() == int(labels["segment_ids"][1]))
        x = np.nonzero(there)[1].min()
        upright.add(bool(there[20, x]))
    assert upright == {True, False}


def test_an_incomplete_photo_stays_so() -> None:
    class Unseen(Photo):
        incomplete = ("crane", "pipe")

    plain = sky(100)
    rows = [Unseen(100, plain.ids, plain.segments), with_thing(200, (20, 30, 8, 12))]
    _, labels = pasted(rows, 0)
    assert labels["class_labels"].tolist() == [SKY, PIPE]
    assert labels["incomplete"].tolist() == [CRANE, PIPE]
    assert pasted(rows, 1)[1]["incomplete"].tolist() == []


def test_the_rest_of_the_draw_stays_as_without() -> None:
    """Pasting draws from a generator of its own; with `paste: 0` an item has the very bits of before."""
    rows = [with_thing(100 + place, (20, 30, 8, 12)) for place in range(3)]
    small = Preprocess(shortest_edge=48, longest_edge=96)
    plain = Augmentation().for_size(48)
    before, after, off = (
        PanopticDataset(rows, small, augmentation, seed=3)[2, 1]  # type: ignore[arg-type]
        for augmentation in (plain, plain.changed(paste=1.0), plain.changed(paste=0.0, paste_most=2))
    )
    assert after["pixel_values"].shape == before["pixel_values"].shape
    assert not torch.equal(after["pixel_values"], before["pixel_values"])
    assert torch.equal(off["pixel_values"], before["pixel_values"])
    same = after["labels"]["panoptic"] == 9
    assert torch.equal(before["labels"]["panoptic"][same], after["labels"]["panoptic"][same])


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    rows = [with_thing(100 + place, (20, 30, 8, 12)) for place in range(6)]
    augmentation = ALWAYS.changed(paste=0.7, paste_most=3, paste_scale=(0.8, 1.25), paste_shift=0.08)
    dataset = PanopticDataset(rows, AS_IT_IS, augmentation, seed=1)  # type: ignore[arg-type]

    def two_epochs(**options: Any) -> list[torch.Tensor]:
        sampler = EpochSampler(len(rows), seed=1)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=collate, **options)
        batches = []
        for epoch in (3, 4):
            sampler.set_epoch(epoch)
            batches += list(loader)
        return [tensor for one in batches for tensor in (one["pixel_values"], *(x["panoptic"] for x in one["labels"]))]

    alone = two_epochs()
    for options in ({"num_workers": 2, "persistent_workers": True}, {"num_workers": 1}):
        assert all(torch.equal(*pair) for pair in zip(alone, two_epochs(**options), strict=True))
    assert not np.array_equal(pasted(rows, 0, augmentation, 3)[0], pasted(rows, 0, augmentation, 4)[0])
    assert not np.array_equal(pasted(rows, 0, augmentation, 3)[0], pasted(rows, 0, augmentation, 3, seed=1)[0])


def test_a_donor_whose_photo_has_another_size_than_its_map_is_an_error() -> None:
    class Odd(Photo):
        @property
        def photo(self) -> bytes:
            return sky(200, 30, 20).photo

    thing = with_thing(200, (20, 30, 8, 12))
    with pytest.raises(DatasetError, match="the photo is 20×30, its map 80×60"):
        pasted([sky(100), Odd(200, thing.ids, thing.segments)], 0)


@pytest.mark.parametrize(("name", "said"), [("pip", "Did you mean 'pipe'"), ("mud", "'mud' is stuff")])
def test_classes_that_cannot_be_pasted(name: str, said: str) -> None:
    rows = [sky(100), with_thing(200, (20, 30, 8, 12))]
    with pytest.raises(LabelError, match=said):
        pasted(rows, 0, ALWAYS.changed(paste_classes=(name,)))


def test_a_scale_that_falls_is_refused() -> None:
    with pytest.raises(RecipeError, match="paste_scale goes from 1.2 to 0.8"):
        Augmentation(paste_scale=(1.2, 0.8))


def test_a_pair_changes_names_in_a_mirrored_photo_and_when_pasted_mirrored() -> None:
    """PIPE and CRANE stand in for a left and a right mirror; the incomplete class is mirrored, too."""
    pairs = {"pipe": "crane"}
    photo = with_thing(1, (10, 10, 20, 12))
    for flip, label in ((0.0, PIPE), (1.0, CRANE)):
        dataset = PanopticDataset([photo], AS_IT_IS, Augmentation.none().changed(flip=flip, flip_pairs=pairs))  # type: ignore[list-item]
        labels = dataset.item(Image.open(io.BytesIO(photo.photo)), photo.map(), 1, "a test", 0, ("pipe",))["labels"]
        assert sorted(labels["class_labels"].tolist()) == sorted([label, SKY])
        assert labels["incomplete"].tolist() == [label]
    rows = [sky(1), with_thing(2, (10, 10, 20, 12))]
    seen = set()
    for epoch in range(20):
        pixels, labels = pasted(rows, 0, ALWAYS.changed(flip_pairs=pairs), epoch)
        columns = np.flatnonzero((pixels[..., 0] == 2).any(0))
        seen |= set(labels["class_labels"].tolist()) - {SKY} if len(columns) else set()
    assert seen == {PIPE, CRANE}


@pytest.mark.parametrize(
    ("pairs", "words"),
    [({"left pipe": "crane"}, "no class 'left pipe'"), ({"pipe": "pipe"}, "names 'pipe' twice")],
)
def test_pairs_that_cannot_be(pairs: dict[str, str], words: str) -> None:
    with pytest.raises((LabelError, RecipeError), match=words):
        pasted([with_thing(1, (10, 10, 20, 12))], 0, Augmentation.none().changed(flip=1.0, flip_pairs=pairs))
