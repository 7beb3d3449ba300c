"""What becomes of the labeler's classes beside the person's own: ready-made schemes, and what to ask the person."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from ..errors import RecipeError, did_you_mean
from ..labels import LabelSpace
from ..settings import SchemeName
from ..text import count_of, first_lines

if TYPE_CHECKING:
    from ..annotations.marks import MarkedPhoto


# "coco" leaves all as it is. The other two are the construction set's: "stuff_groups" has 15 groups of stuff and puts
# COCO's things into `misc`; "stuff" has all 53 stuff classes and puts the things into `misc_stuff`.
SCHEMES = get_args(SchemeName)


@dataclass(frozen=True)
class Scheme:
    """The orders of `LabelSpace.mapping` and `LabelSpace.merged`, as a recipe writes them."""

    keep: Sequence[str] | None = None
    drop: Sequence[str] = ()
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    things: Sequence[str] = ()
    stuff: Sequence[str] = ()

    def mapping(self, labeler: LabelSpace) -> dict[str, str | None]:
        """Name of the labeler's → name in the dataset, None for void: what `overlay` wants."""
        return labeler.mapping(self.keep, self.drop, self.merge, self.rename)

    def space(self, labeler: LabelSpace, custom: LabelSpace) -> LabelSpace:
        """The dataset's label space: the labeler's classes after `mapping`, then the person's own."""
        return labeler.merged(custom, self.keep, self.drop, self.merge, self.rename, self.things, self.stuff)


def scheme(name: str, labeler: LabelSpace, leave: Collection[str] = ()) -> Scheme:
    """A ready-made scheme for the COCO classes that this labeler knows; its other classes stay as they are.

    Names in `leave` stay out of the groups: those that the person marks (the same name is the same class), and those
    that a recipe drops or renames itself.
    """
    if name not in SCHEMES:
        raise RecipeError(f"no label scheme is called {name!r}", fix=did_you_mean(name, SCHEMES))
    if name == "coco":
        return Scheme()
    known = [
        category for category in LabelSpace.coco() if category.name in labeler.names and category.name not in leave
    ]
    misc = {"stuff_groups": "misc", "stuff": "misc_stuff"}[name]
    merge = {misc: [category.name for category in known if category.isthing]}
    if name == "stuff_groups":
        for category in known:
            if not category.isthing:
                merge.setdefault(_group(category.supercategory or category.name), []).append(category.name)
    merge = {group: members for group, members in merge.items() if members}
    return Scheme(merge=merge, stuff=(misc,) if misc in merge else ())


def origins(
    settings: Mapping[str, Any], space: LabelSpace, custom: Iterable[str], relabelled: Sequence[Mapping[str, Any]] = ()
) -> dict[str, list[str]]:
    """Name in a dataset → what a model of this space calls it, by the settings that prepare.json tells.

    `custom`: what the person marked; `relabelled`: what `relabel` was told since, step by step. Names that stayed are
    not among them, nor what this model does not know, which need not be the labeler.
    """
    merge = dict(settings.get("merge") or {})
    rename = dict(settings.get("rename") or {})
    asked = {*(settings.get("drop") or ()), *rename, *(name for names in merge.values() for name in names)}
    ready = scheme(settings.get("scheme") or "coco", space, leave={*custom, *asked})
    before = {new: [old] for old, new in rename.items()}
    for groups in (ready.merge, merge):
        for group, members in groups.items():
            before[group] = [*before.get(group, ()), *members]
    for step in relabelled:
        asked_now = {new: [old] for old, new in step.get("rename", {}).items()} | dict(step.get("merge", {}))
        older = {name: before.get(name, [name]) if name not in space.names else [name]
                 for names in asked_now.values() for name in names}  # fmt: skip
        before = {name: names for name, names in before.items() if name not in older}
        for new, names in asked_now.items():
            before[new] = [*before.get(new, ()), *(old for name in names for old in older[name])]
    known = {new: [old for old in names if old in space.names] for new, names in before.items()}
    return {new: names for new, names in known.items() if names}


def _group(supercategory: str) -> str:
    """COCO tells "furniture-stuff" from its things' "furniture"; among stuff alone the plain word will do."""
    return supercategory.removesuffix("-stuff").replace("-", "")


@dataclass(frozen=True)
class Namesake:
    """A class of the person's and one of the labeler's that carry one name: exactly, but for its spelling, or, `near`,
    but for words that say little ("tree", "tree-merged") or the plural."""

    custom: str
    labeler: str
    new_name: str
    near: bool = False

    @property
    def same(self) -> bool:
        return self.custom == self.labeler

    @property
    def flag(self) -> str:
        """What parts two that are one, or joins two that are parted."""
        if self.near:
            return shlex.join(["--merge", f"{self.custom}={self.labeler}"])
        return f"--rename {shlex.quote(f'{self.labeler}={self.new_name if self.same else self.custom}')}"

    def __str__(self) -> str:
        if self.near:
            return (
                f"your '{self.custom}' and the labeler's '{self.labeler}' look alike, and stay two classes. "
                f"If they are one: {self.flag}"
            )
        if self.same:
            return (
                f"'{self.custom}' is your class and the labeler's: the two become one class. If yours is something "
                f"else, part them: {self.flag}"
            )
        return (
            f"your class '{self.custom}' and the labeler's '{self.labeler}' stay two classes. If they are one, "
            f"join them: {self.flag}"
        )


def namesakes(custom: Iterable[str], labeler: LabelSpace) -> list[Namesake]:
    """Classes for the person to decide on: the same name is taken for the same class, though it may not mean it.

    Another spelling ("Traffic_Light", "traffic light") is taken for another class, and reported too, as is what looks
    alike ("tree", "tree-merged"), unless the labeler has the very name.
    """
    mine = list(custom)
    alike = []
    for name in mine:
        for other in labeler.names:
            if _spelling(name) == _spelling(other) and (name == other or other not in mine):
                new_name = f"{other} (other)"
                while new_name in labeler.names or new_name in mine:
                    new_name += "'"
                alike.append(Namesake(name, other, new_name))
            elif _stem(name) == _stem(other) and name not in labeler.names and other not in mine:
                alike.append(Namesake(name, other, "", near=True))
    return alike


_SAYS_LITTLE = {"merged", "other", "stuff", "the", "a"}


def _stem(name: str) -> str:
    """The name without such words, and each of its words in the singular."""
    words = [word for word in re.split(r"[\W_]+", name.casefold()) if word]
    telling = [word for word in words if word not in _SAYS_LITTLE] or words
    return " ".join(word[:-1] if word.endswith("s") and len(word) > 3 else word for word in telling)


def said_of_namesakes(namesakes: Sequence[Namesake], most: int) -> list[str]:
    """One in a sentence, several of a kind in a sentence and a table; nothing where there is none."""
    lines: list[str] = []
    for kind, what in (
        (
            (True, False),
            "names are your classes and the labeler's: the two of a name become one. Part those that are not",
        ),
        (
            (False, False),
            "of your classes and the labeler's differ in spelling alone: they stay two. Join those that are one",
        ),
        ((False, True), "of your classes and the labeler's look alike: they stay two. Join those that are one"),
    ):
        alike = [entry for entry in namesakes if (entry.same, entry.near) == kind]
        if len(alike) < 2:
            lines += map(str, alike)
        else:
            lines += [f"{len(alike)} {what}:", *_rows([(entry.custom, entry.flag) for entry in alike], most)]
    return lines


def _rows(rows: Sequence[tuple[str, str]], most: int) -> list[str]:
    width = max(len(name) for name, _ in rows[:most])
    return first_lines((f"  {name:<{width}}  {rest}" for name, rest in rows), most, "more classes")


def _spelling(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@dataclass(frozen=True)
class PartlyMarked:
    """A custom class that is marked on some of the photos only, and the others, on which it may stand unmarked."""

    name: str
    marked: int
    unmarked: tuple[str, ...]

    @property
    def photos(self) -> int:
        return self.marked + len(self.unmarked)


def partly_marked(photos: Sequence[MarkedPhoto]) -> list[PartlyMarked]:
    """Classes that some of a dataset's photos lack, in order of first appearance. Void marks are no class."""
    names = {photo.photo: {mark.name for mark in photo.marks if not mark.void} for photo in photos}
    classes = dict.fromkeys(mark.name for photo in photos for mark in photo.marks if not mark.void)
    partly = []
    for name in classes:
        unmarked = tuple(photo for photo, marked in names.items() if name not in marked)
        if unmarked:
            partly.append(PartlyMarked(name, len(names) - len(unmarked), unmarked))
    return partly


def said_of_partly_marked(classes: Sequence[PartlyMarked], most: int) -> list[str]:
    """One in a sentence, several in a sentence and a table; nothing where there is none."""
    if not classes:
        return []
    one = len(classes) == 1
    advice = (
        f"Where {'it stands' if one else 'one of them stands'} unmarked, the model is taught that it is something "
        "else: mark it there, or let a model that knows it propose it (prepare --labeler RUN/final)"
    )
    photos = count_of(classes[0].photos, "photo")
    if one:
        return [f"'{classes[0].name}' is marked on {classes[0].marked:,} of {photos}. {advice}"]
    rows = [(entry.name, f"on {entry.marked:,}, not on {len(entry.unmarked):,}") for entry in classes]
    return [f"{len(classes)} of your classes are marked on some of {photos}. {advice}:", *_rows(rows, most)]
