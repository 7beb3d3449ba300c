"""What a person corrected in CVAT, back into the dataset: a new one, with the same photos on the same sides.

  hf-detr-panoptic import-review data/site corrected.zip --out data/site-reviewed

For the photos in the file it is the truth: what came back unchanged stays as it was, changed and new segments are
marked as the person's, and deleted ones become void. Photos that are not in it stay as they were.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="the folder that export-review was given")
    parser.add_argument("file", type=Path, help="CVAT's export: COCO, COCO panoptic, CVAT XML, segmentation mask …")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new dataset")
    parser.add_argument("--add", metavar="A,B", default="", help="new classes that are meant")
    parser.add_argument("--stuff", metavar="A,B", default="", help="those of them that are stuff")
    parser.add_argument("--strict", action="store_true", help="stop at the first photo that cannot be read")


def main(args: argparse.Namespace) -> int:
    from ..data.coco_panoptic import read_dataset
    from ..data.writer import SPLITS, DatasetWriter
    from ..errors import DatasetError
    from ..labeling.annotations import read_annotations
    from ..labeling.review import match_records, reviewed, reviewed_space
    from .refusals import clear_errors

    dataset = read_dataset(args.dataset)
    if args.out.resolve() == args.dataset.resolve():
        raise DatasetError("the corrected dataset would replace the old one", fix="Give --out a new folder.")
    read = read_annotations(args.file, None, strict=args.strict)
    old = next(iter(dataset.values())).space
    space = reviewed_space(old, read.names, _names(args.add), _names(args.stuff))
    records = [record for split in dataset.values() for record in split]
    marks = match_records(read, records)
    counts = {"kept": 0, "changed": 0, "deleted": 0}
    empty = []
    with clear_errors(args.out), DatasetWriter(args.out, space) as writer:
        for name, split in dataset.items():
            for record in split:
                map = record.map().relabelled(space)
                corrected = marks.get(record.file_name)
                if corrected:
                    after = reviewed(map, corrected, space)
                    map = after.map
                    for what in counts:
                        counts[what] += getattr(after, what)
                elif corrected is not None and map.segments:
                    empty.append(record.file_name)  # more likely never imported than all of it deleted
                writer.add(
                    name if name in SPLITS else "train",
                    record.file_name,
                    record.photo,
                    map,
                    image_id=record.image_id if isinstance(record.image_id, int) else None,
                    original=record.original_file,
                )
    done = len(marks) - len(empty)
    print(f"{read.description}")
    print(f"{done} photos were reviewed: " + ", ".join(f"{count} segments {what}" for what, count in counts.items()))
    if empty:
        print(f"{len(empty)} photos came back without any mark and stay as they were, {empty[0]} first")
    for row in read.skipped[:10]:
        print(f"not read: {row.where}: {row.what}")
    print(f"next: hf-detr-panoptic check {args.out}")
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
