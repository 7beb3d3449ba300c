"""Labels: in the widest part of their own segment, and never over one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_detr_panoptic.pictures.draw import Wanted, inscribed_points, place_labels


def test_the_widest_part_of_an_l():
    places = np.zeros((100, 100), dtype=np.uint8)
    places[:, :10] = 1
    places[60:, :40] = 1  # the foot is 40×40: its middle is (20, 80)
    (point,), (radius,) = inscribed_points(places, 1)
    assert abs(point - (20, 80)).max() <= 1
    assert radius == pytest.approx(20, abs=1.5)


def test_a_ring_is_labelled_on_the_ring():
    y, x = np.mgrid[:400, :400]
    far = np.hypot(y - 200, x - 200)
    places = np.where(far < 150, 1, 0)
    places[far < 90] = 2
    points, radii = inscribed_points(places.astype(np.uint8), 2)
    ring, hole = points
    assert 90 < np.hypot(*(ring - 200)) < 150
    assert np.hypot(*(hole - 200)) < 4
    assert radii == pytest.approx([30, 90], abs=4)


def test_the_pictures_edge_is_a_border():
    (point,), (radius,) = inscribed_points(np.ones((50, 90), dtype=np.uint8), 1)
    assert 24 <= point[0] <= 65
    assert abs(point[1] - 24.5) <= 1
    assert radius == pytest.approx(25, abs=1.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 40), st.integers(0, 10**6))
def test_points_lie_in_their_segments(height, width, count, seed):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, count + 1, (height // 30 + 1, width // 30 + 1)).repeat(30, 0).repeat(30, 1)
    places = places[:height, :width].astype(np.uint32)
    points, radii = inscribed_points(places, count)
    for place, ((x, y), radius) in enumerate(zip(points, radii, strict=True), start=1):
        if radius:
            assert places[y, x] == place
        else:
            assert (places == place).sum() < 30 * 30


def test_the_second_steps_aside_and_the_third_goes_without():
    wanted = [Wanted((50, 50), 40.0, 9000, [("pipe", 12)]) for _ in range(20)]
    placed = place_labels(wanted, 100, 100)
    assert [label.wanted for label in placed] == list(range(len(placed)))
    assert 2 <= len(placed) < 20
    assert placed[0].y + placed[0].plate.shape[0] // 2 == pytest.approx(50, abs=1)


def test_shorter_texts_come_next():
    room = Wanted((100, 50), 12.0, 2000, [("a very long name", 12), ("7", 12), ("8", 12)])
    (placed,) = place_labels([room], 200, 100)
    (alone,) = place_labels([Wanted((100, 50), 12.0, 2000, [("7", 12)])], 200, 100)
    assert placed.plate is alone.plate
    assert place_labels([Wanted((100, 50), 3.0, 2000, [("7", 12)])], 200, 100) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 300), st.integers(5, 300), st.integers(0, 10**6))
def test_labels_never_overlap_and_never_leave_the_picture(width, height, seed):
    rng = np.random.default_rng(seed)
    wanted = [
        Wanted(
            (int(rng.integers(width)), int(rng.integers(height))),
            float(rng.uniform(0, 60)),
            int(rng.integers(1, 5000)),
            [("brick stack", 12), ("3", 10)],
        )
        for _ in range(40)
    ]
    taken = np.zeros((height, width), dtype=int)
    for label in place_labels(wanted, width, height):
        h, w = label.plate.shape[:2]
        assert 0 <= label.x <= width - w
        assert 0 <= label.y <= height - h
        taken[label.y : label.y + h, label.x : label.x + w] += 1
    assert taken.max() <= 1
