"""The demo's photos: a folder as a person has it, with marks on their own classes only, and the whole truth apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.stored_photos import encode_photo, write_atomically
from ...data.writer import DatasetWriter
from ...demo.scenes import Scene, scene
from ...demo.site import CUSTOM, SITE
from ...panoptic_map import PanopticMap
from .marks import CvatExport

Size = tuple[int, int]

SCENES = 1_000_000
"""Added to the demo's seed: its places are none of those that the teacher was trained on."""
_HELD_OUT = 1_000_000  # index of the first held-out scene of a seed
_HAND = 77


@dataclass(frozen=True)
class Place:
    """Where a demo lies: `photos` and `marks` are the person's, `truth` and `held_out` are kept from them."""

    folder: Path

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def photos(self) -> Path:
        return self.folder / "site" / "photos"

    @property
    def marks(self) -> Path:
        return self.folder / "site" / "annotations.zip"

    @property
    def truth(self) -> Path:
        return self.folder / "truth"

    @property
    def held_out(self) -> Path:
        return self.folder / "held-out"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"


def make_photos(
    place: Place, count: int, held_out: int, seed: int, size: Size, progress: bool = False
) -> Counter[str]:
    """Photos, marks and both truths; returns how many marks there are of each class.

    Both truths are datasets in COCO panoptic format whose photos are in the split val.
    """
    export = CvatExport(CUSTOM)
    bar = _bar(count + held_out, progress)
    with DatasetWriter(place.truth, SITE, "What the photos really show, every pixel of it.") as writer, bar:
        for index, made in _scenes(seed, range(count), size, bar):
            name = f"site_{index:04}.jpg"
            path = place.photos / name
            write_atomically(path, encode_photo(made.photo))
            writer.add("val", name, path, _as_truth(made.truth))
            export.add(name, made.truth, np.random.default_rng([_HAND, seed, index]))
        with DatasetWriter(place.held_out, SITE, "Photos that nobody learns from, and what they show.") as other:
            for index, made in _scenes(seed, range(_HELD_OUT, _HELD_OUT + held_out), size, bar):
                other.add("val", f"held_out_{index - _HELD_OUT:04}.jpg", made.photo, _as_truth(made.truth))
    export.write(place.marks)
    return Counter(CUSTOM.names[entry["category_id"] - 1] for entry in export.annotations)


def _as_truth(map: PanopticMap) -> PanopticMap:
    """No labeler has a part in it, whatever the classes: against these segments quality is quality."""
    return PanopticMap(map.ids, [replace(segment, source="custom") for segment in map.segments], map.space)


def _scenes(seed: int, indices: Iterable[int], size: Size, bar: Any) -> Iterator[tuple[int, Scene]]:
    for index in indices:
        yield index, scene(SCENES + seed, index, size)
        bar.update()


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="taking photos", unit="photo", disable=not progress, leave=False)
