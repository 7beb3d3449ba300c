"""A dataset out to CVAT for a person to correct, and what they corrected back in, matched by names."""

from __future__ import annotations

import argparse
import json
import shlex
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..annotations.pages import PhotoIndex
from ..dataset.coco_panoptic import Record
from ..dataset.writer import encode_ids
from ..errors import AnnotationError, LabelError, did_you_mean
from ..files import content_of, parse_json, replacing
from ..labels import Category, LabelSpace, default_color
from ..panoptic_map import PanopticMap, Segment, run_lengths, shared_pixels
from ..settings import OverlayRules
from ..text import count_of
from .overlay import overlay

if TYPE_CHECKING:
    from ..annotations.marks import Annotations, Mark, MarkedPhoto


FORMATS = ("coco-panoptic", "coco")
SAME = 0.99  # IoU: drawing programs move a border by a pixel; a person moves it further

# CVAT reads one date for every member; a fixed one gives the same bytes each time.
_DATE = (1980, 1, 1, 0, 0, 0)


def known_name(record: Record) -> str:
    """The name under which the person, and so CVAT, knows a photo."""
    return record.original_file or record.file_name


def export_review(
    records: Sequence[Record],
    path: Path,
    format: str = "coco-panoptic",
    stored_names: bool = False,
    photos: bool = False,
) -> int:
    """Write the zip for CVAT; returns the number of segments. `path` appears when all of it is written.

    Photos bear the names that the person gave them, unless `stored_names` asks for those in the dataset's `images/`.
    With `photos` they and labels.json are in it too, as CVAT imports a dataset into a project.
    """
    space = records[0].space
    categories = [{key: entry[key] for key in ("id", "name", "supercategory", "isthing")} for entry in space.to_coco()]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    count = 0
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, record in enumerate(records, start=1):
            name = record.file_name if stored_names else known_name(record)
            panoptic = record.map()
            images.append({"id": number, "file_name": name, "width": panoptic.width, "height": panoptic.height})
            count += len(panoptic.segments)
            if photos:  # not squeezed: a photo is as small as it gets
                archive.writestr(zipfile.ZipInfo(f"images/{name}", _DATE), record.photo.read_bytes())
            if format == "coco-panoptic":
                png = PurePosixPath(name).with_suffix(".png").as_posix()
                _add(archive, f"annotations/panoptic_default/{png}", encode_ids(panoptic.ids))
                annotations.append({"image_id": number, "file_name": png, "segments_info": _infos(panoptic)})
            else:
                annotations += _shapes(panoptic, number, len(annotations) + 1)
        kind = "panoptic" if format == "coco-panoptic" else "instances"
        payload = {"categories": categories, "images": images, "annotations": annotations}
        _add(archive, f"annotations/{kind}_default.json", json.dumps(payload).encode())
        if photos:
            _add(archive, "labels.json", json.dumps(labels_for_cvat(space), indent=1).encode())
    return count


def labels_for_cvat(space: LabelSpace) -> list[dict[str, Any]]:
    """What CVAT's label editor takes in its "Raw" tab: a task must have the labels before it takes annotations."""
    return [
        {"name": category.name, "color": "#%02x%02x%02x" % (category.color or default_color(label)), "attributes": []}
        for label, category in enumerate(space)
    ]


@dataclass(frozen=True)
class Reviewed:
    """A map after review: segments kept as they were, and numbers of those changed or new, and of those deleted."""

    map: PanopticMap
    kept: int
    changed: int
    deleted: int


def reviewed(old: PanopticMap, marks: Sequence[Mark], space: LabelSpace) -> Reviewed:
    """What a person made of a map. `space` has the map's classes, and maybe more."""
    before = old.relabelled(space)
    nothing = PanopticMap(np.zeros_like(before.ids), [], space)
    drawn = overlay(nothing, marks, space, rules=OverlayRules(boxes="rectangle").only_pasting()).map
    shared = shared_pixels(before, drawn)
    areas, new_areas = before.areas(), drawn.areas()
    segments: list[Segment] = []
    kept: set[int] = set()
    for segment in drawn.segments:
        twins = [
            other
            for other in before.segments
            if other.label == segment.label
            and other.id not in kept
            and _iou(shared.get((other.id, segment.id), 0), areas[other.id], new_areas[segment.id]) >= SAME
        ]
        if twins:
            kept.add(twins[0].id)
            segments.append(replace(twins[0], id=segment.id))
        else:
            segments.append(segment)
    return Reviewed(
        PanopticMap(drawn.ids, segments, space),
        kept=len(kept),
        changed=len(segments) - len(kept),
        deleted=len(before.segments) - len(kept),
    )


def match_records(annotations: Annotations, records: Iterable[Record]) -> dict[str, Sequence[Mark]]:
    """The name of a photo in `images/` → the marks on it that came back. Photos that nobody knows are an error."""
    return {name: photo.marks for name, photo in _matched(annotations, records).items()}


def _matched(annotations: Annotations, records: Iterable[Record]) -> dict[str, MarkedPhoto]:
    known = list(records)
    by_name = {known_name(record): record for record in known} | {record.file_name: record for record in known}
    index = PhotoIndex(by_name)
    matched: dict[str, MarkedPhoto] = {}
    for photo in annotations.photos:
        hit = index.find(photo.photo)
        if hit is None:
            raise AnnotationError(
                "the dataset has no such photo", where=photo.photo, fix=did_you_mean(photo.photo, by_name)
            )
        record = by_name[hit.photo]
        if record.size is not None and (photo.height, photo.width) != record.size:
            raise AnnotationError(
                f"it was corrected at {photo.width}×{photo.height}, the dataset has it at "
                f"{record.size[1]}×{record.size[0]}",
                where=photo.photo,
                fix="Upload the photos of the dataset's images/ to CVAT, and export with --names stored.",
            )
        matched[record.file_name] = photo
    return matched


def reviewed_space(
    space: LabelSpace, names: Iterable[str], add: Iterable[str] = (), stuff: Iterable[str] = ()
) -> LabelSpace:
    """The dataset's classes, and those that a person added on purpose; any other new name is an error."""
    new, flat = list(dict.fromkeys(add)), set(stuff)
    for name in names:
        if name not in space.names and name not in new:
            raise LabelError(
                f"the dataset has no class '{name}'",
                fix=f"{did_you_mean(name, space.names)} If it is new and meant: --add '{name}'.",
            )
    extra = [Category(name, name not in flat) for name in new if name not in space.names]
    return LabelSpace([*space, *extra])


def _infos(panoptic: PanopticMap) -> list[dict[str, Any]]:
    areas, boxes = panoptic.areas(), panoptic.boxes()
    return [
        {
            "id": segment.id,
            "category_id": segment.label + 1,
            "area": areas[segment.id],
            "bbox": list(boxes[segment.id]),
            "iscrowd": int(segment.crowd),
        }
        for segment in panoptic.segments
    ]


def _shapes(panoptic: PanopticMap, image_id: int, first: int) -> Iterable[dict[str, Any]]:
    """Annotations as CVAT itself writes masks: uncompressed run lengths, `iscrowd: 1`, which here means encoding."""
    for number, info in enumerate(_infos(panoptic), start=first):
        counts = run_lengths(panoptic.mask(info.pop("id")))
        yield {
            **info,
            "id": number,
            "image_id": image_id,
            "iscrowd": 1,
            "segmentation": {"size": [panoptic.height, panoptic.width], "counts": counts},
            "attributes": {"occluded": False},
        }


def _iou(shared: int, one: int, other: int) -> float:
    return shared / (one + other - shared)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content, compress_type=zipfile.ZIP_DEFLATED)


def export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder that prepare wrote, or any in COCO panoptic format")
    parser.add_argument("file", type=Path, help="the zip to write")
    parser.add_argument("--format", default="coco-panoptic", help="coco-panoptic or coco: instances (%(default)s)")
    parser.add_argument("--split", help="this part alone (all)")
    parser.add_argument("--photos", metavar="A,B", help="these photos alone, by name")
    parser.add_argument(
        "--names", default="original", help="of the photos: original, or stored as in images/ (%(default)s)"
    )


def export_main(args: argparse.Namespace) -> int:
    """A dataset, or some of its photos, as a file that CVAT imports: for a person to correct what was labelled.

      hf-detr-panoptic export-review data/site review.zip --split val

    In CVAT: make a task with the same photos and the labels of review_labels.json (label editor, "Raw"), then upload
    annotations, as "COCO Panoptic 1.0" or, with --format coco, as "COCO 1.0".
    """
    from ..dataset.coco_panoptic import read_dataset
    from ..errors import DatasetError, RecipeError, clear_errors, did_you_mean
    from ..files import write_json

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
        write_json(labels, labels_for_cvat(records[0].space))
    print(
        f"{count_of(count, 'segment')} on {count_of(len(records), 'photo')}: {args.file}; "
        f"the labels of the task: {labels}"
    )
    if args.names == "original" and _was_shrunk(args.dataset):
        print("the dataset has its photos smaller than they were: upload its images/ to CVAT, and use --names stored")
    print(f"next: correct them in CVAT, then hf-detr-panoptic import-review {args.dataset} CORRECTED.zip --out NEW")
    return 0


def _was_shrunk(dataset: Path) -> bool:
    """Whether `prepare` was told a --max-size."""
    try:
        return bool(parse_json(content_of(dataset / "prepare.json"))["settings"]["max_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="the folder that export-review was given")
    parser.add_argument("file", type=Path, help="CVAT's export: COCO, COCO panoptic, CVAT XML, segmentation mask …")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new dataset")
    parser.add_argument("--add", metavar="A,B", default="", help="new classes that are meant")
    parser.add_argument("--stuff", metavar="A,B", default="", help="those of them that are stuff")
    parser.add_argument(
        "--looked-at",
        metavar="all|FILE",
        help="photos that were looked at though nothing on them was changed: all that came back, or those that a text "
        "file names, a photo a line",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first photo that cannot be read")


def import_main(args: argparse.Namespace) -> int:
    """What a person corrected in CVAT, back into the dataset: a new one, with the same photos on the same sides.

      hf-detr-panoptic import-review data/site corrected.zip --out data/site-reviewed

    For the photos in the file it is the truth: what came back unchanged stays as it was, changed and new segments are
    marked as the person's, and deleted ones become void. Photos that are not in it stay as they were. A photo that
    nobody had looked at counts as looked at from now on if something on it was changed, or if CVAT has a tag on it.
    """
    from ..annotations.read import read_annotations
    from ..dataset.coco_panoptic import read_dataset
    from ..dataset.validation import say_validates_on, validates_on_train
    from ..dataset.writer import SPLITS, DatasetWriter
    from ..errors import DatasetError, clear_errors
    from ..lock import locked

    dataset = read_dataset(args.dataset)
    if args.out.resolve() == args.dataset.resolve():
        raise DatasetError("the corrected dataset would replace the old one", fix="Give --out a new folder.")
    read = read_annotations(args.file, None, strict=args.strict)
    old = next(iter(dataset.values())).space
    space = reviewed_space(old, read.names, _names(args.add), _names(args.stuff))
    records = [record for split in dataset.values() for record in split]
    back = _matched(read, records)
    marks = {name: photo.marks for name, photo in back.items()}
    done_with = _looked_at(args.looked_at, back, records)
    counts = {"kept": 0, "changed": 0, "deleted": 0}
    empty = []
    completed = 0
    with clear_errors(args.out), locked(args.out), DatasetWriter(args.out, space) as writer:
        for name, split in dataset.items():
            for record in split:
                panoptic = record.map().relabelled(space)
                corrected = marks.get(record.file_name)
                if corrected:
                    after = reviewed(panoptic, corrected, space)
                    panoptic = after.map
                    for what in counts:
                        counts[what] += getattr(after, what)
                    if after.changed or after.deleted:
                        done_with.add(record.file_name)
                elif corrected is not None and panoptic.segments:
                    empty.append(record.file_name)  # more likely never imported than all of it deleted
                incomplete = () if record.file_name in done_with else record.incomplete
                completed += len(record.incomplete) > len(incomplete)
                writer.add(
                    name if name in SPLITS else "train",
                    record.file_name,
                    record.photo,
                    panoptic,
                    image_id=record.image_id if isinstance(record.image_id, int) else None,
                    original=record.original_file,
                    incomplete=incomplete,
                    mixed=record.mixed,
                    known_in=record.known_in,
                )
    say_validates_on(args.out, validates_on_train(args.dataset))
    done = len(marks) - len(empty)
    print(f"{read.description}")
    print(
        f"{count_of(done, 'photo')} reviewed: "
        + ", ".join(f"{count_of(count, 'segment')} {what}" for what, count in counts.items())
    )
    if empty:
        print(f"{count_of(len(empty), 'photo')} came back without any mark and changed nothing, {empty[0]} first")
    if completed:
        print(
            f"{count_of(completed, 'photo')} looked at since: they count as complete, and `split` may validate on them"
        )
    for row in read.skipped[:10]:
        print(f"not read: {row.where}: {row.what}")
    print(f"next: hf-detr-panoptic check {shlex.quote(str(args.out))}")
    return 0


def _looked_at(word: str | None, back: Mapping[str, MarkedPhoto], records: Sequence[Record]) -> set[str]:
    """Of the photos by their names in images/: those that CVAT has a tag on, and those that the person names."""
    from .inputs import listed_photos

    found = {name for name, photo in back.items() if photo.tagged}
    if word == "all":
        return found | set(back)
    if word is None:
        return found
    by_name = {known_name(record): record.file_name for record in records}
    by_name |= {record.file_name: record.file_name for record in records}
    return found | {by_name[name] for name in listed_photos(Path(word), by_name)}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
