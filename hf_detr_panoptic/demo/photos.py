"""The demo's photos, and the marks of a hand that is not quite steady, in CVAT's export."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ..dataset.photos import encode_photo
from ..dataset.writer import DatasetWriter
from ..files import replacing, write_bytes
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, run_lengths
from ..parallel import progress_bar
from .scenes import CUSTOM, SITE, Scene, scene

Points = npt.NDArray[np.float64]

BRUSHED = 0.12
"""The share of objects that are brushed and not outlined. Polygons have no holes: objects with a hole are, too."""
_SLIP = 0.07  # how far off the hand is, as a share of area over perimeter: a thin pipe is drawn with more care
_FARTHEST = 1.0  # pixels
_INSTANCES = "annotations/instances_default.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed one gives the same bytes each time


class CvatExport:
    """Collects what was marked, photo by photo, and writes the zip of CVAT's "COCO 1.0" export."""

    def __init__(self, classes: LabelSpace) -> None:
        self.classes = classes
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, name: str, truth: PanopticMap, hand: np.random.Generator) -> int:
        """Mark everything of the person's classes on one photo; returns how many marks that took."""
        image_id = len(self.images) + 1
        size = {"width": truth.width, "height": truth.height}
        urls = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        self.images.append({"id": image_id, **size, "file_name": name, **urls})
        before = len(self.annotations)
        for segment in truth.segments:
            class_name = truth.space[segment.label].name
            if class_name in self.classes.names:
                self.annotations.append(
                    {
                        "id": len(self.annotations) + 1,
                        "image_id": image_id,
                        "category_id": self.classes.index(class_name) + 1,
                        **drawn(truth.mask(segment.id), hand),
                        "attributes": {"occluded": False},
                    }
                )
        return len(self.annotations) - before

    def write(self, path: Path) -> None:
        """The zip appears when all of it is written."""
        categories = [
            {"id": label, "name": name, "supercategory": ""} for label, name in enumerate(self.classes.names, 1)
        ]
        payload = {
            "licenses": [{"name": "", "id": 0, "url": ""}],
            "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
            "categories": categories,
            "images": self.images,
            "annotations": self.annotations,
        }
        with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(_INSTANCES, _DATE), json.dumps(payload), zipfile.ZIP_DEFLATED)


def drawn(mask: npt.NDArray[np.bool_], hand: np.random.Generator) -> dict[str, Any]:
    """bool [H, W] → segmentation, area, bbox and iscrowd of one annotation, by a hand that is a little off."""
    rings = outlines(mask)
    around = [ring for ring in rings if _area(ring) > 0]
    brushed = hand.random() < BRUSHED
    if brushed or len(around) < len(rings):
        return _brushed(mask)
    perimeter = sum(len(ring) for ring in rings)
    off = min(_FARTHEST, _SLIP * float(mask.sum()) / perimeter)
    height, width = mask.shape
    sketched = []
    for ring in around:
        corners = simplified(ring, 1.5 * off)
        corners = corners + hand.normal(0.0, off, corners.shape)
        sketched.append(np.round(corners.clip(0, (width, height)), 2))
    low, high = (pick([pick(ring, axis=0) for ring in sketched], axis=0) for pick in (np.min, np.max))
    return {
        "segmentation": [ring.reshape(-1).tolist() for ring in sketched],
        "area": round(sum(abs(_area(ring)) for ring in sketched), 2),
        "bbox": [round(side, 2) for side in (*low.tolist(), *(high - low).tolist())],
        "iscrowd": 0,
    }


def _brushed(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """As CVAT writes a brush's mask: uncompressed run lengths, `iscrowd: 1`, which here means encoding (cvat#7030)."""
    smooth = ndimage.uniform_filter(mask.astype(np.float32), 3) > 0.5
    if (smooth & mask).sum() < 0.93 * (smooth | mask).sum():  # a brush as wide as the object would lose it
        smooth = mask
    rows, columns = np.nonzero(smooth)
    left, top = int(columns.min()), int(rows.min())
    return {
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(smooth)},
        "area": float(smooth.sum()),
        "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        "iscrowd": 1,
    }


def outlines(mask: npt.NDArray[np.bool_]) -> list[Points]:
    """bool [H, W] → the closed lines between inside and outside, float [N, 2] corners (x, y) a pixel apart.

    The inside lies to the right of the way, y pointing down: lines around an object have a positive `_area`, lines
    around a hole a negative one. Pixels that touch at a corner alone belong to two objects.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return []
    top, left = int(rows.min()), int(columns.min())
    inside = np.pad(mask[top : rows.max() + 1, left : columns.max() + 1], 1).astype(np.int8)
    step: dict[tuple[int, int, int], tuple[int, int]] = {}  # corner and way (right, down, left, up) → next corner
    down, across = np.diff(inside, axis=0), np.diff(inside, axis=1)
    for y, x in np.argwhere(down == 1).tolist():
        step[x, y + 1, 0] = (x + 1, y + 1)  # along the top of a pixel, to the right
    for y, x in np.argwhere(down == -1).tolist():
        step[x + 1, y + 1, 2] = (x, y + 1)  # along the bottom, to the left
    for y, x in np.argwhere(across == 1).tolist():
        step[x + 1, y + 1, 3] = (x + 1, y)  # along the left side, up
    for y, x in np.argwhere(across == -1).tolist():
        step[x + 1, y, 1] = (x + 1, y + 1)  # along the right side, down
    rings = []
    while step:
        x, y, way = next(iter(step))
        ring = []
        while (x, y, way) in step:
            ring.append((x, y))
            x, y = step.pop((x, y, way))
            way = next((turn % 4 for turn in (way + 1, way, way + 3) if (x, y, turn % 4) in step), way)
        rings.append(np.array(ring, dtype=np.float64) + np.array([left - 1, top - 1]))
    return rings


def simplified(ring: Points, slack: float) -> Points:
    """Fewer corners, none of those left out further than `slack` from the new line (Douglas and Peucker)."""
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far, -1]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        way = closed[end] - closed[start]
        off = closed[start + 1 : end] - closed[start]
        length = max(float(np.hypot(*way)), 1e-9)
        distance = np.abs(way[0] * off[:, 1] - way[1] * off[:, 0]) / length
        worst = int(np.argmax(distance))
        if distance[worst] > slack:
            middle = start + 1 + worst
            keep[middle] = True
            spans += [(start, middle), (middle, end)]
    return closed[:-1][keep[:-1]]


def _area(ring: Points) -> float:
    """Twice counted corners, halved: positive for a line around an object."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


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
    bar = progress_bar(total=count + held_out, what="taking photos", show=progress, leave=False)
    with DatasetWriter(place.truth, SITE, "What the photos really show, every pixel of it.") as writer, bar:
        for index, made in _scenes(seed, range(count), size, bar):
            name = f"site_{index:04}.jpg"
            path = place.photos / name
            write_bytes(path, encode_photo(made.photo))
            writer.add("val", name, path, _as_truth(made.truth))
            export.add(name, made.truth, np.random.default_rng([_HAND, seed, index]))
        with DatasetWriter(place.held_out, SITE, "Photos that nobody learns from, and what they show.") as other:
            for index, made in _scenes(seed, range(_HELD_OUT, _HELD_OUT + held_out), size, bar):
                other.add("val", f"held_out_{index - _HELD_OUT:04}.jpg", made.photo, _as_truth(made.truth))
    export.write(place.marks)
    return Counter(CUSTOM.names[entry["category_id"] - 1] for entry in export.annotations)


def _as_truth(panoptic: PanopticMap) -> PanopticMap:
    """No labeler has a part in it, whatever the classes: against these segments quality is quality."""
    return PanopticMap(
        panoptic.ids, [replace(segment, source="custom") for segment in panoptic.segments], panoptic.space
    )


def _scenes(seed: int, indices: Iterable[int], size: Size, bar: Any) -> Iterator[tuple[int, Scene]]:
    for index in indices:
        yield index, scene(SCENES + seed, index, size)
        bar.update()
