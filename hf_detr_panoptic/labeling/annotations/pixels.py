"""Mask images: opened as the numbers they hold, and cut into regions."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import AnnotationError
from ...images import MAX_PIXELS
from ...labels import Category, LabelSpace
from ...panoptic_map import PanopticMap, Segment

MOST_PIECES = 10_000

Ids = npt.NDArray[np.int32]


def mask_size(data: bytes, where: str) -> tuple[int, int]:
    """(width, height), without decoding."""
    return _open(data, where).size


def is_lossy(data: bytes) -> bool:
    """Whether the values of a mask have suffered: 1 and 254 are noise in a JPEG."""
    return data[:2] == b"\xff\xd8"


def mask_values(data: bytes, where: str) -> Ids:
    """int32 [H, W]: grey values, palette indices or 16-bit numbers; a colour is R + 256·G + 256²·B."""
    image = _open(data, where)
    try:
        if image.mode in ("L", "P", "1") or image.mode.startswith("I"):
            # "1" decodes to booleans, which count as 0 and 1.
            return np.asarray(image).astype(np.int32)
        channels = np.asarray(image.convert("RGBA") if image.mode != "RGB" else image)
    except Exception as error:  # a decoder that meets damaged bytes raises nearly anything
        raise _damaged(error, where) from error
    if channels.shape[2] == 4 and (channels[..., 3] != 255).any():
        return (channels[..., 3] > 0).astype(np.int32)  # drawn on a transparent sheet
    red, green, blue = (channels[..., place].astype(np.int32) for place in range(3))
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    return red if grey else red | green << 8 | blue << 16


def mask_colors(data: bytes, where: str) -> Ids:
    """int32 [H, W]: the colours as R + 256·G + 256²·B, also where they come from a palette or are grey."""
    image = _open(data, where)
    try:
        channels = np.asarray(image.convert("RGB")).astype(np.int32)
    except Exception as error:  # as above
        raise _damaged(error, where) from error
    return channels[..., 0] | channels[..., 1] << 8 | channels[..., 2] << 16


def regions(ids: npt.NDArray[np.integer[Any]]) -> dict[int, dict[str, Any]]:
    """ids: int [H, W] → the COCO RLE of each id but 0."""
    found, places = np.unique(ids, return_inverse=True)
    numbers = np.where(found == 0, 0, np.arange(len(found)) + 1).astype(np.int32)
    kept = {int(number): int(value) for number, value in zip(numbers, found, strict=True) if number}
    space = LabelSpace([Category("region", isthing=True)])  # only the pixels are asked for
    regions = PanopticMap(numbers[places].reshape(ids.shape), [Segment(number, 0) for number in kept], space)
    return {kept[number]: rle for number, rle in regions.rles().items()}


def pieces(mask: npt.NDArray[np.bool_], where: str) -> Ids:
    """The connected parts of a mask, numbered from 1. Corners connect: a crack is often one pixel wide."""
    from scipy import ndimage

    ids, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count > MOST_PIECES:
        raise AnnotationError(
            f"the mask falls into {count:,} pieces",
            where=where,
            fix='If that is right, instances="whole" makes one segment of each class.',
        )
    return ids.astype(np.int32)


def _open(data: bytes, where: str) -> Any:
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise AnnotationError(f"the mask is {image.width}×{image.height} pixels large", where=where)
        return ImageOps.exif_transpose(image) if image.format == "JPEG" else image
    except AnnotationError:
        raise
    except Exception as error:  # as above
        raise _damaged(error, where) from error


def _damaged(error: Exception, where: str) -> AnnotationError:
    return AnnotationError(
        f"the mask cannot be read ({type(error).__name__}: {error})", where=where, fix="Save it as PNG again."
    )
