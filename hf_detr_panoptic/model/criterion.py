"""The loss: class, L1, GIoU of every decoder layer, focal and dice of the matched masks.

    targets = Targets.from_labels(labels, num_labels=C, canvas=(H, W), device=device, pixel_mask=pixel_mask)
    predictions = Predictions(logits, boxes, auxiliary_logits, auxiliary_boxes)
    matching = match(predictions, targets, MatchCosts.from_config(config))
    masks = ...                # float [K, h, w], the pairs (matching.image_index[k], matching.query_index[k])
    loss, loss_dict = criterion(predictions, targets, matching, masks, weights=LossWeights.from_config(config))

**Many processes, many micro-batches.** The losses are sums divided by two numbers, which follow from the targets
alone: `Denominators`. Whoever trains adds them up over the micro-batches of an optimizer step and over the ranks
*before* the forwards, and hands the sums to each:

    counts = [count for batch in micro_batches for count in count_targets(batch["labels"])]
    denominators = Denominators.of(counts, num_queries, weights).summed_over_ranks(device)

The loss is then `processes × sum over this rank's micro-batch / denominator`: averaged over ranks (as DDP averages
gradients) and *added* over micro-batches it is the loss of one process with the whole batch. So a Trainer that hands
`Denominators` on as `num_items_in_batch` must not divide by the accumulation steps (it does not, once that is given)
and needs `average_tokens_across_devices=False`, else it multiplies by the number of processes a second time.
Without `denominators` the batch at hand is normalised by itself, and nothing is ever communicated in here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.mask_loss import mask_losses
from hf_detr_panoptic.model.matcher import Matching, Predictions, generalized_iou
from hf_detr_panoptic.model.targets import Targets, at_least_fp32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossWeights:
    """What each loss weighs in the total, by the suffix of its name in the loss dict (`mask` is the focal loss).

    `no_object` weighs the class loss of queries that found nothing.
    """

    ce: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    mask: float = 1.0
    dice: float = 1.0
    no_object: float = 0.1

    @classmethod
    def from_config(cls, config: Any) -> LossWeights:
        """From a DetrConfig: what `write_to` left there, else what stock goes by."""
        told = {ours: getattr(config, theirs) for ours, theirs in _IN_CONFIG.items()}
        return cls(**told | (getattr(config, "loss_weights", None) or {}))

    def write_to(self, config: Any) -> None:
        """As a key of our own: DetrConfig knows no weight of the class loss, and takes whole numbers for most."""
        config.loss_weights = asdict(self)
        for ours, theirs in _IN_CONFIG.items():
            value = getattr(self, ours)
            if not isinstance(getattr(config, theirs), int):
                setattr(config, theirs, value)
            elif value == int(value):
                setattr(config, theirs, int(value))


_IN_CONFIG = {
    "bbox": "bbox_loss_coefficient",
    "giou": "giou_loss_coefficient",
    "mask": "mask_loss_coefficient",
    "dice": "dice_loss_coefficient",
    "no_object": "eos_coefficient",
}


@dataclass(frozen=True)
class Denominators:
    """What the losses are divided by: the targets, and the weights of all queries in the class loss.

    `processes`: over how many ranks they were summed (and gradients will be averaged).
    """

    boxes: float
    class_weight: float
    processes: int = 1

    @classmethod
    def of(cls, counts: Sequence[int], num_queries: int, weights: LossWeights) -> Denominators:
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
    weights: LossWeights | None = None,
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
    weights = weights or LossWeights()
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
        found = _class_loss(layer.logits, targets, pairs, ignored, scores, weights, denominators)
        found |= _box_losses(layer.boxes, targets, pairs, scores, per_box)
        losses |= {name + suffix: value for name, value in found.items()}
    if mask_logits is not None:
        pairs = matching if mask_matching is None else mask_matching
        losses |= _mask_losses(mask_logits, targets, pairs, scores, per_box, paper)
    losses["surplus_targets"] = losses["loss_ce"].new_tensor(float(matching.surplus))
    if matching.surplus:
        _warn_of_surplus(predictions.logits.shape[1])

    total = sum(
        (getattr(weights, field.name) * value for field in fields(weights) for value in _of(losses, field.name)),
        start=losses["loss_ce"].new_zeros(()),
    )
    return total, losses


def _of(losses: dict[str, Tensor], name: str) -> list[Tensor]:
    """A loss in all layers."""
    return [value for key, value in losses.items() if key == f"loss_{name}" or key.startswith(f"loss_{name}_")]


def _class_loss(
    logits: Tensor,
    targets: Targets,
    matching: Matching,
    ignored: Tensor | None,
    scores: Tensor,
    weights: LossWeights,
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
    per_weight = denominators.processes / (denominators.class_weight or 1.0)

    detached = logits.detach()
    counts = torch.tensor(targets.counts, dtype=torch.float32, device=logits.device)
    claimed = (detached.argmax(-1) != no_object).sum(1)
    found = {
        "loss_ce": (surprise * weight.flatten()).sum() * per_weight,
        "cardinality_error": (claimed - counts).abs().mean(),
    }
    if ignored is not None:
        matched = torch.zeros_like(ignored)
        matched[pairs] = True
        found["ignored_queries"] = (ignored & ~matched).sum().to(detached.dtype)
    return found


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
    sizes = torch.tensor(targets.valid_sizes, device=boxes.device)[:, None].flip(-1)
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
        "an image has more targets than the model has queries (%d); the surplus is not learnt "
        "(its size is in each loss dict as surplus_targets; this is said once)",
        num_queries,
    )
