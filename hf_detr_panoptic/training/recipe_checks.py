"""Blocks of a recipe whose settings are right one by one and wrong side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import RecipeError
from .plain_data import Places, dotted

if TYPE_CHECKING:
    from .recipe import Recipe

_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", re.ASCII)

Complain = Callable[[str, str, str], RecipeError]


def check_recipe(recipe: Recipe, places: Places) -> None:
    """Raises at the first contradiction between settings."""

    def wrong(key: str, what: str, fix: str) -> RecipeError:
        return RecipeError(what, where=places.where(tuple(key.split("."))), fix=fix)

    _check_labels(recipe, wrong)
    _check_data(recipe, wrong)
    _check_sizes(recipe, wrong)
    _check_push(recipe, wrong)
    if not recipe.stages.to_run:
        raise wrong("stages", "every stage is skipped: nothing is left to run", "Take `skip: true` out of one.")


def _check_labels(recipe: Recipe, wrong: Complain) -> None:
    if recipe.labels is None:
        return
    if not recipe.labels:
        raise wrong("labels", "labels is an empty list: nothing is left to learn", "Name classes, or write null.")
    _no_repeats("labels", recipe.labels, wrong)


def _check_data(recipe: Recipe, wrong: Complain) -> None:
    data = recipe.data
    if isinstance(data, str):
        if not data.strip():
            raise wrong("data", "data is empty", "Name a dataset's folder, or a dataset of the Hub.")
        return
    if data.validation + data.test >= 1:
        share = f"validation {data.validation:g} and test {data.test:g}"
        raise wrong("data.validation", f"{share} leave nothing to train on", "Give shares such as 0.2 and 0.1.")
    if data.group_by is not None:
        try:
            re.compile(data.group_by)
        except re.error as error:
            raise wrong(
                "data.group_by", f"{data.group_by!r} is no regular expression ({error})", "See Python's `re`."
            ) from None
    for one, other in (("things", "stuff"), ("keep", "drop")):
        both = set(getattr(data, one) or ()) & set(getattr(data, other) or ())
        if both:
            raise wrong(f"data.{other}", f"{min(both)!r} is in {one} and in {other}", "Keep it in one of them.")
    members = [name for names in data.merge.values() for name in names]
    _no_repeats("data.merge", members, wrong)
    _no_repeats("data.priority", data.priority, wrong)


def _check_sizes(recipe: Recipe, wrong: Complain) -> None:
    size, augmentation = recipe.size, recipe.augmentation
    if (size.shortest_edge is None) != (size.longest_edge is None):
        raise wrong("size", "shortest_edge and longest_edge go together", "Give both, or neither.")
    if size.shortest_edge and size.longest_edge and size.shortest_edge > size.longest_edge:
        raise wrong("size", "shortest_edge is more than longest_edge", "Swap them.")
    for key in ("short_sides", "crop_sides"):
        sides = getattr(augmentation, key)
        if sides and min(sides) < 1:
            raise wrong(f"augmentation.{key}", f"{key} has {min(sides)}", "Give sizes of 1 or more.")
    if augmentation.crop and () in (augmentation.crop_sides, augmentation.short_sides):
        raise wrong("augmentation.crop", "crop needs short_sides and crop_sides", "Write `crop: 0` to do without.")
    for key in ("crop_window", "scale_jitter"):
        pair = getattr(augmentation, key)
        if pair and not 0 < pair[0] <= pair[1]:
            shown = " to ".join(f"{value:g}" for value in pair)
            raise wrong(f"augmentation.{key}", f"{key} goes from {shown}", "Give the least and the most, above 0.")


def _check_push(recipe: Recipe, wrong: Complain) -> None:
    if recipe.push is None:
        return
    for key, name in (("repository", recipe.push.repository), ("dataset", recipe.push.dataset)):
        if name is not None and not _HUB_NAME.match(name):
            raise wrong(dotted(("push", key)), f"{name!r} is no name of a repository", "Write user/name.")


def _no_repeats(key: str, names: Sequence[str], wrong: Complain) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise wrong(key, f"{twice[0]!r} is named twice", "Name each class once.")
