"""What `prepare` can be told, by flags, by YAML or from Python: checked as plain data before anything is read."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import RecipeError, did_you_mean

DEFAULT_LABELER = "facebook/detr-resnet-50-panoptic"
UNANNOTATED = ("skip", "auto")


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that decides a dataset, but for the files themselves. Paths are relative to the working directory.

    labeler: a checkpoint's folder or its name on the Hub; from Python also a model, or anything with `segment`.
    stuff, things: kinds of classes; a custom class is a thing, unless the labeler has one of its name.
    scheme, keep, drop, merge, rename: what becomes of the labeler's classes, see `labeling/schemes.py`.
    threshold, leakage, min_area, priority, collisions, boxes: see `labeling/overlay.py`.
    unannotated: photos without annotation are left out ("skip") or taken as the labeler sees them ("auto").
    """

    images: Path
    out: Path
    annotations: Path | None = None
    labeler: Any = DEFAULT_LABELER
    labeler_stuff: tuple[str, ...] | None = None
    format: str | None = None
    pattern: str | None = None
    values: Mapping[int, str] | None = None
    instances: str = "components"
    rescale: bool = False
    strict: bool = False
    unannotated: str = "skip"
    stuff: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    scheme: str = "coco"
    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    merge: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    threshold: float = 0.85
    leakage: float | None = 0.5
    min_area: int = 64
    priority: tuple[str, ...] = ()
    collisions: str = "smaller"
    boxes: str = "refine"
    validation: float = 0.2
    test: float = 0.0
    seed: int = 0
    group_pattern: str | None = None
    max_size: int | None = None
    mix: Path | None = None
    batch_size: int = 4
    precision: str = "fp32"
    threads: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> PrepareSettings:
        """From plain data, as YAML or flags give it. Unknown keys and wrong types raise."""
        known = {entry.name: entry for entry in fields(cls)}
        values: dict[str, Any] = {}
        for word, value in given.items():
            key = str(word).replace("-", "_")
            if key not in known:
                raise RecipeError(f"there is no setting {word!r}", fix=did_you_mean(word, known))
            values[key] = _READ[key](value, key) if value is not None and key in _READ else value
        for key in ("images", "out"):
            if values.get(key) is None:
                raise RecipeError(f"{key} is not given", fix=f"Give --{key}, or {key}: in the YAML.")
        settings = cls(**{key: value for key, value in values.items() if value is not None or key in _NULLABLE})
        settings._check()
        return settings

    def _check(self) -> None:
        from ...annotations.read import FORMATS
        from ...labeling.autolabels import FLOOR
        from ...labeling.schemes import SCHEMES

        choices: dict[str, tuple[str, tuple[str, ...]]] = {
            "unannotated": (self.unannotated, UNANNOTATED),
            "scheme": (self.scheme, SCHEMES),
            "instances": (self.instances, ("components", "whole")),
            "precision": (self.precision, ("fp32", "bf16")),
        }
        if self.format is not None:
            choices["format"] = (self.format, FORMATS)
        for key, (word, allowed) in choices.items():
            if word not in allowed:
                raise RecipeError(f"{key} cannot be {word!r}", fix=did_you_mean(word, allowed))
        if not FLOOR <= self.threshold <= 1:
            raise RecipeError(
                f"threshold is {self.threshold}", fix=f"The labeler is run at {FLOOR}: give {FLOOR} to 1."
            )
        if not (0 < self.validation < 1 and 0 <= self.test < 1 and self.validation + self.test < 1):
            raise RecipeError(
                f"validation {self.validation} and test {self.test} leave nothing to train on",
                fix="Use fractions such as 0.2 and 0.1.",
            )
        for key, least in (("batch_size", 1), ("max_size", 1), ("threads", 1), ("min_area", 0)):
            number = getattr(self, key)
            if number is not None and number < least:
                raise RecipeError(f"{key} is {number}", fix=f"Give {least} or more.")


# Not set is not the same as null: these have a meaning of their own for null.
_NULLABLE = {"leakage"}


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """A flag for each setting. What is not typed is None, so that the YAML's word counts."""
    group = parser
    for flag, options in _FLAGS.items():
        if flag not in without:
            group.add_argument(f"--{flag}", **options)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with the same words; flags override it")


def settings_of(args: argparse.Namespace, **more: Any) -> PrepareSettings:
    """The YAML of --config, overridden by the flags."""
    given = _read_yaml(args.config) if args.config else {}
    names = {entry.name for entry in fields(PrepareSettings)}
    typed = {key: value for key, value in vars(args).items() if key in names and value is not None}
    return PrepareSettings.of({**{str(key).replace("-", "_"): value for key, value in given.items()}, **typed, **more})


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot be read ({error})", where=str(path), fix="Give a YAML file.") from error
    if not isinstance(given, dict):
        raise RecipeError("holds no settings", where=str(path), fix="Write lines such as `images: photos`.")
    return given


def _path(value: Any, key: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise RecipeError(f"{key} is {value!r}, not a path")
    return Path(value)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise RecipeError(f"{key} is {value!r}, not a text", fix=f"Put it in quotes: {key}: '{value}'.")
    return value


def _list(value: Any, key: str) -> tuple[str, ...]:
    """A list of names; typed after a flag, or lazily in YAML, with commas."""
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise RecipeError(f"{key} is {value!r}, not a list of names", fix=f"Write {key}: [one, two].")
    return tuple(entry.strip() for entry in entries if entry.strip())


def _pairs(value: Any, key: str) -> dict[str, Any]:
    """`name: value` in YAML, `name=value` after a flag that may be repeated."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        pairs = [str(entry).partition("=") for entry in value]
        if not all(name and sign and rest for name, sign, rest in pairs):
            raise RecipeError(f"{key} is {value!r}", fix=f"Write --{key} name=value.")
        value = {name.strip(): rest.strip() for name, _, rest in pairs}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{key} is {value!r}", fix=f"Write {key}: {{name: value}}.")
    return dict(value)


def _merge(value: Any, key: str) -> dict[str, tuple[str, ...]]:
    return {_text(group, key): _list(members, key) for group, members in _pairs(value, key).items()}


def _rename(value: Any, key: str) -> dict[str, str]:
    return {_text(old, key): _text(new, key) for old, new in _pairs(value, key).items()}


def _values(value: Any, key: str) -> dict[int, str]:
    pairs = _pairs(value, key)
    try:
        return {int(grey): _text(name, key) for grey, name in pairs.items()}
    except ValueError:
        raise RecipeError(f"{key} is {value!r}", fix="Write {127: fire, 254: smoke}.") from None


def _share(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RecipeError(f"{key} is {value!r}", fix="Give a share from 0 to 1.")
    return float(value)


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecipeError(f"{key} is {value!r}, not a whole number")
    return value


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{key} is {value!r}", fix=f"Write {key}: true or {key}: false.")
    return value


_READ: dict[str, Any] = {
    **dict.fromkeys(("images", "out", "annotations", "mix"), _path),
    **dict.fromkeys(("labeler_stuff", "stuff", "things", "keep", "drop", "priority"), _list),
    **dict.fromkeys(("threshold", "leakage", "validation", "test"), _share),
    **dict.fromkeys(("min_area", "seed", "max_size", "batch_size", "threads"), _whole),
    **dict.fromkeys(("rescale", "strict"), _flag),
    **dict.fromkeys(("format", "pattern", "instances", "unannotated", "scheme", "collisions", "boxes"), _text),
    **dict.fromkeys(("group_pattern", "precision"), _text),
    "values": _values,
    "merge": _merge,
    "rename": _rename,
}

_YES: dict[str, Any] = {"action": "store_const", "const": True}
_FLAGS: dict[str, dict[str, Any]] = {
    "images": {"metavar": "DIR", "help": "the photos; nothing in this folder is changed"},
    "annotations": {"metavar": "PATH", "help": "what was marked: a file, folder or zip; the content tells the format"},
    "out": {"metavar": "DIR", "help": "the dataset; run again, it continues or is brought up to date"},
    "labeler": {"metavar": "DIR_OR_NAME", "help": f"a panoptic model ({DEFAULT_LABELER})"},
    "labeler-stuff": {"metavar": "A,B", "help": "its stuff classes, if its configuration does not say"},
    "stuff": {"metavar": "A,B", "help": "custom classes that are stuff, not things"},
    "things": {"metavar": "A,B", "help": "classes that are things, where the labeler says otherwise"},
    "scheme": {"metavar": "NAME", "help": "ready-made: coco (all as they are), stuff_groups, stuff"},
    "keep": {"metavar": "A,B", "help": "of the labeler's classes only these; the rest becomes void"},
    "drop": {"metavar": "A,B", "help": "these of the labeler's classes become void"},
    "merge": {"metavar": "GROUP=A,B", "action": "append", "help": "put the labeler's classes into a group"},
    "rename": {"metavar": "OLD=NEW", "action": "append", "help": "give a class of the labeler's another name"},
    "threshold": {"type": float, "help": "auto segments less sure than this become void (0.85)"},
    "leakage": {"type": float, "help": "auto things with this share under the marks go (0.5)"},
    "min-area": {"type": int, "metavar": "PIXELS", "help": "smaller pieces that a mark cuts off become void (64)"},
    "priority": {"metavar": "A,B", "help": "where marks overlap: the first named lies on top"},
    "collisions": {"help": "else: smaller on top, file order, or fail (smaller)"},
    "boxes": {"help": "marks that are rectangles: refine, rectangle or skip (refine)"},
    "unannotated": {"help": "photos without annotation: skip, or auto (skip)"},
    "format": {"help": "overrules the content: coco, coco-panoptic, cvat, labelme, masks"},
    "pattern": {"help": "names of mask files, such as {stem}_{class}.png"},
    "values": {"metavar": "GREY=NAME", "action": "append", "help": "what the grey values of mask files mean"},
    "instances": {"help": "the mask of a class: components, or whole (components)"},
    "rescale": {**_YES, "help": "fit marks to photos that were resized since"},
    "strict": {**_YES, "help": "stop at the first thing that is wrong, instead of setting the photo aside"},
    "validation": {"type": float, "metavar": "SHARE", "help": "of the photos in val (0.2)"},
    "test": {"type": float, "metavar": "SHARE", "help": "of the photos held out in test (0)"},
    "seed": {"type": int, "help": "of the split (0)"},
    "group-pattern": {
        "metavar": "REGEX",
        "help": r"photos whose names agree in its group stay together: '^(site\d+)_'",
    },
    "max-size": {"type": int, "metavar": "PIXELS", "help": "shrink photos with a longer side"},
    "mix": {"metavar": "DATASET", "help": "add photos of another COCO panoptic dataset, matched by names"},
    "batch-size": {"type": int, "help": "photos of one size at a time (4)"},
    "precision": {"help": "fp32 or bf16 (fp32)"},
    "threads": {"type": int, "help": "of the processor, for the model; part of what makes results repeatable"},
}
