"""Which photo a name in an annotation file means."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ...errors import AnnotationError
from ...images import SUFFIXES, list_images
from .sources import is_inside


@dataclass(frozen=True)
class Match:
    """`photo` is relative to the photo folder; a smaller `rung` is a surer match."""

    photo: str
    rung: int


class PhotoIndex:
    """The photos that there are, to be found by the names that tools write.

    A name is tried as a relative path, as a base name that only one photo has, then as either with another suffix;
    then all of it again without regard to case. Names are compared after Unicode NFC: macOS stores "ü" as two.
    """

    def __init__(self, photos: Iterable[str]) -> None:
        self.photos = tuple(photos)

    @classmethod
    def of(cls, folder: Path) -> PhotoIndex:
        return cls(Path(photo).relative_to(folder).as_posix() for photo in list_images(folder))

    def find(self, name: str, near: Sequence[str] = ()) -> Match | None:
        """The photo that `name` means. Folders in `near` that have photos are searched first, and instead of the rest.

        With one folder a class, `img_001.jpg` of one class must never be taken for that of another.
        """
        searched = False
        for folder in near:
            if photos := self._below(folder):
                searched = True
                match = photos._find(f"{folder}/{name}", name) or (Match(name, 0) if name in photos else None)
                if match:
                    return match
        return None if searched else self._find(name, name)

    def __contains__(self, photo: str) -> bool:
        return photo in self._by_key[0].get(_key(photo), ())

    def among(self, name: str, near: Sequence[str] = ()) -> tuple[str, ...]:
        """The photos that `name` could mean, where there are several and `find` therefore picks none."""
        parts = [photos for folder in near if (photos := self._below(folder))] or [self]
        key = _key(stem_of(name)).casefold()
        return tuple(photo for photos in parts for photo in photos._by_key[-1].get(key, ()))

    def _find(self, path: str, name: str) -> Match | None:
        keys = _keys(path)
        # A photo of the named folder with another suffix is surer than one of the same name in another folder.
        order = (0, 2, 1, 3) if "/" in name else (0, 1, 2, 3)
        for rung, kind in enumerate([*order, *(kind + 4 for kind in order)]):
            hits = self._by_key[kind].get(keys[kind], ())
            if len(hits) == 1:
                return Match(hits[0], rung)
            if path in hits:  # two names that differ in their Unicode form only
                return Match(path, rung)
        return None

    @cached_property
    def _by_key(self) -> tuple[dict[str, list[str]], ...]:
        """For each kind of key (see `_keys`) the photos that have it."""
        kinds: tuple[dict[str, list[str]], ...] = tuple({} for _ in range(8))
        for photo in self.photos:
            for found, key in zip(kinds, _keys(photo), strict=True):
                found.setdefault(key, []).append(photo)
        return kinds

    def _below(self, folder: str) -> PhotoIndex | None:
        if folder not in self._parts:
            prefix = _key(folder) + "/"
            photos = [photo for photo in self.photos if _key(photo).startswith(prefix)] if folder else []
            self._parts[folder] = PhotoIndex(photos) if photos else None
        return self._parts[folder]

    @cached_property
    def _parts(self) -> dict[str, PhotoIndex | None]:
        return {}


def clean_name(name: object, where: str) -> str:
    """A photo's name as a relative path with "/"; names that lead elsewhere raise."""
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f"the photo's name is {name!r}", where=where, fix="Name the photo's file.")
    if not is_inside(name):
        raise AnnotationError(
            f"the photo's name {name!r} leads out of the photo folder",
            where=where,
            fix="Write names relative to the photo folder.",
        )
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def stem_of(name: str) -> str:
    """The base name without an image suffix."""
    return PurePosixPath(_stem(name)).name


def _keys(path: str) -> tuple[str, ...]:
    """The path, its base name, and either without the suffix; then the four of them regardless of case."""
    path = _key(path)
    base = PurePosixPath(path).name
    exact = (path, base, _stem(path), _stem(base))
    return (*exact, *(key.casefold() for key in exact))


def _stem(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return path[: -len(suffix)] if suffix.casefold() in SUFFIXES else path


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text)
