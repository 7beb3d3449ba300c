"""A photo and its map as one picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import ImageError
from ..images import Source, open_image
from ..labels import LabelSpace, default_color
from ..panoptic_map import PanopticMap, Segment
from .contours import RANKS, paint_contours
from .label_places import Wanted, inscribed_points, place_labels
from .legend import Entry, hatch, legend, stamp
from .text import Color, legible, one_line

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
) -> Image.Image:
    """The photo with its segments filled, outlined and named, and below it a legend.

    Each class has its colour, each instance its shade of it; void is hatched. What the person marked has a white
    contour on a dark one, what the labeler added a dashed one, what a model predicted a plain one. Segments without
    room for their name carry their class's number, label + 1 as in COCO's files. Lines and letters grow with the
    photo.
    """
    upright = open_image(photo)
    if upright.size != (map.width, map.height):
        raise ImageError(
            f"the upright photo is {upright.width}×{upright.height}, its map {map.width}×{map.height}",
            fix="Draw a map on the photo that it was made for.",
        )
    ordered = _by_size(map)
    places = _places(map, ordered)
    fills = _fills(map.space, [segment for segment, _ in ordered])
    longest = max(upright.size)
    line = max(1, round(longest / 1000))
    pixels = np.array(Image.blend(upright, _filled(places, fills, longest), opacity))
    ranks = np.array([0, *(RANKS[segment.source] for segment, _ in ordered)], dtype=np.uint8)
    paint_contours(pixels, places, ranks, line)
    size = max(11, round(longest / 50))
    if labels:
        _paint_labels(pixels, places, map.space, ordered, fills, size)
    if legend:
        below = _legend(map, ordered, pixels.shape[1], size)
        pixels = np.concatenate([pixels, below])
    return Image.fromarray(pixels)


def class_color(space: LabelSpace, label: int) -> Color:
    """The colour that a class is drawn in."""
    return space[label].color or default_color(label)


def _by_size(map: PanopticMap) -> list[tuple[Segment, int]]:
    areas = map.areas()
    return sorted(((segment, areas[segment.id]) for segment in map.segments), key=lambda pair: -pair[1])


def _places(map: PanopticMap, ordered: list[tuple[Segment, int]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """[H, W]: 0 for void, n for the n-th segment."""
    # As long as the largest id, which costs nothing: pages of zeros that nobody touches are never made.
    table: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(
        max((segment.id for segment, _ in ordered), default=0) + 1,
        dtype=np.uint8 if len(ordered) < 255 else np.uint32,
    )
    for place, (segment, _) in enumerate(ordered, start=1):
        table[segment.id] = place
    return table[map.ids]


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


def _filled(places: npt.NDArray[np.unsignedinteger[Any]], fills: list[Color], longest: int) -> Image.Image:
    """Every pixel in its segment's colour, void in stripes."""
    height, width = places.shape
    last = len(fills) + 1
    void = places == 0
    if void.any():
        stripes = hatch(height, width, max(3, round(longest / 130))).astype(places.dtype)
        places = places + void * stripes * places.dtype.type(last)
    palette = np.array([_VOID[0], *fills, _VOID[1]], dtype=np.uint8)
    if places.dtype != np.uint8:
        return Image.fromarray(np.take(palette, places, axis=0))
    image = Image.fromarray(places)
    image.putpalette(palette.tobytes())
    return image.convert("RGB")


def _paint_labels(
    pixels: npt.NDArray[np.uint8],
    places: npt.NDArray[np.unsignedinteger[Any]],
    space: LabelSpace,
    ordered: list[tuple[Segment, int]],
    fills: list[Color],
    size: int,
) -> None:
    points, radii = inscribed_points(places, len(ordered))
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


def _legend(map: PanopticMap, ordered: list[tuple[Segment, int]], width: int, size: int) -> npt.NDArray[np.uint8]:
    counts: dict[tuple[int, int], int] = {}
    for segment, _ in ordered:
        key = (segment.label, -RANKS[segment.source])
        counts[key] = counts.get(key, 0) + 1
    entries = []
    for (label, rank), count in sorted(counts.items()):
        text = f"{label + 1}  {one_line(map.space[label].name, 28)}"
        entries.append(Entry(f"{text} ({count})" if count > 1 else text, class_color(map.space, label), -rank))
    return legend(entries, map.void_area > 0, width, size)
