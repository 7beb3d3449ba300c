"""Which photos are the same photo: exact copies, and near ones (recompressed, resized, marked, mirrored, turned,
cropped by a few per cent, put in a frame)."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import ImageError
from ..files import content_of
from ..images import check_weight, open_image, open_lazily
from ..tiles import photo_of

# Of 256 bits. Measured on 35 photos of building sites, fires, defects and COCO: JPEG quality 30, a quarter of the
# size, brightness × 1.3 or a stamp in a corner change 39 at most; 2 % cropped off each side 27 in the median, 40 at
# most; two different photos differ in 96 or more, 128 being chance. Turned and cropped as below, copies of 183 street
# photos are found: mirrored or turned 98 %, 5 % off each side, one or two 97 %, in a frame of 40 pixels 96 %; and of
# 970 no two more are near, even at 55.
NEAR = 40
_FLAT = 2.0  # grey levels: below this spread, bits are noise and every blank wall looks like every other
_TIE = 0.02  # correlation of brightness with a direction: a copy changes it by less
_TOLD = 0.7  # of the cells differ from their neighbours; fewer where a thing lies on empty paper, and these look alike
_FRAME = 4.0  # grey levels: what JPEG makes of a frame of one colour
_BITS = 256
_IDLE = 8  # photos that gather next to nothing, and then everything is compared with everything
# What is cut off two opposite sides, in shares, and which of these are cut off left and right, above and below.
_CUTS = ((0.0, 0.0), (0.025, 0.025), (0.05, 0.05), (0.05, 0.0), (0.0, 0.05))
_CROPS = ((1, 1), (2, 2), (3, 0), (4, 0), (0, 3), (0, 4), (3, 3), (3, 4), (4, 3), (4, 4))
_ONE = 1 << 16
_CELLS = 1 << 20  # that are compared at once: where all of them are near, each takes some 60 bytes

Key = TypeVar("Key", bound=Hashable)
_Ints = npt.NDArray[np.int64]
_Thumbnail = npt.NDArray[np.int16]
_Grey = npt.NDArray[np.float64]
_Span = tuple[float, float]


@dataclass(frozen=True)
class Fingerprint:
    """`digest` of the file's bytes; `bits`: is each cell of a 16 × 17 thumbnail brighter than its left neighbour.

    bits: 32 bytes, None for a photo without contrast, which is like no other unless it is an exact copy. `turned`: the
    bits of the photo turned and mirrored to where its light comes from one corner, which all eight ways of storing it
    have in common; 32 bytes each: one, more where two ways are nearly a tie, none for a drawing on empty paper.
    `cropped`: the bits of parts of it, turned likewise: its middle, without a side, inside its frame.
    """

    digest: str
    bits: bytes | None
    turned: bytes = b""
    cropped: bytes = b""

    def distance(self, other: Fingerprint) -> int | None:
        """Bits that differ, both as they are seen; None where a photo has no contrast."""
        if self.bits is None or other.bits is None:
            return None
        return (int.from_bytes(self.bits) ^ int.from_bytes(other.bits)).bit_count()


def fingerprint(photo: str | Path | bytes | Image.Image) -> Fingerprint:
    """The fingerprint of a photo as it is seen. A photo that cannot be decoded to its end is an `ImageError`."""
    if isinstance(photo, Image.Image):
        return _print(hashlib.blake2b(photo.tobytes(), digest_size=16).hexdigest(), photo)
    content = photo if isinstance(photo, bytes) else _read(Path(photo))
    digest = digest_of(content)
    try:
        with open_lazily(content) as image:
            if image.format != "JPEG":
                raise ValueError
            image.draft("L", (128, 128))  # an eighth of the work: JPEG holds its own thumbnails
            return _print(digest, ImageOps.exif_transpose(image))
    except Exception:
        return _print(digest, open_image(content if isinstance(photo, bytes) else Path(photo)))


def of_photo(name: str, seen: Fingerprint) -> Fingerprint:
    """A tile of a photo is like the tiles of others, being all sky or all wall: that tells nothing of the photos."""
    return seen if photo_of(name) is None else replace(seen, bits=None)


def digest_of(content: bytes) -> str:
    """Tells files apart by their bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


# --- which are near


def near_pairs(
    prints: Sequence[Fingerprint], threshold: int = NEAR, links: bool = False
) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) with i < j of all pairs at most `threshold` bits apart; exact copies have distance 0.

    The distance is that of the photos as they are seen, or as turned and cropped, whichever is less.
    `links`: as few of them as join the same groups, since a fixed camera's photos are all alike, pair by pair.
    Compares everything with everything as matrix products (benchmarks/data.py has the time).
    """
    firsts = yield from _exact(prints)
    if links:
        yield from _links(prints, firsts, threshold)
        return
    found: dict[tuple[int, int], int] = {}
    apart = np.arange(len(prints))
    seen = _seen(prints, firsts)
    for rows, columns in ((seen, seen), (_likeliest(prints, firsts), _whole(prints, firsts))):
        for i, j, distance in _blocks(rows, columns, threshold, apart):
            for pair in zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), distance.tolist(), strict=True):
                found[pair[:2]] = min(pair[2], found.get(pair[:2], threshold))
    yield from ((i, j, distance) for (i, j), distance in sorted(found.items()))


def nearest_across(
    prints: Sequence[Fingerprint], sides: Sequence[str], threshold: int = NEAR
) -> Iterator[tuple[int, int, int]]:
    """(i, j, distance) with i < j: exact copies, wherever they are, and each photo with the nearest on another side.

    As many at most as there are photos, where `near_pairs` has thousands for each photo of a fixed camera. A photo
    that has near ones as they are seen is not looked for turned or cropped.
    """
    firsts = yield from _exact(prints)
    side = np.unique(np.array(sides, dtype=object).astype(str), return_inverse=True)[1]
    best: dict[int, tuple[int, int]] = {}  # photo → distance, the other

    def look(rows: _Rows, columns: _Rows) -> None:
        for i, j, distance in _blocks(rows, columns, threshold, side, nearest=True):
            for one, other, bits in zip(i.tolist(), j.tolist(), distance.tolist(), strict=True):
                best[one] = min(best.get(one, (bits, other)), (bits, other))

    seen = _seen(prints, firsts)
    look(seen, seen)
    lonely = [number for number in firsts if number not in best]
    look(_likeliest(prints, lonely), _whole(prints, firsts))
    look(_whole(prints, lonely), _likeliest(prints, firsts))
    found = {(min(one, other), max(one, other)): bits for one, (bits, other) in best.items()}
    yield from ((i, j, distance) for (i, j), distance in sorted(found.items()))


def _exact(prints: Sequence[Fingerprint]) -> Generator[tuple[int, int, int], None, list[int]]:
    """Yields each exact copy with its first; returns the first of each that has contrast."""
    first: dict[str, int] = {}
    chosen: list[int] = []
    for number, entry in enumerate(prints):
        original = first.setdefault(entry.digest, number)
        if original != number:
            yield original, number, 0
        elif entry.bits is not None:
            chosen.append(number)
    return chosen


class _Rows(NamedTuple):
    """bits: uint8 [N, 32]; photo: int [N], whose they are."""

    bits: npt.NDArray[np.uint8]
    photo: _Ints

    def of(self, label: _Ints) -> tuple[_Rows, _Ints]:
        """Those of one label together, and the labels."""
        order = np.argsort(label[self.photo], kind="stable")
        return _Rows(self.bits[order], self.photo[order]), label[self.photo[order]]


def _rows(bits: Iterable[tuple[int, bytes]]) -> _Rows:
    parts = list(bits)
    rows = np.frombuffer(b"".join(part for _, part in parts), dtype=np.uint8).reshape(-1, _BITS // 8)
    lengths = [len(part) // rows.shape[1] for _, part in parts]
    return _Rows(rows, np.repeat(np.array([photo for photo, _ in parts], dtype=np.int64), lengths))


def _seen(prints: Sequence[Fingerprint], photos: Sequence[int]) -> _Rows:
    return _rows((photo, prints[photo].bits or b"") for photo in photos)


def _whole(prints: Sequence[Fingerprint], photos: Sequence[int]) -> _Rows:
    return _rows((photo, prints[photo].turned) for photo in photos)


def _likeliest(prints: Sequence[Fingerprint], photos: Sequence[int]) -> _Rows:
    """The whole and its parts, one way round each: what is nearly a tie is in the other's `_whole`."""
    return _rows((photo, prints[photo].turned[: _BITS // 8] + prints[photo].cropped) for photo in photos)


def _signs(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1


def _blocks(
    rows: _Rows, columns: _Rows, threshold: int, label: _Ints, nearest: bool = False
) -> Iterator[tuple[_Ints, _Ints, _Ints]]:
    """Photos of `rows`, photos of `columns` and distances, of all that are near and have two labels; `nearest`: of
    each row the nearest."""
    if not len(rows.photo) or not len(columns.photo):
        return
    rows, mine = rows.of(label)
    columns, theirs = columns.of(label)
    signs = np.ascontiguousarray(_signs(columns.bits).T)
    step = max(1, _CELLS // len(theirs))
    for top in range(0, len(mine), step):
        block, labels = _signs(rows.bits[top : top + step]), mine[top : top + step]
        ranges = [(0, len(theirs))]
        if labels[0] == labels[-1]:  # a fixed camera's are passed over without a look
            own = np.searchsorted(theirs, labels[0]), np.searchsorted(theirs, labels[0], "right")
            ranges = [(0, own[0]), (own[1], len(theirs))]
        for first, last in ranges:
            if first == last:
                continue
            agreement = block @ signs[:, first:last]  # agreeing minus differing bits
            if nearest:
                if len(ranges) == 1:
                    agreement[labels[:, None] == theirs] = -_BITS
                row, column = np.arange(len(block)), agreement.argmax(axis=1)
            else:
                row, column = np.divmod(np.flatnonzero(agreement >= _BITS - 2 * threshold), last - first)
            distance = (_BITS - agreement[row, column].astype(np.int64)) // 2
            kept = np.flatnonzero((distance <= threshold) & (labels[row] != theirs[first + column]))
            yield rows.photo[top + row[kept]], columns.photo[first + column[kept]], distance[kept]


def _links(prints: Sequence[Fingerprint], photos: Sequence[int], threshold: int) -> Iterator[tuple[int, int, int]]:
    groups = Groups(range(len(prints)))
    for found in itertools.chain(_gathered(prints, photos, threshold), _passes(prints, photos, threshold, groups)):
        for i, j, distance in zip(*(part.tolist() for part in found), strict=True):
            if groups.join(i, j):
                yield min(i, j), max(i, j), distance


def _passes(
    prints: Sequence[Fingerprint], photos: Sequence[int], threshold: int, groups: Groups[int]
) -> Iterator[tuple[_Ints, _Ints, _Ints]]:
    seen = _seen(prints, photos)
    for rows, columns in ((seen, seen), (_likeliest(prints, photos), _whole(prints, photos))):
        label = np.array([groups.find(number) for number in range(len(prints))])  # of what the pass before has joined
        for i, j, distance in _blocks(rows, columns, threshold, label):
            # Of two groups the first pair joins them: a camera's others are millions.
            firsts = np.sort(np.unique(label[i] * len(label) + label[j], return_index=True)[1])
            yield i[firsts], j[firsts], distance[firsts]


def _gathered(
    prints: Sequence[Fingerprint], photos: Sequence[int], threshold: int
) -> list[tuple[_Ints, _Ints, _Ints]]:
    """What is near to the first photo, then to the first of the rest, and so on while that gathers much: a camera's
    thousands are one group before anything is compared with everything."""
    rows = _seen(prints, photos)
    left, idle = np.arange(len(rows.photo)), 0
    found: list[tuple[_Ints, _Ints, _Ints]] = []
    while left.size > 1 and idle < _IDLE:
        first, left = left[0], left[1:]
        distance = np.bitwise_count(rows.bits[left] ^ rows.bits[first]).sum(axis=1, dtype=np.int64)
        near = distance <= threshold
        found.append((np.full(near.sum(), rows.photo[first]), rows.photo[left[near]], distance[near]))
        idle = 0 if near.sum() > len(rows.photo) / 100 else idle + 1
        left = left[~near]
    return found


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


# --- how one is looked at


def _print(digest: str, photo: Image.Image) -> Fingerprint:
    grey = photo.convert("L")
    thumbnail = np.asarray(grey.resize((17, 16), Image.Resampling.LANCZOS), dtype=np.int16)
    if thumbnail.std() < _FLAT:
        return Fingerprint(digest, None)
    small = np.asarray(grey.reduce(max(1, min(grey.size) // 128)), dtype=np.float64)
    height, width = small.shape
    x, y = ([(start * side, side - end * side) for start, end in _CUTS] for side in (width, height))
    lying, standing = _thumbnails(small, x, y)
    beside, above = np.array([(0, 0), *_CROPS]).T
    turned, *cropped = _turned(lying[above, beside], standing[above, beside])
    frame = _inside_a_frame(small)
    if frame != (x[0], y[0]):
        inside, inside_standing = _thumbnails(small, [frame[0]], [frame[1]])
        cropped += _turned(inside[0], inside_standing[0])
    likeliest = b"".join(part for ways in cropped for part in ways[:1])
    return Fingerprint(digest, _bits(thumbnail), b"".join(turned), likeliest)


def _bits(thumbnail: _Thumbnail) -> bytes:
    packed: npt.NDArray[np.uint8] = np.packbits(thumbnail[:, 1:] > thumbnail[:, :-1])
    return packed.tobytes()


def _thumbnails(grey: _Grey, x: Sequence[_Span], y: Sequence[_Span]) -> tuple[_Thumbnail, _Thumbnail]:
    """Of all parts at once: [len(y), len(x), 16, 17] of the photo, and of the photo on its side."""
    height, width = grey.shape

    def of(rows: int, columns: int) -> _Thumbnail:
        above, beside = _shares(height, rows, tuple(y)), _shares(width, columns, tuple(x))
        cells = np.rint(above @ grey @ beside.T / _ONE**2).astype(np.int16)
        return cells.reshape(len(y), rows, len(x), columns).swapaxes(1, 2)

    return of(16, 17), of(17, 16).swapaxes(2, 3)


@functools.lru_cache(maxsize=64)
def _shares(length: int, cells: int, spans: tuple[_Span, ...]) -> _Grey:
    """[len(spans) · cells, length]: the share of each pixel in each cell of a span, by Lanczos' filter. Whole numbers,
    for sums of these are exact: the same bits on every machine."""
    middles = np.arange(length) + 0.5
    shares = []
    for start, end in spans:
        size = (end - start) / cells
        away = (middles - np.linspace(start + size / 2, end - size / 2, cells)[:, None]) / max(size, 1.0)
        weight = np.sinc(away) * np.sinc(away / 3) * (np.abs(away) < 3)
        weight *= (np.minimum(middles + 0.5, end) - np.maximum(middles - 0.5, start)).clip(0, 1)
        shares.append(np.rint(weight * (_ONE / weight.sum(axis=1, keepdims=True))))
    return np.concatenate(shares)


def _turned(lying: _Thumbnail, standing: _Thumbnail) -> list[list[bytes]]:
    """Of each thumbnail [16, 17] the bits, once it is turned and mirrored to grow brighter to the right and downwards,
    downwards more; where that is nearly a tie, of other ways too, the right one first. It is the thumbnail that is
    turned, not its bits: of two equal cells neither is brighter, whichever way they lie."""
    told = (np.abs(np.diff(lying)) > 1).mean(axis=(1, 2)) >= _TOLD
    spread = lying.std(axis=(1, 2)).clip(1)
    right = lying.mean(axis=1) @ np.linspace(-1, 1, 17) / 17 / spread
    down = lying.mean(axis=2) @ np.linspace(-1, 1, 16) / 16 / spread
    turned: list[list[bytes]] = []
    for number, (x, y) in enumerate(zip(right.tolist(), down.tolist(), strict=True)):
        ways: list[tuple[float, bytes]] = []
        for thumbnails, across, along in ((lying, x, y), (standing, y, x)):
            for sides in itertools.product((1, -1), repeat=2):
                sure = min(sides[0] * across, sides[1] * along, abs(along) - abs(across))
                if sure >= -_TIE and told[number]:
                    ways.append((sure, _bits(thumbnails[number, :: sides[1], :: sides[0]])))
        turned.append([bits for _, bits in sorted(ways, key=lambda way: -way[0])])
    return turned


def _inside_a_frame(grey: _Grey) -> tuple[_Span, _Span]:
    """From where to where the photo is, across and down, without lines of one grey at its edges; a quarter of each
    side is looked at."""
    top, bottom = _lines_of_one_grey(grey), _lines_of_one_grey(grey[::-1])
    inner = grey[top : len(grey) - bottom].T
    left, right = _lines_of_one_grey(inner), _lines_of_one_grey(inner[::-1])
    return (left, grey.shape[1] - right), (top, grey.shape[0] - bottom)


def _lines_of_one_grey(lines: _Grey) -> int:
    """How many, with the one after them, which is half frame."""
    count = 0
    while count < len(lines) // 4 and np.abs(lines[count] - lines[0].mean()).mean() <= _FRAME:
        count += 1
    return count + 1 if count else 0


def _read(path: Path) -> bytes:
    check_weight(path, str(path))
    try:
        return content_of(path)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})", where=str(path)) from error
