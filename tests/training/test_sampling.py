"""Who sees which photo: every photo once an epoch, whatever the number of processes; rare classes more often."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_detr_panoptic.dataset.batches import EpochSampler
from hf_detr_panoptic.training.sampling import RankBatches, RepeatSampler, repeat_factors

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
    first, second = (list(RankBatches(EpochSampler(3, shuffle=False), 1, rank, 2)) for rank in range(2))
    assert first == [[(0, 0)], [(0, 2, True)]]
    assert second == [[(0, 1)], [(0, 2)]]


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
