"""Which photos of a dataset a person should look at first, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...labels import LabelSpace
from ...panoptic_map import PanopticMap, shared_pixels
from ...text import count_of

VOID, UNSURE, TINY, CONFLICT = 0.2, 0.9, 64, (0.1, 0.9)
SURE = 0.85  # the labeler's answers that can contradict a mark: it keeps others, down to a floor


@dataclass(frozen=True)
class Reason:
    """points: 1 is as bad as a photo that nobody knows anything of."""

    kind: str
    points: float
    text: str


def suspicions(map: PanopticMap, answer: PanopticMap | None = None) -> list[Reason]:
    """The worst first. `answer`: what the labeler said of the whole photo, before the marks lay over it."""
    found = [*_empty(map), *_void(map), *_unsure(map), *_tiny(map)]
    if answer is not None and answer.ids.shape == map.ids.shape:
        found += [*_cut(map, answer), *_contradicted(map, answer)]
    return sorted(found, key=lambda reason: -reason.points)


def _empty(map: PanopticMap) -> Iterator[Reason]:
    if not map.segments:
        yield Reason("no segment", 1.0, "no segment at all")


def _void(map: PanopticMap) -> Iterator[Reason]:
    share = map.void_area / map.ids.size
    if share > VOID and map.segments:
        yield Reason("much void", share, f"{share:.0%} of the pixels are void")


def _unsure(map: PanopticMap) -> Iterator[Reason]:
    """Each of the labeler's segments by its size and by how far it is from sure."""
    areas = map.areas()
    unsure = sorted((s for s in map.segments if s.source != "custom" and s.score < UNSURE), key=lambda s: s.score)
    if unsure:
        points = sum(2 * (1 - s.score) * (areas[s.id] / map.ids.size) ** 0.5 for s in unsure)
        some = ", ".join(f"{map.space[s.label].name} {s.score:.0%}" for s in unsure[:3])
        yield Reason(
            "low score", min(points, 1.0), f"the labeler is unsure of {count_of(len(unsure), 'segment')}: {some}"
        )


def _tiny(map: PanopticMap) -> Iterator[Reason]:
    areas = map.areas()
    tiny = sorted((s for s in map.segments if areas[s.id] < TINY), key=lambda s: areas[s.id])
    if tiny:
        some = ", ".join(f"{map.space[s.label].name} {areas[s.id]} px" for s in tiny[:3])
        yield Reason("tiny pieces", min(0.1 * len(tiny), 0.6), f"tiny: {count_of(len(tiny), 'segment')}: {some}")


def _cut(map: PanopticMap, answer: PanopticMap) -> Iterator[Reason]:
    """A thing that the labeler is sure of, and that marks cover neither wholly nor hardly: whose border is wrong?"""
    custom = {segment.id for segment in map.segments if segment.source == "custom"}
    areas, shared = answer.areas(), shared_pixels(map, answer)
    for segment in answer.segments:
        if not answer.space[segment.label].isthing or segment.score < SURE:
            continue
        over = {mark: pixels for mark, pixels in shared.items() if mark[1] == segment.id and mark[0] in custom}
        covered = sum(over.values())
        share = covered / areas[segment.id]
        if CONFLICT[0] < share < CONFLICT[1]:
            points = min(4 * min(covered, areas[segment.id] - covered) / map.ids.size, 1.0)
            marks = sorted({map.space[map.segment(mark).label].name for mark, _ in over})
            name = answer.space[segment.label].name
            sure = f"a {name} that the labeler is {segment.score:.0%} sure of"
            text = f"marks ({', '.join(marks)}) cover {share:.0%} of {sure}"
            yield Reason("marks against labeler", points, text)


def _contradicted(map: PanopticMap, answer: PanopticMap) -> Iterator[Reason]:
    """A mark of a class that the labeler knows, most of which it is sure is another."""
    areas, shared = map.areas(), shared_pixels(map, answer)
    for mark in map.segments:
        name = map.space[mark.label].name
        if mark.source != "custom" or not _known(answer.space, name):
            continue
        for (marked, answered), pixels in shared.items():
            if marked != mark.id or answered == 0 or 2 * pixels <= areas[mark.id]:
                continue
            other = answer.segment(answered)
            if answer.space[other.label].name != name and other.score >= SURE:
                text = f"marked {name}, and the labeler is {other.score:.0%} sure of {answer.space[other.label].name}"
                yield Reason("marks against labeler", min(2 * pixels / map.ids.size, 1.0), text)


def _known(space: LabelSpace, name: str) -> bool:
    return name in space.names
