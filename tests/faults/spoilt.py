"""How a thing is spoilt: bytes, any part of plain data, photos. `hostile.py` hands them over."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from made import noise
from PIL import Image

if TYPE_CHECKING:
    from hostile import Case


# --- bytes, and any part of plain data


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut, flipped, filled, doubled or followed by more."""
    at = rng.randrange(len(content) + 1)
    how = rng.randrange(6)
    if how == 0:
        return content[:at]
    if how == 1:
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if how == 2:
        return content[:at] + bytes(rng.choice((1, 100, 10_000))) + content[at:]
    if how == 3:
        return content[:at] + content[rng.randrange(len(content) + 1) :]
    if how == 4:
        return content + rng.randbytes(rng.choice((1, 1000)))
    return rng.choice((b"", b"\xff\xfe" + content, b"\xef\xbb\xbf" + content, rng.randbytes(500), b"\0" * 1000))


EVIL: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 1.5, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", " ", "1", "x"),
    *(
        "x" * 100_000,
        "../../../../etc/passwd",
        "/etc/passwd",
        "~",
        "a\nb",
        "a\0b",
        "\ud800",
        "<script>alert(1)</script>",
    ),
    *([], {}, [[]], [{}], {"a": 1}, [1, 2, 3], [None], "@deep list@", "@deep object@", [0] * 100_000, list("ab")),
)
DEEP = {'"@deep list@"': "[" * 3000 + "]" * 3000, '"@deep object@"': '{"a":' * 3000 + "1" + "}" * 3000}


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += spots(child, (*path, key))
    return found


def changed(rng: random.Random, value: Any) -> Any:
    """With one to four parts that are something else, gone, doubled, or under another key."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        path = rng.choice(spots(value))
        if not path:
            if rng.random() < 0.1:
                return copy.deepcopy(rng.choice(EVIL))
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        key, how = path[-1], rng.randrange(8)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif how == 1:
            holder[str(rng.choice(EVIL))[:20]] = holder[key]
        elif how == 2 and isinstance(holder[key], int | float):
            holder[key] = rng.choice((-holder[key], holder[key] * 10**6, holder[key] + 0.5, str(holder[key])))
        else:
            holder[key] = copy.deepcopy(rng.choice(EVIL))
    return value


def as_json(rng: random.Random, value: Any) -> bytes:
    text = json.dumps(value)
    for word, meant in DEEP.items():
        text = text.replace(word, meant)
    content = text.encode("utf-8", "surrogatepass")
    return damaged(rng, content) if rng.random() < 0.25 else content


def spoil_json(rng: random.Random, path: Path) -> None:
    path.write_bytes(as_json(rng, changed(rng, json.loads(path.read_text()))))


# --- photos

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "PPM": ".ppm",
}
_MODES = ("RGB", "RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I", "I;16", "F", "YCbCr", "HSV", "LAB")
_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 72\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(rng: random.Random) -> tuple[bytes, str]:
    """A picture of some format and mode."""
    while True:
        kind, mode = rng.choice(list(_SUFFIXES)), rng.choice(_MODES)
        image = noise(rng.randrange(50), (rng.choice((1, 7, 96)), rng.choice((1, 9, 72))))
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 3, 6, 8, 0, 9, 700))
        more = [noise(rng.randrange(50), image.size)] if rng.random() < 0.1 else []
        stream = io.BytesIO()
        try:
            image = Image.new("I;16", image.size, 40_000) if mode == "I;16" else image.convert(mode)
            image.save(stream, kind, exif=exif, **({"save_all": True, "append_images": more} if more else {}))
        except (OSError, ValueError, KeyError, TypeError, UnboundLocalError):
            continue  # not every format has every mode, and Pillow trips over an animated PNG of some
        return stream.getvalue(), _SUFFIXES[kind]


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that says it is so large, with checksums that are right."""

    def block(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + extra + block(b"IDAT", zlib.compress(data)) + block(b"IEND", b"")
    )


def bomb_text() -> bytes:
    content = b"k\0\0" + zlib.compress(bytes(50_000_000))
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def hostile_photo(case: Case, folder: Path, stem: str = "hostile") -> Path:
    rng = case.rng
    how = rng.randrange(20)
    content, suffix = encoded(rng)
    path = folder / f"{stem}{suffix}"
    path.unlink(missing_ok=True)
    if how < 8:
        path.write_bytes(damaged(rng, content))
    elif how < 11:
        path.write_bytes(content)
    elif how == 11:
        size = rng.choice(((1, 2**31 - 1), (60_000, 60_000), (13_300, 13_300), (0, 0), (2**16, 1), (1, 10**6)))
        path = folder / f"{stem}.png"
        path.write_bytes(png_of(*size, *rng.choice(((8, 2), (16, 6), (1, 3), (1, 0)))))
    elif how == 12:
        path = folder / f"{stem}{rng.choice(('.png', '.jpg', '.tif'))}"
        path.write_bytes(rng.choice((_POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + _POSTSCRIPT, b"<svg/>", b"\xd7\xcd\xc6\x9a")))
    elif how == 13:
        path = folder / f"{stem}.png"
        path.write_bytes(png_of(8, 8, data=(b"\0" + bytes(24)) * 8, extra=bomb_text()))
    elif how == 14:
        with path.open("wb") as file:
            file.write(content)
            file.truncate(rng.choice((2**20, 5 * 2**30)))  # sparse: it takes no room
    elif how == 15:
        os.mkfifo(path)
        case.fifos.append(path)
    elif how == 16:
        path.mkdir()
    elif how == 17:
        path.symlink_to(rng.choice((case.private, Path("nowhere"), path, Path("/dev/zero"), Path("/dev/stdin"))))
    elif how == 18:
        path.write_bytes(
            rng.choice(
                (
                    b"",
                    b"PK\3\4",
                    b"<html>",
                    b"\xff\xd8\xff\xe0",
                    b"GIF89a\xff\xff\xff\xff\x80\0\0",
                    b"P6 99999 99999 255 ",
                )
            )
        )
    else:
        path.write_bytes(png_of(3000, 3000, 8, 2, data=(b"\0" + bytes(9000)) * 3000))
    return path
