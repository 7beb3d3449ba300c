"""Images through a model to quality. Processes share them, reduce each to counters, and gather those."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from accelerate import PartialState

from ..dataset.batches import Row
from ..errors import DatasetError, LabelError
from ..evaluation.average_precision import AveragePrecision, Objects
from ..evaluation.confusion import Confusion, Confusions, image_confusions
from ..evaluation.metric.counting import Counts
from ..evaluation.panoptic_quality import PanopticQuality, image_counts, overlaps_of
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..training.evaluation_loop import plan_batches
from .processes import told_to_all

logger = logging.getLogger(__name__)

Progress = Callable[[Iterable[Any], int], Iterable[Any]]


class ImageMeasure(NamedTuple):
    """What is left of an image once it is measured."""

    counts: Counts
    confusions: Confusions
    objects: tuple[Objects, Objects]


class Measured:
    """Measures by image id, so that an image counts once however often it comes."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.images: dict[int | str, ImageMeasure] = {}

    def add(self, image_id: int | str, prediction: PanopticMap, truth: PanopticMap) -> None:
        pairs = overlaps_of(prediction, truth)
        self.images[image_id] = ImageMeasure(
            image_counts(prediction, truth, self.space, pairs=pairs),
            image_confusions(prediction, truth, pairs),
            (Objects.of(prediction), Objects.of(truth)),
        )

    def compute(self) -> dict[str, Any]:
        """PQ with its groups, `box` and `mask` AP, `confusion`, the worst `mix_ups`, and the number of `images`."""
        quality, confusion, precision = (
            PanopticQuality(self.space),
            Confusion(self.space),
            AveragePrecision(self.space),
        )
        for image_id, measure in self.images.items():
            quality.add(measure.counts)
            confusion.add(measure.confusions)
            precision.add({image_id: measure.objects})
        return {
            **quality.compute(),
            **precision.compute(),
            "confusion": confusion.compute(),
            "mix_ups": confusion.worst(),
            "images": len(self.images),
        }


def measure(
    model: Any,
    records: Sequence[Row],
    space: LabelSpace,
    settings: Mapping[str, Any],
    batch_size: int,
    progress: Progress | None = None,
) -> Measured:
    """All records, measured by whichever processes there are; every process returns the same."""
    if not records:
        raise DatasetError("there is no image to evaluate", fix="Is this the right split?")
    translate = _translation(model.label_space, space)
    state = PartialState()
    batches = plan_batches(records, batch_size)[state.process_index :: state.num_processes]

    def measure_mine() -> dict[int | str, ImageMeasure]:
        mine = Measured(space)
        done = _segmented(model, batches, settings, batch_size)
        for record, truth, prediction in progress(done, sum(map(len, batches))) if progress else done:
            mine.add(record.image_id, translate(prediction), truth)
        return mine.images

    measured = Measured(space)
    for images in told_to_all(measure_mine):
        measured.images.update(images)
    return measured


def segmented(
    model: Any, rows: Sequence[Row], space: LabelSpace, batch_size: int
) -> Iterator[tuple[Row, PanopticMap, PanopticMap]]:
    """(row, truth, prediction in the data's space) of each image, in this process alone."""
    translate = _translation(model.label_space, space)
    for row, truth, prediction in _segmented(model, plan_batches(rows, batch_size), {}, batch_size):
        yield row, truth, translate(prediction)


def _segmented(
    model: Any, batches: Sequence[Sequence[Row]], settings: Mapping[str, Any], batch_size: int
) -> Iterator[tuple[Row, PanopticMap, PanopticMap]]:
    """(record, truth, prediction) of each image; files are read while the model works on the batch before."""

    def read(batch: Sequence[Row]) -> list[tuple[Any, PanopticMap]]:
        return [(open_image(record.photo), record.map()) for record in batch]

    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(read, batches[0]) if batches else None
        for place, batch in enumerate(batches):
            assert coming is not None
            photos, truths = zip(*coming.result(), strict=True)
            if place + 1 < len(batches):
                coming = reader.submit(read, batches[place + 1])
            predictions = model.segment(list(photos), **settings, batch_size=batch_size)
            yield from zip(batch, truths, predictions, strict=True)


def _translation(known: LabelSpace, space: LabelSpace) -> Callable[[PanopticMap], PanopticMap]:
    """Brings the model's maps into the data's space; where the two disagree on a kind, stuff is fused again."""
    names = _names(known, space)
    kinds_differ = any(name and _kind(known, old) != _kind(space, name) for old, name in names.items())

    def translate(prediction: PanopticMap) -> PanopticMap:
        found = prediction.relabelled(space, names)
        return found.fused_stuff() if kinds_differ else found

    return translate


def _names(known: LabelSpace, wanted: LabelSpace) -> dict[str, str | None]:
    """What each class of the model is called in the data; None where the data has no such class."""
    names = {name: name if name in wanted.names else None for name in known.names}
    shared = [name for name in names.values() if name]
    if not shared:
        raise LabelError(
            f"no class of the data, {_some(wanted.names)}, is among the model's: {_some(known.names)}",
            fix="Classes meet by name: rename those of the data, or take a model that was trained on them.",
        )
    if len(shared) < len(wanted):
        unknown = [name for name in wanted.names if name not in known.names]
        logger.warning("%d of %d classes are unknown to the model: %s", len(unknown), len(wanted), _some(unknown))
    return names


def _kind(space: LabelSpace, name: str) -> bool:
    return space[space.index(name)].isthing


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
