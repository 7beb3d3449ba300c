"""Open any photo a person has, upright and in RGB; find the photos in a folder."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from .errors import ImageError, did_you_mean

logger = logging.getLogger(__name__)

Source = str | os.PathLike[str] | bytes | BinaryIO

# Where Pillow itself gives up, unless Image.MAX_IMAGE_PIXELS was changed: 512 MiB of RGB.
MAX_PIXELS = 178_956_970
_BAND = 1 << 22  # pixels
MOST_BYTES = 2**31  # twice what as many pixels of 16 bits take
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".heic", ".heif", ".hif"}
)
# Nothing else is ever tried: to decode PostScript, whatever the file is called, Pillow starts another program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
_DRAWINGS = {b"%!PS": "EPS", b"\xc5\xd0\xd3\xc6": "EPS", b"\xd7\xcd\xc6\x9a": "WMF"}
# What every reader of a dataset opens alike, so that the file can be kept byte for byte.
_PLAIN_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})

_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(
    source: Source | Image.Image, *, max_pixels: int = MAX_PIXELS, copied: bool = True, draft: int = 1
) -> Image.Image:
    """The photo as a person sees it: upright RGB, the first frame, fully read and free of its file.

    Transparency lies on white, as in transformers. Greyscale of 16 bits is scaled, not clipped; so are floats and
    32-bit integers, from 0–1, 0–255 or 0–65535 if they keep to it, else from their own minimum to their maximum. The
    colour profile is kept in `info`, EXIF is not: it would turn the photo once more. Not `copied`: a photo in memory
    that is all this comes back itself, for who does not change it.

    `draft` (2, 4 or 8): a JPEG is decoded so many times smaller, rounded up, and `info["draft"]` says so; what is no
    JPEG, or too small, comes as it is.
    """
    with _reading(source, max_pixels) as image:
        drafted = draft > 1 and image.format == "JPEG" and min(image.size) >= draft
        if drafted:
            image.draft(None, (image.width // draft, image.height // draft))  # type: ignore[arg-type]
        image.load()
        method = UPRIGHT.get(_orientation(image))
        rgb = _rgb(image)
        upright = rgb.transpose(method) if method is not None else rgb
        if upright is image and isinstance(source, Image.Image):
            if not copied and type(image) is Image.Image:
                return image
            upright = upright.copy()
        elif type(upright) is not Image.Image:
            upright = upright._new(
                upright.im
            )  # not copied: a second one of a large photo's pixels would weigh as much
        profile = image.info.get("icc_profile") if image.mode.startswith(("RGB", "P")) else None
        upright.info = {"icc_profile": profile} if profile else {}
        if drafted:
            upright.info["draft"] = draft
        return upright


def open_lazily(file: str | os.PathLike[str] | BinaryIO | bytes) -> Image.Image:
    """Pillow's own `open`, not yet decoded, for the formats of photos and masks alone. Raises what Pillow raises."""
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_formats())


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def image_size(source: Source) -> tuple[int, int]:
    """(width, height) of the upright photo, without decoding it."""
    with _reading(source, None) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow swaps a TIFF's edges before or after decoding, by release: the tags stay
            width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def orientation_of(source: Source) -> int:
    """EXIF's number, 1 for upright, without decoding the photo; `UPRIGHT` has the turn."""
    with _reading(source, None) as image:
        return _orientation(image)


def exif_of(source: Source) -> Image.Exif:
    """What a photo's EXIF says, without decoding it; nothing where it is damaged."""
    with _reading(source, None) as image:
        try:
            return _exif(image)
        except Exception:
            return Image.Exif()


def check_weight(file: Path, where: str) -> None:
    """Raise for a file that no photo fills, before it is read as one; a sparse one costs its sender nothing."""
    with contextlib.suppress(OSError):
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise ImageError(f"is a file of {size / 1e9:.1f} GB, which no photo is", where=where, fix="Leave it out.")


def needs_reencoding(source: Source) -> bool:
    """Whether other programs could see another photo than `open_image` does: if not, the file is copied byte for byte.

    They could if it is turned by EXIF, not RGB, transparent, animated, or of a format that not everyone reads.
    """
    with _reading(source, None) as image:
        if image.format not in _PLAIN_FORMATS or image.mode != "RGB" or image.has_transparency_data:
            return True
        animated = getattr(image, "is_animated", False) and image.format != "MPO"  # to everyone else an MPO is a JPEG
        return animated or _orientation(image) in UPRIGHT


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """The photos in a folder and its sub-folders, by suffix, in the same order on every machine.

    Hidden files and __MACOSX are passed over. Linked folders are not entered, and links to files outside the folder
    are left out with a warning: what is published must have been put there on purpose.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError("is a file, not a folder", where=_shown(root)) if root.exists() else _missing(root)
    inside = root.resolve()
    photos: list[Path] = []
    left_out: list[Path] = []
    for parent, folders, names in os.walk(root, onerror=_unreadable_folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(inside)):
                left_out.append(path)
            elif path.is_file():
                photos.append(path)
    if left_out:
        logger.warning(
            "%d links in %s lead out of it or nowhere and were left out, %s first. Copy the photos in.",
            len(left_out),
            _shown(root),
            _shown(min(left_out)),
        )
    return sorted(photos, key=lambda path: path.relative_to(root).as_posix())


@contextlib.contextmanager
def _reading(source: Source | Image.Image, max_pixels: int | None) -> Iterator[Image.Image]:
    """The image of a source, not yet decoded. Whatever goes wrong inside the `with` becomes an ImageError."""
    where = _name(source)
    try:
        with contextlib.ExitStack() as stack:
            image = source if isinstance(source, Image.Image) else _identified(_binary(source, where, stack), where)
            pixels = image.width * image.height
            if max_pixels is not None and pixels > max_pixels:
                raise ImageError(
                    f"{image.width}×{image.height} is {pixels:,} pixels, {max_pixels:,} are allowed",
                    where=where,
                    fix="Make the photo smaller; in Python, `open_image` takes `max_pixels`.",
                )
            yield image
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"more pixels than Pillow opens ({error})",
            where=where,
            fix="Make the photo smaller. If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS at your program's start.",
        ) from error
    except Exception as error:  # a decoder that meets damaged bytes raises nearly anything
        raise ImageError(
            f"the photo is damaged or cut off ({type(error).__name__}: {error})",
            where=where,
            fix="Copy or download it again, or leave it out.",
        ) from error


def _binary(source: Source, where: str, stack: contextlib.ExitStack) -> BinaryIO:
    """A seekable file; ours to close only if it was opened here."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise ImageError(f"{type(source).__name__} is not a photo", fix="Give a path, bytes or an open file.")
        return source if source.seekable() else io.BytesIO(source.read())
    path = Path(source)
    try:
        if path.is_file():
            return stack.enter_context(path.open("rb"))
        problem = "is a folder, not a photo" if path.is_dir() else "is no regular file" if path.exists() else None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({error})", where=where, fix="Check its name and permissions.") from error
    raise ImageError(problem, where=where) if problem else _missing(path)


def _identified(file: BinaryIO, where: str) -> Image.Image:
    file.seek(0)
    head = file.read(64)
    file.seek(0, os.SEEK_END)
    if file.tell() > MOST_BYTES:
        raise ImageError(
            f"has more than {MOST_BYTES:,} bytes", where=where, fix="Make the photo smaller, or leave it out."
        )
    if not head:
        raise ImageError("the file is empty", where=where, fix="Copy or download it again, or leave it out.")
    avif = head[4:8] == b"ftyp" and b"avif" in head[8:]  # among the compatible brands too: mif1 stands for both
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and not avif:
        return _heif(file, where)
    if drawing := _DRAWINGS.get(head[:4]):
        raise ImageError(f"is a drawing ({drawing}), not a photo", where=where, fix="Save it as PNG.")
    try:
        return open_lazily(file)
    except UnidentifiedImageError as error:
        raise ImageError(
            "this Pillow reads no AVIF" if avif else "is not a photo, or of a format that Pillow does not know",
            where=where,
            fix="Update Pillow (11.3 or newer)." if avif else "Save it as JPEG or PNG, or leave it out.",
        ) from error


def _heif(file: BinaryIO, where: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            "HEIC photos need one more package", where=where, fix='Type: pip install "hf-detr-panoptic[heic]".'
        ) from error
    file.seek(0)
    # Opened directly, so that nothing has to be registered for the whole process.
    image: Image.Image = HeifImageFile(file)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 for upright; read without decoding where the image is not decoded yet."""
    try:
        orientation = _exif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF does not damage the photo: viewers show it as it lies
        return 1
    return orientation if isinstance(orientation, int) else 1


def _exif(image: Image.Image) -> Image.Exif:
    if image.format != "PNG" or "exif" in image.info or getattr(image, "fp", None) is None:
        return image.getexif()
    if block := _png_exif(image.fp):  # type: ignore[attr-defined]
        exif = Image.Exif()
        exif.load(block)
        return exif
    return Image.Image.getexif(image)  # PngImageFile's own decodes the photo, to look behind the pixels


def _png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf block of a PNG, wherever it stands."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    return None


def pixels_of(photo: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, 3] of an RGB photo, in bands: Pillow's own way to an array makes a second copy of it on the way."""
    if photo.width * photo.height <= _BAND:
        return np.array(photo)
    pixels = np.empty((photo.height, photo.width, 3), dtype=np.uint8)
    rows = max(1, _BAND // max(1, photo.width))
    for top in range(0, photo.height, rows):
        bottom = min(top + rows, photo.height)
        pixels[top:bottom] = np.asarray(photo.crop((0, top, photo.width, bottom)))
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        # What lies under transparent pixels is often garbage; viewers and transformers show white.
        layer = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, layer.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """[H, W] of more than eight bits → uint8: by the range that the type means, or by the values' own."""
    if values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    ranges = (1.0, 255.0) if values.dtype.kind == "f" else (65535.0,)
    top = next((bound for bound in ranges if low >= 0 and high <= bound), None)
    if top is None:
        numbers, top = numbers - low, max(high - low, 1e-300)  # all the same: black
    return np.rint(numbers / top * 255.0).astype(np.uint8)


def _missing(path: Path) -> ImageError:
    where = _shown(path)
    if str(path).startswith(("http:", "https:")):
        return ImageError("is a web address", where=where, fix="Download the photo first.")
    try:
        names = sorted(sibling.name for sibling in path.parent.iterdir())
    except OSError:
        return ImageError("does not exist, nor does its folder", where=where, fix="Check the path.")
    # Usually the name is right and the suffix wrong; and comparing with thousands of names is slow.
    stem = path.stem.casefold()
    near = [name for name in names if Path(name).stem.casefold() == stem] or names[:1000]
    return ImageError(
        "does not exist", where=where, fix=did_you_mean(path.name, near) if near else "Its folder is empty."
    )


def _unreadable_folder(error: OSError) -> None:
    raise ImageError(f"the folder cannot be read ({error.strerror})", where=_shown(error.filename)) from error


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return _shown(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    if isinstance(name, str | os.PathLike):
        return _shown(name)
    return "a photo in memory"


def _shown(path: object) -> str:
    """On one line, also where the name holds a line break."""
    text = str(path)
    return text if text.isprintable() else repr(text)
