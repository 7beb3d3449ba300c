"""A run's folder: what lies where, what is finished, and whether recipe and dataset are those it began with."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, LabelError, RecipeError, RunError, did_you_mean
from ..evaluation.table import write_per_class
from ..files import content_of, leads_outside, parse_json, read_json, read_yaml, write_json
from ..labels import LabelSpace
from ..recipe import Recipe
from ..settings import Prepare
from ..stage_settings import STAGES
from ..text import and_more, count_of
from . import checkpoints

if TYPE_CHECKING:
    from ..dataset.batches import Row

logger = logging.getLogger(__name__)

DATASET = "dataset.json"

# A PNG ends with the Adler-32 of its pixels, the CRC of its last chunk, and 12 bytes that are always the same.
_TAIL = 20


def dataset_record(parts: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Of each split the number of photos and a fingerprint, the same wherever the dataset lies.

    It changes with names, sizes and order of the photos and with every segment and pixel of the maps; nothing is
    decoded.
    """
    return {name: {"photos": len(rows), "fingerprint": _fingerprint(rows)} for name, rows in parts.items()}


def check_same_dataset(output: str | Path, parts: Mapping[str, Sequence[Row]]) -> None:
    """Raise when a run that has begun in this folder learns from something else."""
    path = Path(output) / DATASET
    if not path.is_file():
        return
    before, now = read_json(path, DatasetError), dataset_record(parts)
    for name, entry in now.items():
        known = before.get(name) if isinstance(before, dict) else None
        if known != entry:
            then = known.get("photos", 0) if isinstance(known, dict) else 0
            counts = f" ({then} photos then, {entry['photos']} now)" if then != entry["photos"] else ""
            raise DatasetError(
                f"the photos or maps of {name} are not those that the run began with{counts}",
                where=str(output),
                fix="Give another `output` to learn from what is there now, or put the dataset back to resume.",
            )


def write_dataset_record(output: str | Path, parts: Mapping[str, Sequence[Row]]) -> None:
    """dataset.json: what `check_same_dataset` compares with, and how many segments there are, for the model card."""
    content = dataset_record(parts) | {"segments": segment_counts(parts)}
    write_json(Path(output) / DATASET, content, indent=2, durable=True)


def segment_counts(parts: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, dict[str, int]]]:
    """split → label, as text → source → how many."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, rows in parts.items():
        labels = counts[name] = {}
        for (label, source), number in sorted(
            Counter((s.label, s.source) for row in rows for s in row.segments).items()
        ):
            labels.setdefault(str(label), {})[source] = number
    return counts


def _fingerprint(rows: Sequence[Row]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        try:
            content = [_of_photo(row.photo), _of_map(row.png)]
        except OSError as error:
            raise DatasetError(
                f"{Path(error.filename).name} cannot be read ({error.strerror})",
                where=row.where,
                fix="`hf-detr-panoptic check` lists everything that is missing.",
            ) from error
        segments = [(segment.id, segment.label, segment.crowd) for segment in row.segments]
        unasked = [row.incomplete] if row.incomplete else []  # as before where everything was looked at
        unasked += [places] if (places := getattr(row, "known_in", ())) else []
        digest.update(repr((row.image_id, *content, segments, *unasked)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _of_photo(photo: Path | bytes) -> tuple[str, int]:
    return ("", len(photo)) if isinstance(photo, bytes) else (photo.name, photo.stat().st_size)


def _of_map(png: Path | bytes) -> tuple[int, bytes]:
    if isinstance(png, bytes):
        return len(png), png[-_TAIL:]
    with png.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return size, file.read()


Stamps = dict[Path, tuple[int, int]]


def stamps_of(parts: Mapping[str, Sequence[Row]]) -> Stamps:
    """Size and time of every file of the dataset, as a stage begins."""
    files = (file for rows in parts.values() for row in rows for file in (row.photo, row.png))
    return {file: _stamp(file) for file in files if isinstance(file, Path)}


def check_unchanged(stamps: Stamps) -> None:
    """Raise for a file of the dataset that was replaced since; one that is only newer may be the same: it is said."""
    newer = []
    for file, before in stamps.items():
        now = _stamp(file)
        if now[0] != before[0]:
            raise DatasetError(
                "was changed while the run learns from it" if now[0] >= 0 else "is gone while the run learns from it",
                where=str(file),
                fix="Put it back and run the same command, or give another `output` to learn from what is there.",
            )
        if now != before:
            newer.append(file)
            stamps[file] = now
    if newer:
        logger.warning("%s was written while the run learns from it: %s", count_of(len(newer), "file"), newer[0])


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        return -1, 0


RECIPE = "recipe.yaml"
# What pages and cards tell of a run.
SHOWN = (RECIPE, DATASET, "metrics.json", "results.csv", "per_class.csv", "environment.json")
REFIT = "refit"

# What the records are made of, as far as somebody reads them: a type or several, a mapping of keys, or a list of one
# for all items. What is absent or null may be so.
_NUMBER = (int, float)
_EACH = "*"  # whatever the key
_QUALITY = dict.fromkeys(("pq", "sq", "rq", "n"), _NUMBER)
_CLASS = {**dict.fromkeys(("label", "tp", "fp", "fn"), _NUMBER), **_QUALITY, "name": str}
_CLASS |= dict.fromkeys(("isthing", "yours"), bool)
_GROUPS = ("yours", "all", "things", "stuff")
_PRECISION = {group: dict.fromkeys(("ap", "ap50", "ap75", "n"), _NUMBER) for group in _GROUPS}
_RESULT = {
    **_QUALITY,
    "yours": _QUALITY,
    "things": _QUALITY,
    "stuff": _QUALITY,
    "sources": {_EACH: _QUALITY},
    "per_class": [_CLASS],
    "box": _PRECISION,
    "mask": _PRECISION,
}
_METRICS = {"final": _RESULT, "stages": {_EACH: _RESULT}, "refit": int}
_ENVIRONMENT: Mapping[str, Any] = {"processes": _NUMBER, "earlier": [{}]}
_STAGE_END = {
    **dict.fromkeys(("best", "last", "best_epoch", "steps", "seconds", "peak_memory_mb"), _NUMBER),
    "metric": str,
    "result": _RESULT,
    "rows": [{}],
}
_CONFIG = {"hf_detr_panoptic": {"threshold": _NUMBER}}
_PREPARED = {
    "settings": {"labeler": str, "threshold": _NUMBER},
    "labeler": {"fingerprint": str},
    "counts": {"pixels": {_EACH: _NUMBER}},
}


@dataclass(frozen=True)
class StageEnd:
    """A finished stage: a loadable model folder, and how good its best checkpoint is.

    result: what `PanopticQuality.compute` gives, or for detection `{"pq": None, "box": …}`; metric: what the best was
    chosen by, as `best` and `last` (of the last evaluation); rows: its part of results.csv; seconds and
    peak_memory_mb: see `environment.Cost`.
    """

    name: str
    folder: Path
    result: Mapping[str, Any]
    metric: str | None
    best: float | None
    last: float | None
    best_epoch: float | None
    steps: int
    trained: str
    rows: tuple[Mapping[str, Any], ...]
    seconds: float | None = None
    peak_memory_mb: float | None = None

    @classmethod
    def read(cls, folder: Path) -> StageEnd:
        """From the marker of a finished stage."""
        marker = folder / checkpoints.MARKER
        content = read_record(marker, _STAGE_END)
        try:
            return cls(**{**content, "folder": folder, "rows": tuple(content["rows"])})
        except (KeyError, TypeError) as error:
            raise _damaged(marker, repr(error)) from error

    @property
    def at_its_end(self) -> float | None:
        """Its own measure in the figures of its end."""
        from ..evaluation.evaluate import eval_metrics

        boxes = self.result.get("pq") is None
        try:
            figures = eval_metrics("boxes", self.result["box"]) if boxes else eval_metrics("maps", self.result)
        except (KeyError, TypeError):  # of a run whose stages wrote less
            return None
        return figures.get(f"eval_{self.metric}")

    def mark(self) -> None:
        """Say that the stage is finished: its folder counts from now on."""
        content = {**vars(self), "rows": list(self.rows)}
        del content["folder"]
        checkpoints.mark_complete(self.folder, **content)


def stage_folder(output: str | Path, stage: str) -> Path:
    return Path(output) / f"{STAGES.index(stage) + 1}-{stage}"


def finished(output: str | Path, stage: str) -> StageEnd | None:
    """A stage that was run to its end."""
    folder = stage_folder(output, stage)
    return StageEnd.read(folder) if checkpoints.is_complete(folder) else None


def has_begun(output: str | Path, stage: str) -> bool:
    """Whether a stage has left anything in the run's folder."""
    folder = stage_folder(output, stage)
    return folder.is_dir() and any(folder.iterdir())


def begun_stages(output: str | Path) -> list[str]:
    """All that have."""
    return [stage for stage in STAGES if has_begun(output, stage)]


def check_folder(recipe: Recipe) -> None:
    """Raise unless the folder holds no run, or one of the same recipe; and is not what the run learns from.

    Before a stage has begun, only photos that were prepared into the folder bind, by what prepared them.
    """
    output = Path(recipe.output)
    written = output / RECIPE
    if not written.is_file():
        model = recipe.model if isinstance(recipe.model, str) else recipe.model.weights
        for what, place in (("dataset", recipe.prepared_folder or str(recipe.data)), ("model", model)):
            if place is not None and output.resolve() == Path(place).resolve():
                raise RecipeError(
                    f"the run would be written into the {what} that it learns from",
                    where=str(output),
                    fix="Give the run another `output`: what a person has is never changed.",
                )
    if written.is_file():
        before = Recipe.from_dict(read_yaml(written)[0], where=str(written))
        changed = _changed(_flat_recipe(before), _flat_recipe(recipe))
        # A stage that has not begun may still be changed, and so may what goes to the Hub.
        begun = begun_stages(output)
        if begun:
            fixed = [key for key in changed if _matters(key, begun)]
        elif _prepared_into(output, before):
            fixed = [key for key in changed if key == "seed" or key.split(".")[0] == "data"]
        else:
            fixed = []
        if fixed:
            raise RecipeError(
                f"the run there was begun with other settings: {and_more(fixed, 5)}",
                where=str(output),
                fix="Give this run another `output`, or take the settings back to resume that one.",
            )
    elif begun_stages(output):
        raise RecipeError(
            "the folder holds stages without a recipe.yaml", where=str(output), fix="Give the run another `output`."
        )


def _prepared_into(output: Path, recipe: Recipe) -> bool:
    own = isinstance(recipe.data, Prepare) and recipe.data.out is None
    return own and (output / "data" / "prepare.json").is_file()


def check_order(output: str | Path, to_run: Sequence[str]) -> None:
    """Raise where a stage would be trained that comes before trained ones: these began from something else.

    They would go on from there, or count as finished, and what is trained now would be lost on them.
    """
    trained = [stage for stage in STAGES if _has_learnt(stage_folder(output, stage))]
    for name in to_run:
        later = [stage for stage in trained if STAGES.index(stage) > STAGES.index(name)]
        if later and not checkpoints.is_complete(stage_folder(output, name)):
            folders = " and ".join(stage_folder(output, stage).name for stage in later)
            raise RecipeError(
                f"{' and '.join(later)} {'were' if len(later) > 1 else 'was'} trained before {name}, "
                "and began from something else",
                where=str(output),
                fix=f"Leave {name} out with `--start {later[0]}`, move {folders} away to train what follows "
                f"{name} anew, or give the run another `output`.",
            )


def _has_learnt(folder: Path) -> bool:
    return checkpoints.is_complete(folder) or checkpoints.last_complete(folder) is not None


def claim_folder(recipe: Recipe) -> None:
    """Write recipe.yaml, so that the folder is this run's."""
    written = Path(recipe.output) / RECIPE
    written.parent.mkdir(parents=True, exist_ok=True)
    recipe.save(written, header=f"The recipe of this run. Again: hf-detr-panoptic train {written.as_posix()}")


def _flat_recipe(recipe: Recipe) -> dict[str, Any]:
    """Its keys with dots. A step's photos count, however many of them are in memory at once."""
    flat = _flat(recipe.to_dict())
    for stage in STAGES:
        size, times = f"stages.{stage}.per_device_train_batch_size", f"stages.{stage}.gradient_accumulation_steps"
        flat[f"{size} × gradient_accumulation_steps"] = flat.pop(size) * flat.pop(times, 1)
    return flat


def _flat(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]


# These change neither weights nor figures, but for the last bits.
_FREE = (
    "skip",
    "report_to",
    "run_name",
    "logging_steps",
    "save_total_limit",
    "auto_find_batch_size",
    "gradient_checkpointing",
    "activation_checkpointing",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
)


def _matters(key: str, begun: list[str]) -> bool:
    first, *rest = key.split(".")
    if first == "push" or first == "output":
        return False
    return first != "stages" or (rest[0] in begun and rest[1] not in _FREE)


def write_metrics(output: str | Path, ends: Sequence[StageEnd], refit: int | None = None) -> None:
    """metrics.json and per_class.csv of the stages so far; "final" is the last one's.

    refit: how many photos the final model learnt from after it was measured, see `refit.py`.
    """
    stages = {end.name: end.result for end in ends}
    content = {"final": ends[-1].result, "stages": stages} | ({} if refit is None else {"refit": refit})
    write_json(Path(output) / "metrics.json", content, indent=2, durable=True)
    per_class = ends[-1].result.get("per_class")
    if per_class:
        write_per_class(ends[-1].result, Path(output) / "per_class.csv")


@dataclass(frozen=True)
class Run:
    """A run's folder, read by whoever looks at it: each file once, when it is first asked for, and checked.

    What training has not written is empty.
    """

    folder: Path

    def __post_init__(self) -> None:
        if outside := [name for name in SHOWN if leads_outside(self.folder / name, self.folder)]:
            where = str(self.folder / outside[0])
            raise RunError("the file lies outside of the run", where=where, fix="Replace the link by the file.")

    @classmethod
    def at(cls, folder: str | Path) -> Run:
        """Raises where this is something else than a run's folder."""
        path = Path(folder)
        if not path.is_dir():
            known = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
            what = "is a file" if path.exists() else "is not there"
            raise RunError(f"the run {what}", where=str(folder), fix=did_you_mean(path.name, known))
        if not (path / RECIPE).is_file():
            above = path.resolve().parent
            within = (above / RECIPE).is_file()
            fix = f"That is one of its folders: give {above}." if within else "Give one of `train`."
            raise RunError(f"this is not a run's folder: there is no {RECIPE}", where=str(folder), fix=fix)
        return cls(path)

    @cached_property
    def plain(self) -> dict[str, Any]:
        """recipe.yaml as it stands there."""
        return read_yaml(self.folder / RECIPE)[0]

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_dict(self.plain, where=str(self.folder / RECIPE))

    @cached_property
    def stages(self) -> dict[str, StageEnd]:
        """The finished ones by name, in their order."""
        ends = {name: finished(self.folder, name) for name in STAGES}
        return {name: end for name, end in ends.items() if end is not None}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: "final" and "stages", and "refit" where there was one."""
        return read_record(self.folder / "metrics.json", _METRICS)

    @property
    def result(self) -> Mapping[str, Any]:
        """How good the final model is."""
        return self.metrics.get("final") or {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_record(self.folder / "environment.json", _ENVIRONMENT)

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """results.csv."""
        path = self.folder / "results.csv"
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise _damaged(path, str(error)) from error

    @property
    def is_finished(self) -> bool:
        return (self.folder / "final" / "config.json").is_file()

    @property
    def last(self) -> Path:
        """The stage's folder whose model final/ is a copy of."""
        folder = self.folder / REFIT if self.metrics.get("refit") else self.folder
        return stage_folder(folder, self.recipe.stages.to_run[-1].name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The final model's."""
        if not self.is_finished:
            raise RunError(
                "the run is not finished: it has no final/config.json",
                where=str(self.folder),
                fix="Run the same `hf-detr-panoptic train` again: it goes on where it was stopped.",
            )
        return read_record(self.folder / "final" / "config.json", _CONFIG)

    @cached_property
    def space(self) -> LabelSpace:
        try:
            return LabelSpace.from_config(self.config)
        except LabelError as error:
            raise _damaged(self.folder / "final" / "config.json", error.what) from error

    @cached_property
    def learnt_from(self) -> tuple[dict[str, int], dict[tuple[str, str, str], int]]:
        """Photos by split, and segments by split, class and source, as training has counted them."""
        record = read_record(self.folder / DATASET)
        try:
            counts = record.get("segments", {})
            segments = {
                (split, self.space[int(label)].name, source): int(number)
                for split, labels in counts.items()
                for label, sources in labels.items()
                for source, number in sources.items()
            }
            return {split: int(record[split]["photos"]) for split in counts}, segments
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / DATASET, repr(error)) from error


def read_prepared(folder: Path) -> dict[str, Any]:
    """prepare.json of a dataset."""
    return read_record(folder / "prepare.json", _PREPARED)


def read_record(path: Path, types: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. `types`: as above."""
    try:
        content = parse_json(content_of(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it is {_short(content)}")
    if types is not None and (wrong := _mistyped(content, types)):
        raise _damaged(path, wrong)
    return content


def _mistyped(value: Any, wanted: Any, key: str = "it") -> str | None:
    """What is of another type than `wanted`."""
    if value is None:
        return None
    kinds: Any = dict if isinstance(wanted, dict) else list if isinstance(wanted, list) else wanted
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        return f"{key} is {_short(value)}"
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(wanted, dict):
        names = value if _EACH in wanted else wanted
        parts = [(value.get(name), wanted[_EACH if _EACH in wanted else name], str(name)) for name in names]
    elif isinstance(wanted, list):
        parts = [(item, wanted[0], key) for item in value]
    return next((wrong for part in parts if (wrong := _mistyped(*part))), None)


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 40 else f"{words[:39]}…"


def _damaged(path: Path, how: str) -> RunError:
    return RunError(f"is damaged ({how})", where=str(path), fix="Restore it, or train again.")
