"""Which photos to mark next, on points in the plane whose clusters anybody can see."""

from __future__ import annotations

import numpy as np
import pytest

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.labeling.choose import (
    Apart,
    at_random,
    grid_shares,
    highest,
    k_means,
    most_typical,
    normalised,
    typicality,
)

CENTRES = np.array([[0, 0], [10, 0], [0, 10]])
SIZES = (9, 6, 3)


def heaps() -> np.ndarray:
    """Nine, six and three points; the first of each is in its middle, the others in a ring around it."""
    rings = []
    for centre, size in zip(CENTRES, SIZES, strict=True):
        angles = np.arange(size - 1) * 2 * np.pi / (size - 1)
        rings.append(np.concatenate([[centre], centre + np.stack([np.cos(angles), np.sin(angles)], 1)]))
    return np.concatenate(rings)


MIDDLES = [0, 9, 15]


def apart(count: int = 18, **who: list[int]) -> Apart:
    alone = list(range(count))
    return Apart(who.get("copies", alone), who.get("sites", alone), who.get("used", []))


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_anybody_can_see(seed: int) -> None:
    clusters = k_means(heaps(), 3, seed)
    parts = np.split(clusters, [9, 15])
    assert [len(set(part.tolist())) for part in parts] == [1, 1, 1]
    assert len(set(clusters.tolist())) == 3
    assert np.array_equal(k_means(heaps(), 3, seed), clusters)


def test_as_many_clusters_as_points_at_most_and_equal_points_are_one() -> None:
    assert sorted(k_means(heaps(), 99).tolist()) == list(range(18))
    assert len(set(k_means(np.zeros((5, 2)), 3).tolist())) == 1


def test_the_middle_is_most_typical() -> None:
    points = heaps()[:9]
    assert typicality(points).argmax() == 0
    by_hand = np.linalg.norm(points[3] - np.delete(points, 3, 0), axis=1).mean()
    assert typicality(points)[3] == pytest.approx(1 / by_hand)
    assert typicality(points[:1]).tolist() == [1.0]


def test_one_of_each_kind_the_largest_first() -> None:
    chosen = most_typical(heaps(), [False] * 18, 3, apart())
    assert [choice.place for choice in chosen] == MIDDLES
    assert [(choice.cluster_size, choice.known) for choice in chosen] == [(9, 0), (6, 0), (3, 0)]


def test_kinds_that_have_none_come_first() -> None:
    """Of the largest heap one is known: with two to choose, three clusters, it is last."""
    known = [place == 4 for place in range(18)]
    chosen = most_typical(heaps(), known, 2, apart(used=[4]))
    assert [choice.place for choice in chosen] == MIDDLES[1:]


def test_near_copies_never_and_sites_as_late_as_can_be() -> None:
    copies = [0] * 9 + list(range(9, 18))  # the largest heap is one photo
    chosen = most_typical(heaps(), [False] * 18, 18, apart(copies=copies))
    assert len(chosen) == 10
    sites = [0] * 9 + [1] * 6 + [2] * 3
    chosen = most_typical(heaps(), [False] * 18, 3, apart(sites=sites, used=[0]))
    assert [choice.place for choice in chosen][:2] == MIDDLES[1:]
    assert 0 < chosen[2].place < 18  # then a site that there is already
    assert at_random([False] * 18, 99, apart(copies=copies))[-1].place < 18
    assert len(at_random([False] * 18, 99, apart(copies=copies))) == 10


def test_the_highest_one_a_cluster() -> None:
    points = heaps()[:15]
    scores = [float(place < 9) + place / 100 for place in range(15)]  # the larger heap is all above the other
    chosen = [choice.place for choice in highest(scores, points, [False] * 15, 1, apart(15))]
    assert chosen == [8]
    far = np.concatenate([points, points + 100])
    two = [choice.place for choice in highest([*scores, *np.zeros(15)], far, [False] * 30, 2, apart(30))]
    assert two[0] == 8
    assert len({place // 30 for place in two}) == 1
    assert highest(scores, points, [True] * 15, 3, apart(15)) == []


def test_at_random_is_a_function_of_the_seed() -> None:
    first, again, other = (
        [choice.place for choice in at_random([False] * 18, 5, apart(), seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    known = [place != 7 for place in range(18)]
    assert [choice.place for choice in at_random(known, 5, apart())] == [7]


def test_shares_on_a_grid_by_hand() -> None:
    space = LabelSpace([Category("sky", False), Category("pipe", True)])
    ids = np.zeros((4, 8), dtype=np.int32)
    ids[:2], ids[3, :3] = 5, 9
    shares = grid_shares(PanopticMap(ids, [Segment(5, 0), Segment(9, 1)], space), cells=2).reshape(2, 2, 2)
    assert shares.tolist() == [[[1, 0], [1, 0]], [[0, 3 / 8], [0, 0]]]


def test_normalised_points_have_length_1_around_their_mean() -> None:
    points = normalised([[1, 0], [3, 0], [2, 5]])
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    assert np.isfinite(normalised([[1.0, 2.0]])).all()
