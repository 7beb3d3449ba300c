"""What is in this folder? Its format, photos, classes and marks, what is missing, and the command to type."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path, PurePosixPath

from ..errors import HfDetrPanopticError
from ..images import SUFFIXES, list_images
from ..text import and_more, count_of
from .colors import Values
from .foreign import foreign_of
from .read import read_annotations
from .sources import Source, open_source

# Folders whose pictures are marks.
_MARKS = frozenset({"masks", "mask", "labels", "annotations", "gt", "gtfine", "panoptic", "instances"})
_MARKS_BEGIN = ("segmentation", "panoptic_", "mask")


@dataclass(frozen=True)
class Contents:
    """`photos`: where they lie, "" at the top, None where there are none; `classes`: the marks of each, in order."""

    path: Path
    format: str
    count: int
    photos: str | None
    classes: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    command: str | None = None

    @property
    def marked(self) -> bool:
        """Whether there is anything but photos."""
        return bool(self.classes or self.missing)

    def __str__(self) -> str:
        where = f" in {self.photos}/" if self.photos else ""
        marks = sum(self.classes.values())
        counted = and_more(f"{name} {count:,}" for name, count in self.classes.items())
        lines = [f"in {self.path}: {self.format}", f"  photos: {self.count:,}{where}"]
        lines += [f"  classes: {counted} ({count_of(marks, 'mark')})"] if self.classes else ["  classes: none seen"]
        lines += [f"  missing: {what}" for what in self.missing]
        lines += [f"  to type: {self.command}"] if self.command else []
        return "\n".join(lines)


def contents_of(
    path: Path, out: Path | None = None, values: Values | Path | None = None, images: Path | None = None
) -> Contents:
    """What a folder, a file or an archive holds, whether it can be read or not; nothing here raises for what it holds.

    `images`: the photos, where they are known to be elsewhere.
    """
    try:
        source = open_source(path)
        folder, count = _photos(source) if images is None else (str(images), len(list_images(images)))
        foreign = foreign_of(source)
    except HfDetrPanopticError as error:
        return Contents(path, "nothing that can be opened", 0, None, missing=(str(error),))
    photos = images or (path / folder if folder is not None and path.is_dir() else None)
    command = _command(path, photos, out, values)
    needed: tuple[str, ...]
    if foreign is not None:
        needed = (f"marks that are read: {foreign.fix}",)
        return Contents(path, foreign.what, count, folder, _sorted(foreign.classes), needed)
    try:
        read = read_annotations(path, photos, values=values)
    except HfDetrPanopticError as error:
        if not _has_marks(source, folder):
            what = "photos, no marks" if count else "neither photos nor marks that are known"
            needed = ("marks: nothing here is of a format that is known",) if images is not None else ()
            needed = needed if count else ("photos (JPEG, PNG, …) or one of the formats of docs/formats.md",)
            bare = f"hf-detr-panoptic prepare --images {shlex.quote(str(photos))} --out {_out(out)}" if count else None
            return Contents(path, what, count, folder, missing=needed, command=bare)
        return Contents(path, _guess(source), count, folder, missing=(str(error),), command=command)
    marks = Counter(mark.name for photo in read.photos for mark in photo.marks if not mark.void)
    missing: list[str] = []
    if photos is None:
        missing.append("the folder of photos: name it after --images" + (", unpacked" if count else ""))
    if read.unmatched:
        missing.append(f"photos for {count_of(len(read.unmatched), 'name')}, {read.unmatched[0].name!r} first")
    if read.skipped:
        first = read.skipped[0]
        missing.append(
            f"{count_of(len(read.skipped), 'thing')} could not be read, first {first.where}: {first.what}"
            + (f". {first.fix}" if first.fix else "")
        )
    return Contents(path, read.format, count, folder, _sorted(marks), tuple(missing), command)


def _photos(source: Source) -> tuple[str | None, int]:
    """The folder that all pictures share which are not marks, and how many they are."""
    names = [name for name in source.names if PurePosixPath(name).suffix.lower() in SUFFIXES and not _is_mark(name)]
    if not names:
        return None, 0
    folder = commonpath([PurePosixPath(name).parent.as_posix() for name in names])
    return ("" if folder == "." else folder), len(names)


def _is_mark(name: str) -> bool:
    parts = [part.lower() for part in PurePosixPath(name).parts[:-1]]
    return any(part in _MARKS or part.startswith(_MARKS_BEGIN) for part in parts)


def _has_marks(source: Source, photos: str | None) -> bool:
    """Whether there is anything but photos."""
    kinds = (".json", ".xml", ".txt", ".yaml", ".yml", ".csv", ".ndjson")
    return any(name.lower().endswith(kinds) or _is_mark(name) for name in source.names)


def _guess(source: Source) -> str:
    """What it looks like, where it could not be read."""
    parts = {part for name in source.names for part in PurePosixPath(name).parts[:-1]}
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in source.names)
    if parts & {"SegmentationClass", "SegmentationObject", "SegmentationClassPNG"}:
        return "Pascal VOC's layout"
    if "labels" in parts and suffixes[".txt"]:
        return "YOLO labels"
    if suffixes[".json"] or suffixes[".xml"]:
        return "JSON or XML files, of which none is read"
    return "masks" if any(map(_is_mark, source.names)) else "files of no format that is known"


def _command(path: Path, photos: Path | None, out: Path | None, values: Values | Path | None) -> str:
    words = ["--images", str(photos) if photos is not None else "PHOTOS", "--annotations", str(path)]
    if isinstance(values, Path):
        words += ["--values", str(values)]
    else:
        words += [word for value, name in (values or {}).items() for word in ("--values", f"{value}={name}")]
    return f"hf-detr-panoptic prepare {shlex.join(words)} --out {_out(out)}"


def _out(out: Path | None) -> str:
    return shlex.quote(str(out or "data/site"))


def _sorted(marks: Counter[str]) -> dict[str, int]:
    return dict(marks.most_common())
