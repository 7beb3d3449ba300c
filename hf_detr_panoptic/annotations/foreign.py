"""Exports of tools that are known by name and not read: what they are, what is in them, and what to export instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from ..errors import AnnotationError
from ..files import parse_json
from .sources import Source

MOST_BYTES = 64 * 1024**2  # of a file that is only looked at to name it
_LOOKS = 200  # files of one kind


@dataclass(frozen=True)
class Foreign:
    """`what` completes "this is …"; `classes`: the marks of each, as far as they can be counted without reading."""

    what: str
    fix: str
    file: str
    classes: Counter[str] = field(default_factory=Counter)


def foreign_of(source: Source) -> Foreign | None:
    """The tool that wrote what is here, if it is one of those that are known and not read."""
    found: list[Foreign] = []
    for name in source.names:
        if len(found) >= _LOOKS:
            break
        try:
            one = _named(source, name)
        except (AnnotationError, ValueError):  # nobody's
            continue
        if one is not None and (not found or one.what == found[0].what):
            found.append(one)
    if not found:
        return None
    classes: Counter[str] = Counter()
    for one in found:
        classes.update(one.classes)
    return Foreign(found[0].what, found[0].fix, found[0].file, classes)


def refusal(source: Source) -> AnnotationError | None:
    one = foreign_of(source)
    if one is None:
        return None
    return AnnotationError(f"this is {one.what}, which is not read", where=one.file, fix=one.fix)


def _named(source: Source, name: str) -> Foreign | None:
    path = PurePosixPath(name)
    where, suffix = source.where(name), path.suffix.lower()
    if suffix == ".csv" and b"region_shape_attributes" in source.read(name)[:2000]:
        return Foreign("a CSV of VIA (VGG Image Annotator)", _VIA, where)
    if suffix == ".ndjson" and b'"data_row"' in source.read(name)[:MOST_BYTES]:
        return Foreign(*_LABELBOX, where)
    in_mots = suffix == ".png" and "instances" in path.parts[:-1] and source.read(name)[24:25] == b"\x10"  # 16 bits
    if in_mots or (suffix == ".txt" and path.parent.name == "instances_txt"):
        return Foreign("a MOTS export", "Export COCO in its place: in CVAT that is 'COCO 1.0'.", where)
    if suffix != ".json":
        return None
    content = source.read(name)
    return foreign_json(parse_json(content), where) if len(content) <= MOST_BYTES else None


def foreign_json(data: Any, where: str) -> Foreign | None:
    """By what is in a JSON file."""
    if not isinstance(data, dict):
        return _listed(data, where)
    if "_via_img_metadata" in data or _is_via(data):
        photos = data.get("_via_img_metadata", data)
        return Foreign("VIA's project (VGG Image Annotator)", _VIA, where, _count(_via_names(photos)))
    if "dm_format_version" in data or ("items" in data and "categories" in data):
        return Foreign("Datumaro's own JSON", _DATUMARO, where, _count(_datumaro_names(data)))
    if isinstance(data.get("item"), dict) and "annotations" in data:
        names = (each.get("name") for each in _dicts(data["annotations"]))
        return Foreign("Darwin's JSON (V7)", "In V7: Export, format COCO.", where, _count(names))
    if isinstance(data.get("objects"), list) and isinstance(data.get("size"), dict):
        names = (each.get("classTitle") for each in _dicts(data["objects"]))
        return Foreign(*_SUPERVISELY, where, _count(names))
    if isinstance(data.get("classes"), list) and "projectType" in data:
        return Foreign(*_SUPERVISELY, where)
    if isinstance(data.get("objects"), list) and "imgHeight" in data:
        names = (each.get("label") for each in _dicts(data["objects"]))
        return Foreign("the outlines of Cityscapes", _CITYSCAPES, where, _count(names))
    if "data_row" in data and "projects" in data:
        return Foreign(*_LABELBOX, where)
    return None


def _listed(data: Any, where: str) -> Foreign | None:
    first = data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}
    if {"image_id", "category_id"} <= first.keys():
        return Foreign("a list of COCO results, without photos and classes", _RESULTS, where)
    if "data_row" in first or {"Labeled Data", "Label"} <= first.keys():
        return Foreign(*_LABELBOX, where)
    if "data" in first and ("annotations" in first or "completions" in first):
        return Foreign("Label Studio's own JSON", "In Label Studio: Export, COCO or YOLO with images.", where)
    return None


_VIA = "In VIA: Annotation, Export Annotations (COCO format)."
_DATUMARO = "Write COCO: datum convert -i FOLDER -if datumaro -f coco_instances -o coco."
_SUPERVISELY = ("Supervisely's project", "In Supervisely: run the app 'Export to COCO'.")
_LABELBOX = ("Labelbox's own export", "Write COCO from it with Labelbox's own Python library, and give that.")
_CITYSCAPES = "Its maps are read: give the folder that holds gtFine/ and leftImg8bit/ to check and train."
_RESULTS = "Give the file with 'images', 'annotations' and 'categories'."


def _is_via(data: Mapping[str, Any]) -> bool:
    first = next(iter(data.values()), None)
    return isinstance(first, dict) and {"filename", "regions"} <= first.keys()


def _via_names(photos: Any) -> Iterable[Any]:
    for photo in _dicts(photos.values() if isinstance(photos, dict) else ()):
        regions = photo.get("regions")
        for region in _dicts(regions.values() if isinstance(regions, dict) else regions):
            attributes = region.get("region_attributes")
            yield next(iter(attributes.values()), None) if isinstance(attributes, dict) else None


def _datumaro_names(data: Mapping[str, Any]) -> Iterable[Any]:
    categories = data.get("categories")
    label = categories.get("label") if isinstance(categories, dict) else None
    names = [each.get("name") for each in _dicts(label.get("labels"))] if isinstance(label, dict) else []
    for item in _dicts(data.get("items")):
        for each in _dicts(item.get("annotations")):
            number = each.get("label_id")
            yield names[number] if type(number) is int and 0 <= number < len(names) else None


def _dicts(values: Any) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict)) if isinstance(values, Iterable) else ()


def _count(names: Iterable[Any]) -> Counter[str]:
    return Counter(name if isinstance(name, str) and name else "(no name)" for name in names)
