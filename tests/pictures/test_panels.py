"""Pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.errors import ImageError
from hf_detr_panoptic.pictures.panels import panels

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def places(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """x, y, width, height of a colour; it must fill that rectangle."""
    y, x = np.nonzero((np.asarray(picture) == color).all(axis=2))
    box = int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1
    assert len(x) == box[2] * box[3]
    return box


def pictures() -> list[Image.Image]:
    sizes = {RED: (60, 40), GREEN: (60, 55), BLUE: (30, 40)}
    return [Image.new("RGB", size, color) for color, size in sizes.items()]


def test_in_a_row_whole_and_apart():
    row = panels(pictures())
    red, green, blue = (places(row, color) for color in (RED, GREEN, BLUE))
    assert (red[2:], green[2:], blue[2:]) == ((60, 40), (60, 55), (30, 40))
    assert red[1] == green[1] == blue[1]
    assert red[0] + 60 < green[0]
    assert green[0] + 60 < blue[0]
    assert row.height == 55 + 2 * red[1]


def test_titles_stand_above():
    plain, titled = panels(pictures()), panels(pictures(), ["photo", "", "a title far too long for its picture"])
    shift = places(titled, RED)[1] - places(plain, RED)[1]
    assert shift > 8
    band = np.asarray(titled)[:shift]
    x = np.nonzero((band != 255).any(axis=(0, 2)))[0]
    blue = places(titled, BLUE)
    assert x.min() < 60
    assert not ((x > 75) & (x < blue[0])).any()
    assert x.max() <= blue[0] + 30


def test_in_rows():
    grid = panels(pictures(), columns=2)
    red, green, blue = (places(grid, color) for color in (RED, GREEN, BLUE))
    assert red[0] == blue[0]
    assert blue[1] > green[1] + 55


def test_wrong_numbers_are_answered():
    with pytest.raises(ImageError, match="no picture"):
        panels([])
    with pytest.raises(ImageError, match="1 titles for 3 pictures"):
        panels(pictures(), ["one"])
