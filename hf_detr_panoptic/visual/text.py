"""Words as pixels, in Pillow's own font: no system font is needed, and each word is drawn once."""

from __future__ import annotations

import functools
import math
import unicodedata

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]

DARK: Color = (20, 20, 24)
WHITE: Color = (255, 255, 255)
GREY: Color = (110, 110, 116)


def one_line(text: str, most: int = 40) -> str:
    """What can be drawn of a text, on one line, at most so many characters; é is an e where the font has none."""
    plain = " ".join("".join(_drawable(mark) if mark.isprintable() else " " for mark in text).split())
    return (plain if len(plain) <= most else f"{plain[: most - 1].rstrip()}…") or "?"


def legible(text: str) -> bool:
    """Does the font have most of the characters?"""
    marks = [mark for mark in text if not mark.isspace()]
    return 2 * sum(map(_has, marks)) > len(marks)


@functools.lru_cache(maxsize=4096)
def words(text: str, size: int, ink: Color = WHITE, paper: Color = DARK) -> Pixels:
    """uint8 [h, w, 3], read-only: a line of text on a plate; h depends on `size` alone.

    Characters that the font lacks come out as its empty box.
    """
    font = _font(size)
    ascent, descent = font.getmetrics()
    margin = max(2, round(size * 0.25))
    width = math.ceil(font.getlength(text)) + 2 * margin
    plate = Image.new("RGB", (width, ascent + descent + 2), paper)
    ImageDraw.Draw(plate).text((margin, 1), text, font=font, fill=ink)
    pixels = np.array(plate)
    pixels.flags.writeable = False
    return pixels


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it is never the bitmap font
    return font


def _drawable(mark: str) -> str:
    if _has(mark):
        return mark
    bare = "".join(part for part in unicodedata.normalize("NFKD", mark) if not unicodedata.combining(part))
    return bare if bare and all(map(_has, bare)) else mark


@functools.lru_cache(maxsize=4096)
def _has(mark: str) -> bool:
    """Pillow does not say whether a font has a character: a missing one looks like any other missing one."""
    return mark.isascii() or _glyph(mark) != _glyph("\U0010fffe")


def _glyph(mark: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(20).getmask(mark)
    return mask.size, bytes(mask)
