"""Where a model goes wrong: which class it sees in place of which, what it misses, what it invents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

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


def image_confusions(prediction: PanopticMap, truth: PanopticMap, pairs: Overlaps | None = None) -> Confusions:
    """One image's confusions. Void and crowds of the truth, of whatever class, excuse what lies mostly on them."""
    pairs = pairs or overlaps_of(prediction, truth)
    true_areas, predicted_areas = areas(pairs)
    missed = {segment.id: segment.label for segment in truth.segments if not segment.crowd}
    invented = {segment.id: segment.label for segment in prediction.segments}
    nobodys = {VOID, *(segment.id for segment in truth.segments if segment.crowd)}
    excused: Counter[int] = Counter()
    found: Counter[tuple[int | None, int | None]] = Counter()
    for (true_id, predicted_id), shared in pairs.items():
        if true_id in nobodys:
            excused[predicted_id] += shared
        elif predicted_id != VOID:
            forgiven = pairs.get((VOID, predicted_id), 0)
            union = true_areas[true_id] + predicted_areas[predicted_id] - shared - forgiven
            if 2 * shared > union:
                found[missed.pop(true_id), invented.pop(predicted_id)] += 1
    found.update((label, None) for label in missed.values())
    found.update(
        (None, label)
        for segment_id, label in invented.items()
        if 2 * excused[segment_id] <= predicted_areas[segment_id]
    )
    return found
