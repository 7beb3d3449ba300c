"""Every key of a recipe with its type, default and meaning: for `--help`, the documentation and the flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .plain_data import KeyPath, alternatives, dotted, plain, settings_of, type_in_words
from .recipe import Recipe
from .stage_recipe import ONLY_IN, STAGES, StageRecipe
from .training_fields import OURS, training_fields

# Defaults that `arguments.training_arguments` chooses for the device, or the stage rules in another way.
_CHOSEN = {
    "bf16": "true on CUDA that has it",
    "dataloader_num_workers": "by the cores",
    "dataloader_persistent_workers": "true with workers",
    "dataloader_prefetch_factor": "4 with workers",
    "disable_tqdm": "true",
    "lr_scheduler_type": "none: constant, with lr_drop",
}


@dataclass(frozen=True)
class RecipeKey:
    """One key. `path` has "STAGE" where a stage's name goes; `default` is as YAML, "" where there is none."""

    path: KeyPath
    type: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return dotted(self.path)


def recipe_keys() -> list[RecipeKey]:
    """Ours, in the order of a recipe; those of TrainingArguments are in `training_keys`."""
    return [*_keys(Recipe, ()), *_stage_keys()]


def training_keys() -> list[RecipeKey]:
    """What a stage takes from the installed TrainingArguments. A default per stage where we have one."""
    found = []
    for name, entry in training_fields().items():
        if name not in OURS:
            default = _CHOSEN.get(name) or _per_stage(
                name, lambda stage, name=name: stage.training_arguments.get(name)
            )
            found.append(
                RecipeKey(("stages", "STAGE", name), type_in_words(entry.annotation), default, "see TrainingArguments")
            )
    return found


def annotation_of(path: KeyPath) -> Any:
    """The type of a key; Any where there is no such key."""
    if path[0] == "stages":
        if len(path) != 3:
            return Any
        fields = training_fields()
        return settings_of(StageRecipe).get(path[2]) or (fields[path[2]].annotation if path[2] in fields else Any)
    cls: Any = Recipe
    for name in path[:-1]:
        choices = [
            choice for choice in alternatives(settings_of(cls).get(name, Any)) if dataclasses.is_dataclass(choice)
        ]
        if not choices:
            return Any
        cls = choices[0]
    return settings_of(cls).get(path[-1], Any)


def _keys(cls: Any, path: KeyPath) -> Iterator[RecipeKey]:
    for entry in dataclasses.fields(cls):
        if entry.name not in settings_of(cls):
            continue
        annotation = settings_of(cls)[entry.name]
        inner = [choice for choice in alternatives(annotation) if dataclasses.is_dataclass(choice)]
        if entry.default is not dataclasses.MISSING:
            default = _yaml(entry.default)
        elif entry.default_factory is not dataclasses.MISSING and not inner:
            default = _yaml(entry.default_factory())
        else:
            default = ""
        words = "a mapping" if inner == alternatives(annotation) else type_in_words(annotation)
        yield RecipeKey((*path, entry.name), words, default, entry.metadata["meaning"])
        for choice in inner:
            yield from _keys(choice, (*path, entry.name))


def _stage_keys() -> Iterator[RecipeKey]:
    for entry in dataclasses.fields(StageRecipe):
        if entry.name in settings_of(StageRecipe):
            stage = ONLY_IN.get(entry.name, "STAGE")
            default = _per_stage(entry.name, lambda recipe, name=entry.name: getattr(recipe, name))
            words = type_in_words(settings_of(StageRecipe)[entry.name])
            yield RecipeKey(("stages", stage, entry.name), words, default, entry.metadata["meaning"])


def _per_stage(name: str, ask: Any) -> str:
    """One default, or "detection 1e-4, mask_head 1e-4, finetune 1e-5"."""
    values = {stage: _yaml(ask(StageRecipe.of(stage))) for stage in STAGES}
    if len(set(values.values())) > 1:
        return ", ".join(f"{stage} {value}" for stage, value in values.items())
    value = values[STAGES[0]]
    known = training_fields().get(name)
    return known.default if known and value == "null" else value


def _yaml(value: Any) -> str:
    value = plain(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_yaml(entry) for entry in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
