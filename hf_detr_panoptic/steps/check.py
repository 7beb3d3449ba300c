"""Say what is wrong with a COCO panoptic dataset, and what is in it. Exit status 1 if anything is an error."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder in COCO's or Cityscapes' panoptic layout, anybody's")
    parser.add_argument("--photos", type=Path, help="where the photos are, if not in the folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report here")
    parser.add_argument(
        "--shortest-edge", type=int, default=800, help="size at which segments may vanish (%(default)s)"
    )
    parser.add_argument("--longest-edge", type=int, default=1333, help="and its limit (%(default)s)")
    parser.add_argument("--workers", type=int, help="threads (default: one a core, 8 at most)")


def main(args: argparse.Namespace) -> int:
    import json
    import sys

    from ..data.check import check_dataset
    from ..data.stored_photos import write_atomically

    report = check_dataset(
        args.dataset,
        args.photos,
        size=(args.shortest_edge, args.longest_edge),
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    print(report)
    if args.json:
        write_atomically(args.json, (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode())
        print(f"the whole report: {args.json}")
    if report.ok and "train" in report.splits:
        print(f"next: hf-detr-panoptic train RECIPE, with data: {args.dataset}")
    return 0 if report.ok else 1
