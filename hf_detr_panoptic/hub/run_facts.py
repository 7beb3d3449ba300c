"""What a run's folder says about itself, read from its files: for the card."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import HfDetrPanopticError, HubError
from ..labels import LabelSpace
from .record_types import CONFIG, ENVIRONMENT, METRICS, PREPARED, STAGE_END, mistyped

STAGES = ("detection", "mask_head", "finetune")


@dataclass(frozen=True)
class StageFacts:
    """A finished stage: `settings` are the recipe's, the rest is what its marker tells."""

    name: str
    settings: Mapping[str, Any]
    marker: Mapping[str, Any]

    @property
    def seconds(self) -> float | None:
        return self.marker.get("seconds")


@dataclass(frozen=True)
class DataFacts:
    """What the run learnt from. photos: split → how many; segments: (split, class, source) → how many."""

    photos: Mapping[str, int] = field(default_factory=dict)
    segments: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    labeler: str | None = None
    labeler_threshold: float | None = None

    def count(self, split: str, name: str, *sources: str) -> int:
        """Segments of a class in a split, from these sources or all."""
        return sum(
            number
            for (part, other, source), number in self.segments.items()
            if part == split and other == name and (not sources or source in sources)
        )


@dataclass(frozen=True)
class RunFacts:
    """settings: what the model remembers for post-processing; result: metrics.json's "final"."""

    space: LabelSpace
    settings: Mapping[str, Any]
    recipe: Mapping[str, Any]
    result: Mapping[str, Any]
    stages: tuple[StageFacts, ...]
    environment: Mapping[str, Any]
    data: DataFacts

    @property
    def threshold(self) -> float:
        return float(self.settings.get("threshold", 0.85))

    @property
    def base_model(self) -> str | None:
        """The name on the Hub of where the run began, if it began there."""
        return public_name(self.recipe.get("model"))

    @classmethod
    def read(cls, run: Path) -> RunFacts:
        """From the folder of a run whose last stage is finished."""
        config = read_mapping(run / "final" / "config.json", CONFIG)
        if config is None:
            raise HubError(
                "the run is not finished: it has no final/config.json",
                where=str(run),
                fix="Run the same `hf-detr-panoptic train` again: it goes on where it was stopped.",
            )
        recipe = read_mapping(run / "recipe.yaml") or {}
        stages = []
        for number, name in enumerate(STAGES, start=1):
            marker = read_mapping(run / f"{number}-{name}" / "complete.json", STAGE_END)
            if marker is not None:
                stages.append(StageFacts(name, (recipe.get("stages") or {}).get(name) or {}, marker))
        try:
            space = LabelSpace.from_config(config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(run / "final" / "config.json", repr(error)) from error
        return cls(
            space=space,
            settings=config.get("hf_detr_panoptic") or {},
            recipe=recipe,
            result=(read_mapping(run / "metrics.json", METRICS) or {}).get("final") or {},
            stages=tuple(stages),
            environment=read_mapping(run / "environment.json", ENVIRONMENT) or {},
            data=_data_facts(run, recipe.get("data"), space),
        )


def read_mapping(path: Path, types: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """A JSON object or a YAML mapping; None where there is no such file. `types`: see `record_types`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HubError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        found = yaml.safe_load(content) if path.suffix == ".yaml" else json.loads(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error
    if not isinstance(found, dict):
        raise HubError("holds something else than it should", where=str(path), fix="Restore it, or train again.")
    if types is not None and (wrong := mistyped(found, types)):
        raise _damaged(path, wrong)
    return found


def _damaged(path: Path, how: str) -> HubError:
    return HubError(f"is damaged ({how})", where=str(path), fix="Restore it, or train again.")


def public_name(name: Any) -> str | None:
    """The name if it is one of the Hub's, None if it is a folder here or no name at all."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        return None
    if Path(name).exists() or ("/" in name and Path(name.split("/")[0]).is_dir()):
        return None
    return name


def _data_facts(run: Path, data: Any, space: LabelSpace) -> DataFacts:
    """What training noted; what it did not, from the dataset's folder where that is still there."""
    if isinstance(data, Mapping):
        folder = Path(data["out"]) if data.get("out") else run / "data"
        labeler, threshold = data.get("labeler"), data.get("threshold")
    else:
        folder, labeler, threshold = Path(str(data)), None, None
    there = bool(data) and folder.is_dir()
    told = labeler_of(folder) if there else (None, None)
    photos, segments = _noted(run, space)
    if not photos and there:
        photos, segments = _counted(folder)
    return DataFacts(photos, segments, told[0] or public_name(labeler), told[1] or threshold)


def _noted(run: Path, space: LabelSpace) -> tuple[dict[str, int], dict[tuple[str, str, str], int]]:
    """Photos and segments as training has counted them, if it has."""
    record = read_mapping(run / "dataset.json") or {}
    try:
        segments = {
            (split, space[int(label)].name, source): int(number)
            for split, labels in record.get("segments", {}).items()
            for label, sources in labels.items()
            for source, number in sources.items()
        }
        return {split: int(record[split]["photos"]) for split in record.get("segments", {})}, segments
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise HubError(f"is damaged ({error!r})", where=str(run / "dataset.json"), fix="Remove it.") from error


def labeler_of(folder: Path) -> tuple[str | None, float | None]:
    """Name and threshold of the model that labelled a dataset's rest, where its prepare.json tells."""
    settings = (read_mapping(folder / "prepare.json", PREPARED) or {}).get("settings") or {}
    name = settings.get("labeler")
    return (name if isinstance(name, str) else None), settings.get("threshold")


def _counted(folder: Path) -> tuple[dict[str, int], Counter[tuple[str, str, str]]]:
    from ..dataset.coco_panoptic import read_dataset

    try:
        splits = read_dataset(folder)
    except HfDetrPanopticError:  # Parquet, or a dataset that only `check` can make sense of
        return {}, Counter()
    segments = Counter(
        (name, split.space[segment.label].name, segment.source)
        for name, split in splits.items()
        for record in split
        for segment in record.segments
    )
    return {name: len(split) for name, split in splits.items()}, segments
