"""Pictures of maps: where the colours are, and that a page holds what names hold as text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.visual import trace as pictures
from hf_detr_panoptic.visual.trace_page import Picture, Section, Table, html_page, markdown_table, text_table

PHOTO = Image.new("RGB", (64, 48), (90, 120, 90))


def light(image, box):
    return float(np.asarray(image.crop(box).convert("L"), dtype=float).mean())


def test_heat_is_brightest_where_the_map_is_highest():
    grid = np.zeros((3, 4))
    grid[2, 3] = 0.3
    tile = pictures.heat(PHOTO, grid, (80, 60))
    assert tile.size == (80, 60)
    assert light(tile, (62, 42, 80, 60)) > light(tile, (0, 0, 60, 40)) + 80


def test_cells_are_drawn_as_cells():
    """No smoothing: a coarse map must look coarse."""
    tile = np.asarray(pictures.heat(Image.new("RGB", (8, 8)), np.array([[0.0, 1.0], [1.0, 0.0]]), (40, 40)))
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) == 2
    assert (tile[:20, :20] == tile[20:, 20:]).all()


def test_like_features_have_like_colours():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 50))
    features = np.empty((50, 4, 6))
    features[:, :, :3], features[:, :, 3:] = left[:, None, None], right[:, None, None]
    features += rng.normal(size=features.shape) * 0.01
    pixels = pictures.false_color(features).astype(int)
    assert np.ptp(pixels[:, :3, 0]) < 30
    assert abs(pixels[:, :3, 0].mean() - pixels[:, 3:, 0].mean()) > 150
    assert (pictures.false_color(features) == pixels).all()  # the same each time


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (96, 1, 1), (5, 1, 7)])
def test_false_colours_of_small_maps(shape):
    assert pictures.false_color(np.zeros(shape)).shape == (*shape[1:], 3)
    assert pictures.false_color(np.random.default_rng(0).normal(size=shape)).shape == (*shape[1:], 3)


def test_the_mask_keeps_its_light_and_the_rest_is_dim():
    mask = np.zeros((12, 16), dtype=bool)
    mask[:, :8] = True
    tile = pictures.outlined(Image.new("RGB", (64, 48), "white"), mask, (64, 48))
    assert light(tile, (2, 2, 30, 46)) == 255
    assert light(tile, (34, 2, 62, 46)) == 255 // 3 + 20


def test_logits_turn_their_colour_at_zero():
    logits = np.array([[-900.0, -1.0, 1.0, 2.0]])
    picture = pictures.masks_picture(Image.new("RGB", (200, 50)), [("a", logits)], PHOTO)
    tiles = np.asarray(picture)[picture.height // 2 + 10]  # one row of pixels through the four cells
    start = int(np.flatnonzero((tiles != 255).any(-1))[0])
    below, above, most = (tiles[start + 50 * cell + 25].astype(int) for cell in (0, 2, 3))
    assert below[2] > below[0] + 50  # blue
    assert above[0] > above[2] + 50  # orange, however far below zero the other side goes
    assert most[0] > most[2] + 50


def test_scores_are_dark_where_queries_pass():
    kept = np.asarray(pictures.scores_picture([0.1, 0.95, 0.9], [1, 2], 0.85))
    none = np.asarray(pictures.scores_picture([0.1, 0.95, 0.9], [], 0.85))
    blue = [(picture == np.array(pictures._BAR)).all(-1).sum() for picture in (kept, none)]
    assert blue[0] > 0 == blue[1]


def traced(heads=8):
    rng = np.random.default_rng(0)
    maps = rng.random((heads, 3, 4))
    steps = [("conv2", rng.random((3, 4))), ("stage 1", rng.random((6, 8)))]
    return pictures.Traced("3: pipe 0.99", rng.random((3, 4)), maps / maps.sum(), steps, rng.normal(size=(12, 16)))


@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 3])
def test_pictures_of_any_number(heads, count):
    rows = [traced(heads)] * count
    one = pictures.attention_picture(PHOTO, rows[:1]).height, pictures.growth_picture(PHOTO, rows[:1]).height
    many = pictures.attention_picture(PHOTO, rows).height, pictures.growth_picture(PHOTO, rows).height
    assert all(count * small - 20 <= large <= count * small for small, large in zip(one, many, strict=True))
    masks = pictures.masks_picture(PHOTO, [("a", row.logits) for row in rows], PHOTO)
    assert masks.width > 200 * min(count + 1, 5)
    assert pictures.masks_picture(PHOTO, [], PHOTO).width > 200  # nothing was kept
    assert pictures.boxes_picture(PHOTO, [("a", np.array([0.5, 0.5, 2.0, 0.1]))] * count).width > 230
    assert pictures.self_attention_picture(PHOTO, [("a", (0.0, 1.0), rows[0].cross)] * count).width > 230


def test_titles_say_how_much_a_head_holds(monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, "panels", lambda tiles, titles, columns: seen.append((titles, columns)) or tiles[0])
    row = traced(2)
    row.heads[:] = 0
    row.heads[0, 0, 0], row.heads[1, 1, 1] = 0.75, 0.25
    pictures.attention_picture(PHOTO, [row])
    assert seen == [(["3: pipe 0.99", "decoder", "head 1: 75%", "head 2: 25%"], 2)]


HOSTILE = "<script>alert(1)</script> \"'&\n😀"


def test_names_are_text():
    table = Table((HOSTILE,), [[HOSTILE]])
    page = html_page(HOSTILE, HOSTILE, [Section(HOSTILE, [HOSTILE], [table], [Picture("a.png", b"png", HOSTILE)])])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10  # title, heading, about, link, h2, p, th, td, alt, caption
    assert 'alt="&lt;script&gt;alert(1)&lt;/script&gt; &quot;&#x27;&amp;' in page
    assert "data:image/png;base64,cG5n" in page


def test_tables_as_text():
    table = Table(("what", "shape"), [["Res2", "(256, 219, 265)"], ["a\nb|\x1b[2J", ""]], shapes=(1,))
    assert text_table(table).splitlines() == [
        "what      shape",
        "-------------------------",
        "Res2      (256, 219, 265)",
        "a b| [2J",
    ]
    assert markdown_table(table).splitlines() == [
        "| what | shape |",
        "| --- | --- |",
        "| Res2 | `(256, 219, 265)` |",
        "| a b\\| [2J |  |",
    ]
