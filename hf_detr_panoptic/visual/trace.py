"""Maps from inside a model as pictures: features, attention, masks as they grow, scores.

Everything comes in as plain arrays over the photo: a grid [h, w] of any size covers all of it. Cells are drawn as
cells, so that one sees how coarse a map is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..pictures.draw import CUSTOM, DARK, GREY, MODEL, WHITE, Color, Pixels, one_line, paint_contours, stamp, words
from ..pictures.panels import panels

Grid = npt.NDArray[np.floating[Any]]

# Dark to light, so that grey print shows the order too; and two colours that part at a white zero.
_HEAT: tuple[Color, ...] = (
    (14, 16, 44),
    (58, 36, 116),
    (130, 40, 124),
    (204, 66, 86),
    (246, 136, 48),
    (255, 236, 150),
)
_SIGNED: tuple[Color, ...] = ((24, 62, 140), (120, 164, 214), (255, 255, 255), (240, 164, 92), (168, 64, 10))
_SIDE = 230  # the longer side of one picture among several
_BAR: Color = (36, 104, 176)
_PALE: Color = (186, 192, 200)
_LINE: Color = (200, 60, 20)


@dataclass(frozen=True)
class Traced:
    """One query on its way: maps over the photo.

    cross: [h, w], where the decoder looked; heads: [M, h, w], the mask head's attention; steps: (title, [h, w]) of the
    mask head in order; logits: [h, w].
    """

    title: str
    cross: Grid
    heads: Grid
    steps: Sequence[tuple[str, Grid]]
    logits: Grid


def levels_picture(photo: Image.Image, levels: Sequence[tuple[str, Grid]], columns: int = 4) -> Image.Image:
    """The photo, then feature maps [C, h, w] in false colour: like colours are like features, within one map."""
    size = _tile(photo, _SIDE)
    tiles = [_small(photo, size), *(_cells(false_color(features), size) for _, features in levels)]
    return panels(tiles, ["the photo", *(title for title, _ in levels)], columns=columns)


def self_attention_picture(photo: Image.Image, points: Sequence[tuple[str, tuple[float, float], Grid]]) -> Image.Image:
    """Of each point (title, (x, y) as shares of the photo, [h, w]) where its cell looks; a ring marks the point."""
    size = _tile(photo, _SIDE)
    tiles = []
    for _, (x, y), grid in points:
        tile = heat(photo, grid, size)
        _ring(tile, x * size[0], y * size[1])
        tiles.append(tile)
    return panels(tiles, [title for title, _, _ in points], columns=min(4, len(points)))


def attention_picture(photo: Image.Image, queries: Sequence[Traced]) -> Image.Image:
    """Two rows a query: its mask on the photo, the decoder's attention, then each head of the mask head's attention.

    The heads of a query share one scale, because they share one softmax; a title says how much of it a head holds.
    The mask's border is drawn on all of them.
    """
    size = _tile(photo, 180)
    tiles, titles = [], []
    for query in queries:
        highest = max(float(query.heads.max()), 1e-12)
        mask = query.logits > 0
        tiles.append(outlined(photo, mask, size))
        tiles.append(_bordered(query.cross / max(float(query.cross.max()), 1e-12), mask, size))
        titles += [query.title, "decoder"]
        for number, head in enumerate(query.heads, start=1):
            tiles.append(_bordered(head / highest, mask, size))
            titles.append(f"head {number}: {head.sum() / query.heads.sum():.0%}")
        if len(query.heads) % 2:
            tiles.append(Image.new("RGB", size, WHITE))
            titles.append("")
    return panels(tiles, titles, columns=len(tiles) // len(queries) // 2)


def growth_picture(photo: Image.Image, queries: Sequence[Traced]) -> Image.Image:
    """A row a query: attention, each step of the mask head, the logits, and the mask on the photo."""
    size = _tile(photo, 132)
    tiles, titles = [], []
    for query in queries:
        total = query.heads.sum(0)
        tiles.append(_colored(total / max(float(total.max()), 1e-12), size, _HEAT))
        titles.append(f"attention {_grid(total)}")
        for title, grid in query.steps:
            tiles.append(_colored(_stretched(grid), size, _HEAT))
            titles.append(f"{title} {_grid(grid)}")
        tiles += [_colored(_signed(query.logits), size, _SIGNED), outlined(photo, query.logits > 0, size)]
        titles += [f"logits {_grid(query.logits)}", query.title]
    return panels(tiles, titles, columns=len(tiles) // len(queries))


def masks_picture(
    photo: Image.Image, masks: Sequence[tuple[str, Grid]], final: Image.Image, columns: int = 5
) -> Image.Image:
    """Mask logits (title, [h, w]) side by side, each by itself; last the map in which the highest won each pixel."""
    size = _tile(photo, 200)
    tiles = [_colored(_signed(logits), size, _SIGNED) for _, logits in masks]
    titles = [title for title, _ in masks]
    return panels([*tiles, _small(final, size)], [*titles, "pixel by pixel the highest"], columns=columns)


def boxes_picture(photo: Image.Image, boxes: Sequence[tuple[str, Grid]]) -> Image.Image:
    """Each query's box (title, centre x, y, width, height as shares of the photo) on a photo of its own."""
    size = _tile(photo, _SIDE)
    tiles = []
    for _, (x, y, width, height) in boxes:
        tile = _small(photo, size)
        draw = ImageDraw.Draw(tile)
        left, right = (share * size[0] for share in (x - width / 2, x + width / 2))
        upper, lower = (share * size[1] for share in (y - height / 2, y + height / 2))
        for color, line in ((DARK, 4), (WHITE, 2)):
            draw.rectangle((left, upper, right, lower), outline=color, width=line)
        tiles.append(tile)
    return panels(tiles, [title for title, _ in boxes], columns=min(4, len(boxes)))


def scores_picture(scores: npt.ArrayLike, kept: Sequence[int], threshold: float, width: int = 760) -> Image.Image:
    """A bar a query, the surest first: dark where it was kept, with the threshold as a line."""
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    size, height, left, top = 13, 180, 44, 34
    floor = top + height
    canvas = np.full((floor + 2 * size + 6, width, 3), 255, dtype=np.uint8)
    step = (width - left - 10) / max(1, len(order))
    wanted = set(kept)
    for place, query in enumerate(order.tolist()):
        x0, x1 = round(left + place * step), round(left + (place + 1) * step) - (step > 3)
        upper = floor - max(1, round(height * values[query]))
        canvas[upper:floor, x0 : max(x1, x0 + 1)] = _BAR if query in wanted else _PALE
    canvas[floor, left:] = DARK
    line = floor - round(height * threshold)
    canvas[line : line + 2, left:] = _LINE
    for value in (0.0, 0.5, 1.0):
        stamp(canvas, words(f"{value:.1f}", size, GREY, WHITE), 8, floor - round(height * value) - size // 2 - 3)
    told = f"{len(wanted)} of {len(order)} queries pass the threshold of {threshold:g}"
    stamp(canvas, words(told, size, _LINE, WHITE), left, 4)
    stamp(canvas, words("queries, the surest first", size, GREY, WHITE), left, floor + 4)
    return Image.fromarray(canvas)


def heat(photo: Image.Image, grid: Grid, size: tuple[int, int]) -> Image.Image:
    """A map of what is 0 or more, over the photo in grey."""
    colored = _colored(grid / max(float(grid.max()), 1e-12), size, _HEAT)
    grey = _small(photo, size).convert("L").convert("RGB")
    return Image.blend(grey, colored, 0.72)


def outlined(photo: Image.Image, mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The photo, dimmed where the mask is not, with the mask's border."""
    inside = _inside(mask, size)
    pixels = np.array(_small(photo, size))
    pixels[~inside] = pixels[~inside] // 3 + 20
    paint_contours(pixels, inside.astype(np.uint8), np.array([MODEL, MODEL], dtype=np.uint8), 1)
    return Image.fromarray(pixels)


def _bordered(shares: Grid, mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """Shares [h, w] from 0 to 1 as colours, with the mask's border in white beside dark."""
    pixels = np.array(_colored(shares, size, _HEAT))
    paint_contours(pixels, _inside(mask, size).astype(np.uint8), np.array([CUSTOM, CUSTOM], dtype=np.uint8), 1)
    return Image.fromarray(pixels)


def _inside(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return inside


def false_color(features: Grid) -> Pixels:
    """[C, h, w] → uint8 [h, w, 3]: the three directions in which the cells differ most, as red, green and blue."""
    channels, height, width = features.shape
    cells = features.reshape(channels, -1).T.astype(np.float64)
    cells = cells - cells.mean(0)
    # A few rounds of power iteration: a full decomposition of 2048 channels would take seconds.
    axes = np.random.default_rng(0).normal(size=(channels, min(3, channels)))
    for _ in range(12):
        axes, _ = np.linalg.qr(cells.T @ (cells @ axes))
    # By falling variance, and a sign that does not hang on chance: red is where the strongest cell is.
    parts = cells @ axes
    parts = parts[:, np.argsort(-parts.var(0), kind="stable")]
    parts *= np.where(parts.max(0) >= -parts.min(0), 1.0, -1.0)
    low, high = np.percentile(parts, (1, 99), axis=0)
    shares = ((parts - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    pixels = np.zeros((height * width, 3), dtype=np.uint8)
    pixels[:, : shares.shape[1]] = np.rint(30 + 215 * shares)
    return pixels.reshape(height, width, 3)


def _stretched(grid: Grid) -> Grid:
    low, high = float(grid.min()), float(grid.max())
    stretched: Grid = (grid - low) / max(high - low, 1e-12)
    return stretched


def _signed(grid: Grid) -> Grid:
    """0 at the middle of the scale, where the colour turns: a border of the mask. Each side has its own range."""
    above, below = grid[grid > 0], -grid[grid < 0]
    most, least = (float(np.percentile(side, 98)) if side.size else 1.0 for side in (above, below))
    signed: Grid = np.where(grid > 0, grid / most, grid / least).clip(-1, 1) / 2 + 0.5
    return signed


def _colored(shares: Grid, size: tuple[int, int], anchors: Sequence[Color]) -> Image.Image:
    """Shares [h, w] from 0 to 1 on a scale of colours."""
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(shares, stops, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return _cells(np.rint(np.stack(channels, -1)).astype(np.uint8), size)


def _cells(pixels: Pixels, size: tuple[int, int]) -> Image.Image:
    """Small maps as squares; larger ones than the picture are averaged."""
    larger = pixels.shape[1] > size[0]
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if larger else Image.Resampling.NEAREST)


def _ring(tile: Image.Image, x: float, y: float) -> None:
    draw = ImageDraw.Draw(tile)
    for radius, color, width in ((9, DARK, 5), (8, WHITE, 2)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)


def _tile(photo: Image.Image, longest: int) -> tuple[int, int]:
    scale = longest / max(photo.size)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))


def _small(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _grid(grid: Grid) -> str:
    return f"{grid.shape[-2]}x{grid.shape[-1]}"


def query_title(query: int, name: str, score: float) -> str:
    """How a query is called in all pictures."""
    return f"{query}: {score:.2f} {one_line(name, 13)}"  # a narrow tile cuts off the name's end
