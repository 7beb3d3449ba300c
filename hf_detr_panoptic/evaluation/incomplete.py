"""Photos that are incomplete for some classes: what is left of prediction and truth before anything is counted.

Nobody may have looked for these classes there. What is predicted of them is neither right nor wrong, and asks nothing
of the truth below it: its pixels become void on both sides, and a segment of the truth that lies there by more than
half is void altogether, for it may be the labeler's name for the same object. The truth's own segments of these
classes are void. Then the paper's rules hold.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from ..dataset.writer import encode_ids
from ..panoptic_map import PanopticMap
from .metric.annotations import words_of_png
from .metric.counting import ID_BITS, VOID

PngAndInfo = tuple[bytes, list[dict[str, Any]]]
"""A PNG of ids and its `segments_info`."""


def left_out(
    prediction: PanopticMap, truth: PanopticMap, incomplete: Collection[str]
) -> tuple[PanopticMap, PanopticMap]:
    """Prediction and truth without these classes."""
    ours, theirs = (
        {segment.id for segment in side.segments if side.space[segment.label].name in incomplete}
        for side in (prediction, truth)
    )
    if not (ours or theirs) or prediction.ids.shape != truth.ids.shape:
        return prediction, truth
    predicted, true, gone = _voided(prediction.ids, truth.ids, ours, theirs)
    kept = [segment for segment in prediction.segments if segment.id not in ours]
    left = [segment for segment in truth.segments if segment.id not in gone]
    return PanopticMap(predicted, kept, prediction.space), PanopticMap(true, left, truth.space)


def png_left_out(
    truth: PngAndInfo, prediction: PngAndInfo, categories: Collection[int]
) -> tuple[PngAndInfo, PngAndInfo]:
    """The same for truth and prediction as files hold them; the truth's stated areas lose what its pixels lose."""
    theirs, ours = (
        {int(entry["id"]) for entry in info if entry.get("category_id") in categories and "id" in entry}
        for _, info in (truth, prediction)
    )
    true, predicted = (words_of_png(png) & ID_BITS for png, _ in (truth, prediction))
    if not (ours or theirs) or true.shape != predicted.shape:
        return truth, prediction
    now_predicted, now_true, gone = _voided(predicted, true, ours, theirs)
    left = []
    for entry in truth[1]:
        if entry.get("id") not in gone:
            lost = int(np.count_nonzero((true == entry.get("id")) & (now_true == VOID)))
            left.append({**entry, "area": entry["area"] - lost} if lost and entry.get("area") else entry)
    kept = [entry for entry in prediction[1] if entry.get("id") not in ours]
    return (encode_ids(now_true), left), (encode_ids(now_predicted), kept)


def _voided(
    predicted: npt.NDArray[np.int32], true: npt.NDArray[np.int32], ours: set[int], theirs: set[int]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], set[int]]:
    """Both id maps without the segments `ours` and `theirs`, and the ids that are gone from the truth."""
    hidden = np.isin(predicted, list(ours))
    areas, below = (
        dict(zip(*(found.tolist() for found in np.unique(ids, return_counts=True)), strict=True))
        for ids in (true, true[hidden])
    )
    covered = {number for number, area in areas.items() if number != VOID and 2 * below.get(number, 0) > area}
    gone = theirs | covered
    return np.where(hidden, VOID, predicted), np.where(hidden | np.isin(true, list(gone)), VOID, true), gone
