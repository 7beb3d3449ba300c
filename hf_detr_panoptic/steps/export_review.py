"""A dataset, or some of its photos, as a file that CVAT imports: for a person to correct what the labeler made of it.

  hf-detr-panoptic export-review data/site review.zip --split val

In CVAT: make a task with the same photos and the labels of review_labels.json (label editor, "Raw"), then upload
annotations, as "COCO Panoptic 1.0" or, with --format coco, as "COCO 1.0".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder that prepare wrote, or any in COCO panoptic format")
    parser.add_argument("file", type=Path, help="the zip to write")
    parser.add_argument("--format", default="coco-panoptic", help="coco-panoptic or coco: instances (%(default)s)")
    parser.add_argument("--split", help="this part alone (all)")
    parser.add_argument("--photos", metavar="A,B", help="these photos alone, by name")
    parser.add_argument(
        "--names", default="original", help="of the photos: original, or stored as in images/ (%(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    from ..data.coco_panoptic import read_dataset
    from ..data.stored_photos import write_atomically
    from ..errors import DatasetError, RecipeError, did_you_mean
    from ..labeling.review import FORMATS, export_review, known_name, labels_for_cvat
    from .refusals import clear_errors

    for what, word, known in (("--format", args.format, FORMATS), ("--names", args.names, ("original", "stored"))):
        if word not in known:
            raise RecipeError(f"{what} cannot be {word!r}", fix=did_you_mean(word, known))
    dataset = read_dataset(args.dataset)
    if args.split is not None and args.split not in dataset:
        raise DatasetError(
            f"there is no split {args.split!r}", where=str(args.dataset), fix=did_you_mean(args.split, dataset)
        )
    records = [record for name, split in dataset.items() if args.split in (None, name) for record in split]
    if args.photos:
        by_name = {name: record for record in records for name in (known_name(record), record.file_name)}
        wanted = [name.strip() for name in args.photos.split(",") if name.strip()]
        for name in wanted:
            if name not in by_name:
                raise DatasetError(
                    f"there is no photo {name!r}", where=str(args.dataset), fix=did_you_mean(name, by_name)
                )
        records = list({id(by_name[name]): by_name[name] for name in wanted}.values())
    if not records:
        raise DatasetError("there is no photo to review", where=str(args.dataset))
    with clear_errors(args.file):
        count = export_review(records, args.file, args.format, stored_names=args.names == "stored")
        labels = args.file.with_name(f"{args.file.stem}_labels.json")
        write_atomically(labels, (json.dumps(labels_for_cvat(records[0].space), indent=1) + "\n").encode())
    print(f"{count} segments on {len(records)} photos: {args.file}; the labels of the task: {labels}")
    if args.names == "original" and _was_shrunk(args.dataset):
        print("the dataset has its photos smaller than they were: upload its images/ to CVAT, and use --names stored")
    print(f"next: correct them in CVAT, then hf-detr-panoptic import-review {args.dataset} CORRECTED.zip --out NEW")
    return 0


def _was_shrunk(dataset: Path) -> bool:
    """Whether `prepare` was told a --max-size."""
    try:
        return bool(json.loads((dataset / "prepare.json").read_bytes())["settings"]["max_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
