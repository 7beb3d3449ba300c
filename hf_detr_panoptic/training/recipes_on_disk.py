"""Recipes as files: where they are found, how their YAML is read with line numbers, and written."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError, did_you_mean
from .plain_data import KeyPath, dotted

# YAML 1.1, as PyYAML reads it, takes 1e-4 for text.
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _tool in (_Loader, _Dumper):  # the dumper too, so that the text "1e-4" is written in quotes
    _tool.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # Unquoted, PyYAML writes a line break such as U+0085 as it is, and reads a space.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text)


def recipe_folder() -> Path:
    """Where the recipes lie: beside the package in a wheel, at the top of the checkout in an editable install."""
    package = Path(str(files("hf_detr_panoptic")))
    for folder in (package / "training_args", package.parent / "training_args"):
        if any(folder.glob("*.yaml")):
            return folder
    raise RecipeError(f"no recipes beside {package}", fix="Install hf-detr-panoptic again.")


def recipe_names() -> list[str]:
    """The names that `find_recipe` knows."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """A recipe by its path, or one of ours by its name ("construction")."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipe_folder() / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.parent == Path() and shipped.is_file():
        return shipped
    if path.is_dir():
        raise RecipeError(f"{str(name)!r} is a folder, not a recipe", fix="Name the YAML file in it.")
    raise RecipeError(f"there is no recipe {str(name)!r}", fix=did_you_mean(path.name, recipe_names()))


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The mapping in a file, and the line of each of its keys."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"it cannot be read as text ({error})", where=str(path)) from None
    lines: dict[KeyPath, int] = {}
    try:
        node = yaml.compose(text, _Loader)
        if node is not None:
            _note_lines(node, (), lines, str(path))
        data = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise _syntax_error(error, path) from None
    except RecursionError:
        raise RecipeError("this is not YAML that can be read: too deep", where=str(path)) from None
    if data is None:
        raise RecipeError(
            "the recipe is empty", where=str(path), fix="Start from a copy of one of ours, such as construction.yaml."
        )
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else repr(data)[:60]
        raise RecipeError(
            f"the recipe is {kind}, not a mapping of settings", where=str(path), fix="Write `name: value`, one a line."
        )
    return data, lines


def read_value(text: str) -> Any:
    """What a text means in YAML: 5, 1e-4, true, [a, b], {a: b}; text that is no YAML is itself."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def _note_lines(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], source: str) -> None:
    """Lines of all keys; a key that stands twice is an error here, where YAML silently takes the later one."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in seen and name != "<<":
            raise RecipeError(
                f"the key {name!r} stands twice, in lines {seen[name]} and {line}",
                where=", ".join(filter(None, [source, dotted(path)])),
                fix="Keep one of them.",
            )
        seen[name] = line
        lines[(*path, name)] = line
        _note_lines(value, (*path, name), lines, source)


def _syntax_error(error: yaml.YAMLError, path: Path) -> RecipeError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    fix = (
        "Indent with spaces."
        if "\\t" in problem
        else "See this line and the one before it: indentation, quotes, colons."
    )
    return RecipeError(f"this is not YAML ({problem})", where=where, fix=fix)


def write_yaml(data: dict[str, Any], path: Path, header: str = "") -> None:
    """Atomically; a `header` of several lines becomes comments."""
    comment = "".join(f"# {line}\n" if line else "#\n" for line in header.splitlines())
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(f"{comment}\n{text}" if comment else text, encoding="utf-8")
    fresh.replace(path)
