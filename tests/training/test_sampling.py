"""Who sees which photo: every photo once an epoch, whatever the number of processes; rare classes more often."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import SPACE

from hf_detr_panoptic import Segment
from hf_detr_panoptic.dataset.batches import EpochSampler
from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.stage_settings import Stage
from hf_detr_panoptic.training.sampling import (
    MarkedSampler,
    RankBatches,
    RepeatSampler,
    Splits,
    check_splits,
    repeat_factors,
    sampler_of,
)

counts = st.integers(min_value=1, max_value=40)
few = st.integers(min_value=1, max_value=5)


@given(photos=counts, size=few, processes=few, epoch=st.integers(0, 3))
def test_every_photo_once_in_the_same_steps(photos: int, size: int, processes: int, epoch: int) -> None:
    ranks = [RankBatches(EpochSampler(photos, seed=1), size, rank, processes) for rank in range(processes)]
    alone = RankBatches(EpochSampler(photos, seed=1), size * processes)
    for batches in (*ranks, alone):
        batches.set_epoch(epoch)
    shared = [list(batches) for batches in ranks]
    whole = list(alone)
    assert {len(own) for own in shared} == {len(whole)} == {len(alone)} == {len(ranks[0])}
    for step, together in enumerate(whole):
        parts = [own[step] for own in shared]
        assert all(parts)  # nobody sits out: every process must take part in each step
        assert sorted(key for part in parts for key in part if len(key) == 2) == sorted(together)
        assert all(len(part) <= size for part in parts)
    assert sorted(index for step in whole for _, index in step) == list(range(photos))


def test_a_filler_says_so() -> None:
    one, two, three = EpochSampler(3)
    first, second = (list(RankBatches(EpochSampler(3), 1, rank, 2)) for rank in range(2))
    assert first == [[one], [(*three, True)]]
    assert second == [[two], [three]]


def test_the_order_is_another_in_each_epoch() -> None:
    batches = RankBatches(EpochSampler(20, seed=0), 4)
    before = list(batches)
    assert list(batches) == before
    batches.set_epoch(1)
    after = list(batches)
    assert [index for step in after for _, index in step] != [index for step in before for _, index in step]
    assert {epoch for step in after for epoch, _ in step} == {1}


def test_repeat_factors_by_hand() -> None:
    # Class 0 is on all eight photos, class 1 on two, class 2 on one: √(.5 · 8 / 2) and √(.5 · 8 / 1).
    labels = [{0}] * 5 + [{0, 1}] * 2 + [{0, 2}]
    assert repeat_factors(labels, 0.5) == pytest.approx([1.0] * 5 + [2**0.5] * 2 + [2.0])
    assert repeat_factors([set(), {0}], 0.5) == [1.0, 1.0]


@given(st.lists(st.floats(min_value=1, max_value=6), min_size=1, max_size=30), st.integers(0, 50))
def test_each_photo_comes_as_often_as_its_factor(factors: list[float], epoch: int) -> None:
    sampler = RepeatSampler(factors, seed=3)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler) == round(sum(factors))
    assert len(set(keys)) == len(keys)  # a photo that comes twice is augmented twice
    times = Counter(index for _, index in keys)
    for index, factor in enumerate(sampler.factors):
        assert factor - 1 - 1e-6 < times[index] < factor + 1 + 1e-6
    assert keys == list(sampler)


def test_repeats_are_right_on_average() -> None:
    sampler = RepeatSampler([1.0, 1.5, 1.5, 3.0], seed=0)
    total: Counter[int] = Counter()
    for epoch in range(400):
        sampler.set_epoch(epoch)
        total.update(index for _, index in sampler)
    assert [total[index] / 400 for index in range(4)] == pytest.approx([1.0, 1.5, 1.5, 3.0], abs=0.08)


def epochs_of(sampler: EpochSampler, count: int) -> list[list[tuple[int, int]]]:
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


def test_an_epoch_with_marked_photos_by_hand() -> None:
    """Ten photos, three of them marked, half of each batch: five turns of the three and five of the seven an epoch."""
    sampler = MarkedSampler([True, False, False, True, False, False, False, True, False, False], 0.5, seed=1)
    epochs = epochs_of(sampler, 21)
    for keys in epochs:
        assert len(keys) == len(sampler) == 10
        assert [index in (0, 3, 7) for _, index in keys] == [False, True] * 5
    marked = [index for keys in epochs[:3] for _, index in keys if index in (0, 3, 7)]
    assert all(sorted(marked[at : at + 3]) == [0, 3, 7] for at in range(0, 15, 3))  # 15 turns of a pack of three
    others = [index for keys in epochs[:7] for _, index in keys if index not in (0, 3, 7)]
    assert Counter(others) == dict.fromkeys((1, 2, 4, 5, 6, 8, 9), 5)
    # Two of three come twice in an epoch, and are augmented twice.
    assert all(len(set(keys)) == 10 for keys in epochs)
    assert Counter(epoch for epoch, _ in epochs[2]) == {2: 8, 1_000_002: 2}
    assert {tuple(keys) for keys in epochs_of(MarkedSampler([True] * 3 + [False] * 7, 0.5, seed=2), 3)}.isdisjoint(
        {tuple(keys) for keys in epochs}
    )


@given(
    marked=st.lists(st.booleans(), min_size=1, max_size=30),
    share=st.floats(0.05, 1),
    size=few,
    processes=few,
    epoch=st.integers(0, 20),
)
def test_marked_photos_in_every_batch(marked: list[bool], share: float, size: int, processes: int, epoch: int) -> None:
    sampler = MarkedSampler(marked, share, seed=1)
    ranks = [RankBatches(MarkedSampler(marked, share, seed=1), size, rank, processes) for rank in range(processes)]
    for one in (sampler, *ranks):
        one.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(set(keys)) == len(marked)
    shared = [list(batches) for batches in ranks]
    for step, start in enumerate(range(0, len(keys), size * processes)):
        together = [key for own in shared for key in own[step] if len(key) == 2]
        assert sorted(together) == sorted(keys[start : start + size * processes])
        if any(marked) and not all(marked):
            there = sum(marked[index] for _, index in together)
            assert abs(there - share * len(together)) < 1 + 1e-6
    if len(set(marked)) == 1:
        assert sorted(index for _, index in keys) == list(range(len(marked)))


def photo(*segments: tuple[int, str]) -> Any:
    """Of segments with a label and a source."""
    return SimpleNamespace(segments=[Segment(1 + n, label, source=s) for n, (label, s) in enumerate(segments)])


PHOTOS = [photo((0, "custom"), (2, "auto")), *[photo((2, "auto"))] * 5, photo((1, "auto")), photo((1, "model"))]


def test_the_labelers_classes_are_not_repeated() -> None:
    """Class 0, marked on one photo of eight: √(.5 · 8 / 1); class 1, which nobody marked, is as rare."""
    sampler = sampler_of(Stage.of("detection", repeat_factor=0.5), PHOTOS, seed=0)
    assert isinstance(sampler, RepeatSampler)
    assert len(sampler) == 9  # 2 + 7
    assert sampler.factors == pytest.approx([2.0] + [1.0] * 7)


def test_a_stage_says_how_photos_are_drawn() -> None:
    assert type(sampler_of(Stage.of("detection"), PHOTOS, seed=0)) is EpochSampler
    sampler = sampler_of(Stage.of("detection", marked_share=0.25), PHOTOS, seed=0)
    assert [index == 0 for _, index in sampler] == [False, False, False, True] * 2
    with pytest.raises(RecipeError, match="marked_share and repeat_factor"):
        Stage.of("detection", marked_share=0.25, repeat_factor=0.1)


@pytest.mark.parametrize(
    ("rows", "said"), [(PHOTOS[1:], "none of the 7"), (PHOTOS[:1], "every one of the 1"), (PHOTOS, "")]
)
def test_a_share_that_means_nothing_is_said(rows: Any, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_splits(Splits(rows, PHOTOS, SPACE), [Stage.of("detection", marked_share=0.5)])
    assert [said] * bool(said) == [said for line in caplog.messages if "marked_share" in line and said in line]
