"""COCO panoptic annotations, an id PNG and its `segments_info`, as the count wants them. Needs numpy and Pillow."""

from __future__ import annotations

import io
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from .counting import SOURCES, VOID, Counts, areas, count, overlaps


class Listed(NamedTuple):
    """One entry of `segments_info`; the label is the file's own category id."""

    id: int
    label: int
    crowd: bool
    source: str


def words_of_png(data: bytes) -> npt.NDArray[np.int32]:
    """int32 [H, W] from an id PNG: id = R + 256·G + 256²·B in the lower 24 bits, as `overlaps` reads them.

    Pillow holds RGB like that. Taking its words whole, the byte of padding too, saves two passes over the image.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"an id PNG is RGB, this one is {image.mode}: its ids are lost")
        pixels = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
        width, height = image.size
    return np.frombuffer(pixels, dtype="<i4").reshape(height, width)


def listed(segments_info: Iterable[Mapping[str, Any]], categories: Iterable[int]) -> list[Listed]:
    """The entries of one `segments_info`, checked: ids once each, categories known."""
    known = frozenset(categories)
    by_id: dict[int, Listed] = {}
    for entry in segments_info:
        for key in ("id", "category_id"):
            if not isinstance(entry.get(key), numbers.Integral):
                raise ValueError(f"a segment's {key} is {entry.get(key)!r}, not a whole number")
        source = str(entry.get("source") or SOURCES[0])
        segment = Listed(int(entry["id"]), int(entry["category_id"]), bool(entry.get("iscrowd")), source)
        if segment.id in by_id:
            raise ValueError(f"segment {segment.id} is listed twice")
        if segment.label not in known:
            raise ValueError(f"segment {segment.id} is of category {segment.label}, which is not among the categories")
        if segment.source not in SOURCES:
            raise ValueError(
                f"segment {segment.id} has the source '{segment.source}', not one of {', '.join(SOURCES)}"
            )
        by_id[segment.id] = segment
    return list(by_id.values())


def count_pair(
    truth_png: bytes,
    truth_info: Iterable[Mapping[str, Any]],
    prediction_png: bytes,
    prediction_info: Iterable[Mapping[str, Any]],
    categories: Iterable[int],
    json_areas: bool = False,
) -> Counts:
    """One image's counts from two PNG files and their lists.

    With `json_areas` areas of the truth are what its JSON states, and a truth that contradicts its own pixels is taken
    as panopticapi takes it: a segment without pixels is missed, an unlisted id is nobody's. Without, both are errors.
    """
    truth_info = list(truth_info)
    categories = frozenset(categories)
    truth = _named("the truth", truth_info, categories)
    prediction = _named("the prediction", prediction_info, categories)
    pairs = overlaps(_decoded("the truth", truth_png), _decoded("the prediction", prediction_png))
    true_areas, predicted_areas = areas(pairs)
    _check_listed("the prediction", predicted_areas, prediction)
    if not json_areas:
        _check_listed("the truth", true_areas, truth)
        return count(pairs, truth, prediction)
    stated = {}
    for entry, segment in zip(truth_info, truth, strict=True):
        area = entry.get("area") or 0
        if not segment.crowd and (area < 1 or area != int(area)):
            raise ValueError(f"the truth: segment {segment.id} states the area {area}, not a whole number above 0")
        stated[segment.id] = int(area)
    return count(pairs, truth, prediction, stated)


def _named(whose: str, info: Iterable[Mapping[str, Any]], categories: Iterable[int]) -> list[Listed]:
    try:
        return listed(info, categories)
    except ValueError as error:
        raise ValueError(f"{whose}: {error}") from None


def _decoded(whose: str, data: bytes) -> npt.NDArray[np.int32]:
    try:
        return words_of_png(data)
    except (OSError, SyntaxError, ValueError) as error:  # a torn PNG is an OSError or, to Pillow, a SyntaxError
        raise ValueError(f"{whose}: {error}") from None


def _check_listed(whose: str, pixels: Mapping[int, int], segments: Iterable[Listed]) -> None:
    ids = {segment.id for segment in segments}
    if unlisted := sorted(pixels.keys() - ids - {VOID}):
        raise ValueError(f"{whose}: id {unlisted[0]} is in the pixels but not in segments_info")
    if absent := sorted(ids - pixels.keys()):
        raise ValueError(f"{whose}: segment {absent[0]} is in segments_info but has no pixel")
