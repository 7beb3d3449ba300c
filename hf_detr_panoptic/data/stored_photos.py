"""How photos lie in a dataset: upright, under names that every system takes, byte for byte where nothing is wrong."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..images import image_size, needs_reencoding, open_image
from ..panoptic_map import PanopticMap

_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)  # devices, on Windows
_LOSSY = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".hif", ".avif"))
_QUALITY = 95


def stored_names(names: Iterable[str], previous: Mapping[str, str] | None = None) -> dict[str, str]:
    """Relative photo name → name in images/: ASCII, `/`, unique without suffix whatever the case.

    `previous` are names given out before; they stay. Where two names would become one, the later in order gets a
    few digits of its own name's hash.
    """
    given = dict(previous or {})
    taken = {stem_key(stored) for stored in given.values()}
    for name in sorted(set(names) - given.keys()):
        stored = _ascii(name)
        if stem_key(stored) in taken:
            path = PurePosixPath(stored)
            digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
            candidates = (path.with_stem(f"{path.stem}-{digest[:digits]}").as_posix() for digits in (4, 8, 16, 32))
            stored = next(candidate for candidate in candidates if stem_key(candidate) not in taken)
        taken.add(stem_key(stored))
        given[name] = stored
    return given


def stem_key(name: str) -> str:
    """What must be unique: photo and PNG share the name without suffix, and some file systems ignore case."""
    return PurePosixPath(name).with_suffix("").as_posix().casefold()


def store_photo(source: str | Path | Image.Image, target: Path, size: tuple[int, int]) -> Path:
    """Put a photo at `target`, or beside it with the suffix of its new format; returns where it lies.

    `size`: (height, width) of its map, which the upright photo must have.
    """
    if isinstance(source, Image.Image):
        photo: Image.Image | None = open_image(source)
        size_seen = source.size
    else:
        photo = open_image(source) if needs_reencoding(source) else None
        size_seen = photo.size if photo is not None else image_size(source)
    width, height = size_seen
    if (height, width) != size:
        raise DatasetError(
            f"the upright photo is {width}×{height}, its map {size[1]}×{size[0]}",
            where=target.name if isinstance(source, Image.Image) else str(source),
            fix="Marks must be drawn on the photo as it is seen.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if photo is None and not isinstance(source, Image.Image):
        _copy(Path(source), target)
        return target
    assert photo is not None
    lossy = target.suffix.lower() in _LOSSY
    plain = target.suffix.lower() in (".jpg", ".jpeg", ".png")
    target = target if plain else target.with_suffix(".jpg" if lossy else ".png")
    write_atomically(target, encode_photo(photo, "JPEG" if lossy else "PNG"))
    return target


def encode_photo(photo: Image.Image, format: str = "JPEG") -> bytes:
    """The file of a photo; JPEG at a quality that adds no visible loss to an already compressed photo."""
    stream = io.BytesIO()
    options = {"quality": _QUALITY, "subsampling": 0} if format == "JPEG" else {"compress_level": 3}
    photo.save(stream, format, icc_profile=photo.info.get("icc_profile"), **options)
    return stream.getvalue()


def shrunk(photo: Image.Image, map: PanopticMap, max_size: int) -> tuple[Image.Image, PanopticMap]:
    """Photo and map with no side longer than `max_size`; the ids of the nearest pixel, never a mixture.

    Segments that lose their last pixel leave the list. What is small enough comes back as it is.
    """
    if max_size < 1:
        raise DatasetError(f"max_size is {max_size}", fix="Give the longest side in pixels, for example 2000.")
    if photo.size != (map.width, map.height):
        raise DatasetError(f"the photo is {photo.width}×{photo.height}, its map {map.width}×{map.height}")
    longest = max(photo.size)
    if longest <= max_size:
        return photo, map
    width, height = (max(1, round(side * max_size / longest)) for side in photo.size)
    small = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.info = dict(photo.info)
    return small, resized_map(map, (width, height))


def resized_map(map: PanopticMap, size: tuple[int, int]) -> PanopticMap:
    """The map at (width, height) pixels: the id of the nearest pixel each, segments without one leave the list."""
    width, height = size
    rows = ((np.arange(height) + 0.5) * map.height / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * map.width / width).astype(np.int64)
    ids = map.ids[np.ix_(rows, columns)]
    left = set(np.unique(ids).tolist())
    return PanopticMap(ids, [s for s in map.segments if s.id in left], map.space)


def write_atomically(path: Path, content: bytes) -> None:
    """All of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _copy(source: Path, target: Path) -> None:
    """Byte for byte, with its time: an equal file that lies there already is not copied once more."""
    if target.exists():
        if target.samefile(source):
            return
        old, new = target.stat(), source.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    times = source.stat()
    os.utime(part, ns=(times.st_atime_ns, times.st_mtime_ns))
    part.replace(target)


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
