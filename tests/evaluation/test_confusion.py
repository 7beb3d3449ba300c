"""The confusion table, counted by hand."""

from __future__ import annotations

import numpy as np

from hf_detr_panoptic.evaluation.quality import Confusion, image_confusions
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment

SPACE = LabelSpace([Category("pipe", True), Category("sky", False), Category("car", True)])


def a_map(row, segments):
    return PanopticMap(np.array([[int(digit) for digit in row]]), [Segment(*entry) for entry in segments], SPACE)


# truth: pipe 1 (4 px), sky 2 (4 px), car 3 (2 px), void (4 px), crowd of cars 4 (3 px)
TRUTH = PanopticMap(
    np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0, 0, 0, 4, 4, 4]]),
    [Segment(1, 0), Segment(2, 1), Segment(3, 2), Segment(4, 2, crowd=True)],
    SPACE,
)


def test_each_fate_once():
    # The pipe is seen as a car, the car as a pipe; what lies on void or on the crowd is excused.
    prediction = a_map("11112226660555777", [(1, 2), (2, 1), (5, 0), (6, 0), (7, 0)])
    table = Confusion(SPACE).add(image_confusions(prediction, TRUTH)).compute()
    assert table["names"] == ["pipe", "sky", "car"]
    assert table["matched"] == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert table["missed"] == [0, 0, 0]
    assert table["invented"] == [0, 0, 0]
    # Too small a pipe over the car: one of two pixels is exactly one half, which is no match.
    smaller = a_map("11112222060000000", [(1, 2), (2, 1), (6, 0)])
    table = Confusion(SPACE).add(image_confusions(smaller, TRUTH)).compute()
    assert table["missed"] == [0, 0, 1]
    assert table["invented"] == [1, 0, 0]


def test_two_images_and_the_worst():
    counts = image_confusions(a_map("11110000000000000", [(1, 2)]), TRUTH)
    both = Confusion(SPACE).add(counts).add(counts)
    assert both.worst() == [("pipe", "car", 2)]
    assert both.compute()["missed"] == [0, 2, 2]
