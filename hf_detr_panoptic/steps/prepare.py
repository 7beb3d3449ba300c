"""From photos and whatever was marked on them to a finished dataset: labeled, merged, split and written.

  hf-detr-panoptic prepare --images photos/ --annotations export.zip --out data/site
  hf-detr-panoptic prepare --config prepare.yaml --dry-run

Run again, it continues where it was killed, or takes in what is new; nothing is labeled twice, and no photo changes
sides. Under torchrun or accelerate launch several processes share the labeling.
"""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HfDetrPanopticError
from .prepare_settings import PrepareSettings, add_settings, settings_of

if TYPE_CHECKING:
    from ..labeling.autolabels import AutoLabels
    from ..labeling.photos import Photo, Problem
    from .prepare_inputs import Inputs
    from .prepare_report import Prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would happen; loads no model, writes nothing")


def main(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.dry_run:
        from .prepare_report import dry_run

        print(dry_run(settings))
        return 0
    from .processes import end_processes
    from .report import after_preparing

    done = run(settings, progress=True)
    if done is not None:
        print(done)
        print(after_preparing(settings.out, len(done.photos)))
    end_processes()
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

    from .prepare_writing import write

    with clear_errors(settings.out):
        labelled = label_photos(settings, progress)
        prepared = write(settings, labelled, progress) if labelled is not None else None
        PartialState().wait_for_everyone()  # whoever leaves early takes the connection down
        return prepared


@dataclass(frozen=True)
class LabelledPhotos:
    """Every photo that can be used, with the labeler's answers on disk."""

    inputs: Inputs
    photos: list[Photo]
    problems: list[Problem]
    answers: AutoLabels


def label_photos(
    settings: PrepareSettings, progress: bool = False, shard: tuple[int, int] = (0, 1)
) -> LabelledPhotos | None:
    """Inputs read, photos looked at, each of them labelled by one process. None for all processes but the first.

    `shard` (number, of how many) is for machines that share nothing but a folder: each does its own part.
    """
    from accelerate import PartialState

    from ..labeling.autolabels import FLOOR, AutoLabels
    from ..labeling.labeler import label, labeler_settings
    from ..labeling.photos import survey
    from .labelers import load_labeler
    from .prepare_earlier import Earlier
    from .prepare_inputs import label_space, read_inputs
    from .processes import guard_processes, told_to_all

    processes = guard_processes(timedelta(days=7))
    state = PartialState()
    first = state.is_main_process
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    inputs = read_inputs(settings)
    Earlier.of(settings.out)  # raises where the folder is somebody else's: better now than after a night
    names = inputs.names[state.process_index :: processes]
    shares = told_to_all(lambda: survey(settings.images, names, progress=progress and first))
    photos = sorted((photo for found, _ in shares for photo in found), key=lambda photo: photo.name)
    problems = sorted((problem for _, found in shares for problem in found), key=lambda problem: problem.photo)
    if settings.strict:
        raise_first(problems)
    labeler = load_labeler(settings.labeler, settings.labeler_stuff, settings.precision, state.device)
    label_space(settings, labeler.label_space, inputs.custom)  # classes that cannot be joined: said before the work
    answers = AutoLabels.open(
        settings.out / "autolabels", labeler.label_space, labeler_settings(labeler, FLOOR, settings.batch_size)
    )
    share = (state.process_index * shard[1] + shard[0], processes * shard[1])
    done = told_to_all(
        lambda: label(
            labeler,
            settings.images,
            photos,
            answers,
            batch_size=settings.batch_size,
            share=share,
            progress=progress and first,
        )
    )
    if not first:
        return None
    failed = {problem.photo: problem for each in done for problem in each.problems}
    if settings.strict:
        raise_first(list(failed.values()))
    usable = [photo for photo in photos if photo.name not in failed]
    return LabelledPhotos(inputs, usable, [*problems, *failed.values()], answers)


def raise_first(problems: list[Problem]) -> None:
    """What --strict asks for."""
    from ..errors import ImageError

    for problem in problems:
        raise ImageError(problem.what, where=problem.where or problem.photo, fix=problem.fix)


@contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """What the system refuses, in one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, HfDetrPanopticError):
            raise
        where = str(error.filename or out)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HfDetrPanopticError(
                "the disk is full", where=where, fix="Make room and run the same command again: it continues."
            ) from error
        raise HfDetrPanopticError(
            f"the system refuses ({error.strerror or error})", where=where, fix="Check path, permissions and disk."
        ) from error
