"""What people draw, and the pixels of a photo that it covers: outlines, COCO's run lengths, mask images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AnnotationError
from ..images import MAX_PIXELS, open_lazily
from ..labels import Category, LabelSpace
from ..panoptic_map import PanopticMap, Segment
from .sources import shown

MOST_STEPS = 2**22  # along an outline: pycocotools keeps some 80 bytes for each, and counts them in 32 bits
MOST_PIXELS = 2**29  # pycocotools counts in 32 bits; a photo of this size would be 23,000 pixels square


def checked_rle(encoded: Any, where: str) -> dict[str, Any]:
    """A compressed or uncompressed RLE as a compressed one whose runs fill its size exactly."""
    from pycocotools import mask as coco_mask

    size = encoded.get("size") if isinstance(encoded, dict) else None
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ):
        raise AnnotationError(f"the RLE has the size {size!r}", where=where, fix="It is [height, width] in pixels.")
    height, width = size
    if height * width > MOST_PIXELS:
        raise AnnotationError(f"the RLE is {width}×{height} pixels large", where=where)
    counts = encoded.get("counts")
    if isinstance(counts, str | bytes):
        runs = _unpack(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts, where)
    elif isinstance(counts, list):
        runs = counts_of(counts, where)
    else:
        raise AnnotationError("the RLE has no counts", where=where)
    if runs.size and int(runs.min()) < 0:
        raise AnnotationError("the RLE has negative counts", where=where)
    if (total := int(runs.sum())) != height * width:
        raise AnnotationError(
            f"the RLE's counts add up to {total:,}, not to the {height * width:,} pixels of {width}×{height}",
            where=where,
            fix="Export it again: the mask and the photo's size come from different versions.",
        )
    return coco_mask.frPyObjects({"size": [height, width], "counts": _joined(runs).tolist()}, height, width)


def encode(mask: npt.NDArray[np.bool_], height: int, width: int, left: int = 0, top: int = 0) -> dict[str, Any]:
    """mask: bool [h, w] at (left, top) of a photo → COCO RLE over the photo; what lies outside is cut off."""
    from pycocotools import mask as coco_mask

    full = np.zeros((height, width), dtype=np.uint8, order="F")
    x, y = max(left, 0), max(top, 0)
    part = mask[y - top : max(height - top, 0), x - left : max(width - left, 0)]
    full[y : y + part.shape[0], x : x + part.shape[1]] = part
    return coco_mask.encode(full)


def counts_of(values: Sequence[Any], where: str) -> npt.NDArray[np.int64]:
    """int64 [N], or an error where a count is a string, a fraction, negative or absurdly large."""
    for value in values:
        if type(value) is not int or not 0 <= value <= MOST_PIXELS:
            raise AnnotationError(f"the RLE has {shown(value)} among its counts", where=where)
    return np.asarray(values, dtype=np.int64)


def _unpack(text: bytes, where: str) -> npt.NDArray[np.int64]:
    """COCO's string of 6-bit characters → runs: 5 bits of value each, the sixth says that more follow."""
    chars = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    bad = AnnotationError("the RLE's string is damaged", where=where, fix="Export it again.")
    if not chars.size or chars.min() < 0 or chars.max() > 63 or chars[-1] & 32:
        raise bad
    ends = np.flatnonzero(~chars & 32)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise bad
    index = np.arange(chars.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((chars & 31) << (5 * index), starts)
    runs -= np.where(chars[ends] & 16, np.int64(1) << (5 * lengths), 0)  # the last character carries the sign
    # From the fourth run on each is stored as its difference from the run before last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if np.abs(runs).max() > MOST_PIXELS:
        raise bad
    return runs


def _joined(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same pixels without empty runs inside, which pycocotools' boxes get wrong."""
    if not (runs[1:] == 0).any():
        return runs
    ends = np.cumsum(runs)
    inside = np.arange(runs.size) % 2 == 1
    kept = runs > 0
    ends, inside = ends[kept], inside[kept]
    last = np.append(inside[1:] != inside[:-1], True)
    joined = np.diff(ends[last], prepend=0)
    return np.append(0, joined) if inside[0] else joined


Box = tuple[float, float, float, float]
Ring = list[float]  # x0, y0, x1, y1, …


@dataclass(frozen=True)
class Polygons:
    """The union of one or more rings."""

    rings: list[Ring]


@dataclass(frozen=True)
class Rectangle:
    """An upright box. A turned one is an outline: see `box_of` and `corners_box`."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Ellipse:
    """Centre, half axes, and a turn in degrees (clockwise on the screen)."""

    x: float
    y: float
    half_width: float
    half_height: float
    rotation: float = 0.0


@dataclass(frozen=True)
class Runs:
    """COCO RLE over the whole photo, checked (`rle.checked_rle`)."""

    rle: dict[str, Any]


@dataclass(frozen=True)
class Pixels:
    """mask: bool [h, w], its first pixel at (left, top)."""

    mask: npt.NDArray[np.bool_]
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Several:
    """The union of shapes that belong to one object."""

    shapes: tuple[Shape, ...]


Shape = Polygons | Rectangle | Ellipse | Runs | Pixels | Several


def box_of(left: float, top: float, width: float, height: float, rotation: float) -> Rectangle | Polygons:
    """A box turned by `rotation` degrees (clockwise on the screen) about its centre: upright, or its outline."""
    turns, rest = divmod(rotation, 90)
    if not rest or width <= 0 or height <= 0:  # to the last bit, which a turn about the centre would not keep
        if turns % 2:
            left, top, width, height = left + (width - height) / 2, top + (height - width) / 2, height, width
        return Rectangle(left, top, width, height)
    x, y, turn = left + width / 2, top + height / 2, math.radians(rotation)
    cos, sin = math.cos(turn) / 2, math.sin(turn) / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    offsets = [(side_x * width, side_y * height) for side_x, side_y in signs]
    return Polygons([[value for dx, dy in offsets for value in (x + dx * cos - dy * sin, y + dx * sin + dy * cos)]])


def corners_box(ring: Ring) -> Rectangle | Polygons:
    """What a tool calls a box and gives by its corners, two or four: upright, or its outline where it is turned."""
    left, right, top, bottom = min(ring[::2]), max(ring[::2]), min(ring[1::2]), max(ring[1::2])
    upright = all(
        min(x - left, right - x) <= 0.5 and min(y - top, bottom - y) <= 0.5
        for x, y in zip(ring[::2], ring[1::2], strict=True)
    )
    return Rectangle(left, top, right - left, bottom - top) if upright else Polygons([ring])


@dataclass(frozen=True)
class Canvas:
    """The upright photo, and the size that the marks were drawn on: they are scaled from one to the other."""

    width: int
    height: int
    drawn_width: int
    drawn_height: int

    @property
    def scale(self) -> tuple[float, float]:
        return self.width / self.drawn_width, self.height / self.drawn_height

    @property
    def scaled(self) -> bool:
        return (self.width, self.height) != (self.drawn_width, self.drawn_height)


def rasterised(shape: Shape, canvas: Canvas, where: str) -> tuple[dict[str, Any] | None, Box]:
    """The shape's pixels as COCO RLE over the photo (None for a rectangle) and its box; what lies outside is cut."""
    if isinstance(shape, Rectangle):
        return None, _clipped_bounds(shape, canvas, where)
    from pycocotools import mask as coco_mask

    covered = _rle(shape, canvas, where)
    if covered is None or not coco_mask.area(covered):
        raise _nothing(shape, canvas, where)
    x, y, width, height = coco_mask.toBbox(covered).tolist()
    return covered, (x, y, width, height)


def _rle(shape: Shape, canvas: Canvas, where: str) -> dict[str, Any] | None:
    from pycocotools import mask as coco_mask

    match shape:
        case Polygons():
            return _polygons(shape, canvas, where)
        case Ellipse():
            return _ellipse(shape, canvas)
        case Runs():
            if shape.rle["size"] != [canvas.drawn_height, canvas.drawn_width]:
                height, width = shape.rle["size"]
                raise AnnotationError(
                    f"the RLE is {width}×{height}, its photo {canvas.drawn_width}×{canvas.drawn_height}",
                    where=where,
                    fix="Export it again: the two come from different versions.",
                )
            return _resized(coco_mask.decode(shape.rle), canvas) if canvas.scaled else shape.rle
        case Pixels():
            rle = encode(shape.mask, canvas.drawn_height, canvas.drawn_width, shape.left, shape.top)
            return _resized(coco_mask.decode(rle), canvas) if canvas.scaled else rle
        case Several():
            parts = [part for each in shape.shapes if (part := _rle(each, canvas, where))]
            return coco_mask.merge(parts) if parts else None
        case Rectangle():
            return _polygons(Polygons([_corners(shape)]), canvas, where)


def _polygons(shape: Polygons, canvas: Canvas, where: str) -> dict[str, Any] | None:
    from pycocotools import mask as coco_mask

    # Two points enclose nothing, and pycocotools would take four numbers for a box.
    rings = [ring for ring in shape.rings if len(ring) >= 6]
    if canvas.scaled:
        rings = [(np.reshape(ring, (-1, 2)) * canvas.scale).ravel().tolist() for ring in rings]
    rings = [cut for ring in rings if len(cut := _near_photo(ring, canvas)) >= 6]
    if not rings:
        return None
    if (steps := sum(map(_steps, rings))) > MOST_STEPS:
        raise AnnotationError(
            f"the outline of {sum(map(len, rings)) // 2:,} points is {steps:,} pixels long",
            where=where,
            fix="It jumps across the photo at every point, which is no outline of anything: draw it again.",
        )
    parts = coco_mask.frPyObjects(rings, canvas.height, canvas.width)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def _steps(ring: Ring) -> int:
    """Along its longer axis, edge by edge."""
    points = np.reshape(ring, (-1, 2))
    return int(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _near_photo(ring: Ring, canvas: Canvas) -> Ring:
    """The ring, cut one photo's size outside the photo: pycocotools walks along each edge pixel by pixel."""
    xs, ys = ring[::2], ring[1::2]
    limits = (
        (0, -canvas.width, min(xs), 1),
        (0, 2 * canvas.width, max(xs), -1),
        (1, -canvas.height, min(ys), 1),
        (1, 2 * canvas.height, max(ys), -1),
    )
    if all((extreme - limit) * sign >= 0 for _, limit, extreme, sign in limits):
        return ring
    points = np.reshape(ring, (-1, 2))
    for axis, limit, _, sign in limits:
        if not len(points):
            return []
        points = _cut(points, axis, limit, sign)
    return points.ravel().tolist()


def _cut(points: npt.NDArray[np.float64], axis: int, limit: float, sign: int) -> npt.NDArray[np.float64]:
    """points: float [N, 2] → those on the inner side of a line, with the crossings in between (Sutherland-Hodgman)."""
    following = np.roll(points, -1, axis=0)
    depth, next_depth = (points[:, axis] - limit) * sign, (following[:, axis] - limit) * sign
    crosses = (depth < 0) != (next_depth < 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(crosses, depth / (depth - next_depth), 0.0)
    crossing = points + share[:, None] * (following - points)
    both = np.stack([points, crossing], axis=1).reshape(-1, 2)
    return both[np.stack([depth >= 0, crosses], axis=1).reshape(-1)]


def _ellipse(shape: Ellipse, canvas: Canvas) -> dict[str, Any] | None:
    """A pixel belongs to the ellipse when its centre does."""
    scale_x, scale_y = canvas.scale
    turn = math.radians(shape.rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    reach_x = math.hypot(shape.half_width * cos, shape.half_height * sin)
    reach_y = math.hypot(shape.half_width * sin, shape.half_height * cos)
    left, right = (_bounded((shape.x + side * reach_x) * scale_x, canvas.width) for side in (-1, 1))
    top, bottom = (_bounded((shape.y + side * reach_y) * scale_y, canvas.height) for side in (-1, 1))
    left, top, right, bottom = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    if left >= right or top >= bottom or not shape.half_width or not shape.half_height:
        return None
    x = (np.arange(left, right) + 0.5) / scale_x - shape.x
    y = (np.arange(top, bottom)[:, None] + 0.5) / scale_y - shape.y
    along, across = (x * cos + y * sin) / shape.half_width, (y * cos - x * sin) / shape.half_height
    return encode(along**2 + across**2 <= 1.0, canvas.height, canvas.width, left, top)


def _clipped_bounds(shape: Rectangle, canvas: Canvas, where: str) -> Box:
    corners = np.reshape(_corners(shape), (-1, 2)) * canvas.scale
    left, top = (
        _bounded(value, side) for value, side in zip(corners.min(0), (canvas.width, canvas.height), strict=True)
    )
    right, bottom = (
        _bounded(value, side) for value, side in zip(corners.max(0), (canvas.width, canvas.height), strict=True)
    )
    if right <= left or bottom <= top or shape.width <= 0 or shape.height <= 0:
        raise _nothing(shape, canvas, where)
    return left, top, right - left, bottom - top


def _corners(shape: Rectangle) -> Ring:
    right, bottom = shape.left + shape.width, shape.top + shape.height
    return [shape.left, shape.top, right, shape.top, right, bottom, shape.left, bottom]


def _resized(mask: npt.NDArray[np.uint8], canvas: Canvas) -> dict[str, Any]:
    from PIL import Image

    image = Image.fromarray(mask).resize((canvas.width, canvas.height), Image.Resampling.NEAREST)
    return encode(np.asarray(image, dtype=bool), canvas.height, canvas.width)


def _bounded(value: float, side: int) -> float:
    return min(max(float(value), 0.0), float(side))


def _nothing(shape: Shape, canvas: Canvas, where: str) -> AnnotationError:
    """Why no pixel is covered: nothing was enclosed, or all of it lies elsewhere."""
    outside = False
    if isinstance(shape, Rectangle | Polygons):
        rings = [_corners(shape)] if isinstance(shape, Rectangle) else shape.rings
        xs = [x for ring in rings for x in ring[::2]]
        ys = [y for ring in rings for y in ring[1::2]]
        inside_x = max(xs, default=0) > 0 and min(xs, default=0) < canvas.drawn_width
        inside_y = max(ys, default=0) > 0 and min(ys, default=0) < canvas.drawn_height
        outside = bool(xs) and not (inside_x and inside_y)
    what = "it lies wholly outside the photo" if outside else "it covers no pixel"
    return AnnotationError(what, where=where, fix="Draw it again, or delete it in the annotation tool.")


MOST_PIECES = 10_000

Ids = npt.NDArray[np.int32]


def mask_size(data: bytes, where: str) -> tuple[int, int]:
    """(width, height), without decoding."""
    return _open(data, where).size


def is_lossy(data: bytes) -> bool:
    """Whether the values of a mask have suffered: 1 and 254 are noise in a JPEG."""
    return data[:2] == b"\xff\xd8"


def mask_values(data: bytes, where: str) -> Ids:
    """int32 [H, W]: grey values, palette indices or 16-bit numbers; a colour is R + 256·G + 256²·B."""
    image = _open(data, where)
    try:
        if image.mode in ("L", "P", "1") or image.mode.startswith("I"):
            # "1" decodes to booleans, which count as 0 and 1.
            return np.asarray(image).astype(np.int32)
        channels = np.asarray(image.convert("RGBA") if image.mode != "RGB" else image)
    except Exception as error:  # a decoder that meets damaged bytes raises nearly anything
        raise _damaged(error, where) from error
    if channels.shape[2] == 4 and (channels[..., 3] != 255).any():
        return (channels[..., 3] > 0).astype(np.int32)  # drawn on a transparent sheet
    red, green, blue = (channels[..., channel].astype(np.int32) for channel in range(3))
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    return red if grey else red | green << 8 | blue << 16


def mask_colors(data: bytes, where: str) -> Ids:
    """int32 [H, W]: the colours as R + 256·G + 256²·B, also where they come from a palette or are grey."""
    image = _open(data, where)
    try:
        channels = np.asarray(image.convert("RGB")).astype(np.int32)
    except Exception as error:  # as above
        raise _damaged(error, where) from error
    return channels[..., 0] | channels[..., 1] << 8 | channels[..., 2] << 16


def regions(ids: npt.NDArray[np.integer[Any]]) -> dict[int, dict[str, Any]]:
    """ids: int [H, W] → the COCO RLE of each id but 0."""
    values, indices = np.unique(ids, return_inverse=True)
    numbers = np.where(values == 0, 0, np.arange(len(values)) + 1).astype(np.int32)
    kept = {int(number): int(value) for number, value in zip(numbers, values, strict=True) if number}
    space = LabelSpace([Category("region", isthing=True)])  # only the pixels are asked for
    regions = PanopticMap(numbers[indices].reshape(ids.shape), [Segment(number, 0) for number in kept], space)
    return {kept[number]: rle for number, rle in regions.rles().items()}


def pieces(mask: npt.NDArray[np.bool_], where: str) -> Ids:
    """The connected parts of a mask, numbered from 1. Corners connect: a crack is often one pixel wide."""
    from scipy import ndimage

    ids, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count > MOST_PIECES:
        raise AnnotationError(
            f"the mask falls into {count:,} pieces",
            where=where,
            fix='If that is right, instances="whole" makes one segment of each class.',
        )
    return ids.astype(np.int32)


def _open(data: bytes, where: str) -> Any:
    from PIL import ImageOps

    try:
        image = open_lazily(data)
        if image.width * image.height > MAX_PIXELS:
            raise AnnotationError(f"the mask is {image.width}×{image.height} pixels large", where=where)
        return ImageOps.exif_transpose(image) if image.format == "JPEG" else image
    except AnnotationError:
        raise
    except Exception as error:  # as above
        raise _damaged(error, where) from error


def _damaged(error: Exception, where: str) -> AnnotationError:
    return AnnotationError(
        f"the mask cannot be read ({type(error).__name__}: {error})", where=where, fix="Save it as PNG again."
    )
