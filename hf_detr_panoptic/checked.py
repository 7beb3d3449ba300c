"""How plain data is checked: pydantic finds what is wrong, and a RecipeError says where it was written and what to do.

`Settings` is what every class in settings.py is; the types here take what YAML and flags give.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from .errors import RecipeError, did_you_mean

KeyPath = tuple[str, ...]

# --- what a value may be


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and value else value


def _names(value: Any) -> Any:
    """A list of names; typed after a flag, or lazily in YAML, with commas."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def as_pairs(value: Any) -> Any:
    """`name: value` in YAML; `name=value` after a flag that may be repeated."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) and "=" in word for word in words):
        return value
    return {name.strip(): rest.strip() for name, _, rest in (word.partition("=") for word in words)}


def as_shade(value: Any) -> Any:
    """A grey value, or a colour: "128,0,0" or "#800000"."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return ",".join(map(str, bytes.fromhex(value[1:])))
    channels = [channel.strip() for channel in value.split(",")]
    if len(channels) == 3 and all(re.fullmatch(r"[0-9]{1,3}", channel) and int(channel) < 256 for channel in channels):
        return ",".join(str(int(channel)) for channel in channels)
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None


def as_values(value: Any) -> Any:
    """Pairs, or the name of the file that holds them."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Path(value) if isinstance(value, str) and value and "=" not in value else as_pairs(value)


def _labeler(value: Any) -> Any:
    if not isinstance(value, str | Path) and not hasattr(value, "segment"):
        raise ValueError("no labeler")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Side = Annotated[Whole, Field(ge=1)]
Location = Annotated[Path, BeforeValidator(_path)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]  # not strict: YAML has lists
Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_names)]
Sides = Annotated[tuple[Side, ...], Field(strict=False)]
Labeler = Annotated[str | Path | Any, AfterValidator(_labeler), WithJsonSchema({"type": "string"})]


def setting(default: Any, meaning: str, **more: Any) -> Any:
    """A setting with its default (... where it must be given), its meaning, and its limits or examples."""
    return Field(default=default, description=meaning, **more)


def alternatives(annotation: Any) -> list[Any]:
    """`str | None` → [str, NoneType]. A path is text to whoever writes it."""
    if typing.get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is Union:
        return [choice for part in get_args(annotation) for choice in alternatives(part)]
    return [str if annotation is Path else annotation]


def settings_in(annotation: Any) -> list[type[Settings]]:
    """The classes of settings that a type holds."""
    return [kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, Settings)]


def type_in_words(annotation: Any) -> str:
    """`float | None` → "a number or null"."""
    kinds = alternatives(annotation)
    return " or ".join(dict.fromkeys(_in_words(kind) for kind in kinds if kind is not Any or len(kinds) == 1))


def _in_words(kind: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if kind in simple:
        return simple[kind]
    origin, parts = typing.get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if kind is list or origin in (list, tuple):
        entry = alternatives(parts[0])[0] if parts else None
        plural = {str: "texts", int: "whole numbers", float: "numbers"}.get(entry, "values") if entry else "values"
        count = "" if origin is not tuple or Ellipsis in parts else f"{len(parts)} "
        return f"a list of {count}{plural}"
    return "any value" if kind is Any else "a mapping"


def words_of(annotation: Any) -> list[str]:
    """The words of which the value must be one; none where it may be anything."""
    return [
        str(word) for kind in alternatives(annotation) if typing.get_origin(kind) is Literal for word in get_args(kind)
    ]


# --- what is said where a value is wrong


@dataclass(frozen=True)
class Places:
    """Where each setting was written, for messages: a file and its lines, or a flag that came later.

    flags: key path → what messages call it ("the flag --seed").
    """

    source: str | None = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    flags: Mapping[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str | None:
        """ "site.yaml, line 12, stages.mask_head"; the nearest key above where nobody wrote the key down."""
        lines = {tuple(map(current_name, written)): written for written in self.lines}
        inside = [flag for written, flag in self.flags.items() if written[: len(path)] == path]
        if path and inside and path not in lines:
            return inside[0]  # the flag brought this key in
        for length in range(len(path), 0, -1):
            above = path[:length]
            if above in self.flags:
                return self.flags[above]
            if above in lines:
                written = lines[above]
                shown = dotted((*written, *path[length:]))
                return ", ".join(filter(None, [self.source, f"line {self.lines[written]}", shown]))
        return ", ".join(filter(None, [self.source, dotted(path)])) or None


def dotted(path: KeyPath) -> str:
    """("stages", "mask_head") → "stages.mask_head"."""
    return ".".join(path)


# What a key was called before, and still may be.
OLD_NAMES = {"group_by": "group_pattern"}


def current_name(word: str) -> str:
    """A key of today for one as it was once, or as a flag is spelled."""
    word = word.replace("-", "_")
    return OLD_NAMES.get(word, word)


def wrong(what: str, fix: str | None = None, *key: str) -> PydanticCustomError:
    """What validators raise: it becomes a RecipeError that also says where. `key` is below the settings at hand."""
    return PydanticCustomError("setting", "{what}", {"what": what, "fix": fix, "key": key})


def answer(error: ValidationError, cls: type[Settings], data: Any) -> tuple[KeyPath, str, str | None]:
    """Key, what is wrong with it and what to do, of the first thing that is wrong. A typo comes before its results."""
    ranks = {"extra_forbidden": 0, "invalid_key": 0, "missing": 1}
    first = min(error.errors(include_url=False), key=lambda entry: ranks.get(entry["type"], 2))
    kind, context = first["type"], first.get("ctx", {})
    path, info, value, owner = _followed(cls, first["loc"], data)
    if kind == "setting":
        return (*path, *context["key"]), context["what"], context["fix"]
    if kind == "extra_forbidden":
        name = str(first["loc"][-1])
        return (*path, name), f"unknown key {name!r}", owner.unknown(name)
    if kind == "invalid_key":
        name = str(first["loc"][-1])
        return path, f"the key {name} is no text", f"Write '{name}' in quotes."
    if kind == "model_type":
        what = f"{dotted(path) or 'a recipe'} is {_shown(value)}, not a mapping of settings"
        return path, what, "Write `name: value`, one a line."
    assert info is not None
    if kind == "missing" and isinstance(first["loc"][-1], str):  # not one of a pair
        return path[:-1], f"{path[-1]!r} is missing", f"It says {info.description}."
    return path, *_misfit(path[-1], info, value, first)


def _followed(
    cls: type[Settings], location: Sequence[int | str], data: Any
) -> tuple[KeyPath, FieldInfo | None, Any, type[Settings]]:
    """The key that an error is about, its field, the value written there, and the class that the key is in."""
    path: list[str] = []
    info, owner, inner = None, cls, [cls]
    for name in location:
        if name == "mapping" and info is not None:
            continue  # the alternative that was taken
        if not inner or name not in inner[0].model_fields:
            break
        owner = inner[0]
        info = owner.model_fields[str(name)]
        path.append(str(name))
        written = data if isinstance(data, Mapping) else {}
        data = next((value for key, value in written.items() if current_name(str(key)) == name), None)
        inner = settings_in(info.annotation)
    return tuple(path), info, data, inner[0] if inner else owner


def _misfit(name: str, info: FieldInfo, value: Any, error: ErrorDetails) -> tuple[str, str]:
    """What is wrong with a value, and what to write instead."""
    limits = {"gt": "not above", "ge": "less than", "le": "more than", "lt": "not below"}
    context = error.get("ctx", {})
    for limit, words in limits.items():
        if limit in context:
            return f"{name} is {value!r}, {words} {context[limit]:g}", _ADVICE.get(name) or _range(info)
    known = words_of(info.annotation)
    if isinstance(value, str) and known:
        return f"{name} cannot be {value!r}", did_you_mean(value, known)
    fix = f"Write {type_in_words(info.annotation)}{f', such as {info.examples[0]}' if info.examples else ''}."
    if any(typing.get_origin(kind) is dict for kind in alternatives(info.annotation)):
        fix += " After a flag: name=value."
    if isinstance(value, bool) or (isinstance(value, list) and any(isinstance(entry, bool) for entry in value)):
        fix += " YAML takes yes, no, on and off for true and false: put a name like that in quotes."
    return f"{name} is {_shown(value)}", fix


_ADVICE = {
    "num_train_epochs": "To leave a stage out, write `skip: true`.",
    "max_steps": "Give at least 1, or leave it out and count in epochs.",
}


def _range(info: FieldInfo) -> str:
    words = {"gt": "above", "ge": "at least", "le": "at most", "lt": "below"}
    found = {name: getattr(mark, name) for name in words for mark in _marks(info) if hasattr(mark, name)}
    null = ", or null" if type(None) in alternatives(info.annotation) else ""
    return f"Give a number {' and '.join(f'{words[name]} {bound:g}' for name, bound in found.items())}{null}."


def _marks(info: FieldInfo) -> Iterator[Any]:
    """Limits of a field, also those of a list's entries or of one of several types."""
    todo = [info.annotation]
    yield from info.metadata
    while todo:
        kind = todo.pop()
        for mark in getattr(kind, "__metadata__", ()):
            yield from mark.metadata if isinstance(mark, FieldInfo) else [mark]
        todo += get_args(kind)


def _shown(value: Any) -> str:
    """A value as a message shows it, by its kind where that helps."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds: dict[Any, str] = {str: "the text ", dict: "a mapping, ", list: "a list, ", tuple: "a list, "}
    text = repr(value)
    return kinds.get(type(value), "") + (text if len(text) <= 60 else text[:57] + "…")


class Settings(BaseModel):
    """Settings that belong together: every key known, every value checked, and none changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # which sees the settings themselves as the arguments

        def __init__(self, /, **given: Any) -> None:
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise _recipe_error(error, type(self), given, (), Places()) from None

        __init__.__pydantic_base_init__ = True  # settings within settings are read in place: a message has their path

    @classmethod
    def read(cls, data: Any, places: Places | None = None, path: KeyPath = ()) -> Self:
        """From plain data; `places` and the `path` of all of it are for messages."""
        places = places or Places()
        try:
            return cls.model_validate(data, context=places)
        except ValidationError as error:
            raise _recipe_error(error, cls, data, path, places) from None

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_an_empty_mapping(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            return data
        needed = {name for name, info in cls.model_fields.items() if info.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in needed}

    @classmethod
    def unknown(cls, name: str) -> str:
        """What to write instead of a key that is not there."""
        return did_you_mean(name, cls.model_fields)

    def changed(self, **changes: Any) -> Self:
        """The same with other values, checked again."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """The plain data that `read` makes equal settings of."""
        return {name: plain(getattr(self, name)) for name in type(self).model_fields}


def _recipe_error(
    error: ValidationError, cls: type[Settings], data: Any, path: KeyPath, places: Places
) -> RecipeError:
    key, what, fix = answer(error, cls, data)
    return RecipeError(what, where=places.where((*path, *key)), fix=fix)


def plain(value: Any) -> Any:
    """What YAML holds: settings as mappings, tuples as lists, paths as text."""
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
