"""Streaming panoptic quality of `PanopticMap`s: update, merge, compute. The rules are in metric/counting.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import LabelError, MapError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from .metric.counting import Count, Counts, Overlaps, add, count, overlaps, summarise


class PanopticQuality:
    """PQ, SQ and RQ, equal to panopticapi's on the same pixels, counted image by image.

    The result depends on the set of images alone, to the last bit: not on their order, nor on how they were shared
    out among counters that `merge` brings together.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.counts: Counts = {}

    def update(
        self,
        prediction: PanopticMap,
        truth: PanopticMap,
        truth_areas: Mapping[int, int] | None = None,
    ) -> PanopticQuality:
        """Counts one image.

        `truth_areas`, id → area as a JSON file states it, stale or not, gives panopticapi's numbers where such areas
        disagree with the pixels. Left out, the pixels decide.
        """
        return self.add(image_counts(prediction, truth, self.space, truth_areas))

    def add(self, counts: Mapping[tuple[int, str], Count]) -> PanopticQuality:
        """Adds what `image_counts` found."""
        add(self.counts, counts)
        return self

    def merge(self, other: PanopticQuality) -> PanopticQuality:
        """Adds what another counter of the same label space has seen."""
        _same_space(other.space, self.space, "the other counter")
        return self.add(other.counts)

    def compute(self) -> dict[str, Any]:
        """Fractions, None where a group is empty: pq, sq, rq and n (classes averaged) of all, `things` and `stuff`,

        `per_class` with tp, fp and fn, and `sources`: against what the person marked ("custom") and what the labeler
        added ("auto"), as far as the truth has any. The latter is agreement with the labeler, not quality.
        """
        return summarise(self.counts, dict(enumerate(self.space.names)), self.space.thing_labels)


def image_counts(
    prediction: PanopticMap,
    truth: PanopticMap,
    space: LabelSpace,
    truth_areas: Mapping[int, int] | None = None,
    pairs: Overlaps | None = None,
) -> Counts:
    """One image as a handful of whole numbers, small enough to send from process to process.

    `pairs` is `overlaps_of(prediction, truth)` where a caller has it already.
    """
    _same_space(prediction.space, space, "the prediction")
    _same_space(truth.space, space, "the truth")
    if truth_areas is not None:
        for segment in truth.segments:
            if not segment.crowd and truth_areas.get(segment.id, 0) < 1:
                raise MapError(
                    f"segment {segment.id} of the truth has no stated area, or one below 1 pixel",
                    fix="State an area for each segment, or leave truth_areas out: then the pixels decide.",
                )
    return count(pairs or overlaps_of(prediction, truth), truth.segments, prediction.segments, truth_areas)


def overlaps_of(prediction: PanopticMap, truth: PanopticMap) -> Overlaps:
    """(id in the truth, id in the prediction) → shared pixels, void (0) among the ids."""
    try:
        return overlaps(truth.ids, prediction.ids)
    except ValueError as error:
        raise MapError(
            str(error), fix="Bring the prediction to the photo's own size, with nearest-neighbour sampling."
        ) from None


def _same_space(space: LabelSpace, wanted: LabelSpace, whose: str) -> None:
    if space == wanted:
        return
    strangers = [name for name in space.names if name not in wanted.names]
    if strangers:
        raise LabelError(
            f"{whose} knows the class '{strangers[0]}', the label space of this count does not",
            fix=did_you_mean(strangers[0], wanted.names) + " See PanopticMap.relabelled.",
        )
    raise LabelError(
        f"{whose} has another label space: other order, other kinds or fewer classes",
        fix="Bring it over with PanopticMap.relabelled(space): names decide.",
    )
