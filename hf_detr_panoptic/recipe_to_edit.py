"""A recipe with everything in it: every key with its meaning, and the schema by which an editor completes them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checked import OLD_NAMES, Settings, settings_in
from .errors import RecipeError
from .files import write_json, write_text, yaml_line
from .recipe import Recipe, meaning_of
from .stage_settings import ONLY_IN, STAGES, Stage, arguments_class

SCHEMA = "recipe.schema.json"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, as editors want it."""
    schema = Recipe.model_json_schema()
    stage, arguments = schema["$defs"].pop("Stage"), arguments_class().model_json_schema()
    keys = {name: stage["properties"][name] for name, _ in Stage.keys().items()} | arguments["properties"]
    schema["$defs"] |= arguments.get("$defs", {})
    for name in STAGES:
        own = {key: value for key, value in keys.items() if ONLY_IN.get(key, name) == name}
        schema["$defs"][name] = {"type": "object", "additionalProperties": False, "properties": own}
        schema["$defs"]["Stages"]["properties"][name] = {"$ref": f"#/$defs/{name}"}
    schema["$defs"]["Stages"].pop("required", None)
    schema["$defs"]["Prepare"]["properties"] |= {old: {"deprecated": True} for old in OLD_NAMES}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": _TITLE, **_without_titles(schema)}


_TITLE = "A recipe of hf-detr-panoptic"


def _without_titles(schema: Any) -> Any:
    """pydantic's titles only say the name once more."""
    if isinstance(schema, list):
        return [_without_titles(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_titles(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)}


def commented(recipe: Recipe, command: str) -> str:
    """A recipe as YAML with every key, above each its meaning."""
    lines = [f"# yaml-language-server: $schema=./{SCHEMA}", f"# {command}", ""]
    data = recipe.to_dict()
    stages = data.pop("stages")
    lines += _block(Recipe, data)
    lines.append("stages:")
    meanings = {name: meaning_of(info) for name, info in Stage.keys().items()}
    for name, content in stages.items():
        lines += ["", f"  {name}:"]
        for key, value in content.items():
            lines += _entry_lines(key, value, meanings.pop(key, ""), "    ")
    return "\n".join(lines) + "\n"


def _block(cls: type[Settings], data: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in data.items():
        info = cls.model_fields[name]
        if isinstance(value, dict) and settings_in(info.annotation):
            lines += [*_comment(meaning_of(info), indent), f"{indent}{name}:"]
            lines += [*_block(settings_in(info.annotation)[0], value, indent + "  "), ""]
        else:
            lines += _entry_lines(name, value, meaning_of(info), indent)
            lines += [] if indent else [""]
    return lines


def _entry_lines(name: str, value: Any, meaning: str, indent: str) -> list[str]:
    return [*_comment(meaning, indent), indent + yaml_line(name, value)]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") if text else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", default="construction", help="a YAML file, or the name of one of ours")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the recipe to write, a .yaml")


def main(args: argparse.Namespace) -> int:
    """Write a recipe with every key, its default and its meaning, for an editor that completes and checks them.

      hf-detr-panoptic recipe construction --out mine.yaml

    Beside it comes recipe.schema.json, which the file's first line names. Editors with a YAML language server (VS
    Code, PyCharm, Neovim) read it. What is not changed can stay, or go: the defaults are the same.
    """
    out, schema = args.out, args.out.with_name(SCHEMA)
    if out.exists():
        raise RecipeError("it is there already", where=str(out), fix="Give --out another name.")
    if schema.exists() and _TITLE not in schema.read_text(encoding="utf-8", errors="replace"):
        raise RecipeError(
            "this is another file's schema", where=str(schema), fix="Write the recipe to another folder."
        )
    recipe = Recipe.load(args.recipe, ["--output", f"runs/{out.stem}"])
    write_json(schema, recipe_schema(), ascii_only=False)
    write_text(out, commented(recipe, f"hf-detr-panoptic train {out.as_posix()}"))
    print(f"{out}: every key with its meaning; {schema.name}, for editors, lies beside it")
    print(f"next: hf-detr-panoptic train {out} --dry-run")
    return 0
