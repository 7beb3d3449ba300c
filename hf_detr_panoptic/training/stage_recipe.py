"""One stage of a recipe: TrainingArguments of the installed transformers, and what training DETR needs beside them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import RecipeError, did_you_mean
from .plain_data import (
    KeyPath,
    Limits,
    Places,
    checked,
    dotted,
    mapping,
    plain,
    read_settings,
    setting,
    settings_of,
    unknown_key,
)
from .training_fields import GONE, OURS, training_fields

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

STAGES = ("detection", "mask_head", "finetune")

# What a stage's TrainingArguments are where nobody says otherwise; transformers' own defaults are for text.
_EVERYWHERE: Mapping[str, Any] = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "weight_decay": 1e-4,
    "max_grad_norm": 0.1,
    "logging_steps": 10.0,
    "save_total_limit": 2,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "detection": {"num_train_epochs": 30.0, "learning_rate": 1e-4, "metric_for_best_model": "box_ap"},
    "mask_head": {"num_train_epochs": 25.0, "learning_rate": 1e-4, "metric_for_best_model": "pq"},
    "finetune": {"num_train_epochs": 10.0, "learning_rate": 1e-5, "metric_for_best_model": "pq"},
}
_BACKBONE_RATE: Mapping[str, float | None] = {"detection": 1e-5, "mask_head": None, "finetune": 1e-6}
_DROP: Mapping[str, float] = {"detection": 0.8, "mask_head": 0.6, "finetune": 0.7}

_PARTS = ("stem", "layer1", "layer2", "layer3", "layer4", "backbone", "transformer", "heads", "detr", "mask_head")

# What an evaluation of each stage gives to choose the best checkpoint by (`evaluation_loop.eval_metrics`).
METRICS: Mapping[str, tuple[str, ...]] = {
    "detection": ("box_ap", "box_ap50", "box_ap75", "box_ap_things", "box_ap_stuff"),
    "mask_head": ("pq", "sq", "rq", "pq_things", "pq_stuff"),
    "finetune": ("pq", "sq", "rq", "pq_things", "pq_stuff"),
}

# Keys of one stage alone: elsewhere they would do nothing.
ONLY_IN: Mapping[str, str] = {"mask_queries": "mask_head", "threshold": "mask_head"}

_AT_LEAST_ONE = Limits(least=1)
_POSITIVE = Limits(above=0)
_NOT_NEGATIVE = Limits(least=0)
_LIMITS: Mapping[str, Limits] = {
    "num_train_epochs": Limits(above=0, advice="To leave a stage out, write `skip: true`."),
    "max_steps": Limits(least=1, advice="Give at least 1, or leave it out and count in epochs."),
    "learning_rate": _POSITIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "adam_beta1": Limits(least=0, below=1),
    "adam_beta2": Limits(least=0, below=1),
    "adam_epsilon": _POSITIVE,
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "per_device_eval_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "dataloader_num_workers": _NOT_NEGATIVE,
    "dataloader_prefetch_factor": _AT_LEAST_ONE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _AT_LEAST_ONE,
}


@dataclass(frozen=True)
class StageRecipe:
    """A stage's settings, checked and complete: `training_arguments` are the fields to build TrainingArguments with.

    Build by `StageRecipe.of("mask_head", num_train_epochs=5)` or from a recipe: those know the stage's defaults.
    What depends on the machine (precision, workers) is chosen by `training_arguments_for`, unless it was written.
    """

    name: str
    skip: bool = setting(False, "true leaves the stage out: the next one starts from what this one would have")
    backbone_learning_rate: float | None = setting(
        None, "the backbone's own learning rate; null: as the rest (mask_head does not train it)", above=0
    )
    freeze: tuple[str, ...] = setting(
        ("stem", "layer1"),
        "parts that do not learn: stem, layer1 … layer4, backbone, transformer, heads, detr, mask_head; "
        "beside what the stage freezes by its nature",
    )
    lr_drop: float | None = setting(
        None, "the epoch after which learning rates fall to a tenth; below 1: a share of the run; null: never", above=0
    )
    early_stopping: int | None = setting(
        None, "stop after so many evaluations without a better one; null: never", least=1
    )
    mask_queries: Literal["matched", "confident"] = setting(
        "matched", "mask_head only: which queries' masks learn, those matched to a target, or of these the confident"
    )
    threshold: float = setting(
        0.85, "mask_head only: how sure a query must be for `mask_queries: confident`", least=0, most=1
    )
    ema: float | None = setting(
        None,
        "decay of an average of the weights that is evaluated and saved instead, such as 0.9998",
        above=0,
        below=1,
    )
    repeat_factor: float | None = setting(
        None, "photos with a class that is in less than this share of photos are seen more often; null: all once",
        above=0, most=1,
    )  # fmt: skip
    training_arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, **settings: Any) -> StageRecipe:
        """A stage by its name, with some settings of its own."""
        return cls.from_dict(name, settings)

    @classmethod
    def from_dict(cls, name: str, data: Any, path: KeyPath | None = None, places: Places | None = None) -> StageRecipe:
        """From the mapping under `stages.<name>` of a recipe: our keys and TrainingArguments' side by side."""
        path = path or ("stages", name)
        places = places or Places()
        if name not in STAGES:
            raise RecipeError(f"unknown stage {name!r}", where=places.where(path), fix=did_you_mean(name, STAGES))
        content = mapping(data, path, places)
        for key, stage in ONLY_IN.items():
            if key in content and name != stage:
                raise RecipeError(
                    f"{key!r} means nothing in the stage {name}",
                    where=places.where((*path, key)),
                    fix=f"Write it under stages.{stage}.",
                )
        own = {key: content.pop(key) for key in list(content) if key in settings_of(StageRecipe)}
        ours = read_settings(cls, own, path, places)
        theirs = {key: _checked_field(key, value, (*path, key), places) for key, value in content.items()}
        if theirs.get("max_steps") is None:
            theirs.pop("max_steps", None)
        _check_freeze(name, ours.get("freeze", ()), path, places)
        _check_together(name, theirs, ours, path, places)
        ours.setdefault("backbone_learning_rate", _BACKBONE_RATE[name])
        ours.setdefault("lr_drop", None if "lr_scheduler_type" in theirs else _DROP[name])
        return cls(name=name, training_arguments=_with_defaults(name, theirs), **ours)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that `from_dict` reads back to an equal stage."""
        ours = {key: value for key, value in plain(self).items() if ONLY_IN.get(key, self.name) == self.name}
        return ours | plain(self.training_arguments)

    def with_arguments(self, **training_arguments: Any) -> StageRecipe:
        """The same stage with some TrainingArguments replaced, unchecked: for what is found out at run time."""
        return replace(self, training_arguments={**self.training_arguments, **training_arguments})

    def drop_step(self, total_steps: int, steps_per_epoch: float) -> int | None:
        """After how many optimizer steps the learning rates fall to a tenth; None: never, or after the last."""
        if self.lr_drop is None:
            return None
        step = round(self.lr_drop * (total_steps if self.lr_drop < 1 else steps_per_epoch))
        return step if step < total_steps else None

    def training_arguments_for(self, device: Any, *, output_dir: str | Path, seed: int) -> TrainingArguments:
        """TrainingArguments for this device, built at once: call it just before the stage's Trainer is made."""
        from .arguments import training_arguments

        return training_arguments(self, device, output_dir=output_dir, seed=seed)


def _checked_field(name: str, value: Any, path: KeyPath, places: Places) -> Any:
    """One field of TrainingArguments, by its name and type there."""
    known = training_fields()
    if name in OURS:
        raise RecipeError(f"{name!r} is not set in a stage", where=places.where(path), fix=OURS[name])
    if name not in known:
        if name in GONE:
            written = str(value).lower() if isinstance(value, bool) else value
            raise RecipeError(
                f"TrainingArguments has no {name!r} any more",
                where=places.where(path),
                fix=GONE[name].format(value=written),
            )
        raise unknown_key(path, [*settings_of(StageRecipe), *(key for key in known if key not in OURS)], places)
    if name == "max_steps" and value in (-1, None):
        return None
    return checked(known[name].annotation, value, path, places, _LIMITS.get(name))


def _check_freeze(name: str, freeze: Sequence[str], path: KeyPath, places: Places) -> None:
    where = places.where((*path, "freeze"))
    for part in freeze:
        if part not in _PARTS and not re.fullmatch(r"layer\d+", part):
            raise RecipeError(f"no part of a DETR is called {part!r}", where=where, fix=did_you_mean(part, _PARTS))
    parts = set(freeze) | {"detection": {"mask_head"}, "mask_head": {"detr"}}.get(name, set())
    detr = "detr" in parts or {"backbone", "transformer", "heads"} <= parts
    if detr and "mask_head" in parts:
        raise RecipeError("everything is frozen: nothing is left to learn", where=where, fix="Freeze less.")


def _check_together(
    name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], path: KeyPath, places: Places
) -> None:
    """Settings that are right one by one and wrong side by side."""

    def wrong(what: str, key: str, fix: str) -> RecipeError:
        return RecipeError(what, where=places.where((*path, key)), fix=fix)

    if "num_train_epochs" in theirs and "max_steps" in theirs:
        raise wrong("num_train_epochs and max_steps both say when to stop", "max_steps", "Keep one of them.")
    if theirs.get("bf16") and theirs.get("fp16"):
        raise wrong("bf16 and fp16 are both asked for", "fp16", "Keep one of them.")
    if ours.get("lr_drop") is not None and "lr_scheduler_type" in theirs:
        raise wrong("lr_drop and lr_scheduler_type both rule the learning rate", "lr_drop", "Keep one of them.")
    if theirs.get("dataloader_num_workers") == 0:
        for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
            if theirs.get(key):
                raise wrong(f"{key} without workers", key, "Leave it out, or give dataloader_num_workers 1 or more.")
    if "metric_for_best_model" in theirs:
        _check_metric(name, str(theirs["metric_for_best_model"]).removeprefix("eval_"), wrong)
    evaluates = theirs.get("eval_strategy", "epoch")
    if evaluates == "no" and (theirs.get("load_best_model_at_end") or ours.get("early_stopping")):
        key = "early_stopping" if ours.get("early_stopping") else "load_best_model_at_end"
        raise wrong(f"{key} needs evaluations, and eval_strategy is no", key, "Write `eval_strategy: epoch`.")
    if theirs.get("load_best_model_at_end", evaluates != "no"):
        _check_saving(theirs, evaluates, wrong)
    end, drop = theirs.get("num_train_epochs", _DEFAULTS[name]["num_train_epochs"]), ours.get("lr_drop")
    if "max_steps" not in theirs and drop is not None and drop >= max(end, 1):
        where = places.where((*path, "lr_drop")) or dotted((*path, "lr_drop"))
        logger.warning("%s: the learning rate would drop after epoch %g, but %g is the last", where, drop, end)


def _check_metric(name: str, metric: str, wrong: Any) -> None:
    if metric not in METRICS[name]:
        why, fix = "", did_you_mean(metric, METRICS[name])
        if metric in METRICS["finetune"]:
            why, fix = ": its masks mean nothing yet", "Write `box_ap`."
        raise wrong(f"an evaluation of {name} gives no {metric!r}{why}", "metric_for_best_model", fix)


def _check_saving(theirs: Mapping[str, Any], evaluates: str, wrong: Any) -> None:
    """The best checkpoint can be found again only if each evaluation has its checkpoint."""
    saves = theirs.get("save_strategy", evaluates)
    if saves == "best":
        return
    if saves != evaluates:
        raise wrong(
            f"save_strategy is {saves} and eval_strategy {evaluates}, so the best checkpoint might not be there",
            "save_strategy",
            "Write the same for both, or `load_best_model_at_end: false`.",
        )
    if evaluates == "steps":
        every = theirs.get("eval_steps")
        if every is None:
            raise wrong("eval_strategy is steps, and eval_steps is missing", "eval_strategy", "Write `eval_steps`.")
        times = theirs.get("save_steps", every) / every
        if abs(times - round(times)) > 1e-9 or round(times) < 1:
            raise wrong(
                f"save_steps is no multiple of eval_steps ({every:g})", "save_steps", "Make them equal, or multiples."
            )


def _with_defaults(name: str, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """All that does not depend on the machine, so that a saved recipe keeps its meaning."""
    evaluates = theirs.get("eval_strategy", "epoch")
    arguments = {**_EVERYWHERE, **_DEFAULTS[name]}
    if "max_steps" in theirs:
        del arguments["num_train_epochs"]
    arguments["eval_strategy"] = evaluates
    arguments["save_strategy"] = "epoch" if evaluates == "no" else evaluates
    if evaluates == "steps" and "eval_steps" in theirs:
        arguments["save_steps"] = theirs["eval_steps"]
    arguments["load_best_model_at_end"] = evaluates != "no"
    return arguments | dict(theirs)
