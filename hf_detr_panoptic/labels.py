"""Categories and their order. A category's place in a `LabelSpace` is its label; its name is its identity."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from .coco_categories import COCO_PANOPTIC
from .errors import LabelError, did_you_mean
from .text import and_more, is_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMAT = 1
SOURCES = ("custom", "auto")


@dataclass(frozen=True)
class Category:
    """One class. `source` says whether the person marks it ("custom") or the labeler knows it ("auto")."""

    name: str
    isthing: bool
    color: tuple[int, int, int] | None = None
    source: str = "custom"
    supercategory: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise LabelError(
                f"a category needs a name, got {self.name!r}", fix="Give it a word that a person would use."
            )
        if not is_text(self.name):
            raise LabelError(
                f"the category {ascii(self.name)[:60]} has a character that no file can hold", fix="Rename it."
            )
        object.__setattr__(self, "isthing", bool(self.isthing))
        if self.source not in SOURCES:
            raise LabelError(
                f"category '{self.name}' has the unknown source {self.source!r}",
                fix=did_you_mean(self.source, SOURCES),
            )
        if self.color is not None:
            color = tuple(int(channel) for channel in self.color)
            if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
                raise LabelError(
                    f"category '{self.name}' has the colour {self.color!r}", fix="Give three numbers from 0 to 255."
                )
            object.__setattr__(self, "color", color)


@dataclass(frozen=True, eq=False)
class LabelSpace(Sequence[Category]):
    """Categories in the order of their labels: contiguous from 0, names unique.

    `columns[label]` is the category's column among a checkpoint's class logits; for our own models that is the label
    itself. Two spaces are equal when names and kinds agree in order: colours, sources and columns are decoration.
    """

    categories: tuple[Category, ...]
    columns: tuple[int, ...]

    def __init__(self, categories: Iterable[Category], columns: Iterable[int] | None = None) -> None:
        chosen = tuple(categories)
        for entry in chosen:
            if not isinstance(entry, Category):
                raise LabelError(f"expected a Category, got {entry!r}", fix='Write Category("pipe", isthing=True).')
        seen: dict[str, int] = {}
        for label, category in enumerate(chosen):
            if category.name in seen:
                raise LabelError(
                    f"the name '{category.name}' stands at labels {seen[category.name]} and {label}",
                    fix="Names decide identity: merge the two or rename one.",
                )
            seen[category.name] = label
        numbers = tuple(range(len(chosen))) if columns is None else tuple(int(column) for column in columns)
        if len(numbers) != len(chosen) or len(set(numbers)) != len(numbers) or any(column < 0 for column in numbers):
            raise LabelError(f"{len(chosen)} categories cannot sit at the columns {numbers}")
        object.__setattr__(self, "categories", chosen)
        object.__setattr__(self, "columns", numbers)

    # --- a sequence, compared by names and kinds

    def __len__(self) -> int:
        return len(self.categories)

    @overload
    def __getitem__(self, label: int) -> Category: ...
    @overload
    def __getitem__(self, label: slice) -> tuple[Category, ...]: ...
    def __getitem__(self, label: int | slice) -> Category | tuple[Category, ...]:
        return self.categories[label]

    def __iter__(self) -> Iterator[Category]:
        return iter(self.categories)

    def __contains__(self, item: object) -> bool:
        return item in self._labels or item in self.categories

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSpace) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        shown = ", ".join(f"{c.name}{'' if c.isthing else ' (stuff)'}" for c in self.categories[:6])
        rest = f", … {len(self) - 6} more" if len(self) > 6 else ""
        return f"LabelSpace({len(self)}: {shown}{rest})"

    def index(self, name: str | Category, *bounds: int) -> int:  # type: ignore[override]
        """The label of a name."""
        wanted = name.name if isinstance(name, Category) else name
        try:
            return self._labels[wanted]
        except KeyError:
            raise LabelError(f"no category is called {wanted!r}", fix=did_you_mean(wanted, self.names)) from None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    @functools.cached_property
    def thing_labels(self) -> frozenset[int]:
        return frozenset(label for label, category in enumerate(self.categories) if category.isthing)

    @functools.cached_property
    def stuff_labels(self) -> frozenset[int]:
        return frozenset(range(len(self))) - self.thing_labels

    @functools.cached_property
    def custom_labels(self) -> frozenset[int]:
        """The classes that the person marks."""
        return frozenset(label for label, category in enumerate(self.categories) if category.source == "custom")

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return {category.name: label for label, category in enumerate(self.categories)}

    @functools.cached_property
    def _identity(self) -> tuple[tuple[str, bool], ...]:
        return tuple((category.name, category.isthing) for category in self.categories)

    # --- COCO

    @classmethod
    def coco(cls) -> LabelSpace:
        """COCO panoptic's 133 categories, as the pretrained DETR knows them."""
        return _coco()

    @classmethod
    def from_coco(cls, categories: Iterable[Mapping[str, Any]]) -> LabelSpace:
        """The space of a COCO file's `categories`: the n-th entry is label n, whatever its id."""
        chosen: list[Category] = []
        ids: dict[int, int] = {}
        for label, entry in enumerate(categories):
            where = f"categories[{label}]"
            if not isinstance(entry, Mapping) or "id" not in entry or "name" not in entry:
                raise LabelError("a category needs 'id' and 'name'", where=where)
            if isinstance(entry["id"], bool) or not isinstance(entry["id"], int):
                raise LabelError(f"the id {entry['id']!r} is not a whole number", where=where)
            if entry["id"] in ids:
                raise LabelError(
                    f"the id {entry['id']} stands at categories[{ids[entry['id']]}] already",
                    where=where,
                    fix="Give each category an id of its own.",
                )
            ids[entry["id"]] = label
            name = str(entry["name"])
            isthing = entry.get("isthing")
            color = entry.get("color")
            chosen.append(
                Category(
                    name=name,
                    isthing=bool(isthing) if isthing is not None else _coco_kind(name, default=True),
                    color=tuple(color) if color is not None else None,
                    source=str(entry.get("source", "auto")),
                    supercategory=entry.get("supercategory"),
                )
            )
        return cls(chosen)

    def to_coco(self) -> list[dict[str, Any]]:
        """`categories` of a COCO file. Ids are label + 1: in COCO's files 0 is nobody's."""
        return [
            {
                "id": label + 1,
                "name": category.name,
                "supercategory": category.supercategory or category.name,
                "isthing": int(category.isthing),
                "color": list(category.color or default_color(label)),
                "source": category.source,
            }
            for label, category in enumerate(self.categories)
        ]

    # --- a model's configuration

    @classmethod
    def from_config(
        cls, config: PretrainedConfig | Mapping[str, Any], stuff: Iterable[str] | None = None
    ) -> LabelSpace:
        """The compact space of a checkpoint, holes left out, with the logit column of each category.

        `stuff` names the stuff classes where neither the configuration nor COCO can say.
        """
        fields: Mapping[str, Any] = config if isinstance(config, Mapping) else config.to_dict()
        where = str(fields.get("_name_or_path") or "") or None
        try:
            return cls._from_fields(fields, stuff, where)
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
            raise LabelError(
                f"what the configuration says of the classes is damaged ({error})",
                where=where,
                fix="Copy or download the checkpoint again.",
            ) from error

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any], stuff: Iterable[str] | None, where: str | None) -> LabelSpace:
        id2label = fields.get("id2label")
        if not id2label:
            raise LabelError(
                "the configuration has no id2label", where=where, fix="Set id2label, or hand over a LabelSpace."
            )
        extra: Mapping[str, Any] = fields.get("hf_detr_panoptic") or {}
        if extra.get("format", FORMAT) > FORMAT:
            raise LabelError(
                f"the checkpoint was written in format {extra['format']}, this version reads up to {FORMAT}",
                where=where,
                fix="Upgrade hf-detr-panoptic.",
            )
        if not extra.keys() & {"format", "colors", "sources", "supercategories"}:
            extra = {}  # settings of post-processing alone: the classes are the checkpoint's own, holes and all
        names = {int(column): str(name) for column, name in id2label.items()}
        named = {column: name for column, name in sorted(names.items()) if extra or not _is_hole(column, name)}
        if not named:
            raise LabelError(
                f"all {len(names)} labels are nameless placeholders such as {names[min(names)]!r}",
                where=where,
                fix="Set config.id2label to the names of the classes.",
            )
        kinds = _kinds_of_config(fields, named, stuff, where)
        decoration = {key: extra.get(key) or [None] * len(named) for key in ("colors", "sources", "supercategories")}
        for key, values in decoration.items():
            if len(values) != len(named):
                raise LabelError(
                    f"hf_detr_panoptic.{key} has {len(values)} entries, id2label {len(named)}", where=where
                )
        coco = {category.name: category for category in cls.coco()}
        categories = [
            Category(
                name=name,
                isthing=kinds[name],
                color=color or (coco[name].color if not extra and name in coco else None),
                source=source or "auto",
                supercategory=supercategory or (coco[name].supercategory if not extra and name in coco else None),
            )
            for name, color, source, supercategory in zip(named.values(), *decoration.values(), strict=True)
        ]
        return cls(categories, columns=named)

    def to_config(self) -> dict[str, Any]:
        """What a model of ours remembers of its labels, ready for `DetrConfig(**space.to_config())`."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: label for label, name in enumerate(self.names)},
            "label_ids_to_fuse": sorted(self.stuff_labels),
            "hf_detr_panoptic": {
                "format": FORMAT,
                "colors": [list(c.color) if c.color else None for c in self.categories],
                "sources": [c.source for c in self.categories],
                "supercategories": [c.supercategory for c in self.categories],
            },
        }

    # --- two spaces into one

    def mapping(
        self,
        keep: Iterable[str] | None = None,
        drop: Iterable[str] = (),
        merge: Mapping[str, Iterable[str]] | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> dict[str, str | None]:
        """What becomes of each name: its new name, or None where its pixels turn to void.

        `keep` keeps only these, `drop` drops these, `merge` puts names into a group, `rename` gives another name.
        """
        groups = {group: list(_names(members, f"merge: {group}")) for group, members in (merge or {}).items()}
        renamed = dict(rename or {})
        dropped = dict.fromkeys(_names(drop, "drop"))
        asked: dict[str, list[str]] = {}
        orders: dict[str, Iterable[str]] = {"drop": dropped, "rename": renamed}
        orders |= {f"merge: {group}": members for group, members in groups.items()}
        for what, names in orders.items():
            for name in names:
                asked.setdefault(name, []).append(what)
        kept = dict.fromkeys(self.names if keep is None else _names(keep, "keep"))
        for name in [*asked, *kept]:
            if name not in self._labels:
                source = asked.get(name, ["keep"])[0]
                raise LabelError(f"{source}: no category is called {name!r}", fix=did_you_mean(name, self.names))
        for name, fates in asked.items():
            if len(fates) > 1:
                raise LabelError(f"'{name}' stands under {' and '.join(fates)}", fix="Give it one fate.")
        if keep is not None:
            contradicted = [name for name in dropped if name in kept]
            if contradicted:
                raise LabelError(f"'{contradicted[0]}' stands under keep and drop", fix="Give it one fate.")
        fate: dict[str, str | None] = {
            name: name if name in kept and name not in dropped else None for name in self.names
        }
        fate.update(renamed)
        fate.update({name: group for group, members in groups.items() for name in members})
        for old, new in renamed.items():
            also = [name for name, other in fate.items() if other == new and name != old]
            if also:
                raise LabelError(
                    f"rename: '{old}' would become '{new}', and so is '{also[0]}'", fix=f"Put both under merge: {new}."
                )
        return fate

    def merged(
        self,
        other: LabelSpace,
        keep: Iterable[str] | None = None,
        drop: Iterable[str] = (),
        merge: Mapping[str, Iterable[str]] | None = None,
        rename: Mapping[str, str] | None = None,
        things: Iterable[str] = (),
        stuff: Iterable[str] = (),
    ) -> LabelSpace:
        """This space, its names mapped (see `mapping`), followed by what only `other` has.

        The same name is the same class. Where the two disagree on its kind, or a group mixes kinds, `things` or
        `stuff` must decide.
        """
        fate = self.mapping(keep, drop, merge, rename)
        decided = dict.fromkeys(_names(things, "things"), True)
        for name in _names(stuff, "stuff"):
            if decided.setdefault(name, False):
                raise LabelError(f"'{name}' stands under things and stuff", fix="Give it one kind.")
        known = dict.fromkeys([*filter(None, fate.values()), *other.names])
        for name in decided:
            if name not in known:
                raise LabelError(f"things/stuff: no category is called {name!r}", fix=did_you_mean(name, known))
        joined: dict[str, Category] = {}
        for category in self.categories:
            new = fate[category.name]
            if new is not None:
                joined[new] = _joined(joined.get(new), replace(category, name=new), decided)
        for category in other.categories:
            joined[category.name] = _joined(joined.get(category.name), category, decided)
        return LabelSpace(
            replace(category, isthing=decided.get(name, category.isthing)) for name, category in joined.items()
        )


def default_color(label: int) -> tuple[int, int, int]:
    """A colour for a category that has none: hues a golden angle apart, so neighbours differ."""
    import colorsys

    hue = (label * 0.61803398875) % 1.0
    value = (0.95, 0.75, 0.6)[label // 5 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.65, 0.85)[label % 2], value)
    return round(red * 255), round(green * 255), round(blue * 255)


@functools.cache
def _coco() -> LabelSpace:
    categories = []
    for line in COCO_PANOPTIC.strip().splitlines():
        _, kind, color, rest = line.split(maxsplit=3)
        supercategory, name = rest.split(" / ")
        red, green, blue = bytes.fromhex(color)
        categories.append(Category(name, kind == "thing", (red, green, blue), "auto", supercategory))
    return LabelSpace(categories)


def _coco_kind(name: str, default: bool) -> bool:
    space = LabelSpace.coco()
    return space[space.index(name)].isthing if name in space.names else default


def _is_hole(column: int, name: str) -> bool:
    # DETR's own COCO checkpoints have a column for each COCO id up to the largest; unused ids are `N/A` or `LABEL_n`.
    return name.strip().upper() in ("N/A", "") or bool(re.fullmatch(rf"LABEL_{column}", name))


def _kinds_of_config(
    fields: Mapping[str, Any], named: Mapping[int, str], stuff: Iterable[str] | None, where: str | None
) -> dict[str, bool]:
    """name → is it a thing; from `stuff`, else the configuration, else COCO, else an error."""
    if stuff is not None:
        declared = set(_names(stuff, "stuff"))
        for name in declared - set(named.values()):
            raise LabelError(
                f"stuff: no category is called {name!r}", where=where, fix=did_you_mean(name, named.values())
            )
        return {name: name not in declared for name in named.values()}
    if fields.get("label_ids_to_fuse") is not None:
        fused = {int(column) for column in fields["label_ids_to_fuse"]}
        return {name: column not in fused for column, name in named.items()}
    coco = LabelSpace.coco()
    strangers = [name for name in named.values() if name not in coco.names]
    if strangers:
        raise LabelError(
            f"the configuration does not say whether {and_more(strangers, 5)} are things or stuff",
            where=where,
            fix='Say which are stuff: stuff=["sky", …] (an empty list when all are things).',
        )
    return {name: coco[coco.index(name)].isthing for name in named.values()}


def _names(names: Iterable[str], what: str) -> Iterable[str]:
    if isinstance(names, str):
        raise LabelError(f"{what}: expected a list of names, got the text {names!r}", fix=f"Write [{names}].")
    return names


def _joined(first: Category | None, second: Category, decided: Mapping[str, bool]) -> Category:
    """Two categories of one name as one; the person's source and colour win."""
    if first is None:
        return second
    if first.isthing != second.isthing and first.name not in decided:
        raise LabelError(
            f"'{first.name}' is a thing in one place and stuff in another",
            fix=f"Decide with things: [{first.name}] or stuff: [{first.name}], or rename one.",
        )
    return replace(
        first,
        color=(second.color if second.source == "custom" else None) or first.color or second.color,
        source="custom" if "custom" in (first.source, second.source) else "auto",
        supercategory=first.supercategory or second.supercategory,
    )
