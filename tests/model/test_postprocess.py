"""Expected maps are worked out by hand, or come from the plain formula: resize all the logits, then argmax."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hf_detr_panoptic.errors import ModelError, RecipeError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model import postprocess as module
from hf_detr_panoptic.model.postprocess import Kept, choose_queries, postprocess, valid_cells
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.settings import Postprocess

pytestmark = pytest.mark.bits

SPACE = LabelSpace([Category("pipe", True), Category("sky", False), Category("crane", True)])


def kept(*labels, scores=None):
    scores = scores or [0.9] * len(labels)
    return Kept(torch.arange(len(labels)), labels, tuple(scores))


def logits_for(rows):
    """One row of probabilities a query, as class logits of one image."""
    return torch.tensor(rows).log()[None]


def halves(*owners):
    """Mask logits +4 in the columns that belong to each query, −4 elsewhere: owners are 'a', 'b', … a column."""
    names = sorted(set("".join(owners)) - {"."})
    return torch.tensor([[[4.0 if cell == name else -4.0 for cell in row] for row in owners] for name in names])


# --- which queries count


def test_queries_above_the_threshold_are_kept_in_order():
    logits = logits_for([[0.9, 0.03, 0.03, 0.04], [0.5, 0.4, 0.05, 0.05], [0.02, 0.02, 0.95, 0.01], [0, 0, 0, 1.0]])
    (chosen,) = choose_queries(logits.clamp(min=-50), SPACE, threshold=0.85)
    assert chosen.queries.tolist() == [0, 2]
    assert chosen.labels == (0, 2)
    assert chosen.scores == pytest.approx((0.9, 0.95))


def test_the_threshold_itself_is_not_enough():
    logits = torch.tensor([[[0.0, 0.0]]])
    space = LabelSpace([Category("pipe", True)])
    assert len(choose_queries(logits, space, threshold=0.5)[0]) == 0
    assert len(choose_queries(logits + torch.tensor([1e-3, 0.0]), space, threshold=0.5)[0]) == 1


def test_a_score_is_compared_in_the_precision_it_was_computed_in():
    score = float(np.float32(0.85))  # a little above Python's 0.85, and not above float32's
    assert score > 0.85
    assert kept(0, 1, scores=[score, 0.9]).indices_above(0.85) == [1]


def test_a_query_whose_best_column_is_a_hole_is_dropped():
    # Columns of a foreign checkpoint: pipe, hole, sky, crane, no object.
    foreign = LabelSpace(SPACE.categories, columns=(0, 2, 3))
    logits = logits_for([[0.3, 0.6, 0.05, 0.025, 0.025], [0.025, 0.025, 0.6, 0.3, 0.05], [0.1, 0.2, 0.1, 0.1, 0.5]])
    (chosen,) = choose_queries(logits, foreign, threshold=0.2)
    assert chosen.queries.tolist() == [1]
    assert chosen.labels == (1,)  # sky sits in column 2 and is label 1
    assert chosen.scores == pytest.approx((0.6,))  # the hole takes its share of the softmax


def test_a_label_space_of_another_checkpoint_is_refused():
    with pytest.raises(ModelError, match="class column 2, the model has 2"):
        choose_queries(torch.zeros(1, 1, 3), SPACE)


def test_nan_logits_are_refused():
    with pytest.raises(ModelError, match="NaN"):
        choose_queries(torch.full((1, 1, 4), math.nan), SPACE)


# --- pixels


def test_each_pixel_goes_to_the_highest_logit_and_unclaimed_ones_are_void():
    masks = halves("aab.", "aab.")
    panoptic = postprocess(kept(0, 2), masks, SPACE, (2, 4), Postprocess(min_area=2))
    assert panoptic.ids.tolist() == [[1, 1, 2, 0], [1, 1, 2, 0]]
    assert [(s.id, s.label, s.source) for s in panoptic.segments] == [(1, 0, "model"), (2, 2, "model")]


def test_argmax_fill_gives_every_pixel_to_someone():
    masks = torch.tensor([[[3.0, -2.0, -5.0]], [[-3.0, -4.0, -1.0]]]).expand(2, 3, 3)
    settings_ = Postprocess(fill="argmax", min_area=0)
    assert postprocess(kept(0, 2), masks, SPACE, (3, 3), settings_).ids[0].tolist() == [1, 1, 2]
    assert postprocess(kept(0, 2), masks, SPACE, (3, 3), Postprocess(min_area=0)).ids[0].tolist() == [1, 0, 0]


def test_mask_threshold_is_a_probability():
    masks = torch.full((1, 2, 2), math.log(0.6 / 0.4))
    assert postprocess(kept(0), masks, SPACE, (2, 2), Postprocess(mask_threshold=0.59)).void_area == 0
    assert postprocess(kept(0), masks, SPACE, (2, 2), Postprocess(mask_threshold=0.61)).void_area == 4
    assert postprocess(kept(0), masks, SPACE, (2, 2), Postprocess(mask_threshold=0.0)).void_area == 0
    assert postprocess(kept(0), masks, SPACE, (2, 2), Postprocess(mask_threshold=1.0)).void_area == 4


def test_nothing_kept_is_all_void():
    panoptic = postprocess(kept(), torch.zeros(0, 4, 4), SPACE, (6, 5))
    assert panoptic.ids.shape == (6, 5)
    assert panoptic.void_area == 30
    assert panoptic.segments == ()


def test_a_query_that_wins_no_pixel_is_not_listed():
    masks = torch.stack([torch.full((2, 2), 5.0), torch.full((2, 2), 1.0)])
    panoptic = postprocess(kept(0, 0), masks, SPACE, (2, 2))
    assert len(panoptic.segments) == 1


# --- stuff


def test_stuff_of_one_class_is_one_segment_and_things_stay_apart():
    masks = halves("abcd", "abcd")
    panoptic = postprocess(kept(1, 0, 1, 0), masks, SPACE, (2, 4), Postprocess(min_area=0))
    assert panoptic.ids[0].tolist() == [1, 2, 1, 3]
    assert [s.label for s in panoptic.segments] == [1, 0, 0]


def test_a_fused_segments_score_is_weighted_by_area():
    masks = halves("aaab", "aaab")
    panoptic = postprocess(kept(1, 1, scores=[0.9, 0.5]), masks, SPACE, (2, 4))
    assert panoptic.segments[0].score == pytest.approx((6 * 0.9 + 2 * 0.5) / 8)


def test_small_pieces_of_stuff_live_on_in_their_fused_whole():
    # The paper's own loop re-argmaxes without the fusing, and so drops these two pieces of three pixels.
    masks = halves("ab", "ab", "ab")
    panoptic = postprocess(kept(1, 1), masks, SPACE, (3, 2), Postprocess(min_area=4))
    assert panoptic.ids.tolist() == [[1, 1], [1, 1], [1, 1]]


# --- fragments


def test_a_fragment_goes_to_the_next_best_mask_that_claims_it():
    masks = torch.tensor([[[2.0, 2.0, 2.0, 2.0]], [[3.0, -3.0, -3.0, -3.0]]]).expand(2, 3, 4)
    panoptic = postprocess(kept(0, 2), masks, SPACE, (3, 4), Postprocess(min_area=4))
    assert (panoptic.ids == 1).all()
    assert [s.label for s in panoptic.segments] == [0]


def test_a_fragment_that_nobody_else_claims_becomes_void():
    masks = torch.tensor([[[-2.0, 2.0, 2.0, 2.0]], [[3.0, -3.0, -3.0, -3.0]]]).expand(2, 3, 4)
    kept_ = kept(0, 2)
    assert postprocess(kept_, masks, SPACE, (3, 4)).ids[:, 0].tolist() == [0, 0, 0]
    assert postprocess(kept_, masks, SPACE, (3, 4), Postprocess(fill="argmax")).ids[:, 0].tolist() == [1, 1, 1]
    assert postprocess(kept_, masks, SPACE, (3, 4), Postprocess(min_area=3)).areas() == {1: 9, 2: 3}


def test_where_all_are_fragments_the_map_is_void():
    panoptic = postprocess(kept(0), torch.ones(1, 1, 1), SPACE, (1, 3))
    assert panoptic.void_area == 3


# --- sizes


def plain(masks, size, fill):
    """The definition, with everything in memory: ids before fusing and fragments."""
    values = functional.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
    best, place = values.max(0)
    return (place + 1).where((best > 0) | torch.tensor(fill == "argmax"), torch.zeros_like(place)).numpy()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 6),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fill=st.sampled_from(["void", "argmax"]),
    band=st.sampled_from([1, 40, 1000, 2**20]),
    far=st.booleans(),  # as on a device that one waits for
    seed=st.integers(0, 1000),
)
def test_row_bands_give_what_the_whole_gives(count, grid, size, fill, band, far, seed):
    masks = torch.randn(count, *grid, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BAND_VALUES", {"cpu": band})
        patch.setattr(module, "_far", lambda device: far)
        panoptic = postprocess(kept(*[0] * count), masks, SPACE, size, Postprocess(min_area=0, fill=fill))
    expected = plain(masks, size, fill)
    scores = dict(enumerate(np.unique(expected[expected > 0]), start=1))
    found = np.vectorize(lambda segment: scores.get(segment, 0))(panoptic.ids)
    assert (found != expected).mean() <= 0.01  # a tie in the last bit may fall either way


def test_an_image_of_a_padded_batch_gives_what_its_crop_gives():
    generator = torch.Generator().manual_seed(0)
    crop = torch.randn(3, 7, 9, generator=generator)
    padded = torch.randn(3, 16, 16, generator=generator) + 5
    padded[:, :7, :9] = crop
    chosen = kept(0, 1, 2)
    alone = postprocess(chosen, crop, SPACE, (50, 70))
    # 26 × 33 pixels on a canvas of 61 × 64 are 7 × 9 of the 16 × 16 cells of stride 4.
    assert postprocess(chosen, padded, SPACE, (50, 70), canvas_size=(61, 64), valid_size=(26, 33)) == alone


@pytest.mark.parametrize(
    ("canvas", "grid", "valid", "cells"),
    [
        ((801, 1333), (201, 334), (800, 1066), (200, 267)),
        ((801, 1333), (201, 334), (801, 1333), (201, 334)),
        ((5, 64), (2, 16), (4, 1), (1, 1)),
        ((64, 64), (32, 16), (33, 33), (17, 9)),
    ],
)
def test_cells_of_the_valid_part(canvas, grid, valid, cells):
    rows, columns = valid_cells(torch.Size(grid), canvas, valid)
    assert (rows.stop, columns.stop) == cells


def test_one_mask_too_many_is_refused():
    with pytest.raises(ModelError, match="2 masks for 1 queries"):
        postprocess(kept(0), torch.zeros(2, 2, 2), SPACE, (2, 2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"threshold": 1.5}, "threshold is 1.5"), ({"min_area": -1}, "min_area"), ({"fill": "viod"}, "void")],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(RecipeError, match=message):
        Postprocess(**setting)


# --- things found twice

TWICE = torch.tensor([[[4.0, 4, 4, -4, -4]], [[6.0, 6, -4, -4, -4]], [[-4.0, -4, -4, 4, 4]]])
"""Of 3 and 2 pixels, 2 of them shared: IoU 2/3. The second mask would win both."""


@pytest.mark.parametrize(("duplicate", "expected"), [(1.0, [2, 2, 1, 3, 3]), (0.7, [2, 2, 1, 3, 3])])
def test_two_things_that_overlap_by_less_stay_two(duplicate, expected):
    made = postprocess(
        kept(0, 0, 0, scores=[0.95, 0.9, 0.9]),
        TWICE,
        SPACE,
        (1, 5),
        Postprocess(min_area=0, duplicate=duplicate),
    )
    assert made.ids.tolist() == [expected]


def test_of_two_things_that_overlap_by_more_the_surer_one_stays_with_all_its_pixels():
    settings = Postprocess(min_area=0, duplicate=0.6)
    made = postprocess(kept(0, 0, 0, scores=[0.95, 0.9, 0.9]), TWICE, SPACE, (1, 5), settings)
    assert made.ids.tolist() == [[1, 1, 1, 2, 2]]
    made = postprocess(kept(0, 0, 0, scores=[0.9, 0.95, 0.9]), TWICE, SPACE, (1, 5), settings)
    assert made.ids.tolist() == [[1, 1, 0, 2, 2]]


def test_things_of_two_classes_and_stuff_are_never_duplicates():
    settings = Postprocess(min_area=0, duplicate=0.1)
    made = postprocess(kept(0, 2, 0), TWICE, SPACE, (1, 5), settings)
    assert made.ids.tolist() == [[2, 2, 1, 3, 3]]
    made = postprocess(kept(1, 1, 0), TWICE, SPACE, (1, 5), settings)
    assert made.ids.tolist() == [[1, 1, 1, 2, 2]]


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("fill", ["void", "argmax"])
def test_what_was_counted_while_a_map_was_made_passes_the_check_of_any_map(fill, far, monkeypatch):
    """Maps are made without that check: every id listed, every segment with pixels, whatever is fused or too small."""
    monkeypatch.setattr(module, "_far", lambda device: far)
    for seed in range(20):
        masks = torch.randn(6, 5, 7, generator=torch.Generator().manual_seed(seed))
        found = postprocess(kept(0, 1, 1, 2, 0, 2), masks, SPACE, (23, 31), Postprocess(fill=fill, min_area=60))
        again = PanopticMap(found.ids.copy(), found.segments, SPACE)
        assert found.areas() == again.areas()
        assert not found.ids.flags.writeable
