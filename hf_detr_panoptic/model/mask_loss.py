"""Focal and dice loss of the matched masks at full resolution, without keeping anything of full resolution.

Both losses are known pair by pair, so the forward pass computes their gradients on the spot, brings them down to the
size of the logits (1/16 of the pixels) and keeps only those: no full-size tensor outlives its pair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_detr_panoptic.model.matcher import Matching
from hf_detr_panoptic.model.targets import Targets, at_least_fp32

FOCAL_ALPHA = 0.25
# Pixels treated at once: on a CPU what fits its cache, elsewhere what fills the device.
_PIXELS_AT_ONCE = {"cpu": 2**19}
_PIXELS_AT_ONCE_ELSEWHERE = 2**23


def mask_losses(
    mask_logits: Tensor, targets: Targets, matching: Matching, everywhere: bool = False
) -> tuple[Tensor, Tensor]:
    """Focal (mean over counted pixels) and dice loss of each pair: `mask_logits` float [K, h, w] → float [K] twice.

    Logits are enlarged to the canvas, bilinearly. `everywhere` counts void, crowd and padding as background.
    """
    return _MaskLosses.apply(at_least_fp32(mask_logits), targets, matching, everywhere)


class _MaskLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Targets, matching: Matching, everywhere: bool
    ) -> tuple[Tensor, Tensor]:
        assert targets.regions is not None
        height, width = targets.regions.shape[-2:]
        at_once = max(1, _PIXELS_AT_ONCE.get(logits.device.type, _PIXELS_AT_ONCE_ELSEWHERE) // (height * width))
        with_gradient = ctx.needs_input_grad[0]
        focal, dice = logits.new_zeros(2, len(logits)).unbind()
        slopes = torch.zeros_like(logits[None].expand(2, *logits.shape)) if with_gradient else None
        # Autocast would round the matrix products below to half precision.
        with torch.autocast(logits.device.type, enabled=False):
            rows, columns = _enlarging(logits, -2, height), _enlarging(logits, -1, width)
            start = 0
            for image, pairs in enumerate(matching.counts):
                counted = torch.ones_like(targets.regions[image]) if everywhere else targets.counted(image)
                counted = counted.to(logits.dtype)
                for first in range(start, start + pairs, at_once):
                    chunk = slice(first, min(first + at_once, start + pairs))
                    wanted = targets.mask(image, matching.target_place[chunk]).to(logits.dtype)
                    large = nn.functional.interpolate(
                        logits[None, chunk], size=(height, width), mode="bilinear", align_corners=False
                    )[0]
                    focal[chunk], dice[chunk], slope = _losses_and_slopes(large, wanted, counted, with_gradient)
                    if slopes is not None and slope is not None:
                        # The transpose of enlarging, as products: faster than its own kernel, and deterministic.
                        slopes[:, chunk] = (rows.mT @ slope) @ columns
                start += pairs
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, focal: Tensor, dice: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return focal[:, None, None] * slopes[0] + dice[:, None, None] * slopes[1], None, None, None


def _losses_and_slopes(
    logits: Tensor, wanted: Tensor, counted: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of k masks [k, H, W]: focal [k], dice [k], and both losses' derivatives by each logit [2, k, H, W]."""
    pixels = counted.sum().clamp(min=1)
    # sign · logit is large where the model is wrong, whichever side it should be on: one formula serves both.
    sign = 1 - 2 * wanted
    wrong_logit = logits * sign
    wrong = wrong_logit.sigmoid()
    surprise = nn.functional.softplus(wrong_logit, threshold=40)
    alpha = (wanted * (2 * FOCAL_ALPHA - 1)).add_(1 - FOCAL_ALPHA).mul_(counted).mul_(wrong).mul_(wrong).div_(pixels)
    focal = (alpha * surprise).sum((1, 2))

    wanted = wanted * counted
    wrong_counted = wrong * counted
    area = wanted.sum((1, 2))
    missed = (wrong_counted * wanted).sum((1, 2))
    overlap = area - missed
    top = 2 * overlap + 1
    bottom = overlap + (wrong_counted.sum((1, 2)) - missed) + area + 1
    dice = 1 - top / bottom
    if not with_gradient:
        return focal, dice, None

    right = 1 - wrong
    slope = torch.empty(2, *logits.shape, dtype=logits.dtype, device=logits.device)
    torch.mul(surprise.mul_(right).mul_(2).add_(wrong).mul_(alpha), sign, out=slope[0])
    torch.mul(wanted, (-2 / bottom)[:, None, None], out=slope[1])
    slope[1].add_((top / bottom**2)[:, None, None]).mul_(wrong_counted).mul_(right)
    return focal, dice, slope


def _enlarging(logits: Tensor, dimension: int, size: int) -> Tensor:
    """The matrix [size, n] that enlarges one dimension as `interpolate` does, by asking it about unit vectors."""
    unit = torch.eye(logits.shape[dimension], dtype=logits.dtype, device=logits.device)
    enlarged = nn.functional.interpolate(
        unit[None, None], size=(size, len(unit)), mode="bilinear", align_corners=False
    )
    return enlarged[0, 0]
