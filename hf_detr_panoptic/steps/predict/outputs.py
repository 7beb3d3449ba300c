"""What `predict` leaves behind: one folder, written photo by photo, that never replaces a person's files."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...data.coco_panoptic import GENERATOR
from ...data.stored_photos import encode_photo, shrunk, stored_names, write_atomically
from ...data.writer import encode_map, write_lists
from ...errors import DatasetError
from ...labels import LabelSpace
from ...panoptic_map import PanopticMap
from ...visual.draw import draw
from ...visual.panels import panels
from .inputs import FoundPhoto, Truth

GRID_ROWS = 12  # more, and the picture of pictures shows nothing
GRID_SIDE = 640
_UNFINISHED = ".predictions-incomplete"
_OURS = ("predictions", "overlays", "masks")


class PredictionFolder:
    """`with folder.writing(…): folder.add(…)`. Refuses a folder that holds anything, unless to replace its own."""

    def __init__(self, path: Path, masks: str | None = None, overwrite: bool = False) -> None:
        self.path = path
        self.masks = masks
        self.predicted = 0
        self._rows: list[list[Image.Image]] = []
        self._with_truth = 0
        self._segments = 0
        self._void = self._pixels = 0
        self._classes: set[int] = set()
        if path.exists() and not path.is_dir():
            raise DatasetError("is a file, not a folder", where=str(path), fix="Give another --out.")
        if path.is_dir() and any(path.iterdir()):
            ours = _is_ours(path)
            if not (overwrite and ours):
                raise DatasetError(
                    "the folder holds predictions already" if ours else "the folder is not empty",
                    where=str(path),
                    fix="Give a new --out, or --overwrite." if ours else "Give a new --out.",
                )

    @contextlib.contextmanager
    def writing(self, space: LabelSpace, truth: Truth | None, photos: Sequence[FoundPhoto]) -> Iterator[None]:
        """The lists and the grid appear when the block ends well."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _UNFINISHED).touch()
        for name in _OURS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("predictions.json", "predictions.png"):
            (self.path / name).unlink(missing_ok=True)
        self._space, self._truth = space, truth
        self._stored = stored_names(photo.name for photo in photos)
        self._category_ids, self._categories = _categories(space, truth)
        known = [record.image_id for record in truth.records if isinstance(record.image_id, int)] if truth else []
        self._next_id = max(known, default=0) + 1
        self._used: set[int | str] = set()
        self._images: list[str] = []
        self._annotations: list[str] = []
        yield
        info = {"description": "predicted panoptic maps", "generator": GENERATOR}
        (self.path / "predictions").mkdir(exist_ok=True)
        if self._rows:
            write_atomically(self.path / "predictions.png", _png(self._grid()))
        write_lists(self.path / "predictions.json", info, self._categories, self._images, self._annotations)
        (self.path / _UNFINISHED).unlink()

    def add(self, name: str, photo: Image.Image, map: PanopticMap) -> None:
        """One photo's map, by the name that it was found under."""
        record = self._truth.of(name) if self._truth else None
        if record is not None and record.image_id in self._used:
            record = None
        stem = PurePosixPath(self._stored[name]).with_suffix("")
        encoded = encode_map(map)
        write_atomically(self.path / "predictions" / f"{stem}.png", encoded.png)
        write_atomically(self.path / "overlays" / f"{stem}.jpg", encode_photo(draw(photo, map)))
        self._write_masks(self.path / "masks" / stem, map)
        image_id: int | str = self._next_id if record is None else record.image_id
        self._next_id += record is None
        self._used.add(image_id)
        image = {"id": image_id, "file_name": name, "width": map.width, "height": map.height}
        segments = [
            entry | {"category_id": self._category_ids[entry["category_id"] - 1]} for entry in encoded.segments
        ]
        annotation = {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        self._images.append(json.dumps(image))
        self._annotations.append(json.dumps(annotation))
        if len(self._rows) < GRID_ROWS:
            self._rows.append(_row(photo, map, record.map() if record else None))
        self.predicted += 1
        self._with_truth += record is not None
        self._segments += len(map.segments)
        self._void += map.void_area
        self._pixels += map.width * map.height
        self._classes |= {segment.label for segment in map.segments}

    def summary(self) -> str:
        """What was written, in a few lines."""
        if not self.predicted:
            return f"no photo was predicted: {self.path} holds an empty list"
        lines = [
            f"{self.predicted} photos: {self._segments} segments of {len(self._classes)} classes, "
            f"{self._void / self._pixels:.1%} of the pixels void",
        ]
        if self._truth is not None:
            lines.append(f"{self._with_truth} of them are in the dataset of --truth")
        shown = f"the first {GRID_ROWS} photos" if self.predicted > GRID_ROWS else "every photo"
        written = {
            "predictions.png": f"{shown} beside what the model sees",
            "overlays/": "one picture a photo",
            "predictions.json": "COCO panoptic, with predictions/*.png",
        }
        if self.masks:
            written["masks/"] = f"one black and white PNG a {self.masks}"
        return "\n".join([*lines, *(f"  {self.path / name}  {what}" for name, what in written.items())])

    def _write_masks(self, folder: Path, map: PanopticMap) -> None:
        names = [category.name.replace("/", "_").replace("\\", "_") for category in map.space]
        files: dict[str, npt.NDArray[np.bool_]] = {}
        if self.masks == "segment":
            files = {f"{s.id:03}_{names[s.label]}.png": map.mask(s.id) for s in map.segments}
        elif self.masks == "class":
            for label in sorted({segment.label for segment in map.segments}):
                ids = [segment.id for segment in map.segments if segment.label == label]
                files[f"{names[label]}.png"] = np.isin(map.ids, ids)
        stored = stored_names(files)
        for name, mask in files.items():
            write_atomically(folder / stored[name], _png(Image.fromarray(mask.astype(np.uint8) * 255)))

    def _grid(self) -> Image.Image:
        titles = ["photo", "truth", "prediction"]
        with_truth = any(len(row) == 3 for row in self._rows)
        if not with_truth:
            titles.remove("truth")
        pictures: list[Image.Image] = []
        for row in self._rows:
            blank = [Image.new("RGB", (1, 1), "white")] if with_truth and len(row) == 2 else []
            pictures += [row[0], *blank, *row[1:]]
        return panels(pictures, titles + [""] * (len(pictures) - len(titles)), columns=len(titles))


def _row(photo: Image.Image, map: PanopticMap, truth: PanopticMap | None) -> list[Image.Image]:
    """Photo, truth if there is one of this size, prediction: small enough for a grid."""
    small, small_map = shrunk(photo, map, GRID_SIDE)
    middle = []
    if truth is not None and (truth.width, truth.height) == photo.size:
        middle = [draw(small, shrunk(photo, truth, GRID_SIDE)[1])]
    return [small, *middle, draw(small, small_map)]


def _categories(space: LabelSpace, truth: Truth | None) -> tuple[list[int], list[dict[str, Any]]]:
    """Each label's id in the JSON, and its `categories`: the truth's ids for the names that it knows."""
    categories = space.to_coco()
    if truth is not None and truth.records:
        theirs = {truth.space[label].name: number for number, label in truth.records[0].labels.items()}
        free = max(theirs.values()) + 1
        for category in categories:
            known = theirs.get(category["name"])
            category["id"] = free if known is None else known
            free += known is None
    return [category["id"] for category in categories], categories


def _is_ours(path: Path) -> bool:
    if (path / _UNFINISHED).exists():
        return True
    try:
        info = json.loads((path / "predictions.json").read_bytes())["info"]
        return bool(info["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=3)
    return stream.getvalue()
