"""What must be known of every photo before any work is planned: is it readable, how large, what does it show."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..data.near_copies import Fingerprint, fingerprint
from ..errors import HfDetrPanopticError, ImageError
from ..images import image_size

_AT_A_TIME = 256  # files in memory are few, whatever the number of photos


@dataclass(frozen=True)
class Photo:
    """A readable photo: its name in the photo folder, with "/", and its upright (height, width)."""

    name: str
    size: tuple[int, int]
    fingerprint: Fingerprint

    @property
    def digest(self) -> str:
        """Of the file's bytes: two photos of one digest are one photo."""
        return self.fingerprint.digest


@dataclass(frozen=True)
class Problem:
    """Something that keeps a photo out of the dataset; a row of skipped.csv."""

    photo: str
    what: str
    fix: str | None = None
    where: str | None = None

    def __str__(self) -> str:
        place = " in ".join(dict.fromkeys(filter(None, (self.photo, self.where))))
        return f"{place}: {self.what.rstrip('.')}.{f' {self.fix}' if self.fix else ''}"


def survey(
    folder: Path, names: Sequence[str], workers: int | None = None, progress: bool = False
) -> tuple[list[Photo], list[Problem]]:
    """Look at every photo once, in order. What cannot be decoded to its end is a problem, not an error."""
    photos: list[Photo] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for found in _shown(_mapped(pool, folder, names), len(names), progress):
            (photos if isinstance(found, Photo) else problems).append(found)  # type: ignore[arg-type]
    return photos, problems


def _mapped(pool: ThreadPoolExecutor, folder: Path, names: Sequence[str]) -> Iterator[Photo | Problem]:
    for start in range(0, len(names), _AT_A_TIME):
        yield from pool.map(lambda name: _look(folder, name), names[start : start + _AT_A_TIME])


def _look(folder: Path, name: str) -> Photo | Problem:
    try:
        content = read_photo(folder, name)
        seen = fingerprint(content)
        width, height = image_size(content)
        return Photo(name, (height, width), seen)
    except HfDetrPanopticError as error:
        return Problem(name, error.what, error.fix)


def read_photo(folder: Path, name: str) -> bytes:
    """The file's bytes."""
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot be read ({error.strerror})", where=name, fix="Check that it is there, and its permissions."
        ) from error


def _shown(items: Iterable[Photo | Problem], total: int, progress: bool) -> Iterable[Photo | Problem]:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="looking at the photos", unit="photo", leave=False)
