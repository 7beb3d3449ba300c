"""What training minimises: class, box and mask losses over matched queries, the same for any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ModelError
from ..settings import Losses
from .mask_head import Part, chunks_of, few_launches, owners_of
from .matcher import Matching, Predictions, generalized_iou
from .targets import Targets, at_least_fp32

FOCAL_ALPHA = 0.25
# Pixels treated at once: on a CPU what fits its cache, elsewhere what fills the device.
_PIXELS_AT_ONCE = {"cpu": 2**19}
_PIXELS_AT_ONCE_ELSEWHERE = 2**25
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
            owners = owners_of(matching.counts).tolist()
            for own in chunks_of(owners, at_once, few_launches(logits.device)):
                chunk = slice(own[0].start, own[-1].stop)
                counted = _counted(targets, own, everywhere).to(logits.dtype)
                index = matching.target_index_in_image
                wanted = [targets.mask(part.image, index[part.start : part.stop]) for part in own]
                large = nn.functional.interpolate(
                    logits[None, chunk], size=(height, width), mode="bilinear", align_corners=False
                )[0]
                focal[chunk], dice[chunk], slope = _losses_and_slopes(
                    large, torch.cat(wanted).to(logits.dtype), counted, with_gradient
                )
                if slopes is not None and slope is not None:
                    slopes[:, chunk] = _shrink(slope, rows, columns)
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return focal, dice

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, focal: Tensor, dice: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return focal[:, None, None] * slopes[0] + dice[:, None, None] * slopes[1], None, None, None


def _counted(targets: Targets, own: list[Part], everywhere: bool) -> Tensor:
    """Which pixels the losses look at: [H, W] where all pairs are of one image, else [k, H, W]."""
    each = [targets.counted(part.image) for part in own]
    if everywhere:
        each = [torch.ones_like(counted) for counted in each]
    if len(own) == 1:
        return each[0]
    return torch.cat([counted.expand(part.length, *counted.shape) for part, counted in zip(own, each, strict=True)])


def _losses_and_slopes(
    logits: Tensor, wanted: Tensor, counted: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of k masks [k, H, W]: focal [k], dice [k], and both losses' derivatives by each logit [2, k, H, W].

    counted: [H, W], or [k, H, W].

    `logits` is overwritten. Much is done in place: fresh full-size memory costs more here than the arithmetic.
    """
    wanted = wanted.mul_(counted)
    sign = wanted.mul(-2).add_(1)
    # Large where the model is wrong, whichever side it should be on: one formula serves both.
    wrong_logit = logits.mul_(sign)
    wrong = wrong_logit.sigmoid()
    surprise = nn.functional.softplus(wrong_logit, threshold=40)
    modulated = torch.mul(wanted, 2 * FOCAL_ALPHA - 1, out=logits)
    pixels = counted.sum((-2, -1), keepdim=True).clamp(min=1)
    modulated.add_(counted, alpha=1 - FOCAL_ALPHA).mul_(wrong).mul_(wrong).div_(pixels)
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


logger = logging.getLogger(__name__)


_IN_CONFIG = {
    "bbox": "bbox_loss_coefficient",
    "giou": "giou_loss_coefficient",
    "mask": "mask_loss_coefficient",
    "dice": "dice_loss_coefficient",
    "no_object": "eos_coefficient",
}


def losses_of(config: Any) -> Losses:
    """From a DetrConfig: what `write_losses` left there, else what stock goes by."""
    stock = {ours: getattr(config, theirs) for ours, theirs in _IN_CONFIG.items()}
    return Losses(**stock | (getattr(config, "loss_weights", None) or {}))


def write_losses(losses: Losses, config: Any) -> None:
    """As a key of our own: DetrConfig knows no weight of the class loss, and takes whole numbers for most."""
    config.loss_weights = losses.to_dict()
    for ours, theirs in _IN_CONFIG.items():
        value = getattr(losses, ours)
        if not isinstance(getattr(config, theirs), int):
            setattr(config, theirs, value)
        elif value == int(value):
            setattr(config, theirs, int(value))


def take_coefficients(config: Any, fields: Mapping[str, Any]) -> None:
    """Stock's coefficients that somebody gave by name win over weights that an earlier training left there."""
    if earlier := getattr(config, "loss_weights", None):
        given = {ours: fields[theirs] for ours, theirs in _IN_CONFIG.items() if theirs in fields}
        config.loss_weights = {**earlier, **given}


@dataclass(frozen=True)
class Denominators:
    """What the losses are divided by: the targets, and the weights of all queries in the class loss.

    `processes`: over how many ranks they were summed (and gradients will be averaged).
    """

    boxes: float
    class_weight: float
    processes: int = 1

    @classmethod
    def of(cls, counts: Sequence[int], num_queries: int, weights: Losses) -> Denominators:
        """Of images with so many targets each. Queries that the class loss ignores count as no-object all the same."""
        matched = sum(min(count, num_queries) for count in counts)
        unmatched = len(counts) * num_queries - matched
        return cls(boxes=float(sum(counts)), class_weight=matched + unmatched * weights.no_object)

    def __add__(self, other: Denominators) -> Denominators:
        if self.processes != other.processes:
            raise ModelError(
                "denominators of different numbers of processes", fix="Add up first, then sum over ranks."
            )
        return replace(self, boxes=self.boxes + other.boxes, class_weight=self.class_weight + other.class_weight)

    def summed_over_ranks(self, device: torch.device | str = "cpu") -> Denominators:
        """The sum over all ranks, by one all-reduce that every rank must join; itself where there is one process.

        `device`: one that the process group can reduce on (NCCL: this rank's GPU).
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return self
        sums = torch.tensor([self.boxes, self.class_weight], dtype=torch.float64, device=device)
        distributed.all_reduce(sums)
        boxes, class_weight = sums.tolist()
        return Denominators(boxes, class_weight, processes=distributed.get_world_size())


def criterion(
    predictions: Predictions,
    targets: Targets,
    matching: Matching,
    mask_logits: Tensor | None = None,
    *,
    weights: Losses | None = None,
    denominators: Denominators | None = None,
    paper: bool = False,
    segment_scores: bool = False,
    mask_matching: Matching | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted total, and each loss by its name (`loss_ce`, …; `loss_ce_0`, … of the first layers) with counters.

    `mask_logits`: float [K, h, w] in the order of `matching`, or None: no mask losses. Where nothing matched they are
    0 whatever it holds, and every logit gets a gradient of 0: DDP wants each parameter used.
    `paper` counts void and padding as background and pushes queries inside void to no-object, as stock DETR does.
    `mask_matching`: the pairs that `mask_logits` are of, if not all.
    `segment_scores` multiplies a target's losses by its score; the denominators stay those of scores of 1.
    """
    weights = weights or Losses()
    if denominators is None:
        denominators = Denominators.of(targets.counts, predictions.logits.shape[1], weights)
    per_box = denominators.processes / max(denominators.boxes, 1.0)
    scores = targets.scores if segment_scores else torch.ones_like(targets.scores)
    unknown = None if paper or targets.regions is None else _integral(targets.regions == 0)

    losses: dict[str, Tensor] = {}
    layers = [("", predictions, matching)] + [
        (f"_{layer}", *pair)
        for layer, pair in enumerate(zip(predictions.auxiliary(), matching.auxiliary, strict=True))
    ]
    for suffix, layer, pairs in layers:
        ignored = None if unknown is None else _mostly_unknown(layer.boxes, unknown, targets)
        of_layer = _class_loss(layer.logits, layer.boxes, targets, pairs, ignored, scores, weights, denominators)
        of_layer |= _box_losses(layer.boxes, targets, pairs, scores, per_box)
        losses |= {name + suffix: value for name, value in of_layer.items()}
    if mask_logits is not None:
        pairs = matching if mask_matching is None else mask_matching
        losses |= _mask_losses(mask_logits, targets, pairs, scores, per_box, paper)
    losses["surplus_targets"] = losses["loss_ce"].new_full((), float(matching.surplus))
    if matching.surplus:
        _warn_of_surplus(predictions.logits.shape[1])

    total = sum(
        (weight * value for name, weight in weights for value in _of(losses, name)),
        start=losses["loss_ce"].new_zeros(()),
    )
    return total, losses


def _of(losses: dict[str, Tensor], name: str) -> list[Tensor]:
    """A loss in all layers."""
    return [value for key, value in losses.items() if key == f"loss_{name}" or key.startswith(f"loss_{name}_")]


def _class_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    matching: Matching,
    ignored: Tensor | None,
    scores: Tensor,
    weights: Losses,
    denominators: Denominators,
) -> dict[str, Tensor]:
    """Cross-entropy of every query, [B, Q, C + 1]; `ignored`: bool [B, Q], no-object is not asked of these."""
    no_object = logits.shape[-1] - 1
    pairs = (matching.image_index, matching.query_index)
    wanted = torch.full(logits.shape[:2], no_object, device=logits.device)
    wanted[pairs] = targets.labels[matching.target_index]
    logits = at_least_fp32(logits)
    weight = logits.new_full(logits.shape[:2], weights.no_object)
    if ignored is not None:
        weight = weight.masked_fill(ignored, 0.0)
    weight[pairs] = scores[matching.target_index].to(weight.dtype)
    surprise = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    if weights.partial and targets.incomplete is not None:
        free = torch.ones_like(wanted, dtype=torch.bool)
        if targets.known_in is not None:
            free = ~_centred_in(boxes.detach(), targets.known_in)
        free[pairs] = targets.guessed[matching.target_index] if weights.partial_things else False
        surprise = _partly_known(logits, wanted, free, targets.incomplete, surprise)
    per_weight = denominators.processes / (denominators.class_weight or 1.0)

    detached = logits.detach()
    counts = torch.tensor(targets.counts, dtype=torch.float32).to(logits.device, non_blocking=True)
    claimed = (detached.argmax(-1) != no_object).sum(1)
    losses = {
        "loss_ce": (surprise * weight.flatten()).sum() * per_weight,
        "cardinality_error": (claimed - counts).abs().mean(),
    }
    if ignored is not None:
        matched = torch.zeros_like(ignored)
        matched[pairs] = True
        losses["ignored_queries"] = (ignored & ~matched).sum().to(detached.dtype)
    return losses


def _centred_in(boxes: Tensor, places: Tensor) -> Tensor:
    """bool [B, Q]: whether the centre of a box [B, Q, 4] lies in one of the image's places [B, R, 4]."""
    away = (boxes[:, :, None, :2] - places[:, None, :, :2].to(boxes.dtype)).abs()
    return (away < places[:, None, :, 2:].to(boxes.dtype) / 2).all(-1).any(-1)


def _partly_known(logits: Tensor, wanted: Tensor, free: Tensor, incomplete: Tensor, surprise: Tensor) -> Tensor:
    """−log of what the wanted class and the incomplete ones have together, for `free` queries of incomplete images.

    logits: [B, Q, C + 1]; wanted: int64 [B, Q]; free: bool [B, Q]; incomplete: bool [B, C]; surprise: [B · Q], which
    stays as it is for all other queries.
    """
    allowed = nn.functional.pad(incomplete, (0, 1))[:, None].repeat(1, logits.shape[1], 1)
    allowed = allowed.scatter(2, wanted[..., None], True)
    together = logits.masked_fill(~allowed, -torch.inf).logsumexp(-1)
    asked_less = free & incomplete.any(1)[:, None]
    return torch.where(asked_less, logits.logsumexp(-1) - together, surprise.view_as(wanted)).flatten()


def _box_losses(
    boxes: Tensor, targets: Targets, matching: Matching, scores: Tensor, per_box: float
) -> dict[str, Tensor]:
    ours = at_least_fp32(boxes)[matching.image_index, matching.query_index]
    theirs = targets.boxes[matching.target_index].to(ours.dtype)
    scores = scores[matching.target_index].to(ours.dtype)
    return {
        "loss_bbox": ((ours - theirs).abs().sum(-1) * scores).sum() * per_box,
        "loss_giou": ((1 - generalized_iou(ours, theirs)) * scores).sum() * per_box,
    }


def _mask_losses(
    mask_logits: Tensor, targets: Targets, matching: Matching, scores: Tensor, per_box: float, paper: bool
) -> dict[str, Tensor]:
    if not len(matching):
        nothing = at_least_fp32(mask_logits).sum() * 0
        return {"loss_mask": nothing, "loss_dice": nothing}
    if targets.regions is None:
        raise ModelError("masks are to be learnt, but the labels have none", fix="Pass `panoptic` and `segment_ids`.")
    if mask_logits.ndim != 3 or len(mask_logits) != len(matching):
        raise ModelError(f"mask logits of shape {tuple(mask_logits.shape)} for {len(matching)} matched queries")
    focal, dice = mask_losses(mask_logits, targets, matching, everywhere=paper)
    scores = scores[matching.target_index].to(focal.dtype)
    return {"loss_mask": (focal * scores).sum() * per_box, "loss_dice": (dice * scores).sum() * per_box}


def _integral(mask: Tensor) -> Tensor:
    """How many pixels of bool [B, H, W] lie above and left of each corner: int32 [B, H + 1, W + 1]."""
    sums = mask.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return nn.functional.pad(sums, (1, 0, 1, 0))


@torch.no_grad()
def _mostly_unknown(boxes: Tensor, unknown: Tensor, targets: Targets) -> Tensor:
    """Which boxes [B, Q, 4] lie more than half, of what is visible of them, in void or crowd: bool [B, Q].

    A pixel is in a box when its centre is; a box too small for that has the pixel that it starts in.
    """
    sizes = torch.tensor(targets.valid_sizes)[:, None].flip(-1).to(boxes.device, non_blocking=True)
    boxes = at_least_fp32(boxes)
    low = ((boxes[..., :2] - boxes[..., 2:] / 2) * sizes - 0.5).ceil().long()
    high = ((boxes[..., :2] + boxes[..., 2:] / 2) * sizes - 0.5).ceil().long()
    low = torch.minimum(low.clamp(min=0), sizes - 1)
    high = torch.maximum(torch.minimum(high, sizes), low + 1)
    (left, top), (right, bottom) = low.unbind(-1), high.unbind(-1)
    image = torch.arange(len(boxes), device=boxes.device)[:, None]
    inside = unknown[image, bottom, right] - unknown[image, top, right]
    inside = inside - unknown[image, bottom, left] + unknown[image, top, left]
    return 2 * inside > (right - left) * (bottom - top)


@cache
def _warn_of_surplus(num_queries: int) -> None:
    logger.warning(
        "an image has more segments than the model has queries (%d), and only as many are learnt. Join small classes "
        "(merge), drop some, or learn from parts of the photos (augmentation.crop). This is said once",
        num_queries,
    )
