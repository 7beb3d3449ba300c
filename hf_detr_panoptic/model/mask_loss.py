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
_BLOCK = 32


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
                counted = targets.counted(image) if not everywhere else torch.ones_like(targets.counted(image))
                counted = counted.to(logits.dtype)
                for first in range(start, start + pairs, at_once):
                    chunk = slice(first, min(first + at_once, start + pairs))
                    wanted = targets.mask(image, matching.target_place[chunk]).to(logits.dtype)
                    large = nn.functional.interpolate(
                        logits[None, chunk], size=(height, width), mode="bilinear", align_corners=False
                    )[0]
                    focal[chunk], dice[chunk], slope = _losses_and_slopes(large, wanted, counted, with_gradient)
                    if slopes is not None and slope is not None:
                        slopes[:, chunk] = _shrink(slope, rows, columns)
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
    """Of k masks [k, H, W]: focal [k], dice [k], and both losses' derivatives by each logit [2, k, H, W].

    `logits` is overwritten. Much is done in place: fresh full-size memory costs more here than the arithmetic.
    """
    wanted = wanted.mul_(counted)
    sign = wanted.mul(-2).add_(1)
    # Large where the model is wrong, whichever side it should be on: one formula serves both.
    wrong_logit = logits.mul_(sign)
    wrong = wrong_logit.sigmoid()
    surprise = nn.functional.softplus(wrong_logit, threshold=40)
    modulated = torch.mul(wanted, 2 * FOCAL_ALPHA - 1, out=logits)
    modulated.add_(counted, alpha=1 - FOCAL_ALPHA).mul_(wrong).mul_(wrong).div_(counted.sum().clamp(min=1))
    focal = _dot(modulated, surprise)

    area = wanted.sum((1, 2))
    missed = _dot(wrong, wanted)
    overlap = area - missed
    top = 2 * overlap + 1
    bottom = overlap + (_dot(wrong, counted) - missed) + area + 1
    dice = 1 - top / bottom
    if not with_gradient:
        return focal, dice, None

    slope = torch.empty(2, *logits.shape, dtype=logits.dtype, device=logits.device)
    by_focal, by_dice = slope.unbind()
    torch.mul(counted, (top / bottom**2)[:, None, None], out=by_dice)
    by_dice.addcmul_(wanted, (-2 / bottom)[:, None, None])
    right = torch.sub(1, wrong, out=wanted)
    by_dice.mul_(wrong).mul_(right)
    torch.add(wrong, surprise.mul_(right), alpha=2, out=by_focal)
    by_focal.mul_(modulated).mul_(sign)
    return focal, dice, slope


def _dot(some: Tensor, other: Tensor) -> Tensor:
    """Σ of the products over each image. Not a matrix product: those may round to TF32."""
    return (some * other).sum((1, 2))


def _enlarging(logits: Tensor, dimension: int, size: int) -> Tensor:
    """The matrix [size, n] that enlarges one dimension as `interpolate` does, by asking it about unit vectors."""
    unit = torch.eye(logits.shape[dimension], dtype=logits.dtype, device=logits.device)
    enlarged = nn.functional.interpolate(
        unit[None, None], size=(size, len(unit)), mode="bilinear", align_corners=False
    )
    return enlarged[0, 0]


def _shrink(slopes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The transpose of enlarging: [..., H, W] → [..., h, w]. As products it is deterministic on a GPU too."""
    return _transposed(_transposed(slopes, rows).mT, columns).mT


def _transposed(slopes: Tensor, enlarging: Tensor) -> Tensor:
    """[..., H, W] → [..., h, W] by the transpose of `enlarging` [H, h], a band matrix: block by block on a CPU."""
    size, n = enlarging.shape
    block = _BLOCK if slopes.device.type == "cpu" else n
    small = slopes.new_empty(*slopes.shape[:-2], n, slopes.shape[-1])
    for first in range(0, n, block):
        last = min(first + block, n)
        # A source pixel reaches at most one source pixel's width beyond its own.
        touched = slice(max(0, (first - 1) * size // n), min(size, -(-(last + 1) * size // n)))
        torch.matmul(enlarging[touched, first:last].mT, slopes[..., touched, :], out=small[..., first:last, :])
    return small
