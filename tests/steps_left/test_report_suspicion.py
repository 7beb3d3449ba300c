"""Why a photo is suspicious, each reason by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.steps.report.suspicion import suspicions

SPACE = LabelSpace([Category("pipe", True), Category("car", True), Category("sky", False)])
LABELER = LabelSpace([Category("car", True), Category("sky", False), Category("truck", True)])


def rows(*widths: tuple[int, int]) -> np.ndarray:
    """(id, rows) from top to bottom, 100 wide."""
    return np.concatenate([np.full((height, 100), segment_id) for segment_id, height in widths])


def test_nothing_is_suspicious_about_a_good_photo() -> None:
    good = PanopticMap(rows((1, 60), (2, 40)), [Segment(1, 2, 0.97, "auto"), Segment(2, 0)], SPACE)
    assert suspicions(good) == []


def test_what_the_map_says_by_itself() -> None:
    ids = rows((1, 50), (0, 30), (2, 20))
    ids[0, :12] = 3
    segments = [Segment(1, 2, 0.99, "auto"), Segment(2, 1, 0.6, "auto"), Segment(3, 0)]
    found = suspicions(PanopticMap(ids, segments, SPACE))
    assert [(reason.kind, reason.text) for reason in found] == [
        ("low score", "the labeler is unsure of 1 segment: car 60%"),  # 2 × 0.4 × √0.2 = 0.36
        ("much void", "30% of the pixels are void"),
        ("tiny pieces", "tiny: 1 segment: pipe 12 px"),
    ]
    assert found[0].points == pytest.approx(0.3578, abs=1e-4)
    assert found[1].points == pytest.approx(0.3)


def test_an_empty_map_is_the_most_suspicious() -> None:
    (only,) = suspicions(PanopticMap(rows((0, 100)), [], SPACE))
    assert (only.kind, only.points) == ("no segment", 1.0)


@pytest.mark.parametrize(("covered", "suspicious"), [(2, False), (20, True), (38, False)])
def test_a_thing_that_marks_cut_in_two(covered: int, suspicious: bool) -> None:
    """The labeler's truck has 40 rows, of which the person's pipe takes so many."""
    answer = PanopticMap(rows((1, 60), (2, 40)), [Segment(1, 1, 0.9), Segment(2, 2, 0.96)], LABELER)
    marked = PanopticMap(rows((1, 100 - covered), (2, covered)), [Segment(1, 2, 0.95, "auto"), Segment(2, 0)], SPACE)
    found = suspicions(marked, answer)
    assert bool(found) == suspicious
    if suspicious:
        assert found[0].text == "marks (pipe) cover 50% of a truck that the labeler is 96% sure of"
        assert found[0].kind == "marks against labeler"


def test_a_mark_that_the_labeler_knows_better() -> None:
    answer = PanopticMap(rows((1, 60), (2, 40)), [Segment(1, 1, 0.9), Segment(2, 2, 0.96)], LABELER)
    marked = PanopticMap(rows((1, 60), (2, 40)), [Segment(1, 2, 0.95, "auto"), Segment(2, 1)], SPACE)
    assert [reason.text for reason in suspicions(marked, answer)] == [
        "marked car, and the labeler is 96% sure of truck"
    ]
    unsure = PanopticMap(answer.ids, [Segment(1, 1, 0.9), Segment(2, 2, 0.7)], LABELER)
    assert suspicions(marked, unsure) == []
    other_size = PanopticMap(answer.ids[:50], [Segment(1, 1, 0.9)], LABELER)
    assert suspicions(marked, other_size) == []
