"""docs/recipes.md has every key of a recipe, as the installed package knows them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def tables(root: Path):
    path = root / "docs" / "write_recipe_tables.py"
    spec = importlib.util.spec_from_file_location("write_recipe_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_of_today(root: Path, tables) -> None:
    import transformers

    page = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    made, shown = tables.tables(), tables.shown(page)
    if not transformers.__version__.startswith("5.23."):  # the page lists that version's fields, and says so
        made.pop("others")
        shown.pop("others")
    assert shown == made, "run `python docs/write_recipe_tables.py`"


def test_every_key_is_there(root: Path) -> None:
    """Not by way of the tables: the fields of the recipe's own classes, one by one."""
    from hf_detr_panoptic import settings, stage_settings
    from hf_detr_panoptic.recipe import Recipe

    page = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    homes = {"data": settings.Prepare, "size": settings.PhotoSize, "augmentation": settings.Augmentation}
    homes |= {"losses": settings.Losses, "postprocess": settings.Postprocess, "push": settings.Push}
    named = [f"{block}.{name}" for block, cls in homes.items() for name in cls.model_fields]
    named += [name for name in Recipe.model_fields if name != "stages"]
    named += [name for name in stage_settings.Stage.model_fields if name not in ("name", "training_arguments")]
    assert [key for key in named if f"| `{key}` |" not in page] == []


def test_a_stale_table_is_found(root: Path, tables) -> None:
    page = (root / "docs" / "recipes.md").read_text(encoding="utf-8")
    stale = page.replace("| `losses.dice` | a number | 1 |", "| `losses.dice` | a number | 2 |")
    assert stale != page
    assert tables.shown(stale) != tables.tables()
    assert tables.shown(tables.written(stale)) == tables.tables()
