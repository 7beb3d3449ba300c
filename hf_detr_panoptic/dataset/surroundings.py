"""What the person's things lie on: a crack on concrete alone, pasted anywhere else, would teach what never is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from ..labels import LabelSpace
from ..panoptic_map import Box, Segment

_RING = 3  # pixels around a thing
_LEAST = 10  # things of a class, before anything is said of them
_NEARLY_ALL = 0.95
_MOST = 0.5


def around(
    ids: npt.NDArray[np.int32],
    segments: Iterable[Segment],
    boxes: Mapping[int, Box],
    things: frozenset[int],
) -> list[tuple[int, Counter[int]]]:
    """Of each of these that a person marked, and that is a thing but no crowd: its label and its surroundings."""
    from scipy import ndimage  # check --help need not wait for it

    labels = {segment.id: segment.label for segment in segments}
    found = []
    for segment in segments:
        if segment.source != "custom" or segment.crowd or segment.label not in things or segment.id not in boxes:
            continue
        left, top, width, height = boxes[segment.id]
        crop = ids[
            max(top - _RING, 0) : top + height + _RING,
            max(left - _RING, 0) : left + width + _RING,
        ]
        mask = crop == segment.id
        ring = ndimage.binary_dilation(mask, iterations=_RING) & ~mask
        there, counts = np.unique(crop[ring], return_counts=True)
        pixels = Counter[int]()
        for other, count in zip(there.tolist(), counts.tolist(), strict=True):
            if other in labels:
                pixels[labels[other]] += count
        found.append((segment.label, pixels))
    return found


def always_on_one(
    found: Iterable[tuple[int, Counter[int]]], pixels: Counter[int], space: LabelSpace
) -> list[tuple[str, str, float]]:
    """(class, what nearly all around its things is, which share of it), where that is one class of several.

    pixels: of each label in all photos; what most of them are is around everything.
    """
    of_label: dict[int, list[Counter[int]]] = {}
    for label, ring in found:
        of_label.setdefault(label, []).append(ring)
    told = []
    for label, each in sorted(of_label.items()):
        total = sum(each, Counter[int]())
        if len(each) < _LEAST or not total:
            continue
        below, count = total.most_common(1)[0]
        if count >= _NEARLY_ALL * total.total() and pixels[below] < _MOST * pixels.total():
            told.append((space[label].name, space[below].name, count / total.total()))
    return told
