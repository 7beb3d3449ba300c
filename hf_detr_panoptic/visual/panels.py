"""Pictures side by side, each under its title."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..errors import ImageError
from .legend import stamp
from .text import DARK, WHITE, one_line, words


def panels(
    pictures: Sequence[Image.Image], titles: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """One picture of several: in one row, or in rows of `columns`; each column is as wide as its widest picture.

    `titles`: one a picture ("" for none).
    """
    if not pictures:
        raise ImageError("there is no picture to show", fix="Give at least one.")
    if titles is not None and len(titles) != len(pictures):
        raise ImageError(f"{len(titles)} titles for {len(pictures)} pictures", fix="Give one a picture, or none.")
    across = min(columns or len(pictures), len(pictures))
    widths = [max(picture.width for picture in pictures[start::across]) for start in range(across)]
    size = max(11, round(max(widths) / 36))
    gap = max(4, size // 2)
    heads = [
        None if not title else words(one_line(title, max(8, 2 * width // size)), size, DARK, WHITE)
        for title, width in zip(titles or [""] * len(pictures), widths * len(pictures), strict=False)
    ]
    tall = max((head.shape[0] + gap // 2 for head in heads if head is not None), default=0)
    rows = [range(start, min(start + across, len(pictures))) for start in range(0, len(pictures), across)]
    heights = [max(pictures[place].height for place in row) + tall for row in rows]
    canvas = np.full((sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (across + 1), 3), 255, dtype=np.uint8)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for place, width in zip(row, widths, strict=False):
            head = heads[place]
            if head is not None:
                stamp(canvas[:, : x + width], head, x, y)
            stamp(canvas, np.asarray(pictures[place].convert("RGB")), x, y + tall)
            x += width + gap
        y += height + gap
    return Image.fromarray(canvas)
