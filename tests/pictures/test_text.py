"""Words as pixels, whatever the words."""

from __future__ import annotations

import numpy as np
import pytest

from hf_detr_panoptic.pictures.draw import legible, one_line, words


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("brick stack", "brick stack"),
        (" a\n\tb\u2028c ", "a b c"),
        ("Bétonnière", "Betonniere"),  # Pillow's font has no é
        ("ab\ud83dc", "ab c"),  # half a surrogate pair
        ("\x00\x07", "?"),
        ("x" * 50, "x" * 39 + "…"),
        ("日本", "日本"),
    ],
)
def test_a_name_becomes_one_line(text: str, line: str):
    assert one_line(text) == line


def test_what_the_font_lacks_is_known():
    assert legible("pipe 7")
    assert not legible("日本語")
    assert not legible("")


@pytest.mark.parametrize("size", [11, 14, 40])
def test_a_space_is_seen(size: int):
    """A quarter of the letters' height at least, which the font's own is not."""
    plate = words("1 1", size)
    inked = np.nonzero((plate != plate[0, 0]).any(axis=(0, 2)))[0]
    assert np.diff(inked).max() - 1 >= size / 4
    assert np.diff(inked).max() < size


def test_words_are_as_wide_as_they_are_long_and_as_high_as_their_size():
    short, long, large = words("pi", 14), words("pipe rack", 14), words("pi", 60)
    assert short.shape[0] == long.shape[0] == words("日本", 14).shape[0]
    assert long.shape[1] > 2 * short.shape[1]
    assert large.shape[0] > 3 * short.shape[0]
    assert (long == 255).all(axis=2).any()
    assert not long.flags.writeable
    inked = np.nonzero((large != large[0, 0]).any(axis=2))
    assert inked[0].min() > 0
    assert inked[0].max() < large.shape[0] - 1
    assert inked[1].max() < large.shape[1] - 1
