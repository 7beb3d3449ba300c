"""Photos that must not be parted: near copies, variants of one name, and what a person's pattern puts together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..data.near_copies import Fingerprint, Groups, near_pairs
from ..errors import DatasetError

_SUFFIX_OF_A_COPY = re.compile(
    r"""(?ix)(
        [\s_.-]+ (copy|kopie|copie|copia|duplicate) ([\s_-]*\(?\d+\)?)?       # img - Copy (2)
      | [\s_.-]+ (resized?|scaled|cropped|edit(ed)?|orig(inal)?|small|medium|large|thumb(nail)?|preview)
      | [\s_.-]+ (flip(ped)?|mirror(ed)?|rot(ated?)?|aug(mented)?) [\s_-]*\d*
      | [\s_.-]+ \d{2,5} x \d{2,5}                                            # img_800x600
      | @\dx | ~\d+                                                           # img@2x, Android's edits
      | ([_.](jpe?g|png))? \.rf\. [0-9a-z]{8,}                                # an exporter's augmented copies
    )$"""
)
_NUMBERED = re.compile(r"[\s_]*\(\d+\)$")


@dataclass(frozen=True)
class Tie:
    """Why two photos belong together."""

    one: str
    other: str
    why: str


def ties(
    names: Sequence[str], prints: Sequence[Fingerprint | None], pattern: str | re.Pattern[str] | None
) -> Iterator[Tie]:
    """Every reason not to part two photos; enough of them to join each group."""
    known = [(name, entry) for name, entry in zip(names, prints, strict=True) if entry is not None]
    for i, j, distance in near_pairs([entry for _, entry in known]):
        yield Tie(known[i][0], known[j][0], "same photo" if distance == 0 else "near copy")
    yield from _by_key(names, variant_keys(names), "same name")
    if pattern is not None:
        keys = pattern_keys(names, pattern)
        yield from _by_key(list(keys), list(keys.values()), "pattern")


def groups_of(names: Sequence[str], tied: Sequence[Tie]) -> list[list[str]]:
    """The groups, each sorted, in the order of their first names."""
    groups = Groups(sorted(names))
    for tie in tied:
        groups.join(tie.one, tie.other)
    return sorted(groups.all())


def variant_keys(names: Sequence[str]) -> list[str]:
    """Folder and bare name: `a/img_01.jpg`, `a/IMG_01.png`, `a/img_01_copy.jpg`, `a/img_01 (1).jpg` have one key.

    A number in brackets counts only where the name without it is there too: `site (1).jpg`, `site (2).jpg`, … without
    a `site.jpg` are what bulk renaming makes of different photos.
    """
    bare = [_bare(name) for name in names]
    there = set(bare)
    return [short if (short := _bare(_NUMBERED.sub("", key) + ".x")) in there else key for key in bare]


def pattern_keys(names: Sequence[str], pattern: str | re.Pattern[str]) -> dict[str, str]:
    """name → what the pattern's groups matched, of the names that it fits."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"the group pattern {pattern!r} is no regular expression ({error})") from error
    if not compiled.groups:
        raise DatasetError(
            f"the group pattern {compiled.pattern!r} has no group",
            fix=r"Put the part that photos share in brackets: '^(site\d+)_'.",
        )
    found = ((name, compiled.search(name)) for name in names)
    return {name: "\0".join(part or "" for part in match.groups()) for name, match in found if match}


def _bare(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    stem, previous = path.stem.casefold(), ""
    while stem != previous:
        previous, shorter = stem, _SUFFIX_OF_A_COPY.sub("", stem)
        stem = shorter or stem
    return f"{path.parent.as_posix()}/{stem}"


def _by_key(names: Sequence[str], keys: Sequence[str], why: str) -> Iterator[Tie]:
    first: dict[str, str] = {}
    for name, key in zip(names, keys, strict=True):
        other = first.setdefault(key, name)
        if other != name:
            yield Tie(other, name, why)
