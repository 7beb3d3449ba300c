"""Every setting, once: its type, its default, its limits and its meaning.

A recipe's YAML, the flags of the commands, the tables of docs/recipes.md, the editor's schema and the code that runs
all read these classes. A wrong value is a RecipeError that says what, where, and what to do. To add a setting, declare
it here and use it.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional, Self, Union

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, create_model, model_validator
from pydantic.fields import FieldInfo

from .checked import (
    Labeler,
    Location,
    Names,
    Settings,
    Side,
    Sides,
    Texts,
    Whole,
    alternatives,
    answer,
    as_pairs,
    as_shade,
    as_values,
    current_name,
    dotted,
    plain,
    setting,
    words_of,
    wrong,
)
from .errors import RecipeError, did_you_mean
from .training_fields import GONE, OURS, training_fields

logger = logging.getLogger(__name__)

# --- from photos to a dataset

DEFAULT_MODEL = "facebook/detr-resnet-50-panoptic"
FLOOR = 0.5  # the labeler is run at this threshold, so that a higher one needs no second run

Format = Literal["coco", "coco-panoptic", "cvat", "labelme", "voc", "yolo", "masks"]
SchemeName = Literal["coco", "stuff_groups", "stuff"]


class Sources(Settings):
    """What there is: photos, marks, a labeler, and what becomes of its classes."""

    images: Location = setting(
        ...,
        "the folder of photos; nothing in it is changed. Or a dataset with photos and masks: its folder (Parquet, or "
        "as save_to_disk wrote it) or its name on the Hub",
    )
    out: Location | None = setting(
        None,
        "the dataset's folder; run again, it continues or is brought up to date. "
        "In a recipe null: data/ in the run's folder",
    )
    annotations: Location | None = setting(
        None, "the person's marks: a file, a folder or a zip (CVAT, COCO, LabelMe, VOC, YOLO, masks)"
    )
    labeler: Labeler = setting(DEFAULT_MODEL, "the panoptic model that labels the rest of each photo")
    labeler_stuff: Names | None = setting(None, "its stuff classes, where its configuration does not say")
    format: Format | None = setting(None, "the annotations' format; null: found out")
    pattern: str | None = setting(None, "how mask files are named; null: found out", examples=["'{stem}_{class}.png'"])
    values: Annotated[
        dict[Annotated[int | str, BeforeValidator(as_shade)], str] | Location | None, BeforeValidator(as_values)
    ] = setting(
        None,
        "what grey values or colours of masks, or YOLO's class numbers, mean; or a CSV, JSON or labelmap.txt of them",
        examples=["{127: fire, 254: smoke}, {'128,0,0': building} or classes.csv"],
    )
    mask_column: str | None = setting(None, "of a dataset: its masks, if several columns hold images")
    instances: Literal["components", "whole"] = setting(
        "components", "a mask file of a class of things: an object a connected part, or one object"
    )
    rescale: bool = setting(False, "fit marks to photos that were resized since")
    strict: bool = setting(False, "stop at the first thing that is wrong, instead of setting a photo aside")
    unannotated: Literal["skip", "auto", "learn"] = setting(
        "skip",
        "photos that no annotation file lists: left out, or labelled and taken as looked at, or labelled, learnt from "
        "and never validated",
    )
    looked_at: Annotated[Literal["marked", "all"] | Location, Field(union_mode="left_to_right")] = setting(
        "marked",
        "photos on which what is unmarked is none of the person's classes: those with a mark or a tag, all, or those "
        "and the ones that a text file names, a photo a line",
    )
    stuff: Names = setting((), "classes that are stuff; a marked class is a thing unless it is named here")
    things: Names = setting((), "classes that are things, whatever the labeler says")
    scheme: SchemeName = setting("coco", "ready-made groups for the labeler's classes")
    keep: Names | None = setting(None, "the labeler's classes that stay, the rest becomes void; null: all")
    drop: Names = setting((), "the labeler's classes that become void")
    merge: Annotated[dict[str, Names], BeforeValidator(as_pairs)] = setting(
        {}, "new class: the labeler's classes that it takes in", examples=["{ground: [gravel, road]}"]
    )
    rename: Annotated[dict[str, str], BeforeValidator(as_pairs)] = setting(
        {}, "the labeler's class: its name in the dataset", examples=["{truck: lorry}"]
    )


class OverlayRules(Settings):
    """What happens where the person and the labeler disagree.

    Where the defaults come from, by `benchmarks/overlay_rules.py`: PQ of the merged maps is flat for a `leakage` from
    0.4 to 0.6; less takes out more lies, and more that was right. Of rectangles with a `box_fit` below 0.5 the
    rectangle itself is about as near to the object as the best segment. A `min_area` up to 256 makes little
    difference. `threshold` is DETR's own: the experiment makes its scores up, so it cannot choose one. An IoU test
    beside `leakage` would add nothing, for an IoU of t with one mark implies a share of t.
    """

    threshold: float = setting(0.85, "auto segments that the labeler is less sure of become void", ge=0, le=1)
    leakage: float | None = setting(
        0.5, "an auto thing with this share of its pixels under marks goes; null: never", gt=0, le=1
    )
    min_area: Whole = setting(64, "pieces of fewer pixels that a mark cuts off become void", ge=0)
    priority: Names = setting((), "marked classes, the one on top first; it decides before layers and `collisions`")
    collisions: Literal["smaller", "file", "fail"] = setting(
        "smaller",
        "what lies on top where marks of one layer (z_order) overlap: the smaller one, the later in the file, or fail",
    )
    boxes: Literal["refine", "rectangle", "skip"] = setting(
        "refine", "a mark that is a rectangle: refined to the auto segment that fits, as it is, or skipped"
    )
    box_fit: float = setting(0.5, "least IoU of a rectangle and the segment that refines it", ge=0, le=1)

    def only_pasting(self) -> Self:
        """Marks over what is there, and nothing else: no score, no leak and no piece is judged."""
        return self.changed(threshold=0.0, leakage=None, min_area=0)


class Tiles(Settings):
    """Large photos and small things: a photo in windows, each seen as if it were one."""

    tile: Side | None = setting(
        None,
        "photos with a longer side are cut into tiles of so many pixels a side, each seen at full size; null: none",
    )
    overlap: Whole | None = setting(
        None, "how many pixels two tiles share at least, up to half of a tile; null: an eighth of a tile", ge=0
    )

    @model_validator(mode="after")
    def _overlap_is_of_tiles(self) -> Self:
        if self.overlap is not None and (self.tile is None or self.overlap > self.tile // 2):
            what = f"overlap is {self.overlap}, " + ("and tile null" if self.tile is None else f"tile {self.tile}")
            raise wrong(what, "Give a tile, and an overlap of at most half of it.", "overlap")
        return self


class Prepare(Tiles, OverlayRules, Sources):
    """Everything that decides a dataset, but for the files themselves: for `prepare`, and under `data:` in a recipe.

    Paths are relative to the working directory. Null is as good as not set, unless it has a meaning of its own.
    """

    validation: float = setting(0.2, "share of photos that are validated on", gt=0, lt=1)
    test: float = setting(0.0, "share of photos held out for a test", ge=0, lt=1)
    seed: Whole | None = setting(None, "of the split; null: the recipe's, or 0")
    group_pattern: str | None = setting(
        None, "a regular expression: photos whose names agree in its groups stay together", examples=[r"'^(site\d+)_'"]
    )
    max_size: Side | None = setting(None, "photos with a longer side are shrunk to it; null: none is")
    mix: Location | None = setting(None, "another COCO panoptic dataset whose photos are added, matched by names")
    batch_size: Side = setting(4, "photos of one size that are labelled at a time")
    precision: Literal["fp32", "bf16"] = setting("fp32", "what the labeler computes in")
    threads: Side | None = setting(None, "of the processor, for the labeler; part of what makes results repeatable")

    @property
    def folder(self) -> Path:
        """`out`, once it is known."""
        assert self.out is not None
        return self.out

    @property
    def rules(self) -> OverlayRules:
        """Those of the overlay alone."""
        return OverlayRules(**{name: getattr(self, name) for name in OverlayRules.model_fields})

    @model_validator(mode="before")
    @classmethod
    def _as_it_may_be_written(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        content: dict[Any, Any] = {}
        for word, value in data.items():
            name = current_name(word) if isinstance(word, str) else word
            if content.get(name) is not None:
                raise wrong(f"{word!r} and {name!r} are the same setting", "Keep one of them.", name)
            info = cls.model_fields.get(name)
            if value is not None or info is None or type(None) in alternatives(info.annotation):
                content[name] = value
        if not content.get("leaky", True):
            del content["leaky"]  # recipes of earlier runs have it, and none of them could use it
        return content

    @classmethod
    def unknown(cls, name: str) -> str:
        if name == "leaky":
            return "Take it out: maps that were merged before cannot be labelled again by this rule."
        return super().unknown(name)

    @model_validator(mode="after")
    def _side_by_side(self) -> Self:
        if self.threshold < FLOOR:
            raise wrong(
                f"threshold is {self.threshold:g}", f"The labeler is run at {FLOOR}: give {FLOOR} to 1.", "threshold"
            )
        if self.validation + self.test >= 1:
            share = f"validation {self.validation:g} and test {self.test:g}"
            raise wrong(f"{share} leave nothing to train on", "Give shares such as 0.2 and 0.1.", "validation")
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                what = f"{self.group_pattern!r} is no regular expression ({error})"
                raise wrong(what, "See Python's `re`.", "group_pattern") from None
        for one, other in (("things", "stuff"), ("keep", "drop")):
            both = set(getattr(self, one) or ()) & set(getattr(self, other) or ())
            if both:
                raise wrong(f"{min(both)!r} is in {one} and in {other}", "Keep it in one of them.", other)
        no_repeats("merge", [name for names in self.merge.values() for name in names])
        no_repeats("priority", self.priority)
        return self


def no_repeats(key: str, names: Sequence[str]) -> None:
    """Raise where a name stands twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise wrong(f"{twice[0]!r} is named twice", "Name each class once.", key)


# --- from a dataset to a model


class PhotoSize(Settings):
    """How large the model sees photos. null: as the checkpoint's own preprocessor says (DETR: 800 and 1333)."""

    shortest_edge: Whole | None = setting(None, "the short side of a photo that is evaluated or segmented", ge=32)
    longest_edge: Whole | None = setting(None, "which the long side may not exceed", ge=32)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.shortest_edge is None) != (self.longest_edge is None):
            raise wrong("shortest_edge and longest_edge go together", "Give both, or neither.")
        if self.shortest_edge and self.longest_edge and self.shortest_edge > self.longest_edge:
            raise wrong("shortest_edge is more than longest_edge", "Swap them.")
        return self


class Augmentation(Settings):
    """How much a training photo may vary. The defaults are DETR's, and a little colour.

    null: the paper's value, in proportion where photos are seen smaller than at 800: see `for_size`.
    """

    flip: float = setting(0.5, "how often it is mirrored", ge=0, le=1)
    flip_pairs: Annotated[dict[str, str], BeforeValidator(as_pairs)] = setting(
        {}, "classes that are each other's mirror image, such as `left mirror: right mirror`"
    )
    short_sides: Sides | None = setting(
        None,
        "its short side is drawn from these, unless that makes the long one exceed `longest`; "
        "null: 480 to 800 by 32; []: as in evaluation",
    )
    longest: Side | None = setting(None, "which its long side may not exceed; null: 1333")
    crop: float = setting(0.5, "how often it is cropped at random", ge=0, le=1)
    crop_sides: Sides | None = setting(None, "short sides that it is brought to before a crop; null: 400, 500, 600")
    crop_window: Annotated[tuple[Whole, Whole], Field(strict=False)] | None = setting(
        None, "least and most pixels a side of a crop; null: 384, 600"
    )
    brightness: float = setting(0.2, "0.2 draws factors from 0.8 to 1.2", ge=0, lt=1)
    contrast: float = setting(0.2, "as brightness", ge=0, lt=1)
    saturation: float = setting(0.2, "as brightness", ge=0, lt=1)
    scale_jitter: Annotated[tuple[float, float], Field(strict=False)] | None = setting(
        None,
        "instead of short_sides and crop: the photo fitted into jitter_size, times a factor from least to "
        "most, such as [0.1, 2.0]; of what is larger a window is kept",
    )
    jitter_size: Side | None = setting(None, "the window of scale_jitter; null: 1024")
    paste: float = setting(
        0.0, "how often things that you marked on other training photos are pasted in, before all else", ge=0, le=1
    )
    paste_most: Side = setting(3, "how many at most")
    paste_scale: Annotated[tuple[float, float], Field(strict=False)] = setting(
        (0.8, 1.25), "how large, against their size in their own photo: least and most"
    )
    paste_shift: float = setting(
        0.08, "how far up or down from their own height in the photo, as a share of it; sideways anywhere", ge=0, le=1
    )
    paste_classes: Names | None = setting(
        None, "of which classes; null: all your things. Leave out what lies on one background only, such as cracks"
    )

    PAPER: ClassVar[Mapping[str, Any]] = {
        "short_sides": tuple(range(480, 801, 32)),
        "longest": 1333,
        "crop_sides": (400, 500, 600),
        "crop_window": (384, 600),
        "jitter_size": 1024,
    }

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.crop and () in (self.crop_sides, self.short_sides):
            raise wrong("crop needs short_sides and crop_sides", "Write `crop: 0` to do without.", "crop")
        paired = [*self.flip_pairs, *self.flip_pairs.values()]
        if twice := [name for name in paired if paired.count(name) > 1]:
            raise wrong(f"flip_pairs names {twice[0]!r} twice", "A class has one mirror image.", "flip_pairs")
        for key in ("crop_window", "scale_jitter", "paste_scale"):
            pair = getattr(self, key)
            if pair and not 0 < pair[0] <= pair[1]:
                shown = " to ".join(f"{value:g}" for value in pair)
                raise wrong(f"{key} goes from {shown}", "Give the least and the most, above 0.", key)
        return self

    @classmethod
    def none(cls) -> Augmentation:
        """As in evaluation."""
        return cls(flip=0, short_sides=(), crop=0, brightness=0, contrast=0, saturation=0)

    def for_size(self, shortest_edge: int = 800, longest_edge: int | None = None) -> Augmentation:
        """With a number for every null: the paper's, in proportion for another size than 800 / 1333."""
        scale = shortest_edge / 800

        def sized(value: Any) -> Any:
            return tuple(map(sized, value)) if isinstance(value, tuple) else max(round(value * scale), 1)

        numbers = {name: sized(value) for name, value in self.PAPER.items()}
        numbers["longest"] = longest_edge or numbers["longest"]
        return self.changed(**{name: value for name, value in numbers.items() if getattr(self, name) is None})


class Losses(Settings):
    """What each loss weighs in the total, by the suffix of its name in the loss dict; the defaults are the paper's.

    `partial` and `partial_things` say what the class loss asks where nobody has looked for some of the classes.
    """

    ce: float = setting(1.0, "class", ge=0)
    bbox: float = setting(5.0, "L1 of boxes", ge=0)
    giou: float = setting(2.0, "GIoU of boxes", ge=0)
    mask: float = setting(1.0, "focal loss of masks", ge=0)
    dice: float = setting(1.0, "dice loss of masks", ge=0)
    no_object: float = setting(0.1, "the class loss of queries that found nothing", ge=0)
    partial: bool = setting(
        True, "on a photo that is incomplete for some classes, a query that found nothing may also say one of these"
    )
    partial_things: bool = setting(
        False, "and there a query whose target is a thing that the labeler named may say one of these, too"
    )


class Postprocess(Settings):
    """What a model remembers about turning logits into a map, and is evaluated with."""

    threshold: float = setting(0.85, "a query counts when it is surer of its class than this", ge=0, le=1)
    mask_threshold: float = setting(0.5, "a mask claims a pixel of which it is surer than this", ge=0, le=1)
    min_area: Whole = setting(4, "smaller segments give their pixels to the next best mask", ge=0)
    fill: Literal["void", "argmax"] = setting(
        "void", "a pixel that no mask claims stays void, or goes to the best one, as in the paper"
    )
    duplicate: float = setting(
        1.0, "of two things of a class whose masks overlap by more than this (IoU), the surer one stays", ge=0, le=1
    )


def _each_or_null(cls: type[Settings], name: str) -> Any:
    """The same settings, none of which need be given."""
    fields: dict[str, Any] = {}
    for key, info in cls.model_fields.items():
        kind: Any = Optional[info.annotation]  # type: ignore[name-defined]  # noqa: UP045
        fields[key] = (
            Annotated[(kind, *info.metadata)] if info.metadata else kind,
            setting(None, str(info.description)),
        )
    return create_model(name, __base__=Settings, __doc__=cls.__doc__, **fields)


PostprocessChanges = _each_or_null(Postprocess, "PostprocessChanges")


class Push(Settings):
    """What goes to the Hub. Trainer's own push stays off."""

    repository: str = setting(..., "user/name of the model")
    private: bool = setting(True, "whether only you can see what is pushed")
    stages: bool = setting(True, "whether each stage goes to its branch as it ends, or the final model alone")
    dataset: str | None = setting(None, "user/name of the dataset, if it is pushed too")
    license: str | None = setting(None, "the licence that the cards state, such as apache-2.0")
    pictures: Side | None = setting(
        None, "so many validation photos with truth and prediction on the model's card; null: none"
    )
    onnx: bool = setting(False, "whether onnx/model.onnx goes along, for transformers.js; needs the extra `export`")

    @model_validator(mode="after")
    def _are_names(self) -> Self:
        for key, name in (("repository", self.repository), ("dataset", self.dataset)):
            if name is not None and not re.fullmatch(r"(?a:[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", name):
                raise wrong(f"{name!r} is no name of a repository", "Write user/name.", key)
        return self


# --- the stages

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
