"""A model on photos: overlays, COCO panoptic files, masks."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .dataset.coco_panoptic import GENERATOR, Record, is_ours, load_json, read_dataset
from .dataset.photos import encode_photo, shrunk, stored_names
from .dataset.writer import encode_map, write_lists
from .errors import DatasetError, HfDetrPanopticError, ImageError
from .evaluation.evaluate import (
    add_segment_flags,
    add_tile_flags,
    loaded_model,
    segment_settings,
    stuff_names,
    tile_settings,
)
from .files import write_bytes
from .images import image_size, list_images, open_image
from .labels import LabelSpace
from .lock import LOCK, locked
from .panoptic_map import PanopticMap
from .parallel import progress_bar, read_ahead
from .pictures.draw import draw
from .pictures.panels import panels
from .text import count_of, first_lines
from .tiles import count_of_tiles, segment_in_tiles


def find_photos(
    given: Sequence[str | Path], besides: Path | None = None
) -> tuple[dict[str, Path], list[HfDetrPanopticError]]:
    """The photos of files and folders, each once, by the name it goes by, with "/"; and what is wrong with the rest.

    Pictures in `besides` are left out: what was drawn last time is not a photo.
    """
    paths: dict[str, Path] = {}
    seen: set[Path] = set()
    problems: list[HfDetrPanopticError] = []
    written = besides.resolve() if besides else None
    for each in given:
        path = Path(each)
        try:
            photos = list_images(path) if path.is_dir() else [path]
        except ImageError as error:
            problems.append(error)
            continue
        for photo in photos:
            real = Path(os.path.realpath(photo))  # `resolve` raises where a link leads to itself
            if real in seen or (written and path.is_dir() and real.is_relative_to(written)):
                continue
            name = photo.relative_to(path).as_posix() if path.is_dir() else photo.name
            seen.add(real)
            paths[_free(name, real, paths)] = real
    if not paths and not problems:
        raise ImageError("there is no photo", where=", ".join(map(str, given)), fix="Give photos, or their folder.")
    return paths, problems


class Truth:
    """A dataset's records, by the names of their photos."""

    def __init__(self, records: Sequence[Record], space: LabelSpace) -> None:
        self.records = records
        self.space = space
        self._by_name: dict[str, set[int]] = {}
        for index, record in enumerate(records):
            for name in filter(None, (record.file_name, record.original_file)):
                for key in (name, PurePosixPath(name).name, PurePosixPath(name).stem):
                    self._by_name.setdefault(key, set()).add(index)

    def of(self, name: str) -> Record | None:
        """The record of a photo; None where no name, or more than one photo, fits."""
        for key in (name, PurePosixPath(name).name, PurePosixPath(name).stem):
            indices = self._by_name.get(key, set())
            if len(indices) == 1:
                return self.records[next(iter(indices))]
        return None


def find_truth(dataset: str | Path | None) -> Truth | None:
    """All splits of a dataset together."""
    if dataset is None:
        return None
    splits = read_dataset(dataset)
    return Truth([record for split in splits.values() for record in split], next(iter(splits.values())).space)


def _free(name: str, path: Path, taken: Container[str]) -> str:
    """The name, with as many of its folders before it as tell it from the others."""
    parts = path.parts[1:]
    for depth in range(len(PurePosixPath(name).parts) + 1, len(parts) + 1):
        if name not in taken:
            break
        name = "/".join(parts[-depth:])
    return name


GRID_ROWS = 12  # more, and the picture of pictures shows nothing
GRID_SIDE = 640
OVERLAY_SIDE = 4096  # of a larger photo the overlay would take most of the memory, and viewers shrink it again
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
        self._overwrite = overwrite
        self._check()

    def _check(self) -> None:
        path = self.path
        if path.exists() and not path.is_dir():
            raise DatasetError("is a file, not a folder", where=str(path), fix="Give another --out.")
        if path.is_dir() and any(each.name != LOCK for each in path.iterdir()):
            ours = _is_ours(path)
            cut_short = (path / _UNFINISHED).exists()  # nobody has these predictions yet: they are made again
            if not (ours and (self._overwrite or cut_short)):
                raise DatasetError(
                    "the folder holds predictions already" if ours else "the folder is not empty",
                    where=str(path),
                    fix="Give a new --out, or --overwrite." if ours else "Give a new --out.",
                )

    @contextlib.contextmanager
    def writing(self, space: LabelSpace, truth: Truth | None, names: Iterable[str]) -> Iterator[None]:
        """The lists and the grid appear when the block ends well, unless no photo was predicted."""
        with locked(self.path):
            self._check()  # another command may have been here since
            yield from self._writing(space, truth, names)

    def _writing(self, space: LabelSpace, truth: Truth | None, names: Iterable[str]) -> Iterator[None]:
        (self.path / _UNFINISHED).touch()
        for name in _OURS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("predictions.json", "predictions.png"):
            (self.path / name).unlink(missing_ok=True)
        self._space, self._truth = space, truth
        self._stored = stored_names(names)
        self._category_ids, self._categories = _categories(space, truth)
        known = [record.image_id for record in truth.records if isinstance(record.image_id, int)] if truth else []
        self._next_id = max(known, default=0) + 1
        self._used: set[int | str] = set()
        self._images: list[str] = []
        self._annotations: list[str] = []
        yield
        if not self.predicted:  # the corrected command shall not find an empty list in its way
            (self.path / _UNFINISHED).unlink()
            return
        info = {"description": "predicted panoptic maps", "generator": GENERATOR}
        (self.path / "predictions").mkdir(exist_ok=True)
        if self._rows:
            write_bytes(self.path / "predictions.png", _png(self._grid()))
        write_lists(self.path / "predictions.json", info, self._categories, self._images, self._annotations)
        (self.path / _UNFINISHED).unlink()

    def add(self, name: str, photo: Image.Image, panoptic: PanopticMap) -> None:
        """One photo's map, by the name that it was found under."""
        record = self._truth.of(name) if self._truth else None
        if record is not None and record.image_id in self._used:
            record = None
        stem = PurePosixPath(self._stored[name]).with_suffix("")
        encoded = encode_map(panoptic)
        write_bytes(self.path / "predictions" / f"{stem}.png", encoded.png)
        write_bytes(self.path / "overlays" / f"{stem}.jpg", encode_photo(draw(*shrunk(photo, panoptic, OVERLAY_SIDE))))
        self._write_masks(self.path / "masks" / stem, panoptic)
        image_id: int | str = self._next_id if record is None else record.image_id
        self._next_id += record is None
        self._used.add(image_id)
        image = {"id": image_id, "file_name": name, "width": panoptic.width, "height": panoptic.height}
        segments = [
            entry | {"category_id": self._category_ids[entry["category_id"] - 1]} for entry in encoded.segments
        ]
        annotation = {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        self._images.append(json.dumps(image))
        self._annotations.append(json.dumps(annotation))
        if len(self._rows) < GRID_ROWS:
            self._rows.append(_row(photo, panoptic, record.map() if record else None))
        self.predicted += 1
        self._with_truth += record is not None
        self._segments += len(panoptic.segments)
        self._void += panoptic.void_area
        self._pixels += panoptic.width * panoptic.height
        self._classes |= {segment.label for segment in panoptic.segments}

    def summary(self) -> str:
        """What was written, in a few lines."""
        if not self.predicted:
            return "no photo was predicted"
        lines = [
            f"{count_of(self.predicted, 'photo')}: {count_of(self._segments, 'segment')} of "
            f"{count_of(len(self._classes), 'class')}, "
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

    def _write_masks(self, folder: Path, panoptic: PanopticMap) -> None:
        names = [category.name.replace("/", "_").replace("\\", "_") for category in panoptic.space]
        files: dict[str, npt.NDArray[np.bool_]] = {}
        if self.masks == "segment":
            files = {f"{s.id:03}_{names[s.label]}.png": panoptic.mask(s.id) for s in panoptic.segments}
        elif self.masks == "class":
            for label in sorted({segment.label for segment in panoptic.segments}):
                ids = [segment.id for segment in panoptic.segments if segment.label == label]
                files[f"{names[label]}.png"] = np.isin(panoptic.ids, ids)
        stored = stored_names(files)
        for name, mask in files.items():
            write_bytes(folder / stored[name], _png(Image.fromarray(mask.astype(np.uint8) * 255)))

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


def _row(photo: Image.Image, panoptic: PanopticMap, truth: PanopticMap | None) -> list[Image.Image]:
    """Photo, truth if there is one of this size, prediction: small enough for a grid."""
    small, small_map = shrunk(photo, panoptic, GRID_SIDE)
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
        return is_ours(load_json(path / "predictions.json"))
    except DatasetError:
        return False


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=3)
    return stream.getvalue()


_SHOWN = 50  # problems, at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a DETR panoptic checkpoint, a folder or on the Hub")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="files, or folders with all that is in them")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the predictions that --out holds")
    parser.add_argument("--truth", metavar="DATASET", help="a COCO panoptic dataset; photos are found in it by name")
    parser.add_argument(
        "--masks", choices=["segment", "class"], help="also a black and white PNG a segment or a class"
    )
    parser.add_argument(
        "--runtime",
        choices=["torch", "onnx"],
        default="torch",
        help="onnx: MODEL is a folder that `export` wrote, run by onnxruntime (%(default)s)",
    )
    add_segment_flags(parser)
    add_tile_flags(parser)


def main(args: argparse.Namespace) -> int:
    """A model on photos: overlays to look at, COCO panoptic files to work with, masks if wanted.

      hf-detr-panoptic predict runs/site/final photos/ --out predictions
      hf-detr-panoptic predict runs/site/final a.jpg b.jpg --out predictions --masks class
      hf-detr-panoptic predict runs/site/final large.jpg --tile 800 --out predictions
      hf-detr-panoptic predict runs/site/final data/site/images --truth data/site --out predictions
      hf-detr-panoptic predict site-onnx photos/ --runtime onnx --out predictions

    Photos may be files or folders. --out then holds predictions.png (photo | truth where known | prediction),
    overlays/, predictions.json with predictions/*.png in COCO panoptic format, and masks/.
    """
    from .errors import clear_errors

    folder = PredictionFolder(Path(args.out), args.masks, args.overwrite)
    model = args.model
    if args.runtime == "onnx":
        from .browser.runtime import OnnxModel

        if args.precision != "fp32" or args.stuff is not None:
            fix = "Leave --precision and --stuff out: both were settled when the model was exported."
            raise HfDetrPanopticError("an exported model takes neither --precision nor --stuff", fix=fix)
        model = OnnxModel.from_folder(args.model)
    with clear_errors(folder.path):
        problems = predict(
            model,
            args.photos,
            folder,
            truth=args.truth,
            stuff=stuff_names(args),
            settings=segment_settings(args),
            batch_size=args.batch_size,
            progress=sys.stderr.isatty(),
            **tile_settings(args),
        )
    print(folder.summary())
    if problems:
        print(f"{len(problems)} not predicted:")
        print("\n".join(f"  {line}" for line in first_lines(map(str, problems), _SHOWN)))
    if not folder.predicted:
        return 1
    look = f"next: look at {folder.path / 'predictions.png'}"
    how_good = f", then hf-detr-panoptic evaluate --model {args.model} --data {args.truth or 'DATASET'}"
    print(look if args.runtime == "onnx" else look + how_good)
    return 0


def predict(
    model: str | Path | Any,
    photos: Sequence[str | Path],
    folder: PredictionFolder,
    *,
    truth: str | Path | None = None,
    stuff: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 4,
    progress: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
) -> list[HfDetrPanopticError]:
    """Every photo's map into the folder; returns what is wrong with the photos that could not be predicted.

    `model`: a checkpoint's folder or name, or a loaded labeler. The next photos are opened while the model works.
    `tile`, `overlap`: a photo at a time, in tiles.
    """
    from .parallel import guard_processes
    from .settings import Postprocess

    if guard_processes() > 1:
        raise HfDetrPanopticError("predict runs in one process", fix="Start it without a launcher.")
    if batch_size < 1:
        raise HfDetrPanopticError(f"batch_size is {batch_size}", fix="Give 1 or more.")
    # Raises before earlier predictions are removed; the model has this same check, but photo by photo.
    Postprocess(**{name: value for name, value in (settings or {}).items() if name != "precision"})
    paths, problems = find_photos(photos, besides=folder.path)
    known = find_truth(truth)
    loaded = loaded_model(model, stuff)
    listed = list(paths.items())
    together = batch_size if tile is None else 1
    chunks = [listed[start : start + together] for start in range(0, len(listed), together)]
    pieces = {name: _tiles(path, tile, overlap) for name, path in listed}
    unit = "photo" if tile is None else "tile"
    bar = progress_bar(total=sum(pieces.values()), what="predicting", unit=unit, show=progress)

    def segment(pictures: list[Image.Image]) -> list[PanopticMap]:
        given = dict(settings or {}) | {"batch_size": batch_size}
        made: list[PanopticMap] = loaded.segment(pictures, **given)
        return made

    def in_tiles(pictures: list[Image.Image]) -> list[PanopticMap]:
        sizes = [(picture.height, picture.width) for picture in pictures]
        assert tile is not None
        cut = partial(segment_in_tiles, segment=segment, space=loaded.label_space, tile=tile, overlap=overlap)
        return [
            cut(picture, size, batch_size=batch_size, done=bar.update)
            for picture, size in zip(pictures, sizes, strict=True)
        ]

    with folder.writing(loaded.label_space, known, paths), bar:
        for pictures in read_ahead(_opened, chunks, threads=1, ahead=1):
            readable = [(name, picture) for name, picture in pictures if isinstance(picture, Image.Image)]
            problems += [error for _, error in pictures if isinstance(error, HfDetrPanopticError)]
            for name, picture, panoptic in _segmented(segment if tile is None else in_tiles, readable, problems):
                folder.add(name, picture, panoptic)
            if tile is None:
                bar.update(len(pictures))
    return problems


def _tiles(path: Path, tile: int | None, overlap: int | None) -> int:
    """How many of them a photo is; one that cannot be read is told later."""
    if tile is None:
        return 1
    try:
        width, height = image_size(path)
    except HfDetrPanopticError:
        return 0
    return count_of_tiles((height, width), tile, overlap)


def _opened(photos: Sequence[tuple[str, Path]]) -> list[tuple[str, Image.Image | HfDetrPanopticError]]:
    opened: list[tuple[str, Image.Image | HfDetrPanopticError]] = []
    for name, path in photos:
        try:
            opened.append((name, open_image(path)))
        except HfDetrPanopticError as error:
            opened.append((name, error))
    return opened


def _segmented(
    segment: Callable[[list[Image.Image]], list[PanopticMap]],
    pictures: Sequence[tuple[str, Image.Image]],
    problems: list[HfDetrPanopticError],
) -> Iterator[tuple[str, Image.Image, PanopticMap]]:
    """What the model makes of the photos; if it refuses them together, of each alone."""
    try:
        maps = segment([picture for _, picture in pictures])
        yield from ((name, picture, panoptic) for (name, picture), panoptic in zip(pictures, maps, strict=True))
        return
    except HfDetrPanopticError as error:
        if len(pictures) == 1:
            problems.append(type(error)(error.what, where=pictures[0][0], fix=error.fix))
            return
    for one in pictures:
        yield from _segmented(segment, [one], problems)
