"""However many pictures there are and whatever they show, together they keep to the budget."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.report.thumbnails import BUDGET, Thumbnails, letters_on

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8))


@pytest.mark.parametrize(("count", "side"), [(1, 640), (600, 576), (2000, 320), (6000, 176), (100_000, 64)])
def test_more_pictures_are_smaller(count: int, side: int) -> None:
    assert Thumbnails(count).side == side


def test_two_thousand_leave_room_in_forty_megabytes() -> None:
    assert BUDGET * 4 / 3 < 36e6 + 1
    sizes = Thumbnails(2000)
    assert len(sizes.encode("noise", NOISE).content) <= BUDGET / 2000  # nothing compresses worse


def test_a_thumbnail_is_the_picture() -> None:
    half = Image.new("RGB", (900, 300), "white")
    half.paste((200, 0, 0), (0, 0, 450, 300))
    made = Thumbnails(4).encode("truth", half)
    assert (made.caption, made.kind, made.size) == ("truth", "webp", (640, 213))
    with Image.open(io.BytesIO(made.content)) as read:
        assert read.format == "WEBP"
        assert read.size == (640, 213)
        left, right = (np.array(read.convert("RGB").getpixel((x, 100)), dtype=int) for x in (100, 500))
    assert abs(left - (200, 0, 0)).max() < 12
    assert abs(right - 255).max() < 12


def test_what_is_small_stays_as_it_is() -> None:
    assert Thumbnails(1).encode("", Image.new("RGB", (40, 30))).size == (40, 30)


@pytest.mark.parametrize(("size", "letters"), [((640, 400), 26), ((300, 640), 12), ((64, 64), 9)])
def test_letters_are_ten_pixels_high_on_a_card(size: tuple[int, int], letters: int) -> None:
    assert letters_on(Image.new("RGB", size)) == letters


def test_no_room_at_all_still_gives_a_picture() -> None:
    made = Thumbnails(10**9).encode("", NOISE)
    assert max(made.size) <= 16
