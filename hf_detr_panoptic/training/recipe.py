"""A recipe: one YAML that says a whole run, as plain data that is checked before anything loads.

Neither torch nor transformers is imported here. Paths are relative to the working directory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import RecipeError, did_you_mean
from .plain_data import KeyPath, Places, mapping, plain, read_settings, setting, settings_of
from .recipe_checks import check_recipe
from .recipes_on_disk import find_recipe, read_yaml, write_yaml
from .stage_recipe import STAGES, StageRecipe

DEFAULT_MODEL = "facebook/detr-resnet-50-panoptic"


@dataclass(frozen=True)
class PhotosAndMarks:
    """`data:` as a mapping: photos and marks that are prepared first, once, and found again by their fingerprint."""

    images: str = setting(meaning="the folder of photos")
    annotations: str = setting(meaning="the person's marks: a file, a folder or a zip (CVAT, COCO, masks, LabelMe)")
    format: str | None = setting(None, "the annotations' format; null: found out")
    labeler: str = setting(DEFAULT_MODEL, "the model that labels the rest of each photo")
    threshold: float = setting(0.85, "segments that the labeler is less sure of become void", least=0, most=1)
    validation: float = setting(0.2, "share of photos that are validated on", above=0, below=1)
    test: float = setting(0.0, "share of photos set aside for a test", least=0, below=1)
    group_by: str | None = setting(None, "a regular expression: photos whose names agree in its groups stay together")
    unannotated: Literal["skip", "auto"] = setting("skip", "photos without a mark: left out, or labelled all the same")
    instances: Literal["components", "whole"] = setting(
        "components", "a mask file of a class of things: an object a connected part, or one object"
    )
    scheme: Literal["coco", "stuff_groups", "stuff"] = setting("coco", "ready-made groups for the labeler's classes")
    keep: tuple[str, ...] | None = setting(None, "the labeler's classes that stay; null: all")
    drop: tuple[str, ...] = setting((), "the labeler's classes that become void")
    merge: dict[str, tuple[str, ...]] = setting({}, "new class: the labeler's classes that it takes in")
    rename: dict[str, str] = setting({}, "the labeler's class: its name in the dataset")
    things: tuple[str, ...] = setting((), "classes that are things, whatever the labeler says")
    stuff: tuple[str, ...] = setting((), "classes that are stuff; a marked class is a thing unless it is named here")
    leakage: float | None = setting(
        0.5, "an auto thing with this share of its pixels under marks goes; null: never", above=0, most=1
    )
    leaky: tuple[str, ...] = setting((), "classes that are treated so piece by piece, for maps merged before")
    min_area: int = setting(64, "pieces of fewer pixels that a mark cuts off become void", least=0)
    priority: tuple[str, ...] = setting((), "marked classes, the one on top first")
    collisions: Literal["smaller", "file", "fail"] = setting("smaller", "what lies on top where marks overlap")
    boxes: Literal["refine", "rectangle", "skip"] = setting("refine", "what becomes of a mark that is a rectangle")
    box_fit: float = setting(0.5, "least IoU of a rectangle and the segment that refines it", least=0, most=1)
    out: str | None = setting(None, "the folder of the prepared dataset; null: data/ in the run's folder")


@dataclass(frozen=True)
class PhotoSize:
    """How large the model sees photos. null: as the checkpoint's own preprocessor says (DETR: 800 and 1333)."""

    shortest_edge: int | None = setting(None, "the short side of a photo that is evaluated or segmented", least=32)
    longest_edge: int | None = setting(None, "which the long side may not exceed", least=32)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training photo, under the names of `data.transforms.Augmentation`.

    null: the paper's value, in proportion where photos are seen smaller than at 800 (`Augmentation.for_size`).
    """

    flip: float = setting(0.5, "how often it is mirrored", least=0, most=1)
    short_sides: tuple[int, ...] | None = setting(
        None, "its short side is drawn from these; null: 480 to 800 by 32; []: as in evaluation"
    )
    longest: int | None = setting(None, "which its long side may not exceed; null: 1333", least=1)
    crop: float = setting(0.5, "how often it is cropped at random", least=0, most=1)
    crop_sides: tuple[int, ...] | None = setting(
        None, "short sides that it is brought to before a crop; null: 400, 500, 600"
    )
    crop_window: tuple[int, int] | None = setting(None, "least and most pixels a side of a crop; null: 384, 600")
    brightness: float = setting(0.2, "0.2 draws factors from 0.8 to 1.2", least=0, below=1)
    contrast: float = setting(0.2, "as brightness", least=0, below=1)
    saturation: float = setting(0.2, "as brightness", least=0, below=1)
    scale_jitter: tuple[float, float] | None = setting(
        None, "instead of short_sides and crop: least and most of the scale, such as [0.1, 2.0]"
    )
    jitter_size: int | None = setting(None, "the window of scale_jitter; null: 1024", least=1)

    def changes(self) -> dict[str, Any]:
        """What differs from the paper's, for `data.transforms.Augmentation.for_size`."""
        return {name: getattr(self, name) for name in settings_of(Augmentation) if getattr(self, name) is not None}


@dataclass(frozen=True)
class Losses:
    """What each loss weighs, by the names of the criterion; the defaults are the paper's."""

    ce: float = setting(1.0, "class", least=0)
    bbox: float = setting(5.0, "L1 of boxes", least=0)
    giou: float = setting(2.0, "GIoU of boxes", least=0)
    mask: float = setting(1.0, "focal loss of masks", least=0)
    dice: float = setting(1.0, "dice loss of masks", least=0)
    no_object: float = setting(0.1, "the class loss of queries that found nothing", least=0)


@dataclass(frozen=True)
class Postprocess:
    """What the trained model remembers for `segment`, and is evaluated with; null: as the checkpoint says."""

    threshold: float | None = setting(None, "how sure a query must be; DETR's own is 0.85", least=0, most=1)
    mask_threshold: float | None = setting(None, "how sure a mask must be of a pixel", least=0, most=1)
    min_area: int | None = setting(None, "smaller segments go", least=0)
    fill: Literal["void", "argmax"] | None = setting(None, "what becomes of pixels that no mask claims")
    duplicate: float | None = setting(
        None, "of two things of a class that overlap by more than this (IoU), the surer one stays", least=0, most=1
    )


@dataclass(frozen=True)
class Push:
    """What goes to the Hub. Trainer's own push stays off."""

    repository: str = setting(meaning="user/name of the model")
    private: bool = setting(True, "whether only you can see what is pushed")
    stages: bool = setting(True, "whether each stage goes to its branch as it ends, or the final model alone")
    dataset: str | None = setting(None, "user/name of the dataset, if it is pushed too")
    license: str | None = setting(None, "the licence that the cards state, such as apache-2.0")
    pictures: int | None = setting(
        None, "so many validation photos with truth and prediction on the model's card; null: none", least=1
    )


@dataclass(frozen=True)
class Stages:
    """The three of them, each complete."""

    detection: StageRecipe
    mask_head: StageRecipe
    finetune: StageRecipe

    def __iter__(self) -> Iterator[StageRecipe]:
        return (getattr(self, name) for name in STAGES)

    def __getitem__(self, name: str) -> StageRecipe:
        if name not in STAGES:
            raise RecipeError(f"unknown stage {name!r}", fix=did_you_mean(name, STAGES))
        return getattr(self, name)

    @property
    def to_run(self) -> tuple[StageRecipe, ...]:
        """Those that are not skipped, in order."""
        return tuple(stage for stage in self if not stage.skip)


@dataclass(frozen=True)
class Recipe:
    """A whole run, checked. `Recipe.load(path or name, flags)` reads one, `Recipe.from_dict` makes one."""

    data: str | PhotosAndMarks = setting(
        meaning="a prepared folder, a COCO panoptic folder under its official names, a dataset of the Hub, "
        "or a mapping: photos and marks to prepare first"
    )
    model: str = setting(DEFAULT_MODEL, "where it starts: a DETR, panoptic or detection, of the Hub or a folder")
    labels: tuple[str, ...] | None = setting(
        None, "the classes to learn, in this order, the dataset's others become void; null: all of the dataset's"
    )
    output: str = setting("runs/recipe", "the run's folder; a recipe from a file has its name for a default")
    seed: int = setting(0, "the one seed of the run", least=0, most=2**32 - 1)
    size: PhotoSize = setting(PhotoSize, "how large the model sees photos")
    augmentation: Augmentation = setting(Augmentation, "what happens to training photos")
    losses: Losses = setting(Losses, "what each loss weighs")
    postprocess: Postprocess = setting(Postprocess, "what the model remembers for `segment`")
    push: Push | None = setting(None, "what goes to the Hub; null: nothing")
    stages: Stages = field(default_factory=lambda: Stages(*(StageRecipe.of(name) for name in STAGES)))

    @classmethod
    def load(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """From a file, or one of ours by its name; `overrides` are flags as they stand on a command line."""
        from .overrides import apply_overrides

        path = find_recipe(path_or_name)
        data, lines = read_yaml(path)
        data.setdefault("output", f"runs/{path.stem}")
        data, flags = apply_overrides(data, overrides)
        return _read(data, Places(str(path_or_name), lines, flags))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str | None = None) -> Recipe:
        """From plain data; `where` is what messages call it."""
        return _read(data, Places(where))

    def to_dict(self) -> dict[str, Any]:
        """The plain data that `from_dict` reads back to an equal recipe."""
        return plain(self) | {"stages": {stage.name: stage.to_dict() for stage in self.stages}}

    def save(self, path: str | Path, header: str = "") -> None:
        """As YAML, atomically; `header` becomes its first comment lines."""
        write_yaml(self.to_dict(), Path(path), header)

    @property
    def prepared_folder(self) -> Path | None:
        """Where photos and marks are prepared to; None where `data` names a dataset."""
        if isinstance(self.data, str):
            return None
        return Path(self.data.out) if self.data.out else Path(self.output) / "data"

    def check_files(self) -> None:
        """What the recipe names must be there, and its output writable: said before anything is loaded."""
        _check_writable(self.output)
        if isinstance(self.data, PhotosAndMarks):
            for key, name in (("data.images", self.data.images), ("data.annotations", self.data.annotations)):
                if not Path(name).exists():
                    raise _missing(name, key)
            if not Path(self.data.images).is_dir():
                raise RecipeError(f"{self.data.images!r} is a file", where="data.images", fix="Name a folder.")
            names = {"model": self.model, "data.labeler": self.data.labeler}
        else:
            names = {"model": self.model, "data": self.data}
        for key, name in names.items():
            if Path(name).is_file():
                kind = "dataset" if key == "data" else "model"
                raise RecipeError(f"{name!r} is a file", where=key, fix=f"Name the {kind}'s folder.")
            if not Path(name).is_dir() and not _could_be_on_the_hub(name):
                raise _missing(name, key)


def _check_writable(output: str) -> None:
    """Raise where the run's folder cannot be made or written to; nothing is left there by trying."""
    there = next(place for place in (Path(output), *Path(output).parents, Path()) if os.path.lexists(place))
    if not there.is_dir():
        raise RecipeError(f"{str(there)!r} is no folder", where="output", fix="Name a folder, there or to be made.")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()
    except OSError as error:
        raise RecipeError(
            f"nothing can be written into {str(there)!r} ({error.strerror})",
            where="output",
            fix="Name another folder.",
        ) from error


def _could_be_on_the_hub(name: str) -> bool:
    """ "user/name" whose first half is no folder here; "photos/", "./site" and "data/site" are meant as paths."""
    parts = name.split("/")
    if not all(parts) or len(parts) > 2 or name.startswith((".", "~")) or "\\" in name:
        return False
    return len(parts) == 1 or not Path(parts[0]).is_dir()


def _missing(name: str, key: str) -> RecipeError:
    parent = Path(name).expanduser().parent
    if name.startswith("~"):
        fix = "Write the whole path: ~ is not expanded in a recipe."
    elif parent.is_dir():
        fix = did_you_mean(Path(name).name, sorted(entry.name for entry in parent.iterdir()))
    else:
        fix = f"Paths are relative to the working directory, which is {Path.cwd()}."
    return RecipeError(f"{name!r} does not exist", where=key, fix=fix)


def _read(data: Any, places: Places) -> Recipe:
    content = mapping(data, (), places)
    stages = mapping(content.pop("stages", None), ("stages",), places)
    for name in stages:
        if name not in STAGES:
            path: KeyPath = ("stages", name)
            raise RecipeError(f"unknown stage {name!r}", where=places.where(path), fix=did_you_mean(name, STAGES))
    for name in content:
        if name not in settings_of(Recipe):
            raise _unknown_at_the_top(name, places)
    settings = read_settings(Recipe, content, (), places)
    complete = Stages(*(StageRecipe.from_dict(name, stages.get(name), places=places) for name in STAGES))
    recipe = Recipe(**settings, stages=complete)
    check_recipe(recipe, places)
    return recipe


def _unknown_at_the_top(name: str, places: Places) -> RecipeError:
    from .training_fields import GONE, training_fields

    known = [*settings_of(Recipe), "stages"]
    if name in STAGES:
        fix = f"Write it under `stages:`, as stages.{name}."
    elif name in settings_of(PhotosAndMarks):
        fix = f"Write it under `data:`, as data.{name}."
    elif name in settings_of(StageRecipe) or name in training_fields() or name in GONE:
        fix = f"Write it under a stage, such as stages.mask_head.{name}."
    else:
        fix = did_you_mean(name, known)
    return RecipeError(f"unknown key {name!r}", where=places.where((name,)), fix=fix)
