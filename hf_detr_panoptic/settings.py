"""Every setting, once: its type, its default, its limits and its meaning.

A recipe's YAML, the flags of the commands, the tables of docs/recipes.md, the editor's schema and the code that runs
all read these classes. A wrong value is a RecipeError that says what, where, and what to do. To add a setting, declare
it here, or in stage_settings.py, and use it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Optional, Self

from pydantic import BeforeValidator, Field, create_model, model_validator

from .checked import (
    Labeler,
    Location,
    Names,
    Settings,
    Side,
    Sides,
    Whole,
    alternatives,
    as_pairs,
    as_shade,
    as_values,
    current_name,
    setting,
    wrong,
)

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
        "and the ones that a text file names, a photo a line; a YAML says for which classes alone",
    )
    stuff: Names = setting((), "classes that are stuff; a marked class is a thing unless it is named here")
    things: Names = setting((), "classes that are things, whatever the labeler says")
    scheme: SchemeName = setting("coco", "ready-made groups for the labeler's classes")
    keep: Names | None = setting(None, "the labeler's classes that stay, the rest becomes void; null: all")
    drop: Names = setting(
        (),
        "classes that become void; here, in merge and in rename a name that you both have means the labeler's class",
    )
    merge: Annotated[dict[str, Names], BeforeValidator(as_pairs)] = setting(
        {}, "new class: the classes that it takes in, yours or the labeler's", examples=["{ground: [gravel, road]}"]
    )
    rename: Annotated[dict[str, str], BeforeValidator(as_pairs)] = setting(
        {}, "a class, yours or the labeler's: its name in the dataset", examples=["{truck: lorry}"]
    )


def _some_of(cls: type[Settings], name: str, keys: Sequence[str], doc: str) -> Any:
    """Settings of which these alone may be given."""
    fields: dict[str, Any] = {key: (info.rebuild_annotation(), info) for key, info in cls.model_fields.items()}
    return create_model(name, __base__=Settings, __doc__=doc, **{key: fields[key] for key in keys})


ClassChanges = _some_of(
    Sources,
    "ClassChanges",
    ("rename", "merge", "drop", "things", "stuff"),
    "What `relabel` may do to the classes of a finished dataset or model.",
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
    draft: bool = setting(
        False,
        "JPEG photos at least twice as large as they are seen are decoded smaller: faster, with slightly other pixels "
        "than in evaluation",
    )
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


class FromBackbone(Settings):
    """A pretrained backbone under a fresh transformer: where to start without a DETR checkpoint."""

    backbone: str = setting(..., "its name in timm, such as resnet50 or tf_efficientnet_lite0")
    weights: Location | None = setting(
        None,
        "its pretrained weights: a .safetensors or .pth file, or a folder with one; null: timm's own, from the Hub",
    )
    queries: Whole = setting(100, "how many segments a photo has at most", ge=1)
    width: Whole = setting(256, "channels of the transformer: 32, 64, or a multiple of 128", ge=32)
    layers: Whole = setting(6, "how many layers encoder and decoder have each", ge=1)

    @model_validator(mode="after")
    def _width_fits(self) -> Self:
        if self.width not in (32, 64) and self.width % 128:
            raise wrong(f"width is {self.width}", "Give 32, 64, or a multiple of 128; DETR has 256.", "width")
        return self


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
