"""The legend under a picture: which number, colour and line stand for which class."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .contours import AUTO, CUSTOM, MODEL, VOID
from .text import DARK, GREY, WHITE, Color, Pixels, one_line, words

_MEANINGS = {CUSTOM: "marked by hand", AUTO: "added by the labeler", MODEL: "predicted"}
_VOID_STRIPES: tuple[Color, Color] = ((60, 60, 64), (190, 190, 194))


@dataclass(frozen=True)
class Entry:
    """One line of a legend."""

    text: str
    color: Color
    rank: int


def legend(entries: Sequence[Entry], void: bool, width: int, size: int) -> Pixels:
    """uint8 [h, width, 3]: the entries in columns, then, where there is something to tell apart, what lines mean."""
    ranks = sorted({entry.rank for entry in entries}, reverse=True)
    lines = [(words(one_line(e.text), size, DARK, WHITE), swatch(e.color, e.rank, size)) for e in entries]
    keys = [(_MEANINGS[rank], rank) for rank in ranks if len(ranks) > 1 or rank == AUTO]
    if void:
        keys.append(("void: nobody knows", VOID))
    lines += [(words(text, size, GREY, WHITE), swatch(WHITE, rank, size)) for text, rank in keys]
    if not lines:
        return np.empty((0, width, 3), dtype=np.uint8)
    line_height = lines[0][0].shape[0] + 2
    gap = size
    widest = max(text.shape[1] + mark.shape[1] for text, mark in lines) + gap
    margin = size // 2
    columns = max(1, (width - margin) // widest)
    rows = -(-len(lines) // columns)
    canvas = np.full((rows * line_height + size // 2, width, 3), 255, dtype=np.uint8)
    for place, (text, mark) in enumerate(lines):
        row, column = place % rows, place // rows
        x, y = margin + column * ((width - margin) // columns), row * line_height + size // 2
        stamp(canvas, mark, x, y + (line_height - 2 - mark.shape[0]) // 2)
        stamp(canvas, text, x + mark.shape[1], y)
    return canvas


@functools.lru_cache(maxsize=4096)
def swatch(color: Color, rank: int, size: int) -> Pixels:
    """uint8 [size, 1.8·size, 3], read-only: a sample of fill and contour."""
    height, width = size, round(1.8 * size)
    line = max(1, round(size / 14))
    y, x = np.mgrid[:height, :width]
    if rank == VOID:
        sample = np.array(_VOID_STRIPES, dtype=np.uint8)[hatch(height, width, max(2, size // 4))]
    else:
        sample = np.full((height, width, 3), color, dtype=np.uint8)
        rim = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
        if rank == CUSTOM:
            sample[rim < 3 * line] = DARK
            sample[(rim >= line) & (rim < 2 * line)] = WHITE
        elif rank == AUTO:
            sample[(rim < line) & ((3 * x + 2 * y) // (12 * line) % 2 == 0)] = DARK
        else:
            sample[rim < line] = DARK
    sample.flags.writeable = False
    return sample


def hatch(height: int, width: int, period: int) -> npt.NDArray[np.int64]:
    """int [H, W] of 0 and 1: diagonal stripes."""
    stripes: npt.NDArray[np.int64] = (np.arange(width) + np.arange(height)[:, None]) // period & 1
    return stripes


def stamp(canvas: Pixels, plate: Pixels, x: int, y: int) -> None:
    """Put a plate onto a canvas; what hangs over the edge is cut off."""
    part = canvas[y : y + plate.shape[0], x : x + plate.shape[1]]
    part[:] = plate[: part.shape[0], : part.shape[1]]
