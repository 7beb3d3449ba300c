"""Photo and id map augmented together: what is drawn, how it is applied, and the targets read off the result."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as tvf

from ..errors import DatasetError, RecipeError
from ..panoptic_map import Segment, boxes_of_ids
from ..preprocess import Preprocess, Size

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision and Pillow


@dataclass(frozen=True)
class Augmentation:
    """How much a training photo may vary. The defaults are DETR's, and a little colour.

    `short_sides`: one is drawn, unless that would make the long side exceed `longest`; empty: as in evaluation.
    `crop` is the chance of the paper's crop: a window of `crop_window` pixels a side (at least, at most) on the photo
    brought to one of `crop_sides`, which is then resized like a photo. `brightness`, `contrast` and `saturation` 0.2
    draw factors from 0.8 to 1.2. `scale_jitter` (0.1, 2.0) replaces sizes and crop by large-scale jitter: the photo
    fitted into `jitter_size`, times a factor from that range, of which a window of at most `jitter_size` is kept.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    longest: int = 1333
    crop: float = 0.5
    crop_sides: tuple[int, ...] = (400, 500, 600)
    crop_window: tuple[int, int] = (384, 600)
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    scale_jitter: tuple[float, float] | None = None
    jitter_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("short_sides", "crop_sides", "crop_window", "scale_jitter"):  # YAML has lists
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name in ("flip", "crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}", fix="It is a chance, from 0 to 1.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}", fix="0.2 draws factors from 0.8 to 1.2.")
        if any(side < 1 for side in (*self.short_sides, self.longest, *self.crop_sides, self.jitter_size)):
            raise RecipeError("a photo cannot be resized to less than one pixel", fix="Give sizes of 1 or more.")
        if self.crop and not (self.crop_sides and self.short_sides):
            raise RecipeError("crop needs crop_sides and short_sides", fix="Set crop: 0 to do without.")
        if len(self.crop_window) != 2 or not 1 <= self.crop_window[0] <= self.crop_window[1]:
            raise RecipeError(f"crop_window is {self.crop_window}", fix="Give the least and the most, as (384, 600).")
        if self.scale_jitter and not (
            len(self.scale_jitter) == 2 and 0 < self.scale_jitter[0] <= self.scale_jitter[1]
        ):
            raise RecipeError(f"scale_jitter is {self.scale_jitter}", fix="Give two factors, as (0.1, 2.0).")

    @classmethod
    def none(cls) -> Augmentation:
        """As in evaluation."""
        return cls(flip=0, short_sides=(), crop=0, brightness=0, contrast=0, saturation=0)

    @classmethod
    def for_size(cls, shortest_edge: int, longest_edge: int | None = None, **changes: Any) -> Augmentation:
        """The defaults' proportions for another size than 800 / 1333."""
        full, scale = cls(), shortest_edge / 800
        sized: dict[str, Any] = {
            name: tuple(max(round(side * scale), 1) for side in getattr(full, name))
            for name in ("short_sides", "crop_sides", "crop_window")
        }
        sized["longest"] = longest_edge or round(full.longest * scale)
        sized["jitter_size"] = max(round(full.jitter_size * scale), 1)
        return cls(**{**sized, **changes})

    def draw(self, height: int, width: int, preprocess: Preprocess, rng: random.Random) -> Draw:
        """What becomes of one photo of this size."""
        flip = rng.random() < self.flip
        window = Window(0, 0, height, width)
        if self.scale_jitter:
            window, size = self._jittered(height, width, rng)
        else:
            if rng.random() < self.crop:
                window = self._cropped(height, width, rng)
            if self.short_sides:
                short = rng.choice(self.short_sides)
                edges = Preprocess(shortest_edge=short, longest_edge=max(self.longest, short))
                size = edges.output_size(window.height, window.width)
            else:
                size = preprocess.output_size(window.height, window.width)
        brightness, contrast, saturation = (
            rng.uniform(1 - strength, 1 + strength) for strength in (self.brightness, self.contrast, self.saturation)
        )
        return Draw(window, size, flip, brightness, contrast, saturation)

    def _cropped(self, height: int, width: int, rng: random.Random) -> Window:
        """The paper's crop as a window of the photo itself: resized once, not twice, and as sharp as in evaluation."""
        scale = rng.choice(self.crop_sides) / min(height, width)
        least, most = self.crop_window
        sides = []
        for full in (height, width):
            shown = max(round(full * scale), 1)
            side = rng.randint(min(least, shown), min(most, shown))
            sides.append(min(max(round(side / scale), 1), full))
        return Window(rng.randint(0, height - sides[0]), rng.randint(0, width - sides[1]), *sides)

    def _jittered(self, height: int, width: int, rng: random.Random) -> tuple[Window, Size]:
        assert self.scale_jitter is not None
        scale = rng.uniform(*self.scale_jitter) * self.jitter_size / max(height, width)
        sides = [min(max(round(self.jitter_size / scale), 1), full) for full in (height, width)]
        window = Window(rng.randint(0, height - sides[0]), rng.randint(0, width - sides[1]), *sides)
        new = [min(max(round(side * scale), 1), self.jitter_size) for side in sides]
        return window, (new[0], new[1])


class Window(NamedTuple):
    """A part of a photo, in its pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Draw:
    """What becomes of one photo and its map: cut to `window`, resized to `size` (height, width), mirrored, tinted."""

    window: Window
    size: Size
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def photo(self, pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
        """uint8 [3, H, W] → float32 [3, h, w], normalised."""
        top, left, height, width = self.window
        cut = preprocess.resize(pixels[:, top : top + height, left : left + width], self.size)
        if self.flip:
            cut = tvf.horizontal_flip(cut)
        values = preprocess.normalize(cut)
        if self.brightness == self.contrast == self.saturation == 1:
            return values
        levels = cut.sum((1, 2), dtype=torch.int64).double() / (cut.shape[1] * cut.shape[2])
        return self._tinted(values, levels, preprocess)

    def ids(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """int32 [H, W] → int32 [h, w]: each pixel the id at its own centre, which is where bilinear looks too."""
        top, left, height, width = self.window
        rows = top + _centres(height, self.size[0])
        columns = left + _centres(width, self.size[1])
        return ids[rows][:, columns[::-1] if self.flip else columns]

    def _tinted(self, values: torch.Tensor, levels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
        """Brightness, contrast, saturation in this order, as torchvision defines them. `levels`: mean bytes, [3].

        All three are linear, so together they are a factor on the colours and one on their grey: a fraction of the
        time they take on bytes one after the other. Nothing here is a sum of floats over pixels or a matrix product,
        whose last bit would depend on the number of threads.
        """
        mean, std = preprocess.mean, preprocess.std
        both = self.brightness * self.contrast
        colours, greys = both * self.saturation, both * (1 - self.saturation)
        level = sum(weight * float(value) for weight, value in zip(_LUMA, levels, strict=True)) * preprocess.rescale
        offset = (1 - self.contrast) * self.brightness * level
        grey = values[0] * (greys * _LUMA[0] * std[0])
        for channel in (1, 2):
            grey += values[channel] * (greys * _LUMA[channel] * std[channel])
        offset += greys * sum(weight * value for weight, value in zip(_LUMA, mean, strict=True))
        values *= colours
        for channel in range(3):
            shift = (offset + (colours - 1) * mean[channel]) / std[channel]
            lowest, highest = (
                (0 - mean[channel]) / std[channel],
                (255 * preprocess.rescale - mean[channel]) / std[channel],
            )
            values[channel].add_(grey * (1 / std[channel])).add_(shift).clamp_(lowest, highest)
        return values


def _centres(old: int, new: int) -> npt.NDArray[np.int64]:
    """The pixel of `old` in which the centre of each pixel of `new` lies.

    Torch's "nearest-exact" in whole numbers. Its plain "nearest" takes the upper left corner instead, and so shifts
    the map against the photo by up to half a pixel, to the right and downwards.
    """
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def rng_of(*key: object) -> random.Random:
    """A generator of its own for this key, such as (seed, epoch, image id): no state is shared, none is left."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def make_labels(
    ids: npt.NDArray[np.int32], segments: Iterable[Segment], *, image_id: int | str, where: str | None = None
) -> dict[str, Any]:
    """What the model should find on a photo whose map, resized with it, is `ids`: int32 [h, w].

    `panoptic` is the map itself; `class_labels` int64 [N], `segment_ids` int64 [N], `iscrowd` int64 [N], `scores`
    float32 [N], `boxes` float32 [N, 4]: centre, width and height as shares of the map, tight around its pixels.
    Segments without a pixel are left out. An id that is not among the segments is an error.
    """
    found = boxes_of_ids(ids)
    found.pop(0, None)
    kept = [segment for segment in segments if segment.id in found]
    if len(kept) != len(found):
        unlisted = sorted(found.keys() - {segment.id for segment in kept})
        raise DatasetError(
            f"id {unlisted[0]} is in the pixels but not in the list",
            where=where,
            fix="List the segment, or paint it void (0); `hf-detr-panoptic check` finds all of them.",
        )
    height, width = ids.shape
    corners = torch.tensor([found[segment.id] for segment in kept], dtype=torch.float64).reshape(-1, 4)
    sizes = corners[:, 2:]
    boxes = torch.cat([corners[:, :2] + sizes / 2, sizes], 1) / torch.tensor([width, height, width, height])
    return {
        "class_labels": torch.tensor([segment.label for segment in kept], dtype=torch.int64),
        "boxes": boxes.float(),
        "panoptic": torch.from_numpy(np.ascontiguousarray(ids)),
        "segment_ids": torch.tensor([segment.id for segment in kept], dtype=torch.int64),
        "iscrowd": torch.tensor([int(segment.crowd) for segment in kept], dtype=torch.int64),
        "scores": torch.tensor([segment.score for segment in kept], dtype=torch.float32),
        "valid_size": torch.tensor([height, width]),
        "image_id": torch.tensor(image_id) if isinstance(image_id, int) else image_id,
    }
