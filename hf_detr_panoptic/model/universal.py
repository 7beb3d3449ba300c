"""Mask2Former, EoMT and whatever else transformers can load for universal segmentation, as labelers.

Photos go through the model's own image processor. The way back is ours: what the processors make of the masks gives
one id to two segments where stuff was fused (transformers#23461) and stretches maps of padded photos.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ModelError
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment
from ..text import and_more, count_of
from .checkpoints import check_finite_weights, check_rates, hub_arguments, readable
from .postprocess import Kept, choose_queries
from .segment import fingerprint_of

# As the authors of MaskFormer have it, and all after them: a mask that others cover to more than a fifth is dropped.
OVERLAP = 0.8
MASK_THRESHOLD = 0.5


class UniversalLabeler:
    """A model of `AutoModelForUniversalSegmentation` with `segment`. Photos of one call must share a size."""

    def __init__(
        self, model: Any, processor: Any, stuff: Iterable[str] | None = None, precision: str = "fp32"
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.precision = precision
        self.label_space = LabelSpace.from_config(model.config, stuff=stuff)
        if getattr(processor, "do_split_image", False):
            raise ModelError(
                "the image processor cuts photos into pieces, as semantic models want them",
                where=str(model.config._name_or_path) or None,
                fix="Take a panoptic checkpoint, for example tue-mps/coco_panoptic_eomt_large_640.",
            )
        self.fingerprint = _fingerprint(model, processor, self.label_space, precision)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        stuff: Iterable[str] | None = None,
        precision: str = "fp32",
        device: Any = None,
    ) -> UniversalLabeler:
        """A checkpoint's folder or name, with the image processor that lies beside it."""
        from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

        # Code that lies beside the weights never runs, and nobody is asked whether it may.
        hub = {**hub_arguments(name, {}), "trust_remote_code": False}
        fix = "Take a DETR with a mask head, a Mask2Former or an EoMT, whole and with its preprocessor_config.json."
        with readable(str(name), "this is no panoptic model that transformers can load", fix):
            model, info = AutoModelForUniversalSegmentation.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, **hub
            )
            processor = AutoImageProcessor.from_pretrained(name, **hub)
        # Buffers can be absent for a reason: the loss has one, and a Swin computes some.
        absent = sorted(info["missing_keys"] & dict(model.named_parameters()).keys())
        if absent:
            raise ModelError(
                f"{count_of(len(absent), 'weight')} of {sum(1 for _ in model.parameters())} are not in the checkpoint "
                f"and would be random: {and_more(absent)}",
                where=str(name),
                fix="Was the folder half copied? Copy or download it again.",
            )
        check_finite_weights(model, str(name))
        check_rates(model.config.to_dict(), str(name))
        return cls(model.to(device or "cpu"), processor, stuff, precision)

    @property
    def device(self) -> torch.device:
        return self.model.device  # type: ignore[no-any-return]

    @torch.no_grad()
    def segment(self, images: Any, threshold: float = MASK_THRESHOLD) -> list[PanopticMap]:
        """Photos → a map each, at the photo's own size; see `Labeler`."""
        photos = [open_image(image) if isinstance(image, str | os.PathLike) else image for image in images]
        if not photos:
            return []
        inputs = self.processor(images=photos, return_tensors="pt")
        given = {key: inputs[key].to(self.device) for key in ("pixel_values", "pixel_mask") if key in inputs}
        pixels = given["pixel_values"]
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with mixed:
            outputs = self.model(**given)
        canvas = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        chosen = choose_queries(outputs.class_queries_logits.float(), self.label_space, threshold)
        maps = []
        for index, (photo, kept) in enumerate(zip(photos, chosen, strict=True)):
            size = (photo.height, photo.width)
            valid = _valid_size(self.processor, inputs, index, size, canvas)
            masks = outputs.masks_queries_logits[index][kept.queries]
            maps.append(merge_masks(kept, masks, self.label_space, size, canvas, valid))
        return maps


def merge_masks(
    kept: Kept,
    mask_logits: Tensor,
    space: LabelSpace,
    size: tuple[int, int],
    canvas: tuple[int, int],
    valid: tuple[int, int],
) -> PanopticMap:
    """mask_logits [K, h, w] over a padded canvas → the map of the photo. All sizes are (height, width).

    Pixel by pixel the mask with the highest score × probability wins, and claims the pixel if its probability is a
    half or more. A mask that wins no more than four fifths as many pixels as it would claim alone is dropped, and its
    pixels are void. Then stuff of one class becomes one segment.
    """
    best = torch.zeros(size, device=mask_logits.device)
    winner = torch.zeros(size, dtype=torch.int32, device=mask_logits.device)
    claimed = torch.zeros(size, dtype=torch.bool, device=mask_logits.device)
    alone = []
    for number, (mask, score) in enumerate(zip(mask_logits, kept.scores, strict=True), start=1):
        # One mask at a time: all of them at the size of a photo would take gigabytes.
        whole = functional.interpolate(mask[None, None].float(), canvas, mode="bilinear", align_corners=False)
        cut = whole[..., : valid[0], : valid[1]]
        values = functional.interpolate(cut, size, mode="bilinear", align_corners=False)[0, 0].sigmoid()
        claims = values >= MASK_THRESHOLD
        alone.append(int(claims.sum()))
        wins = values * score > best
        best = torch.where(wins, values * score, best)
        winner.masked_fill_(wins, number)
        claimed = torch.where(wins, claims, claimed)
    ids = (winner * claimed).cpu().numpy()
    won = torch.bincount(winner.flatten(), minlength=len(kept) + 1)[1:].tolist()
    shown = np.bincount(ids.reshape(-1), minlength=len(kept) + 1)[1:].tolist()
    staying = np.zeros(len(kept) + 1, dtype=np.int32)
    segments = []
    for number, (label, score) in enumerate(zip(kept.labels, kept.scores, strict=True), start=1):
        if shown[number - 1] and won[number - 1] > OVERLAP * alone[number - 1]:
            segments.append(Segment(number, label, min(max(score, 0.0), 1.0), "model"))
            staying[number] = number
    return PanopticMap(staying[ids], segments, space).fused_stuff().compacted()


def _valid_size(
    processor: Any, inputs: Any, index: int, size: tuple[int, int], canvas: tuple[int, int]
) -> tuple[int, int]:
    """The (height, width) of the canvas that the photo covers; the rest is padding, on the right and below."""
    mask = inputs.get("pixel_mask")
    if mask is not None:
        return int(mask[index].any(1).sum()), int(mask[index].any(0).sum())
    edges = dict(processor.size)
    if getattr(processor, "do_pad", False) and processor.do_resize and edges.get("shortest_edge"):
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = get_size_with_aspect_ratio(size, edges["shortest_edge"], edges.get("longest_edge"))
        return min(height, canvas[0]), min(width, canvas[1])
    return canvas


def _fingerprint(model: Any, processor: Any, space: LabelSpace, precision: str) -> str:
    settings = {
        "model": type(model).__name__,
        "classes": [(category.name, category.isthing) for category in space],
        "columns": space.columns,
        "processor": {key: value for key, value in processor.to_dict().items() if not key.startswith("_")},
        "precision": precision,
    }
    return fingerprint_of(model, settings)
