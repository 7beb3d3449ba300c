"""Flags over a recipe: `--stages.mask_head.num_train_epochs 5`, or `--num_train_epochs 5` for all stages."""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import RecipeError, did_you_mean
from .plain_data import KeyPath, alternatives, dotted, settings_of
from .recipe import Recipe
from .recipe_keys import annotation_of, recipe_keys, training_keys
from .recipes_on_disk import read_value
from .stage_recipe import ONLY_IN, STAGES, StageRecipe
from .training_fields import GONE, training_fields

_NUMBER = re.compile(r"^-[\d.]")
# Two that rule the same: a flag for the one takes the place of the other in the file.
_RIVALS = {"max_steps": "num_train_epochs", "lr_drop": "lr_scheduler_type", "bf16": "fp16"}
_RIVALS |= {other: one for one, other in _RIVALS.items()}


def apply_overrides(data: dict[str, Any], words: Sequence[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """A recipe's plain data after the flags, and which flag wrote which key. Values are checked with the rest."""
    data = copy.deepcopy(data)
    flags: dict[KeyPath, str] = {}
    for flag, values in _pairs(words):
        for path in _targets(flag):
            _set(data, path, _value(path, values, flag), flag)
            flags[path] = f"the flag {flag}"
            rival = (*path[:-1], _RIVALS.get(path[-1], ""))
            if path[0] == "stages" and rival not in flags:
                _forget(data, rival)
    return data, flags


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """`--flag value …`, `--flag=value`, and `--flag` alone."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else []))
        elif not found or (word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)):
            raise RecipeError(
                f"{word!r} belongs to no flag",
                where="the command line",
                fix="Write `--key value`, such as `--seed 1`.",
            )
        else:
            found[-1][1].append(word)
    yield from found


def _targets(flag: str) -> list[KeyPath]:
    """The keys that a flag means: the one it names, or, without a prefix, that of every stage that knows it."""
    path = tuple(flag.removeprefix("--").replace("-", "_").split("."))
    name = path[-1]
    if path[0] in settings_of(Recipe) or path[0] == "stages":
        return [path]
    if len(path) > 1:
        known = f"stages.{dotted(path)}" if path[0] in STAGES else None
        raise _unknown(flag, known)
    elsewhere = sorted(dotted(key.path) for key in recipe_keys() if key.path[-1] == name and key.path[0] != "stages")
    if name not in settings_of(StageRecipe) and name not in training_fields() and name not in GONE:
        raise _unknown(flag, *elsewhere)
    if elsewhere:
        stage = ONLY_IN.get(name, STAGES[0])
        fix = f"Write --{' or --'.join([*elsewhere, f'stages.{stage}.{name}'])}."
        raise RecipeError(f"{flag} could mean several keys", where="the command line", fix=fix)
    return [("stages", stage, name) for stage in STAGES if ONLY_IN.get(name, stage) == stage]


def _unknown(flag: str, *meant: str | None) -> RecipeError:
    if any(meant):
        fix = f"Did you mean --{' or --'.join(filter(None, meant))}?"
    else:
        names = dict.fromkeys(f"--{key.path[-1]}" for key in training_keys())
        names |= dict.fromkeys(f"--{dotted(key.path)}" for key in recipe_keys() if "STAGE" not in key.path)
        names |= dict.fromkeys(f"--{key.path[-1]}" for key in recipe_keys() if key.path[0] == "stages")
        fix = did_you_mean(flag, names)
    return RecipeError(f"unknown flag {flag}", where="the command line", fix=fix)


def _value(path: KeyPath, words: list[str], flag: str) -> Any:
    """What the words after a flag mean for the type of its key."""
    annotation = annotation_of(path)
    choices = alternatives(annotation)
    if not words:
        if bool in choices or annotation is Any:
            return True
        raise RecipeError("it needs a value", where=f"the flag {flag}", fix=f"Write {flag} VALUE.")
    if len(words) == 1:
        return _from_text(annotation, words[0])
    if not any(_is_list(choice) for choice in choices):
        given = " ".join(words)
        raise RecipeError(
            f"it takes one value, not {given!r}", where=f"the flag {flag}", fix="Put text with spaces in quotes."
        )
    return [_from_text(_entry(choices), word) for word in words]


def _from_text(annotation: Any, text: str) -> Any:
    choices = alternatives(annotation)
    value = read_value(text)
    if value is None and type(None) in choices:
        return None
    literals = [word for choice in choices if typing.get_origin(choice) is typing.Literal for word in choice.__args__]
    if text in literals:
        return text
    if any(_is_list(choice) for choice in choices) and (isinstance(value, list) or str not in choices):
        if isinstance(value, list):
            return value
        return [_from_text(_entry(choices), part.strip()) for part in text.split(",") if part.strip()]
    return value if isinstance(value, dict) or str not in choices else text


def _is_list(kind: Any) -> bool:
    return kind is list or typing.get_origin(kind) in (list, tuple)


def _entry(choices: list[Any]) -> Any:
    """The type of a list's entries."""
    lists = [choice for choice in choices if _is_list(choice)]
    return (typing.get_args(lists[0]) or (Any,))[0]


def _set(data: dict[str, Any], path: KeyPath, value: Any, flag: str) -> None:
    for length, name in enumerate(path[:-1], start=1):
        if data.get(name) is None:
            data[name] = {}
        if not isinstance(data[name], dict):
            raise RecipeError(
                f"{dotted(path[:length])} is {data[name]!r} in the recipe, so it has no {path[length]}",
                where=f"the flag {flag}",
                fix=f"Leave the flag out, or make {dotted(path[:length])} a mapping in the recipe.",
            )
        data = data[name]
    data[path[-1]] = value


def _forget(data: Any, path: KeyPath) -> None:
    for name in path[:-1]:
        data = data.get(name) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(path[-1], None)
