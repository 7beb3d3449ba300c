"""What people draw, and the pixels of a photo that it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import AnnotationError
from .rle import encode

Box = tuple[float, float, float, float]
Ring = list[float]  # x0, y0, x1, y1, …


@dataclass(frozen=True)
class Polygons:
    """The union of one or more rings."""

    rings: list[Ring]


@dataclass(frozen=True)
class Rectangle:
    """Left, top, width, height, turned by `rotation` degrees (clockwise on the screen) about its centre."""

    left: float
    top: float
    width: float
    height: float
    rotation: float = 0.0


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


def draw(shape: Shape, canvas: Canvas, where: str) -> tuple[dict[str, Any] | None, Box]:
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
            return _polygons(shape, canvas)
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
            return _polygons(Polygons([_corners(shape)]), canvas)


def _polygons(shape: Polygons, canvas: Canvas) -> dict[str, Any] | None:
    from pycocotools import mask as coco_mask

    # Two points enclose nothing, and pycocotools would take four numbers for a box.
    rings = [ring for ring in shape.rings if len(ring) >= 6]
    if canvas.scaled:
        rings = [(np.reshape(ring, (-1, 2)) * canvas.scale).ravel().tolist() for ring in rings]
    rings = [cut for ring in rings if len(cut := _near_photo(ring, canvas)) >= 6]
    if not rings:
        return None
    parts = coco_mask.frPyObjects(rings, canvas.height, canvas.width)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


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
    half_width, half_height = shape.width / 2, shape.height / 2
    x, y = shape.left + half_width, shape.top + half_height
    if not shape.rotation % 360:  # to the last bit, which a turn by zero degrees about the centre would not keep
        right, bottom = shape.left + shape.width, shape.top + shape.height
        return [shape.left, shape.top, right, shape.top, right, bottom, shape.left, bottom]
    turn = math.radians(shape.rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    offsets = [(side_x * half_width, side_y * half_height) for side_x, side_y in signs]
    return [value for dx, dy in offsets for value in (x + dx * cos - dy * sin, y + dx * sin + dy * cos)]


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
