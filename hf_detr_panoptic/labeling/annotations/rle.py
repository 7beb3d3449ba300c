"""COCO's run-length encoding, checked before pycocotools (C, which trusts every byte) sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import AnnotationError
from .values import shown

MOST_PIXELS = 2**29  # pycocotools counts in 32 bits; a photo of this size would be 23,000 pixels square


def checked_rle(encoded: Any, where: str) -> dict[str, Any]:
    """A compressed or uncompressed RLE as a compressed one whose runs fill its size exactly."""
    from pycocotools import mask as coco_mask

    size = encoded.get("size") if isinstance(encoded, dict) else None
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    ):
        raise AnnotationError(f"the RLE has the size {size!r}", where=where, fix="It is [height, width] in pixels.")
    height, width = size
    if height * width > MOST_PIXELS:
        raise AnnotationError(f"the RLE is {width}×{height} pixels large", where=where)
    counts = encoded.get("counts")
    if isinstance(counts, str | bytes):
        runs = _unpack(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts, where)
    elif isinstance(counts, list):
        runs = counts_of(counts, where)
    else:
        raise AnnotationError("the RLE has no counts", where=where)
    if runs.size and int(runs.min()) < 0:
        raise AnnotationError("the RLE has negative counts", where=where)
    if (total := int(runs.sum())) != height * width:
        raise AnnotationError(
            f"the RLE's counts add up to {total:,}, not to the {height * width:,} pixels of {width}×{height}",
            where=where,
            fix="Export it again: the mask and the photo's size come from different versions.",
        )
    return coco_mask.frPyObjects({"size": [height, width], "counts": _joined(runs).tolist()}, height, width)


def encode(mask: npt.NDArray[np.bool_], height: int, width: int, left: int = 0, top: int = 0) -> dict[str, Any]:
    """mask: bool [h, w] at (left, top) of a photo → COCO RLE over the photo; what lies outside is cut off."""
    from pycocotools import mask as coco_mask

    full = np.zeros((height, width), dtype=np.uint8, order="F")
    x, y = max(left, 0), max(top, 0)
    part = mask[y - top : max(height - top, 0), x - left : max(width - left, 0)]
    full[y : y + part.shape[0], x : x + part.shape[1]] = part
    return coco_mask.encode(full)


def counts_of(values: Sequence[Any], where: str) -> npt.NDArray[np.int64]:
    """int64 [N], or an error where a count is a string, a fraction, negative or absurdly large."""
    for value in values:
        if type(value) is not int or not 0 <= value <= MOST_PIXELS:
            raise AnnotationError(f"the RLE has {shown(value)} among its counts", where=where)
    return np.asarray(values, dtype=np.int64)


def _unpack(text: bytes, where: str) -> npt.NDArray[np.int64]:
    """COCO's string of 6-bit characters → runs: 5 bits of value each, the sixth says that more follow."""
    chars = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    bad = AnnotationError("the RLE's string is damaged", where=where, fix="Export it again.")
    if not chars.size or chars.min() < 0 or chars.max() > 63 or chars[-1] & 32:
        raise bad
    ends = np.flatnonzero(~chars & 32)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise bad
    place = np.arange(chars.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((chars & 31) << (5 * place), starts)
    runs -= np.where(chars[ends] & 16, np.int64(1) << (5 * lengths), 0)  # the last character carries the sign
    # From the fourth run on each is stored as its difference from the run before last.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if np.abs(runs).max() > MOST_PIXELS:
        raise bad
    return runs


def _joined(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same pixels without empty runs inside, which pycocotools' boxes get wrong."""
    if not (runs[1:] == 0).any():
        return runs
    ends = np.cumsum(runs)
    inside = np.arange(runs.size) % 2 == 1
    kept = runs > 0
    ends, inside = ends[kept], inside[kept]
    last = np.append(inside[1:] != inside[:-1], True)
    joined = np.diff(ends[last], prepend=0)
    return np.append(0, joined) if inside[0] else joined
