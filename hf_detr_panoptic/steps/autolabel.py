"""Only the labeling: every photo through the labeler, its answers kept where `prepare` and `overlay` find them.

  hf-detr-panoptic autolabel --images photos/ --out data/site
  hf-detr-panoptic autolabel --images photos/ --out /mnt/shared/site --shard 2/3      # the second of three machines

With --annotations only the photos that `prepare` would use. Machines that share a folder and nothing else each take a
shard: shards are told by number, so no machine waits for another, and none leaves a lock behind when it dies. What a
machine left undone the next command makes up for, on any machine.
"""

from __future__ import annotations

import argparse

from ..errors import RecipeError
from .prepare.settings import add_settings, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--shard", metavar="I/N", help="the i-th of n machines: this part of the photos only")


def main(args: argparse.Namespace) -> int:
    from .prepare.labeling import label_photos
    from .refusals import clear_errors

    settings = settings_of(args)
    with clear_errors(settings.out):
        labelled = label_photos(settings, progress=True, shard=_shard(args.shard))
    if labelled is None:
        return 0
    for problem in labelled.problems[:10]:
        print(problem)
    if args.shard:
        print(f"shard {args.shard} of {len(labelled.photos)} photos is labelled: {labelled.answers.folder}")
        print("next: when all shards are, hf-detr-panoptic prepare with the same settings, on one machine")
        return 0
    labelled.answers.sweep()
    print(f"{len(labelled.photos)} photos are labelled: {labelled.answers.folder}")
    print(f"next: hf-detr-panoptic overlay --images {settings.images} --annotations MARKS --out {settings.out}")
    return 0


def _shard(text: str | None) -> tuple[int, int]:
    """ "2/3" → (1, 3)."""
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise RecipeError(f"--shard cannot be {text!r}", fix="Write 2/3 for the second of three machines.")
    return int(number) - 1, int(count)
