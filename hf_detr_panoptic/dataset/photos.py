"""How photos lie in a dataset, upright, under names that every system takes; and what of a file is published."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from ..errors import DatasetError, ImageError
from ..files import replacing, write_bytes
from ..images import check_weight, exif_of, image_size, needs_reencoding, open_image
from ..panoptic_map import PanopticMap
from .copies import digest_of

_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)  # devices, on Windows
_LOSSY = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".hif", ".avif"))
_QUALITY = 95
_LONGEST = 200  # bytes of a name: file systems have 255, and files that are being written have longer names


def stored_names(names: Iterable[str], previous: Mapping[str, str] | None = None) -> dict[str, str]:
    """Relative photo name → name in images/: ASCII, `/`, unique without suffix whatever the case.

    `previous` are names given out before; they stay. Where two names would become one, the later in order gets a
    few digits of its own name's hash.
    """
    given = dict(previous or {})
    taken = {stem_key(stored) for stored in given.values()}
    for name in sorted(set(names) - given.keys()):
        stored = _ascii(name)
        path = PurePosixPath(stored)
        digest = hashlib.blake2b(_bytes(name), digest_size=16).hexdigest()
        if max(map(len, path.parts)) > _LONGEST:
            parts = (part[: _LONGEST - 33] for part in path.parent.parts)
            path = PurePosixPath(*parts, f"{path.stem[: _LONGEST - 50]}-{digest[:16]}{path.suffix[:16]}")
            stored = path.as_posix()
        if stem_key(stored) in taken:
            candidates = (path.with_stem(f"{path.stem}-{digest[:digits]}").as_posix() for digits in (4, 8, 16, 32))
            stored = next(candidate for candidate in candidates if stem_key(candidate) not in taken)
        taken.add(stem_key(stored))
        given[name] = stored
    return given


def _bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")  # of a file, as the disk has it
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")  # of a stranger's JSON: no file can be called so


def stem_key(name: str) -> str:
    """What must be unique: photo and PNG share the name without suffix, and some file systems ignore case."""
    return PurePosixPath(name).with_suffix("").as_posix().casefold()


def store_photo(
    source: str | Path | Image.Image, target: Path, size: tuple[int, int], digest: str | None = None
) -> Path:
    """Put a photo at `target`, or beside it with the suffix of its new format; returns where it lies.

    `size`: (height, width) of its map, which the upright photo must have. `digest`: of the file that was labelled; an
    `ImageError` where it is another one by now.
    """
    content: bytes | None = None
    if isinstance(source, Image.Image):
        photo: Image.Image | None = open_image(source)
        size_seen = source.size
    else:
        times = Path(source).stat() if digest is not None else None
        content = same_bytes(source, digest) if digest is not None else None
        file = source if content is None else content
        photo = open_image(file) if needs_reencoding(file) else None
        size_seen = photo.size if photo is not None else image_size(file)
    width, height = size_seen
    if (height, width) != size:
        raise DatasetError(
            f"the upright photo is {width}×{height}, its map {size[1]}×{size[0]}",
            where=target.name if isinstance(source, Image.Image) else str(source),
            fix="Marks must be drawn on the photo as it is seen.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if photo is None and content is not None and times is not None:
        if not (target.is_file() and target.read_bytes() == content):
            write_bytes(target, content)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        return target
    if photo is None and not isinstance(source, Image.Image):
        _copy(Path(source), target)
        return target
    assert photo is not None
    lossy = target.suffix.lower() in _LOSSY
    plain = target.suffix.lower() in (".jpg", ".jpeg", ".png")
    target = target if plain else target.with_suffix(".jpg" if lossy else ".png")
    write_bytes(target, encode_photo(photo, "JPEG" if lossy else "PNG"))
    return target


def same_bytes(path: str | Path, digest: str) -> bytes:
    """What is in the file, which must be what it was when it was looked at."""
    check_weight(Path(path), str(path))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", where=str(path), fix="Put it back.") from error
    if digest_of(content) != digest:
        raise ImageError(
            "the photo was changed since it was labelled", where=str(path), fix="Run the same command again."
        )
    return content


def encode_photo(photo: Image.Image, format: str = "JPEG") -> bytes:
    """The file of a photo; JPEG at a quality that adds no visible loss to an already compressed photo."""
    stream = io.BytesIO()
    options = {"quality": _QUALITY, "subsampling": 0} if format == "JPEG" else {"compress_level": 3}
    photo.save(stream, format, icc_profile=photo.info.get("icc_profile"), **options)
    return stream.getvalue()


def shrunk(photo: Image.Image, panoptic: PanopticMap, max_size: int) -> tuple[Image.Image, PanopticMap]:
    """Photo and map with no side longer than `max_size`; the ids of the nearest pixel, never a mixture.

    Segments that lose their last pixel leave the list. What is small enough comes back as it is.
    """
    if max_size < 1:
        raise DatasetError(f"max_size is {max_size}", fix="Give the longest side in pixels, for example 2000.")
    if photo.size != (panoptic.width, panoptic.height):
        raise DatasetError(f"the photo is {photo.width}×{photo.height}, its map {panoptic.width}×{panoptic.height}")
    if max(photo.size) <= max_size:
        return photo, panoptic
    width, height = shrunk_size(photo.size, max_size)
    small = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.info = dict(photo.info)
    return small, resized_map(panoptic, (width, height))


def shrunk_size(size: tuple[int, int], max_size: int) -> tuple[int, int]:
    """Two sides, in the order in which they come."""
    longest = max(size)
    one, other = (max(1, round(side * max_size / longest)) if longest > max_size else side for side in size)
    return one, other


def sampled(old: int, new: int) -> npt.NDArray[np.int64]:
    """int64 [new]: the pixels of a side that stand for those of the smaller one."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


def resized_map(panoptic: PanopticMap, size: tuple[int, int]) -> PanopticMap:
    """The map at (width, height) pixels: the id of the nearest pixel each, segments without one leave the list."""
    width, height = size
    ids = panoptic.ids[np.ix_(sampled(panoptic.height, height), sampled(panoptic.width, width))]
    left = set(np.unique(ids).tolist())
    return PanopticMap(ids, [s for s in panoptic.segments if s.id in left], panoptic.space)


def _copy(source: Path, target: Path) -> None:
    """Byte for byte, with its time: an equal file that lies there already is not copied once more."""
    if target.exists():
        if target.samefile(source):
            return
        old, new = target.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    with replacing(target) as part:
        shutil.copyfile(source, part)
        times = source.stat()
        os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))


def _ascii(name: str) -> str:
    parts = [part for part in re.split(r"[\\/]", name) if part not in ("", ".", "..")]
    return "/".join(_ascii_part(part) for part in parts) or "_"


def _ascii_part(part: str) -> str:
    stem, dot, suffix = part.rpartition(".")
    if not stem:
        stem, dot, suffix = part, "", ""
    suffix = re.sub(r"[^A-Za-z0-9]", "", suffix)
    bare = "".join(mark for mark in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(mark))
    bare = bare.replace("ß", "ss").replace("ø", "o").replace("Ø", "O").replace("ł", "l")
    bare = re.sub(r"[^A-Za-z0-9._()+=@,-]+", "_", bare).strip(". ") or "_"
    if bare.startswith("-") or _RESERVED.match(bare.split(".")[0]):
        bare = f"_{bare}"
    return f"{bare}.{suffix}" if dot and suffix else bare


_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # the others stand between coded pixels: 00 and RST0 to RST7
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ALONE = (0x01, _SOI, _EOI)  # no length follows
_APPLICATION = range(0xE0, 0xF0)
_COMMENT = 0xFE
_SHOWN_SEGMENTS = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}  # the last says how colours are coded

_PNG = b"\x89PNG\r\n\x1a\n"
_SHOWN_CHUNKS = frozenset(b"acTL bKGD cHRM cICP cLLI fcTL fdAT gAMA hIST iCCP mDCV pHYs sBIT sPLT sRGB tRNS".split())
_SHOWN_WEBP = frozenset((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"))
_WEBP_EXIF, _WEBP_XMP = 0x08, 0x04  # of VP8X's flags


class BarePhoto(NamedTuple):
    """content: the file without what it says beside the picture. said_more: there was such. said_where: a place."""

    content: bytes
    said_more: bool
    said_where: bool


def bare_photo(photo: bytes, name: str) -> BarePhoto:
    """A photo's file for publishing; `name` is for errors.

    All metadata goes, for a place or a name hides in many of them: EXIF with position, time, serial numbers, owner
    and maker's notes, XMP, IPTC, comments, thumbnails, and what phones append. Orientation and colour profile stay.
    JPEG, PNG and WebP lose no pixel: the compressed picture stays byte for byte. BMP says nothing. What not everybody
    reads (TIFF, HEIC …) becomes a PNG of what `open_image` sees. A damaged EXIF block goes like any other.
    """
    try:
        orientation, said_where = _orientation_and_place(photo)
        exif = _exif(orientation) if orientation in range(2, 9) else b""
        if photo.startswith(b"\xff\xd8"):
            content = _bare_jpeg(photo, exif)
        elif photo.startswith(_PNG):
            content = _bare_png(photo, exif)
        elif photo.startswith(b"RIFF") and photo[8:12] == b"WEBP":
            content = _bare_webp(photo, exif)
        elif photo.startswith(b"BM"):
            content = photo
        else:
            content = encode_photo(open_image(photo), "PNG")
    except ImageError as error:
        raise ImageError(error.what, where=name, fix=error.fix) from error
    return BarePhoto(content, content != photo, said_where)


def _orientation_and_place(photo: bytes) -> tuple[int, bool]:
    """The orientation, 1 for upright, and whether EXIF or XMP name a place: as far as it can be read."""
    orientation, where = 1, b"GPSLatitude" in photo
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each damaged tag of a photo
        exif = exif_of(photo)
        with contextlib.suppress(Exception):
            orientation = int(exif.get(ExifTags.Base.Orientation, 1))
            where = where or bool(exif.get_ifd(ExifTags.IFD.GPSInfo))
    return orientation, where


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def _bare_jpeg(photo: bytes, exif: bytes) -> bytes:
    """The first picture, if several are in the file."""
    kept = []
    at = 2
    while marker := _MARKER.search(photo, at):
        kind = marker[0][1]
        if kind == _SOS:
            kept.append(photo[marker.start() : _end_of_picture(photo, marker.start())])
            break
        at = marker.end() if kind in _ALONE else _end_of_segment(photo, marker.end())
        segment = photo[marker.start() : at]
        says = kind in _APPLICATION or kind == _COMMENT
        if not says or (kind in _SHOWN_SEGMENTS and segment.startswith(_SHOWN_SEGMENTS[kind], 4)):
            kept.append(segment)
    if exif:
        after_jfif = kept[0].startswith(b"\xff\xe0")
        kept.insert(after_jfif, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    return b"".join((b"\xff\xd8", *kept))


def _end_of_picture(photo: bytes, at: int) -> int:
    """Where the picture ends whose first scan begins at `at`: behind its EOI, or with the file."""
    while marker := _MARKER.search(photo, at):
        if marker[0][1] == _EOI:
            return marker.end()
        at = marker.end() if marker[0][1] in _ALONE else _end_of_segment(photo, marker.end())
    return len(photo)


def _end_of_segment(photo: bytes, at: int) -> int:
    return at + int.from_bytes(photo[at : at + 2])


def _bare_png(photo: bytes, exif: bytes) -> bytes:
    kept = [_PNG]
    at = len(_PNG)
    while len(head := photo[at : at + 8]) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = at + 12 + length
        if kind[:1].isupper() or kind in _SHOWN_CHUNKS:  # a capital: nobody can show the picture without it
            kept.append(photo[at:end])
        at = end
        if kind == b"IEND":
            break
    if exif:
        chunk = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        kept.insert(2, struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    return b"".join(kept)


def _bare_webp(photo: bytes, exif: bytes) -> bytes:
    kept = []
    at, end = 12, min(len(photo), 8 + int.from_bytes(photo[4:8], "little"))
    while at + 8 <= end:
        kind, length = struct.unpack("<4sI", photo[at : at + 8])
        chunk = photo[at : at + 8 + length + length % 2]
        at += len(chunk)
        if kind == b"VP8X":
            flags = chunk[8] & ~(_WEBP_EXIF | _WEBP_XMP) | (_WEBP_EXIF if exif else 0)
            chunk = chunk[:8] + bytes((flags,)) + chunk[9:]
        if kind in _SHOWN_WEBP:
            kept.append(chunk)
    if exif:
        block = exif.removeprefix(b"Exif\0\0")
        kept.append(struct.pack("<4sI", b"EXIF", len(block)) + block + b"\0" * (len(block) % 2))
    body = b"".join(kept)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WEBP") + body
