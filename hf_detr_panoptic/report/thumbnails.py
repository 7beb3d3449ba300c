"""Pictures small enough for one file: their size and quality follow from how many there are."""

from __future__ import annotations

import io
import math

from PIL import Image

from .values import Thumbnail

BUDGET = 27_000_000  # bytes of all pictures; in base64 a third more, which leaves 4 MB of 40 for everything else
_LARGEST = 64_000
_SIDES = (64, 640)
_DENSITY = 0.13  # bytes of a WebP a pixel of the square around it, at the first quality
_QUALITIES = (80, 65, 50, 35)


class Thumbnails:
    """`side` is the longest side for so many pictures; `encode` keeps each below its share of the budget."""

    def __init__(self, count: int, budget: int = BUDGET) -> None:
        self.share = min(_LARGEST, budget // max(1, count))
        side = int(math.sqrt(self.share / _DENSITY)) // 16 * 16
        self.side = min(max(side, _SIDES[0]), _SIDES[1])

    def encode(self, caption: str, picture: Image.Image) -> Thumbnail:
        """As WebP: coarser, and in the end smaller, until it fits."""
        picture = picture.convert("RGB")
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        while True:
            for quality in _QUALITIES:
                content = _webp(picture, quality)
                if len(content) <= self.share:
                    return Thumbnail(caption, content, picture.size)
            if max(picture.size) <= 16:
                return Thumbnail(caption, content, picture.size)
            half = [max(1, edge // 2) for edge in picture.size]
            picture = picture.resize((half[0], half[1]), Image.Resampling.LANCZOS)


def letters_on(picture: Image.Image) -> int:
    """The height of letters that are ten pixels high where a card shows the picture, some 250 pixels wide."""
    return max(9, round(picture.width / 25))


def _webp(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=quality, method=2)
    return stream.getvalue()
