"""The whole road joined: photos and marks to a dataset and its report, a recipe to a model, its report and push."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .steps.prepare.settings import PrepareSettings, add_settings, settings_of
from .steps.refusals import clear_errors

if TYPE_CHECKING:
    from .labeling.prepare import Prepared


def prepare_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; loads no model, writes nothing")


def prepare_main(args: argparse.Namespace) -> int:
    """From photos and whatever was marked on them to a finished dataset: labeled, merged, split and written.

      hf-detr-panoptic prepare --images photos/ --annotations export.zip --out data/site
      hf-detr-panoptic prepare --config prepare.yaml --dry-run

    Run again, it continues where it was killed, or takes in what is new; nothing is labeled twice, and no photo
    changes sides. Under torchrun or accelerate launch several processes share the labeling.
    """

    settings = settings_of(args)
    if args.dry_run:
        from .labeling.prepare import dry_run

        print(dry_run(settings))
        return 0
    from .steps.report.command import after_preparing

    done = run(settings, progress=True)
    if done is not None:
        print(done)
        print(after_preparing(settings.out, len(done.photos)))
    return 0


def prepare(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    annotations: str | os.PathLike[str] | None = None,
    *,
    progress: bool = False,
    **settings: Any,
) -> Prepared | None:
    """Photos and marks → a dataset in `out`; `settings` as in `PrepareSettings`. Prints as the command's summary.

    In several processes all of them label, and the first one writes: it alone returns something.
    """
    given = {"images": Path(images), "out": Path(out), **settings}
    if annotations is not None:
        given["annotations"] = Path(annotations)
    return run(PrepareSettings.of(given), progress=progress)


def run(settings: PrepareSettings, progress: bool = False) -> Prepared | None:
    """All of it, by settings that were checked."""
    from accelerate import PartialState

    from .labeling.labeler import label_photos
    from .labeling.prepare import write

    with clear_errors(settings.out):
        labelled = label_photos(settings, progress)
        prepared = write(settings, labelled, progress) if labelled is not None else None
        PartialState().wait_for_everyone()  # whoever leaves early takes the connection down
        return prepared
