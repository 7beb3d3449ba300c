"""Run-length encodings, checked against pycocotools' own on random masks, and fuzzed where it would crash."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.shapes import checked_rle, encode
from hf_detr_panoptic.errors import AnnotationError

masks = numpy_strategies.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(masks)
def test_compressed_rle_is_kept(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert checked_rle(rle, "here") == rle
    assert checked_rle({"size": list(mask.shape), "counts": rle["counts"].decode()}, "here") == rle


@given(masks, st.data())
def test_uncompressed_rle_with_empty_runs_means_the_same_pixels(mask, data):
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0] if flat[0] else [], [0], edges, [flat.size]])).astype(int).tolist()
    place = data.draw(st.integers(0, len(counts)))
    if place < len(counts):
        part = data.draw(st.integers(0, counts[place]))
        counts[place : place + 1] = [part, 0, counts[place] - part]
    rle = checked_rle({"size": list(mask.shape), "counts": counts}, "here")
    assert np.array_equal(coco_mask.decode(rle), mask)
    assert rle == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def test_long_runs_survive():
    # 2,000,000 pixels outside and 3 inside: five characters, beyond what 16 bits hold.
    rle = checked_rle({"size": [2001, 1000], "counts": [2_000_000, 3, 997]}, "here")
    assert checked_rle({"size": [2001, 1000], "counts": rle["counts"]}, "here") == rle
    assert coco_mask.area(rle) == 3


@given(st.binary(max_size=60), st.integers(1, 50), st.integers(1, 50))
def test_any_bytes_are_a_mask_or_an_error(text, height, width):
    try:
        rle = checked_rle({"size": [height, width], "counts": text}, "here")
    except AnnotationError:
        return
    assert coco_mask.decode(rle).shape == (height, width)


@given(masks, st.integers(-50, 50), st.integers(-50, 50))
def test_a_mask_is_placed_and_cut(mask, left, top):
    full = np.zeros((140, 140), dtype=bool)
    full[50 + top : 50 + top + mask.shape[0], 50 + left : 50 + left + mask.shape[1]] = mask
    assert np.array_equal(coco_mask.decode(encode(mask, 30, 20, left, top)), full[50:80, 50:70])
