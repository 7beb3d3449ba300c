"""Each kind of fault, painted where it is and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.errors import ImageError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.pictures.panels import FAULTS, INVENTED, MISSED, OUTLINE, WRONG, difference

SPACE = LabelSpace([Category("pipe", True), Category("ground", False), Category("car", True)])
BLOCK = 40


def a_map(row: str, segments: list[Segment]) -> PanopticMap:
    """A digit is a block of 40 × 40 pixels."""
    ids = np.repeat(np.repeat(np.array([[int(digit) for digit in row]]), BLOCK, axis=0), BLOCK, axis=1)
    return PanopticMap(ids, segments, SPACE)


def kind_at(picture: Image.Image, place: int) -> int | None:
    """The fault whose colour a block has, at its most coloured pixels; None for grey."""
    block = np.asarray(picture)[:, place * BLOCK : (place + 1) * BLOCK].reshape(-1, 3).astype(int)
    found = {kind for kind, (_, color, _) in FAULTS.items() if (abs(block - color).max(axis=1) <= 1).any()}
    assert len(found) <= 1
    return next(iter(found), None)


def grey_at(picture: Image.Image, place: int) -> bool:
    block = np.asarray(picture)[:, place * BLOCK : (place + 1) * BLOCK].astype(int)
    return bool((block.max(axis=2) - block.min(axis=2)).max() == 0)


def test_each_fault_is_where_it_is() -> None:
    # block:        0 right, 1 missed, 2 of another class, 3 void of the truth, 4 invented over the ground,
    #               5 and 6 the ground; 7 and 8 a pipe of which too little is found
    truth = a_map("123066677", [Segment(1, 0), Segment(2, 0), Segment(3, 0), Segment(6, 1), Segment(7, 0)])
    found = a_map("103049966", [Segment(1, 0), Segment(3, 2), Segment(4, 2), Segment(9, 1), Segment(6, 0)])
    picture = difference(Image.new("RGB", (9 * BLOCK, BLOCK), "grey"), truth, found, {1: 1, 3: 3, 6: 9})
    kinds = [kind_at(picture, place) for place in range(9)]
    assert kinds == [None, MISSED, WRONG, None, INVENTED, None, None, OUTLINE, OUTLINE]
    assert all(grey_at(picture, place) for place in (0, 3, 5, 6))
    pixels = np.asarray(picture)
    assert pixels[:, 3 * BLOCK + 5].mean() < 0.6 * pixels[:, 5].mean()  # what nobody knows is darker


def test_crowds_and_what_lies_on_them_are_nobodys_fault() -> None:
    truth = a_map("11222", [Segment(1, 1), Segment(2, 2, crowd=True)])
    found = a_map("11333", [Segment(1, 1), Segment(3, 2)])
    picture = difference(Image.new("RGB", (5 * BLOCK, BLOCK), "grey"), truth, found, {1: 1}, excused={3})
    assert all(grey_at(picture, place) for place in range(5))


def test_faults_are_named_where_there_is_room() -> None:
    big = PanopticMap(np.full((300, 300), 1), [Segment(1, 0)], SPACE)
    nothing = PanopticMap(np.zeros((300, 300), dtype=np.int32), [], SPACE)
    photo = Image.new("RGB", (300, 300), "grey")
    named = np.asarray(difference(photo, big, nothing, {}))
    nameless = np.asarray(difference(photo.resize((12, 12)), *(shrunk(side, 12) for side in (big, nothing)), {}))
    assert (named[140:160].max(axis=2) < 40).any()  # the dark plate of a label, in the middle
    assert not (nameless.max(axis=2) < 40).any()


def shrunk(map: PanopticMap, side: int) -> PanopticMap:
    return PanopticMap(map.ids[:side, :side], map.segments, map.space)


def test_sizes_must_agree() -> None:
    one, two = (PanopticMap(np.ones((h, 8), dtype=np.int32), [Segment(1, 0)], SPACE) for h in (8, 9))
    with pytest.raises(ImageError, match="8×8, 8×8 and 8×9"):
        difference(Image.new("RGB", (8, 8)), one, two, {})
