"""Photos of another COCO panoptic dataset beside one's own, so that stuff and rare classes do not starve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..errors import DatasetError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from .coco_panoptic import Record


class Mixed(NamedTuple):
    """A foreign photo whose map speaks our names; `name` keeps it apart from our own photos."""

    name: str
    record: Record
    map: PanopticMap


def mixed(
    records: Iterable[Record],
    space: LabelSpace,
    names: Mapping[str, str | None] | None = None,
    folder: str = "mix",
    min_known: float = 0.5,
) -> Iterator[Mixed]:
    """The records in our space, classes matched by name; what we have no name for becomes void.

    `names` renames theirs to ours first. A photo of which less than `min_known` is left would teach little but void:
    it is passed over.
    """
    unknown = sorted({name for name in (names or {}).values() if name is not None and name not in space.names})
    if unknown:
        raise DatasetError(f"mix: no category is called {unknown[0]!r}", fix=did_you_mean(unknown[0], space.names))
    for record in records:
        theirs = record.map()
        fate = {old: (names or {}).get(old, old) for old in record.space.names}
        fate = {old: new if new in space.names else None for old, new in fate.items()}
        ours = theirs.relabelled(space, fate).fused_stuff()
        if ours.segments and 1 - ours.void_area / ours.ids.size >= min_known:
            yield Mixed(f"{folder}/{record.file_name}", record, ours)
