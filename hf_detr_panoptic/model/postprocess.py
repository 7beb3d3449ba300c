"""From the logits of one image to its panoptic map, at the photo's own size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment, looked_up
from ..settings import Postprocess

# Upsampled values held at a time. Small enough for a CPU's cache; a GPU wants few, large kernels.
BAND_VALUES = {"cpu": 2**20, "cuda": 2**26}


@dataclass(frozen=True)
class Kept:
    """The queries of one image that passed: queries int64 [K], on the host; labels, scores: K each."""

    queries: Tensor
    labels: tuple[int, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def indices_above(self, threshold: float) -> list[int]:
        """The indices, among these, of the queries that a higher threshold keeps too."""
        # In float32, as when they were chosen: there 0.85 is another number than in Python.
        return (torch.tensor(self.scores, dtype=torch.float32) > threshold).nonzero()[:, 0].tolist()

    def at(self, indices: list[int]) -> Kept:
        return Kept(
            self.queries[indices],
            tuple(self.labels[index] for index in indices),
            tuple(self.scores[index] for index in indices),
        )


def choose_queries(logits: Tensor, space: LabelSpace, threshold: float = 0.85) -> list[Kept]:
    """logits [B, Q, C + 1], "no object" last → the queries that pass, image by image, in the order of queries.

    The softmax runs over all columns. A query whose best column is no category of `space` (a hole of a foreign
    checkpoint, or "no object") is dropped whatever its other columns say.
    """
    columns = logits.shape[-1]
    if max(space.columns, default=-1) >= columns - 1:
        raise ModelError(
            f"the label space reads class column {max(space.columns)}, the model has {columns - 1}",
            fix="Use the label space of this checkpoint: LabelSpace.from_config(model.config).",
        )
    label_of_column = torch.full((columns,), -1, dtype=torch.int64)
    label_of_column[torch.tensor(space.columns, dtype=torch.int64)] = torch.arange(len(space))
    scores, best = logits.float().softmax(-1).max(-1)
    # All of it in one transfer; the score of a query whose logits are not finite is NaN.
    broken = ~torch.isfinite(logits).all(-1)
    scores, columns_won = torch.stack([scores.masked_fill(broken, torch.nan), best.float()]).cpu().unbind()
    if scores.isnan().any():
        raise ModelError(
            "the class logits hold NaN or infinity",
            fix="Look for NaN in the photo or in the weights; with half precision, try float32.",
        )
    labels = label_of_column[columns_won.long()]
    passed = (labels >= 0) & (scores > threshold)
    return [
        Kept(queries, tuple(labels[image, queries].tolist()), tuple(scores[image, queries].tolist()))
        for image, queries in enumerate(mask.nonzero()[:, 0] for mask in passed)
    ]


def postprocess(
    kept: Kept,
    mask_logits: Tensor,
    space: LabelSpace,
    photo_size: tuple[int, int],
    settings: Postprocess | None = None,
    *,
    canvas_size: tuple[int, int] | None = None,
    valid_size: tuple[int, int] | None = None,
) -> PanopticMap:
    """The masks of the kept queries of one image → its map. All sizes are (height, width).

    mask_logits: [K, h, w], row by row those of `kept`. Where the image was padded on the right and at the bottom,
    `canvas_size` is what the masks cover and `valid_size` the image on it: the padding is cut off before anything is
    resized, so that the result is that of the image's own crop.

    Pixel by pixel the mask with the highest logit wins. Stuff of one class is one segment *before* small segments are
    looked for, so nothing undoes it. Ids run 1, 2, … in the order of queries; a fused segment's score is its
    queries' mean, weighted by the pixels that each won.
    """
    settings = settings or Postprocess()
    if mask_logits.shape[0] != len(kept):
        raise ModelError(f"{mask_logits.shape[0]} masks for {len(kept)} queries")
    if len(kept) == 0:
        return PanopticMap(np.zeros(photo_size, dtype=np.int32), [], space)
    masks = mask_logits.detach()
    if valid_size is not None and canvas_size is not None:
        masks = masks[(slice(None), *valid_cells(masks.shape[-2:], canvas_size, valid_size))]
    staying = without_duplicates(kept, masks, space, settings)
    if len(staying) < len(kept):
        kept, masks = kept.at(staying), masks[staying]
    limit = -math.inf if settings.fill == "argmax" else _logit(settings.mask_threshold)

    owners = _owners(masks, range(photo_size[0]), photo_size, limit)
    groups = _groups(kept, space)
    areas = _areas(owners, len(kept))
    group_areas = np.bincount(groups, weights=areas, minlength=len(kept))
    small = group_areas[groups] < settings.min_area
    if (small & (areas > 0)).any():
        # Nobody else loses a pixel when these leave, so the others only grow: one round is enough.
        fragments = _looked_up(np.append(False, small), owners)
        heir_indices = np.flatnonzero(~small)
        rows = fragments.any(1).nonzero()[:, 0]
        heirs = torch.zeros_like(owners[rows])
        if len(heir_indices):
            staying_masks = masks[torch.from_numpy(heir_indices).to(masks.device, non_blocking=True)]
            found = _owners(staying_masks, rows.tolist(), photo_size, limit)
            heirs = _looked_up(np.append(0, heir_indices + 1).astype(np.int16), found)
        owners[rows] = torch.where(fragments[rows], heirs, owners[rows])
        areas = _areas(owners, len(kept))
    return _as_map(owners, areas, groups, kept, space)


@dataclass(frozen=True, eq=False)
class KeptMasks:
    """The queries of one photo that pass a floor, with their masks: its map at any threshold from there on.

    mask_logits: float [K, h, w], row by row those of `kept`; photo_size: (height, width). A map of these is the one
    that `segment` makes at that threshold: a query's mask does not depend on which others are asked for. (In the last
    bits it does, as their number changes how products are added up: 1e-6, which can turn a pixel where two masks tie.)
    """

    kept: Kept
    mask_logits: Tensor
    space: LabelSpace
    photo_size: tuple[int, int]
    settings: Postprocess
    floor: float

    def map(self, threshold: float) -> PanopticMap:
        """The panoptic map at a threshold, without the model."""
        settings = self.settings.changed(threshold=threshold)
        if threshold < self.floor:
            raise ModelError(
                f"the threshold {threshold} is below {self.floor}, the floor that the masks were kept from",
                fix="Keep them from a lower floor.",
            )
        indices = self.kept.indices_above(threshold)
        return postprocess(self.kept.at(indices), self.mask_logits[indices], self.space, self.photo_size, settings)


def valid_cells(grid: torch.Size, canvas: tuple[int, int], valid: tuple[int, int]) -> tuple[slice, slice]:
    """The part of a mask grid on a padded canvas that the valid image alone would have had."""
    # A convolutional backbone of stride s gives ceil(n / s) cells for n pixels, and s is a power of two.
    strides = [2 ** math.ceil(math.log2(pixels / cells)) for pixels, cells in zip(canvas, grid, strict=True)]
    height, width = (math.ceil(pixels / stride) for pixels, stride in zip(valid, strides, strict=True))
    return slice(0, height), slice(0, width)


def without_duplicates(kept: Kept, masks: Tensor, space: LabelSpace, settings: Postprocess) -> list[int]:
    """The indices that stay, in their order. Masks are compared on their own grid, the surest query first."""
    if settings.duplicate >= 1:
        return list(range(len(kept)))
    inside = (masks > _logit(settings.mask_threshold)).flatten(1).float()
    shared = inside @ inside.T
    areas = shared.diagonal()
    overlap = (shared / (areas[:, None] + areas - shared).clamp(min=1)).cpu()
    staying: list[int] = []
    for index in sorted(range(len(kept)), key=lambda index: -kept.scores[index]):
        label = kept.labels[index]
        rivals = [other for other in staying if kept.labels[other] == label and label not in space.stuff_labels]
        if not any(overlap[index, other] > settings.duplicate for other in rivals):
            staying.append(index)
    return sorted(staying)


def _far(device: torch.device) -> bool:
    """Whether the host waits for whatever it asks there, and what is small should not be asked for one by one."""
    return device.type != "cpu"


def _areas(owners: Tensor, count: int) -> npt.NDArray[np.int64]:
    """How many pixels each of `count` masks won."""
    if not _far(owners.device):
        return torch.bincount(owners.flatten(), minlength=count + 1)[1:].numpy()
    # There bincount asks for the least and the most. Row by row, so that few threads add to one place.
    places = owners.long() + (count + 1) * torch.arange(len(owners), device=owners.device)[:, None]
    won = torch.zeros(len(owners) * (count + 1), dtype=torch.int64, device=owners.device)
    won.scatter_add_(0, places.flatten(), won.new_ones(1).expand(places.numel()))
    return won.view(-1, count + 1).sum(0)[1:].cpu().numpy()


def _looked_up(table: npt.NDArray[Any], owners: Tensor) -> Tensor:
    """For each pixel the value of its owner, nobody's first."""
    if not _far(owners.device):
        return torch.from_numpy(looked_up(table, owners.numpy()))
    return torch.from_numpy(table).to(owners.device, non_blocking=True)[owners.long()]


def _owners(masks: Tensor, rows: range | list[int], size: tuple[int, int], limit: float) -> Tensor:
    """int16 [rows, width], where the masks are: 1 + the index of that with the highest logit above `limit`, or 0.

    Bilinear as `interpolate(masks, size)` at those rows of the photo, but a band of rows at a time: 100 masks of
    a 12-megapixel photo would take 4.8 GB.
    """
    count, grid_height, _ = masks.shape
    height, width = size
    band = max(1, BAND_VALUES.get(masks.device.type, 2**20) // (count * width))
    owners = torch.empty((len(rows), width), dtype=torch.int16, device=masks.device)
    for start in range(0, len(rows), band):
        centres = _numbers(rows[start : start + band], masks.device)
        source = ((centres + 0.5) * (grid_height / height) - 0.5).clamp_(0, grid_height - 1)
        upper = source.long()
        lower = (upper + 1).clamp_(max=grid_height - 1)
        weight = (source - upper)[None, :, None]
        stripe = torch.lerp(masks[:, upper].float(), masks[:, lower].float(), weight)
        owners[start : start + band] = _best(stripe, width, limit)
    return owners


def _numbers(rows: range | list[int], device: torch.device) -> Tensor:
    """float32, for which the host need not wait."""
    if isinstance(rows, range):
        return torch.arange(rows.start, rows.stop, device=device, dtype=torch.float32)
    return torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True)


def _best(stripe: Tensor, width: int, limit: float) -> Tensor:
    """float [K, rows, w] → int16 [rows, width], as `_owners`."""
    size = (stripe.shape[1], width)
    if _far(stripe.device):  # few launches, and nothing that the host would wait for
        highest, index = _enlarged(stripe, size).max(0)
        return torch.where(highest > limit, index + 1, 0).to(torch.int16)
    # Interpolated values never exceed their neighbours: a mask that stays under the limit here cannot win here.
    present = list(range(len(stripe)))
    if limit > -math.inf:
        present = (stripe.amax((1, 2)) > limit).nonzero()[:, 0].tolist()
        stripe = stripe[present]
    owner = torch.zeros(size, dtype=torch.int16)
    if not len(stripe):
        return owner
    values = _enlarged(stripe, size)
    highest = torch.full_like(values[0], limit)
    for place, value in zip(present, values, strict=True):
        owner.masked_fill_(value > highest, place + 1)
        torch.maximum(highest, value, out=highest)
    return owner


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[K, h, w] → [K, *size], bilinear."""
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _groups(kept: Kept, space: LabelSpace) -> npt.NDArray[np.int64]:
    """int64 [K]: the index of the first kept query of the segment that each belongs to."""
    firsts: dict[int, int] = {}
    return np.array(
        [
            firsts.setdefault(label, index) if label in space.stuff_labels else index
            for index, label in enumerate(kept.labels)
        ],
        dtype=np.int64,
    )


def _as_map(
    owners: Tensor,
    areas: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    kept: Kept,
    space: LabelSpace,
) -> PanopticMap:
    ids = np.zeros(len(kept) + 1, dtype=np.int32)
    segments: list[Segment] = []
    for first in np.unique(groups).tolist():
        members = np.flatnonzero(groups == first)
        pixels = int(areas[members].sum())
        if not pixels:
            continue
        segment_id = len(segments) + 1
        score = float(np.dot(areas[members], np.array(kept.scores)[members]) / pixels)
        segments.append(Segment(segment_id, kept.labels[first], min(max(score, 0.0), 1.0), source="model"))
        ids[members + 1] = segment_id
    return PanopticMap.of_counted(_looked_up(ids, owners).cpu().numpy(), segments, space)


def _logit(probability: float) -> float:
    if probability <= 0.0:
        return -math.inf
    return math.inf if probability >= 1.0 else math.log(probability / (1.0 - probability))
