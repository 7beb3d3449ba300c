"""Where the labels go: each at its segment's largest inscribed point, none over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .text import Pixels, words

# A label may reach over its segment's border a little, but must not hide the segment.
_HEIGHT, _WIDTH, _COVERED = 2.2, 4.0, 0.4  # of the radius, of the radius, of the area
_GRID = 200  # cells along the longer side: finer than a label, coarse enough to cost a millisecond


def inscribed_points(
    places: npt.NDArray[np.unsignedinteger[Any]], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """places: [H, W], which of the segments 1 … count a pixel belongs to → their points [count, 2] as (x, y), radii.

    A point lies in its segment, and about the radius away from any other segment and from the picture's edge. The
    radius is 0 where a segment is too small for the grid that is searched.
    """
    step = max(1, -(-max(places.shape) // _GRID))
    top, left = (min(step - 1, side - 1) // 2 for side in places.shape)
    cells = places[top::step, left::step]
    inside = np.zeros((cells.shape[0] + 2, cells.shape[1] + 2), dtype=bool)
    inner = inside[1:-1, 1:-1]
    inner[:] = True
    across, down = cells[:, 1:] == cells[:, :-1], cells[1:] == cells[:-1]
    inner[:, 1:] &= across
    inner[:, :-1] &= across
    inner[1:] &= down
    inner[:-1] &= down
    distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    # One number orders cells by distance, then by place: the maximum of each segment carries its cell along.
    size = cells.size
    order = np.rint(distance.reshape(-1) * 64).astype(np.int64) * size + np.arange(size - 1, -1, -1)
    best = np.full(count + 1, -1, dtype=np.int64)
    np.maximum.at(best, cells.reshape(-1), order)
    found = best[1:] >= 0
    chosen = np.where(found, size - 1 - best[1:] % size, 0)
    y, x = np.divmod(chosen, cells.shape[1])
    radius = np.where(found, (distance.reshape(-1)[chosen] + 0.5) * step, 0.0)
    return np.stack([x * step + left, y * step + top], axis=1), radius


@dataclass(frozen=True)
class Wanted:
    """A segment that wants a label: its point, the room around it, its area, and texts with sizes, the best first."""

    point: tuple[int, int]
    radius: float
    area: int
    texts: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Placed:
    """Plate `plate` of the n-th of those that wanted one, its upper left corner at (x, y)."""

    wanted: int
    x: int
    y: int
    plate: Pixels


def place_labels(wanted: Sequence[Wanted], width: int, height: int) -> list[Placed]:
    """Labels in order of their claim, in the picture and apart; who finds no room goes without."""
    placed: list[Placed] = []
    taken = np.zeros((len(wanted), 4), dtype=np.int64)
    for place, each in enumerate(wanted):
        for text, size in each.texts:
            if size > _HEIGHT * each.radius:
                continue
            plate = words(text, size)
            corner = _free_corner(each, plate, taken[: len(placed)], width, height)
            if corner is not None:
                taken[len(placed)] = (*corner, corner[0] + plate.shape[1], corner[1] + plate.shape[0])
                placed.append(Placed(place, *corner, plate))
                break
    return placed


def _free_corner(
    wanted: Wanted, plate: Pixels, taken: npt.NDArray[np.int64], width: int, height: int
) -> tuple[int, int] | None:
    h, w = plate.shape[:2]
    fits = w <= width and h <= height and h <= _HEIGHT * wanted.radius and w <= _WIDTH * wanted.radius
    if not fits or w * h > _COVERED * wanted.area:
        return None
    room = max(0.0, wanted.radius - h / 2)
    for shift in (0.0, -1.0, 1.0, -2.0, 2.0):
        offset = round(shift * (h + 2))
        if abs(offset) > room:
            continue
        x = min(max(wanted.point[0] - w // 2, 0), width - w)
        y = min(max(wanted.point[1] - h // 2 + offset, 0), height - h)
        apart = (taken[:, 0] >= x + w) | (taken[:, 2] <= x) | (taken[:, 1] >= y + h) | (taken[:, 3] <= y)
        if apart.all():
            return x, y
    return None
