"""What the model should have found: the labels of a batch, checked, on the device, with one small map an image.

    targets = Targets.from_labels(labels, num_labels=C, canvas=(H, W), device=..., pixel_mask=...)

A label is a dict. Ours: `class_labels` int64 [N], `boxes` float [N, 4] (centre, width and height as shares of the
*visible* part), `panoptic` int32 [H, W] (0 is void) with `segment_ids` int [N]; optional `valid_size` (h, w),
`crowd_ids` (or `iscrowd` [N]), `scores` float [N]; `incomplete` int [K], the labels that nobody may have looked for,
but in the boxes `known_in` float [R, 4];
`sources` int [N] (places in SEGMENT_SOURCES) and `isthing` int [N], which say what the labeler has guessed.
Hugging Face's `masks` [N, H, W] may stand in for `panoptic`: void is unknown there, so what no mask covers is
background, and what its resizing left without a pixel or a width is left out. Without either, boxes and classes alone
are learnt.
The maps may be as large as the canvas (the padded batch) or as the image's valid part.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, did_you_mean
from ..panoptic_map import SEGMENT_SOURCES

KEYS = (
    "class_labels", "boxes", "panoptic", "segment_ids", "masks", "valid_size", "crowd_ids", "iscrowd", "scores",
    "incomplete", "known_in", "sources", "isthing",
)  # fmt: skip
# What DetrImageProcessor adds; read by nobody here.
_FOREIGN_KEYS = ("image_id", "orig_size", "size", "area")
_OF_SEGMENTS = ("segment_ids", "iscrowd", "scores", "sources", "isthing")
_SMALL = ("class_labels", "boxes", "crowd_ids", "valid_size", "image_id", "incomplete", "known_in", *_OF_SEGMENTS)
_AUTO = SEGMENT_SOURCES.index("auto")

# Room for rounding in boxes that were computed in another precision.
_BOX_SLACK = 1e-4


@dataclass(frozen=True)
class Targets:
    """The targets of a batch, those of image 0 first; crowd segments are not among them. T is their number.

    `labels`: int64 [T], `boxes`: float32 (or 64, if given so) [T, 4], `scores`: float32 [T], all on the device.
    `regions`: int16 [B, H, W]; n + 1 where target n of the image lies, 0 in void, crowd, padding and under ids that
    nobody listed. For images with `masks` (which may overlap) it only says 1 (counts) or 0.
    `guessed`: bool [T]; the labeler said that it is this thing. `incomplete`: bool [B, C], the classes that nobody may
    have looked for on an image; None where all were looked for on all images. `known_in`: float32 [B, R, 4], boxes in
    which somebody did, padded with boxes of no size; None where there are none.
    `absent`: bool [T]; the target has no pixel. `match` raises then, to spare a transfer of its own.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    guessed: Tensor
    incomplete: Tensor | None
    known_in: Tensor | None
    counts: tuple[int, ...]
    valid_sizes: tuple[tuple[int, int], ...]
    regions: Tensor | None
    masks: tuple[Tensor | None, ...]
    absent: Tensor
    segment_names: tuple[str, ...]
    image_names: tuple[str, ...]

    @classmethod
    def from_labels(
        cls,
        labels: Sequence[Mapping[str, Any]],
        *,
        num_labels: int,
        canvas: tuple[int, int],
        device: torch.device | str,
        num_images: int | None = None,
        pixel_mask: Tensor | None = None,
    ) -> Targets:
        """Checks `labels` and puts them on `device`; call it before the forward, so that errors cost nothing.

        `canvas`: height and width of `pixel_values`; `pixel_mask`: [B, H, W], says the valid sizes that labels do
        not say themselves. Labels that are on an accelerator come to the host in one transfer (maps stay there).
        """
        if num_images is not None and len(labels) != num_images:
            raise ModelError(
                f"{len(labels)} label dicts for a batch of {num_images} images",
                fix="Pass one dict for each image, an empty one's tensors having length 0.",
            )
        if not labels:
            raise ModelError("the batch is empty", fix="Pass at least one image with its label dict.")
        for index, label in enumerate(labels):
            _check_keys(label, f"image {index} of the batch")
        small, sizes = _on_host(labels, pixel_mask)
        images = [_read_image(index, entry, num_labels, canvas, sizes) for index, entry in enumerate(small)]

        has_maps = any("panoptic" in label or "masks" in label for label in labels)
        regions = torch.zeros(len(labels), *canvas, dtype=torch.int16, device=device) if has_maps else None
        masks: list[Tensor | None] = []
        absent: list[Tensor] = []
        for index, (label, image) in enumerate(zip(labels, images, strict=True)):
            mask = None
            missing = torch.zeros(image.count, dtype=torch.bool, device=device)
            if regions is not None:
                valid = regions[index, : image.valid[0], : image.valid[1]]
                if "masks" in label:
                    mask, missing = _place_masks(torch.as_tensor(label["masks"]), image, canvas, valid)
                elif "panoptic" in label:
                    missing = _place_ids(torch.as_tensor(label["panoptic"]), image, canvas, valid)
                else:
                    raise ModelError(
                        "no map, though other images of the batch have one",
                        where=image.name,
                        fix="Give every image of a batch `panoptic` (or `masks`), or none.",
                    )
            masks.append(mask)
            absent.append(missing)

        return cls(
            labels=torch.cat([image.labels for image in images]).to(device, non_blocking=True),
            boxes=torch.cat([image.boxes for image in images]).to(device, non_blocking=True),
            scores=torch.cat([image.scores for image in images]).to(device, non_blocking=True),
            guessed=torch.cat([image.guessed for image in images]).to(device, non_blocking=True),
            incomplete=_incomplete(images, num_labels, device),
            known_in=_known_in(images, device),
            counts=tuple(image.count for image in images),
            valid_sizes=tuple(image.valid for image in images),
            regions=regions,
            masks=tuple(masks),
            absent=torch.cat(absent),
            segment_names=tuple(name for image in images for name in image.segment_names),
            image_names=tuple(image.name for image in images),
        )

    def __len__(self) -> int:
        return sum(self.counts)

    def mask(self, image: int, indices: Tensor) -> Tensor:
        """The masks of some targets of one image; `indices`: int64 [k], within the image → bool [k, H, W]."""
        assert self.regions is not None
        masks = self.masks[image]
        if masks is None:
            return self.regions[image] == (indices + 1).to(torch.int16)[:, None, None]
        full = masks.new_zeros(len(indices), *self.regions.shape[-2:])
        full[:, : masks.shape[1], : masks.shape[2]] = masks[indices]
        return full

    def counted(self, image: int) -> Tensor:
        """Where the mask losses look: not void, crowd or padding → bool [H, W]."""
        assert self.regions is not None
        return self.regions[image] > 0

    def require_pixels(self, absent: Sequence[bool]) -> None:
        """Raises for the first segment that is listed and has no pixel; `absent` is `self.absent` on the host."""
        if not any(absent):
            return
        first = list(absent).index(True)
        image = next(i for i in range(len(self.counts)) if first < sum(self.counts[: i + 1]))
        raise ModelError(
            f"{self.segment_names[first]} is listed but has no pixel in the map",
            where=self.image_names[image],
            fix="Leave it out of the label, or mend the map (`hf-detr-panoptic check` finds such segments).",
        )


def count_targets(labels: Sequence[Mapping[str, Any]]) -> list[int]:
    """The targets of each image, crowds left out: what `Denominators.of` needs of micro-batches still to come."""
    small, _ = _on_host(labels, None)
    return [len(entry["class_labels"]) - int(_left_out(entry).sum()) for entry in small]


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half precisions widened; float64 stays."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


@dataclass(frozen=True)
class _Image:
    """One image's small tensors, checked, on the host, without crowds; `kept`: bool, which of the listed those are."""

    name: str
    valid: tuple[int, int]
    labels: Tensor
    boxes: Tensor
    scores: Tensor
    guessed: Tensor
    incomplete: Tensor
    known_in: Tensor
    kept: Tensor
    segment_ids: Tensor | None

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def segment_names(self) -> list[str]:
        if self.segment_ids is None:
            return [f"mask {index}" for index in self.kept.nonzero()[:, 0].tolist()]
        return [f"segment {segment}" for segment in self.segment_ids.tolist()]


def _check_keys(label: Mapping[str, Any], where: str) -> None:
    if not isinstance(label, Mapping):
        raise ModelError(
            f"a label is a {type(label).__name__}", where=where, fix="Pass a dict with: " + ", ".join(KEYS)
        )
    needed = ["class_labels", "boxes"] + (["segment_ids"] if "panoptic" in label else [])
    for key in needed:
        if key not in label:
            raise ModelError(f"the label has no '{key}'", where=where, fix=did_you_mean(key, label))
    for key in label:
        # Keys of others pass; one that resembles ours is a slip that would be ignored in silence.
        if key not in KEYS + _FOREIGN_KEYS and difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.8):
            raise ModelError(f"the label has an unknown key '{key}'", where=where, fix=did_you_mean(key, KEYS))


def _on_host(
    labels: Sequence[Mapping[str, Any]], pixel_mask: Tensor | None
) -> tuple[list[dict[str, Tensor]], list[tuple[int, int]] | None]:
    """The small tensors of all labels and the sizes that `pixel_mask` says, brought over in one transfer."""
    small = [
        {key: torch.as_tensor(label[key]) for key in _SMALL if not isinstance(label.get(key), str | None)}
        for label in labels
    ]
    for entry, label in zip(small, labels, strict=True):
        if "masks" in label and "panoptic" not in label and len(label["masks"]) == len(entry["class_labels"]):
            entry["there"] = torch.as_tensor(label["masks"]).flatten(1).any(1)
    tensors = [tensor for entry in small for tensor in entry.values()]
    if all("valid_size" in entry for entry in small):
        pixel_mask = None  # nothing to ask it, and nothing to wait for
    if pixel_mask is not None:
        there = pixel_mask != 0
        tensors.append(torch.stack([there.any(2).sum(1), there.any(1).sum(1)], 1))
    near = _fetched(tensors)
    sizes = [(int(h), int(w)) for h, w in near.pop().tolist()] if pixel_mask is not None else None
    rest = iter(near)
    return [{key: next(rest) for key in entry} for entry in small], sizes


def _fetched(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same on the host, what was elsewhere in one transfer: as bytes, for not every device has every type."""
    far = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in tensors if not _is_here(tensor)]
    parts = iter(torch.cat(far).cpu().split([len(each) for each in far]) if far else ())
    return [
        # A copy of its own begins where its type may begin.
        tensor if _is_here(tensor) else next(parts).clone().view(tensor.dtype).view(tensor.shape)
        for tensor in tensors
    ]


def _is_here(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _left_out(entry: Mapping[str, Tensor]) -> Tensor:
    """Which of the listed segments are crowds, or masks of Hugging Face's of which nothing is left → bool [N]."""
    out = torch.zeros(len(entry["class_labels"]), dtype=torch.bool)
    if "iscrowd" in entry:
        out |= entry["iscrowd"].bool()
    if "crowd_ids" in entry and "segment_ids" in entry:
        out |= torch.isin(entry["segment_ids"].long(), entry["crowd_ids"].long())
    if "there" in entry and entry["boxes"].numel() == 4 * len(out):
        out |= ~entry["there"] | (entry["boxes"].reshape(-1, 4)[:, 2:] <= 0).any(1)
    return out


def _read_image(
    index: int,
    entry: Mapping[str, Tensor],
    num_labels: int,
    canvas: tuple[int, int],
    sizes: list[tuple[int, int]] | None,
) -> _Image:
    name = f"image {index} of the batch"
    if "image_id" in entry and entry["image_id"].numel() == 1:
        name += f" (image_id {entry['image_id'].item()})"
    labels = entry["class_labels"]
    if labels.ndim != 1 or (labels.is_floating_point() and len(labels)):
        raise ModelError(f"class_labels are {labels.dtype} {list(labels.shape)}", where=name, fix="Pass int64 [N].")
    for key in ("boxes", *_OF_SEGMENTS):
        if key in entry and len(entry[key]) != len(labels):
            raise ModelError(
                f"{len(labels)} class_labels and {len(entry[key])} {key}", where=name, fix="Pass one for each segment."
            )
    if entry["boxes"].numel() != 4 * len(labels):
        raise ModelError(f"boxes have shape {list(entry['boxes'].shape)}", where=name, fix="Pass float [N, 4].")
    incomplete = entry.get("incomplete", labels[:0]).long()
    named = torch.cat([labels.long(), incomplete])
    outside = named[(named < 0) | (named >= num_labels)]
    if len(outside):
        hint = "Are they 1-based ids? Labels are places in the label space, from 0." if num_labels in outside else ""
        raise ModelError(
            f"class label {int(outside[0])} is outside the {num_labels} labels 0 to {num_labels - 1}",
            where=name,
            fix=hint or "Is the label space that of the model?",
        )
    boxes = at_least_fp32(entry["boxes"]).reshape(len(labels), 4)
    kept = ~_left_out(entry)
    right = ((boxes >= -_BOX_SLACK) & (boxes <= 1 + _BOX_SLACK)).all(1) & (boxes[:, 2:] > 0).all(1)
    right |= ~kept
    if not right.all():
        first = int((~right).nonzero()[0])
        raise ModelError(
            f"box {first} is {[round(x, 4) for x in boxes[first].tolist()]}",
            where=name,
            fix="Boxes are (centre x, centre y, width, height), each in [0, 1] of the visible part, with a size above "
            "0; a box made from pixels is as wide as they are (last − first + 1).",
        )
    if "valid_size" in entry:
        valid = (int(entry["valid_size"][0]), int(entry["valid_size"][1]))
    else:
        valid = sizes[index] if sizes else canvas
    if not (0 < valid[0] <= canvas[0] and 0 < valid[1] <= canvas[1]):
        raise ModelError(
            f"valid_size {valid} does not fit the canvas {canvas}", where=name, fix="Pass (height, width)."
        )
    segment_ids = entry["segment_ids"].long() if "segment_ids" in entry else None
    if segment_ids is not None and len(segment_ids):
        if segment_ids.min() <= 0:
            raise ModelError(f"segment id {int(segment_ids.min())}", where=name, fix="Ids are positive; 0 is void.")
        if len(segment_ids.unique()) != len(segment_ids):
            raise ModelError("a segment id is listed twice", where=name, fix="List every segment once.")
    scores = entry["scores"].float() if "scores" in entry else torch.ones(len(labels))
    guessed = torch.zeros(len(labels), dtype=torch.bool)
    if "sources" in entry and "isthing" in entry:
        guessed = (entry["sources"] == _AUTO) & (entry["isthing"] != 0)
    return _Image(
        name=name,
        valid=valid,
        labels=labels.long()[kept],
        boxes=boxes[kept],
        scores=scores[kept],
        guessed=guessed[kept],
        incomplete=incomplete,
        known_in=entry["known_in"].float().reshape(-1, 4) if "known_in" in entry else torch.zeros(0, 4),
        kept=kept,
        segment_ids=None if segment_ids is None else segment_ids[kept],
    )


def _incomplete(images: Sequence[_Image], num_labels: int, device: torch.device | str) -> Tensor | None:
    if not any(len(image.incomplete) for image in images):
        return None
    classes = torch.zeros(len(images), num_labels, dtype=torch.bool)
    for row, image in zip(classes, images, strict=True):
        row[image.incomplete] = True
    return classes.to(device, non_blocking=True)


def _known_in(images: Sequence[_Image], device: torch.device | str) -> Tensor | None:
    if not any(len(image.known_in) for image in images):
        return None
    return nn.utils.rnn.pad_sequence([image.known_in for image in images], batch_first=True).to(device)


def _valid_part(maps: Tensor, image: _Image, canvas: tuple[int, int]) -> Tensor:
    """The part of `maps` [..., h, w] that shows the image."""
    size = (int(maps.shape[-2]), int(maps.shape[-1]))
    if size not in (canvas, image.valid):
        raise ModelError(
            f"the map is {size[0]}×{size[1]}, the pixels are {canvas[0]}×{canvas[1]}"
            + (f" ({image.valid[0]}×{image.valid[1]} of them valid)" if image.valid != canvas else ""),
            where=image.name,
            fix="Resize map and photo alike (nearest for the map), and pass `valid_size` if the photo is padded.",
        )
    return maps[..., : image.valid[0], : image.valid[1]]


def _place_ids(ids: Tensor, image: _Image, canvas: tuple[int, int], valid: Tensor) -> Tensor:
    """Writes an id map's targets into `valid`: int16 [h, w]; says which have no pixel → bool [N]."""
    assert image.segment_ids is not None
    if ids.ndim != 2:
        raise ModelError(f"`panoptic` has shape {tuple(ids.shape)}", where=image.name, fix="Pass ids as int32 [H, W].")
    ids = _valid_part(ids, image, canvas).to(valid.device)
    # A table from id to number; whatever lies above the last listed id falls into the last slot, which stays void.
    highest = int(image.segment_ids.max()) if image.count else 0
    table = torch.zeros(highest + 2, dtype=torch.int16, device=valid.device)
    rising = torch.arange(1, image.count + 1, dtype=torch.int16, device=valid.device)
    table[image.segment_ids.to(valid.device, non_blocking=True)] = rising
    numbers = table[ids.long().clamp(0, highest + 1)]
    valid.copy_(numbers)
    absent = torch.ones(image.count + 1, dtype=torch.bool, device=valid.device)
    return absent.index_fill_(0, numbers.long().flatten(), False)[1:]


def _place_masks(masks: Tensor, image: _Image, canvas: tuple[int, int], valid: Tensor) -> tuple[Tensor, Tensor]:
    """The masks of an image's targets, bool [N, h, w], and which are empty; crowds become 0 in `valid`."""
    if masks.ndim != 3 or len(masks) != len(image.kept):
        raise ModelError(
            f"`masks` has shape {tuple(masks.shape)} for {len(image.kept)} labels",
            where=image.name,
            fix="Pass [N, H, W].",
        )
    there = _valid_part(masks, image, canvas).to(valid.device) != 0
    kept = image.kept.to(valid.device, non_blocking=True)
    if image.count < len(image.kept):
        valid.copy_(~there[~kept].any(0))
        there = there[kept]
    else:
        valid.fill_(1)
    return there, ~there.flatten(1).any(1)
