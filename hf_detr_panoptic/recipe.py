"""A recipe: one YAML that says a whole run, with flags over it; where recipes lie, and how one is written whole.

Neither torch nor transformers is imported here. Paths are relative to the working directory.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic.fields import FieldInfo

from .checked import (
    KeyPath,
    Places,
    Settings,
    Texts,
    Whole,
    alternatives,
    current_name,
    dotted,
    plain,
    setting,
    settings_in,
    type_in_words,
    words_of,
    wrong,
)
from .errors import RecipeError, did_you_mean
from .files import read_value, read_yaml, write_yaml
from .settings import (
    DEFAULT_MODEL,
    Augmentation,
    FromBackbone,
    Losses,
    PhotoSize,
    PostprocessChanges,
    Prepare,
    Push,
    no_repeats,
)
from .stage_settings import ONLY_IN, STAGES, Stage, Stages, arguments_class, fresh_transformer
from .training_fields import GONE, training_fields

# --- recipes as files


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
    if path.is_dir():
        raise RecipeError(f"{str(name)!r} is a folder, not a recipe", fix="Name the YAML file in it.")
    raise RecipeError(f"there is no recipe {str(name)!r}", fix=did_you_mean(path.name, recipe_names()))


# --- the recipe


def _kind(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping | Settings) else "name"


class Recipe(Settings):
    """A whole run, checked. `Recipe.load(path or name, flags)` reads one, `Recipe.from_dict` makes one."""

    data: Annotated[Annotated[str, Tag("name")] | Annotated[Prepare, Tag("mapping")], Discriminator(_kind)] = setting(
        ...,
        "a prepared folder, a COCO panoptic folder under its official names, a dataset of the Hub, "
        "or a mapping: photos and marks to prepare first",
    )
    model: Annotated[Annotated[str, Tag("name")] | Annotated[FromBackbone, Tag("mapping")], Discriminator(_kind)] = (
        setting(
            DEFAULT_MODEL,
            "where it starts: a DETR, panoptic or detection, of the Hub or a folder; "
            "or a mapping: a pretrained backbone, under a fresh transformer",
        )
    )
    labels: Texts | None = setting(
        None, "the classes to learn, in this order, the dataset's others become void; null: all of the dataset's"
    )
    output: str = setting("runs/recipe", "the run's folder; a recipe from a file has its name for a default")
    seed: Whole = setting(0, "the one seed of the run", ge=0, le=2**32 - 1)
    size: PhotoSize = setting(PhotoSize(), "how large the model sees photos")
    augmentation: Augmentation = setting(Augmentation(), "what happens to training photos")
    losses: Losses = setting(Losses(), "what each loss weighs")
    postprocess: PostprocessChanges = setting(
        PostprocessChanges(),
        "what the model remembers for `segment`, and is evaluated with; null: as the checkpoint says",
    )
    calibrate: bool = setting(
        False,
        "whether the last stage ends by shifting the class logits, so that the thresholds of plain clients show what "
        "the best one shows; chosen on the validation photos, see `hf-detr-panoptic calibrate`",
    )
    refit: bool = setting(
        False,
        "whether the same is trained once more on all photos, those of validation included, in as many steps as were "
        "best; final/ is then that model, and the figures stay those of the first",
    )
    push: Push | None = setting(None, "what goes to the Hub; null: nothing")
    stages: Stages = Field(default_factory=lambda: Stages.read({}))

    @classmethod
    def load(cls, path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """From a file, or one of ours by its name; `overrides` are flags as they stand on a command line."""
        path = find_recipe(path_or_name)
        data, lines = read_yaml(path)
        data.setdefault("output", f"runs/{path.stem}")
        data, flags = apply_overrides(data, overrides)
        return cls.read(data, Places(str(path_or_name), lines, flags))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str | None = None) -> Recipe:
        """From plain data; `where` is what messages call it."""
        return cls.read(data, Places(where))

    @classmethod
    def unknown(cls, name: str) -> str:
        if name in STAGES:
            return f"Write it under `stages:`, as stages.{name}."
        if current_name(name) in Prepare.model_fields:
            return f"Write it under `data:`, as data.{name}."
        if name in {**Stage.keys(), **training_fields(), **GONE}:
            return f"Write it under a stage, such as stages.mask_head.{name}."
        return super().unknown(name)

    @model_validator(mode="before")
    @classmethod
    def _a_fresh_transformer_learns_longer(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and _kind(data.get("model")) == "mapping":
            return {**data, "stages": fresh_transformer(data.get("stages"))}
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.labels is not None and not self.labels:
            raise wrong("labels is an empty list: nothing is left to learn", "Name classes, or write null.", "labels")
        no_repeats("labels", self.labels or ())
        if isinstance(self.data, Prepare):
            if "annotations" not in self.data.model_fields_set:
                fix = f"It says {Prepare.model_fields['annotations'].description}; null: there are none."
                raise wrong("'annotations' is missing", fix, "data")
            if not isinstance(self.data.labeler, str | Path):
                raise wrong("the labeler is in memory alone", "Name its folder.", "data", "labeler")
        elif not self.data.strip():
            raise wrong("data is empty", "Name a dataset's folder, or a dataset of the Hub.", "data")
        if not self.stages.to_run:
            raise wrong("every stage is skipped: nothing is left to run", "Take `skip: true` out of one.", "stages")
        if isinstance(self.model, FromBackbone) and self.stages.detection.skip:
            what = "detection is skipped, and nothing else teaches a fresh transformer to find anything"
            raise wrong(what, "Take `skip: true` out, or start from a DETR checkpoint.", "stages", "detection", "skip")
        if self.calibrate and self.stages.to_run[-1].name == "detection":
            what = "there is nothing to calibrate: detection is the last stage, and its masks mean nothing yet"
            raise wrong(what, "Run mask_head too, or leave it out.", "calibrate")
        return self

    def save(self, path: str | Path, header: str = "") -> None:
        """As YAML, atomically; `header` becomes its first comment lines."""
        write_yaml(self.to_dict(), Path(path), header)

    @property
    def prepared_folder(self) -> Path | None:
        """Where photos and marks are prepared to; None where `data` names a dataset."""
        return self.prepare.folder if isinstance(self.data, Prepare) else None

    @property
    def prepare(self) -> Prepare:
        """What `data` says, where it is a mapping, with what it leaves to the recipe."""
        assert isinstance(self.data, Prepare)
        seed = self.seed if self.data.seed is None else self.data.seed
        return self.data.changed(out=self.data.out or Path(self.output) / "data", seed=seed)

    def check_files(self) -> None:
        """What the recipe names must be there, and its output writable: said before anything is loaded."""
        _check_writable(self.output)
        if isinstance(self.data, Prepare):
            for key in ("images", "annotations", "mix", "values"):
                path = getattr(self.data, key)
                named = key == "images" and "/" in str(path) and _could_be_on_the_hub(str(path))
                if isinstance(path, Path) and not path.exists() and not named:
                    raise _missing(str(path), f"data.{key}")
            if isinstance(self.data.looked_at, Path) and not self.data.looked_at.is_file():
                fix = did_you_mean(str(self.data.looked_at), ("all", "marked"))
                raise RecipeError(f"there is no file {str(self.data.looked_at)!r}", where="data.looked_at", fix=fix)
            if self.data.images.is_file():
                raise RecipeError(f"{str(self.data.images)!r} is a file", where="data.images", fix="Name a folder.")
            names = {"data.labeler": str(self.data.labeler)}
        else:
            names = {"data": self.data}
        if isinstance(self.model, str):
            names["model"] = self.model
        elif self.model.weights is not None and not self.model.weights.exists():
            raise _missing(str(self.model.weights), "model.weights")
        for key, name in names.items():
            if Path(name).is_file():
                kind = "dataset" if key == "data" else "model"
                raise RecipeError(f"{name!r} is a file", where=key, fix=f"Name the {kind}'s folder.")
            if not Path(name).is_dir() and not _could_be_on_the_hub(name):
                raise _missing(name, key)


def _check_writable(output: str) -> None:
    """Raise where the run's folder cannot be made or written to; nothing is left there by trying."""
    above = next(folder for folder in (Path(output), *Path(output).parents, Path()) if os.path.lexists(folder))
    if not above.is_dir():
        raise RecipeError(f"{str(above)!r} is no folder", where="output", fix="Name a folder, there or to be made.")
    try:
        tempfile.TemporaryDirectory(dir=above).cleanup()
    except OSError as error:
        raise RecipeError(
            f"nothing can be written into {str(above)!r} ({error.strerror})",
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


# --- every key, for flags and the documentation

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
    keys = []
    for name, info in arguments_class().model_fields.items():
        stages = {stage: Stage.of(stage).training_arguments.get(name) for stage in STAGES}
        default = _CHOSEN.get(name) or _per_stage(stages)
        if default == "null":
            default = training_fields()[name].default
        keys.append(RecipeKey(("stages", "STAGE", name), type_in_words(info.annotation), default, meaning_of(info)))
    return keys


def meaning_of(info: FieldInfo) -> str:
    """What a setting is for, with an example where it has one."""
    return f"{info.description}{f', such as {info.examples[0]}' if info.examples else ''}"


def _keys(cls: type[Settings], path: KeyPath) -> Iterator[RecipeKey]:
    for name, info in cls.model_fields.items():
        if name == "stages" and cls is Recipe:
            continue
        inner = settings_in(info.annotation)
        default = "" if info.is_required() or isinstance(info.default, Settings) else _as_yaml(info.default)
        yield RecipeKey((*path, name), type_in_words(info.annotation), default, meaning_of(info))
        for block in inner:
            yield from _keys(block, (*path, name))


def _stage_keys() -> Iterator[RecipeKey]:
    for name, info in Stage.keys().items():
        default = _per_stage({stage: getattr(Stage.of(stage), name) for stage in STAGES})
        path = ("stages", ONLY_IN.get(name, "STAGE"), name)
        yield RecipeKey(path, type_in_words(info.annotation), default, meaning_of(info))


def _per_stage(values: Mapping[str, Any]) -> str:
    """One default, or "detection 1e-4, mask_head 1e-4, finetune 1e-5"."""
    shown = {stage: _as_yaml(value) for stage, value in values.items()}
    if len(set(shown.values())) > 1:
        return ", ".join(f"{stage} {value}" for stage, value in shown.items())
    return shown[STAGES[0]]


def _as_yaml(value: Any) -> str:
    value = plain(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_as_yaml(entry) for entry in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def annotation_of(path: KeyPath) -> Any:
    """The type of a key; Any where there is no such key."""
    if path[0] == "stages":
        known: Mapping[str, FieldInfo] = {**arguments_class().model_fields, **Stage.keys()}
        return known[path[2]].annotation if len(path) == 3 and path[2] in known else Any
    inner: list[type[Settings]] = [Recipe]
    annotation: Any = Any
    for name in path:
        info = inner[0].model_fields.get(current_name(name)) if inner else None
        if info is None:
            return Any
        annotation, inner = info.annotation, settings_in(info.annotation)
    return annotation


# --- flags over a recipe: `--stages.mask_head.num_train_epochs 5`, or `--num_train_epochs 5` for all stages

_NUMBER = re.compile(r"^-[\d.]")
# Two that rule the same: a flag for the one takes the place of the other in the file.
_RIVALS = {"max_steps": "num_train_epochs", "lr_drop": "lr_scheduler_type", "bf16": "fp16"}
_RIVALS |= {other: one for one, other in _RIVALS.items()}


def apply_overrides(data: dict[str, Any], words: Sequence[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """A recipe's plain data after the flags, and which flag wrote which key. Values are checked with the rest."""
    data = copy.deepcopy(data)
    flags: dict[KeyPath, str] = {}
    pairs: dict[KeyPath, list[str]] = {}  # of `--data.rename a=b --data.rename c=d` both
    for flag, values in _flags_and_values(words):
        for path in _targets(flag):
            if path[0] == "data" and any(get_origin(kind) is dict for kind in alternatives(annotation_of(path))):
                values = pairs[path] = [*pairs.get(path, ()), *values]
            _set(data, path, _value(path, values, flag), flag)
            flags[path] = f"the flag {flag}"
            rival = (*path[:-1], _RIVALS.get(path[-1], ""))
            if path[0] == "stages" and rival not in flags:
                _forget(data, rival)
    return data, flags


def _flags_and_values(words: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """`--flag value …`, `--flag=value`, and `--flag` alone."""
    pairs: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            pairs.append((flag, [value] if equals else []))
        elif not pairs or (word.startswith("-") and len(word) > 1 and not _NUMBER.match(word)):
            raise RecipeError(
                f"{word!r} belongs to no flag",
                where="the command line",
                fix="Write `--key value`, such as `--seed 1`.",
            )
        else:
            pairs[-1][1].append(word)
    return pairs


def _targets(flag: str) -> list[KeyPath]:
    """The keys that a flag means: the one it names, or, without a prefix, that of every stage that knows it."""
    path = tuple(current_name(name) for name in flag.removeprefix("--").split("."))
    name = path[-1]
    if path[0] in Recipe.model_fields:
        return [path]
    if len(path) > 1:
        raise _unknown_flag(flag, f"stages.{dotted(path)}" if path[0] in STAGES else None)
    elsewhere = sorted(str(key) for key in recipe_keys() if key.path[-1] == name and key.path[0] != "stages")
    if name not in {**Stage.keys(), **training_fields(), **GONE}:
        raise _unknown_flag(flag, *elsewhere)
    if elsewhere:
        stage = ONLY_IN.get(name, STAGES[0])
        fix = f"Write --{' or --'.join([*elsewhere, f'stages.{stage}.{name}'])}."
        raise RecipeError(f"{flag} could mean several keys", where="the command line", fix=fix)
    return [("stages", stage, name) for stage in STAGES if ONLY_IN.get(name, stage) == stage]


def _unknown_flag(flag: str, *meant: str | None) -> RecipeError:
    if any(meant):
        fix = f"Did you mean --{' or --'.join(filter(None, meant))}?"
    else:
        names = dict.fromkeys(f"--{key.path[-1]}" for key in training_keys())
        names |= dict.fromkeys(f"--{key}" for key in recipe_keys() if "STAGE" not in key.path)
        names |= dict.fromkeys(f"--{key.path[-1]}" for key in recipe_keys() if key.path[0] == "stages")
        fix = did_you_mean(flag, names, "See hf-detr-panoptic train --help, or docs/recipes.md.")
    return RecipeError(f"unknown flag {flag}", where="the command line", fix=fix)


def _value(path: KeyPath, words: list[str], flag: str) -> Any:
    """What the words after a flag mean for the type of its key."""
    annotation = annotation_of(path)
    choices = alternatives(annotation)
    if not words:
        if bool in choices or annotation is Any:
            return True
        raise RecipeError("it needs a value", where=f"the flag {flag}", fix=f"Write {flag} VALUE.")
    if len(words) == 1:
        return _from_text(annotation, words[0])
    if any(get_origin(choice) is dict for choice in choices):
        return words  # name=value, as `prepare` takes it
    if not any(_is_list(choice) for choice in choices):
        given = " ".join(words)
        raise RecipeError(
            f"it takes one value, not {given!r}", where=f"the flag {flag}", fix="Put text with spaces in quotes."
        )
    return [_from_text(_entry(choices), word) for word in words]


def _from_text(annotation: Any, text: str) -> Any:
    choices = alternatives(annotation)
    value = read_value(text)
    if value is None and type(None) in choices:
        return None
    if text in words_of(annotation):
        return text
    if any(_is_list(choice) for choice in choices) and (isinstance(value, list) or str not in choices):
        if isinstance(value, list):
            return value
        return [_from_text(_entry(choices), part.strip()) for part in text.split(",") if part.strip()]
    return value if isinstance(value, dict) or str not in choices else text


def _is_list(kind: Any) -> bool:
    return kind is list or get_origin(kind) in (list, tuple)


def _entry(choices: list[Any]) -> Any:
    """The type of a list's entries."""
    lists = [choice for choice in choices if _is_list(choice)]
    return (get_args(lists[0]) or (Any,))[0]


def _set(data: dict[str, Any], path: KeyPath, value: Any, flag: str) -> None:
    for length, name in enumerate(path[:-1], start=1):
        if data.get(name) is None or (name == "model" and isinstance(data[name], str)):
            data[name] = {}  # --model.backbone takes the place of a checkpoint
        if not isinstance(data[name], dict):
            raise RecipeError(
                f"{dotted(path[:length])} is {data[name]!r} in the recipe, so it has no {path[length]}",
                where=f"the flag {flag}",
                fix=f"Leave the flag out, or make {dotted(path[:length])} a mapping in the recipe.",
            )
        data = data[name]
    for written in [word for word in data if isinstance(word, str) and current_name(word) == path[-1]]:
        del data[written]
    data[path[-1]] = value


def _forget(data: Any, path: KeyPath) -> None:
    for name in path[:-1]:
        data = data.get(name) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(path[-1], None)


# --- flags of a command


def add_flags(
    parser: argparse._ActionsContainer, cls: type[Settings], names: Iterable[str], default: str = "default {}"
) -> None:
    """A flag for each of these settings. What is not typed is None, so that another place's word counts."""
    for name in names:
        info = cls.model_fields[name]
        kinds = alternatives(info.annotation)
        words = meaning_of(info)
        if not info.is_required() and info.default not in (None, (), {}, False):
            words += f" ({default.format(_as_yaml(info.default))})"
        options: dict[str, Any] = {"help": words.replace("%", "%%")}
        if bool in kinds:
            options |= {"action": "store_const", "const": True}
        elif any(get_origin(kind) is dict for kind in kinds):
            options |= {"action": "append", "metavar": "NAME=VALUE"}
        elif any(_is_list(kind) for kind in kinds):
            options |= {"metavar": "A,B"}
        elif int in kinds or float in kinds:
            options |= {"type": int if int in kinds else float, "metavar": "N"}
        elif words_of(info.annotation):
            options |= {"metavar": "|".join(words_of(info.annotation))}
        parser.add_argument(f"--{name.replace('_', '-')}", **options)


def add_prepare_flags(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """A flag for each setting of `prepare`, and --config for a YAML of them."""
    add_flags(parser, Prepare, [name for name in Prepare.model_fields if name not in without])
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with the same words; flags override it")


def prepare_settings(args: argparse.Namespace) -> Prepare:
    """The YAML of --config, overridden by the flags."""
    data, lines = read_yaml(args.config, "the file") if args.config else ({}, {})
    typed = {name: value for name, value in vars(args).items() if name in Prepare.model_fields and value is not None}
    kept = {word: value for word, value in data.items() if current_name(str(word)) not in typed}
    flags: dict[KeyPath, str] = {(name,): f"the flag --{name.replace('_', '-')}" for name in typed}
    places = Places(str(args.config) if args.config else None, lines, flags)
    for key in ("images", "out"):
        if (kept | typed).get(key) is None:
            raise RecipeError(f"{key} is not given", where=places.source, fix=f"Give --{key}, or {key}: in the YAML.")
    return Prepare.read(kept | typed, places)
