"""The settings of a stage, once: our own keys, and what it takes of TrainingArguments."""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, Union

from pydantic import Field, ValidationError, ValidationInfo, create_model, model_validator
from pydantic.fields import FieldInfo

from .checked import (
    Settings,
    Texts,
    Whole,
    alternatives,
    answer,
    dotted,
    plain,
    setting,
    words_of,
    wrong,
)
from .errors import RecipeError, did_you_mean
from .training_fields import GONE, OURS, training_fields

logger = logging.getLogger(__name__)

STAGES = ("detection", "mask_head", "finetune")

# What a stage has where nobody says otherwise; transformers' own defaults are for text.
_EVERYWHERE: Mapping[str, Any] = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "weight_decay": 1e-4,
    "max_grad_norm": 0.1,
    "logging_steps": 10.0,
    "save_total_limit": 2,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "detection": {"num_train_epochs": 30.0, "learning_rate": 1e-4, "metric_for_best_model": "box_ap_yours_and_all"},
    "mask_head": {"num_train_epochs": 25.0, "learning_rate": 1e-4, "metric_for_best_model": "pq_yours_and_all"},
    "finetune": {"num_train_epochs": 10.0, "learning_rate": 1e-5, "metric_for_best_model": "pq_yours_and_all"},
}
_BACKBONE_RATE: Mapping[str, float | None] = {"detection": 1e-5, "mask_head": None, "finetune": 1e-6}
_DROP: Mapping[str, float] = {"detection": 0.8, "mask_head": 0.6, "finetune": 0.7}

# Of detection, where the transformer is fresh and nobody says how long: the paper's short schedule, longer with few
# photos.
_FRESH: Mapping[str, Any] = {"num_train_epochs": 300.0, "min_steps": 10_000}

_PARTS = ("stem", "layer1", "layer2", "layer3", "layer4", "backbone", "transformer", "heads", "detr", "mask_head")

# What an evaluation of each stage gives to choose the best checkpoint by (`evaluate.eval_metrics`).
# Those with "yours" are about the person's classes, or the mean of these and all.
_BOX_METRICS = ("box_ap", "box_ap50", "box_ap75", "box_ap_things", "box_ap_stuff", "box_ap_yours")
_MAP_METRICS = ("pq", "sq", "rq", "pq_things", "pq_stuff", "pq_yours")
YOURS_AND_ALL = "_yours_and_all"
METRICS: Mapping[str, tuple[str, ...]] = {
    "detection": (*_BOX_METRICS, f"box_ap{YOURS_AND_ALL}"),
    "mask_head": (*_MAP_METRICS, f"pq{YOURS_AND_ALL}"),
    "finetune": (*_MAP_METRICS, f"pq{YOURS_AND_ALL}"),
}

# Where min_steps has made a run longer, each evaluation and checkpoint stands for at least so many steps.
EVAL_EVERY = 250

# Keys of one stage alone: elsewhere they would do nothing.
ONLY_IN: Mapping[str, str] = {"mask_queries": "mask_head", "threshold": "mask_head"}

_LIMITED: Mapping[tuple[str, ...], Mapping[str, float]] = {
    ("num_train_epochs", "learning_rate", "adam_epsilon", "logging_steps", "eval_steps", "save_steps"): {"gt": 0},
    ("warmup_steps", "weight_decay", "max_grad_norm", "dataloader_num_workers"): {"ge": 0},
    ("adam_beta1", "adam_beta2"): {"ge": 0, "lt": 1},
    ("max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"): {
        "ge": 1
    },
    ("dataloader_prefetch_factor", "save_total_limit"): {"ge": 1},
}
_LIMITS: Mapping[str, Mapping[str, Any]] = {name: limits for names, limits in _LIMITED.items() for name in names}


@functools.cache
def arguments_class() -> type[Settings]:
    """What a stage takes of the installed TrainingArguments, as settings."""
    fields: dict[str, Any] = {}
    for name, entry in training_fields().items():
        limits = _LIMITS.get(name, {})
        kinds = [
            Annotated[Whole if kind is int else kind, Field(**limits)] if kind in (int, float) else kind
            for kind in alternatives(entry.annotation)
        ]
        if name not in OURS:
            fields[name] = (Union[tuple(kinds)], setting(None, "see TrainingArguments"))  # noqa: UP007
    return create_model("Arguments", __base__=Settings, **fields)


class Stage(Settings):
    """A stage, checked and complete: `training_arguments` are the fields to build TrainingArguments with.

    Build by `Stage.of("mask_head", num_train_epochs=5)` or from a recipe: those know the stage's defaults.
    What depends on the machine (precision, workers) is chosen by `training_arguments_for`, unless it was written.
    """

    name: Literal["detection", "mask_head", "finetune"]
    skip: bool = setting(False, "true leaves the stage out: the next one starts from what this one would have")
    backbone_learning_rate: float | None = setting(
        None, "the backbone's own learning rate; null: as the rest (mask_head does not train it)", gt=0
    )
    freeze: Texts = setting(
        ("stem", "layer1"),
        "parts that do not learn: stem, layer1 … layer4, backbone, transformer, heads, detr, mask_head; "
        "beside what the stage freezes by its nature",
    )
    lr_drop: float | None = setting(
        None,
        "the epoch after which learning rates fall, see lr_drop_to; below 1: a share of the run; null: never",
        gt=0,
    )
    lr_drop_to: float = setting(0.1, "what is left of the learning rates after lr_drop", gt=0, lt=1)
    early_stopping: Whole | None = setting(
        None, "stop after so many evaluations without a better one; null: never", ge=1
    )
    mask_queries: Literal["matched", "confident"] = setting(
        "matched", "mask_head only: which queries' masks learn, those matched to a target, or of these the confident"
    )
    threshold: float = setting(
        0.85, "mask_head only: how sure a query must be for `mask_queries: confident`", ge=0, le=1
    )
    ema: float | None = setting(
        None, "decay of an average of the weights that is evaluated and saved instead, such as 0.9998", gt=0, lt=1
    )
    repeat_factor: float | None = setting(
        None,
        "photos with one of your classes that is in less than this share of photos are seen more often; "
        "null: all once",
        gt=0,
        le=1,
    )
    marked_share: float | None = setting(
        None,
        "this share of each batch are photos on which you marked something, the rest others; an epoch keeps its "
        "length; null: all once",
        gt=0,
        le=1,
    )
    min_steps: Whole | None = setting(
        None, "train longer where that makes fewer optimizer steps than this: so few photos need more epochs", ge=1
    )
    eval_every: Whole | None = setting(
        None,
        "evaluations and checkpoints at the ends of epochs wait until so many steps have passed; "
        f"null: {EVAL_EVERY} with min_steps, else none waits",
        ge=1,
    )
    training_arguments: dict[str, Any]

    @classmethod
    def of(cls, name: str, **settings: Any) -> Stage:
        """A stage by its name, with some settings of its own."""
        return getattr(Stages.read({name: settings}, path=("stages",)), name)

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        """Our own keys of a stage; TrainingArguments' stand beside them."""
        return {key: info for key, info in cls.model_fields.items() if key not in ("name", "training_arguments")}

    @model_validator(mode="before")
    @classmethod
    def _ours_and_theirs(cls, data: Any) -> Any:
        """Our keys and TrainingArguments' stand side by side; what is not given has the stage's default."""
        if not isinstance(data, Mapping):
            return data
        content, keys = dict(data), cls.keys()
        name = content.pop("name")
        for key, stage in ONLY_IN.items():
            if key in content and name != stage:
                raise wrong(f"{key!r} means nothing in the stage {name}", f"Write it under stages.{stage}.", key)
        ours = {key: content.pop(key) for key in list(content) if key in keys}
        theirs = _checked_arguments(content)
        _check_together(name, theirs, ours)
        ours.setdefault("backbone_learning_rate", _BACKBONE_RATE[name])
        ours.setdefault("lr_drop", None if "lr_scheduler_type" in theirs else _DROP[name])
        return {**ours, "name": name, "training_arguments": _with_defaults(name, theirs)}

    @model_validator(mode="after")
    def _parts_and_end(self, info: ValidationInfo) -> Self:
        for part in self.freeze:
            if part not in _PARTS and not re.fullmatch(r"layer\d+", part):
                raise wrong(f"no part of a DETR is called {part!r}", did_you_mean(part, _PARTS), "freeze")
        parts = set(self.freeze) | {"detection": {"mask_head"}, "mask_head": {"detr"}}.get(self.name, set())
        if "mask_head" in parts and ("detr" in parts or {"backbone", "transformer", "heads"} <= parts):
            raise wrong("everything is frozen: nothing is left to learn", "Freeze less.", "freeze")
        end = self.training_arguments.get("num_train_epochs")
        if end is not None and self.lr_drop is not None and self.lr_drop >= max(end, 1):
            path = ("stages", self.name, "lr_drop")
            where = info.context.where(path) if info.context else dotted(path)
            logger.warning(
                "%s: the learning rate would drop after epoch %g, but %g is the last", where, self.lr_drop, end
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The mapping that a recipe has for it."""
        ours = {key: plain(getattr(self, key)) for key in self.keys() if ONLY_IN.get(key, self.name) == self.name}
        return ours | plain(self.training_arguments)

    def changed(self, **changes: Any) -> Self:
        return type(self)(**{**self.to_dict(), "name": self.name, **changes})

    def with_arguments(self, **training_arguments: Any) -> Stage:
        """The same stage with some TrainingArguments replaced, unchecked: for what is found out at run time."""
        return self.model_copy(update={"training_arguments": {**self.training_arguments, **training_arguments}})

    def length(self, steps_per_epoch: int) -> dict[str, float]:
        """TrainingArguments' num_train_epochs, or max_steps, once `min_steps` is reached: in whole epochs."""
        least = self.min_steps or 0
        if "max_steps" in self.training_arguments:
            return {"max_steps": max(self.training_arguments["max_steps"], least)}
        epochs: float = self.training_arguments["num_train_epochs"]
        enough = epochs * steps_per_epoch >= least
        return {"num_train_epochs": epochs if enough else math.ceil(least / steps_per_epoch)}

    def evaluates_after(self, step: int, steps_per_epoch: int, total_steps: int) -> bool:
        """Whether the epoch that ends with this step is evaluated and saved: the first after each `eval_every` steps.

        The last one always is.
        """
        every = self.eval_every or (EVAL_EVERY if self.min_steps else 1)
        return step >= total_steps or step // every > max(step - steps_per_epoch, 0) // every

    def drop_step(self, total_steps: int, steps_per_epoch: float) -> int | None:
        """After how many optimizer steps the learning rates fall to a tenth; None: never, or after the last."""
        if self.lr_drop is None:
            return None
        step = round(self.lr_drop * (total_steps if self.lr_drop < 1 else steps_per_epoch))
        return step if step < total_steps else None


class Stages(Settings):
    """The three of them, each complete."""

    detection: Stage
    mask_head: Stage
    finetune: Stage

    @model_validator(mode="before")
    @classmethod
    def _each_has_its_name(cls, data: Any) -> Any:
        if data is not None and not isinstance(data, Mapping):
            return data
        content = dict(data or {})
        for name in STAGES:
            stage = content.get(name) or {}
            if isinstance(stage, Mapping):
                if "name" in stage:
                    raise wrong("unknown key 'name'", unknown_in_a_stage("name"), name, "name")
                content[name] = {**stage, "name": name}
            elif isinstance(stage, Stage) and stage.name != name:
                raise wrong(f"the stage {stage.name} stands here", f"Write it under stages.{stage.name}.", name)
        for name in content:
            if name not in STAGES:
                raise wrong(f"unknown stage {name!r}", did_you_mean(name, STAGES), str(name))
        return content

    def __iter__(self) -> Iterator[Stage]:  # type: ignore[override]
        return (getattr(self, name) for name in STAGES)

    def __getitem__(self, name: str) -> Stage:
        if name not in STAGES:
            raise RecipeError(f"unknown stage {name!r}", fix=did_you_mean(name, STAGES))
        return getattr(self, name)

    @property
    def to_run(self) -> tuple[Stage, ...]:
        """Those that are not skipped, in order."""
        return tuple(stage for stage in self if not stage.skip)


def fresh_transformer(stages: Any) -> Any:
    """What a recipe says of its stages, with a longer detection where it leaves that open."""
    if not isinstance(stages, Mapping | None):
        return stages
    detection = (stages or {}).get("detection") or {}
    if not isinstance(detection, Mapping) or {"num_train_epochs", "max_steps"} & detection.keys():
        return stages
    return {**(stages or {}), "detection": {**_FRESH, **detection}}


def unknown_in_a_stage(key: object) -> str:
    """What to write instead of a key that a stage does not have."""
    return did_you_mean(key, [*Stage.keys(), *arguments_class().model_fields])


def _checked_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of TrainingArguments, by their names and types there."""
    known = arguments_class().model_fields
    content = dict(given)
    for name, value in given.items():
        if name in OURS:
            raise wrong(f"{name!r} is not set in a stage", OURS[name], name)
        if name not in known:
            if name in GONE:
                written = str(value).lower() if isinstance(value, bool) else value
                raise wrong(f"TrainingArguments has no {name!r} any more", GONE[name].format(value=written), name)
            raise wrong(f"unknown key {name!r}", unknown_in_a_stage(name), str(name))
        if value is False and "no" in words_of(known[name].annotation):
            content[name] = "no"  # what YAML makes of `eval_strategy: no`
        if name == "max_steps" and value in (-1, None):
            del content[name]
    try:
        checked = arguments_class().model_validate(content)
    except ValidationError as error:
        path, what, fix = answer(error, arguments_class(), content)
        raise wrong(what, fix, *path) from None
    return {name: getattr(checked, name) for name in content}


def _check_together(name: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Settings that are right one by one and wrong side by side."""
    if "num_train_epochs" in theirs and "max_steps" in theirs:
        raise wrong("num_train_epochs and max_steps both say when to stop", "Keep one of them.", "max_steps")
    if theirs.get("bf16") and theirs.get("fp16"):
        raise wrong("bf16 and fp16 are both asked for", "Keep one of them.", "fp16")
    if ours.get("lr_drop") is not None and "lr_scheduler_type" in theirs:
        raise wrong("lr_drop and lr_scheduler_type both rule the learning rate", "Keep one of them.", "lr_drop")
    if ours.get("marked_share") is not None and ours.get("repeat_factor") is not None:
        raise wrong(
            "marked_share and repeat_factor both say how often a photo is seen", "Keep one of them.", "repeat_factor"
        )
    if ours.get("eval_every") is not None and theirs.get("eval_strategy", "epoch") != "epoch":
        raise wrong("eval_every is for evaluations at the ends of epochs", "Write `eval_steps`.", "eval_every")
    if theirs.get("dataloader_num_workers") == 0:
        for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
            if theirs.get(key):
                raise wrong(f"{key} without workers", "Leave it out, or give dataloader_num_workers 1 or more.", key)
    if "metric_for_best_model" in theirs:
        _check_metric(name, str(theirs["metric_for_best_model"]).removeprefix("eval_"))
    evaluates = theirs.get("eval_strategy", "epoch")
    if evaluates == "no" and (theirs.get("load_best_model_at_end") or ours.get("early_stopping")):
        key = "early_stopping" if ours.get("early_stopping") else "load_best_model_at_end"
        raise wrong(f"{key} needs evaluations, and eval_strategy is no", "Write `eval_strategy: epoch`.", key)
    if theirs.get("load_best_model_at_end", evaluates != "no"):
        _check_saving(theirs, evaluates)


def _check_metric(name: str, metric: str) -> None:
    if metric not in METRICS[name]:
        why, fix = "", did_you_mean(metric, METRICS[name])
        if metric in METRICS["finetune"]:
            why, fix = ": its masks mean nothing yet", "Write `box_ap`."
        raise wrong(f"an evaluation of {name} gives no {metric!r}{why}", fix, "metric_for_best_model")


def _check_saving(theirs: Mapping[str, Any], evaluates: str) -> None:
    """The best checkpoint can be found again only if each evaluation has its checkpoint."""
    saves = theirs.get("save_strategy", evaluates)
    if saves == "best":
        return
    if saves != evaluates:
        raise wrong(
            f"save_strategy is {saves} and eval_strategy {evaluates}, so the best checkpoint might not be there",
            "Write the same for both, or `load_best_model_at_end: false`.",
            "save_strategy",
        )
    if evaluates == "steps":
        every = theirs.get("eval_steps")
        if every is None:
            raise wrong("eval_strategy is steps, and eval_steps is missing", "Write `eval_steps`.", "eval_strategy")
        times = theirs.get("save_steps", every) / every
        if abs(times - round(times)) > 1e-9 or round(times) < 1:
            what = f"save_steps is no multiple of eval_steps ({every:g})"
            raise wrong(what, "Make them equal, or multiples.", "save_steps")


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
