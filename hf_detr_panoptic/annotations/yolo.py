"""YOLO's labels: a text file a photo, a line an object, in shares of the photo; names in data.yaml or classes.txt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath

from ..errors import AnnotationError
from ..files import parse_yaml
from ..images import SUFFIXES
from .colors import Values
from .marks import Unmatched
from .pages import Drawn, Item, Lazy, Page, PhotoIndex, stem_of
from .shapes import Polygons, Rectangle, Shape
from .sources import Source, class_name, shown

LISTS = ("classes.txt", "obj.names", "labels.txt", "class_names.txt")
# Text files that tools put beside labels.
_NO_LABELS = frozenset({*LISTS, "labelmap.txt", "readme.txt", "readme.roboflow.txt", "readme.dataset.txt"})
MOST_OBJECTS = 100_000
_FARTHEST = 1.5  # tools write a little more than 1 at a border; more are pixels


def yolo_labels(source: Source, index: PhotoIndex | None) -> list[str]:
    """The text files that hold labels: all in a folder `labels`, or named as a photo; none, if none looks so."""
    texts = [name for name in source.names if name.lower().endswith(".txt")]
    texts = [name for name in texts if PurePosixPath(name).name.lower() not in _NO_LABELS]
    texts = [name for name in texts if PurePosixPath(name).parent.name != "instances_txt"]  # MOTS
    stems = {stem_of(photo) for photo in index.photos} if index is not None else set()
    stems |= {stem_of(name) for name in source.names if PurePosixPath(name).suffix.lower() in SUFFIXES}
    labels = [name for name in texts if _in_labels(name) or PurePosixPath(name).stem in stems]
    if not labels and len(source.names) == 1:
        labels = texts
    return labels if any(_looks_so(source, name) for name in labels[:_LOOKS]) else []


_LOOKS = 100


def _in_labels(name: str) -> bool:
    return "labels" in PurePosixPath(name).parts[:-1]


def _looks_so(source: Source, name: str) -> bool:
    """Whether the first line is a class's number and at least a box; an empty file is as good, in `labels`."""
    try:
        text = source.read(name)[:4000].decode("utf-8-sig", "replace").strip()
        words = text.splitlines()[0].split() if text else []
        numbers = [float(word) for word in words[:5]]
    except (AnnotationError, ValueError):
        return False
    return len(numbers) == 5 and numbers[0].is_integer() if words else _in_labels(name)


def yolo_names(source: Source, values: Values | None) -> dict[int, str] | None:
    """The class of each number: as --values, a data.yaml or a classes.txt says; None where nobody does."""
    if values is not None:
        if not all(isinstance(value, int) for value in values):
            raise AnnotationError(
                "YOLO's classes are numbers, not colours", where="values", fix="Say --values 0=NAME."
            )
        return {int(value): class_name(name, "values") for value, name in values.items()}
    for name in [name for name in source.names if name.lower().endswith((".yaml", ".yml"))][:_LOOKS]:
        where = source.where(name)
        try:
            data = parse_yaml(source.read(name))
        except ValueError as error:
            raise AnnotationError(
                f"this is not YAML that can be read ({error})", where=where, fix="Correct it."
            ) from None
        listed = data.get("names") if isinstance(data, Mapping) else None
        if isinstance(listed, Mapping | list):
            pairs = listed.items() if isinstance(listed, Mapping) else enumerate(listed)
            return {_number(key, where): class_name(_text(entry), where) for key, entry in pairs}
    known = {PurePosixPath(name).name.lower(): name for name in reversed(source.names)}
    for list_name in LISTS:
        listed_in = known.get(list_name) or source.first([list_name])
        if listed_in is not None:
            lines = source.read(listed_in).decode("utf-8-sig", "replace").splitlines()
            return {n: class_name(line, source.where(listed_in)) for n, line in enumerate(lines) if line.strip()}
    return None


def _text(value: object) -> object:
    """YAML takes a class called `no` or `1` for something else."""
    return str(value) if isinstance(value, int | float) else value


def _number(key: object, where: str) -> int:
    if isinstance(key, str) and key.isdecimal():
        key = int(key[:9])
    if type(key) is not int:
        raise AnnotationError(f"names has the key {shown(key)}", where=where, fix="Write `0: pipe`, a class a line.")
    return key


def read_yolo(
    source: Source, labels: list[str], names: Mapping[int, str] | None, photo_folder: str | None
) -> Iterator[Item]:
    """The photos of all labels; a photo whose file is empty has no object. `photo_folder`: see `_photo_of`."""
    if names is None:
        raise AnnotationError(
            "YOLO labels without a data.yaml or classes.txt: nobody says which class a number is",
            where=source.label,
            fix="Put the data.yaml beside the folders images and labels, or say it: --values 0=pipe --values 1=wall.",
        )
    pictures = [name for name in source.names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    seen = {name.rpartition(".")[0]: name for name in pictures}
    for name in labels:
        where = source.where(name)
        photo, near = _photo_of(source.near, seen, name, photo_folder)
        if photo is None:
            yield Unmatched(near[0], where, "its photo is not in the folder of photos")
            continue
        page = Page(photo, where, where, (), near=near, relative=True)
        page.drawn = Lazy(partial(_drawn, source, name, names))
        yield page


def _photo_of(
    home: str, pictures: Mapping[str, str], label: str, photo_folder: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """The photo's name and the folders in which it is looked for: `labels` stands where `images` would.

    Where it is seen beside the labels, and the folder of photos is too, it is in there or nowhere.
    """
    parts = PurePosixPath(label).parts
    at = max((place for place, part in enumerate(parts[:-1]) if part == "labels"), default=None)
    beside = list(parts[:-1]) if at is None else [*parts[:at], "images", *parts[at + 1 : -1]]
    folder, stem = "/".join(beside), PurePosixPath(label).stem
    seen = pictures.get(f"{folder}/{stem}".lstrip("/"))
    if seen is not None and photo_folder is not None:
        inside = seen.startswith(f"{photo_folder}/")
        return (seen[len(photo_folder) + 1 :], ()) if inside else (None, (seen,))
    if seen is not None and not home:
        return seen, (folder,) if folder else ()
    shorter = "/".join(part for part in beside if part != "images")
    near = (f"{home}/{folder}".strip("/"), folder, shorter)
    return stem, tuple(dict.fromkeys(each for each in near if each))


def _drawn(source: Source, name: str, names: Mapping[int, str]) -> Iterator[Drawn | AnnotationError]:
    where = source.where(name)
    lines = source.read(name).decode("utf-8-sig", "replace").splitlines()
    if len(lines) > MOST_OBJECTS:
        raise AnnotationError(f"{len(lines):,} lines are no objects of a photo", where=where, fix="Leave it out.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            at = f"{where}, line {number}"
            try:
                yield _object(line.split(), names, at)
            except AnnotationError as error:
                yield error


def _object(words: list[str], names: Mapping[int, str], where: str) -> Drawn:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)) or not numbers[0].is_integer():
        raise AnnotationError(
            f"{' '.join(words)[:60]!r} is no class and its outline", where=where, fix="Export it again."
        )
    label, places = int(numbers[0]), numbers[1:]
    if label not in names:
        raise AnnotationError(
            f"the class {str(label)[:20]} has no name: there are {len(names)}, from {min(names, default=0)} on",
            where=where,
            fix=f"Add it to the names in data.yaml, or say all: --values {str(label)[:20]}=NAME …",
        )
    if places and max(map(abs, places)) > _FARTHEST:
        raise AnnotationError(
            f"{max(places):g} is no share of the photo",
            where=where,
            fix="YOLO's places go from 0 to 1: export it again.",
        )
    return Drawn(names[label], _shape(places, where), where)


def _shape(places: list[float], where: str) -> Shape:
    if len(places) == 4:
        x, y, width, height = places
        return Rectangle(x - width / 2, y - height / 2, width, height)
    if len(places) < 6 or len(places) % 2:
        raise AnnotationError(
            f"{len(places)} numbers after the class are neither a box (4) nor an outline (6, 8, …)",
            where=where,
            fix="Predictions with scores and poses are not read: export outlines.",
        )
    return Polygons([places])
