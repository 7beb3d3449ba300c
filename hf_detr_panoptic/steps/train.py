"""Three stages from one recipe: detection, mask head, everything at a lower rate. Run again, it resumes.

  hf-detr-panoptic train construction.yaml
  hf-detr-panoptic train construction.yaml --stages.mask_head.num_train_epochs 5 --seed 1
  hf-detr-panoptic train construction.yaml --estimate

Any key of the recipe is a flag; without a stage's prefix it is set in all stages. Where several GPUs are seen, one
process a GPU is started; `accelerate launch examples/train.py RECIPE` is the same for those who launch themselves.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError, HfDetrPanopticError, LabelError, RecipeError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment

if TYPE_CHECKING:
    from ..data.batches import Row
    from ..training.arguments import Recipe
    from ..training.run_folder import StageEnd
    from ..training.splits import Splits
    from .prepare.settings import PrepareSettings

# Words that are no flag of this command are the recipe's.
OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a YAML file, or the name of one of ours, such as construction")
    parser.add_argument("--start", metavar="STAGE", help="begin with this stage: detection, mask_head or finetune")
    parser.add_argument("--stop", metavar="STAGE", help="end with this stage")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="time three steps of each stage, say the cost, and stop; photos and marks are prepared first",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the recipe and its files, and stop")
    parser.add_argument("--no-launch", action="store_true", help="never start processes; say how where it is needed")


def main(args: argparse.Namespace) -> int:
    from ..training.arguments import Recipe, recipe_names

    if args.recipe is None and args.overrides and not args.overrides[0].startswith("-"):
        args.recipe = args.overrides.pop(0)  # Python 3.11 gives up on an optional word once a flag came before it
    if args.recipe is None:
        raise HfDetrPanopticError(
            "no recipe is given",
            fix=f"Give a YAML file, or one of ours: {', '.join(recipe_names())}. "
            "`data` in it names a dataset, or photos and marks.",
        )
    recipe = Recipe.load(args.recipe, args.overrides)
    recipe.check_files()
    if args.dry_run:
        print(plan(recipe))
        return 0
    processes = processes_to_start()
    if processes > 1:
        return _launch(processes, args.no_launch)

    from ..training.stages import Interrupted
    from .report.command import after_training

    try:
        ends = train(recipe, start=args.start, stop=args.stop, estimate=args.estimate)
    except Interrupted as end:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{end}", file=sys.stderr)
        return 128 + end.number
    if ends and os.environ.get("RANK", "0") == "0":
        print("\n" + summary(ends, recipe))
        print(after_training(recipe.output))
    return 0


def train(
    recipe: Recipe,
    *,
    start: str | None = None,
    stop: str | None = None,
    estimate: bool = False,
    at_stage_end: Callable[[StageEnd], None] | None = None,
) -> list[StageEnd]:
    """Run a recipe in this process, or in as many as a launcher has started; returns the stages that are finished.

    The run's folder is `recipe.output`; what is finished there is not run again, what was interrupted is resumed.
    `at_stage_end` is called on the main process after each stage. What the recipe's `push` names goes to the Hub.
    """
    from accelerate import PartialState

    from .processes import guard_processes
    from .tracking import trackers_of, tracking

    guard_processes(timedelta(days=7))  # all wait while one writes the dataset, or pushes a stage
    from transformers.utils import logging as transformers_logging

    from ..training.run_folder import check_folder
    from ..training.stages import run_stages

    _check_before_the_data(recipe, start, stop)
    trackers = []
    pushing = None
    if not estimate:  # before photos are prepared
        check_folder(recipe)
        trackers = trackers_of(recipe)
        if recipe.push is not None and PartialState().is_main_process:
            from ..hub.push import PushAsItTrains

            pushing = PushAsItTrains(recipe, recipe.push)

    def stage_ended(end: StageEnd) -> None:
        for told in (at_stage_end, pushing and pushing.stage_ended):
            if told:
                told(end)

    transformers_logging.disable_progress_bar()
    splits = splits_of(recipe)
    with tracking(trackers, recipe.output) as tracker:
        ends = run_stages(
            recipe, splits, start=start, stop=stop, estimate=estimate, at_stage_end=stage_ended, tracker=tracker
        )
    if pushing:
        pushing.finished()
    return ends


def _check_before_the_data(recipe: Recipe, start: str | None, stop: str | None) -> None:
    """What can be known before photos are labelled, which may take hours."""
    from accelerate import PartialState

    from ..model.loading import hub_arguments, read_config
    from ..training.arguments import check_arguments
    from ..training.run_folder import begun_stages
    from ..training.stages import chosen_stages

    check_arguments(chosen_stages(recipe, start, stop), PartialState().device)
    if not begun_stages(recipe.output):
        read_config(recipe.model, hub_arguments(recipe.model, {}), {})


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


def _launch(processes: int, refuse: bool) -> int:
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
    from ..data.coco_panoptic import read_dataset
    from ..training.splits import Splits

    source = recipe.data
    if not isinstance(source, str):
        source = str(_prepared(recipe))
    if Path(source).is_dir() and not _is_parquet(Path(source)):
        found: dict[str, Any] = dict(read_dataset(source))
        space: LabelSpace = next(iter(found.values())).space
    else:
        from ..data.loading import load_panoptic, rows_of

        datasets = load_panoptic(source)
        space = datasets.label_space
        found = {name: rows_of(datasets[name], space) for name in datasets}
    val = "val" if "val" in found else "validation"
    for name in ("train", val):
        if name not in found:
            raise DatasetError(
                f"there is no split {name!r}, only {', '.join(map(str, found))}",
                where=source,
                fix="Share the photos out: `hf-detr-panoptic split`.",
            )
    splits = Splits(found["train"], found[val], space)
    return splits if recipe.labels is None else only_labels(splits, recipe.labels)


def only_labels(splits: Splits, names: Sequence[str]) -> Splits:
    """The classes of these names, in this order; what is of another class becomes void."""
    from ..training.splits import Splits

    old = splits.space
    for name in names:
        if name not in old.names:
            raise LabelError(f"the dataset has no class {name!r}", where="labels", fix=did_you_mean(name, old.names))
    space = LabelSpace([old[old.index(name)] for name in names])
    mapping = {name: name if name in names else None for name in old.names}
    train, val = ([Relabelled(row, space, mapping) for row in rows] for rows in (splits.train, splits.val))
    return Splits(train, val, space)


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

    from ..training.run_folder import begun_stages
    from .prepare.command import run

    settings = prepare_settings(recipe)
    if begun_stages(recipe.output) and (settings.out / "prepare.json").is_file():
        if PartialState().is_main_process:
            print(f"{settings.out}: as this run began; for new photos or marks give another `output`")
    else:
        run(settings, progress=True)
    return settings.out


def prepare_settings(recipe: Recipe) -> PrepareSettings:
    """What `prepare` is told by a recipe whose `data` names photos and marks."""
    from ..training.recipe import PhotosAndMarks
    from .prepare.settings import PrepareSettings

    marks, out = recipe.data, recipe.prepared_folder
    assert isinstance(marks, PhotosAndMarks)
    assert out is not None
    known = {entry.name for entry in fields(PrepareSettings)}
    renamed = {"group_by": "group_pattern"}
    given: dict[str, Any] = {"out": out, "seed": recipe.seed}
    for entry in fields(PhotosAndMarks):
        name, value = renamed.get(entry.name, entry.name), getattr(marks, entry.name)
        if name == "out":
            continue
        if name in known:
            given[name] = Path(value) if name in ("images", "annotations") else value
        elif value != entry.default:
            raise RecipeError(
                f"data.{entry.name} is not understood here", fix="Run `hf-detr-panoptic overlay`, and name its folder."
            )
    return PrepareSettings.of(given)


def plan(recipe: Recipe) -> str:
    """What a recipe would do, in a few lines."""
    source = recipe.data if isinstance(recipe.data, str) else f"{recipe.data.images} with {recipe.data.annotations}"
    lines = [f"model   {recipe.model}", f"data    {source}", f"output  {recipe.output}"]
    for stage in recipe.stages:
        arguments = stage.training_arguments
        length = arguments.get("num_train_epochs")
        words = f"{length:g} epochs" if length is not None else f"{arguments.get('max_steps')} steps"
        rate = f"learning rate {arguments['learning_rate']:g}"
        lines.append(f"{stage.name:10}" + ("skipped" if stage.skip else f"{words}, {rate}"))
    if recipe.push:
        lines.append(f"push      {recipe.push.repository}, {'private' if recipe.push.private else 'public'}")
    return "\n".join(lines)


def summary(ends: Sequence[StageEnd], recipe: Recipe) -> str:
    """What each stage ended with, best and last, and what to type next."""
    from ..evaluation.table import headline, percent

    lines = [f"{'':10}  {'measured by':<12}  {'best':>6}  {'at epoch':>8}  {'last':>6}"]
    for end in ends:
        epoch = "" if end.best_epoch is None else f"{end.best_epoch:g}"
        row = f"{end.metric or '':<12}  {percent(end.best):>6}  {epoch:>8}  {percent(end.last):>6}"
        lines.append(f"{end.name:10}  {row}")
    result = ends[-1].result
    if result.get("pq") is not None:
        groups = ", ".join(f"{name} {percent(result[name]['pq'])}" for name in ("things", "stuff"))
        lines.append(f"{headline(result)}: {percent(result['pq'])} ({groups})")
    final = Path(recipe.output) / "final"
    data = recipe.prepared_folder or recipe.data
    lines += ["", f"The model: {final}", f"Next: hf-detr-panoptic evaluate --model {final} --data {data}"]
    return "\n".join(lines)
