"""Mask files: one image file an object, a class, or an id map, told apart by names and values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import PurePosixPath

import numpy as np

from ..errors import AnnotationError, did_you_mean
from ..images import SUFFIXES
from ..text import and_more
from .colors import Table, Values, shown_color, values_beside
from .marks import Unmatched
from .pages import Drawn, Item, Lazy, Page, PhotoIndex, stem_of
from .shapes import Ids, Runs, is_lossy, mask_colors, mask_size, mask_values, pieces, regions
from .sources import Source, class_name, folder_of

FIELDS = ("stem", "class", "n")
# Folders and endings that say what a file is, not what it shows.
GENERAL = frozenset(
    {"mask", "masks", "label", "labels", "seg", "segmentation", "segmentations", "annotation", "annotations", "gt"}
    | {
        "ground truth",
        "groundtruth",
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
        "images",
        "png",
        "data",
        "segmentationclass",
        "segmentationobject",
        "segmentationclasspng",
        "segmentationobjectpng",
    }
)


@dataclass(frozen=True)
class Named:
    """`photo` is a path without suffix; `name` is the class where the file's name tells it."""

    photo: str
    name: str | None
    one_object: bool


class Names:
    """Reads the names of mask files by a pattern such as `{stem}_{class}_{n}.png`, or by the photos' names alone.

    `{stem}` is the photo's name without suffix, `{class}` the class, `{n}` a number that tells objects apart; a
    pattern with "/" describes folders too: `{class}/{stem}.png`. Where `{stem}{class}` leaves open where the one ends,
    the longest stem that a photo has decides.
    """

    def __init__(self, pattern: str | None, index: PhotoIndex | None) -> None:
        self.index = index
        self.pattern = None if pattern is None else unicodedata.normalize("NFC", pattern)
        for field in re.findall(r"{(.*?)}", self.pattern or ""):
            if field not in FIELDS:
                raise AnnotationError(
                    f"the pattern has the unknown field {{{field}}}", fix=did_you_mean(field, FIELDS)
                )
        if self.pattern is not None and "{stem}" not in self.pattern:
            raise AnnotationError(
                f"the pattern {pattern!r} does not say which photo is meant",
                fix="Put {stem} where the photo's name is.",
            )

    def read(self, file: str) -> Named | None:
        """None where the name fits no photo, or not the pattern."""
        return self._by_pattern(file) if self.pattern is not None else self._by_photo(file)

    def _by_pattern(self, file: str) -> Named | None:
        assert self.pattern is not None
        depth = self.pattern.count("/") + 1
        parts = unicodedata.normalize("NFC", file).split("/")
        folder, text = "/".join(parts[:-depth]), "/".join(parts[-depth:])
        for stem in self._stems_in(text) if self.index is not None else (None,):
            if match := re.fullmatch(_regex(self.pattern, stem), text):
                fields = match.groupdict()
                photo = f"{folder}/{stem or fields['stem']}".lstrip("/")
                return Named(photo, _tidy(fields.get("class")), "{n}" in self.pattern)
        return None

    def _by_photo(self, file: str) -> Named | None:
        folder, text = folder_of(file), stem_of(unicodedata.normalize("NFC", file))
        if self.index is None or self.index.find(file) or text in self._stems:
            name = _tidy(PurePosixPath(folder).name)
            general = name is None or name.casefold() in GENERAL or name in self._photo_folders
            return Named(f"{folder}/{text}".lstrip("/"), None if general else name, False)
        for stem in self._stems_in(text):
            if text.startswith(stem):
                rest = text[len(stem) :].strip(" _-.")
                name = rest.rstrip("0123456789").rstrip(" _-.")
                general = not name or name.casefold() in GENERAL
                return Named(f"{folder}/{stem}".lstrip("/"), None if general else name, name != rest)
        return None

    def _stems_in(self, text: str) -> Iterator[str]:
        """The photos' stems that occur in a text, the longest first. Digits are not cut: `img_10` holds no `img_1`."""
        for length in range(len(text), 0, -1):
            for start in range(len(text) - length + 1):
                stem, before, after = text[start : start + length], text[:start][-1:], text[start + length :][:1]
                torn = (stem[-1].isdigit() and after.isdigit()) or (stem[0].isdigit() and before.isdigit())
                if stem in self._stems and not torn:
                    yield stem

    @cached_property
    def _photo_folders(self) -> frozenset[str]:
        photos = self.index.photos if self.index is not None else ()
        return frozenset(part for photo in photos for part in PurePosixPath(photo).parts[:-1])

    @cached_property
    def _stems(self) -> frozenset[str]:
        photos = self.index.photos if self.index is not None else ()
        return frozenset(unicodedata.normalize("NFC", stem_of(photo)) for photo in photos)


def _regex(pattern: str, stem: str | None) -> str:
    fields = {"stem": re.escape(stem) if stem is not None else "(?P<stem>[^/]+?)", "class": "(?P<class>[^/]+?)"}
    parts = re.split(r"{(.*?)}", pattern)
    # The second {class} or {stem} of a pattern has to repeat the first: a named group can be defined once.
    seen: set[str] = set()
    out = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            out += re.escape(part)
        elif part == "n":
            out += r"\d+"
        elif part in seen and not (part == "stem" and stem is not None):
            out += f"(?P={part})"
        else:
            out += fields[part]
            seen.add(part)
    return f"(?i:{out})"


def _tidy(name: str | None) -> str | None:
    return (name or "").strip(" _-.") or None


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
) -> Iterator[Item]:
    """The photos that the files belong to. `values` gives the class of each grey value or colour, as does a list that
    lies beside the masks; 0 is unmarked, unless it has a class there that is more than a background.

    Without them a file whose name tells its class holds one object or one class (two values, JPEG noise, smoothed
    edges) or else an id map, an object each value. `among_photos`: what does not fit the pattern is a photo itself.
    """
    names = Names(pattern, index)
    tables: dict[str, Table | None] = {}
    for file in files:
        where = source.where(file)
        named = names.read(file)
        if named is None:
            if not among_photos:
                yield Unmatched(file, where, "its name fits no photo" + (" and the pattern" if pattern else ""))
            continue
        page = Page(named.photo, where, where, ())
        if (folder := folder_of(file)) not in tables:
            listed = values if values is not None or named.name is not None else values_beside(source, folder)
            tables[folder] = None if listed is None else Table.of(listed)
        table = tables[folder]
        try:
            page.size = mask_size(source.read(file), where)
        except AnnotationError as error:
            page.drawn = [error]
        else:
            page.drawn = Lazy(partial(_drawn, source, file, named, table, stuff, whole))
        yield page


def _drawn(
    source: Source, file: str, named: Named, table: Table | None, stuff: Collection[str], whole: bool
) -> Iterator[Drawn]:
    where = source.where(file)
    data = source.read(file)
    lossy = is_lossy(data)
    if table is not None:
        ids = (mask_colors if table.colored else mask_values)(data, where)
        yield from drawn_classes(ids, table, lossy=lossy, stuff=stuff, whole=whole, where=where)
        return
    ids = mask_values(data, where)
    if named.name is None:
        raise AnnotationError(
            "neither the name nor the folder of the mask says which class it shows",
            where=where,
            fix=_say_values(ids, lossy),
        )
    name = class_name(named.name, where)
    if lossy or _is_smoothed(ids):
        yield from _regions(ids > 127, name, whole or named.one_object or name in stuff, where)
    elif len(values := np.unique(ids)) <= 2:
        yield from _regions(ids != 0, name, whole or named.one_object or name in stuff, where)
    elif len(values) > MOST_IDS:
        raise AnnotationError(f"{len(values):,} values are no objects", where=where, fix="Save the mask as PNG.")
    elif name in stuff or named.one_object:
        yield from _regions(ids != 0, name, True, where)
    else:
        for value, rle in regions(ids).items():
            yield Drawn(name, Runs(rle), f"{where}, value {value}")


def _say_values(ids: Ids, lossy: bool) -> str:
    """What to type, for what is seen in the mask."""
    values = np.unique(ids[ids > 0]).tolist()
    if lossy or not 1 <= len(values) <= MOST_IDS:
        return "Give --pattern '{stem}_{class}.png', or the values: --values 255=crack."
    colored = values[-1] > 0xFFFF or (len(values) > 1 and values[-1] > 255)
    shown = [shown_color(value) if colored else str(value) for value in values[:3]]
    words = " ".join(f"--values {value}=NAME" for value in shown)
    rest = f", and so on for all {len(values)}" if len(values) > len(shown) else ""
    return f"Say what it shows: {words}{rest}; or --pattern '{{stem}}_{{class}}.png', or a file: --values classes.csv."


def drawn_classes(
    ids: Ids, table: Table, *, lossy: bool, stuff: Collection[str], whole: bool, where: str
) -> Iterator[Drawn]:
    """What a map of classes shows, `table` telling the class of each value, of 0 where that is one."""
    classes = _nearest(ids, table) if lossy else ids
    if unknown := sorted(set(np.unique(classes).tolist()) - table.names.keys() - {0}):
        kind, names = ("colour" if table.colored else "value"), list(map(table.shown, table.names))
        shown = shown_color(unknown[0]) if table.colored or unknown[0] > 0xFFFF else str(unknown[0])
        raise AnnotationError(
            f"the {kind} {shown} has no class" + (f", nor have {len(unknown) - 1} others" * (len(unknown) > 1)),
            where=where,
            fix=f"Add --values {shown}=NAME; those that have one are {and_more(names)}.",
        )
    for value in sorted(set(np.unique(classes).tolist()) & table.names.keys()):
        name = table.names[value]
        yield from _regions(classes == value, name, whole or name in stuff, where)


def _regions(
    mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]], name: str, whole: bool, where: str
) -> Iterator[Drawn]:
    for number, rle in regions(mask.astype(np.int32) if whole else pieces(mask, where)).items():
        yield Drawn(name, Runs(rle), where if whole else f"{where}, {name} {number}")


def _nearest(ids: Ids, table: Table) -> Ids:
    """Each value or colour of a JPEG becomes the nearest one that was meant."""
    meant = np.array(sorted({0, *table.names}))
    found, places = np.unique(ids, return_inverse=True)
    off = np.zeros((len(found), len(meant)), dtype=np.int64)
    for shift in (0, 8, 16) if table.colored else (None,):
        one, other = (found, meant) if shift is None else (found >> shift & 255, meant >> shift & 255)
        off += (one.astype(np.int64)[:, None] - other) ** 2
    return meant[off.argmin(axis=1)][places].reshape(ids.shape).astype(np.int32)


def _is_smoothed(ids: Ids) -> bool:
    """Whether a mask is black and white but for soft edges, which are no objects."""
    counts = np.bincount(np.clip(ids, 0, 256).ravel(), minlength=257)
    between = int(counts[1:255].sum())
    return bool(counts[255] and not counts[256] and np.count_nonzero(counts) > 8 and between < counts[255] / 2)
