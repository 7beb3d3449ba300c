"""How good maps are: panoptic quality, average precision, and where they go wrong, counted image by image.

The rules of PQ are in metric/counting.py.
"""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..dataset.coco_panoptic import Annotated, annotated, categories_of, lists_of, load_json, sound
from ..dataset.faults import fail
from ..errors import DatasetError, LabelError, MapError, did_you_mean
from ..files import content_of
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..parallel import begin_worker
from ..watch import watched
from .incomplete import PngAndInfo, left_out, png_left_out
from .metric.annotations import count_pair
from .metric.counting import VOID, Count, Counts, Overlaps, add, areas, count, overlaps, summarise


class PanopticQuality:
    """PQ, SQ and RQ, equal to panopticapi's on the same pixels, counted image by image.

    The result depends on the set of images alone, to the last bit: not on their order, nor on how they were shared
    out among counters that `merge` brings together.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.counts: Counts = {}

    def update(
        self,
        prediction: PanopticMap,
        truth: PanopticMap,
        truth_areas: Mapping[int, int] | None = None,
        incomplete: Collection[str] = (),
    ) -> PanopticQuality:
        """Counts one image.

        `truth_areas`, id → area as a JSON file states it, stale or not, gives panopticapi's numbers where such areas
        disagree with the pixels. Left out, the pixels decide. `incomplete`: classes that are left out on it, see
        `left_out`.
        """
        if incomplete:
            before = truth.areas()
            prediction, truth = left_out(prediction, truth, incomplete)
            if truth_areas is not None:
                lost = {segment_id: before[segment_id] - area for segment_id, area in truth.areas().items()}
                truth_areas = {segment_id: truth_areas.get(segment_id, 0) - lost[segment_id] for segment_id in lost}
        return self.add(image_counts(prediction, truth, self.space, truth_areas))

    def add(self, counts: Mapping[tuple[int, str], Count]) -> PanopticQuality:
        """Adds what `image_counts` found."""
        add(self.counts, counts)
        return self

    def merge(self, other: PanopticQuality) -> PanopticQuality:
        """Adds what another counter of the same label space has seen."""
        _same_space(other.space, self.space, "the other counter")
        return self.add(other.counts)

    def compute(self) -> dict[str, Any]:
        """Fractions, None where a group is empty: pq, sq, rq and n (classes averaged) of all, `things` and `stuff`,

        and of `yours`, the person's classes, if the label space has any; `per_class` with tp, fp and fn; `sources`:
        against what the person marked ("custom") and what the labeler added ("auto"), as far as the truth has any.
        The latter is agreement with the labeler, not quality.
        """
        space = self.space
        return summarise(self.counts, dict(enumerate(space.names)), space.thing_labels, space.custom_labels)


def image_counts(
    prediction: PanopticMap,
    truth: PanopticMap,
    space: LabelSpace,
    truth_areas: Mapping[int, int] | None = None,
    pairs: Overlaps | None = None,
) -> Counts:
    """One image as a handful of whole numbers, small enough to send from process to process.

    `pairs` is `overlaps_of(prediction, truth)` where a caller has it already.
    """
    _same_space(prediction.space, space, "the prediction")
    _same_space(truth.space, space, "the truth")
    if truth_areas is not None:
        for segment in truth.segments:
            if not segment.crowd and truth_areas.get(segment.id, 0) < 1:
                raise MapError(
                    f"segment {segment.id} of the truth has no stated area, or one below 1 pixel",
                    fix="State an area for each segment, or leave truth_areas out: then the pixels decide.",
                )
    return count(pairs or overlaps_of(prediction, truth), truth.segments, prediction.segments, truth_areas)


def overlaps_of(prediction: PanopticMap, truth: PanopticMap) -> Overlaps:
    """(id in the truth, id in the prediction) → shared pixels, void (0) among the ids."""
    try:
        return overlaps(truth.ids, prediction.ids)
    except ValueError as error:
        raise MapError(
            str(error), fix="Bring the prediction to the photo's own size, with nearest-neighbour sampling."
        ) from None


def _same_space(space: LabelSpace, wanted: LabelSpace, whose: str) -> None:
    if space == wanted:
        return
    strangers = [name for name in space.names if name not in wanted.names]
    if strangers:
        raise LabelError(
            f"{whose} knows the class '{strangers[0]}', the label space of this count does not",
            fix=did_you_mean(strangers[0], wanted.names) + " See PanopticMap.relabelled.",
        )
    raise LabelError(
        f"{whose} has another label space: other order, other kinds or fewer classes",
        fix="Bring it over with PanopticMap.relabelled(space): names decide.",
    )


# --- average precision

ImageId = int | str


@dataclass(frozen=True)
class Objects:
    """The objects of one image, predicted or true, small enough to send from process to process.

    labels: int [N]; boxes: float [N, 4] as (x, y, width, height) in pixels; scores: float [N], of predictions;
    crowds: bool [N], of the truth; masks: N compressed RLEs, or None where there are only boxes.
    """

    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]
    masks: tuple[dict[str, Any], ...] | None

    def __init__(
        self,
        labels: npt.ArrayLike,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike | None = None,
        crowds: npt.ArrayLike | None = None,
        masks: Iterable[dict[str, Any]] | None = None,
    ) -> None:
        values = {
            "labels": np.asarray(labels, dtype=np.int64).reshape(-1),
            "boxes": np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        }
        count = len(values["labels"])
        values["scores"] = np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
        values["crowds"] = np.zeros(count, bool) if crowds is None else np.asarray(crowds, dtype=bool).reshape(-1)
        listed = None if masks is None else tuple(masks)
        lengths = {name: len(value) for name, value in values.items()} | (
            {} if listed is None else {"masks": len(listed)}
        )
        if len(set(lengths.values())) > 1:
            raise MapError(
                "the objects of an image do not line up: " + ", ".join(f"{n} {name}" for name, n in lengths.items())
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "masks", listed)

    @classmethod
    def of(cls, panoptic: PanopticMap, masks: bool = True) -> Objects:
        """Every segment of a map, stuff too."""
        boxes, rles = panoptic.boxes(), panoptic.rles() if masks else None
        segments = panoptic.segments
        return cls(
            labels=[segment.label for segment in segments],
            boxes=[boxes[segment.id] for segment in segments],
            scores=[segment.score for segment in segments],
            crowds=[segment.crowd for segment in segments],
            masks=None if rles is None else [rles[segment.id] for segment in segments],
        )

    def chosen(self, places: npt.ArrayLike, crowds: npt.ArrayLike | None = None) -> Objects:
        """Those at these places; `crowds`, of all of them, takes the place of their own."""
        kept = np.asarray(places, dtype=np.int64).reshape(-1)
        crowd = self.crowds if crowds is None else np.asarray(crowds, dtype=bool)
        masks = None if self.masks is None else [self.masks[place] for place in kept.tolist()]
        return Objects(self.labels[kept], self.boxes[kept], self.scores[kept], crowd[kept], masks)


def objects_left_out(prediction: Objects, truth: Objects, labels: Collection[int]) -> tuple[Objects, Objects]:
    """The objects of a photo on which nobody looked for the classes with these labels.

    Objects of these classes go. One of the truth whose surest prediction, of all whose boxes overlap its own by more
    than half (IoU), is of these classes may be the labeler's name for the same thing: like a crowd, it is neither
    found nor missed.
    """
    unasked = np.isin(prediction.labels, list(labels))
    crowds = truth.crowds.copy()
    for place, box in enumerate(truth.boxes):
        fits = np.flatnonzero(_box_ious(box, prediction.boxes) > 0.5)
        if fits.size and unasked[fits[np.argmax(prediction.scores[fits])]]:
            crowds[place] = True
    asked = np.flatnonzero(~np.isin(truth.labels, list(labels)))
    return prediction.chosen(np.flatnonzero(~unasked)), truth.chosen(asked, crowds)


def _box_ious(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of one box [4] with others [N, 4], all (x, y, width, height)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / np.maximum(box[2:].prod() + others[:, 2:].prod(1) - shared, np.finfo(float).tiny)


class AveragePrecision:
    """AP over images that are identified: one that comes again is not counted again."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.images: dict[ImageId, tuple[Objects, Objects]] = {}

    def update(
        self,
        image_id: ImageId,
        prediction: PanopticMap | Objects,
        truth: PanopticMap | Objects,
        incomplete: Collection[str] = (),
    ) -> AveragePrecision:
        """Counts one image. A model without masks hands in `Objects(labels, boxes, scores)`.

        `incomplete`: classes that are left out on it, see `left_out` and `objects_left_out`.
        """
        maps = isinstance(prediction, PanopticMap) and isinstance(truth, PanopticMap)
        if incomplete and maps:
            prediction, truth = left_out(prediction, truth, incomplete)  # type: ignore[arg-type]
        sides = self._objects(prediction), self._objects(truth)
        if incomplete and not maps:
            sides = objects_left_out(*sides, {self.space.index(name) for name in incomplete})
        return self.add({image_id: sides})

    def add(self, images: Mapping[ImageId, tuple[Objects, Objects]]) -> AveragePrecision:
        """Adds images that another process has seen."""
        for image_id, sides in images.items():
            self.images.setdefault(image_id, sides)
        return self

    def compute(self) -> dict[str, Any]:
        """`box` and `mask`, each with `things`, `stuff` and `all`: ap, ap50, ap75 as fractions, n classes averaged,

        `yours`, if the label space has classes of the person's, and `per_class`. None where the truth has no such
        object; `mask` is None if any image came without masks.
        """
        with_masks = all(side.masks is not None for sides in self.images.values() for side in sides)
        return {"box": self._quality("bbox"), "mask": self._quality("segm") if with_masks else None}

    def _objects(self, side: PanopticMap | Objects) -> Objects:
        if isinstance(side, PanopticMap):
            if side.space != self.space:
                raise LabelError("a map of another label space", fix="Bring it over with PanopticMap.relabelled.")
            return Objects.of(side)
        if side.labels.size and not 0 <= side.labels.min() <= side.labels.max() < len(self.space):
            raise LabelError(
                f"labels run from {side.labels.min()} to {side.labels.max()}, the space has {len(self.space)}"
            )
        return side

    def _quality(self, kind: str) -> dict[str, Any]:
        precision = self._precision(kind)  # [T, R, K]
        rows = []
        for label, category in enumerate(self.space):
            of_class = precision[:, :, label]
            row = {"label": label, "name": category.name, "isthing": category.isthing}
            rows.append({**row, **_averaged(of_class[:, :, None])})
        space = self.space
        things, stuff, yours = map(sorted, (space.thing_labels, space.stuff_labels, space.custom_labels))
        return {
            **({"yours": _averaged(precision[:, :, yours])} if yours else {}),
            "things": _averaged(precision[:, :, things]),
            "stuff": _averaged(precision[:, :, stuff]),
            "all": _averaged(precision),
            "per_class": rows,
        }

    def _precision(self, kind: str) -> npt.NDArray[np.float64]:
        """float [thresholds, recalls, classes], -1 where the truth has no object of the class."""
        from pycocotools.cocoeval import COCOeval

        # Numbers first, then names, each in order: scores may tie, and then the order of the images decides.
        ordered = sorted(self.images, key=lambda image_id: (isinstance(image_id, str), image_id))
        truths, predictions = (
            _Annotations(
                [self.images[image_id][side] for image_id in ordered], masks=kind == "segm", labels=len(self.space)
            )
            for side in (1, 0)
        )
        run = COCOeval(truths, predictions, kind)
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.params.maxDets = run.params.maxDets[-1:]
        if not ordered or not len(self.space):
            return -np.ones((len(run.params.iouThrs), len(run.params.recThrs), len(self.space)))
        with contextlib.redirect_stdout(io.StringIO()):
            run.evaluate()
            run.accumulate()
        return run.eval["precision"][:, :, :, 0, 0]


class _Annotations:
    """As much of pycocotools' COCO as its evaluation asks for. Ids begin at 1: it takes 0 for no match."""

    def __init__(self, images: Sequence[Objects], masks: bool, labels: int) -> None:
        self.images, self.labels = range(len(images)), range(labels)
        self.annotations: list[dict[str, Any]] = []
        for image, objects in enumerate(images):
            for index, label in enumerate(objects.labels.tolist()):
                box = objects.boxes[index].tolist()
                entry = {
                    "id": len(self.annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": float(objects.scores[index]),
                    "iscrowd": int(objects.crowds[index]),
                }
                if masks and objects.masks is not None:
                    entry["segmentation"] = objects.masks[index]
                self.annotations.append(entry)

    def getImgIds(self) -> list[int]:  # noqa: N802
        return list(self.images)

    def getCatIds(self) -> list[int]:  # noqa: N802
        return list(self.labels)

    def getAnnIds(self, **_: Any) -> range:  # noqa: N802
        return range(len(self.annotations))

    def loadAnns(self, numbers: Iterable[int]) -> list[dict[str, Any]]:  # noqa: N802
        return [self.annotations[number] for number in numbers]

    def annToRLE(self, annotation: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return annotation["segmentation"]


def _averaged(precision: npt.NDArray[np.float64]) -> dict[str, Any]:
    """float [T, R, K] → the means over what is there; thresholds are 0.5, 0.55, … 0.95."""

    def mean(values: npt.NDArray[np.float64]) -> float | None:
        known = values[values > -1]
        return float(known.mean()) if known.size else None

    present = int((precision > -1).any(axis=(0, 1)).sum()) if precision.size else 0
    return {"ap": mean(precision), "ap50": mean(precision[0]), "ap75": mean(precision[5]), "n": present}


# --- confusion

_WORST = 10  # mix-ups that are listed

Confusions = Mapping[tuple[int | None, int | None], int]
"""(true label, predicted label) → segments; None on the left: invented, on the right: missed."""


class Confusion:
    """Segments matched by IoU > 0.5 whatever their class, image by image."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.counts: Counter[tuple[int | None, int | None]] = Counter()

    def add(self, counts: Confusions) -> Confusion:
        """Adds what `image_confusions` found."""
        self.counts.update(counts)
        return self

    def compute(self) -> dict[str, Any]:
        """`names`, `matched` [true][predicted], `missed` and `invented` by class."""
        labels = range(len(self.space))
        return {
            "names": list(self.space.names),
            "matched": [[self.counts[true, predicted] for predicted in labels] for true in labels],
            "missed": [self.counts[true, None] for true in labels],
            "invented": [self.counts[None, predicted] for predicted in labels],
        }

    def worst(self) -> list[tuple[str, str, int]]:
        """The commonest mix-ups: (true name, predicted name, segments)."""
        names = self.space.names
        mixed = [
            (names[true], names[predicted], count)
            for (true, predicted), count in self.counts.items()
            if true is not None and predicted is not None and true != predicted
        ]
        return sorted(mixed, key=lambda row: (-row[2], row[0], row[1]))[:_WORST]


class SegmentMatching(NamedTuple):
    """Who is whom in one image. matched: id in the truth → id in the prediction; the others hold ids.

    excused: predictions that lie mostly on void or on crowds of the truth, of whatever class.
    """

    matched: dict[int, int]
    missed: set[int]
    invented: set[int]
    excused: set[int]


def match_segments(prediction: PanopticMap, truth: PanopticMap, pairs: Overlaps | None = None) -> SegmentMatching:
    """Segments matched by IoU > 0.5 whatever their class; crowds of the truth are neither matched nor missed."""
    pairs = pairs or overlaps_of(prediction, truth)
    true_areas, predicted_areas = areas(pairs)
    nobodys = {VOID, *(segment.id for segment in truth.segments if segment.crowd)}
    on_nobodys: Counter[int] = Counter()
    matched: dict[int, int] = {}
    for (true_id, predicted_id), shared in pairs.items():
        if true_id in nobodys:
            on_nobodys[predicted_id] += shared
        elif predicted_id != VOID:
            forgiven = pairs.get((VOID, predicted_id), 0)
            union = true_areas[true_id] + predicted_areas[predicted_id] - shared - forgiven
            if 2 * shared > union:
                matched[true_id] = predicted_id
    left = {segment.id for segment in prediction.segments}.difference(matched.values())
    excused = {segment_id for segment_id in left if 2 * on_nobodys[segment_id] > predicted_areas[segment_id]}
    missed = {segment.id for segment in truth.segments if not segment.crowd}.difference(matched)
    return SegmentMatching(matched, missed, left - excused, excused)


def image_confusions(prediction: PanopticMap, truth: PanopticMap, pairs: Overlaps | None = None) -> Confusions:
    """One image's confusions: what `match_segments` found, by class."""
    matching = match_segments(prediction, truth, pairs)
    true, predicted = ({segment.id: segment.label for segment in side.segments} for side in (truth, prediction))
    counts: Counter[tuple[int | None, int | None]] = Counter()
    counts.update((true[one], predicted[other]) for one, other in matching.matched.items())
    counts.update((true[segment_id], None) for segment_id in matching.missed)
    counts.update((None, predicted[segment_id]) for segment_id in matching.invented)
    return counts


# --- folders

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


class _PairOfFiles(NamedTuple):
    """All that a worker needs of one image."""

    where: str
    truth: tuple[Path, list[dict[str, Any]]]
    prediction: tuple[Path, list[dict[str, Any]]]
    categories: tuple[int, ...]
    json_areas: bool
    incomplete: frozenset[int] = frozenset()


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
    content = load_json(truth.json)
    (categories,) = lists_of(content, truth.json.name, "categories")
    space, labels = categories_of(categories, truth.json.name)
    true_images = _by_image(content, truth.json.name)
    predicted_images = _by_image(load_json(prediction.json), prediction.json.name)
    missing = [image_id for image_id in true_images if image_id not in predicted_images]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(true_images)} images have no prediction, image {missing[0]} first",
            where=prediction.json.name,
            fix="Predict all of them; an image where nothing was found has an empty segments_info and a black PNG.",
        )
    if spare := len(predicted_images.keys() - true_images.keys()):
        logger.warning("%d predicted images are not in %s and do not count", spare, truth.json.name)
    listed = content.get("images")
    unasked = {
        image["id"]: frozenset(number for number, label in labels.items() if space[label].name in image["incomplete"])
        for image in (listed if isinstance(listed, list) else ())
        if isinstance(image, dict) and isinstance(image.get("incomplete"), list) and "id" in image
    }
    pairs = [
        _PairOfFiles(
            true.where,
            (truth.folder / true.png_name, true.entries),
            (prediction.folder / predicted_images[image_id].png_name, predicted_images[image_id].entries),
            tuple(labels),
            json_areas,
            unasked.get(image_id, frozenset()),
        )
        for image_id, true in true_images.items()
    ]
    quality = PanopticQuality(space)
    counted: Iterable[Counts] = _counted(pairs, workers)
    for counts in progress(counted, len(pairs)) if progress else counted:
        quality.add({(labels[category], source): row for (category, source), row in counts.items()})
    return {**quality.compute(), "images": len(pairs)}


def _counted(pairs: list[_PairOfFiles], workers: int | None) -> Iterator[Counts]:
    if workers is None:
        workers = min(os.cpu_count() or 1, 16) if len(pairs) > WORTH_PROCESSES else 1
    if workers < 2:
        yield from map(_count, pairs)
        return
    spawn = multiprocessing.get_context("spawn")
    chunk = max(1, min(32, len(pairs) // (4 * workers)))
    before = multiprocessing.active_children()
    with watched(together=False), ProcessPoolExecutor(workers, spawn, initializer=begin_worker) as pool:
        try:
            yield from pool.map(_count, pairs, chunksize=chunk)
        except BaseException:
            for child in multiprocessing.active_children():
                if child not in before:
                    child.kill()  # the pool would ask with SIGTERM, which is for the process that they work for
            raise


def _count(pair: _PairOfFiles) -> Counts:
    sides: list[PngAndInfo] = []
    for path, segments_info in (pair.truth, pair.prediction):
        try:
            sides.append((content_of(path), segments_info))
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}", where=pair.where) from None
    try:
        truth, prediction = png_left_out(sides[0], sides[1], pair.incomplete) if pair.incomplete else sides
        return count_pair(*truth, *prediction, pair.categories, pair.json_areas)
    except ValueError as error:
        raise DatasetError(str(error), where=pair.where) from None


def _by_image(content: dict[str, Any], where: str) -> dict[int | str | None, Annotated]:
    (entries,) = lists_of(content, where, "annotations")
    return {each.image_id: each for each in sound(annotated(entries, where), fail)}
