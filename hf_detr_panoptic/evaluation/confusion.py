"""Where a model goes wrong: which class it sees in place of which, what it misses, what it invents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import LabelError
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from .metric.counting import VOID, Overlaps, areas
from .panoptic_quality import overlaps_of

Confusions = Mapping[tuple[int | None, int | None], int]
"""(true label, predicted label) → segments; None on the left: invented, on the right: missed."""


class Confusion:
    """Segments matched by IoU > 0.5 whatever their class, image by image."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.counts: Counter[tuple[int | None, int | None]] = Counter()

    def update(self, prediction: PanopticMap, truth: PanopticMap) -> Confusion:
        """Counts one image."""
        for side in (prediction, truth):
            if side.space != self.space:
                raise LabelError("a map of another label space", fix="Bring it over with PanopticMap.relabelled.")
        return self.add(image_confusions(prediction, truth))

    def add(self, counts: Confusions) -> Confusion:
        """Adds what `image_confusions` found."""
        self.counts.update(counts)
        return self

    def merge(self, other: Confusion) -> Confusion:
        """Adds what another table of the same label space has seen."""
        if other.space != self.space:
            raise LabelError("the other table has another label space")
        return self.add(other.counts)

    def compute(self) -> dict[str, Any]:
        """`names`, `matched` [true][predicted], `missed` and `invented` by class."""
        labels = range(len(self.space))
        return {
            "names": list(self.space.names),
            "matched": [[self.counts[true, predicted] for predicted in labels] for true in labels],
            "missed": [self.counts[true, None] for true in labels],
            "invented": [self.counts[None, predicted] for predicted in labels],
        }

    def worst(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """The commonest mix-ups: (true name, predicted name, segments)."""
        names = self.space.names
        mixed = [
            (names[true], names[predicted], count)
            for (true, predicted), count in self.counts.items()
            if true is not None and predicted is not None and true != predicted
        ]
        return sorted(mixed, key=lambda row: (-row[2], row[0], row[1]))[:limit]


class Matching(NamedTuple):
    """Who is whom in one image. matched: id in the truth → id in the prediction; the others hold ids.

    excused: predictions that lie mostly on void or on crowds of the truth, of whatever class.
    """

    matched: dict[int, int]
    missed: set[int]
    invented: set[int]
    excused: set[int]


def match_segments(prediction: PanopticMap, truth: PanopticMap, pairs: Overlaps | None = None) -> Matching:
    """Segments matched by IoU > 0.5 whatever their class; crowds of the truth are neither matched nor missed."""
    pairs = pairs or overlaps_of(prediction, truth)
    true_areas, predicted_areas = areas(pairs)
    nobodys = {VOID, *(segment.id for segment in truth.segments if segment.crowd)}
    on_nobodys: Counter[int] = Counter()
    matched: dict[int, int] = {}
    for (true_id, predicted_id), shared in pairs.items():
        if true_id in nobodys:
            on_nobodys[predicted_id] += shared
        elif predicted_id != VOID:
            forgiven = pairs.get((VOID, predicted_id), 0)
            union = true_areas[true_id] + predicted_areas[predicted_id] - shared - forgiven
            if 2 * shared > union:
                matched[true_id] = predicted_id
    left = {segment.id for segment in prediction.segments}.difference(matched.values())
    excused = {segment_id for segment_id in left if 2 * on_nobodys[segment_id] > predicted_areas[segment_id]}
    missed = {segment.id for segment in truth.segments if not segment.crowd}.difference(matched)
    return Matching(matched, missed, left - excused, excused)


def image_confusions(prediction: PanopticMap, truth: PanopticMap, pairs: Overlaps | None = None) -> Confusions:
    """One image's confusions: what `match_segments` found, by class."""
    found = match_segments(prediction, truth, pairs)
    true, predicted = ({segment.id: segment.label for segment in side.segments} for side in (truth, prediction))
    counts: Counter[tuple[int | None, int | None]] = Counter()
    counts.update((true[one], predicted[other]) for one, other in found.matched.items())
    counts.update((true[segment_id], None) for segment_id in found.missed)
    counts.update((None, predicted[segment_id]) for segment_id in found.invented)
    return counts
