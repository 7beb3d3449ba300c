"""An inference endpoint's answer to a photo: its panoptic segments. Needs transformers and timm, nothing else.

The file stands in the model's repository, where Inference Endpoints find it. It posts back what the widget of
`image-segmentation` draws, with each class of stuff as one segment and the thresholds that the model remembers.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate
from transformers import AutoImageProcessor, DetrForSegmentation

# Of anything else Pillow might start another program to decode it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class EndpointHandler:
    """`path` is the folder of the model. A call takes `{"inputs": photo, "parameters": {...}}`."""

    def __init__(self, path: str = "") -> None:
        self.processor = AutoImageProcessor.from_pretrained(path)
        model: Any = DetrForSegmentation.from_pretrained(path)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """`inputs`: a PIL image, the bytes of an image file, or these in base64. Returns label, score and mask each.

        `parameters` may hold `threshold`. A mask is a black and white PNG in base64, as large as the photo.
        """
        if not isinstance(data, dict):
            raise ValueError('send {"inputs": photo}')
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'parameters is {parameters!r}: send it as {{"threshold": 0.85}}')
        parameters = dict(parameters)
        threshold = parameters.pop("threshold", None)
        if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
            raise ValueError(f"threshold is {threshold!r}: give a number from 0 to 1")
        if parameters:
            raise ValueError(f"only threshold may be given, not {', '.join(sorted(map(str, parameters)))}")
        ids, segments = panoptic(read_photo(data.get("inputs")), self.model, self.processor, threshold)
        return [
            {"label": segment["label"], "score": segment["score"], "mask": _png(ids == segment["id"])}
            for segment in segments
        ]


@torch.no_grad()
def panoptic(photo: Image.Image, model: Any, processor: Any, threshold: float | None = None) -> tuple[Any, list[Any]]:
    """ids: int [height, width], 0 where nobody knows; segments: [{"id", "label", "score"}], stuff fused by class."""
    remembered = getattr(model.config, "hf_detr_panoptic", None) or {}
    threshold = remembered.get("threshold", 0.85) if threshold is None else threshold
    claim = torch.tensor(float(remembered.get("mask_threshold", 0.5))).logit().item()
    limit = -torch.inf if remembered.get("fill") == "argmax" else claim
    outputs = model(**processor(images=photo, return_tensors="pt").to(model.device))
    scores, labels = (values.cpu() for values in outputs.logits[0].softmax(-1).max(-1))
    kept = ((labels < outputs.logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0].tolist()

    def owners(queries: list[int]) -> tuple[Any, Any]:
        """int [height, width]: 1 + the query whose mask has the highest logit; and how many pixels each has won."""
        best = torch.full((photo.height, photo.width), limit, device=model.device)
        owner = torch.zeros(best.shape, dtype=torch.int64, device=model.device)
        for query in queries:
            mask = outputs.pred_masks[:1, query : query + 1].float()
            mask = interpolate(mask, size=best.shape, mode="bilinear", align_corners=False)[0, 0]
            owner[mask > best] = query + 1
            best = torch.maximum(best, mask)
        return owner.cpu(), torch.bincount(owner.cpu().flatten(), minlength=len(labels) + 1)[1:]

    stuff = set(getattr(model.config, "label_ids_to_fuse", None) or ())
    duplicate = remembered.get("duplicate", 1.0)
    if duplicate < 1:  # of two things of one class with nearly the same mask the surer one stays
        inside = outputs.pred_masks[0, kept] > claim
        staying: list[int] = []
        for index in sorted(range(len(kept)), key=lambda index: -scores[kept[index]].item()):
            label = labels[kept[index]].item()
            rivals = [other for other in staying if labels[kept[other]] == label and label not in stuff]
            if not any(
                (inside[index] & inside[other]).sum() > duplicate * (inside[index] | inside[other]).sum()
                for other in rivals
            ):
                staying.append(index)
        kept = [kept[index] for index in sorted(staying)]
    parts: dict[Any, list[int]] = {}  # a thing is one query, stuff is all queries of its class
    for query in kept:
        label = labels[query].item()
        parts.setdefault(label if label in stuff else (label, query), []).append(query)
    owner, won = owners(kept)
    least = max(1, remembered.get("min_area", 4))
    large = [queries for queries in parts.values() if won[queries].sum() >= least]
    if len(large) < len(parts):  # small ones leave their pixels to the next best
        owner, won = owners(sorted(query for queries in large for query in queries))
    numbers, segments = torch.zeros(len(labels) + 1, dtype=torch.int64), []
    for number, queries in enumerate(large, start=1):
        numbers[[query + 1 for query in queries]] = number
        score = (scores[queries] * won[queries]).sum() / won[queries].sum()
        label = model.config.id2label[labels[queries[0]].item()]
        segments.append({"id": number, "label": label, "score": min(score.item(), 1.0)})
    return numbers[owner], segments


def read_photo(inputs: Any) -> Image.Image:
    """The photo upright and in RGB, transparency on white. Addresses and paths are refused: send the photo itself."""
    if isinstance(inputs, str):
        try:
            inputs = base64.b64decode(
                inputs.partition(",")[2] if inputs.startswith("data:") else inputs, validate=True
            )
        except (binascii.Error, ValueError):
            raise ValueError("inputs is text that is not base64: send the photo itself, not its address") from None
    if isinstance(inputs, bytes | bytearray):
        inputs = io.BytesIO(inputs)
    elif not isinstance(inputs, Image.Image):
        raise ValueError("inputs holds no photo: send an image file, or the same in base64")
    try:
        image = inputs if isinstance(inputs, Image.Image) else Image.open(inputs, formats=FORMATS)
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the photo cannot be read ({error})") from None
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(values: Any) -> Any:
    """[H, W] of more than eight bits → uint8, scaled: Pillow would cut off what is above 255."""
    if values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = numbers.min(), numbers.max()
    ranges = (1.0, 255.0) if values.dtype.kind == "f" else (65535.0,)
    top = next((bound for bound in ranges if low >= 0 and high <= bound), None)
    if top is None:  # its own range
        numbers, top = numbers - low, max(high - low, 1e-300)
    return np.rint(numbers / top * 255.0).astype(np.uint8)


def _png(mask: torch.Tensor) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.to(torch.uint8).mul(255).numpy()).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
