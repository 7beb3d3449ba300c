"""What is published of a photo's file: the picture. Where, when and by whom it was taken stays at home."""

from __future__ import annotations

import contextlib
import re
import struct
import warnings
import zlib
from typing import NamedTuple

from PIL import ExifTags, Image

from ..errors import ImageError
from ..images import exif_of, open_image
from .stored_photos import encode_photo

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
        orientation, said_where = _told(photo)
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


def _told(photo: bytes) -> tuple[int, bool]:
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
    place = 2
    while marker := _MARKER.search(photo, place):
        kind = marker[0][1]
        if kind == _SOS:
            kept.append(photo[marker.start() : _end_of_picture(photo, marker.start())])
            break
        place = marker.end() if kind in _ALONE else _end_of_segment(photo, marker.end())
        segment = photo[marker.start() : place]
        told = kind in _APPLICATION or kind == _COMMENT
        if not told or (kind in _SHOWN_SEGMENTS and segment.startswith(_SHOWN_SEGMENTS[kind], 4)):
            kept.append(segment)
    if exif:
        after_jfif = kept[0].startswith(b"\xff\xe0")
        kept.insert(after_jfif, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    return b"".join((b"\xff\xd8", *kept))


def _end_of_picture(photo: bytes, place: int) -> int:
    """Where the picture ends whose first scan begins at `place`: behind its EOI, or with the file."""
    while marker := _MARKER.search(photo, place):
        if marker[0][1] == _EOI:
            return marker.end()
        place = marker.end() if marker[0][1] in _ALONE else _end_of_segment(photo, marker.end())
    return len(photo)


def _end_of_segment(photo: bytes, place: int) -> int:
    return place + int.from_bytes(photo[place : place + 2])


def _bare_png(photo: bytes, exif: bytes) -> bytes:
    kept = [_PNG]
    place = len(_PNG)
    while len(head := photo[place : place + 8]) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = place + 12 + length
        if kind[:1].isupper() or kind in _SHOWN_CHUNKS:  # a capital: nobody can show the picture without it
            kept.append(photo[place:end])
        place = end
        if kind == b"IEND":
            break
    if exif:
        chunk = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        kept.insert(2, struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)))
    return b"".join(kept)


def _bare_webp(photo: bytes, exif: bytes) -> bytes:
    kept = []
    place, end = 12, min(len(photo), 8 + int.from_bytes(photo[4:8], "little"))
    while place + 8 <= end:
        kind, length = struct.unpack("<4sI", photo[place : place + 8])
        chunk = photo[place : place + 8 + length + length % 2]
        place += len(chunk)
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
