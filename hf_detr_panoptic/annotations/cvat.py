"""CVAT's own XML 1.1: for images, and for videos (tracks), with masks in CVAT's own run-length encoding."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import AnnotationError
from .marks import told_by_tags
from .pages import Drawn, Item, Note, Page, Palette, PhotoIndex, grouped, stem_of
from .shapes import MOST_PIXELS, Ellipse, Pixels, Polygons, Shape, box_of
from .sources import Source, class_name, size, text_number

REGIONS = frozenset({"polygon", "box", "mask", "ellipse"})
NO_REGIONS = frozenset({"polyline", "points", "cuboid", "skeleton"})


def is_cvat(root: ET.Element) -> bool:
    return root.tag == "annotations" and (root.find("version") is not None or root.find("image") is not None)


def read_cvat(source: Source, name: str, root: ET.Element, index: PhotoIndex | None) -> Iterator[Item]:
    """The photos of one file, in each the lowest shape first (`z_order`, which is their layer)."""
    where = source.where(name)
    left_out: Counter[str] = Counter()
    yield Palette(dict(_colors(root.find("meta"))))
    for number, image in enumerate(root.iter("image")):
        yield _image(image, where, number, left_out)
    if root.find("track") is not None:
        yield from _frames(root, where, index, left_out)
    if left_out:
        counted = ", ".join(f"{count:,} × {tag}" for tag, count in sorted(left_out.items()))
        yield Note(where, f"no regions, left out: {counted}", "Draw polygons, masks, ellipses or boxes.")


def _colors(meta: ET.Element | None) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Each label's colour in the tool, #33ddff."""
    for label in meta.iter("label") if meta is not None else ():
        name, color = (label.findtext("name") or "").strip(), (label.findtext("color") or "").strip()
        if name and re.fullmatch("#[0-9a-fA-F]{6}", color):
            red, green, blue = bytes.fromhex(color[1:])
            yield name, (red, green, blue)


def _image(image: ET.Element, where: str, index: int, left_out: Counter[str]) -> Page:
    photo = image.get("name") or ""
    at = f"{where}, image {image.get('id', index)} '{photo}'"
    tagged, only = told_by_tags(tag.get("label") or "" for tag in image.findall("tag"))
    page = Page(photo, at, where, (), tagged=tagged, only=only)
    if subset := image.get("subset"):
        # Several tasks of one project may hold photos of one name: their subset is their folder.
        page.photo, page.near = f"{subset}/{photo}", (subset, f"images/{subset}")
    shapes = [(number, shape) for number, shape in enumerate(image, start=1) if shape.tag in REGIONS | NO_REGIONS]
    left_out.update(shape.tag for _, shape in shapes if shape.tag in NO_REGIONS)
    regions = [(number, shape) for number, shape in shapes if shape.tag in REGIONS]
    try:
        page.size = _size(image, at)
        regions.sort(key=lambda entry: _layer(entry[1], at))
    except AnnotationError as error:
        page.drawn = [error]
        return page
    page.drawn = _drawn([(shape, shape.get("label"), f"{at}, shape {n} ({shape.tag})") for n, shape in regions])
    return page


def _drawn(shapes: Iterable[tuple[ET.Element, str | None, str]]) -> list[Drawn | AnnotationError]:
    return grouped(_read_shapes(shapes))


def _read_shapes(
    shapes: Iterable[tuple[ET.Element, str | None, str]],
) -> Iterator[tuple[str | None, Drawn] | AnnotationError]:
    for element, label, at in shapes:
        group = element.get("group_id", "0")
        try:
            layer = _layer(element, at)
            drawn = Drawn(class_name(label, at), _shape(element, at), at, layer=layer)
            yield None if group in ("", "0") else group, drawn
        except AnnotationError as error:
            yield error


def _layer(element: ET.Element, where: str) -> float:
    return text_number(element.get("z_order", "0"), "z_order", where)


def _frames(root: ET.Element, where: str, index: PhotoIndex | None, left_out: Counter[str]) -> Iterator[Page]:
    """One page a frame. The shapes that the file has are read; nothing is interpolated."""
    photos = _photo_frames(index)
    canvas = _original_size(root, where)
    frames: dict[int, list[tuple[ET.Element, str | None, str]]] = {}
    gaps: dict[int, AnnotationError] = {}
    for track in root.iter("track"):
        shown: dict[int, bool] = {}
        for shape in track:
            visible = shape.get("outside") != "1"
            left_out.update([shape.tag] if visible and shape.tag in NO_REGIONS else [])
            if shape.tag in REGIONS:
                at = f"{where}, track {track.get('id')}, frame {shape.get('frame')} ({shape.tag})"
                frame = int(text_number(shape.get("frame"), "the frame", at))
                shown[frame] = visible
                frames.setdefault(frame, []).extend([(shape, track.get("label"), at)] if visible else [])
        for frame in photos:
            before = max((earlier for earlier in shown if earlier < frame), default=None)
            if frame not in shown and before is not None and shown[before] and max(shown) > frame:
                gaps[frame] = AnnotationError(
                    f"track {track.get('id')} has no shape here, though it goes on later",
                    where=f"{where}, frame {frame}",
                    fix="Export again as 'CVAT for images', which has a shape on every frame.",
                )
    for frame in sorted({*frames, *gaps}):
        page = Page(photos.get(frame, f"frame_{frame:06d}.png"), f"{where}, frame {frame}", where, (), canvas)
        shapes = sorted(frames.get(frame, ()), key=lambda entry: _layer(entry[0], where))
        page.drawn = [gaps[frame]] if frame in gaps else _drawn(shapes)
        yield page


def _original_size(root: ET.Element, where: str) -> tuple[int, int] | None:
    element = root.find(".//original_size")
    if element is None:
        return None
    width, height = (text_number(element.findtext(side), f"'{side}'", where) for side in ("width", "height"))
    return size(width, height, where)


def _photo_frames(index: PhotoIndex | None) -> dict[int, str]:
    """Frame number → photo, by the number at the end of the photo's name, where only one photo has it."""
    numbers: dict[int, list[str]] = {}
    for photo in index.photos if index is not None else ():
        stem = stem_of(photo)
        digits = stem[len(stem.rstrip("0123456789")) :]
        if digits and len(digits) <= 9:
            numbers.setdefault(int(digits), []).append(photo)
    return {number: photos[0] for number, photos in numbers.items() if len(photos) == 1}


def _shape(element: ET.Element, where: str) -> Shape:
    def number(key: str, default: str | None = None) -> float:
        return text_number(element.get(key, default), f"'{key}'", where)

    if element.tag == "polygon":
        return Polygons([_points(element.get("points"), where)])
    if element.tag == "box":
        left, top = number("xtl"), number("ytl")
        return box_of(left, top, number("xbr") - left, number("ybr") - top, number("rotation", "0"))
    if element.tag == "ellipse":
        return Ellipse(number("cx"), number("cy"), abs(number("rx")), abs(number("ry")), number("rotation", "0"))
    left, top, width, height = (int(number(key)) for key in ("left", "top", "width", "height"))
    return Pixels(_mask(element.get("rle") or "", width, height, where), left, top)


def _points(text: str | None, where: str) -> list[float]:
    points = [point.split(",") for point in (text or "").split(";")]
    if any(len(point) != 2 for point in points):
        raise AnnotationError(
            f"the points {(text or '')[:40]!r} are not 'x,y;x,y;…'", where=where, fix="Export it again."
        )
    return [text_number(value, "a coordinate", where) for point in points for value in point]


def _mask(text: str, width: int, height: int, where: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """CVAT's runs, row by row within the mask's own box and beginning outside → bool [height, width]."""
    try:
        runs = np.array([int(run) for run in text.split(",")], dtype=np.int64)
    except (ValueError, OverflowError):
        raise AnnotationError(f"the rle {text[:40]!r} is not 'n, n, …'", where=where, fix="Export it again.") from None
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise AnnotationError(f"the mask is {width}×{height}", where=where, fix="Export it again.")
    if runs.min() < 0 or runs.max() > MOST_PIXELS or runs.sum() != width * height:
        raise AnnotationError(
            f"the runs of the rle do not add up to the {width * height:,} pixels of {width}×{height}",
            where=where,
            fix="Export it again.",
        )
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)


def _size(image: ET.Element, where: str) -> tuple[int, int] | None:
    if image.get("width") is None and image.get("height") is None:
        return None
    width, height = (text_number(image.get(side), f"'{side}'", where) for side in ("width", "height"))
    return size(width, height, where)
