"""The one resize → normalise → pad there is: training, evaluation and `segment` see the same pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from .errors import ImageError, ModelError
from .images import pixels_of

if TYPE_CHECKING:
    from transformers import DetrImageProcessor

Photo = torch.Tensor | Image.Image | npt.NDArray[np.uint8]
Size = tuple[int, int]  # height, width

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Keyed by Pillow's number, which is what a preprocessor_config.json holds.
_INTERPOLATION = {
    int(Image.Resampling.NEAREST): InterpolationMode.NEAREST_EXACT,
    int(Image.Resampling.BILINEAR): InterpolationMode.BILINEAR,
    int(Image.Resampling.BICUBIC): InterpolationMode.BICUBIC,
}


class Batch(NamedTuple):
    """Photos of several sizes in one tensor.

    pixel_values: float [B, 3, H, W]; pixel_mask: int64 [B, H, W], 1 where a photo is; valid_sizes: (height, width).
    """

    pixel_values: torch.Tensor
    pixel_mask: torch.Tensor
    valid_sizes: list[Size]


@dataclass(frozen=True)
class Preprocess:
    """What happens to a photo before the model: bit for bit what `DetrImageProcessor` (torchvision backend) does.

    The size is told in one of three ways: `exact_size` (height, width); else the largest that fits into `fit_within`
    (height, width); else `shortest_edge`, unless `longest_edge` is met first. With all of them None a photo keeps
    its size. `mean` and `std` count from 0 to 1; `rescale` brings bytes there; `resample` is Pillow's number.
    """

    shortest_edge: int | None = 800
    longest_edge: int | None = 1333
    exact_size: Size | None = None
    fit_within: Size | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    rescale: float = 1 / 255
    resample: int = 2  # bilinear

    def __post_init__(self) -> None:
        edges = (self.shortest_edge, self.longest_edge, *(self.exact_size or ()), *(self.fit_within or ()))
        if any(edge is not None and edge < 1 for edge in edges):
            raise ModelError("photos cannot be resized to less than one pixel", fix="Give sizes of 1 or more.")
        if (self.shortest_edge is None) != (self.longest_edge is None):
            raise ModelError("shortest_edge and longest_edge go together", fix="Give both, or neither.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise ModelError(f"{name} has {len(values)} values", fix="Give one each for red, green and blue.")
        if not self.rescale > 0 or not all(value > 0 for value in self.std):
            raise ModelError("rescale and std must be positive", fix="ImageNet's std is 0.229, 0.224, 0.225.")
        if self.resample not in _INTERPOLATION:
            raise ModelError(
                f"resample {self.resample} is not supported", fix="Use 2 (bilinear, DETR's own), 3 (bicubic) or 0."
            )

    @classmethod
    def from_image_processor(cls, processor: Any) -> Preprocess:
        """From a loaded image processor, or from the dict of a preprocessor_config.json, old spellings included."""
        if isinstance(processor, Mapping):
            from transformers import DetrImageProcessor

            processor = DetrImageProcessor.from_dict(dict(processor))
        size = {key: value for key, value in dict(processor.size).items() if value is not None}
        normalised = processor.do_normalize
        return cls(
            **(_size_fields(size) if processor.do_resize else _size_fields({})),
            mean=_three(processor.image_mean) if normalised else (0.0, 0.0, 0.0),
            std=_three(processor.image_std) if normalised else (1.0, 1.0, 1.0),
            rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
            resample=int(2 if processor.resample is None else processor.resample),
        )

    def to_image_processor(self) -> DetrImageProcessor:
        """What a checkpoint carries, so that plain transformers treats photos the same."""
        from transformers import DetrImageProcessor

        size: dict[str, int] = {}
        if self.exact_size:
            size = {"height": self.exact_size[0], "width": self.exact_size[1]}
        elif self.fit_within:
            size = {"max_height": self.fit_within[0], "max_width": self.fit_within[1]}
        elif self.shortest_edge and self.longest_edge:
            size = {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge}
        return DetrImageProcessor(
            do_resize=bool(size),
            size=size or None,
            resample=self.resample,  # type: ignore[arg-type]
            rescale_factor=self.rescale,
            image_mean=list(self.mean),
            image_std=list(self.std),
            format="coco_panoptic",
        )

    def __call__(self, photo: Photo, size: Size | None = None) -> torch.Tensor:
        """float32 [3, h, w], resized and normalised, on the photo's own device. `size` overrides `output_size`."""
        return self.normalize(self.resize(as_pixels(photo), size))

    def output_size(self, height: int, width: int) -> Size:
        """The (height, width) that a photo of this size is resized to."""
        if height < 1 or width < 1:
            raise ImageError(f"a photo of {width}×{height} has no pixels")
        if self.exact_size:
            return self.exact_size
        if self.fit_within:
            scale = min(self.fit_within[0] / height, self.fit_within[1] / width)
            return max(int(height * scale), 1), max(int(width * scale), 1)
        if self.shortest_edge is None or self.longest_edge is None:
            return height, width
        short, long = _edges(min(height, width), max(height, width), self.shortest_edge, self.longest_edge)
        return (short, long) if height <= width else (long, short)

    def resize(self, pixels: torch.Tensor, size: Size | None = None) -> torch.Tensor:
        """uint8 [..., 3, H, W] → uint8 [..., 3, h, w]; the very same tensor where nothing changes."""
        _check_pixels(pixels)
        height, width = size or self.output_size(*pixels.shape[-2:])
        interpolation = _INTERPOLATION[self.resample]
        return tvf.resize(pixels, [height, width], interpolation=interpolation, antialias=True)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, h, w] → float32 of the same shape, contiguous."""
        _check_pixels(pixels)
        # Stock folds the rescaling into mean and std, in float32: the same order of operations gives the same bits.
        mean, std = (torch.tensor(v, device=pixels.device) * (1.0 / self.rescale) for v in (self.mean, self.std))
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return values.sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


def as_pixels(photo: Photo) -> torch.Tensor:
    """An RGB photo as uint8 [3, H, W]: from a PIL image, an array [H, W, 3] or a tensor [3, H, W], not copied."""
    if isinstance(photo, Image.Image):
        if photo.mode != "RGB":
            raise ImageError(
                f"the photo is {photo.mode}, not RGB", fix="Open it with hf_detr_panoptic.images.open_image."
            )
        photo = pixels_of(photo)
    if isinstance(photo, np.ndarray):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8:
            raise ImageError(
                f"an array of {photo.dtype} {list(photo.shape)} is not a photo", fix="Give uint8 [height, width, 3]."
            )
        # torch takes neither read-only arrays nor negative strides (a mirrored view): copied, only then.
        photo = torch.from_numpy(np.require(photo, requirements=["C", "W"])).permute(2, 0, 1)
    if not isinstance(photo, torch.Tensor):
        raise ImageError(f"{type(photo).__name__} is not a photo", fix="Give a PIL image, an array or a tensor.")
    if photo.ndim != 3:
        raise ImageError(f"a tensor {list(photo.shape)} is not one photo", fix="Give uint8 [3, height, width].")
    _check_pixels(photo)
    return photo


def pad(images: Sequence[torch.Tensor]) -> Batch:
    """Float [3, h, w] each → one batch, filled up with zeros to the right and below.

    A lone image is not copied.
    """
    if not images:
        raise ImageError("a batch needs at least one photo")
    first = images[0]
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ImageError(
                f"{image.dtype} {list(image.shape)} is not a normalised photo",
                where=f"image {index} of the batch",
                fix="Pad what Preprocess returns: float [3, height, width].",
            )
        if (image.dtype, image.device) != (first.dtype, first.device):
            raise ImageError(
                f"{image.dtype} on {image.device} beside {first.dtype} on {first.device}",
                where=f"image {index} of the batch",
                fix="Bring all photos to one type and device first.",
            )
    valid = [(int(image.shape[1]), int(image.shape[2])) for image in images]
    height, width = max(h for h, _ in valid), max(w for _, w in valid)
    mask = torch.zeros((len(images), height, width), dtype=torch.int64, device=first.device)
    for row, (h, w) in zip(mask, valid, strict=True):
        row[:h, :w] = 1
    if all(s == (height, width) for s in valid):
        return Batch(torch.stack(list(images)) if len(images) > 1 else first[None], mask, valid)
    values = first.new_zeros((len(images), 3, height, width))
    for target, image, (h, w) in zip(values, images, valid, strict=True):
        target[:, :h, :w] = image
    return Batch(values, mask, valid)


def _edges(short: int, long: int, shortest_edge: int, longest_edge: int) -> Size:
    """DetrImageProcessor's rounding: the short edge to the nearest, the long one down, from the exact short one."""
    target: float = shortest_edge
    if long / short * shortest_edge > longest_edge:
        target = longest_edge * short / long
    new_short = round(target)
    if new_short == short:
        return short, long  # even where the long edge is then a few pixels over its bound
    # Stock arrives at zero pixels, and an exception, for strips such as 1 × 5000.
    return max(new_short, 1), max(int(target * long / short), 1)


def _size_fields(size: Mapping[str, int]) -> dict[str, Any]:
    """An image processor's `size` in our words."""
    if not size:
        return {"shortest_edge": None, "longest_edge": None}
    if size.keys() == {"height", "width"}:
        return {"exact_size": (size["height"], size["width"])}
    if size.keys() == {"max_height", "max_width"}:
        return {"fit_within": (size["max_height"], size["max_width"])}
    if size.keys() == {"shortest_edge", "longest_edge"}:
        return dict(size)
    raise ModelError(
        f"the image processor's size is {dict(size)}",
        where="preprocessor_config.json",
        fix="Use shortest_edge and longest_edge, or height and width, or max_height and max_width.",
    )


def _three(values: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, Sequence) else (values,) * 3
    return float(red), float(green), float(blue)


def _check_pixels(pixels: torch.Tensor) -> None:
    if pixels.dtype != torch.uint8:
        raise ImageError(
            f"pixels are {pixels.dtype}, not uint8",
            fix="Give bytes from 0 to 255; a float photo from 0 to 1 is (photo * 255).round().to(torch.uint8).",
        )
    if pixels.ndim < 3 or pixels.shape[-3] != 3 or 0 in pixels.shape:
        raise ImageError(f"{list(pixels.shape)} is not RGB pixels", fix="Give uint8 [3, height, width].")
