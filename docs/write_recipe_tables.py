"""The tables of docs/recipes.md, from the package's own list of keys. A test holds the page against them.

Run it after a key has changed: python docs/write_recipe_tables.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_detr_panoptic.recipe import RecipeKey, recipe_keys, training_keys
from hf_detr_panoptic.training_fields import OURS, training_fields

PAGE = Path(__file__).with_name("recipes.md")
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"


def tables() -> dict[str, str]:
    """Name of a table → its Markdown."""
    ours = recipe_keys()
    blocks = ("data", "model", "size", "augmentation", "losses", "postprocess", "push")
    made = {"top": _table([key for key in ours if len(key.path) == 1])}
    made |= {block: _table([key for key in ours if key.path[0] == block and len(key.path) == 2]) for block in blocks}
    made["stages"] = _table([key for key in ours if key.path[0] == "stages"], name=lambda key: key.path[2])
    fields = training_fields()
    chosen = [key for key in training_keys() if key.default != fields[key.path[2]].default]
    rows = [f"| `{key.path[2]}` | {_cell(key.default)} |" for key in sorted(chosen, key=lambda key: key.path[2])]
    made["chosen"] = "\n".join(["| key | our default |", "|---|---|", *rows])
    others = sorted({key.path[2] for key in training_keys()} - {key.path[2] for key in chosen})
    made["others"] = ", ".join(f"`{name}`" for name in others)
    reasons = sorted(set(OURS.values()), key=list(OURS.values()).index)
    made["refused"] = "\n".join(
        f"- {', '.join(f'`{name}`' for name, why in OURS.items() if why == reason)}: {reason}" for reason in reasons
    )
    return made


def shown(page: str) -> dict[str, str]:
    """Name of a table → what the page has in its place."""
    return {
        name: match[1].strip()
        for name in tables()
        if (match := re.search(rf"{BEGIN.format(name)}\n(.*?){END.format(name)}", page, flags=re.DOTALL))
    }


def written(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in tables().items():
        begin, end = BEGIN.format(name), END.format(name)
        page = re.sub(rf"{begin}\n.*?{end}", lambda match: f"{begin}\n\n{table}\n\n{end}", page, flags=re.DOTALL)  # noqa: B023
    return page


def _table(keys: Sequence[RecipeKey], name: Callable[[RecipeKey], str] = str) -> str:
    rows = [f"| `{name(key)}` | {_cell(key.type)} | {_default(key)} | {_cell(key.meaning)} |" for key in keys]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _default(key: RecipeKey) -> str:
    return _cell(key.default) or ("see its table" if key.type == "a mapping" else "must be given")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
