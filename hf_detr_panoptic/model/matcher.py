"""Which query answers for which target: Hungarian matching, in fp32 at least, one transfer to the host a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import ModelError
from .targets import Targets, at_least_fp32


@dataclass(frozen=True)
class Predictions:
    """What DETR says of each query.

    `logits`: float [B, Q, C + 1], no-object last; `boxes`: float [B, Q, 4], centre, width and height as shares of the
    visible part; the auxiliary ones [L - 1, B, Q, ...] are those of the earlier decoder layers, first layer first.
    """

    logits: Tensor
    boxes: Tensor
    auxiliary_logits: Tensor | None = None
    auxiliary_boxes: Tensor | None = None

    def auxiliary(self) -> list[Predictions]:
        """One value for each earlier layer."""
        if self.auxiliary_logits is None or self.auxiliary_boxes is None:
            return []
        layers = zip(self.auxiliary_logits, self.auxiliary_boxes, strict=True)
        return [Predictions(logits, boxes) for logits, boxes in layers]


@dataclass(frozen=True)
class MatchCosts:
    """What class, L1 and GIoU weigh in the matching."""

    ce: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0

    @classmethod
    def from_config(cls, config: Any) -> MatchCosts:
        """From a DetrConfig."""
        return cls(ce=config.class_cost, bbox=config.bbox_cost, giou=config.giou_cost)


@dataclass(frozen=True)
class Matching:
    """K pairs of query and target, those of image 0 first, each image's by rising query.

    `image_index`, `query_index`, `target_index`: int64 [K] on the device; `target_index` counts through the batch
    (rows of `Targets.labels`), `target_index_in_image` within its image. `counts`: the pairs of each image.
    `surplus`: targets that no query is left for. `auxiliary`: the matchings of the earlier layers.
    """

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor
    target_index_in_image: Tensor
    counts: tuple[int, ...]
    surplus: int
    auxiliary: tuple[Matching, ...] = ()

    def __len__(self) -> int:
        return sum(self.counts)

    def confident(self, logits: Tensor, threshold: float) -> Matching:
        """The pairs whose query is surer than `threshold` of a class, whichever; without `auxiliary`."""
        scores, best = at_least_fp32(logits.detach()).softmax(-1)[self.image_index, self.query_index].max(-1)
        sure = ((scores > threshold) & (best != logits.shape[-1] - 1)).cpu()
        counts = tuple(int(own.sum()) for own in sure.split(list(self.counts)))
        kept = sure.nonzero()[:, 0].to(logits.device, non_blocking=True)
        return Matching(
            self.image_index[kept],
            self.query_index[kept],
            self.target_index[kept],
            self.target_index_in_image[kept],
            counts,
            self.surplus,
        )


@torch.no_grad()
def match(predictions: Predictions, targets: Targets, costs: MatchCosts | None = None) -> Matching:
    """Matches the last layer and each auxiliary one; raises for NaN predictions and for segments without pixels."""
    layers = [predictions, *predictions.auxiliary()]
    logits = torch.stack([at_least_fp32(layer.logits) for layer in layers])
    boxes = torch.stack([at_least_fp32(layer.boxes) for layer in layers])
    num_layers, num_images, num_queries = logits.shape[:3]
    if num_images != len(targets.counts):
        raise ModelError(f"{len(targets.counts)} label dicts for a batch of {num_images} images")
    probabilities = logits.softmax(-1)

    cost = _cost(probabilities, boxes, targets, costs or MatchCosts())
    broken = (probabilities.isnan().any(-1) | ~boxes.isfinite().all(-1)).any(-1).any(0)
    parts = [cost.flatten(), broken.to(cost.dtype), targets.absent.to(cost.dtype)]
    on_host = torch.cat(parts).cpu().split([part.numel() for part in parts])
    targets.require_pixels(on_host[2].bool().tolist())
    if on_host[1].any():
        image = int(on_host[1].nonzero()[0])
        raise ModelError(
            "the model's classes or boxes are NaN",
            where=targets.image_names[image],
            fix="Look for NaN in the pixel values; if there is none, training has diverged: lower the learning rate.",
        )

    matrices = on_host[0].view(cost.shape).numpy()
    counts = tuple(min(num_queries, count) for count in targets.counts)
    pairs = torch.zeros(num_layers, 4, sum(counts), dtype=torch.int64)
    for layer in range(num_layers):
        pair = target = 0
        for image, (count, matched) in enumerate(zip(targets.counts, counts, strict=True)):
            queries, columns = linear_sum_assignment(matrices[layer, image, :, :count])
            rows = pairs[layer, :, pair : pair + matched]
            rows[0] = image
            rows[1] = torch.from_numpy(queries)
            rows[2] = torch.from_numpy(columns + target)
            rows[3] = torch.from_numpy(columns)
            pair += matched
            target += count
    pairs = pairs.to(logits.device, non_blocking=True)
    surplus = len(targets) - sum(counts)
    last, *earlier = (
        Matching(image, query, target, column, counts, surplus) for image, query, target, column in pairs.unbind()
    )
    return replace(last, auxiliary=tuple(earlier))


def _cost(probabilities: Tensor, boxes: Tensor, targets: Targets, costs: MatchCosts) -> Tensor:
    """[L, B, Q, C + 1] and [L, B, Q, 4] → float [L, B, Q, N], N the most targets of an image; the rest is filler."""
    num_layers, num_images, num_queries = boxes.shape[:3]
    most = max(targets.counts)
    labels = targets.labels.new_zeros(num_images, most)
    wanted = boxes.new_full((num_images, most, 4), 0.5)
    start = 0
    for image, count in enumerate(targets.counts):
        labels[image, :count] = targets.labels[start : start + count]
        wanted[image, :count] = targets.boxes[start : start + count].to(boxes.dtype)
        start += count
    ce = -probabilities.gather(-1, labels[None, :, None].expand(num_layers, -1, num_queries, -1))
    ours, theirs = boxes[:, :, :, None], wanted[None, :, None]
    # Not torch.cdist: it knows neither bf16 nor fp16 on a CPU.
    bbox = (ours - theirs).abs().sum(-1)
    return costs.ce * ce + costs.bbox * bbox - costs.giou * generalized_iou(ours, theirs)


def generalized_iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """GIoU of boxes [..., 4] (centre, width, height) that broadcast against each other; `theirs` have an area."""
    ours_low, ours_high = ours[..., :2] - ours[..., 2:] / 2, ours[..., :2] + ours[..., 2:] / 2
    theirs_low, theirs_high = theirs[..., :2] - theirs[..., 2:] / 2, theirs[..., :2] + theirs[..., 2:] / 2
    common = (torch.minimum(ours_high, theirs_high) - torch.maximum(ours_low, theirs_low)).clamp(min=0).prod(-1)
    around = (torch.maximum(ours_high, theirs_high) - torch.minimum(ours_low, theirs_low)).prod(-1)
    union = ours[..., 2:].prod(-1) + theirs[..., 2:].prod(-1) - common
    return common / union - (around - union) / around
