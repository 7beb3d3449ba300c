"""Focal and dice, against stock's formulas and numeric derivatives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss

from hf_detr_panoptic.model import criterion as mask_loss
from hf_detr_panoptic.model.criterion import mask_losses
from hf_detr_panoptic.model.matcher import Matching
from hf_detr_panoptic.model.targets import Targets

pytestmark = pytest.mark.bits


def blocks(height, width, segments, seed=0):
    """An id map of random 3 × 3 blocks, 0 among them."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, segments + 1, (height // 3 + 1, width // 3 + 1), generator=random, dtype=torch.int32)
    return coarse.repeat_interleave(3, 0).repeat_interleave(3, 1)[:height, :width]


def targets_and_pairs(maps, pairs):
    """`pairs`: (image, place) of each mask; queries do not matter here."""
    labels = [
        {
            "class_labels": torch.zeros(int(ids.max()), dtype=torch.long),
            "boxes": torch.full((int(ids.max()), 4), 0.5),
            "panoptic": ids,
            "segment_ids": torch.arange(1, int(ids.max()) + 1),
        }
        for ids in maps
    ]
    targets = Targets.from_labels(labels, num_labels=1, canvas=tuple(maps[0].shape), device="cpu")
    image, place = torch.tensor(pairs).T
    counts = tuple(sum(i == index for i, _ in pairs) for index in range(len(maps)))
    return targets, Matching(image, place, place, place, counts=counts, surplus=0)


MAPS = [blocks(21, 30, 3, seed=1), blocks(21, 30, 2, seed=2)]
PAIRS = [(0, 2), (0, 0), (0, 1), (1, 1)]
TRUTH = torch.stack([MAPS[image] == place + 1 for image, place in PAIRS]).double()
COUNTED = torch.stack([MAPS[image] > 0 for image, _ in PAIRS])


def logits_of(seed=3, spread=4.0):
    return torch.randn(4, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("everywhere", [True, False])
def test_values_and_gradients_are_those_of_stock(everywhere):
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    weights = torch.tensor([[1.0, 2.0, 0.5, 1.5], [0.7, 1.0, 3.0, 0.2]], dtype=torch.float64)
    results = []
    for ours in (True, False):
        logits = logits_of().requires_grad_()
        if ours:
            focal, dice = mask_losses(logits, targets, matching, everywhere)
        else:
            large = interpolate(logits[None], size=(21, 30), mode="bilinear", align_corners=False)[0]
            # Stock knows no void: hand it the pixels that count.
            chosen = torch.ones_like(COUNTED) if everywhere else COUNTED
            cut = [(large[k][chosen[k]][None], TRUTH[k][chosen[k]][None]) for k in range(4)]
            focal = torch.stack([sigmoid_focal_loss(*pair, 1) for pair in cut])
            dice = torch.stack([dice_loss(*pair, 1) for pair in cut])
        (focal @ weights[0] + dice @ weights[1]).backward()
        results.append((focal, dice, logits.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_gradients_are_derivatives():
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    logits = logits_of().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mask_losses(x, targets, matching), logits)


def test_extreme_logits_stay_finite():
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    for spread in (60.0, 1e4):
        logits = logits_of(spread=spread).float().requires_grad_()
        focal, dice = mask_losses(logits, targets, matching)
        (focal.sum() + dice.sum()).backward()
        assert focal.isfinite().all()
        assert dice.isfinite().all()
        assert logits.grad.isfinite().all()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("pixels", [1, 21 * 30 * 2, 21 * 30 * 3, 10**9])
def test_the_size_of_chunks_does_not_matter(pixels, everywhere, together, monkeypatch):
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    results = []
    for changed in (False, True):
        if changed:
            monkeypatch.setitem(mask_loss._PIXELS_AT_ONCE, "cpu", pixels)
            monkeypatch.setattr(mask_loss, "few_launches", lambda device: together)
        logits = logits_of().requires_grad_()
        focal, dice = mask_losses(logits, targets, matching, everywhere)
        (focal.sum() + 2 * dice.sum()).backward()
        results.append((focal, dice, logits.grad))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_nothing_of_full_size_is_kept_for_the_backward():
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        mask_losses(logits_of().requires_grad_(), targets, matching)
    assert sum(kept) == 2 * 4 * 6 * 8


def test_half_precision_logits_are_measured_in_fp32():
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    half = logits_of().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        focal, dice = mask_losses(half, targets, matching)
        (focal.sum() + dice.sum()).backward()
    full = half.detach().float().requires_grad_()
    for found, expected in zip((focal, dice), mask_losses(full, targets, matching), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    sum(x.sum() for x in mask_losses(full, targets, matching)).backward()
    torch.testing.assert_close(half.grad, full.grad.bfloat16())


def test_autocast_changes_nothing():
    targets, matching = targets_and_pairs(MAPS, PAIRS)
    results = []
    for enabled in (True, False):
        logits = logits_of().float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            focal, dice = mask_losses(logits, targets, matching)
            (focal.sum() + dice.sum()).backward()
        results.append((focal, dice, logits.grad))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_crowd_over_a_mask_is_left_out_of_it():
    """HF's masks may overlap: the pixels that mask and crowd share must not matter."""
    mask = torch.zeros(12, 16, dtype=torch.bool)
    mask[:, :8] = True
    crowd = torch.zeros(12, 16, dtype=torch.bool)
    crowd[:, 4:10] = True
    losses = []
    for masks in ((mask, crowd), (mask & ~crowd, crowd), (mask | crowd, crowd)):
        label = {
            "class_labels": torch.tensor([0, 0]),
            "boxes": torch.full((2, 4), 0.5),
            "masks": torch.stack(masks),
            "iscrowd": torch.tensor([0, 1]),
        }
        targets = Targets.from_labels([label], num_labels=1, canvas=(12, 16), device="cpu")
        one = torch.zeros(1, dtype=torch.long)
        logits = logits_of()[:1, :3, :4].clone().requires_grad_()
        focal, dice = mask_losses(logits, targets, Matching(one, one, one, one, counts=(1,), surplus=0))
        (focal + dice).backward()
        losses.append((focal, dice, logits.grad))
    for others in losses[1:]:
        assert all(torch.equal(a, b) for a, b in zip(losses[0], others, strict=True))


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.floats(1, 8), st.floats(1, 8)),
)
def test_shrinking_is_the_transpose_of_enlarging(small, factor):
    large = [max(1, round(n * f)) for n, f in zip(small, factor, strict=True)]
    logits = torch.zeros(1, 1, *small, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(1, 1, *large, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (interpolate(logits, size=large, mode="bilinear", align_corners=False) * slopes).sum().backward()
    rows, columns = (
        mask_loss._enlarging(logits[0].detach(), dimension, size)
        for dimension, size in zip((-2, -1), large, strict=True)
    )
    torch.testing.assert_close(mask_loss._shrink(slopes, rows, columns), logits.grad)
