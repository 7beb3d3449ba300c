"""The whole road joined: photos and marks to a dataset and its report, a recipe to a model, its report and push.

The public `prepare` and `train` and the commands of these names are here, so that all of them leave the same files.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HfDetrPanopticError
from .lock import locked
from .recipe import add_prepare_flags, prepare_settings
from .settings import Prepare

if TYPE_CHECKING:
    import datasets

    from .labeling.prepare import Prepared
    from .recipe import Recipe
    from .training.run_folder import StageEnd


def prepare(
    images: str | os.PathLike[str] | datasets.Dataset | datasets.DatasetDict,
    out: str | os.PathLike[str],
    annotations: str | os.PathLike[str] | None = None,
    *,
    progress: bool = False,
    **settings: Any,
) -> Prepared | None:
    """Photos and marks → a dataset in `out`; `settings` as in `Prepare`. Prints as the command's summary.

    `images` may be a dataset with photos and masks, itself or by name: see `labeling/from_datasets.py`.

    In several processes all of them label, and the first one writes: it alone returns something.
    """
    if isinstance(images, str | os.PathLike):
        photos, dataset = Path(images), None
    else:
        photos, dataset = Path(out), images
    paths = {"images": photos, "out": Path(out), "annotations": annotations and Path(annotations)}
    return _prepare(Prepare.read(paths | settings), progress, dataset)[0]


def _prepare(
    settings: Prepare, progress: bool, dataset: datasets.Dataset | datasets.DatasetDict | None = None
) -> tuple[Prepared | None, str]:
    """And the line that says where to look."""
    from .labeling.prepare import prepare_dataset
    from .report.report import after_preparing

    prepared = prepare_dataset(settings, progress, dataset)
    return prepared, "" if prepared is None else after_preparing(settings.folder, len(prepared.photos))


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
    `at_stage_end` is called on the main process after each stage. What the recipe's `push` names goes to the Hub, and
    the run gets its report.
    """
    return _train(recipe, start, stop, estimate, at_stage_end)[0]


def _train(
    recipe: Recipe,
    start: str | None,
    stop: str | None,
    estimate: bool,
    at_stage_end: Callable[[StageEnd], None] | None = None,
    price: float | None = None,
) -> tuple[list[StageEnd], str]:
    """And the line that says where to look."""
    from accelerate import PartialState

    from .hub.push import PushAsItTrains
    from .report.report import after_training
    from .training.train import check_run, run_recipe

    check_run(recipe, start, stop, estimate=estimate)
    main = PartialState().is_main_process
    pushing = PushAsItTrains(recipe, recipe.push) if recipe.push is not None and main and not estimate else None

    def stage_ended(end: StageEnd) -> None:
        for listener in (at_stage_end, pushing and pushing.stage_ended):
            if listener:
                listener(end)

    with nullcontext() if estimate else locked(recipe.output):
        ends = run_recipe(recipe, start, stop, estimate=estimate, price=price, at_stage_end=stage_ended)
        if pushing:
            pushing.finished()
        if not (ends and main):
            return ends, ""
        said = [after_training(recipe.output)]
        if (Path(recipe.output) / "final").is_dir():
            from .browser.run_page import after_run

            said.append(after_run(recipe.output))
        return ends, "\n".join(said)


# --- the commands


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    add_prepare_flags(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what is in the folder and what would happen; loads no model, writes nothing",
    )


def prepare_main(args: argparse.Namespace) -> int:
    """From photos and whatever was marked on them to a finished dataset: labeled, merged, split and written.

      hf-detr-panoptic prepare --images photos/ --annotations export.zip --out data/site
      hf-detr-panoptic prepare --config prepare.yaml --dry-run

    Run again, it continues where it was killed, or takes in what is new; nothing is labeled twice, and no photo
    changes sides. Under torchrun or accelerate launch several processes share the labeling.
    """
    if args.dry_run:
        from .labeling.dry_run import dry_run

        if args.config is None:  # "what is in this folder?" needs no more than the folder
            args.out, args.images = args.out or "data/site", args.images or args.annotations
        for part in dry_run(prepare_settings(args)):
            print(part)
        return 0
    settings = prepare_settings(args)
    prepared, look = _prepare(settings, progress=True)
    if prepared is not None:
        print(prepared)
        print(look)
    return 0


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a YAML file, or the name of one of ours, such as construction")
    parser.add_argument("--start", metavar="STAGE", help="begin with this stage: detection, mask_head or finetune")
    parser.add_argument("--stop", metavar="STAGE", help="end with this stage")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="time three steps of each stage, say the cost, and stop; photos and marks are prepared first",
    )
    parser.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="what an hour of this machine costs: the estimate's money, too"
    )
    parser.add_argument("--dry-run", action="store_true", help="check the recipe and its files, and stop")
    parser.add_argument("--no-launch", action="store_true", help="never start processes; say how where it is needed")


def train_main(args: argparse.Namespace) -> int:
    """Three stages from one recipe: detection, mask head, everything at a lower rate. Run again, it resumes.

      hf-detr-panoptic train construction.yaml
      hf-detr-panoptic train construction.yaml --stages.mask_head.num_train_epochs 5 --seed 1
      hf-detr-panoptic train construction.yaml --estimate

    Any key of the recipe is a flag; without a stage's prefix it is set in all stages. Where several GPUs are seen, one
    process a GPU is started; `accelerate launch examples/train.py RECIPE` is the same for those who launch themselves.
    """
    from .recipe import Recipe, recipe_names
    from .training.train import check_data, launch, plan, processes_to_start, summary

    if args.recipe is None and args.overrides and not args.overrides[0].startswith("-"):
        args.recipe = args.overrides.pop(0)  # Python 3.11 gives up on an optional word once a flag came before it
    if args.recipe is None:
        raise HfDetrPanopticError(
            "no recipe is given",
            fix=f"Give a YAML file, or one of ours: {', '.join(recipe_names())}. "
            "`data` in it names a dataset, or photos and marks.",
        )
    if args.price is not None and not (args.estimate and args.price >= 0):
        raise HfDetrPanopticError(f"--price is {args.price:g}", fix="It goes with --estimate, and is 0 or more.")
    recipe = Recipe.load(args.recipe, args.overrides)
    recipe.check_files()
    if args.dry_run:
        check_data(recipe)
        print(plan(recipe))
        return 0
    processes = processes_to_start()
    if processes > 1:
        return launch(processes, args.no_launch)

    from .training.stages import Interrupted

    first = os.environ.get("RANK", "0") == "0"
    try:
        ends, look = _train(recipe, args.start, args.stop, args.estimate, price=args.price)
    except Interrupted as end:
        if first:
            print(f"\n{end}", file=sys.stderr)
        return 128 + end.number
    if ends and first:
        print("\n" + summary(ends, recipe))
        print(look)
    return 0
