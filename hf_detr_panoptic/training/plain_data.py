"""Settings as frozen dataclasses: plain data in, checked values out, and an answer that says what is wrong and where.

A field made by `setting(...)` carries its meaning and its limits; `build` reads a mapping into such a class, `plain`
goes back. Lists are tuples in the classes, so that a value can be frozen.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import RecipeError, did_you_mean

KeyPath = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a value may be beyond its type. `above` and `below` exclude themselves, `least` and `most` do not."""

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    advice: str = ""

    def complaint(self, value: Any) -> str | None:
        """What a number breaks, as a sentence's end; None when it is fine."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        if self.above is not None and value <= self.above:
            return f"not above {self.above:g}"
        if self.least is not None and value < self.least:
            return f"less than {self.least:g}"
        if self.most is not None and value > self.most:
            return f"more than {self.most:g}"
        if self.below is not None and value >= self.below:
            return f"not below {self.below:g}"
        return None


def setting(default: Any = dataclasses.MISSING, meaning: str = "", **limits: Any) -> Any:
    """A dataclass field with its meaning and `Limits`; a class as default is called for one."""
    metadata = {"meaning": meaning, "limits": Limits(**limits)}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Places:
    """Where each setting was written, for messages: a file, its lines, or a flag that came later.

    told: key path → "line 12" of `source`, or the flag ("the flag --seed").
    """

    source: str | None = None
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    flags: Mapping[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str | None:
        """ "site.yaml, line 12, stages.mask_head"; the nearest key above a place that nobody wrote down."""
        inside = [flag for written, flag in self.flags.items() if written[: len(path)] == path]
        if path and inside and path not in self.lines:
            return inside[0]  # the flag brought this key in
        for length in range(len(path), 0, -1):
            if path[:length] in self.flags:
                return self.flags[path[:length]]
            if path[:length] in self.lines:
                return ", ".join(filter(None, [self.source, f"line {self.lines[path[:length]]}", dotted(path)]))
        return ", ".join(filter(None, [self.source, dotted(path)])) or None


def dotted(path: KeyPath) -> str:
    """("stages", "mask_head") → "stages.mask_head"."""
    return ".".join(path)


@functools.cache
def settings_of(cls: Any) -> dict[str, Any]:
    """The settings of a class and their types; fields that no `setting` made are none."""
    hints = typing.get_type_hints(cls)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(cls) if "meaning" in entry.metadata}


def build(cls: type[T], data: Any, path: KeyPath, places: Places) -> T:
    """A mapping → an instance of a settings class, every key known and every value checked."""
    return cls(**read_settings(cls, data, path, places))


def read_settings(cls: type, data: Any, path: KeyPath, places: Places) -> dict[str, Any]:
    """What a mapping says for the settings of a class, checked; keys that it leaves out stay out."""
    hints = settings_of(cls)
    content = mapping(data, path, places)
    for name in content:
        if name not in hints:
            raise unknown_key((*path, name), hints, places)
    for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
        wanted = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if entry.name in hints and wanted and content.get(entry.name) is None:
            raise RecipeError(
                f"{entry.name!r} is missing", where=places.where(path), fix=f"It says {entry.metadata['meaning']}."
            )
    limits = {entry.name: entry.metadata["limits"] for entry in dataclasses.fields(cls) if entry.name in hints}  # type: ignore[arg-type]
    return {name: checked(hints[name], value, (*path, name), places, limits[name]) for name, value in content.items()}


def mapping(data: Any, path: KeyPath, places: Places) -> dict[str, Any]:
    """A mapping with text for keys; nothing at all counts as an empty one."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise RecipeError(
            f"{dotted(path) or 'a recipe'} is {_shown(data)}, not a mapping of settings",
            where=places.where(path),
            fix="Write `name: value`, one a line.",
        )
    for name in data:
        if not isinstance(name, str):
            raise RecipeError(
                f"the key {name!r} is no text", where=places.where(path), fix=f"Write '{name}' in quotes."
            )
    return dict(data)


def unknown_key(path: KeyPath, known: Any, places: Places) -> RecipeError:
    """The answer to a key that is not there."""
    return RecipeError(f"unknown key {path[-1]!r}", where=places.where(path), fix=did_you_mean(path[-1], known))


def checked(annotation: Any, value: Any, path: KeyPath, places: Places, limits: Limits | None = None) -> Any:
    """The value as its type wants it (lists become tuples, whole numbers floats), or a RecipeError."""
    choices = alternatives(annotation)
    literals = [word for choice in choices if typing.get_origin(choice) is typing.Literal for word in _words(choice)]
    if value is False and "no" in literals:
        value = "no"  # what YAML makes of `eval_strategy: no`
    for choice in choices:
        settings_class = dataclasses.is_dataclass(choice) and isinstance(choice, type)
        if settings_class and (isinstance(value, Mapping) or len(choices) == 1):
            return build(choice, value, path, places)
    for choice in choices:
        found = _fitted(choice, value)
        if found is not _MISFIT:
            complaint = limits.complaint(found) if limits else None
            if limits and complaint:
                advice = limits.advice or _range(limits)
                raise RecipeError(f"{path[-1]} is {value!r}, {complaint}", where=places.where(path), fix=advice)
            return found
    if isinstance(value, str) and literals:
        raise RecipeError(
            f"{path[-1]} cannot be {value!r}", where=places.where(path), fix=did_you_mean(value, literals)
        )
    fix = f"Write {type_in_words(annotation)}."
    if isinstance(value, bool) or (isinstance(value, list) and any(isinstance(entry, bool) for entry in value)):
        fix += " YAML takes yes, no, on and off for true and false: put a name like that in quotes."
    raise RecipeError(f"{path[-1]} is {_shown(value)}", where=places.where(path), fix=fix)


_MISFIT = object()


def alternatives(annotation: Any) -> list[Any]:
    """`str | None` → [str, NoneType]."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [choice for part in typing.get_args(annotation) for choice in alternatives(part)]
    return [annotation]


def _words(literal: Any) -> list[str]:
    return [str(word) for word in typing.get_args(literal)]


def _fitted(kind: Any, value: Any) -> Any:
    """The value as this one type, or _MISFIT. `bool` is no number here, and nan and inf are none either."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is Any:
        return value
    if kind is type(None):
        return None if value is None else _MISFIT
    if kind is float:
        return float(value) if number else _MISFIT
    if kind is int:
        return int(value) if number and value == int(value) else _MISFIT
    if kind in (str, bool):
        return value if isinstance(value, kind) else _MISFIT
    if origin is typing.Literal:
        return value if any(value is part or (isinstance(value, str) and value == part) for part in parts) else _MISFIT
    if kind is list or origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return _MISFIT
        if parts and origin is tuple and parts[-1] is not Ellipsis and len(value) != len(parts):
            return _MISFIT
        entries = [_fitted(parts[0] if parts else Any, entry) for entry in value]
        return _MISFIT if _MISFIT in entries else (tuple if origin is tuple else list)(entries)
    if kind is dict or origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            return _MISFIT
        content = {name: _fitted(parts[1] if parts else Any, entry) for name, entry in value.items()}
        return _MISFIT if any(entry is _MISFIT for entry in content.values()) else content
    return _MISFIT


def type_in_words(annotation: Any) -> str:
    """`float | None` → "a number or null"."""
    return " or ".join(dict.fromkeys(_in_words(choice) for choice in alternatives(annotation)))


def _in_words(kind: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if kind in simple:
        return simple[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(map(str, parts))
    if kind is list or origin in (list, tuple):
        plural = {str: "texts", int: "whole numbers", float: "numbers"}.get(parts[0], "values") if parts else "values"
        count = "" if origin is not tuple or Ellipsis in parts else f"{len(parts)} "
        return f"a list of {count}{plural}"
    if kind is Any:
        return "any value"
    return "a mapping"


def _range(limits: Limits) -> str:
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("above", limits.above),
            ("at least", limits.least),
            ("at most", limits.most),
            ("below", limits.below),
        )
        if bound is not None
    ]
    return f"Give a number {' and '.join(bounds)}."


def _shown(value: Any) -> str:
    """A value as a message shows it, by its kind where it is long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    kinds: dict[Any, str] = {str: "the text ", dict: "a mapping, ", list: "a list, ", tuple: "a list, "}
    text = repr(value)
    return kinds.get(type(value), "") + (text if len(text) <= 60 else text[:57] + "…")


def plain(value: Any) -> Any:
    """Back to what YAML holds: settings as mappings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in settings_of(type(value))}
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value
