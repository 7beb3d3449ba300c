"""CVAT's "Segmentation mask 1.1" (Pascal VOC's layout): class colours, object colours and a labelmap.txt."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ..errors import AnnotationError
from .marks import is_void_name
from .pages import Drawn, Item, Lazy, Page
from .shapes import Runs, mask_colors, mask_size, mask_values, pieces, regions
from .sources import Source, class_name, folder_of

LABELMAP = "labelmap.txt"


VOID_VALUE = 255  # in Pascal VOC's own masks: the seam between objects, and what is too hard


def labelmaps(source: Source) -> list[str]:
    """The labelmap.txt files that have a folder of class masks beside them."""
    maps = [name for name in source.names if PurePosixPath(name).name == LABELMAP]
    return [name for name in maps if _masks(source, folder_of(name))]


def voc_folders(source: Source) -> list[str]:
    """The folders in which class masks lie in Pascal VOC's way, whoever says what their colours mean."""
    parts = [PurePosixPath(name).parts for name in source.names if name.lower().endswith(".png")]
    return sorted({"/".join(p[: p.index("SegmentationClass")]) for p in parts if "SegmentationClass" in p[:-1]})


def voc_values(values: Mapping[int, str] | None, where: str) -> dict[int, str]:
    """The class of each palette index; refused where nobody says them, for many tools use VOC's colours for theirs."""
    if values is None:
        raise AnnotationError(
            f"a folder in Pascal VOC's layout without a {LABELMAP}: nobody says which class a colour is",
            where=where,
            fix=f"Put a {LABELMAP} beside SegmentationClass, a line `pipe:128,0,0::` for each class, or give the "
            "palette's numbers: --values 1=pipe --values 2=wall.",
        )
    return {VOID_VALUE: "void"} | {value: class_name(name, "values") for value, name in values.items()}


def read_cvat_masks(
    source: Source, folder: str, *, stuff: Collection[str], whole: bool, values: Mapping[int, str] | None = None
) -> Iterator[Item]:
    """The photos of one export. Without `SegmentationObject` each connected part of a thing is an object.

    Classes go by colour, as labelmap.txt says them, or by the palette's numbers, as `values` does.
    """
    names = _names(source, f"{folder}/{LABELMAP}".lstrip("/")) if values is None else values
    for mask in _masks(source, folder):
        photo = mask[len(f"{folder}/SegmentationClass/".lstrip("/")) :]
        objects = f"{folder}/SegmentationObject/{photo}".lstrip("/")
        where = source.where(mask)
        page = Page(photo, where, where, ())
        try:
            page.size = mask_size(source.read(mask), where)
        except AnnotationError as error:
            page.drawn = [error]
        else:
            page.drawn = Lazy(
                partial(
                    _drawn,
                    source,
                    mask,
                    objects if source.has(objects) else None,
                    names,
                    stuff,
                    whole,
                    values is not None,
                )
            )
        yield page


def _drawn(
    source: Source,
    mask: str,
    objects: str | None,
    names: Mapping[int, str],
    stuff: Collection[str],
    whole: bool,
    numbered: bool,
) -> Iterator[Drawn]:
    where = source.where(mask)
    classes = (mask_values if numbered else mask_colors)(source.read(mask), where).astype(np.int64)
    unknown = sorted(set(np.unique(classes).tolist()) - names.keys() - {0})
    if unknown and numbered:
        raise AnnotationError(
            f"the number {unknown[0]} has no class", where=where, fix="Add it to --values, or call it void there."
        )
    if unknown:
        red, green, blue = unknown[0] & 255, unknown[0] >> 8 & 255, unknown[0] >> 16
        raise AnnotationError(
            f"the colour {red},{green},{blue} is not in {LABELMAP}"
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
    pairs = np.where(np.isin(classes, list(drawn_on)), classes << 24 | ids, 0)
    for pair, rle in regions(pairs).items():
        name = names[pair >> 24]
        yield Drawn(name, Runs(rle), f"{where}, {name} {pair & 0xFFFFFF}")


def _names(source: Source, labelmap: str) -> dict[int, str]:
    """Colour → class, from lines such as `pipe:250,50,83::`."""
    where = source.where(labelmap)
    names: dict[int, str] = {}
    for number, line in enumerate(source.read(labelmap).decode("utf-8-sig", "replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        at = f"{where}, line {number}"
        label, _, rest = line.partition(":")
        channels = rest.split(":")[0].split(",")
        if len(channels) != 3 or not all(c.strip().isdecimal() and int(c) < 256 for c in channels):
            raise AnnotationError(f"{line[:60]!r} is not 'label:red,green,blue::'", where=at, fix="Export it again.")
        red, green, blue = (int(channel) for channel in channels)
        color = red | green << 8 | blue << 16
        name = class_name(label, at)
        if names.setdefault(color, name) != name:
            raise AnnotationError(f"'{name}' and '{names[color]}' share a colour", where=at, fix="Give each its own.")
    return names


def _masks(source: Source, folder: str) -> list[str]:
    prefix = f"{folder}/SegmentationClass/".lstrip("/")
    return [name for name in source.names if name.startswith(prefix) and name.lower().endswith(".png")]
