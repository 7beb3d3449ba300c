"""What the name of a mask file says: which photo it belongs to, which class it shows, whether it is one object."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from ...errors import AnnotationError, did_you_mean
from .matching import PhotoIndex, stem_of
from .sources import folder_of

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
            if found := re.fullmatch(_regex(self.pattern, stem), text):
                fields = found.groupdict()
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
    for place, part in enumerate(parts):
        if place % 2 == 0:
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
