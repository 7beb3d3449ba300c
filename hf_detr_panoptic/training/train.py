"""A recipe run: its dataset read or prepared first, its stages trained, and what came of it in a summary."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, HfDetrPanopticError, LabelError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment
from ..watch import watched

if TYPE_CHECKING:
    from ..dataset.batches import Row
    from ..recipe import Recipe
    from .run_folder import StageEnd
    from .sampling import Splits


def check_run(recipe: Recipe, start: str | None = None, stop: str | None = None, *, estimate: bool = False) -> None:
    """What can be known before photos are labelled, which may take hours. In every process, before `run_recipe`."""
    from accelerate import PartialState

    from ..model.checkpoints import hub_arguments, read_config
    from ..model.from_backbone import load_backbone
    from ..parallel import guard_processes
    from .arguments import check_arguments
    from .run_folder import begun_stages, check_folder
    from .stages import chosen_stages

    guard_processes(timedelta(days=7))  # all wait while one writes the dataset, or pushes a stage
    check_arguments(chosen_stages(recipe, start, stop), PartialState().device)
    if not begun_stages(recipe.output):
        if isinstance(recipe.model, str):
            read_config(recipe.model, hub_arguments(recipe.model, {}), {})
        else:
            load_backbone(recipe.model)
    if not estimate:
        check_folder(recipe)


@watched()
def run_recipe(
    recipe: Recipe,
    start: str | None = None,
    stop: str | None = None,
    *,
    estimate: bool = False,
    price: float | None = None,
    at_stage_end: Callable[[StageEnd], None] | None = None,
) -> list[StageEnd]:
    """A checked recipe's dataset, prepared where it must be, and its stages; returns those that are finished."""
    from accelerate import PartialState
    from transformers.utils import logging as transformers_logging

    from .callbacks import trackers_of, tracking
    from .refit import refit
    from .stages import run_stages

    trackers = [] if estimate else trackers_of(recipe)  # before photos are prepared
    transformers_logging.disable_progress_bar()
    splits = splits_of(recipe)
    with tracking(trackers, recipe.output) as tracker:
        ends = run_stages(
            recipe,
            splits,
            start=start,
            stop=stop,
            estimate=estimate,
            price=price,
            at_stage_end=at_stage_end,
            tracker=tracker,
        )
    if recipe.refit and ends and ends[-1].name == recipe.stages.to_run[-1].name:
        refit(recipe, splits, ends, print if PartialState().is_main_process else (lambda text: None))
    return ends


def processes_to_start() -> int:
    """One a GPU, if there are several and nobody has started processes yet."""
    if {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys():
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def launch_command(processes: int, words: Sequence[str]) -> list[str]:
    """What starts this command once a GPU."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*launcher, "-m", "hf_detr_panoptic.cli", "train", *words]


def launch(processes: int, refuse: bool) -> int:
    words = sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:]
    words = [word for word in words if word != "--no-launch"]
    if refuse:
        raise HfDetrPanopticError(
            f"{processes} GPUs are seen, and this is one process",
            fix=f"Run `accelerate launch --multi_gpu --num_processes {processes} examples/train.py {' '.join(words)}`"
            ", or show it one GPU: CUDA_VISIBLE_DEVICES=0.",
        )
    started = subprocess.Popen(launch_command(processes, words))
    # A terminal sends Ctrl-C to all of them; what is sent to this process alone is handed on.
    before = [signal.signal(signal.SIGINT, signal.SIG_IGN)]
    before.append(signal.signal(signal.SIGTERM, lambda number, frame: started.send_signal(number)))
    try:
        return started.wait()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def splits_of(recipe: Recipe) -> Splits:
    """The recipe's dataset, prepared first where it names photos and marks."""
    from ..dataset.coco_panoptic import read_dataset
    from ..dataset.validation import learnt_and_known, validates_on_train
    from .sampling import Splits

    source = recipe.data
    if not isinstance(source, str):
        source = str(_prepared(recipe))
    if Path(source).is_dir() and not _is_parquet(Path(source)):
        parts: dict[str, Any] = dict(read_dataset(source))
        space: LabelSpace = next(iter(parts.values())).space
        on_train = validates_on_train(source)
    else:
        from ..dataset.rows import load_panoptic, rows_of

        datasets = load_panoptic(source)
        space = datasets.label_space
        parts = {name: rows_of(datasets[name], space) for name in datasets}
        on_train = datasets.validates_on_train
    val = "val" if "val" in parts else "validation"
    on_train = on_train and not len(parts.get(val, ())) and "train" in parts
    for name in ("train", *(() if on_train else (val,))):
        if name not in parts:
            raise DatasetError(
                f"there is no split {name!r}, only {', '.join(map(str, parts))}",
                where=source,
                fix="Share the photos out: `hf-detr-panoptic split`.",
            )
    measured = learnt_and_known(parts["train"]) if on_train else parts[val]
    splits = Splits(parts["train"], measured, space, on_train)
    return splits if recipe.labels is None else only_labels(splits, recipe.labels)


def check_data(recipe: Recipe) -> None:
    """Raise for what a dataset on this disk lacks; what is prepared first, or of the Hub, is not there yet."""
    from .sampling import check_sizes, check_splits

    if isinstance(recipe.data, str) and Path(recipe.data).is_dir():
        splits = splits_of(recipe)
        check_splits(splits, recipe.stages.to_run)
        check_sizes(splits.val)


def only_labels(splits: Splits, names: Sequence[str]) -> Splits:
    """The classes of these names, in this order; what is of another class becomes void."""
    from .sampling import Splits

    old = splits.space
    for name in names:
        if name not in old.names:
            raise LabelError(f"the dataset has no class {name!r}", where="labels", fix=did_you_mean(name, old.names))
    space = LabelSpace([old[old.index(name)] for name in names])
    mapping = {name: name if name in names else None for name in old.names}
    train, val = ([Relabelled(row, space, mapping) for row in rows] for rows in (splits.train, splits.val))
    return Splits(train, val, space, splits.on_train)


@dataclass(frozen=True)
class Relabelled:
    """A row in another label space."""

    row: Row
    space: LabelSpace
    names: dict[str, str | None]

    @property
    def image_id(self) -> int | str:
        return self.row.image_id

    @property
    def where(self) -> str:
        return self.row.where

    @property
    def photo(self) -> Path | bytes:
        return self.row.photo

    @property
    def png(self) -> Path | bytes:
        return self.row.png

    @property
    def size(self) -> tuple[int, int] | None:
        return getattr(self.row, "size", None)

    @property
    def incomplete(self) -> tuple[str, ...]:
        new = {self.names[name] for name in self.row.incomplete}
        return tuple(name for name in self.space.names if name in new)

    @property
    def known_in(self) -> Sequence[Sequence[float]]:
        return getattr(self.row, "known_in", ())

    @property
    def segments(self) -> Sequence[Segment]:
        from dataclasses import replace

        old: LabelSpace = self.row.space  # type: ignore[attr-defined]
        named = ((segment, self.names[old[segment.label].name]) for segment in self.row.segments)
        return [replace(segment, label=self.space.index(name)) for segment, name in named if name is not None]

    def map(self) -> PanopticMap:
        return self.row.map().relabelled(self.space, self.names)


def _is_parquet(folder: Path) -> bool:
    return any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet"))


def _prepared(recipe: Recipe) -> Path:
    """Photos and marks, prepared: all processes label, one writes, and what is there already is not made again."""
    from accelerate import PartialState

    from ..labeling.prepare import prepare_dataset
    from .run_folder import begun_stages

    settings = recipe.prepare
    if begun_stages(recipe.output) and (settings.folder / "prepare.json").is_file():
        if PartialState().is_main_process:
            print(f"{settings.folder}: as this run began; for new photos or marks give another `output`")
    else:
        prepare_dataset(settings, progress=True)
    return settings.folder


def plan(recipe: Recipe) -> str:
    """What a recipe would do, in a few lines."""
    source = recipe.data
    if not isinstance(source, str):
        source = f"{source.images} with {source.annotations or 'no marks'}"
    model = recipe.model if isinstance(recipe.model, str) else f"{recipe.model.backbone} under a fresh transformer"
    lines = [f"model   {model}", f"data    {source}", f"output  {recipe.output}"]
    for stage in recipe.stages:
        arguments = stage.training_arguments
        length = arguments.get("num_train_epochs")
        words = f"{length:g} epochs" if length is not None else f"{arguments.get('max_steps')} steps"
        words += f", at least {stage.min_steps} steps" if stage.min_steps else ""
        rate = f"learning rate {arguments['learning_rate']:g}"
        lines.append(f"{stage.name:10}" + ("skipped" if stage.skip else f"{words}, {rate}"))
    if recipe.push:
        lines.append(f"push      {recipe.push.repository}, {'private' if recipe.push.private else 'public'}")
    return "\n".join(lines)


def stage_table(ends: Sequence[StageEnd]) -> list[str]:
    """Best and last of each stage; where none was evaluated on its way, what it ended with."""
    from ..text import percent

    on_the_way = any(end.best is not None for end in ends)
    titles = ["best", "at epoch", "last"] if on_the_way else ["at its end"]
    wide = max(len(name) for name in ("measured by", *(end.metric or "" for end in ends)))
    lines = [f"{'':10}  {'measured by':<{wide}}  {'  '.join(f'{title:>8}' for title in titles)}"]
    for end in ends:
        epoch = "" if end.best_epoch is None else f"{end.best_epoch:g}"
        cells = [percent(end.best), epoch, percent(end.last)] if on_the_way else [percent(end.at_its_end)]
        lines.append(
            f"{end.name:10}  {end.metric or '':<{wide}}  "
            + "  ".join(f"{cell:>{max(8, len(title))}}" for cell, title in zip(cells, titles, strict=True))
        )
    return lines


def summary(ends: Sequence[StageEnd], recipe: Recipe) -> str:
    """What each stage ended with, and what to type next."""
    from ..evaluation.table import figures_of, headline, quality_groups
    from ..text import percent

    lines = stage_table(ends)
    result = ends[-1].result
    if result.get("pq") is not None:
        told = ", ".join(f"{name} {percent(group.get('pq'))}" for name, group in quality_groups(result))
        lines.append(f"{headline(result)}: {told}")
    else:
        lines += [f"measured {figures_of(result)}"] if figures_of(result) else []
    final = Path(recipe.output) / "final"
    data = recipe.prepared_folder or recipe.data
    lines += ["", f"The model: {final}"]
    if recipe.refit and not figures_of(result):
        lines.append(f"It has learnt from the photos of validation too; the figures are of {ends[-1].folder}")
    else:
        lines.append(
            f"Next: hf-detr-panoptic evaluate --model {shlex.quote(str(final))} --data {shlex.quote(str(data))}"
        )
    return "\n".join(lines)
