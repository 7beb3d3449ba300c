"""Which photos to mark next, of points that say what each shows: typical ones, or those of a high score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..panoptic_map import PanopticMap

Points = npt.NDArray[np.float64]  # [N, d]
Labels = npt.NDArray[np.int64]  # [N]

NEIGHBOURS = 20  # whose mean distance says how typical a point is (Hacohen et al. 2022)
MOST_CLUSTERS = 500
_ROUNDS = 50


@dataclass(frozen=True)
class Choice:
    """A photo by its place among the points, with the size of its cluster and how many known ones are in it."""

    place: int
    cluster_size: int = 0
    known: int = 0


@dataclass
class Apart:
    """Whom nobody should mark twice: near `copies` at no price, photos of a `site` while there are other sites.

    Both say for each place whose photo it is; `used` are places that are known already.
    """

    copies: Sequence[Any]
    sites: Sequence[Any]
    used: Iterable[int] = ()
    _copies: set[Any] = field(init=False)
    _sites: set[Any] = field(init=False)

    def __post_init__(self) -> None:
        used = list(self.used)
        self._copies = {self.copies[place] for place in used}
        self._sites = {self.sites[place] for place in used}

    def allows(self, place: int, anew: bool) -> bool:
        """`anew`: only of a site of which there is none yet."""
        return self.copies[place] not in self._copies and not (anew and self.sites[place] in self._sites)

    def take(self, place: int) -> None:
        self._copies.add(self.copies[place])
        self._sites.add(self.sites[place])


def grid_shares(panoptic: PanopticMap, cells: int = 4) -> npt.NDArray[np.float32]:
    """float32 [cells · cells · C]: the share of each class in each cell of a grid over the photo."""
    lookup = np.full(int(panoptic.ids.max()) + 1, len(panoptic.space), dtype=np.int64)  # void is the class after all
    for segment in panoptic.segments:
        lookup[segment.id] = segment.label
    shares = []
    for rows in np.array_split(lookup[panoptic.ids], cells, axis=0):
        for cell in np.array_split(rows, cells, axis=1):
            counts = np.bincount(cell.reshape(-1), minlength=len(panoptic.space) + 1)
            shares.append(counts[:-1] / max(cell.size, 1))
    return np.concatenate(shares).astype(np.float32)


def normalised(points: Sequence[npt.ArrayLike]) -> Points:
    """Each point less the mean of all, brought to length 1."""
    values = np.asarray(points, dtype=np.float64)
    values = values - values.mean(0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def k_means(points: Points, k: int, seed: int = 0) -> Labels:
    """The cluster of each point, 0 to k − 1 (Lloyd, begun by k-means++)."""
    rng = np.random.default_rng(seed)
    k = min(k, len(points))
    centres = points[[int(rng.integers(len(points)))]]
    nearest = _squared(points, centres)[:, 0]
    while len(centres) < k:
        whole = nearest.sum()
        chances = nearest / whole if whole > 0 else np.full(len(points), 1 / len(points))
        centres = np.concatenate([centres, points[[int(rng.choice(len(points), p=chances))]]])
        nearest = np.minimum(nearest, _squared(points, centres[-1:])[:, 0])
    clusters = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        now = _squared(points, centres).argmin(1)
        if (now == clusters).all():
            break
        clusters = now
        for cluster in range(k):
            if (inside := clusters == cluster).any():
                centres[cluster] = points[inside].mean(0)
    return clusters.astype(np.int64)


def _squared(points: Points, centres: Points) -> Points:
    """Squared distances [N, k]."""
    squares = (points**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * points @ centres.T
    return np.maximum(squares, 0.0)


def typicality(points: Points) -> npt.NDArray[np.float64]:
    """How near a point's nearest neighbours are: 1 / their mean distance."""
    if len(points) < 2:
        return np.ones(len(points))
    count = min(NEIGHBOURS, len(points) - 1)
    means = []
    for start in range(0, len(points), 1024):
        distances = np.sqrt(_squared(points[start : start + 1024], points))
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = np.inf
        means.append(np.partition(distances, count - 1, axis=1)[:, :count].mean(1))
    return 1 / np.maximum(np.concatenate(means), 1e-9)


def most_typical(points: Points, known: Sequence[bool], count: int, apart: Apart, seed: int = 0) -> list[Choice]:
    """The most typical photo of each cluster, large clusters without a known photo first.

    There are as many clusters as there will be known photos: with few of them what is typical teaches more than what
    is uncertain (Hacohen et al. 2022).
    """
    if not len(points):
        return []
    clusters = k_means(points, min(count + sum(known), MOST_CLUSTERS), seed)
    members = {cluster: np.flatnonzero(clusters == cluster) for cluster in dict.fromkeys(clusters.tolist())}
    familiar = Counter(cluster for cluster, its in zip(clusters.tolist(), known, strict=True) if its)
    order = sorted(members, key=lambda cluster: (familiar[cluster], -len(members[cluster]), cluster))
    ranked = {}
    for cluster in order:
        places = members[cluster]
        by_rank = places[np.argsort(-typicality(points[places]), kind="stable")]
        ranked[cluster] = [int(place) for place in by_rank if not known[place]]

    chosen: list[Choice] = []
    for anew in (True, False):
        while len(chosen) < count:
            before = len(chosen)
            for cluster in order:
                place = next((place for place in ranked[cluster] if apart.allows(place, anew)), None)
                if place is not None and len(chosen) < count:
                    apart.take(place)
                    ranked[cluster].remove(place)
                    chosen.append(Choice(place, len(members[cluster]), familiar[cluster]))
            if len(chosen) == before:
                break
    return chosen


def highest(
    scores: Sequence[float], points: Points, known: Sequence[bool], count: int, apart: Apart, seed: int = 0
) -> list[Choice]:
    """The photos of the highest scores, one a cluster as far as that goes: there are 2 · `count` of them."""
    free = [place for place, its in enumerate(known) if not its]
    if not free:
        return []
    found = k_means(points[free], 2 * count, seed).tolist()
    cluster_of = dict(zip(free, found, strict=True))
    sizes, used = Counter(found), set[int]()
    ranked = sorted(free, key=lambda place: (-scores[place], place))
    chosen: list[Choice] = []
    for anew, alone in ((True, True), (True, False), (False, False)):
        for place in ranked:
            if len(chosen) < count and apart.allows(place, anew) and not (alone and cluster_of[place] in used):
                apart.take(place)
                used.add(cluster_of[place])
                chosen.append(Choice(place, sizes[cluster_of[place]]))
    return chosen


def at_random(known: Sequence[bool], count: int, apart: Apart, seed: int = 0) -> list[Choice]:
    """Drawn, and yet no near copies."""
    order = np.random.default_rng(seed).permutation(len(known)).tolist()
    return [Choice(place) for place in _first(order, known, count, apart)]


def _first(order: Iterable[int], known: Sequence[bool], count: int, apart: Apart) -> Iterator[int]:
    for place in order:
        if count > 0 and not known[place] and apart.allows(place, anew=False):
            apart.take(place)
            count -= 1
            yield place
