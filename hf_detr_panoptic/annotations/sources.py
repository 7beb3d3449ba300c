"""Where annotations lie: one file, a folder or a zip archive, read as bytes; their numbers and names checked."""

from __future__ import annotations

import io
import lzma
import math
import struct
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ..errors import AnnotationError
from ..files import parse_json
from ..images import MOST_BYTES as MOST_BYTES_OF_A_PICTURE
from ..images import SUFFIXES
from ..text import is_text

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
    if not is_text(name):
        raise AnnotationError(
            f"the class {ascii(name)[:60]} has a character that no file can hold", where=where, fix="Rename the class."
        )
    return unicodedata.normalize("NFC", name).strip()


def entries(parent: Any, key: str, where: str) -> Sequence[dict[str, Any]]:
    """A list of objects under `key`."""
    listed = parent.get(key)
    if not isinstance(listed, list):
        raise AnnotationError(f"'{key}' is {shown(listed)}, not a list", where=where, fix="Export it again.")
    for index, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise AnnotationError(f"{key}[{index}] is {shown(entry)}, not an object", where=where)
    return listed


def shown(value: Any) -> str:
    """A value as a message quotes it, however long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


# A member larger than this that was squeezed harder than this is a bomb: masks as JSON reach about 1:100.
BOMB_BYTES = 64 * 1024**2
BOMB_RATIO = 200
MOST_BYTES = 4 * 1024**3
MOST_TEXT = 64 * 1024**2  # of labels, lists and settings, a file of which is about one photo or one set of classes
_TEXTS = frozenset({".txt", ".csv", ".yaml", ".yml", ".names"})
MOST_INNER = 1024**3  # of archives within an archive, which are held in memory
MOST_ARCHIVES = 1000

# What zipfile and its decoders raise for a damaged archive; RuntimeError: with a password, or unknown compression.
_OF_A_ZIP = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(RuntimeError, ValueError, EOFError, OSError),
)


class Source(ABC):
    """A tree of files. Names are relative, with "/"."""

    label: str
    near: str = ""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The files that may hold annotations, sorted."""

    @abstractmethod
    def has(self, name: str) -> bool: ...

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @property
    def refused(self) -> tuple[AnnotationError, ...]:
        """Files that are left alone, and why."""
        return ()

    def where(self, name: str) -> str:
        """The file as a message names it."""
        return f"{self.label}/{name}"

    def weight(self, name: str) -> int:
        """The bytes of memory that an archive among the files takes."""
        return 0

    def archive(self, name: str) -> Archive:
        """A zip archive among the files."""
        return Archive(io.BytesIO(self.read(name)), self.where(name))

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first of these names that is there."""
        return next((name for name in candidates if self.has(name)), None)

    def json(self, name: str, data: bytes) -> Any:
        """The content of a JSON file that was read as `data`."""
        try:
            return parse_json(data)
        except (ValueError, RecursionError) as error:
            raise AnnotationError(
                f"this is not JSON that can be read ({str(error)[:200]})",
                where=self.where(name),
                fix="Export it again: the file may be cut short.",
            ) from None

    def xml(self, name: str, data: bytes) -> ET.Element:
        """The root of an XML file that was read as `data`; one that defines entities is refused."""
        parser = ET.XMLParser(target=_NoDoctype())
        try:
            return ET.fromstring(data, parser=parser)
        except _DoctypeError:
            raise AnnotationError(
                "the XML brings a document type of its own, whose entities can blow up to any size",
                where=self.where(name),
                fix="Delete the <!DOCTYPE …> part; no annotation tool writes one.",
            ) from None
        except (ET.ParseError, ValueError, LookupError) as error:
            raise AnnotationError(
                f"this is not XML that can be read ({error})",
                where=self.where(name),
                fix="Export it again: the file may be cut short.",
            ) from None


class Folder(Source):
    """A folder, or with `only` a single file in it (whose neighbours can still be read by name)."""

    def __init__(self, root: Path, only: str | None = None) -> None:
        self.root = root
        self.only = only
        self.label = root.resolve().name
        self._inside = root.resolve()

    @cached_property
    def names(self) -> tuple[str, ...]:
        if self.only is not None:
            return (self.only,)
        return tuple(name for name in self._all if self._stays_inside(name))

    @cached_property
    def _all(self) -> tuple[str, ...]:
        names = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return tuple(sorted(name for name in names if not _is_hidden(name)))

    @property
    def refused(self) -> tuple[AnnotationError, ...]:
        if self.only is not None:
            return ()
        return tuple(self._leads_out(name) for name in self._all if not self._stays_inside(name))

    def has(self, name: str) -> bool:
        try:
            return is_inside(name) and (self.root / name).is_file() and self._stays_inside(name)
        except OSError:  # a name too long for any file
            return False

    def read(self, name: str) -> bytes:
        if self.only != name and not self._stays_inside(name):
            raise self._leads_out(name)
        path = self.root / name
        most = _most_bytes(name)
        if path.stat().st_size > most:
            raise AnnotationError(
                f"the file has {path.stat().st_size:,} bytes, {most:,} are read",
                where=self.where(name),
                fix="Leave it out.",
            )
        return path.read_bytes()

    def archive(self, name: str) -> Archive:
        if not self._stays_inside(name):
            raise self._leads_out(name)
        return Archive(self.root / name, self.where(name))

    def where(self, name: str) -> str:
        return name if self.only is not None else super().where(name)

    def _stays_inside(self, name: str) -> bool:
        return (self.root / name).resolve().is_relative_to(self._inside)

    def _leads_out(self, name: str) -> AnnotationError:
        return AnnotationError(
            "this link leads out of the folder",
            where=self.where(name),
            fix="Copy the file to where the link is.",
        )


class Archive(Source):
    """A zip archive, read member by member in memory."""

    def __init__(self, file: Path | BinaryIO, label: str) -> None:
        self.label = label
        try:
            self._zip = zipfile.ZipFile(file)
        except _OF_A_ZIP as error:
            raise AnnotationError(
                f"the archive cannot be opened ({error})",
                where=self.label,
                fix="It may be cut short: copy or download it again.",
            ) from None
        members = [m for m in self._zip.infolist() if not m.is_dir() and not _is_hidden(m.filename)]
        self._members = {member.filename: member for member in members if is_inside(member.filename)}
        self.refused_names = tuple(member.filename for member in members if not is_inside(member.filename))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._members))

    @property
    def refused(self) -> tuple[AnnotationError, ...]:
        return tuple(
            AnnotationError(
                "this member would lie outside the archive, and is not read",
                where=self.where(name),
                fix="Export the archive again; a tool never writes such names.",
            )
            for name in self.refused_names
        )

    def has(self, name: str) -> bool:
        return name in self._members

    def weight(self, name: str) -> int:
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        member = self._members[name]
        bomb = member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * max(member.compress_size, 1)
        if bomb or member.file_size > _most_bytes(name):
            raise AnnotationError(
                f"{member.compress_size:,} bytes would unpack to {member.file_size:,}",
                where=self.where(name),
                fix="If this is meant, unpack the archive yourself and name the folder.",
            )
        try:
            with self._zip.open(member) as stream:
                return stream.read(member.file_size)
        except _OF_A_ZIP as error:
            raise AnnotationError(f"this member cannot be unpacked ({error})", where=self.where(name)) from None


class WithArchives(Source):
    """A tree in which an archive is a folder, one level down: tools put an export a task into another archive."""

    def __init__(self, outer: Source, archives: Sequence[str]) -> None:
        self.label, self._outer = outer.label, outer
        self._inner: dict[str, Archive] = {}
        self._refused = list(outer.refused)
        left = MOST_INNER
        for number, name in enumerate(archives):
            try:
                size = outer.weight(name)
                if number >= MOST_ARCHIVES or size > left:
                    raise AnnotationError(
                        f"more than {MOST_ARCHIVES:,} archives, or {MOST_INNER:,} bytes of them, lie in this one",
                        where=outer.where(name),
                        fix="Unpack it yourself and name the folder.",
                    )
                left -= size
                self._inner[name] = outer.archive(name)
            except AnnotationError as error:
                self._refused.append(error)
        deeper = [(archive, name) for archive in self._inner.values() for name in archive.names if _is_zip(name)]
        self._refused += [
            AnnotationError("an archive two archives deep is not opened", where=archive.where(name), fix="Unpack it.")
            for archive, name in deeper
        ]

    @cached_property
    def names(self) -> tuple[str, ...]:
        inner = [f"{name}/{member}" for name, archive in self._inner.items() for member in archive.names]
        return tuple(sorted(name for name in [*self._outer.names, *inner] if not _is_zip(name)))

    @property
    def refused(self) -> tuple[AnnotationError, ...]:
        return (*self._refused, *(error for archive in self._inner.values() for error in archive.refused))

    def has(self, name: str) -> bool:
        archive, member = self._place(name)
        return archive.has(member)

    def read(self, name: str) -> bytes:
        archive, member = self._place(name)
        return archive.read(member)

    def _place(self, name: str) -> tuple[Source, str]:
        for inner, archive in self._inner.items():
            if name.startswith(f"{inner}/"):
                return archive, name[len(inner) + 1 :]
        return self._outer, name


def open_source(path: Path, images: Path | None = None) -> Source:
    """The tree that `path` names. In the folder of the photos, annotations speak of the photos beside them."""
    if path.is_dir():
        source: Source = Folder(path)
    elif not path.is_file():
        raise AnnotationError("there is no such file or folder", where=str(path), fix="Check the path for a typo.")
    elif _is_zip(path.name) or zipfile.is_zipfile(path):
        source = Archive(path, path.name)
    elif path.suffix.lower() in (".yaml", ".yml"):  # YOLO's data.yaml speaks of the folders beside it
        source, path = Folder(path.parent), path.parent
    else:
        source = Folder(path.parent, only=path.name)
    if archives := [name for name in source.names if _is_zip(name)]:
        source = WithArchives(source, archives)
    folder = (path if path.is_dir() else path.parent).resolve()
    if images is not None and folder != images.resolve() and folder.is_relative_to(images.resolve()):
        source.near = folder.relative_to(images.resolve()).as_posix()
    return source


def is_inside(name: str) -> bool:
    """Whether a relative name stays below the folder it is relative to, on any system."""
    path = name.replace("\\", "/")
    drive = len(path) > 1 and path[1] == ":"
    return bool(path) and not path.startswith("/") and not drive and "\0" not in path and ".." not in path.split("/")


def folder_of(name: str) -> str:
    """The folder part of a relative name, "" at the top."""
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


def _most_bytes(name: str) -> int:
    suffix = PurePosixPath(name).suffix.lower()
    return MOST_BYTES_OF_A_PICTURE if suffix in SUFFIXES else MOST_TEXT if suffix in _TEXTS else MOST_BYTES


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _is_hidden(name: str) -> bool:
    """macOS puts a `__MACOSX/._a.json` beside each `a.json` of an archive; notebooks keep hidden copies."""
    return any(part == "__MACOSX" or (part.startswith(".") and part.strip(".")) for part in name.split("/"))


class _DoctypeError(Exception):
    pass


class _NoDoctype(ET.TreeBuilder):
    """Expat reports the document type before it reads the entities inside: time enough to refuse."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _DoctypeError
