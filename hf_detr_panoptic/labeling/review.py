"""A dataset out to CVAT for a person to correct, and what they corrected back in, matched by names.

Out: a zip that CVAT imports into a task with the same photos, as COCO panoptic or as COCO instances (masks, not
polygons, so that not a pixel changes on the way). Back: CVAT's file is the truth for the photos in it. Segments that
come back as they went stay what they were; changed and new ones are the person's; where they deleted one, its pixels
are void.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data.coco_panoptic import Record
from ..data.writer import encode_ids
from ..errors import AnnotationError, LabelError, did_you_mean
from ..labels import Category, LabelSpace, default_color
from ..panoptic_map import PanopticMap, Segment
from .annotations.matching import PhotoIndex
from .overlay import overlay
from .overlay_rules import OverlayRules

if TYPE_CHECKING:
    from .annotations.marks import Annotations, Mark

FORMATS = ("coco-panoptic", "coco")
SAME = 0.99  # IoU: drawing programs move a border by a pixel; a person moves it further

# CVAT reads one date for every member; a fixed one gives the same bytes each time.
_DATE = (1980, 1, 1, 0, 0, 0)


def known_name(record: Record) -> str:
    """The name under which the person, and so CVAT, knows a photo."""
    return record.original_file or record.file_name


def export_review(
    records: Sequence[Record], path: Path, format: str = "coco-panoptic", stored_names: bool = False
) -> int:
    """Write the zip for CVAT; returns the number of segments. `path` appears when all of it is written.

    Photos bear the names that the person gave them, unless `stored_names` asks for those in the dataset's `images/`.
    """
    space = records[0].space
    categories = [{key: entry[key] for key in ("id", "name", "supercategory", "isthing")} for entry in space.to_coco()]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    count = 0
    part = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, record in enumerate(records, start=1):
            name = record.file_name if stored_names else known_name(record)
            map = record.map()
            images.append({"id": number, "file_name": name, "width": map.width, "height": map.height})
            count += len(map.segments)
            if format == "coco-panoptic":
                png = PurePosixPath(name).with_suffix(".png").as_posix()
                _add(archive, f"annotations/panoptic_default/{png}", encode_ids(map.ids))
                annotations.append({"image_id": number, "file_name": png, "segments_info": _infos(map)})
            else:
                annotations += _shapes(map, number, len(annotations) + 1)
        kind = "panoptic" if format == "coco-panoptic" else "instances"
        told = {"categories": categories, "images": images, "annotations": annotations}
        _add(archive, f"annotations/{kind}_default.json", json.dumps(told).encode())
    part.replace(path)
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
    drawn = overlay(nothing, marks, space, rules=OverlayRules(leakage=None, min_area=0, boxes="rectangle")).map
    shared = _shared_pixels(before, drawn)
    areas, new_areas = before.areas(), drawn.areas()
    segments: list[Segment] = []
    found: set[int] = set()
    for segment in drawn.segments:
        twins = [
            other
            for other in before.segments
            if other.label == segment.label
            and other.id not in found
            and _iou(shared.get((other.id, segment.id), 0), areas[other.id], new_areas[segment.id]) >= SAME
        ]
        if twins:
            found.add(twins[0].id)
            segments.append(replace(twins[0], id=segment.id))
        else:
            segments.append(segment)
    return Reviewed(
        PanopticMap(drawn.ids, segments, space),
        kept=len(found),
        changed=len(segments) - len(found),
        deleted=len(before.segments) - len(found),
    )


def match_records(annotations: Annotations, records: Iterable[Record]) -> dict[str, Sequence[Mark]]:
    """The name of a photo in `images/` → the marks on it that came back. Photos that nobody knows are an error."""
    known = list(records)
    by_name = {known_name(record): record for record in known} | {record.file_name: record for record in known}
    index = PhotoIndex(by_name)
    matched: dict[str, Sequence[Mark]] = {}
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
        matched[record.file_name] = photo.marks
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


def _infos(map: PanopticMap) -> list[dict[str, Any]]:
    areas, boxes = map.areas(), map.boxes()
    return [
        {
            "id": segment.id,
            "category_id": segment.label + 1,
            "area": areas[segment.id],
            "bbox": list(boxes[segment.id]),
            "iscrowd": int(segment.crowd),
        }
        for segment in map.segments
    ]


def _shapes(map: PanopticMap, image_id: int, first: int) -> Iterable[dict[str, Any]]:
    """Annotations as CVAT itself writes masks: uncompressed run lengths, `iscrowd: 1`, which here means encoding."""
    for number, info in enumerate(_infos(map), start=first):
        counts = run_lengths(map.mask(info.pop("id")))
        yield {
            **info,
            "id": number,
            "image_id": image_id,
            "iscrowd": 1,
            "segmentation": {"size": [map.height, map.width], "counts": counts},
            "attributes": {"occluded": False},
        }


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """bool [H, W] → COCO's uncompressed run lengths, down the columns, beginning outside."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *runs] if flat[0] else runs


def _shared_pixels(one: PanopticMap, other: PanopticMap) -> Mapping[tuple[int, int], int]:
    """(id, other's id) → pixels that both have."""
    pairs = one.ids.astype(np.int64) << 32 | other.ids
    values, counts = np.unique(pairs, return_counts=True)
    return {(int(v >> 32), int(v & 0xFFFFFFFF)): int(n) for v, n in zip(values, counts, strict=True)}


def _iou(shared: int, one: int, other: int) -> float:
    return shared / (one + other - shared)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content, compress_type=zipfile.ZIP_DEFLATED)
