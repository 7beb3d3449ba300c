"""A large photo in tiles: where they lie, and their maps joined into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import MapError
from .labels import LabelSpace
from .panoptic_map import PanopticMap, Segment, bands, looked_up

Ids = npt.NDArray[np.int32]
TILES = ".tiles"  # ends the name of the folder that holds a photo's
SHARED = 0.5  # of the smaller one's pixels where two tiles overlap: from there on two things are one


@dataclass(frozen=True)
class Tile:
    """A window of a photo. `core`: (top, left, bottom, right) of what is taken from it, to the middle of overlaps."""

    top: int
    left: int
    height: int
    width: int
    core: tuple[int, int, int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow crops."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def photo_of(name: str) -> str | None:
    """The photo that a tile in a dataset was cut from, by the tile's name; None for what is no tile."""
    parent = PurePosixPath(name).parent
    return parent.as_posix().removesuffix(TILES) if parent.name.endswith(TILES) else None


def overlap_of(tile: int, overlap: int | None) -> int:
    """An eighth of the tile, where nobody says."""
    shared = tile // 8 if overlap is None else overlap
    if tile < 1 or not 0 <= shared <= tile // 2:
        raise MapError(
            f"tiles of {tile} pixels that overlap by {shared}", fix="Give an overlap from 0 to half of the tile."
        )
    return shared


def rows_of_tiles(size: tuple[int, int], tile: int, overlap: int | None = None) -> list[list[Tile]]:
    """(height, width) of a photo → its tiles, row by row: `tile` pixels a side, or the photo's own where that is less.

    They are spread evenly, so that neighbours share at least `overlap` pixels.
    """
    shared = overlap_of(tile, overlap)
    ys, xs = (_windows(side, tile, shared) for side in size)
    return [
        [Tile(top, left, below - top, right - left, (y, x, y_end, x_end)) for left, right, x, x_end in xs]
        for top, below, y, y_end in ys
    ]


def _windows(side: int, tile: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Of each window along a side: begin, end, and begin and end of its core."""
    count = 1 if side <= tile else -(-(side - overlap) // (tile - overlap))
    starts = [round(place * (side - tile) / (count - 1)) for place in range(count)] if count > 1 else [0]
    ends = [min(start + tile, side) for start in starts]
    middles = [(end + start) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True)]
    return list(zip(starts, ends, [0, *middles], [*middles, side], strict=True))


class Joiner:
    """The map of a photo from those of its tiles: `add` them row by row, each row from left to right, then `map`.

    Stuff of one class is one segment. Two things of one class are one where tiles that overlap saw the same pixels of
    it; tiles that do not are compared along their border. One row of maps is held beside the photo's own.
    """

    def __init__(self, rows: Sequence[Sequence[Tile]], space: LabelSpace) -> None:
        last = rows[-1][-1].core
        self._ids: Ids = np.zeros((last[2], last[3]), dtype=np.int32)
        self._space = space
        self._places = iter([(row, column, tile) for row, line in enumerate(rows) for column, tile in enumerate(line)])
        self._above: dict[int, tuple[Tile, Ids]] = {}
        self._row: dict[int, tuple[Tile, Ids]] = {}
        self._line = 0
        self._segments: list[Segment] = []  # at id - 1
        self._parent: list[int] = [0]
        self._stuff: dict[int, int] = {}

    def add(self, panoptic: PanopticMap) -> None:
        row, column, tile = next(self._places)
        if (panoptic.height, panoptic.width) != (tile.height, tile.width):
            raise MapError(
                f"a tile of {tile.width}×{tile.height} came back as {panoptic.width}×{panoptic.height}",
                fix="A labeler returns maps at the size of the photo.",
            )
        if row != self._line:
            self._line, self._above, self._row = row, self._row, {}
        table = np.zeros(int(panoptic.ids.max()) + 1, dtype=np.int32)
        for segment in panoptic.segments:
            table[segment.id] = self._new(segment)
        ids = looked_up(table, panoptic.ids)
        for neighbour in (self._row.get(column - 1), *(self._above.get(column + step) for step in (-1, 0, 1))):
            if neighbour is not None:
                self._join(*_shared(neighbour, (tile, ids)))
        top, left, below, right = tile.core
        self._ids[top:below, left:right] = ids[top - tile.top : below - tile.top, left - tile.left : right - tile.left]
        self._row[column] = tile, ids

    def map(self) -> PanopticMap:
        roots = np.array([self._root(known) for known in range(len(self._parent))], dtype=np.int32)
        areas = np.zeros(len(roots), dtype=np.int64)
        for band in bands(len(self._ids)):
            areas += np.bincount(self._ids[band].ravel(), minlength=len(roots))
        totals = np.bincount(roots, weights=areas, minlength=len(roots))
        scores = np.bincount(roots, weights=areas * np.array([0.0, *(each.score for each in self._segments)]))
        left = [known for known in range(1, len(roots)) if roots[known] == known and totals[known]]
        numbers = np.zeros(len(roots), dtype=np.int32)
        numbers[left] = np.arange(1, len(left) + 1)
        segments = [
            Segment(number, first.label, min(float(scores[known] / totals[known]), 1.0), first.source, first.crowd)
            for number, known in enumerate(left, start=1)
            for first in (self._segments[known - 1],)
        ]
        for band in bands(len(self._ids)):
            self._ids[band] = numbers[roots][self._ids[band]]
        return PanopticMap.of_counted(self._ids, segments, self._space)

    def _new(self, segment: Segment) -> int:
        stuff = segment.label in self._space.stuff_labels and not segment.crowd
        number = len(self._parent)
        self._segments.append(segment)
        self._parent.append(self._stuff.setdefault(segment.label, number) if stuff else number)
        return number

    def _join(self, one: Ids, other: Ids) -> None:
        """one, other: what two tiles see of the same pixels."""
        both = one.astype(np.int64) << 32 | other
        pairs, counts = np.unique(both[(one != 0) & (other != 0)], return_counts=True)
        sizes = [np.bincount(each.ravel(), minlength=len(self._parent)) for each in (one, other)]
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            first, second = pair >> 32, pair & 0xFFFFFFFF
            mine, theirs = self._segments[first - 1], self._segments[second - 1]
            alike = mine.label == theirs.label and not mine.crowd and not theirs.crowd
            if alike and count >= SHARED * min(sizes[0][first], sizes[1][second]):
                first, second = sorted((self._root(first), self._root(second)))
                self._parent[second] = first

    def _root(self, known: int) -> int:
        while self._parent[known] != known:
            self._parent[known] = self._parent[self._parent[known]]
            known = self._parent[known]
        return known


def _shared(one: tuple[Tile, Ids], other: tuple[Tile, Ids]) -> tuple[Ids, Ids]:
    """What two neighbours see of the pixels that both have; where there are none, the lines along their border."""
    (a, ids), (b, others) = one, other
    spans = []
    for start, end, begin, stop in (
        (a.top, a.top + a.height, b.top, b.top + b.height),
        (a.left, a.left + a.width, b.left, b.left + b.width),
    ):
        low, high = max(start, begin), min(end, stop)
        if low < high:
            spans.append((slice(low - start, high - start), slice(low - begin, high - begin)))
        elif end <= begin:
            spans.append((slice(end - start - 1, end - start), slice(0, 1)))
        else:
            spans.append((slice(0, 1), slice(stop - begin - 1, stop - begin)))
    (rows, other_rows), (columns, other_columns) = spans
    return ids[rows, columns], others[other_rows, other_columns]


def segment_in_tiles(
    photo: Any,
    size: tuple[int, int],
    segment: Callable[[list[Any]], list[PanopticMap]],
    space: LabelSpace,
    tile: int,
    overlap: int | None = None,
    *,
    batch_size: int = 4,
    done: Callable[[int], object] = lambda count: None,
) -> PanopticMap:
    """The map of a photo of (height, width) that `segment` makes tile by tile, `batch_size` of them at a time.

    photo: a PIL image, or an array or tensor [3, H, W] or [H, W, 3]. `done` is told how many tiles are.
    """
    rows = rows_of_tiles(size, tile, overlap)
    tiles = [each for row in rows for each in row]
    if len(tiles) == 1:
        (whole,) = segment([photo])
        done(1)
        return whole
    joiner = Joiner(rows, space)
    for start in range(0, len(tiles), batch_size):
        some = tiles[start : start + batch_size]
        for panoptic in segment([_crop(photo, size, each) for each in some]):
            joiner.add(panoptic)
        done(len(some))
    return joiner.map()


def count_of_tiles(size: tuple[int, int], tile: int, overlap: int | None = None) -> int:
    return sum(map(len, rows_of_tiles(size, tile, overlap)))


def _crop(photo: Any, size: tuple[int, int], tile: Tile) -> Any:
    if hasattr(photo, "crop"):
        return photo.crop(tile.box)
    left, top, right, below = tile.box
    if tuple(photo.shape[-2:]) == size:
        return photo[..., top:below, left:right]
    return photo[top:below, left:right]
