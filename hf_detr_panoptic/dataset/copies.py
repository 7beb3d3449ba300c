"""Which photos are the same photo: exact copies, and near ones (recompressed, resized, marked, slightly cropped)."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import ImageError
from ..files import content_of
from ..images import check_weight, open_image, open_lazily
from ..tiles import photo_of

# Of 256 bits. Measured on 35 photos of building sites, fires, defects and COCO: JPEG quality 30, a quarter of the
# size, brightness × 1.3 or a stamp in a corner change 39 at most; 2 % cropped off each side 27 in the median, 40 at
# most; two different photos differ in 96 or more, 128 being chance.
NEAR = 40
_FLAT = 2.0  # grey levels: below this spread, bits are noise and every blank wall looks like every other

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Fingerprint:
    """`digest` of the file's bytes; `bits`: is each cell of a 16 × 17 thumbnail brighter than its left neighbour.

    bits: 32 bytes, None for a photo without contrast, which is like no other unless it is an exact copy.
    """

    digest: str
    bits: bytes | None

    def distance(self, other: Fingerprint) -> int | None:
        """Bits that differ, None where a photo has no contrast."""
        if self.bits is None or other.bits is None:
            return None
        return (int.from_bytes(self.bits) ^ int.from_bytes(other.bits)).bit_count()


def fingerprint(photo: str | Path | bytes | Image.Image) -> Fingerprint:
    """The fingerprint of a photo as it is seen. A photo that cannot be decoded to its end is an `ImageError`."""
    if isinstance(photo, Image.Image):
        return Fingerprint(hashlib.blake2b(photo.tobytes(), digest_size=16).hexdigest(), _bits(photo))
    content = photo if isinstance(photo, bytes) else _read(Path(photo))
    digest = digest_of(content)
    try:
        with open_lazily(content) as image:
            if image.format != "JPEG":
                raise ValueError
            image.draft("L", (128, 128))  # an eighth of the work: JPEG holds its own thumbnails
            return Fingerprint(digest, _bits(ImageOps.exif_transpose(image)))
    except Exception:
        return Fingerprint(digest, _bits(open_image(content if isinstance(photo, bytes) else Path(photo))))


def of_photo(name: str, seen: Fingerprint) -> Fingerprint:
    """A tile of a photo is like the tiles of others, being all sky or all wall: that tells nothing of the photos."""
    return seen if photo_of(name) is None else replace(seen, bits=None)


def digest_of(content: bytes) -> str:
    """Tells files apart by their bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def near_pairs(
    prints: Sequence[Fingerprint], threshold: int = NEAR, links: bool = False
) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) with i < j of all pairs at most `threshold` bits apart; exact copies have distance 0.

    `links`: as few of them as join the same groups, since a fixed camera's photos are all alike, pair by pair.
    Compares everything with everything as one matrix product: 10,000 photos take under a second (benchmarks/data.py).
    """
    first: dict[str, int] = {}
    chosen: list[int] = []
    for number, entry in enumerate(prints):
        original = first.setdefault(entry.digest, number)
        if original != number:
            yield original, number, 0
        elif entry.bits is not None:
            chosen.append(number)
    if len(chosen) < 2:
        return
    bits = np.unpackbits(np.frombuffer(b"".join(prints[number].bits or b"" for number in chosen), dtype=np.uint8))
    signs = bits.reshape(len(chosen), -1).astype(np.float32) * 2 - 1
    index = np.array(chosen)
    least = signs.shape[1] - 2 * threshold  # the product of two rows is agreeing minus differing bits
    step = max(1, (1 << 23) // len(chosen))
    group = np.arange(len(chosen))
    for top in range(0, len(chosen), step):
        agreement = signs[top : top + step] @ signs[top:].T
        near = agreement >= least
        for row in np.flatnonzero(np.count_nonzero(near, axis=1) > 1).tolist():  # it is near to itself
            later = np.flatnonzero(near[row, row + 1 :]) + row + 1
            if links:
                others, at = np.unique(group[top + later], return_index=True)
                later = later[at[others != group[top + row]]]
                if later.size:
                    group[np.isin(group, others)] = group[top + row]
            distances = ((signs.shape[1] - agreement[row, later]) / 2).astype(int)
            for other, distance in zip(index[top + later].tolist(), distances.tolist(), strict=True):
                yield int(index[top + row]), other, distance


class Groups(Generic[Key]):
    """Things that belong together, joined pair by pair (union-find)."""

    def __init__(self, members: Iterable[Key]) -> None:
        self._parent = {member: member for member in members}

    def find(self, member: Key) -> Key:
        root = member
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def join(self, one: Key, other: Key) -> bool:
        """Put two into one group; False if they were in one already."""
        left, right = self.find(one), self.find(other)
        self._parent[right] = left
        return left != right

    def all(self) -> list[list[Key]]:
        """Every group, members in the order in which they were given."""
        groups: dict[Key, list[Key]] = {}
        for member in self._parent:
            groups.setdefault(self.find(member), []).append(member)
        return list(groups.values())


def _bits(image: Image.Image) -> bytes | None:
    small = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.LANCZOS), dtype=np.int16)
    if small.std() < _FLAT:
        return None
    packed: npt.NDArray[np.uint8] = np.packbits(small[:, 1:] > small[:, :-1])
    return packed.tobytes()


def _read(path: Path) -> bytes:
    check_weight(path, str(path))
    try:
        return content_of(path)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", where=str(path)) from error
