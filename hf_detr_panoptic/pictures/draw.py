"""A photo and its map as one picture: borders, labels where they fit, a legend; words in Pillow's own font."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ..errors import ImageError
from ..images import Source, open_image
from ..labels import LabelSpace, default_color
from ..panoptic_map import PanopticMap, Segment, looked_up

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
    # The font's own space is too narrow to be seen between figures: "0.94 truck" becomes "0.94truck".
    parts, space = text.split(" "), math.ceil(0.28 * size)
    ends = list(accumulate(font.getlength(part) + space for part in parts))
    plate = Image.new("RGB", (math.ceil(ends[-1]) - space + 2 * margin, ascent + descent + 2), paper)
    for part, left in zip(parts, [0.0, *ends], strict=False):
        ImageDraw.Draw(plate).text((margin + left, 1), part, font=font, fill=ink)
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


VOID, AUTO, MODEL, CUSTOM = range(4)  # where two meet, the larger one's border is drawn
RANKS = {"auto": AUTO, "model": MODEL, "custom": CUSTOM}


def paint_contours(
    pixels: Pixels, numbers: npt.NDArray[np.unsignedinteger[Any]], ranks: npt.NDArray[np.uint8], width: int
) -> None:
    """Draw into `pixels` [H, W, 3]: custom white beside dark, the model's dark, auto dark and dashed.

    numbers: [H, W], the segment of each pixel; ranks: uint8, the rank of each number.
    """
    columns = numbers.shape[1]
    flat = np.ascontiguousarray(numbers).reshape(-1)
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
    """Squares of `width` pixels around flat indices."""
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


# A label may reach over its segment's border a little, but must not hide the segment.
_HEIGHT, _WIDTH, _COVERED = 2.2, 4.0, 0.4  # of the radius, of the radius, of the area
_GRID = 200  # cells along the longer side: finer than a label, coarse enough to cost a millisecond


def inscribed_points(
    numbers: npt.NDArray[np.unsignedinteger[Any]], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """numbers: [H, W], which of the segments 1 … count a pixel belongs to → their points [count, 2] as (x, y), radii.

    A point lies in its segment, and about the radius away from any other segment and from the picture's edge. The
    radius is 0 where a segment is too small for the grid that is searched.
    """
    from scipy import ndimage

    step = max(1, -(-max(numbers.shape) // _GRID))
    top, left = (min(step - 1, side - 1) // 2 for side in numbers.shape)
    cells = numbers[top::step, left::step]
    inside = np.zeros((cells.shape[0] + 2, cells.shape[1] + 2), dtype=bool)
    inner = inside[1:-1, 1:-1]
    inner[:] = True
    across, down = cells[:, 1:] == cells[:, :-1], cells[1:] == cells[:-1]
    inner[:, 1:] &= across
    inner[:, :-1] &= across
    inner[1:] &= down
    inner[:-1] &= down
    distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    # One number orders cells by distance, then by index: the maximum of each segment carries its cell along.
    size = cells.size
    order = np.rint(distance.reshape(-1) * 64).astype(np.int64) * size + np.arange(size - 1, -1, -1)
    best = np.full(count + 1, -1, dtype=np.int64)
    np.maximum.at(best, cells.reshape(-1), order)
    there = best[1:] >= 0
    chosen = np.where(there, size - 1 - best[1:] % size, 0)
    y, x = np.divmod(chosen, cells.shape[1])
    radius = np.where(there, (distance.reshape(-1)[chosen] + 0.5) * step, 0.0)
    return np.stack([x * step + left, y * step + top], axis=1), radius


@dataclass(frozen=True)
class Wanted:
    """A segment that wants a label: its point, the room around it, its area, and texts with sizes, the best first."""

    point: tuple[int, int]
    radius: float
    area: int
    texts: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Placed:
    """Plate `plate` of the n-th of those that wanted one, its upper left corner at (x, y)."""

    wanted: int
    x: int
    y: int
    plate: Pixels


def place_labels(wanted: Sequence[Wanted], width: int, height: int) -> list[Placed]:
    """Labels in order of their claim, in the picture and apart; who finds no room goes without."""
    placed: list[Placed] = []
    taken = np.zeros((len(wanted), 4), dtype=np.int64)
    for index, each in enumerate(wanted):
        for text, size in each.texts:
            if size > _HEIGHT * each.radius:
                continue
            plate = words(text, size)
            corner = _free_corner(each, plate, taken[: len(placed)], width, height)
            if corner is not None:
                taken[len(placed)] = (*corner, corner[0] + plate.shape[1], corner[1] + plate.shape[0])
                placed.append(Placed(index, *corner, plate))
                break
    return placed


def _free_corner(
    wanted: Wanted, plate: Pixels, taken: npt.NDArray[np.int64], width: int, height: int
) -> tuple[int, int] | None:
    h, w = plate.shape[:2]
    fits = w <= width and h <= height and h <= _HEIGHT * wanted.radius and w <= _WIDTH * wanted.radius
    if not fits or w * h > _COVERED * wanted.area:
        return None
    room = max(0.0, wanted.radius - h / 2)
    for shift in (0.0, -1.0, 1.0, -2.0, 2.0):
        offset = round(shift * (h + 2))
        if abs(offset) > room:
            continue
        x = min(max(wanted.point[0] - w // 2, 0), width - w)
        y = min(max(wanted.point[1] - h // 2 + offset, 0), height - h)
        apart = (taken[:, 0] >= x + w) | (taken[:, 2] <= x) | (taken[:, 1] >= y + h) | (taken[:, 3] <= y)
        if apart.all():
            return x, y
    return None


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
    for index, (text, mark) in enumerate(lines):
        row, column = index % rows, index // rows
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


def hatch(height: int, width: int, period: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W] of 0 and 1: diagonal stripes. To be read: all rows share one."""
    row = (np.arange(width + height - 1) // period & 1).astype(np.uint8)
    return np.lib.stride_tricks.sliding_window_view(row, width)


def stamp(canvas: Pixels, plate: Pixels, x: int, y: int) -> None:
    """Put a plate onto a canvas; what hangs over the edge is cut off."""
    part = canvas[y : y + plate.shape[0], x : x + plate.shape[1]]
    part[:] = plate[: part.shape[0], : part.shape[1]]


# How far the second, third, … instance of a class is moved to white (above 0) or black.
_SHADES = (0.0, -0.38, 0.42, -0.2, 0.22, -0.55, 0.6)
_VOID: tuple[Color, Color] = ((25, 25, 28), (225, 225, 228))


def draw(
    photo: Source | Image.Image,
    map: PanopticMap,
    *,
    opacity: float = 0.5,
    labels: bool = True,
    legend: bool = True,
    letters: int | None = None,
) -> Image.Image:
    """The photo with its segments filled, outlined and named, and below it a legend.

    Each class has its colour, each instance its shade of it; void is hatched. What the person marked has a white
    contour on a dark one, what the labeler added a dashed one, what a model predicted a plain one. Segments without
    room for their name carry their class's number, label + 1 as in COCO's files. Lines and letters grow with the
    photo; `letters` is their height in pixels where another one is wanted, as on a picture that is shown small.
    """
    upright = open_image(photo)
    if upright.size != (map.width, map.height):
        raise ImageError(
            f"the upright photo is {upright.width}×{upright.height}, its map {map.width}×{map.height}",
            fix="Draw a map on the photo that it was made for.",
        )
    ordered = _by_size(map)
    numbers = _numbers(map, ordered)
    fills = _fills(map.space, [segment for segment, _ in ordered])
    longest = max(upright.size)
    line = max(1, round(longest / 1000))
    pixels = np.array(Image.blend(upright, _filled(numbers, fills, longest), opacity))
    ranks = np.array([0, *(RANKS[segment.source] for segment, _ in ordered)], dtype=np.uint8)
    paint_contours(pixels, numbers, ranks, line)
    size = letters or max(11, round(longest / 50))
    if labels:
        _paint_labels(pixels, numbers, map.space, ordered, fills, size)
    if legend:
        below = _legend(map, ordered, pixels.shape[1], size)
        pixels = np.concatenate([pixels, below])
    return Image.fromarray(pixels)


def class_color(space: LabelSpace, label: int) -> Color:
    """The colour that a class is drawn in: its own, unless that is a shade of another thing's."""
    return _class_colors(tuple((category.color, category.isthing, category.source) for category in space))[label]


@functools.lru_cache(maxsize=64)
def _class_colors(classes: tuple[tuple[Color | None, bool, str], ...]) -> list[Color]:
    """Instances of a thing are shades of its colour: COCO's truck is a dark car. Such a later one gets another colour
    where there is one left; what a person marks keeps its own."""
    colors = [color or default_color(label) for label, (color, _, _) in enumerate(classes)]
    things = [label for label, (_, isthing, _) in enumerate(classes) if isthing]
    taken: list[Color] = []
    for label in sorted(things, key=lambda label: classes[label][2] != "custom"):
        if classes[label][2] != "custom" and any(_alike(colors[label], one) for one in taken):
            rest = [*colors[:label], *colors[label + 1 :]]
            others = (default_color(turn) for turn in range(label, label + 60))
            free = [color for color in others if not any(_alike(color, one) for one in taken)]
            apart = {color: min(math.dist(color, one) for one in rest) for color in free}
            colors[label] = max(free, key=lambda color: apart[color], default=colors[label])
        taken.append(colors[label])
    return colors


def _alike(one: Color, other: Color) -> bool:
    pairs = ((one, _shade(other, amount)) for amount in _SHADES[:3])
    return any(math.dist(*pair) < 40 for pair in pairs) or any(
        math.dist(_shade(one, amount), other) < 40 for amount in _SHADES[:3]
    )


def _by_size(panoptic: PanopticMap) -> list[tuple[Segment, int]]:
    areas = panoptic.areas()
    return sorted(((segment, areas[segment.id]) for segment in panoptic.segments), key=lambda pair: -pair[1])


def _numbers(panoptic: PanopticMap, ordered: list[tuple[Segment, int]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """[H, W]: 0 for void, n for the n-th segment."""
    # As long as the largest id, which costs nothing: pages of zeros that nobody touches are never made.
    table: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(
        max((segment.id for segment, _ in ordered), default=0) + 1,
        dtype=np.uint8 if len(ordered) < 255 else np.uint32,
    )
    for number, (segment, _) in enumerate(ordered, start=1):
        table[segment.id] = number
    return looked_up(table, panoptic.ids)


def _fills(space: LabelSpace, segments: list[Segment]) -> list[Color]:
    """The colour of each segment: stuff in its class's own, instances apart."""
    seen: dict[int, int] = {}
    fills = []
    for segment in segments:
        turn = seen.get(segment.label, 0)
        seen[segment.label] = turn + 1
        color = class_color(space, segment.label)
        fills.append(_shade(color, _SHADES[turn % len(_SHADES)] if space[segment.label].isthing else 0.0))
    return fills


def _shade(color: Color, amount: float) -> Color:
    target = 255 if amount > 0 else 0
    red, green, blue = (round(channel + (target - channel) * abs(amount)) for channel in color)
    return red, green, blue


def _filled(numbers: npt.NDArray[np.unsignedinteger[Any]], fills: list[Color], longest: int) -> Image.Image:
    """Every pixel in its segment's colour, void in stripes."""
    height, width = numbers.shape
    last = len(fills) + 1
    void = numbers == 0
    if void.any():
        stripes = hatch(height, width, max(3, round(longest / 130))).astype(numbers.dtype)
        numbers = numbers + void * stripes * numbers.dtype.type(last)
    palette = np.array([_VOID[0], *fills, _VOID[1]], dtype=np.uint8)
    if numbers.dtype != np.uint8:
        return Image.fromarray(np.take(palette, numbers, axis=0))
    image = Image.fromarray(numbers)
    image.putpalette(palette.tobytes())
    return image.convert("RGB")


def _paint_labels(
    pixels: npt.NDArray[np.uint8],
    numbers: npt.NDArray[np.unsignedinteger[Any]],
    space: LabelSpace,
    ordered: list[tuple[Segment, int]],
    fills: list[Color],
    size: int,
) -> None:
    points, radii = inscribed_points(numbers, len(ordered))
    # What the person marked matters most, and then what is large.
    turns = sorted(range(len(ordered)), key=lambda turn: (ordered[turn][0].source != "custom", -radii[turn]))
    small = max(9, round(size * 0.8))
    wanted = []
    for turn in turns:
        segment, area = ordered[turn]
        name = one_line(space[segment.label].name, 24)
        named, number = f"{name} (crowd)" if segment.crowd else name, str(segment.label + 1)
        texts = [(word, letters) for word in (named, number) if legible(word) for letters in (size, small)]
        wanted.append(Wanted((int(points[turn, 0]), int(points[turn, 1])), float(radii[turn]), area, texts))
    for placed in place_labels(wanted, pixels.shape[1], pixels.shape[0]):
        stamp(pixels, placed.plate, placed.x, placed.y)
        edge = max(1, size // 7)
        y, x = placed.y, placed.x
        pixels[y : y + placed.plate.shape[0], x : x + edge] = fills[turns[placed.wanted]]


def _legend(panoptic: PanopticMap, ordered: list[tuple[Segment, int]], width: int, size: int) -> npt.NDArray[np.uint8]:
    counts: dict[tuple[int, int], int] = {}
    for segment, _ in ordered:
        key = (segment.label, -RANKS[segment.source])
        counts[key] = counts.get(key, 0) + 1
    entries = []
    for (label, rank), count in sorted(counts.items()):
        text = f"{label + 1}  {one_line(panoptic.space[label].name, 28)}"
        entries.append(Entry(f"{text} ({count})" if count > 1 else text, class_color(panoptic.space, label), -rank))
    return legend(entries, panoptic.void_area > 0, width, size)
