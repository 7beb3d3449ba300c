"""Share a dataset's photos out to train, val and test: like photos together, every class on both sides."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.coco_panoptic import PanopticSplit
    from ..labeling.split import PhotoInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder in COCO's or Cityscapes' panoptic layout")
    parser.add_argument("--fraction", type=float, default=0.2, help="share of the photos in val (%(default)s)")
    parser.add_argument("--test", type=float, default=0.0, metavar="FRACTION", help="share held out (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--group", metavar="REGEX", help=r"photos whose names agree in its group stay together: '^(site\d+)_'"
    )
    parser.add_argument("--keep", type=Path, metavar="DATASET", help="photos that this dataset has stay on their side")
    parser.add_argument("--photos", type=Path, help="where the photos are, if not in the folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a new dataset, instead of this one in place")
    parser.add_argument("--dry-run", action="store_true", help="print the table, change nothing")


def main(args: argparse.Namespace) -> int:
    from ..data.coco_panoptic import read_dataset
    from ..data.reassign import reassign
    from ..labeling.split import split

    dataset = read_dataset(args.dataset, args.photos)
    previous = _assignment(read_dataset(args.keep)) if args.keep else None
    result = split(
        _photos(dataset), args.fraction, seed=args.seed, previous=previous, test=args.test, pattern=args.group
    )
    print(result.report)
    if args.dry_run:
        print("nothing was changed")
        return 0
    if args.out:
        _write(args.out, dataset, result.assignment)
    else:
        reassign(args.dataset, result.assignment)
    print(f"next: hf-detr-panoptic check {args.out or args.dataset}")
    return 0


def _assignment(dataset: Mapping[str, PanopticSplit]) -> dict[str, str]:
    from ..labeling.split import PARTS

    return {record.file_name: name for name, split in dataset.items() if name in PARTS for record in split}


def _photos(dataset: Mapping[str, PanopticSplit]) -> Sequence[PhotoInfo]:
    """Classes that a person marked are what must be on both sides. Where nobody says who marked, a person did."""
    from concurrent.futures import ThreadPoolExecutor

    from ..data.near_copies import fingerprint
    from ..labeling.split import PhotoInfo

    records = [record for split in dataset.values() for record in split]
    with ThreadPoolExecutor() as pool:
        prints = list(pool.map(lambda record: fingerprint(record.photo), records))
    return [
        PhotoInfo(
            record.file_name,
            {record.space[s.label].name for s in record.segments if s.source == "custom"},
            entry,
        )
        for record, entry in zip(records, prints, strict=True)
    ]


def _write(folder: Path, dataset: Mapping[str, PanopticSplit], assignment: Mapping[str, str]) -> None:
    from ..data.stored_photos import stored_names
    from ..data.writer import DatasetWriter

    names = stored_names(assignment)
    space = next(iter(dataset.values())).space
    with DatasetWriter(folder, space) as writer:
        for split in dataset.values():
            for record in split:
                writer.add(
                    assignment[record.file_name],
                    names[record.file_name],
                    record.photo,
                    record.map(),
                    image_id=record.image_id if isinstance(record.image_id, int) else None,
                    original=record.original_file or record.file_name,
                )
