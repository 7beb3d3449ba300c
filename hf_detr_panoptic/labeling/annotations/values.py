"""Numbers and names as files have them, checked: strings for numbers, NaN and nameless classes raise."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from ...errors import AnnotationError

LARGEST = 1e7  # a coordinate beyond this is no place on any photo


def number(value: Any, what: str, where: str) -> float:
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:  # NaN fails both comparisons
        raise AnnotationError(f"{what} is {shown(value)}, not a number", where=where, fix="Export it again.")
    return float(value)


def text_number(text: str | None, what: str, where: str) -> float:
    """A number as XML has it."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not -LARGEST <= value <= LARGEST:
        raise AnnotationError(f"{what} is {shown(text)}, not a number", where=where, fix="Export it again.")
    return value


def ring(values: Any, where: str) -> list[float]:
    """x0, y0, x1, y1, … of one polygon."""
    if not isinstance(values, list) or len(values) % 2:
        raise AnnotationError(
            f"a polygon is a list of x, y, x, y, …, not {shown(values)}", where=where, fix="Export it again."
        )
    # At C's speed, for there are millions of them; a NaN makes the sum one, and is equal to nothing.
    fit = set(map(type, values)) <= {int, float} and (not values or -LARGEST <= min(values) <= max(values) <= LARGEST)
    if not fit or sum(values) != sum(values):
        wrong = next(v for v in values if type(v) not in (int, float) or not -LARGEST <= v <= LARGEST)
        raise AnnotationError(f"the polygon has {shown(wrong)} among its numbers", where=where, fix="Export it again.")
    return list(map(float, values))


def points_ring(points: Any, where: str) -> list[float]:
    """x0, y0, x1, y1, … of [[x0, y0], [x1, y1], …]."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise AnnotationError(f"points are a list of [x, y], not {shown(points)}", where=where, fix="Export it again.")
    return ring([value for point in points for value in point], where)


def size(width: Any, height: Any, where: str) -> tuple[int, int]:
    """(width, height) in whole pixels."""
    for side in (width, height):
        if type(side) not in (int, float) or not 1 <= side <= 2**16 or side != int(side):
            raise AnnotationError(
                f"the photo's size is {shown(width)}×{shown(height)}, not two counts of pixels",
                where=where,
                fix="Export it again.",
            )
    return int(width), int(height)


def class_name(name: Any, where: str) -> str:
    """The class as the person wrote it, in NFC, without blanks around it."""
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(
            f"the class has no name ({shown(name)})", where=where, fix="Give it one in the annotation tool."
        )
    return unicodedata.normalize("NFC", name).strip()


def entries(parent: Any, key: str, where: str) -> Sequence[dict[str, Any]]:
    """A list of objects under `key`."""
    listed = parent.get(key)
    if not isinstance(listed, list):
        raise AnnotationError(f"'{key}' is {shown(listed)}, not a list", where=where, fix="Export it again.")
    for place, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise AnnotationError(f"{key}[{place}] is {shown(entry)}, not an object", where=where)
    return listed


def shown(value: Any) -> str:
    """A value as a message quotes it, however long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
