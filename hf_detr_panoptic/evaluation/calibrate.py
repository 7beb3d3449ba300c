"""Two scalars that make one threshold serve: plain clients have their own, and never ask for the model's best one.

Both are added to the bias of the class head, one to "no object", one to the person's classes. All queries' logits are
shifted by just that, so `pipeline`, the widget and `segment` see the same model. They are chosen on validation photos,
fold by fold by the other folds: what the folds choose is told by photos that had no part in it. Where these are few,
what is likely counts beside them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import HfDetrPanopticError, ModelError, clear_errors
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..text import count_of, percent
from .evaluate import LoadedBatch, _measured, loaded_model
from .metric.counting import ONE, Counts, overlaps
from .quality import Progress, image_counts

if TYPE_CHECKING:
    from torch import Tensor

    from ..dataset.batches import Row
    from ..model.modeling import DetrForPanopticSegmentation
    from ..model.postprocess import Kept
    from ..settings import Postprocess

CLIENTS = (0.85, 0.9)
"""The thresholds of `segment` and of transformers' pipeline; the first is what a calibrated model remembers."""

FOLDS = 5
_MOST = 200  # photos: two numbers want no more, and each takes a hundred maps
_SIDE = 640  # of larger photos smaller maps are compared: they say as well which segments are found
_NO_OBJECT = np.arange(-4.0, 1.01, 0.5)
_YOURS = np.arange(-1.0, 3.01, 0.5)
# Few photos choose by luck, and so are drawn to what is likely (benchmarks/RESULTS.md): 0.7 was the best threshold of
# models of few marks, a little less that of their own classes. So much PQ it costs to be one away from there, over
# the number of photos that choose.
_BEST = 0.7
_YOURS_LIKELY = 0.5
_DRAWN = 0.25
_REFERENCES = tuple(np.arange(30, 96, 5) / 100)  # where the best threshold of the model as it is, is looked for

Shift = tuple[float, float]
"""What is added to the logit of "no object", and to those of the person's classes."""


class Figures(NamedTuple):
    """PQ as means over the clients' thresholds; `yours` is None without classes of the person's."""

    yours: float | None
    all: float | None

    @property
    def objective(self) -> float:
        """What is chosen by: the mean of both."""
        known = [value for value in self if value is not None]
        return sum(known) / len(known) if known else 0.0

    def __str__(self) -> str:
        yours = "" if self.yours is None else f"your classes {percent(self.yours)}, "
        return f"{yours}all {percent(self.all)}"


@dataclass(frozen=True)
class Calibration:
    """What was chosen and what it is worth.

    before, in_fold, out_of_fold: at the clients' thresholds; best: of the model as it was, at its best threshold on
    the same photos.
    """

    no_object: float
    yours: float
    thresholds: tuple[float, ...]
    photos: int
    folds: int
    before: Figures
    best: Figures
    best_threshold: float
    in_fold: Figures
    out_of_fold: Figures

    @property
    def changes(self) -> bool:
        return (self.no_object, self.yours) != (0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        figures = {key: getattr(self, key)._asdict() for key in ("before", "best", "in_fold", "out_of_fold")}
        return {**asdict(self), "thresholds": list(self.thresholds), **figures}

    def lines(self) -> list[str]:
        """For the screen."""
        at = " and ".join(f"{threshold:g}" for threshold in self.thresholds)
        lines = [
            f"PQ at {at} on {count_of(self.photos, 'photo')}: {self.before}",
            f"at its best threshold, {self.best_threshold:g}: {self.best}",
            f"calibrated: {self.in_fold}; on photos that had no part in the choice: {self.out_of_fold}",
        ]
        if not self.changes:
            return [*lines, "nothing is shifted: no shift helps on photos that it was not chosen on"]
        return [*lines, f'shifted: "no object" by {self.no_object:+g}, your classes by {self.yours:+g}']


def calibrate(
    model: DetrForPanopticSegmentation,
    rows: Sequence[Row],
    *,
    thresholds: Sequence[float] = CLIENTS,
    folds: int = FOLDS,
    batch_size: int = 4,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Calibration:
    """Choose both scalars on these photos and bake them in, unless they help on none but the photos they came from.

    Every process of a launch calls this alike. A model that was shifted remembers the first threshold. Of very many
    photos some are taken, spread evenly.
    """
    rows = [row for row in rows if not row.incomplete]  # where nobody looked, nobody knows what is right
    rows = [rows[index * len(rows) // _MOST] for index in range(_MOST)] if len(rows) > _MOST else rows
    space = model.label_space
    offsets = _YOURS if space.custom_labels else np.zeros(1)
    grid = itertools.product(_NO_OBJECT.tolist(), offsets.tolist())
    shifts = sorted(grid, key=lambda shift: (abs(shift[0]) + abs(shift[1]), shift))  # of equals the smallest
    cases = [*itertools.product(shifts, thresholds), *(((0.0, 0.0), threshold) for threshold in _REFERENCES)]

    def find(batch: LoadedBatch) -> list[_Reached]:
        return _reached(model, batch, cases, precision)

    def reduce(found: _Reached, truth: PanopticMap, _: tuple[str, ...]) -> _Counted:
        return found.counted(cases, truth, space, model.settings)

    counted = list(_measured(model, rows, batch_size, find, reduce, progress).values())
    chosen = _choice(counted, shifts, thresholds, min(folds, len(counted)), space)
    calibration = Calibration(thresholds=tuple(thresholds), photos=len(counted), **chosen)
    if calibration.changes:
        shift_logits(model, calibration.no_object, calibration.yours)
        model.settings = model.settings.changed(threshold=thresholds[0])
    return calibration


def shift_logits(model: DetrForPanopticSegmentation, no_object: float, yours: float) -> None:
    """Add to the class head's bias: all queries' logits of "no object" and of the person's classes move by that."""
    import torch

    with torch.no_grad():
        bias: Tensor = model.detr.class_labels_classifier.bias
        bias.add_(torch.from_numpy(_row(model.label_space, bias.shape[0], (no_object, yours))).to(bias))


def _row(space: LabelSpace, columns: int, shift: Shift) -> npt.NDArray[np.float32]:
    """float [C + 1], what a shift adds to the logits."""
    row = np.zeros(columns, dtype=np.float32)
    row[[space.columns[label] for label in space.custom_labels]] = shift[1]
    row[-1] = shift[0]
    return row


# --- a photo in all cases at once

Case = tuple[Shift, float]


class _Counted(NamedTuple):
    """A photo, counted.

    counts: float [U, C, 4], tp, fp, fn and IoU of each class for each map that differs; of_case: int [n], which of
    them a case has.
    """

    counts: npt.NDArray[np.float64]
    of_case: npt.NDArray[np.int64]


class _Reached(NamedTuple):
    """A photo's queries that pass in any case.

    masks: float [K, h, w]; kept: what passes in each case, with its scores, and `places` where its masks are; cases
    that agree share one.
    """

    masks: Tensor
    kept: list[Kept]
    places: list[list[int]]
    of_case: npt.NDArray[np.int64]

    def counted(self, cases: Sequence[Case], truth: PanopticMap, space: LabelSpace, settings: Postprocess) -> _Counted:
        from ..model.postprocess import postprocess

        side = max(truth.height, truth.width)
        scale = min(1.0, _SIDE / side)
        size = (max(1, round(truth.height * scale)), max(1, round(truth.width * scale)))
        ids = truth.ids[np.ix_(*map(_nearest, truth.ids.shape, size))]
        smaller = settings.changed(min_area=round(settings.min_area * scale**2))
        counts = np.zeros((len(self.kept), len(space), 4))
        for row, kept, places in zip(counts, self.kept, self.places, strict=True):
            found = postprocess(kept, self.masks[places], space, size, smaller)
            _write(row, image_counts(found, truth, space, pairs=overlaps(ids, found.ids)))
        return _Counted(counts, self.of_case)


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def _write(row: npt.NDArray[np.float64], counts: Counts) -> None:
    for (label, _), (tp, fp, fn, iou) in counts.items():
        row[label] += (tp, fp, fn, iou / ONE)


def _reached(
    model: DetrForPanopticSegmentation, batch: LoadedBatch, cases: Sequence[Case], precision: str
) -> list[_Reached]:
    """Detector once, masks once for all queries that pass in any case."""
    import torch

    from ..model.postprocess import Kept, choose_queries
    from ..model.segment import chosen_masks

    space = model.label_space
    passing: list[list[Kept]] = []

    def choose(logits: Tensor) -> list[Kept]:
        logits = logits.float().cpu()  # a GPU would be asked a thousand times for a handful of numbers
        passing.extend([] for _ in range(len(logits)))
        for shift, threshold in cases:
            shifted = logits + torch.from_numpy(_row(space, logits.shape[-1], shift))
            for of_photo, kept in zip(passing, choose_queries(shifted, space, threshold), strict=True):
                of_photo.append(kept)
        reached = [sorted({query for kept in each for query in kept.queries.tolist()}) for each in passing]
        return [Kept(torch.tensor(queries, dtype=torch.int64), (0,) * len(queries), ()) for queries in reached]

    by_score = model.settings.duplicate < 1
    each = chosen_masks(model, batch.pixel_values, choose, precision)
    return [
        _shared(of_photo, reached, masks, by_score) for of_photo, (reached, masks) in zip(passing, each, strict=True)
    ]


def _shared(of_photo: Sequence[Kept], reached: Kept, masks: Tensor, by_score: bool) -> _Reached:
    place_of = {query: place for place, query in enumerate(reached.queries.tolist())}
    distinct: dict[Any, int] = {}
    kept: list[Kept] = []
    places: list[list[int]] = []
    of_case = np.zeros(len(of_photo), dtype=np.int64)
    for case, one in enumerate(of_photo):
        queries = one.queries.tolist()
        # Scores decide which of two doubles stays, by their order alone.
        order = tuple(np.argsort([-score for score in one.scores], kind="stable").tolist()) if by_score else ()
        key = (tuple(queries), one.labels, order)
        if key not in distinct:
            distinct[key] = len(kept)
            kept.append(one)
            places.append([place_of[query] for query in queries])
        of_case[case] = distinct[key]
    return _Reached(masks.float(), kept, places, of_case)


# --- the choice


def _choice(
    counted: Sequence[_Counted], shifts: Sequence[Shift], thresholds: Sequence[float], folds: int, space: LabelSpace
) -> dict[str, Any]:
    """What `Calibration` says, but for the photos. The cases are shifts × thresholds, then the references."""
    times, likely = len(thresholds), _likely(thresholds)
    shape = (folds, len(counted[0].of_case), len(space), 4)
    by_fold = np.zeros(shape)
    for place, (counts, of_case) in enumerate(counted):
        by_fold[place % folds] += counts[of_case]
    whole = by_fold.sum(0)
    end = len(shifts) * times
    figures = partial(_figures, space=space)

    def of_shift(totals: npt.NDArray[np.float64], index: int) -> npt.NDArray[np.float64]:
        return totals[index * times : (index + 1) * times]

    def drawn(shift: Shift, photos: int) -> float:
        return float(_DRAWN / photos * np.square(np.subtract(shift, likely)).sum())

    def chosen(totals: npt.NDArray[np.float64], photos: int) -> int:
        objectives = [
            figures(of_shift(totals, index)).objective - drawn(shift, photos) for index, shift in enumerate(shifts)
        ]
        return int(np.argmax(np.round(objectives, 9)))

    references = [figures(row[None]) for row in whole[end:]]
    best = max(range(len(references)), key=lambda place: references[place].objective)
    before = figures(of_shift(whole, shifts.index((0.0, 0.0))))
    result: dict[str, Any] = {"folds": folds, "before": before, "best": references[best]}
    result["best_threshold"] = float(_REFERENCES[best])
    photos = [len(counted) - len(counted[fold::folds]) for fold in range(folds)]
    votes = [chosen(whole - by_fold[fold], photos[fold]) for fold in range(folds)] if folds > 1 else []
    held_out = sum((of_shift(by_fold[fold], vote) for fold, vote in enumerate(votes)), np.zeros((times, *shape[2:])))
    out_of_fold = figures(held_out)
    unshifted = {**result, "no_object": 0.0, "yours": 0.0, "in_fold": before, "out_of_fold": before}
    if not votes:
        return unshifted
    middle = np.mean([shifts[vote] for vote in votes], axis=0)
    # The nearest that was counted: the figures are then those of what is baked in.
    nearest = min(range(len(shifts)), key=lambda index: float(np.abs(np.subtract(shifts[index], middle)).sum()))
    no_object, yours = shifts[nearest]
    gained = out_of_fold.objective - before.objective
    in_fold = figures(of_shift(whole, nearest))
    likelier = drawn((0.0, 0.0), len(counted)) - drawn(shifts[nearest], len(counted))
    if gained + likelier <= 0 or in_fold.objective <= before.objective:
        return unshifted
    return {**result, "no_object": no_object, "yours": yours, "in_fold": in_fold, "out_of_fold": out_of_fold}


def _likely(thresholds: Sequence[float]) -> Shift:
    """What brings the best threshold to the middle of these."""
    odds = [math.log(threshold / (1 - threshold)) for threshold in (*thresholds, _BEST)]
    return odds[-1] - sum(odds[:-1]) / len(thresholds), _YOURS_LIKELY


def _figures(totals: npt.NDArray[np.float64], space: LabelSpace) -> Figures:
    """totals: float [thresholds, C, 4] → the mean over thresholds of what is there."""
    tp, fp, fn, iou = np.moveaxis(totals, -1, 0)
    twice = 2 * tp + fp + fn
    with np.errstate(invalid="ignore", divide="ignore"):
        quality = np.where(twice > 0, 2 * iou / twice, np.nan)

    def mean(labels: Sequence[int]) -> float | None:
        of_each = [float(row[~np.isnan(row)].mean()) for row in quality[:, labels] if not np.isnan(row).all()]
        return sum(of_each) / len(of_each) if of_each else None

    return Figures(mean(sorted(space.custom_labels)), mean(range(len(space))))


# --- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR_OR_NAME", help="a DETR panoptic checkpoint")
    parser.add_argument("--data", required=True, metavar="DIR", help="a dataset in COCO panoptic format")
    parser.add_argument(
        "--split", default="val", help="the photos to choose on (%(default)s): never those learnt from"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder for the calibrated model")
    parser.add_argument("--batch-size", type=int, default=4, help="photos of one size at a time (%(default)s)")


def main(args: argparse.Namespace) -> int:
    """Shift a model's class logits so that the thresholds of plain clients show what its best threshold shows.

      hf-detr-panoptic calibrate --model runs/site/final --data dataset --out runs/site/calibrated

    Two numbers are chosen on the validation photos, for "no object" and for the person's classes, and added to the
    bias of the class head: the model stays the same in all else.
    """
    from pathlib import Path

    from ..dataset.coco_panoptic import read_split
    from ..parallel import guard_processes

    guard_processes()
    out = Path(args.out)
    begun = out / ".calibrated.part"  # what was cut short is ours to write over
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not begun.exists())):
        raise HfDetrPanopticError("there is something already", where=args.out, fix="Name a new folder.")
    read = read_split(args.data, args.split, None)
    model = loaded_model(args.model, None)
    if model.label_space != read.space:
        raise ModelError("its classes are not those of the dataset", where=args.model, fix="Give what it learnt from.")
    calibration = calibrate(model, read.records, batch_size=args.batch_size, progress=_progress)
    if os.environ.get("RANK", "0") != "0":
        return 0
    with clear_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        begun.touch()
        model.save_pretrained(out)
        begun.unlink()
    print("\n".join([*calibration.lines(), f"The model: {out}"]))
    return 0


def _progress(images: Any, total: int) -> Iterator[Any]:
    import sys

    from ..parallel import progress_bar

    quiet = os.environ.get("RANK", "0") != "0" or not sys.stderr.isatty()
    yield from progress_bar(images, total=total, unit="image", show=not quiet)
