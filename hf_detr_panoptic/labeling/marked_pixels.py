"""The pixels that a mark claims: its own outline, or the labeler's segment in its rectangle, and who lies on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import AnnotationError
from ..panoptic_map import PanopticMap

if TYPE_CHECKING:
    from .annotations.marks import Mark

Crop = tuple[slice, slice]


@dataclass(frozen=True)
class Shape:
    """The `place`-th mark of a photo as pixels: bool [h, w], the part of the photo that `crop` cuts out.

    `by`: "outline" as drawn, "refined" to a segment of the labeler, the "rectangle" itself, or "skipped".
    """

    mark: Mark
    place: int
    crop: Crop
    mask: npt.NDArray[np.bool_]
    area: int
    by: str


def shapes_of(auto: PanopticMap, marks: Sequence[Mark], boxes: str, box_fit: float) -> list[Shape]:
    """The shape of each mark, in the order of the marks. A void rectangle means all of itself: it is never refined."""
    rectangles = [place for place, mark in enumerate(marks) if mark.rle is None and not mark.void]
    fitting = best_fits(auto, {place: marks[place].box for place in rectangles}, box_fit) if boxes == "refine" else {}
    shapes = []
    for place, mark in enumerate(marks):
        if mark.rle is not None:
            crop, mask, by = *_outline(mark, auto), "outline"
        else:
            crop = _rectangle(mark, auto)
            mask, by = np.ones((crop[0].stop - crop[0].start, crop[1].stop - crop[1].start), dtype=bool), "rectangle"
            if boxes == "skip" and not mark.void:
                mask, by = np.zeros_like(mask), "skipped"
            elif place in fitting:
                mask, by = auto.ids[crop] == fitting[place], "refined"
        shapes.append(Shape(mark, place, crop, mask, int(np.count_nonzero(mask)), by))
    return shapes


def best_fits(
    auto: PanopticMap, rectangles: dict[int, tuple[float, float, float, float]], minimum: float
) -> dict[int, int]:
    """place of a rectangle → id of the auto segment whose tight box has the largest IoU with it, at least `minimum`.

    Each segment goes to one rectangle, the best pair first. The labeler's score does not matter here: the person
    vouches for the object.
    """
    if not rectangles or not auto.segments:
        return {}
    tight = auto.boxes()
    crowds = {segment.id for segment in auto.segments if segment.crowd}
    pairs = [
        (-box_iou(box, tight[segment_id]), place, segment_id)
        for place, box in rectangles.items()
        for segment_id in tight
        if segment_id not in crowds
    ]
    found: dict[int, int] = {}
    for loss, place, segment_id in sorted(pairs):
        if -loss >= max(minimum, 1e-9) and place not in found and segment_id not in found.values():
            found[place] = segment_id
    return found


def painting_order(shapes: Sequence[Shape], priority: Sequence[str], collisions: str) -> list[Shape]:
    """From the bottom to the top: by `priority`, then the smaller (unless `collisions` is "file"), then file order."""
    return sorted(
        shapes, key=lambda shape: (-rank(shape, priority), -shape.area if collisions != "file" else 0, shape.place)
    )


def rank(shape: Shape, priority: Sequence[str]) -> int:
    """0 for the first name of the priority list; names that it does not have lie below all that it has."""
    return priority.index(shape.mark.name) if shape.mark.name in priority else len(priority)


def box_iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Of two (x, y, width, height)."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def _outline(mark: Mark, auto: PanopticMap) -> tuple[Crop, npt.NDArray[np.bool_]]:
    from pycocotools import mask as coco_mask

    assert mark.rle is not None
    height, width = (int(side) for side in mark.rle["size"])
    if (height, width) != auto.ids.shape:
        raise AnnotationError(
            f"the mark was drawn on {width}×{height} pixels, the photo has {auto.width}×{auto.height}",
            where=mark.where,
            fix="Scale the annotations to the photo, or give the photo that was annotated.",
        )
    x, y, w, h = (int(side) for side in coco_mask.toBbox(mark.rle))
    crop = slice(y, y + h), slice(x, x + w)
    return crop, coco_mask.decode(mark.rle)[crop].astype(bool)


def _rectangle(mark: Mark, auto: PanopticMap) -> Crop:
    """The pixels whose centre lies in the box; an empty crop where the box is beside the photo."""
    x, y, w, h = mark.box
    left, right = (int(np.clip(np.ceil(edge - 0.5), 0, auto.width)) for edge in (x, x + w))
    top, bottom = (int(np.clip(np.ceil(edge - 0.5), 0, auto.height)) for edge in (y, y + h))
    return slice(top, max(top, bottom)), slice(left, max(left, right))
