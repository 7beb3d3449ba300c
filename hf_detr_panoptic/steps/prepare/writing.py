"""The second half of `prepare`: marks laid over the labeler's answers, sides chosen, the dataset written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.coco_panoptic import Record, read_dataset
from ...data.mix import mixed
from ...data.stored_photos import shrunk, stored_names
from ...data.writer import DatasetWriter, EncodedMap, encode_map
from ...errors import AnnotationError, DatasetError
from ...images import open_image
from ...labeling.overlay import Overlay, overlay
from ...labeling.overlay_rules import OverlayRules
from ...labeling.photos import Photo, Problem
from ...labeling.split import PhotoInfo, Split, split
from .earlier import Earlier
from .inputs import Inputs, label_space
from .report import Prepared, write_papers
from .settings import PrepareSettings
from .tally import Tally

if TYPE_CHECKING:
    from PIL import Image

    from .labeling import LabelledPhotos

_AHEAD = 8  # merged photos that wait to be written


@dataclass(frozen=True)
class _Merged:
    """One photo, ready to be written; `photo` is its path, or itself where it was shrunk."""

    photo: Path | Image.Image
    overlay: Overlay
    encoded: EncodedMap


def write(
    settings: PrepareSettings, labelled: LabelledPhotos, progress: bool = False, splitting: bool = True
) -> Prepared:
    """Merge, split and write; `splitting` off puts what is new into train."""
    inputs, photos, answers = labelled.inputs, labelled.photos, labelled.answers
    if not photos:
        raise DatasetError(
            "no photo can be used",
            where=str(settings.images),
            fix=str(labelled.problems[0]) if labelled.problems else None,
        )
    orders, space = label_space(settings, answers.space, inputs.custom)
    names = orders.mapping(answers.space)
    rules = overlay_rules(settings)
    earlier = Earlier.of(settings.out)
    divided = share_out(settings, inputs, photos, earlier.parts) if splitting else None
    parts = divided.assignment if divided else {photo.name: earlier.parts.get(photo.name, "train") for photo in photos}
    foreign = _foreign(settings)
    folder = _free_folder([photo.name for photo in photos])
    every = [*(photo.name for photo in photos), *(f"{folder}/{record.file_name}" for record in foreign)]
    stored, ids = stored_names(every, earlier.stored), _ids(every, earlier.ids)
    problems = [*inputs.problems, *labelled.problems]
    tally = Tally(space)

    def merge(photo: Photo) -> _Merged | Problem:
        marked = inputs.marked.get(photo.name)
        try:
            merged = overlay(answers.read(photo.digest), marked.marks if marked else (), space, names, rules)
        except AnnotationError as error:
            if settings.strict:
                raise
            return Problem(photo.name, error.what, error.fix, error.where)
        source: Path | Image.Image = settings.images / photo.name
        small = merged.map
        if settings.max_size and max(photo.size) > settings.max_size:
            source, small = shrunk(open_image(source), merged.map, settings.max_size)
        return _Merged(source, merged, encode_map(small))

    earlier.remember(settings.out)
    with DatasetWriter(settings.out, space, _DESCRIPTION) as writer:
        for photo, merged in _bar(_in_order(merge, photos), len(photos), progress):
            if isinstance(merged, Problem):
                problems.append(merged)
                continue
            part = parts[photo.name]
            writer.add(
                part, stored[photo.name], merged.photo, merged.encoded, image_id=ids[photo.name], original=photo.name
            )
            tally.add(part, merged.overlay, merged.encoded)
        for name, record, map in mixed(foreign, space, names, folder):
            writer.add("train", stored[name], record.photo, map, image_id=ids[name])
            tally.mixed += 1
    prepared = Prepared(settings, inputs, answers, space, photos, problems, divided.report if divided else None, tally)
    write_papers(prepared)
    answers.sweep()
    Earlier.forget(settings.out)
    return prepared


_DESCRIPTION = "Photos with what a person marked on them; a pretrained model labelled the rest."


def overlay_rules(settings: PrepareSettings) -> OverlayRules:
    return OverlayRules(
        threshold=settings.threshold,
        leakage=settings.leakage,
        min_area=settings.min_area,
        priority=settings.priority,
        collisions=settings.collisions,
        boxes=settings.boxes,
    )


def share_out(settings: PrepareSettings, inputs: Inputs, photos: list[Photo], previous: Mapping[str, str]) -> Split:
    """Who is in train, val and test; a photo that was assigned before stays."""
    infos = []
    for photo in photos:
        marked = inputs.marked.get(photo.name)
        classes = {mark.name for mark in marked.marks if not mark.void} if marked else set()
        infos.append(PhotoInfo(photo.name, classes, photo.fingerprint))
    there = {photo.name for photo in photos}
    return split(
        infos,
        settings.validation,
        seed=settings.seed,
        previous={name: part for name, part in previous.items() if name in there},
        test=settings.test,
        pattern=settings.group_pattern,
    )


def _in_order(merge: Any, photos: list[Photo]) -> Iterator[tuple[Photo, _Merged | Problem]]:
    """Merged by a few threads, handed on in the order of the photos; memory does not grow with their number."""
    coming: deque[Future[_Merged | Problem]] = deque()
    ahead = iter(photos)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        try:
            for photo in photos:
                while len(coming) < _AHEAD and (following := next(ahead, None)) is not None:
                    coming.append(pool.submit(merge, following))
                yield photo, coming.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _foreign(settings: PrepareSettings) -> tuple[Record, ...]:
    """The records of the dataset that is mixed in: its own validation photos stay out, where it has any."""
    if settings.mix is None:
        return ()
    if settings.mix.resolve() == settings.out.resolve():
        raise DatasetError("a dataset cannot be mixed into itself", where=str(settings.mix))
    dataset = read_dataset(settings.mix)
    return dataset["train"].records if "train" in dataset else tuple(r for part in dataset.values() for r in part)


def _free_folder(names: list[str]) -> str:
    folder = "mix"
    while any(name.startswith(f"{folder}/") for name in names):
        folder += "_"
    return folder


def _ids(names: list[str], earlier: Mapping[str, int]) -> dict[str, int]:
    """Image ids: augmentation goes by them, so that a photo keeps its own."""
    ids = {name: earlier[name] for name in names if name in earlier}
    free = max(earlier.values(), default=0) + 1
    for name in names:
        if name not in ids:
            ids[name], free = free, free + 1
    return ids


def _bar(items: Any, total: int, progress: bool) -> Any:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="writing", unit="photo")
