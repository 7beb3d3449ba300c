"""What a person marked: the values that every reader returns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# As they read once everything but letters is gone: "_background_" and "Ignore region" are among them.
VOID_NAMES = frozenset(
    {"background", "ignore", "ignored", "ignoreregion", "void", "unlabeled", "unlabelled", "dontcare"}
)


@dataclass(frozen=True)
class Mark:
    """One region that a person marked on one photo. Marks may overlap.

    `rle` is COCO's compressed run-length encoding over the whole upright photo, `{"size": [H, W], "counts": bytes}`;
    None where only a rectangle was drawn. `box` is (x, y, width, height) in pixels of the upright photo, tight around
    the pixels where there is an `rle`. `where` names file and annotation. `layer`: what has a higher one lies on top,
    where the tool has layers (CVAT's z_order). `source` is "auto" for what a labeler added to a dataset of ours.
    """

    name: str
    rle: dict[str, Any] | None
    box: tuple[float, float, float, float]
    crowd: bool
    where: str
    layer: float = 0.0
    source: str = "custom"

    @property
    def void(self) -> bool:
        """Whether the name says that nobody knows: these pixels become void."""
        return is_void_name(self.name)


@dataclass(frozen=True)
class MarkedPhoto:
    """One photo and its marks in the order of the file; `photo` is its path in the photo folder, with "/".

    `tagged`: the whole photo bears a tag (CVAT) or a flag (LabelMe), or a dataset of ours says that it is complete, as
    it would once somebody has looked at it. `only`: such tags, or the dataset, say that it is complete for these
    classes alone, or for none.
    """

    photo: str
    width: int
    height: int
    marks: tuple[Mark, ...]
    tagged: bool = False
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that was set aside: a row of skipped.csv.

    `photo` is the photo that must not be used, since a mark of it could not be read; None where no photo suffers.
    """

    where: str
    what: str
    fix: str | None
    photo: str | None = None


@dataclass(frozen=True)
class Unmatched:
    """A photo that the annotations name and that is not in the photo folder, or not for certain."""

    name: str
    where: str
    why: str


@dataclass(frozen=True)
class Annotations:
    """All that was read. `names` are the classes in order of first appearance, void ones left out; `colors` are those
    of the tool, where it tells them."""

    photos: tuple[MarkedPhoto, ...]
    skipped: tuple[Skipped, ...]
    unmatched: tuple[Unmatched, ...]
    names: tuple[str, ...]
    format: str
    description: str
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


def is_only_here(name: str) -> bool:
    """Whether a mark is no object, but the rectangle in which alone somebody looked."""
    return re.sub(r"[\W\d_]+", "", name.casefold()) == "onlyhere"


def told_by_tags(tags: Iterable[str]) -> tuple[bool, tuple[str, ...] | None]:
    """Whether tags or flags of a photo say that it is complete, or for which classes alone: "only-pipe"."""
    found = [(tag, re.fullmatch(r"\s*only[\s:_-]+(\S.*?)\s*", tag, re.IGNORECASE)) for tag in tags]
    only = tuple(dict.fromkeys(match[1] for _, match in found if match))
    return bool(found) and not only, only or None


def is_void_name(name: str) -> bool:
    """Whether a class name means void: background, ignore, void, unlabeled and their spellings."""
    return re.sub(r"[\W\d_]+", "", name.casefold()) in VOID_NAMES
