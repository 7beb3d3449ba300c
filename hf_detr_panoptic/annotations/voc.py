"""Pascal VOC's layout, whoever wrote it: class masks, object masks, and boxes in XML.

CVAT's "Segmentation mask 1.1" and datumaro's VOC put a labelmap.txt there, labelme2voc a class_names.txt, VOC itself
nothing.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ..errors import AnnotationError
from .colors import LABELMAP, Table, Values, listed_values, shown_color
from .marks import is_void_name
from .pages import Drawn, Item, Lazy, Page
from .shapes import Polygons, Rectangle, Runs, mask_colors, mask_size, mask_values, pieces, regions
from .sources import Source, class_name, folder_of, size, text_number

VOID_VALUE = 255  # in Pascal VOC's own masks: the seam between objects, and what is too hard
VOID_COLOR = 224 | 224 << 8 | 192 << 16  # which its palette shows so
CLASSES = ("SegmentationClass", "SegmentationClassPNG")  # the latter is labelme2voc's, beside arrays
OBJECTS = {"SegmentationClass": "SegmentationObject", "SegmentationClassPNG": "SegmentationObjectPNG"}
LISTS = ("class_names.txt", "classes.txt", "labels.txt")  # a name a line, the first one is number 0
PHOTOS = "JPEGImages"
# http://host.robots.ox.ac.uk/pascal/VOC: the numbers of its own masks, from 1 on.
OWN = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def labelmaps(source: Source) -> list[str]:
    """The labelmap.txt files that have a folder of class masks beside them."""
    maps = [name for name in source.names if PurePosixPath(name).name == LABELMAP]
    return [name for name in maps if _masks(source, folder_of(name))]


def voc_folders(source: Source) -> list[str]:
    """The folders in which class masks lie in Pascal VOC's way, whoever says what their colours mean."""
    parts = [PurePosixPath(name).parts for name in source.names if name.lower().endswith(".png")]
    found = [p[: p.index(kind)] for p in parts for kind in CLASSES if kind in p[:-1]]
    return sorted({"/".join(folder) for folder in found})


def voc_table(source: Source, folder: str, values: Values | None) -> Table:
    """The class of each colour or palette index; refused where nobody says them, for many tools use VOC's colours for
    theirs."""
    labelmap = f"{folder}/{LABELMAP}".lstrip("/")
    listed = source.first(f"{folder}/{name}".lstrip("/") for name in LISTS)
    if values is not None:
        table = Table.of(values)
    elif source.has(labelmap):
        content, where = source.read(labelmap), source.where(labelmap)
        table = Table.of(_palette(content, where) or listed_values(content, where))
    elif listed is not None:
        lines = source.read(listed).decode("utf-8-sig", "replace").splitlines()
        table = Table.of({n: class_name(line, source.where(listed)) for n, line in enumerate(lines) if line.strip()})
    elif _is_vocs_own(source, folder):
        table = Table.of(dict(enumerate(OWN, start=1)))
    else:
        raise AnnotationError(
            f"a folder in Pascal VOC's layout without a {LABELMAP}: nobody says which class a colour is",
            where=source.where(folder) if folder else source.label,
            fix=f"Put a {LABELMAP} beside SegmentationClass, a line `pipe:128,0,0::` for each class, or give colours "
            "or the palette's numbers: --values 128,0,0=pipe, or --values 1=pipe --values 2=wall.",
        )
    void = {VOID_COLOR: "void"} if table.colored else {VOID_VALUE: "void"}
    return Table(void | dict(table.names), table.colored)


def _palette(content: bytes, where: str) -> Values | None:
    """Of a labelmap without colours, as datumaro writes it: its classes have VOC's colours, in order."""
    lines = [line for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("#")]
    if not lines or not all(line.endswith(":::") for line in lines):
        return None
    return {shown_color(_voc_color(n)): class_name(line[:-3], where) for n, line in enumerate(lines[:256])}


def _voc_color(number: int) -> int:
    """R + 256·G + 256²·B: bits 0, 3 and 6 of the number are the highest of red, 1, 4 and 7 of green, and so on."""
    return sum((number >> 3 * k + channel & 1) << 7 - k + 8 * channel for k in range(3) for channel in range(3))


def _is_vocs_own(source: Source, folder: str) -> bool:
    """Whether its own boxes say that these are VOC's classes."""
    prefix = f"{folder}/Annotations/".lstrip("/")
    names: set[str] = set()
    for name in [name for name in source.names if name.startswith(prefix) and name.endswith(".xml")][:200]:
        root = source.xml(name, source.read(name))
        names |= {(element.text or "").strip() for element in root.iterfind("object/name")}
    return bool(names) and names <= set(OWN)


def read_voc(source: Source, folder: str, table: Table, *, stuff: Collection[str], whole: bool) -> Iterator[Item]:
    """The photos of one export. Without object masks each connected part of a thing is an object."""
    for mask in _masks(source, folder):
        kind, _, photo = mask[len(folder) :].lstrip("/").partition("/")
        objects = f"{folder}/{OBJECTS[kind]}/{photo}".lstrip("/")
        where = source.where(mask)
        page = Page(photo, where, where, ())
        page.near = _near(source, folder)
        try:
            page.size = mask_size(source.read(mask), where)
        except AnnotationError as error:
            page.drawn = [error]
        else:
            inner = objects if source.has(objects) else None
            page.drawn = Lazy(partial(_drawn, source, mask, inner, table, stuff, whole))
        yield page


def _near(source: Source, folder: str) -> tuple[str, ...]:
    """Where VOC has the photos of its masks."""
    inside = f"{folder}/{PHOTOS}".lstrip("/")
    return tuple(dict.fromkeys([f"{source.near}/{inside}".lstrip("/"), inside, PHOTOS]))


def _drawn(
    source: Source, mask: str, objects: str | None, table: Table, stuff: Collection[str], whole: bool
) -> Iterator[Drawn]:
    where, names = source.where(mask), table.names
    classes = (mask_colors if table.colored else mask_values)(source.read(mask), where).astype(np.int64)
    unknown = sorted(set(np.unique(classes).tolist()) - names.keys() - {0})
    if unknown and not table.colored:
        raise AnnotationError(
            f"the number {unknown[0]} has no class",
            where=where,
            fix=f"Add it to --values ({unknown[0]}=NAME), or call it void there.",
        )
    if unknown:
        raise AnnotationError(
            f"the colour {shown_color(unknown[0])} is not in {LABELMAP}"
            + (f", nor are {len(unknown) - 1} others" if len(unknown) > 1 else ""),
            where=where,
            fix="Export it again; masks edited elsewhere must be saved without smoothing, as PNG.",
        )
    drawn_on = {color for color, name in names.items() if color or not is_void_name(name)}
    if objects is None:
        ids = np.zeros_like(classes)
        for color in drawn_on & set(np.unique(classes).tolist()):
            one = classes == color
            split = not whole and names[color] not in stuff
            ids[one] = pieces(one, where)[one] if split else 1
    else:
        ids = mask_colors(source.read(objects), source.where(objects)).astype(np.int64)
        if ids.shape != classes.shape:
            raise AnnotationError("its object mask has another size", where=where, fix="Export it again.")
    # One more than the class, for a class at 0 whose object is 0, too.
    pairs = np.where(np.isin(classes, list(drawn_on)), classes + 1 << 24 | ids, 0)
    for pair, rle in regions(pairs).items():
        name = names[(pair >> 24) - 1]
        yield Drawn(name, Runs(rle), f"{where}, {name} {pair & 0xFFFFFF}")


def _masks(source: Source, folder: str) -> list[str]:
    """The class masks in a folder; where a tool wrote them twice, those under VOC's own name."""
    names = [name for name in source.names if name.lower().endswith(".png")]
    for kind in CLASSES:
        prefix = f"{folder}/{kind}/".lstrip("/")
        if found := [name for name in names if name.startswith(prefix)]:
            return found
    return []


# --- boxes alone


def is_voc(root: ET.Element) -> bool:
    return root.tag == "annotation" and root.find("object/bndbox") is not None


def read_voc_boxes(source: Source, name: str, root: ET.Element) -> Iterator[Item]:
    """One photo, as LabelImg and many others write it; Roboflow and supervision add an outline, x1, y1, x2, …"""
    where = source.where(name)
    photo = (root.findtext("filename") or "").strip() or PurePosixPath(name).with_suffix(".jpg").name
    home = folder_of(name)
    page = Page(PurePosixPath(photo.replace("\\", "/")).name, where, where, ())
    page.near = (*_near(source, folder_of(home)), *filter(None, (home,)))
    drawn: list[Drawn | AnnotationError] = []
    try:
        if (width := root.findtext("size/width")) and (height := root.findtext("size/height")) and width != "0":
            page.size = size(text_number(width, "the width", where), text_number(height, "the height", where), where)
        for number, element in enumerate(root.iterfind("object"), start=1):
            at = f"{where}, object {number}"
            left, top, right, bottom = (
                text_number(element.findtext(f"bndbox/{side}"), f"'{side}'", at)
                for side in ("xmin", "ymin", "xmax", "ymax")
            )
            outline = _outline(element, at)
            shape = Polygons([outline]) if outline else Rectangle(left, top, right - left, bottom - top)
            drawn.append(Drawn(class_name(element.findtext("name"), at), shape, at))
        page.drawn = drawn
    except AnnotationError as error:
        page.drawn = [error]
    yield page


def _outline(element: ET.Element, where: str) -> list[float]:
    polygon = element.find("polygon")
    told = {} if polygon is None else {child.tag: child.text for child in polygon}
    names = [f"{axis}{number}" for number in range(1, len(told) // 2 + 1) for axis in "xy"]
    return [text_number(told.get(name), f"'{name}'", where) for name in names]
