"""Panoptic quality of two folders of id PNGs with their JSON files: no model, several processes, nothing written."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError
from ..files import read_json
from ..labels import LabelSpace
from .metric.annotations import count_pair
from .metric.counting import Counts
from .panoptic_quality import PanopticQuality

logger = logging.getLogger(__name__)

WORTH_PROCESSES = 200  # starting a process costs about as much as this many small images

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


class Side(NamedTuple):
    """One of the two: a panoptic JSON, and the folder of its PNG files."""

    json: Path
    folder: Path

    @classmethod
    def at(cls, json_file: str | Path, folder: str | Path | None = None) -> Side:
        """The folder beside the JSON that has its stem for a name, unless another is given: panopticapi's rule."""
        path = Path(json_file)
        return cls(path, Path(folder) if folder else path.with_suffix(""))


class _Pair(NamedTuple):
    """All that a worker needs of one image."""

    where: str
    truth: tuple[Path, list[dict[str, Any]]]
    prediction: tuple[Path, list[dict[str, Any]]]
    categories: tuple[int, ...]
    json_areas: bool


def evaluate_folders(
    prediction: Side,
    truth: Side,
    json_areas: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`PanopticQuality.compute` over the truth's images, with `images`, their number.

    `json_areas`: areas of the truth as its JSON states them, which is what panopticapi does. `workers`: processes, by
    default one a core where there are many images. `progress` wraps the images as they are done: (iterable, number).
    """
    true_file, predicted_file = _load(truth.json), _load(prediction.json)
    categories = true_file.get("categories")
    if not isinstance(categories, list):
        raise DatasetError("there is no list 'categories'", where=truth.json.name)
    space = LabelSpace.from_coco(categories)
    labels = {entry["id"]: label for label, entry in enumerate(categories)}
    true_images, predicted_images = (
        _annotations(file, side.json) for file, side in ((true_file, truth), (predicted_file, prediction))
    )
    missing = [image_id for image_id in true_images if image_id not in predicted_images]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(true_images)} images have no prediction, image {missing[0]} first",
            where=prediction.json.name,
            fix="Predict all of them; an image where nothing was found has an empty segments_info and a black PNG.",
        )
    if spare := len(predicted_images.keys() - true_images.keys()):
        logger.warning("%d predicted images are not in %s and do not count", spare, truth.json.name)
    pairs = [
        _Pair(
            f"{truth.json.name}, image {image_id}",
            (truth.folder / true["file_name"], true["segments_info"]),
            (prediction.folder / predicted_images[image_id]["file_name"], predicted_images[image_id]["segments_info"]),
            tuple(labels),
            json_areas,
        )
        for image_id, true in true_images.items()
    ]
    quality = PanopticQuality(space)
    counted: Iterable[Counts] = _counted(pairs, workers)
    for counts in progress(counted, len(pairs)) if progress else counted:
        quality.add({(labels[category], source): row for (category, source), row in counts.items()})
    return {**quality.compute(), "images": len(pairs)}


def _counted(pairs: list[_Pair], workers: int | None) -> Iterator[Counts]:
    if workers is None:
        workers = min(os.cpu_count() or 1, 16) if len(pairs) > WORTH_PROCESSES else 1
    if workers < 2:
        yield from map(_count, pairs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_count, pairs, chunksize=max(1, min(32, len(pairs) // (4 * workers))))


def _count(pair: _Pair) -> Counts:
    sides = []
    for path, segments_info in (pair.truth, pair.prediction):
        try:
            sides.append((path.read_bytes(), segments_info))
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}", where=pair.where) from None
    try:
        return count_pair(*sides[0], *sides[1], pair.categories, pair.json_areas)
    except ValueError as error:
        raise DatasetError(str(error), where=pair.where) from None


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path, DatasetError)
    if not isinstance(content, dict):
        raise DatasetError("COCO panoptic JSON is an object with 'annotations'", where=str(path))
    return content


def _annotations(content: dict[str, Any], path: Path) -> dict[int | str, dict[str, Any]]:
    entries = content.get("annotations")
    if not isinstance(entries, list):
        raise DatasetError("there is no list 'annotations'", where=path.name, fix="Is this a panoptic JSON?")
    found: dict[int | str, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "file_name", "segments_info"} <= entry.keys():
            raise DatasetError(
                "an annotation needs 'image_id', 'file_name' and 'segments_info'",
                where=f"{path.name}, annotations[{place}]",
                fix="Is this a panoptic JSON? One of instances has no segments_info.",
            )
        if entry["image_id"] in found:
            raise DatasetError("the image is annotated twice", where=f"{path.name}, image {entry['image_id']}")
        found[entry["image_id"]] = entry
    return found
