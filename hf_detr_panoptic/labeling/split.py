"""Who is in train, val and test: like photos together, every class on both sides."""

from __future__ import annotations

import argparse
import hashlib
import heapq
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..dataset.copies import Fingerprint, Groups, near_pairs
from ..errors import DatasetError, did_you_mean
from ..parallel import read_ahead
from ..text import count_of, first_lines
from ..tiles import photo_of

if TYPE_CHECKING:
    from ..dataset.coco_panoptic import PanopticSplit


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
    for i, j, distance in near_pairs([entry for _, entry in known], links=True):
        yield Tie(known[i][0], known[j][0], "same photo" if distance == 0 else "near copy")
    yield from _by_key(names, variant_keys(names), "same name")
    tiles = [name for name in names if photo_of(name) is not None]
    yield from _by_key(tiles, [str(photo_of(name)) for name in tiles], "tiles of one photo")
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
    matches = ((name, compiled.search(name)) for name in names)
    return {name: "\0".join(part or "" for part in match.groups()) for name, match in matches if match}


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


PARTS = ("train", "val", "test")
_ANY = ""


@dataclass(frozen=True)
class SplitReport:
    """What the split had to do, and what it could not.

    counts: part → photos; classes: class → part → photos; only_in_train: classes of a single group; one_sided: classes
    of several groups that still are on one side alone; leaks: ties that an earlier split has parted for good;
    incomplete: photos that went to train for nobody may have looked at them; beside: those of them that belong with
    photos of val or test.
    """

    counts: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    groups: int
    largest: tuple[str, ...]
    ties: Mapping[str, int]
    only_in_train: tuple[str, ...]
    one_sided: tuple[str, ...]
    leaks: tuple[Tie, ...]
    kept: int
    unmatched: tuple[str, ...]
    incomplete: int = 0
    beside: tuple[str, ...] = ()
    mixed: int = 0

    def __str__(self) -> str:
        total = sum(self.counts.values())
        share = ", ".join(f"{part} {count} ({count / max(total, 1):.0%})" for part, count in self.counts.items())
        lines = [f"{count_of(total, 'photo')} in {count_of(self.groups, 'group')}: {share}"]
        if total > 1 and not self.counts.get("val"):
            lines.append(
                "nothing is left for val: each group is the only one of some class. Mark these on more photos."
            )
        if self.incomplete:
            lines.append(
                f"{count_of(self.incomplete, 'photo')} that nobody may have looked at: train; shares are of the rest"
            )
        if self.mixed:
            lines.append(f"{count_of(self.mixed, 'photo')} of another dataset: train; shares are of the rest")
        if self.beside:
            lines.append(f"{len(self.beside)} of these are like photos of val or test, {self.beside[0]} first")
        if self.kept:
            lines.append(f"{self.kept} stay where an earlier split put them")
        if self.ties:
            lines.append("kept together: " + ", ".join(f"{count} × {why}" for why, count in self.ties.items()))
        if len({photo_of(name) or name for name in self.largest}) > max(2, total // 10):
            lines.append(f"one group has {len(self.largest)} photos, {self.largest[0]} first: is that meant?")
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} names do not fit the pattern, {self.unmatched[0]} first")
        if self.classes:
            width = max(len(name) for name in self.classes)
            lines.append("".join([f"{'class':<{width}}", *(f"{part:>8}" for part in self.counts)]))
            lines += [
                "".join([f"{name:<{width}}", *(f"{counts.get(part, 0):>8}" for part in self.counts)])
                for name, counts in self.classes.items()
            ]
        if self.only_in_train:
            lines.append(f"in train alone, for want of a second group: {', '.join(self.only_in_train)}")
        if self.one_sided:
            lines.append(f"on one side alone, though there are several groups: {', '.join(self.one_sided)}")
        leaks = (f"leak: {tie.one} and {tie.other} ({tie.why}) were parted before" for tie in self.leaks)
        lines += first_lines(leaks, 10, "more leaks")
        if not self.leaks:
            lines.append("nothing that belongs together was parted")
        return "\n".join(lines)


@dataclass(frozen=True)
class Split:
    """`assignment`: name → part; `groups`: names that stay together."""

    assignment: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    report: SplitReport


def split(
    photos: Mapping[str, Set[str]],
    fraction: float = 0.2,
    seed: int = 0,
    previous: Mapping[str, str] | None = None,
    test: float = 0.0,
    pattern: str | re.Pattern[str] | None = None,
    prints: Mapping[str, Fingerprint] | None = None,
    incomplete: Collection[str] = (),
    mixed: Collection[str] = (),
) -> Split:
    """Share photos out: `fraction` to val, `test` to test, the rest to train. Their order does not matter.

    `photos`: name → the classes that must be on both sides. `prints`: what the photos look like, by name.
    Groups are indivisible. The rarest class is served first: a class of two groups or more is on both sides, a class
    of one group is in train. `previous` (name → part) never changes: new photos follow their group, the rest fill up.
    `pattern` is a regular expression; photos whose names agree in its groups stay together. `incomplete`: the photos
    that nobody may have looked at; they are in train whatever was before, and the shares are of the others.
    So it is with the `mixed`, another dataset's.
    """
    _check(fraction, test, previous)
    names = sorted(photos)
    tied = list(ties(names, [(prints or {}).get(name) for name in names], pattern))
    groups = groups_of(names, tied)
    foreign = len(set(mixed) & photos.keys())
    incomplete = {*incomplete, *mixed} & photos.keys()
    complete = [{name: photos[name] for name in group if name not in incomplete} for group in groups]
    sharing = _Sharing(
        [_Group(group, seed, previous or {}) for group in complete if group],
        {"train": 1 - fraction - test, "val": fraction, "test": test},
    )
    sharing.run()
    assignment = {name: (previous or {}).get(name, group.part) for group in sharing.groups for name in group.names}
    measured = {name for name, part in assignment.items() if part != "train"}
    beside = {name for group in groups if measured.intersection(group) for name in incomplete.intersection(group)}
    assignment |= dict.fromkeys(incomplete, "train")
    largest = max(groups, key=len, default=[])
    present = [part for part in PARTS if part != "test" or test or "test" in assignment.values()]
    classes = {name: Counter[str]() for name in sorted({c for marked in photos.values() for c in marked})}
    for photo, marked in photos.items():
        for name in marked:
            classes[name][assignment[photo]] += 1
    report = SplitReport(
        counts={part: sum(value == part for value in assignment.values()) for part in present},
        classes={name: dict(counts) for name, counts in classes.items()},
        groups=len(groups),
        largest=tuple(largest),
        ties=dict(sorted(Counter(tie.why for tie in tied).items())),
        only_in_train=tuple(name for name in classes if sharing.total[name] == 1 and classes[name]["train"]),
        one_sided=tuple(name for name in classes if sharing.total[name] > 1 and not _both_sides(classes[name])),
        leaks=tuple(
            tie
            for tie in tied
            if assignment[tie.one] != assignment[tie.other] and not beside.intersection((tie.one, tie.other))
        ),
        kept=sum(name in (previous or {}) and name not in incomplete for name in names),
        unmatched=tuple(sorted(set(names) - pattern_keys(names, pattern).keys())) if pattern is not None else (),
        incomplete=len(incomplete) - foreign,
        mixed=foreign,
        beside=tuple(sorted(beside)),
    )
    return Split(dict(sorted(assignment.items())), tuple(map(tuple, groups)), report)


def _both_sides(counts: Mapping[str, int]) -> bool:
    return bool(counts.get("train") and counts.get("val"))


def _check(fraction: float, test: float, previous: Mapping[str, str] | None) -> None:
    if not (0 < fraction < 1 and 0 <= test < 1 and fraction + test < 1):
        raise DatasetError(
            f"val {fraction} and test {test} leave nothing to train on", fix="Use fractions such as 0.2 and 0.1."
        )
    for name, part in (previous or {}).items():
        if part not in PARTS:
            raise DatasetError(f"{name!r} was in {part!r}, which is no split", fix=did_you_mean(part, PARTS))


@dataclass(eq=False)
class _Group:
    """Photos that go together. `pinned`: an earlier split has decided (by majority, should it have parted them)."""

    photos: Mapping[str, Set[str]]
    seed: int
    previous: Mapping[str, str]
    part: str = ""
    pinned: bool = False
    classes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.names = list(self.photos)
        self.classes.update(name for marked in self.photos.values() for name in (*marked, _ANY))
        before = Counter(self.previous[name] for name in self.names if name in self.previous)
        if before:
            self.part = max(before, key=lambda part: (before[part], -PARTS.index(part)))
            self.pinned = True
        # A hash, not a shuffle: the rank of a group does not depend on which others there are.
        self.rank = (-len(self.photos), hashlib.blake2b(f"{self.seed}\0{self.names[0]}".encode()).digest())


class _Sharing:
    """Iterative stratification (Sechidis et al. 2011) over groups; a repair where classes share their last groups.

    there: part → class → groups; need: part → class → photos still wanted. The class `_ANY` is in every photo, so the
    sizes of the parts need no rule of their own.
    """

    def __init__(self, groups: Sequence[_Group], shares: Mapping[str, float]) -> None:
        self.groups = groups
        self.parts = [part for part in PARTS if shares[part] > 0]
        photos: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        for group in groups:
            photos.update(group.classes)
            self.total.update(group.classes.keys())
        self.need = {part: {name: shares[part] * count for name, count in photos.items()} for part in self.parts}
        self.there: dict[str, Counter[str]] = {part: Counter() for part in PARTS}

    def run(self) -> None:
        for group in self.groups:
            if group.pinned:
                self._count(group, group.part)
        self._share_classes()
        for name in sorted(self.total, key=lambda name: (self.total[name], name)):
            for part in self._required(name):
                if not self.there[part][name]:
                    self._repair(name, part)

    def _share_classes(self) -> None:
        waiting: dict[str, list[_Group]] = {}
        for group in sorted((g for g in self.groups if not g.part), key=lambda group: group.rank):
            for name in group.classes:
                waiting.setdefault(name, []).append(group)
        left = {name: len(groups) for name, groups in waiting.items()}
        # At equal counts the class of fewer groups first: one of a single group must be in train, come what may.
        queue = [(count, self.total[name], name == _ANY, name) for name, count in left.items()]
        heapq.heapify(queue)
        heads = dict.fromkeys(waiting, 0)
        while queue:
            count, _, _, name = heapq.heappop(queue)
            if count != left[name] or count == 0:
                continue  # a newer entry of this class is in the queue
            while waiting[name][heads[name]].part:
                heads[name] += 1
            group = waiting[name][heads[name]]
            self._put(group, self._choose(name, count))
            for member in group.classes:
                left[member] -= 1
                heapq.heappush(queue, (left[member], self.total[member], member == _ANY, member))

    def _choose(self, name: str, left: int) -> str:
        """Where the next group of a class goes: to a part that would stay without, else where most are needed."""
        without = [part for part in self._required(name) if not self.there[part][name]]
        if without and len(without) >= left:
            return without[0]
        return max(self.parts, key=lambda part: (self.need[part][name], self.need[part][_ANY]))

    def _required(self, name: str) -> list[str]:
        return self.parts[: self.total[name]]

    def _put(self, group: _Group, part: str) -> None:
        group.part = part
        self._count(group, part)

    def _count(self, group: _Group, part: str, sign: int = 1) -> None:
        for name, photos in group.classes.items():
            self.there[part][name] += sign
            if part in self.need:
                self.need[part][name] -= sign * photos

    def _move(self, group: _Group, part: str) -> None:
        self._count(group, group.part, -1)
        self._put(group, part)

    def _bereft(self, group: _Group) -> set[str]:
        """Classes that their part would lose with this group."""
        return {
            name for name in group.classes if group.part in self._required(name) and self.there[group.part][name] == 1
        }

    def _repair(self, name: str, part: str) -> None:
        """Bring a class to a part that lacks it: move a group nobody misses, else swap it for one that makes it up."""
        movable = sorted((group for group in self.groups if not group.pinned), key=lambda g: (len(g.names), g.rank))
        holders = [group for group in movable if name in group.classes and group.part != part]
        for group in holders:
            if not self._bereft(group):
                self._move(group, part)
                return
        for group in holders[:50]:
            bereft = self._bereft(group)
            for other in movable:
                fits = other.part == part and name not in other.classes
                if fits and bereft <= other.classes.keys() and self._bereft(other) <= group.classes.keys():
                    home = group.part
                    self._move(group, part)
                    self._move(other, home)
                    return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder in COCO's or Cityscapes' panoptic layout")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the photos in val (%(default)s)")
    parser.add_argument("--test", type=float, default=0.0, metavar="FRACTION", help="share held out (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--group", metavar="REGEX", help=r"photos whose names agree in its group stay together: '^(site\d+)_'"
    )
    parser.add_argument("--keep", type=Path, metavar="DATASET", help="photos that this dataset has stay on their side")
    parser.add_argument("--photos", type=Path, help="where the photos are, if not in the folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a new dataset, instead of this one in place")
    parser.add_argument("--dry-run", action="store_true", help="print the table, change nothing")


def main(args: argparse.Namespace) -> int:
    """Share a dataset's photos out to train, val and test: like photos together, every class on both sides."""
    from contextlib import nullcontext

    from ..lock import locked

    written = None if args.dry_run else args.out or args.dataset
    with locked(written) if written and (args.out or written.is_dir()) else nullcontext():
        return _split(args)


def _split(args: argparse.Namespace) -> int:
    from ..dataset.coco_panoptic import read_dataset
    from ..dataset.writer import finish_moving, reassign

    if not args.dry_run and finish_moving(args.dataset / "annotations"):
        print("an earlier split of this dataset was cut short: it is finished first")
    dataset = read_dataset(args.dataset, args.photos)
    kept = read_dataset(args.keep) if args.keep else {}
    previous = {record.file_name: name for name in PARTS if name in kept for record in kept[name]}
    result = split(
        _classes(dataset),
        args.fraction,
        seed=args.seed,
        previous=previous,
        test=args.test,
        pattern=args.group,
        prints=_prints(dataset),
        incomplete={r.file_name for r in chain.from_iterable(dataset.values()) if r.incomplete and not r.mixed},
        mixed={r.file_name for r in chain.from_iterable(dataset.values()) if r.mixed},
    )
    print(result.report)
    if result.report.beside:
        print("they stay in train, where they flatter the figures a little: mark them, or take them out")
    if args.dry_run:
        print("nothing was changed")
        return 0
    if args.out:
        _write(args.out, dataset, result.assignment)
    else:
        reassign(args.dataset, result.assignment)
    print(f"next: hf-detr-panoptic check {shlex.quote(str(args.out or args.dataset))}")
    return 0


def _classes(dataset: Mapping[str, PanopticSplit]) -> dict[str, set[str]]:
    """Classes that a person marked are what must be on both sides. Where nobody says who marked, a person did."""
    classes: dict[str, set[str]] = {}
    for record in chain.from_iterable(dataset.values()):
        if record.file_name in classes:
            raise DatasetError(f"the photo {record.file_name!r} is there twice", fix="Names must tell photos apart.")
        classes[record.file_name] = {record.space[s.label].name for s in record.segments if s.source == "custom"}
    return classes


def _prints(dataset: Mapping[str, PanopticSplit]) -> dict[str, Fingerprint]:
    from ..dataset.copies import fingerprint, of_photo

    records = list(chain.from_iterable(dataset.values()))
    prints = read_ahead(lambda record: fingerprint(record.photo), records)
    names = [record.file_name for record in records]
    return {name: of_photo(name, entry) for name, entry in zip(names, prints, strict=True)}


def _write(folder: Path, dataset: Mapping[str, PanopticSplit], assignment: Mapping[str, str]) -> None:
    from ..dataset.photos import stored_names
    from ..dataset.writer import DatasetWriter

    names = stored_names(assignment)
    space = next(iter(dataset.values())).space
    with DatasetWriter(folder, space) as writer:
        for split in dataset.values():
            for record in split:
                writer.add(
                    assignment[record.file_name],
                    names[record.file_name],
                    record.photo,
                    record.map(),
                    image_id=record.image_id if isinstance(record.image_id, int) else None,
                    original=record.original_file or record.file_name,
                    incomplete=record.incomplete,
                    mixed=record.mixed,
                )
