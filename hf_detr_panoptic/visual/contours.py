"""Borders between segments, so drawn that grey print and any eye tell who drew them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .text import DARK, WHITE, Color, Pixels

VOID, AUTO, MODEL, CUSTOM = range(4)  # where two meet, the larger one's border is drawn
RANKS = {"auto": AUTO, "model": MODEL, "custom": CUSTOM}


def paint_contours(
    pixels: Pixels, places: npt.NDArray[np.unsignedinteger[Any]], ranks: npt.NDArray[np.uint8], width: int
) -> None:
    """Draw into `pixels` [H, W, 3]: custom white beside dark, the model's dark, auto dark and dashed.

    places: [H, W]; ranks: uint8, the rank of each place.
    """
    columns = places.shape[1]
    flat = np.ascontiguousarray(places).reshape(-1)
    beside = np.flatnonzero(flat[1:] != flat[:-1])
    beside = beside[beside % columns != columns - 1]
    below = np.flatnonzero(flat[columns:] != flat[:-columns])
    first = np.concatenate([beside, below])
    second = np.concatenate([beside + 1, below + columns])
    rank_first, rank_second = ranks[flat[first]], ranks[flat[second]]
    swap = rank_second > rank_first
    owner, other = np.where(swap, second, first), np.where(swap, first, second)
    rank = np.maximum(rank_first, rank_second)
    _paint(pixels, owner[(rank == AUTO) & _dash(owner, columns, width)], DARK, width)
    _paint(pixels, owner[rank == MODEL], DARK, width)
    custom = rank == CUSTOM
    _paint(pixels, other[custom], DARK, 2 * width - 1)
    _paint(pixels, owner[custom], WHITE, width)


def _dash(flat: npt.NDArray[np.int64], columns: int, width: int) -> npt.NDArray[np.bool_]:
    """Which pixels of a dashed line are drawn: counted along a slope that borders rarely follow."""
    y, x = np.divmod(flat, columns)
    dashes: npt.NDArray[np.bool_] = (3 * x + 2 * y) // (12 * width) % 2 == 0
    return dashes


def _paint(pixels: Pixels, flat: npt.NDArray[np.int64], color: Color, width: int) -> None:
    """Squares of `width` pixels around flat places."""
    rows, columns = pixels.shape[:2]
    if width == 1:
        pixels.reshape(-1, 3)[flat] = color
        return
    y, x = np.divmod(flat, columns)
    for offset in range(width * width):
        down, right = divmod(offset, width)
        at_y = np.clip(y + down - (width - 1) // 2, 0, rows - 1)
        at_x = np.clip(x + right - (width - 1) // 2, 0, columns - 1)
        pixels[at_y, at_x] = color
