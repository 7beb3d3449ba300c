"""Only the merging: marks over auto-labels that are there, written as a dataset. No model is loaded.

  hf-detr-panoptic overlay --images photos/ --annotations export.zip --out data/site --threshold 0.9

Photos that the dataset has keep their side of the split; new ones go to train, for `split` to share out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DatasetError
from .prepare.settings import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(
        parser,
        without=(
            "labeler",
            "labeler-stuff",
            "batch-size",
            "precision",
            "threads",
            "validation",
            "test",
            "seed",
            "group-pattern",
        ),
    )
    parser.add_argument(
        "--autolabels", type=Path, metavar="DIR", help="where the auto-labels are (the autolabels folder of --out)"
    )


def main(args: argparse.Namespace) -> int:
    from ..labeling.autolabels import AutoLabels
    from ..labeling.photos import Problem, survey
    from .prepare.inputs import read_inputs
    from .prepare.labeling import LabelledPhotos, raise_first
    from .prepare.writing import write
    from .refusals import clear_errors

    settings = settings_of(args)
    with clear_errors(settings.out):
        inputs = read_inputs(settings)
        answers = AutoLabels.found(args.autolabels or settings.out / "autolabels")
        photos, problems = survey(settings.images, inputs.names, progress=True)
        there = [photo for photo in photos if answers.has(photo.digest)]
        lacking = [photo for photo in photos if not answers.has(photo.digest)]
        if not there:
            raise DatasetError(
                f"none of the {len(photos)} photos has an auto-label", where=str(answers.folder), fix=_LABEL_FIRST
            )
        problems += [Problem(photo.name, "no auto-label", _LABEL_FIRST) for photo in lacking]
        if settings.strict:
            raise_first(problems)
        print(write(settings, LabelledPhotos(inputs, there, problems, answers), progress=True, splitting=False))
    return 0


_LABEL_FIRST = "Run hf-detr-panoptic autolabel with these photos."
