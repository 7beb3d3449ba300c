"""The same training once more on all photos, those of validation included, once steps and thresholds are chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..recipe import Recipe
from ..stage_settings import Stage
from .run_folder import REFIT, StageEnd, write_metrics
from .sampling import Splits
from .stages import copy_final, run_stages


def refit(recipe: Recipe, splits: Splits, ends: Sequence[StageEnd], say: Callable[[str], None] = print) -> None:
    """Put the refitted model into a finished run's final/; its figures stay those of the run itself.

    It lives in a folder of its own within the run's, is resumed there, and is not trained again once it is finished.
    Every process of a launch calls this alike.
    """
    if splits.on_train:
        say("refit: there are no photos of validation to learn from as well")
        return
    everything = [*splits.train, *splits.val]
    main = PartialState().is_main_process
    if main:
        say(f"refit: the same steps on all {len(everything)} photos, the {len(splits.val)} of validation included")
    refitted = run_stages(
        refit_recipe(recipe, ends), Splits(everything, splits.val, splits.space), first=ends, say=say
    )
    if main:
        copy_final(refitted[-1], Path(recipe.output) / "final")
        write_metrics(recipe.output, ends, refit=len(everything))
    PartialState().wait_for_everyone()


def refit_recipe(recipe: Recipe, ends: Sequence[StageEnd]) -> Recipe:
    """Every stage in as many optimizer steps as its best checkpoint had taken, and nothing measured on the way."""
    by_name = {end.name: end for end in ends}
    stages = {stage.name: _in_steps(stage, by_name[stage.name]) for stage in recipe.stages.to_run}
    return recipe.changed(
        data=str(recipe.prepared_folder or recipe.data),
        output=str(Path(recipe.output) / REFIT),
        stages=recipe.stages.changed(**stages),
        calibrate=False,
        refit=False,
        push=None,
    )


def _in_steps(stage: Stage, end: StageEnd) -> Stage:
    row = next((row for row in reversed(end.rows) if _is_best(row, end)), None)
    steps = end.steps if row is None else int(row["step"])
    arguments: dict[str, Any] = dict(stage.training_arguments)
    epochs = arguments.pop("num_train_epochs", None)
    for key in ("eval_steps", "eval_delay", "eval_on_start"):
        arguments.pop(key, None)
    arguments |= {"max_steps": steps, "eval_strategy": "no", "load_best_model_at_end": False}
    drop = stage.lr_drop
    if drop is not None and drop >= 1:  # epochs are longer now: the drop comes at the same step
        per_epoch = row["step"] / row["epoch"] if row else end.steps / epochs if epochs else 0
        share = drop * per_epoch / steps
        drop = share if 0 < share < 1 else None
    changes = {"training_arguments": arguments, "min_steps": None, "early_stopping": None, "lr_drop": drop}
    return stage.model_copy(update=changes)


def _is_best(row: Any, end: StageEnd) -> bool:
    return row["stage"] == end.name and row["epoch"] == end.best_epoch
