"""Recipes: where they are found."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import RecipeError, did_you_mean


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
    raise RecipeError(f"there is no recipe {str(name)!r}", fix=did_you_mean(path.name, recipe_names()))
