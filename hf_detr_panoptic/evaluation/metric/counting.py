"""Panoptic quality counted and averaged by panopticapi's rules. Knows numpy only, so that the folder can travel alone.

The counts are whole numbers, the sums of IoU among them: an IoU is held as a multiple of 2**-64, rounded down. Whole
numbers add up to the same sum in any order and any grouping, so the result is the same to the last bit however the
images were shared out. Rounding costs less than 6e-20 a match; the means are ordinary floats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

VOID = 0
ID_BITS = 0xFFFFFF
ONE = 1 << 64  # an IoU of 1
SOURCES = ("custom", "auto", "model")


class Region(Protocol):
    """What the count has to know of a segment; `label` may be any whole number that both sides share."""

    @property
    def id(self) -> int: ...
    @property
    def label(self) -> int: ...
    @property
    def crowd(self) -> bool: ...
    @property
    def source(self) -> str: ...


class Count(NamedTuple):
    """True positives, false positives, false negatives, and the sum of IoU over true positives in units of 1/ONE."""

    tp: int
    fp: int
    fn: int
    iou: int


Counts = dict[tuple[int, str], Count]
"""(label, source of the truth) → its count. False positives go to the source that covers most of their pixels."""

Overlaps = dict[tuple[int, int], int]
"""(id in the truth, id in the prediction) → pixels that both own; void is an id like the others here."""


def overlaps(truth: npt.NDArray[np.int32], prediction: npt.NDArray[np.int32]) -> Overlaps:
    """One pass over the pixels of two id maps [H, W]: stretches where neither side changes, then sums over those.

    Ids are the lower 24 bits; what stands above them is ignored.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"the prediction is {prediction.shape[1]}×{prediction.shape[0]} pixels, "
            f"the truth {truth.shape[1]}×{truth.shape[0]}"
        )
    left, right = truth.reshape(-1), prediction.reshape(-1)
    begins = np.empty(left.size, dtype=bool)
    begins[0] = True
    np.not_equal(left[1:], left[:-1], out=begins[1:])
    begins[1:] |= right[1:] != right[:-1]
    starts = np.flatnonzero(begins)
    pairs = (left[starts] & ID_BITS).astype(np.int64) << 32 | (right[starts] & ID_BITS)
    order = np.argsort(pairs)
    pairs = pairs[order]
    heads = np.flatnonzero(np.diff(pairs, prepend=-1))
    pixels = np.add.reduceat(np.diff(starts, append=left.size)[order], heads).tolist()
    owners = pairs[heads]
    keys = zip((owners >> 32).tolist(), (owners & ID_BITS).tolist(), strict=True)
    return dict(zip(keys, pixels, strict=True))


def areas(pairs: Overlaps) -> tuple[dict[int, int], dict[int, int]]:
    """id → pixels, for the truth and for the prediction; void included."""
    truth: dict[int, int] = {}
    prediction: dict[int, int] = {}
    for (true_id, predicted_id), pixels in pairs.items():
        truth[true_id] = truth.get(true_id, 0) + pixels
        prediction[predicted_id] = prediction.get(predicted_id, 0) + pixels
    return truth, prediction


def count(
    pairs: Overlaps,
    truth: Iterable[Region],
    prediction: Iterable[Region],
    truth_areas: Mapping[int, int] | None = None,
) -> Counts:
    """One image's counts. Every predicted segment has pixels; one of the truth that has none counts as missed.

    `truth_areas` are areas as a JSON file states them, stale or not, for numbers equal to panopticapi's.
    """
    true_segments = {segment.id: segment for segment in truth}
    predicted = {segment.id: segment for segment in prediction}
    true_areas, predicted_areas = areas(pairs)
    if truth_areas is not None:
        true_areas = dict(truth_areas)
    tallies: dict[tuple[int, str], list[int]] = {}

    def tally(label: int, source: str) -> list[int]:
        return tallies.setdefault((label, source), [0, 0, 0, 0])

    matched: set[int] = set()
    hits: set[int] = set()
    for (true_id, predicted_id), shared in pairs.items():
        target, segment = true_segments.get(true_id), predicted.get(predicted_id)
        if target is None or segment is None or target.crowd or target.label != segment.label:
            continue
        forgiven = pairs.get((VOID, predicted_id), 0)
        union = predicted_areas[predicted_id] + true_areas[true_id] - shared - forgiven
        if 2 * shared > union:  # strictly: a pair at exactly one half is no match
            row = tally(target.label, target.source)
            row[0] += 1
            row[3] += (shared * ONE) // union
            matched.add(true_id)
            hits.add(predicted_id)

    crowds: dict[int, int] = {}  # of several crowds of one class only the last is forgiven, as in panopticapi
    for target in true_segments.values():
        if target.crowd:
            crowds[target.label] = target.id
        elif target.id not in matched:
            tally(target.label, target.source)[2] += 1

    for segment in predicted.values():
        if segment.id in hits:
            continue
        forgiven = pairs.get((VOID, segment.id), 0)
        if segment.label in crowds:
            forgiven += pairs.get((crowds[segment.label], segment.id), 0)
        if 2 * forgiven <= predicted_areas[segment.id]:
            tally(segment.label, _covering_source(segment.id, true_segments, pairs))[1] += 1
    return {key: Count(*row) for key, row in tallies.items()}


def _covering_source(predicted_id: int, truth: Mapping[int, Region], pairs: Overlaps) -> str:
    cover = dict.fromkeys(SOURCES, 0)
    for true_id, target in truth.items():
        cover[target.source] += pairs.get((true_id, predicted_id), 0)
    return max(cover, key=cover.__getitem__)


def add(total: Counts, counts: Mapping[tuple[int, str], Count]) -> None:
    """Adds to `total` in place."""
    for key, row in counts.items():
        before = total.get(key)
        total[key] = Count(*row) if before is None else Count(*map(sum, zip(before, row, strict=True)))


def summarise(
    counts: Counts, names: Mapping[int, str], things: Iterable[int], yours: Iterable[int] = ()
) -> dict[str, Any]:
    """PQ, SQ and RQ of everything, things, stuff, each class and each source of truth, as fractions.

    `names` gives the labels, in the order of the result, their names. `yours` are the labels of the classes that the
    person marks: with any, each row says whether it is one, and the result's `yours` is the mean of theirs, whatever
    the truth's source. A class that neither side has is left out of the means, and out of a source's mean one without
    truth of that source. Where a class has truth of one source alone, all that is invented of it counts against that
    one. What has nothing to average is None.
    """
    thing_labels, your_labels = frozenset(things), frozenset(yours)
    rows = []
    for label, name in names.items():
        row = _class_row(_summed(counts, label, SOURCES))
        whose = {"yours": label in your_labels} if your_labels else {}
        rows.append({"label": label, "name": name, "isthing": label in thing_labels, **whose, **row})
    sources = {}
    for source in SOURCES:
        if with_truth := [_class_row(count) for label in names if (count := _of_source(counts, label, source))]:
            sources[source] = _mean(with_truth)
    return {
        **_mean(rows),
        **({"yours": _mean([row for row in rows if row["label"] in your_labels])} if your_labels else {}),
        "things": _mean([row for row in rows if row["isthing"]]),
        "stuff": _mean([row for row in rows if not row["isthing"]]),
        "per_class": rows,
        "sources": sources,
    }


def _of_source(counts: Counts, label: int, source: str) -> Count | None:
    """What a class's truth of one source met; None without such truth."""
    with_truth = [each for each in SOURCES if (row := counts.get((label, each))) and row.tp + row.fn]
    if source not in with_truth:
        return None
    return _summed(counts, label, SOURCES) if len(with_truth) == 1 else counts[label, source]


def _summed(counts: Counts, label: int, sources: Iterable[str]) -> Count:
    rows = [counts[label, source] for source in sources if (label, source) in counts]
    return Count(*map(sum, zip(*rows, strict=True))) if rows else Count(0, 0, 0, 0)


def _class_row(counted: Count) -> dict[str, Any]:
    tp, fp, fn, iou = counted
    twice = 2 * tp + fp + fn
    # Whole number by whole number: Python rounds that quotient correctly, whatever its size.
    quality = (
        {"pq": 2 * iou / (twice * ONE), "sq": iou / (tp * ONE) if tp else 0.0, "rq": 2 * tp / twice}
        if twice
        else {"pq": None, "sq": None, "rq": None}
    )
    return {**quality, "tp": tp, "fp": fp, "fn": fn}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    present = [row for row in rows if row["pq"] is not None]
    means = {
        key: math.fsum(row[key] for row in present) / len(present) if present else None for key in ("pq", "sq", "rq")
    }
    return {**means, "n": len(present)}
