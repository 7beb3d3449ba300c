"""LabelMe: the desktop tool's JSON beside each photo, and the older web tool's XML."""

from __future__ import annotations

import base64
import binascii
import math
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..errors import AnnotationError
from .coco import near
from .pages import Drawn, Item, Note, Page, grouped
from .shapes import Ellipse, Pixels, Polygons, Shape, corners_box, mask_values
from .sources import Source, class_name, entries, folder_of, is_inside, points_ring, ring, shown, size, text_number

NO_REGIONS = frozenset({"line", "linestrip", "point", "points"})
OUTLINES = frozenset(
    {"polygon", "oriented_rectangle", "rotation"}
)  # the last is what X-AnyLabeling calls a turned box


def is_labelme(data: Any) -> bool:
    return isinstance(data, dict) and "shapes" in data and "imagePath" in data


def is_labelme_xml(root: ET.Element) -> bool:
    return root.tag == "annotation" and (
        (root.find("object/polygon") is not None and root.find("object/polygon/x1") is None)
        or root.find("object/segm") is not None
    )


def read_labelme(source: Source, name: str, data: Mapping[str, Any]) -> Iterator[Item]:
    """One photo: a file tells of one."""
    where = source.where(name)
    # LabelMe writes the path from the JSON to the photo, often `../photos/a.jpg`: only its last part is sure.
    photo = PurePosixPath(str(data["imagePath"]).replace("\\", "/")).name
    page = Page(photo, where, where, (), near=near(source, name))
    flags = data.get("flags")
    page.tagged = isinstance(flags, dict) and any(value is True for value in flags.values())
    left_out: Counter[str] = Counter()
    try:
        if data.get("imageWidth") is not None or data.get("imageHeight") is not None:
            page.size = size(data.get("imageWidth"), data.get("imageHeight"), where)
        page.drawn = grouped(_json_shapes(entries(data, "shapes", where), where, left_out))
    except AnnotationError as error:
        page.drawn = [error]
    yield page
    yield from _note(left_out, where)


def read_labelme_xml(source: Source, name: str, root: ET.Element) -> Iterator[Item]:
    """One photo. Masks are PNGs in `Masks/`, beside or above the XML."""
    where = source.where(name)
    folder = (root.findtext("folder") or "").strip()
    photo = (root.findtext("filename") or "").strip()
    page = Page(f"{folder}/{photo}" if folder and is_inside(folder) else photo, where, where, ())
    drawn: list[Drawn | AnnotationError] = []
    for index, element in enumerate(root.iter("object")):
        at = f"{where}, object {element.findtext('id') or index}"
        if element.findtext("deleted") == "1":
            continue
        try:
            drawn.append(
                Drawn(class_name(element.findtext("name"), at), _xml_shape(source, name, folder, element, at), at)
            )
        except AnnotationError as error:
            drawn.append(error)
    page.drawn = drawn
    try:
        rows, columns = root.findtext("imagesize/nrows"), root.findtext("imagesize/ncols")
        if rows and columns:
            page.size = size(text_number(columns, "ncols", where), text_number(rows, "nrows", where), where)
    except AnnotationError as error:
        page.drawn = [error]
    yield page


def _json_shapes(
    shapes: Iterable[Mapping[str, Any]], where: str, left_out: Counter[str]
) -> Iterator[tuple[Any, Drawn] | AnnotationError]:
    for index, shape in enumerate(shapes):
        kind = str(shape.get("shape_type") or "polygon")
        if kind in NO_REGIONS:
            left_out[kind] += 1
            continue
        at = f"{where}, shape {index + 1}"
        try:
            group = shape.get("group_id")
            yield (
                None if group is None else str(group),
                Drawn(class_name(shape.get("label"), at), _json_shape(shape, kind, at), at),
            )
        except AnnotationError as error:
            yield error


def _json_shape(shape: Mapping[str, Any], kind: str, where: str) -> Shape:
    flat = points_ring(shape.get("points"), where)
    if kind in OUTLINES:
        return Polygons([flat])
    if kind == "rectangle" and flat:  # two opposite corners; other tools write all four
        return corners_box(flat)
    if kind == "circle" and len(flat) == 4:  # its centre and any point on it
        radius = math.hypot(flat[2] - flat[0], flat[3] - flat[1])
        return Ellipse(flat[0], flat[1], radius, radius)
    if kind == "mask" and len(flat) == 4:
        return Pixels(_embedded(shape.get("mask"), where), int(min(flat[::2])), int(min(flat[1::2])))
    raise AnnotationError(
        f"a {shown(kind)} of {len(flat) // 2} points is not known", where=where, fix="Draw it as a polygon."
    )


def _embedded(text: Any, where: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise AnnotationError("its mask is not a PNG in base64", where=where, fix="Draw it again.") from None
    return mask_values(data, where) > 0


def _xml_shape(source: Source, name: str, folder: str, element: ET.Element, where: str) -> Shape:
    if (polygon := element.find("polygon")) is not None:
        flat = ring(
            [text_number(point.findtext(axis), axis, where) for point in polygon.iter("pt") for axis in "xy"], where
        )
        return corners_box(flat) if flat and element.findtext("type") == "bounding_box" else Polygons([flat])
    mask = (element.findtext("segm/mask") or "").strip()
    if not is_inside(mask):
        raise AnnotationError(f"it has neither a polygon nor a mask ({mask!r})", where=where, fix="Draw it again.")
    here = folder_of(name)
    top_folder = here.removesuffix(folder).rstrip("/")
    roots = dict.fromkeys([here, top_folder, folder_of(top_folder) if top_folder else ""])
    png = source.first(
        path.lstrip("/") for root in roots for path in (f"{root}/Masks/{folder}/{mask}", f"{root}/Masks/{mask}")
    )
    if png is None:
        raise AnnotationError(f"its mask {mask} is missing", where=where, fix="Put it into a folder 'Masks'.")
    return Pixels(mask_values(source.read(png), source.where(png)) > 0)


def _note(left_out: Counter[str], where: str) -> Iterator[Note]:
    if left_out:
        counted = ", ".join(f"{count:,} × {kind}" for kind, count in sorted(left_out.items()))
        yield Note(where, f"no regions, left out: {counted}", "Draw polygons, masks, circles or rectangles.")
