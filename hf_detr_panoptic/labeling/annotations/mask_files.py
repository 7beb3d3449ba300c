"""Mask files: one image file an object, a class, or an id map, told apart by names and values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ...errors import AnnotationError
from ...images import SUFFIXES
from .marks import Unmatched
from .mask_names import Named, Names
from .matching import PhotoIndex
from .pages import Drawn, Found, Lazy, Page
from .pixels import Ids, is_lossy, mask_size, mask_values, pieces, regions
from .shapes import Runs
from .sources import Source
from .values import class_name

Values = Mapping[int, str]

MOST_IDS = 10_000


def mask_names(source: Source, photo_folder: str | None) -> list[str]:
    """The image files of a source, but for those in the folder of the photos."""
    names = [name for name in source.names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    return [name for name in names if photo_folder is None or not name.startswith(f"{photo_folder}/")]


def read_masks(
    source: Source,
    files: Collection[str],
    index: PhotoIndex | None,
    *,
    pattern: str | None,
    values: Values | None,
    stuff: Collection[str],
    whole: bool,
    among_photos: bool,
) -> Iterator[Found]:
    """The photos that the files belong to. `values` gives the class of each grey value; 0 is never marked.

    Without it a file whose name tells its class holds one object or one class (two values, JPEG noise, smoothed
    edges) or else an id map, an object each value. `among_photos`: what does not fit the pattern is a photo itself.
    """
    names = Names(pattern, index)
    table = None if values is None else {value: class_name(name, "values") for value, name in values.items() if value}
    for file in files:
        where = source.where(file)
        named = names.read(file)
        if named is None:
            if not among_photos:
                yield Unmatched(file, where, "its name fits no photo" + (" and the pattern" if pattern else ""))
            continue
        page = Page(named.photo, where, where, ())
        try:
            page.size = mask_size(source.read(file), where)
        except AnnotationError as error:
            page.drawn = [error]
        else:
            page.drawn = Lazy(partial(_drawn, source, file, named, table, stuff, whole))
        yield page


def _drawn(
    source: Source, file: str, named: Named, table: Values | None, stuff: Collection[str], whole: bool
) -> Iterator[Drawn]:
    where = source.where(file)
    data = source.read(file)
    ids = mask_values(data, where)
    lossy = is_lossy(data)
    if table is not None:
        classes = _nearest(ids, table) if lossy else ids
        if unknown := sorted(set(np.unique(classes).tolist()) - table.keys() - {0}):
            raise AnnotationError(
                f"the value {unknown[0]} has no class"
                + (f", nor have {len(unknown) - 1} others" * (len(unknown) > 1)),
                where=where,
                fix=f"Add it to the values, which are {', '.join(map(str, table))}.",
            )
        for value in sorted(set(np.unique(classes).tolist()) - {0}):
            yield from _regions(classes == value, table[value], whole or table[value] in stuff, where)
        return
    if named.name is None:
        raise AnnotationError(
            "neither the name nor the folder of the mask says which class it shows",
            where=where,
            fix='Give a pattern such as "{stem}_{class}.png", or the values: {255: "crack"}.',
        )
    name = class_name(named.name, where)
    if lossy or _is_smoothed(ids):
        yield from _regions(ids > 127, name, whole or named.one_object or name in stuff, where)
    elif len(found := np.unique(ids)) <= 2:
        yield from _regions(ids != 0, name, whole or named.one_object or name in stuff, where)
    elif len(found) > MOST_IDS:
        raise AnnotationError(f"{len(found):,} values are no objects", where=where, fix="Save the mask as PNG.")
    elif name in stuff or named.one_object:
        yield from _regions(ids != 0, name, True, where)
    else:
        for value, rle in regions(ids).items():
            yield Drawn(name, Runs(rle), f"{where}, value {value}")


def _regions(
    mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]], name: str, whole: bool, where: str
) -> Iterator[Drawn]:
    for number, rle in regions(mask.astype(np.int32) if whole else pieces(mask, where)).items():
        yield Drawn(name, Runs(rle), where if whole else f"{where}, {name} {number}")


def _nearest(ids: Ids, table: Values) -> Ids:
    """Each value of a JPEG becomes the nearest one that was meant."""
    meant = np.array(sorted({0, *table}))
    lookup = meant[np.abs(np.arange(int(ids.max()) + 1)[:, None] - meant).argmin(axis=1)]
    return lookup[ids].astype(np.int32)


def _is_smoothed(ids: Ids) -> bool:
    """Whether a mask is black and white but for soft edges, which are no objects."""
    counts = np.bincount(np.clip(ids, 0, 256).ravel(), minlength=257)
    between = int(counts[1:255].sum())
    return bool(counts[255] and not counts[256] and np.count_nonzero(counts) > 8 and between < counts[255] / 2)
