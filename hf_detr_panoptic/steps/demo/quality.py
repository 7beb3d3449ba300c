"""What only a site with known truth can tell: how right the merged labels are, and what each rule adds to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import ndimage

from ...data.coco_panoptic import read_split
from ...demo.site import CUSTOM, SITE, TEACHER
from ...evaluation.panoptic_quality import PanopticQuality
from ...labeling.annotations import Mark, read_annotations
from ...labeling.autolabels import AutoLabels
from ...labeling.overlay import overlay
from ...labeling.overlay_rules import OverlayRules
from ...labeling.photos import survey
from ...panoptic_map import PanopticMap
from .data import Place

RULED, PASTED = "all rules", "only pasted, no void"
GROUPS = {"your classes": CUSTOM.names, "the teacher's classes": TEACHER.names}


def grouped(result: Mapping[str, Any]) -> dict[str, float | None]:
    """PQ of all classes, things, stuff, the person's classes and the teacher's: means of what `per_class` says."""
    by_name = {row["name"]: row["pq"] for row in result["per_class"]}
    groups = {name: _mean(by_name.get(member) for member in members) for name, members in GROUPS.items()}
    return {"all": result["pq"], "things": result["things"]["pq"], "stuff": result["stuff"]["pq"], **groups}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


# --- the merged labels, with the rules and without


@dataclass(frozen=True)
class Merging:
    """One way to merge: the rules, and what is done to each merged map after that."""

    rules: OverlayRules
    after: Callable[[PanopticMap], PanopticMap] | None = None


def mergings(rules: OverlayRules) -> dict[str, Merging]:
    """All rules, each of them off, and all of them off."""
    pasted = replace(rules, threshold=0.0, leakage=None, min_area=0)
    return {
        RULED: Merging(rules),
        "leakage kept": Merging(replace(rules, leakage=None)),
        "low scores kept": Merging(replace(rules, threshold=0.0)),
        "fragments kept": Merging(replace(rules, min_area=0)),
        "no void: the nearest segment instead": Merging(rules, without_void),
        PASTED: Merging(pasted, without_void),
    }


def without_void(map: PanopticMap) -> PanopticMap:
    """Each void pixel as the nearest one that is not."""
    if not map.segments or not map.void_area:
        return map
    places = ndimage.distance_transform_edt(map.ids == 0, return_distances=False, return_indices=True)
    return PanopticMap(map.ids[tuple(places)], map.segments, map.space)


@dataclass(frozen=True)
class Labelled:
    """A photo with the labeler's answer, the person's marks and what is really there."""

    name: str
    auto: PanopticMap
    marks: Sequence[Mark]
    truth: PanopticMap

    def merged(self, merging: Merging) -> PanopticMap:
        merged = overlay(self.auto, self.marks, SITE, rules=merging.rules).map
        return merging.after(merged) if merging.after else merged

    def believed(self, rules: OverlayRules) -> PanopticMap:
        """What the rules believe of the labeler's answer where nobody marked anything."""
        return overlay(self.auto, (), SITE, rules=rules).map


def labelled_photos(place: Place, names: Sequence[str] | None = None) -> Iterator[Labelled]:
    """What `prepare` has left, photo by photo; no model is asked again."""
    answers = AutoLabels.found(place.data / "autolabels")
    marks = {photo.photo: photo.marks for photo in read_annotations(place.marks, place.photos).photos}
    truths = {record.file_name: record for record in read_split(place.truth, "val")}
    photos, _ = survey(place.photos, list(truths) if names is None else names)
    for photo in photos:
        auto = answers.read(photo.digest)
        yield Labelled(photo.name, auto, marks.get(photo.name, ()), truths[photo.name].map())


def merged_quality(photos: Iterable[Labelled], ways: Mapping[str, Merging]) -> dict[str, dict[str, float | None]]:
    """`grouped` PQ of the merged maps against the truth, for each way to merge. Void is a miss."""
    counters = {name: PanopticQuality(SITE) for name in ways}
    for photo in photos:
        for name, way in ways.items():
            counters[name].update(photo.merged(way), photo.truth)
    return {name: grouped(counter.compute()) for name, counter in counters.items()}


def most_marked(photos: Iterable[Labelled]) -> Labelled:
    """The photo with the most different classes of the person's, then the most marks: it shows what they did."""
    return max(photos, key=lambda photo: (len({mark.name for mark in photo.marks}), len(photo.marks), photo.name))
