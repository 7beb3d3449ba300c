"""What --max-size does to what is marked: rectangles that shrink along, and marks of which nothing is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..dataset.photos import sampled, shrunk_size
from ..settings import Prepare
from .inputs import Box, Inputs, Photo, Problem

if TYPE_CHECKING:
    from ..annotations.marks import Mark


def below_a_pixel(settings: Prepare, inputs: Inputs, photos: Sequence[Photo]) -> dict[str, list[Mark]]:
    """Photo → the marks on it of which --max-size leaves nothing."""
    from pycocotools import mask as coco_mask

    lost: dict[str, list[Mark]] = {}
    for photo in photos:
        if not settings.max_size or max(photo.size) <= settings.max_size or photo.name not in inputs.marked:
            continue
        rows, columns = map(sampled, photo.size, shrunk_size(photo.size, settings.max_size))
        for mark in inputs.marked[photo.name].marks:
            if mark.rle is not None:
                left = bool(coco_mask.decode(mark.rle)[np.ix_(rows, columns)].any())
            else:
                x, y, width, height = mark.box
                inside = ((y <= rows + 0.5) & (rows + 0.5 < y + height)).any()
                left = bool(inside and ((x <= columns + 0.5) & (columns + 0.5 < x + width)).any())
            if not left:
                lost.setdefault(photo.name, []).append(mark)
    return lost


def lost_marks(settings: Prepare, lost: Mapping[str, Sequence[Mark]]) -> list[Problem]:
    what = f"is smaller than a pixel at max_size {settings.max_size}, and not in the dataset"
    fix = "Give a larger --max-size, or none."
    return [
        Problem(name, f"a mark of '{mark.name}' {what}", fix, mark.where)
        for name, marks in lost.items()
        for mark in marks
    ]


def scaled(boxes: Sequence[Box], before: tuple[int, int], now: tuple[int, int]) -> list[Box]:
    """(x, y, width, height) on a photo of another (height, width)."""
    down, across = (new / old for new, old in zip(now, before, strict=True))
    return [(x * across, y * down, width * across, height * down) for x, y, width, height in boxes]
