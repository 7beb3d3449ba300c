"""Every photo read and through the labeler once, shared among processes and machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from .settings import PrepareSettings

if TYPE_CHECKING:
    from ...labeling.autolabels import AutoLabels
    from ...labeling.photos import Photo, Problem
    from .inputs import Inputs


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

    from ...labeling.autolabels import FLOOR, AutoLabels
    from ...labeling.labeler import label, labeler_settings
    from ...labeling.photos import survey
    from ..labelers import load_labeler
    from ..processes import guard_processes, told_to_all
    from .earlier import Earlier
    from .inputs import label_space, read_inputs

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
    from ...errors import ImageError

    for problem in problems:
        raise ImageError(problem.what, where=problem.where or problem.photo, fix=problem.fix)
