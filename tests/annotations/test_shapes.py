"""Shapes and the pixels they cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.shapes import Canvas, Ellipse, Pixels, Polygons, Rectangle, Runs, Several, rasterised
from hf_detr_panoptic.errors import AnnotationError

SAME = Canvas(8, 6, 8, 6)
DOUBLE = Canvas(16, 12, 8, 6)


def pixels(shape, canvas=SAME):
    return coco_mask.decode(rasterised(shape, canvas, "here")[0])


def test_a_circle_has_the_pixels_whose_centres_it_holds():
    # Radius 1.5 about (3, 3): centres at 0.5 and 1.5 from there, √(1.5² + 0.5²) = 1.58 is too far.
    drawn = pixels(Ellipse(3, 3, 1.5, 1.5))
    assert drawn.sum() == 4
    assert drawn[2:4, 2:4].all()


def test_an_ellipse_turned_by_ninety_degrees_stands_upright():
    lying, standing = pixels(Ellipse(4, 3, 3, 1)), pixels(Ellipse(4, 3, 1, 3, rotation=90), SAME)
    assert np.array_equal(lying, standing)
    assert not np.array_equal(lying, pixels(Ellipse(4, 3, 1, 3)))


def test_an_ellipse_turns_clockwise_on_the_screen():
    # From upper left to lower right: y grows downwards.
    drawn = pixels(Ellipse(4, 3, 3, 0.8, rotation=45))
    assert drawn[1, 2]
    assert drawn[4, 5]
    assert not drawn[4, 2]


def test_far_corners_cost_nothing():
    # Half of the plane, right of x = 4: pycocotools would walk along its edges for a million pixels.
    assert np.array_equal(pixels(Polygons([[4, -1e6, 4, 1e6, 1e7, 0]])), np.arange(8) >= 4 + np.zeros((6, 1)))
    assert pixels(Polygons([[-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6]])).all()


def test_an_outline_that_jumps_about_is_refused():
    # 80,000 points from side to side of 24 MP killed the process; 500 are read as pycocotools reads them.
    big = Canvas(6000, 4000, 6000, 4000)
    there_and_back = [value for n in range(40_000) for value in (0, n % 4000, 6000, (n * 7) % 4000)]
    with pytest.raises(AnnotationError, match="outline of 80,000 points is 4"):
        rasterised(Polygons([there_and_back]), big, "here")
    with pytest.raises(AnnotationError, match="jumps across the photo"):
        rasterised(Several(tuple(Polygons([there_and_back[n : n + 4000]] * 10) for n in (0, 4000))), big, "here")
    ring = there_and_back[:1000]
    assert (
        rasterised(Polygons([ring]), big, "here")[0]["counts"]
        == coco_mask.frPyObjects([ring], 4000, 6000)[0]["counts"]
    )


@given(st.lists(st.tuples(st.floats(-30, 40), st.floats(-30, 40)), min_size=3, max_size=8))
def test_cutting_far_corners_changes_no_pixel_away_from_the_edges(points):
    ring = [value for point in points for value in point]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring], 6, 8)))
    try:
        found = pixels(Polygons([ring]))
    except AnnotationError:
        found = np.zeros((6, 8))
    centres = np.stack(np.meshgrid(np.arange(8) + 0.5, np.arange(6) + 0.5), axis=-1)
    closed = [*points, points[0]]
    near = np.zeros((6, 8), dtype=bool)
    for start, end in zip(np.array(closed[:-1]), np.array(closed[1:]), strict=True):
        along = end - start
        share = np.clip(((centres - start) @ along) / max(along @ along, 1e-9), 0, 1)
        near |= np.linalg.norm(centres - start - share[..., None] * along, axis=-1) < 1.2
    assert np.array_equal(found[~near], expected[~near])


def test_marks_are_scaled_to_a_resized_photo():
    ring = Polygons([[1, 1, 5, 1, 5, 4, 1, 4]])
    doubled = np.kron(pixels(ring), np.ones((2, 2)))
    assert np.array_equal(pixels(ring, DOUBLE), doubled)
    assert np.array_equal(pixels(Pixels(pixels(ring).astype(bool)), DOUBLE), doubled)
    assert np.array_equal(pixels(Runs(rasterised(ring, SAME, "here")[0]), DOUBLE), doubled)
    assert rasterised(Rectangle(1, 1, 4, 3), DOUBLE, "here") == (None, (2, 2, 8, 6))
    assert np.array_equal(pixels(Ellipse(3, 3, 2, 2), DOUBLE), pixels(Ellipse(6, 6, 4, 4), Canvas(16, 12, 16, 12)))


def test_parts_are_united():
    shape = Several((Pixels(np.ones((2, 2), bool)), Rectangle(4, 4, 2, 2), Polygons([[0, 0]])))
    assert np.argwhere(pixels(shape)).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [4, 4], [4, 5], [5, 4], [5, 5]]


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (Polygons([]), "covers no pixel"),
        (Polygons([[1, 1, 5, 1, 3, 1]]), "covers no pixel"),
        (Polygons([[9, 0, 12, 0, 12, 5]]), "wholly outside"),
        (Rectangle(0, 6, 8, 3), "wholly outside"),
        (Rectangle(2, 2, -1, 3), "covers no pixel"),
        (Ellipse(3, 3, 0, 2), "covers no pixel"),
        (Ellipse(30, 30, 2, 2), "covers no pixel"),
        (Pixels(np.zeros((2, 2), bool)), "covers no pixel"),
        (Pixels(np.ones((2, 2), bool), 9, 9), "covers no pixel"),
    ],
)
def test_nothing_is_an_error(shape, what):
    with pytest.raises(AnnotationError, match=what):
        rasterised(shape, SAME, "here")
