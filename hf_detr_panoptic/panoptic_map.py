"""`PanopticMap`: which segment each pixel belongs to. Areas, boxes and masks are computed from the pixels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import LabelError, MapError, did_you_mean
from .labels import LabelSpace
from .text import and_more, count_of

Element = TypeVar("Element", bound=np.generic)

MAX_ID = 256**3 - 1
SEGMENT_SOURCES = ("custom", "auto", "model")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Segment:
    """One region with one label. `source`: marked by the person, added by the labeler, or predicted by a model."""

    id: int
    label: int
    score: float = 1.0
    source: str = "custom"
    crowd: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", int(self.id))
        object.__setattr__(self, "label", int(self.label))
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "crowd", bool(self.crowd))
        if not 1 <= self.id <= MAX_ID:
            raise MapError(f"a segment cannot have the id {self.id}", fix=f"Use 1 to {MAX_ID}; 0 is void.")
        if not 0.0 <= self.score <= 1.0:
            raise MapError(f"segment {self.id} has the score {self.score}", fix="Scores run from 0 to 1.")
        if self.source not in SEGMENT_SOURCES:
            raise MapError(
                f"segment {self.id} has the unknown source {self.source!r}",
                fix=did_you_mean(self.source, SEGMENT_SOURCES),
            )


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """An id map, its segments, and the space that their labels live in. Immutable.

    ids: int32 [H, W], 0 is void (nobody knows); each other value is the id of exactly one of `segments`.
    """

    ids: npt.NDArray[np.int32]
    segments: tuple[Segment, ...]
    space: LabelSpace
    _by_id: dict[int, Segment] = field(init=False, repr=False)

    def __init__(self, ids: npt.ArrayLike, segments: Iterable[Segment], space: LabelSpace) -> None:
        listed = tuple(segments)
        object.__setattr__(self, "ids", _frozen_ids(ids))
        object.__setattr__(self, "segments", listed)
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "_by_id", {segment.id: segment for segment in listed})
        self._check()

    @classmethod
    def of_counted(cls, ids: npt.NDArray[np.int32], segments: Iterable[Segment], space: LabelSpace) -> PanopticMap:
        """For who has just counted: each id but 0 is known to be that of one segment, and each segment to have pixels.

        ids: int32 [H, W], nobody else's.
        """
        known = object.__new__(cls)
        ids.flags.writeable = False
        listed = tuple(segments)
        by_id = {segment.id: segment for segment in listed}
        for name, value in (("ids", ids), ("segments", listed), ("space", space), ("_by_id", by_id)):
            object.__setattr__(known, name, value)
        return known

    def _check(self) -> None:
        if len(self._by_id) != len(self.segments):
            counts: dict[int, int] = {}
            for segment in self.segments:
                counts[segment.id] = counts.get(segment.id, 0) + 1
            twice = [segment_id for segment_id, count in counts.items() if count > 1]
            raise MapError(f"segment {twice[0]} is listed {counts[twice[0]]} times", fix="List each id once.")
        for segment in self.segments:
            if not 0 <= segment.label < len(self.space):
                raise MapError(
                    f"segment {segment.id} has the label {segment.label}, the space has {len(self.space)}",
                    fix=f"Labels run from 0 to {len(self.space) - 1}; COCO's ids are not labels.",
                )
        there = self._runs.areas().keys() - {0}
        if unlisted := sorted(there - self._by_id.keys()):
            raise MapError(
                f"{_count(unlisted, 'id')} in the pixels but not in the list",
                fix="List the segment or make it void (0).",
            )
        if absent := sorted(self._by_id.keys() - there):
            raise MapError(f"{_count(absent, 'segment')} listed but without a pixel", fix="Leave it out of the list.")

    # --- values that the pixels say

    @property
    def height(self) -> int:
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        return int(self.ids.shape[1])

    def areas(self) -> dict[int, int]:
        """id → number of pixels, in the order of `segments`."""
        return self._ordered(self._runs.areas())

    def boxes(self) -> dict[int, Box]:
        """id → tight (x, y, width, height) in pixels: a one-pixel segment is 1 × 1."""
        return self._ordered(self._runs.boxes())

    def mask(self, segment_id: int) -> npt.NDArray[np.bool_]:
        """bool [H, W], the pixels of one segment."""
        return self.ids == self.segment(segment_id).id

    def rles(self) -> dict[int, dict[str, Any]]:
        """id → COCO's compressed run-length encoding, as pycocotools writes it."""
        from pycocotools import mask as coco_mask

        runs = _Runs.of(self.ids.T)
        return self._ordered(
            {
                segment_id: coco_mask.frPyObjects(
                    {"size": [self.height, self.width], "counts": counts}, *self.ids.shape
                )
                for segment_id, counts in runs.counts().items()
            }
        )

    def segment(self, segment_id: int) -> Segment:
        try:
            return self._by_id[segment_id]
        except KeyError:
            raise MapError(f"no segment has the id {segment_id}", fix=did_you_mean(segment_id, self._by_id)) from None

    @property
    def void_area(self) -> int:
        """The number of pixels that nobody knows."""
        return self._runs.areas().get(0, 0)

    # --- new maps from this one

    def without(self, ids: Iterable[int]) -> PanopticMap:
        """These segments become void."""
        gone = {self.segment(segment_id).id for segment_id in ids}
        return self._renumbered(dict.fromkeys(gone, 0), [s for s in self.segments if s.id not in gone])

    def relabelled(self, space: LabelSpace, names: Mapping[str, str | None] | None = None) -> PanopticMap:
        """The same pixels in another space, class by class by name.

        `names` (see `LabelSpace.mapping`) gives old names their new ones; None turns a class to void.
        """
        gone: list[int] = []
        kept: list[Segment] = []
        for segment in self.segments:
            old = self.space[segment.label].name
            new = old if names is None else names.get(old, old)
            if new is None:
                gone.append(segment.id)
                continue
            if new not in space.names:
                raise LabelError(
                    f"segment {segment.id} is '{new}', which the new label space does not know",
                    fix=did_you_mean(new, space.names) + " Or map it to None, so that it becomes void.",
                )
            kept.append(replace(segment, label=space.index(new)))
        return self._renumbered(dict.fromkeys(gone, 0), kept, space)

    def fused_stuff(self) -> PanopticMap:
        """Stuff of one class becomes one segment: the first one's id, the mean score weighted by area.

        Sources may differ: custom wins over auto over model. Crowds stay apart.
        """
        groups: dict[int, list[Segment]] = {}
        for segment in self.segments:
            if segment.label in self.space.stuff_labels and not segment.crowd:
                groups.setdefault(segment.label, []).append(segment)
        areas = self.areas()
        renumber: dict[int, int] = {}
        fused: dict[int, Segment] = {}
        for first, *others in groups.values():
            members = [first, *others]
            pixels = sum(areas[member.id] for member in members)
            score = sum(member.score * areas[member.id] for member in members) / pixels
            source = min((member.source for member in members), key=SEGMENT_SOURCES.index)
            fused[first.id] = replace(first, score=min(score, 1.0), source=source) if others else first
            renumber.update({other.id: first.id for other in others})
        kept = [fused.get(segment.id, segment) for segment in self.segments if segment.id not in renumber]
        return self._renumbered(renumber, kept)

    def compacted(self) -> PanopticMap:
        """Ids 1, 2, 3, … in the order of `segments`."""
        renumber = {segment.id: number for number, segment in enumerate(self.segments, start=1)}
        return self._renumbered(renumber, [replace(s, id=renumber[s.id]) for s in self.segments])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PanopticMap)
            and self.space == other.space
            and self.segments == other.segments
            and np.array_equal(self.ids, other.ids)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"PanopticMap({self.width}×{self.height}, {count_of(len(self.segments), 'segment')}, "
            f"{count_of(self.void_area, 'void pixel')})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"ids": self.ids, "segments": self.segments, "space": self.space}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @functools.cached_property
    def _runs(self) -> _Runs:
        return _Runs.of(self.ids)

    def _ordered(self, values: Mapping[int, Any]) -> dict[int, Any]:
        return {segment.id: values[segment.id] for segment in self.segments}

    def _renumbered(
        self, renumber: Mapping[int, int], segments: Iterable[Segment], space: LabelSpace | None = None
    ) -> PanopticMap:
        if not renumber:
            return PanopticMap(self.ids, segments, space or self.space)
        old, index = np.unique(self._runs.ids, return_inverse=True)
        new = np.array([renumber.get(segment_id, segment_id) for segment_id in old.tolist()], dtype=np.int32)
        ids = np.repeat(new[index], self._runs.lengths).reshape(self.ids.shape)
        return PanopticMap(ids, segments, space or self.space)


def boxes_of_ids(ids: npt.NDArray[np.int32]) -> dict[int, Box]:
    """int32 [H, W] → the tight (x, y, width, height) of every id that is there, void's too, in rising order."""
    return _Runs.of(ids).boxes()


def shared_pixels(one: PanopticMap, other: PanopticMap) -> dict[tuple[int, int], int]:
    """(id, the other map's id) → the pixels that both have, void (0) among the ids."""
    if one.ids.shape != other.ids.shape:
        raise MapError(f"maps of {one.width}×{one.height} and {other.width}×{other.height} pixels share none")
    starts = np.union1d(one._runs.starts, other._runs.starts)
    ids, others = (each.ids.reshape(-1)[starts].astype(np.int64) for each in (one, other))
    runs = _Runs(starts, np.diff(starts, append=one.ids.size), ids << 32 | others, one.ids.shape)
    return {(pair >> 32, pair & 0xFFFFFFFF): pixels for pair, pixels in runs.areas().items()}


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """bool [H, W] → COCO's uncompressed run lengths, down the columns, beginning outside."""
    return _Runs.of(mask.T.astype(np.int32)).counts().get(1, [mask.size])


def ids_to_rgb(ids: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """int [H, W] → uint8 [H, W, 3], COCO panoptic's PNG: id = R + 256·G + 256²·B."""
    values = np.asarray(ids)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise MapError(f"an id map is whole numbers [H, W], not {values.dtype} {list(values.shape)}")
    if values.size and not 0 <= values.min() <= values.max() <= MAX_ID:
        raise MapError(f"ids run from {values.min()} to {values.max()}", fix=f"A PNG holds 0 to {MAX_ID}.")
    little_endian = np.ascontiguousarray(values, dtype="<u4").view(np.uint8).reshape(*values.shape, 4)
    return np.ascontiguousarray(little_endian[..., :3])


def rgb_to_ids(rgb: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """uint8 [H, W, 3] → int32 [H, W], the way back."""
    channels = np.asarray(rgb)
    if channels.ndim != 3 or channels.shape[2] != 3 or channels.dtype != np.uint8:
        raise MapError(
            f"an RGB id map is uint8 [H, W, 3], not {channels.dtype} {list(channels.shape)}",
            fix="Save the PNG in RGB mode: a greyscale or palette PNG has lost the ids.",
        )
    ids = channels[..., 2].astype(np.int32)  # in place: of a large photo a map takes 200 MB
    for channel in (1, 0):
        ids <<= 8
        ids |= channels[..., channel]
    return ids


def bands(height: int) -> Iterator[slice]:
    """Rows of a large map, some at a time: numpy makes 64 bits of each index, of a large photo 400 MB."""
    return (slice(start, start + 64) for start in range(0, height, 64))


def looked_up(table: npt.NDArray[Element], indices: npt.NDArray[np.integer[Any]]) -> npt.NDArray[Element]:
    """`table[indices]` of a map [H, W], in bands."""
    values = np.empty(indices.shape, dtype=table.dtype)
    for band in bands(len(indices)):
        values[band] = table[indices[band]]
    return values


@dataclass(frozen=True)
class _Runs:
    """The stretches of equal ids along the rows, void too: few beside the pixels, and all that areas and boxes need.

    starts, lengths: int64 [R] in flattened pixels; ids: int [R]. No run crosses the end of a row.
    """

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    ids: npt.NDArray[np.signedinteger[Any]]
    shape: tuple[int, int]

    @classmethod
    def of(cls, ids: npt.NDArray[np.signedinteger[Any]]) -> _Runs:
        flat = np.ascontiguousarray(ids).reshape(-1)
        begins = np.empty(flat.size, dtype=bool)
        np.not_equal(flat[1:], flat[:-1], out=begins[1:])
        begins[:: ids.shape[1]] = True
        starts = np.flatnonzero(begins)
        return cls(starts, np.diff(starts, append=flat.size), flat[starts], (ids.shape[0], ids.shape[1]))

    @functools.cached_property
    def _groups(self) -> tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The distinct ids, the order of the runs that puts equal ids together, and where each id begins in it."""
        # numpy sorts 16 bits by their digits, several times faster than more bits by comparing.
        small = self.ids.astype(np.uint16) if self.ids.min() >= 0 and self.ids.max() < 2**16 else self.ids
        order = np.argsort(small, kind="stable")
        grouped = self.ids[order]
        heads = np.flatnonzero(np.diff(grouped, prepend=grouped[0] - 1))
        return grouped[heads].tolist(), order, heads

    def areas(self) -> dict[int, int]:
        ids, order, heads = self._groups
        return dict(zip(ids, np.add.reduceat(self.lengths[order], heads).tolist(), strict=True))

    def boxes(self) -> dict[int, Box]:
        ids, order, heads = self._groups
        rows, left = np.divmod(self.starts[order], self.shape[1])
        x = np.minimum.reduceat(left, heads)
        x_end = np.maximum.reduceat(left + self.lengths[order], heads)
        y = rows[heads]  # the order is stable, so the first run of an id is its topmost, the last its lowest
        y_end = rows[np.append(heads[1:], len(rows)) - 1] + 1
        corners = (x.tolist(), y.tolist(), (x_end - x).tolist(), (y_end - y).tolist())
        return dict(zip(ids, zip(*corners, strict=True), strict=True))

    def counts(self) -> dict[int, list[int]]:
        """id → alternating run lengths outside and inside the segment, beginning outside: COCO's uncompressed RLE."""
        ids, order, heads = self._groups
        size = self.shape[0] * self.shape[1]
        counts: dict[int, list[int]] = {}
        for segment_id, runs in zip(ids, np.split(order, heads[1:]), strict=True):
            starts, ends = self.starts[runs], self.starts[runs] + self.lengths[runs]
            apart = starts[1:] != ends[:-1]  # runs were cut at row ends: join what touches
            edges = np.column_stack([starts[np.r_[True, apart]], ends[np.r_[apart, True]]]).reshape(-1)
            rest = [] if edges[-1] == size else [size - int(edges[-1])]
            counts[segment_id] = np.diff(edges, prepend=0).tolist() + rest
        return counts


def _frozen_ids(ids: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """int32 [H, W], read-only and nobody else's."""
    values = np.asarray(ids)
    if values.ndim != 2 or 0 in values.shape:
        raise MapError(f"an id map has the shape [H, W], not {list(values.shape)}")
    if values.dtype.kind not in "iu":
        raise MapError(f"an id map holds whole numbers, not {values.dtype}", fix="Use int32.")
    if values.dtype == np.int32 and not values.flags.writeable and values.flags.owndata:
        frozen = values
    else:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > MAX_ID:
            raise MapError(f"ids run from {low} to {high}", fix=f"Use 0 (void) to {MAX_ID}.")
        frozen = values.astype(np.int32, order="C", copy=True)
        frozen.flags.writeable = False
    return frozen


def _count(ids: list[int], noun: str) -> str:
    shown = and_more(ids, 5)
    return f"{noun} {shown} is" if len(ids) == 1 else f"{noun}s {shown} are"
