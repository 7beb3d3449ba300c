"""Photo and id map augmented together: what is drawn, how it is applied, and the targets read off the result."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvf

from ..errors import DatasetError, LabelError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import SEGMENT_SOURCES, PanopticMap, Segment, boxes_of_ids
from ..preprocess import Preprocess, Size, as_pixels
from ..settings import Augmentation

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision and Pillow


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

    @classmethod
    def of(
        cls, augmentation: Augmentation, height: int, width: int, preprocess: Preprocess, rng: random.Random
    ) -> Draw:
        """What becomes of one photo of this size. The augmentation has a number for everything: see its `for_size`."""
        flip = rng.random() < augmentation.flip
        window = Window(0, 0, height, width)
        if augmentation.scale_jitter:
            window, size = _jittered(augmentation, height, width, rng)
        else:
            if rng.random() < augmentation.crop:
                window = _cropped(augmentation, height, width, rng)
            if augmentation.short_sides:
                short = rng.choice(augmentation.short_sides)
                edges = Preprocess(shortest_edge=short, longest_edge=max(augmentation.longest or short, short))
                size = edges.output_size(window.height, window.width)
            else:
                size = preprocess.output_size(window.height, window.width)
        brightness, contrast, saturation = (
            rng.uniform(1 - strength, 1 + strength)
            for strength in (augmentation.brightness, augmentation.contrast, augmentation.saturation)
        )
        return cls(window, size, flip, brightness, contrast, saturation)

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

    @property
    def reduction(self) -> int:
        """How many times smaller the photo may be decoded, a JPEG's 2, 4 or 8, and still need no enlarging."""
        smallest = min(self.window.height / self.size[0], self.window.width / self.size[1])
        return next((times for times in (8, 4, 2) if times <= smallest), 1)

    def on(self, reduced: int) -> Draw:
        """The same of a photo decoded so many times smaller: to half a pixel of it, which is less of what is seen."""
        if reduced == 1:
            return self
        top, left, height, width = (side / reduced for side in self.window)
        rows, columns = (round(top), round(top + height)), (round(left), round(left + width))
        return replace(self, window=Window(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]))

    def ids(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """int32 [H, W] → int32 [h, w]: each pixel the id at its own centre, which is where bilinear looks too."""
        top, left, height, width = self.window
        rows = top + centres(height, self.size[0])
        columns = left + centres(width, self.size[1])
        return ids[rows][:, columns[::-1] if self.flip else columns]

    def boxes(self, boxes: Iterable[Sequence[float]]) -> list[list[float]]:
        """(x, y, width, height) in the photo's pixels → centre, width and height as shares of what is left of it."""
        top, left, height, width = self.window
        shares = []
        for x, y, wide, high in boxes:
            x0, x1 = (min(max((edge - left) / width, 0.0), 1.0) for edge in (x, x + wide))
            y0, y1 = (min(max((edge - top) / height, 0.0), 1.0) for edge in (y, y + high))
            if x0 < x1 and y0 < y1:
                centre = (x0 + x1) / 2
                shares.append([1 - centre if self.flip else centre, (y0 + y1) / 2, x1 - x0, y1 - y0])
        return shares

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


def _cropped(augmentation: Augmentation, height: int, width: int, rng: random.Random) -> Window:
    """The paper's crop as a window of the photo itself: resized once, not twice, and as sharp as in evaluation."""
    assert augmentation.crop_sides
    assert augmentation.crop_window
    scale = rng.choice(augmentation.crop_sides) / min(height, width)
    least, most = augmentation.crop_window
    sides = []
    for full in (height, width):
        shown = max(round(full * scale), 1)
        side = rng.randint(min(least, shown), min(most, shown))
        sides.append(min(max(round(side / scale), 1), full))
    return Window(rng.randint(0, height - sides[0]), rng.randint(0, width - sides[1]), *sides)


def _jittered(augmentation: Augmentation, height: int, width: int, rng: random.Random) -> tuple[Window, Size]:
    jitter, most = augmentation.scale_jitter, augmentation.jitter_size
    assert jitter
    assert most
    scale = rng.uniform(*jitter) * most / max(height, width)
    sides = [min(max(round(most / scale), 1), full) for full in (height, width)]
    window = Window(rng.randint(0, height - sides[0]), rng.randint(0, width - sides[1]), *sides)
    new = [min(max(round(side * scale), 1), most) for side in sides]
    return window, (new[0], new[1])


def centres(old: int, new: int) -> npt.NDArray[np.int64]:
    """The pixel of `old` in which the centre of each pixel of `new` lies.

    Torch's "nearest-exact" in whole numbers. Its plain "nearest" takes the upper left corner instead, and so shifts
    the map against the photo by up to half a pixel, to the right and downwards.
    """
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)


def mirror_images(space: LabelSpace, pairs: Mapping[str, str]) -> dict[int, int]:
    """Label → the label that it has in a mirrored photo, for both classes of each pair."""
    for name in (*pairs, *pairs.values()):
        if name not in space.names:
            raise LabelError(
                f"the dataset has no class {name!r}",
                where="augmentation.flip_pairs",
                fix=did_you_mean(name, space.names),
            )
    both = [(space.index(one), space.index(other)) for one, other in pairs.items()]
    return {label: twin for one, other in both for label, twin in ((one, other), (other, one))}


def mirrored(segments: Iterable[Segment], twins: Mapping[int, int]) -> list[Segment]:
    """What they are called in a mirrored photo."""
    return [replace(segment, label=twins.get(segment.label, segment.label)) for segment in segments]


def pixels_of(photo: Image.Image, panoptic: PanopticMap, where: str, reduced: int = 1) -> torch.Tensor:
    """A photo as uint8 [3, H, W], which must be as large as its map, or so many times smaller, rounded up."""
    pixels = as_pixels(photo)
    height, width = pixels.shape[-2:]
    if (height, width) != (-(-panoptic.height // reduced), -(-panoptic.width // reduced)):
        raise DatasetError(
            f"the photo is {width}×{height}, its map {panoptic.width}×{panoptic.height}",
            where=where,
            fix="Scale marks and photo together; `hf-detr-panoptic check` finds all such photos.",
        )
    return pixels


def rng_of(*key: object) -> random.Random:
    """A generator of its own for this key, such as (seed, epoch, image id): no state is shared, none is left."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def make_labels(
    ids: npt.NDArray[np.int32],
    segments: Iterable[Segment],
    *,
    image_id: int | str,
    where: str | None = None,
    incomplete: Sequence[int] = (),
    things: Collection[int] = (),
    known_in: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """What the model should find on a photo whose map, resized with it, is `ids`: int32 [h, w].

    `panoptic` is the map itself; `class_labels` int64 [N], `segment_ids` int64 [N], `iscrowd` int64 [N], `scores`
    float32 [N], `boxes` float32 [N, 4]: centre, width and height as shares of the map, tight around its pixels.
    `sources` int64 [N]: places in SEGMENT_SOURCES; `isthing` int64 [N]: whether the label is among `things`.
    `incomplete` int64 [K]: the labels that nobody may have looked for here, empty where the photo is complete.
    `known_in` float32 [R, 4], if there are any: boxes as above in which somebody did.
    Segments without a pixel are left out. An id that is not among the segments is an error.
    """
    tight = boxes_of_ids(ids)
    tight.pop(0, None)
    kept = [segment for segment in segments if segment.id in tight]
    if len(kept) != len(tight):
        unlisted = sorted(tight.keys() - {segment.id for segment in kept})
        raise DatasetError(
            f"id {unlisted[0]} is in the pixels but not in the list",
            where=where,
            fix="List the segment, or paint it void (0); `hf-detr-panoptic check` finds all of them.",
        )
    height, width = ids.shape
    corners = torch.tensor([tight[segment.id] for segment in kept], dtype=torch.float64).reshape(-1, 4)
    sizes = corners[:, 2:]
    boxes = torch.cat([corners[:, :2] + sizes / 2, sizes], 1) / torch.tensor([width, height, width, height])
    return {
        "class_labels": torch.tensor([segment.label for segment in kept], dtype=torch.int64),
        "boxes": boxes.float(),
        "panoptic": torch.from_numpy(np.ascontiguousarray(ids)),
        "segment_ids": torch.tensor([segment.id for segment in kept], dtype=torch.int64),
        "iscrowd": torch.tensor([int(segment.crowd) for segment in kept], dtype=torch.int64),
        "scores": torch.tensor([segment.score for segment in kept], dtype=torch.float32),
        "sources": torch.tensor([SEGMENT_SOURCES.index(segment.source) for segment in kept], dtype=torch.int64),
        "isthing": torch.tensor([int(segment.label in things) for segment in kept], dtype=torch.int64),
        "valid_size": torch.tensor([height, width]),
        "incomplete": torch.tensor(incomplete, dtype=torch.int64),
        **({"known_in": torch.tensor(known_in, dtype=torch.float32)} if len(known_in) else {}),
        "image_id": torch.tensor(image_id) if isinstance(image_id, int) else image_id,
    }
