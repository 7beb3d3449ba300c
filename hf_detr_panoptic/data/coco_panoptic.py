"""COCO panoptic on disk, read: a JSON that lists segments, and a PNG of segment ids beside each photo."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import DatasetError, LabelError, MapError
from ..labels import LabelSpace
from ..panoptic_map import MAX_ID, SEGMENT_SOURCES, PanopticMap, Segment, rgb_to_ids
from .findings import Tell, fail, raise_errors
from .layouts import UNFINISHED, SplitFiles, find_split, find_splits, inside

GENERATOR = "hf_detr_panoptic"  # info.generator of the files that this package wrote


@dataclass(frozen=True, eq=False)
class Record:
    """One photo of a dataset with its map: names now, pixels on demand.

    `size` is (height, width) as the JSON says, None where it does not; `entries` are its segments_info as they stand.
    """

    image_id: int | str
    file_name: str
    png_name: str
    size: tuple[int, int] | None
    entries: tuple[Mapping[str, Any], ...]
    space: LabelSpace
    labels: Mapping[int, int]
    files: SplitFiles
    original_file: str | None = None

    @property
    def photo(self) -> Path:
        return self.files.photo(self.file_name)

    @property
    def png(self) -> Path:
        return self.files.png(self.png_name)

    @property
    def where(self) -> str:
        return f"{self.files.json.name}, image {self.image_id}"

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(
            Segment(
                id=entry["id"],
                label=self.labels[entry["category_id"]],
                score=entry.get("score", 1.0),
                source=entry.get("source", "custom"),
                crowd=entry.get("iscrowd", 0) == 1,
            )
            for entry in self.entries
        )

    def map(self) -> PanopticMap:
        """The id map and its segments. Where JSON and PNG disagree, that is an error: `check` lists them all."""
        try:
            return PanopticMap(read_ids(self.png, self.size), self.segments, self.space)
        except MapError as error:
            raise DatasetError(error.what, where=f"{self.where} ({self.png_name})", fix=error.fix) from error


@dataclass(frozen=True, eq=False)
class PanopticSplit(Sequence[Record]):
    """One split: its records in the order of the JSON's annotations."""

    files: SplitFiles
    space: LabelSpace
    records: tuple[Record, ...]
    ours: bool = False

    @property
    def name(self) -> str:
        return self.files.split

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, place: int | slice) -> Record | tuple[Record, ...]:
        return self.records[place]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def read_split(folder: str | Path, split: str = "train", photos: str | Path | None = None) -> PanopticSplit:
    """One split of any COCO panoptic dataset. `photos`: where the photos are, if not in the folder."""
    files = find_split(Path(folder), split, Path(photos) if photos else None)
    read = parse_split(files, raise_errors)
    assert read is not None  # raise_errors has raised where parsing would give up
    return read


def read_dataset(folder: str | Path, photos: str | Path | None = None) -> dict[str, PanopticSplit]:
    """All splits, which must share their categories."""
    found = find_splits(Path(folder), Path(photos) if photos else None)
    splits = {name: read_split(folder, name, photos) for name in found}
    first = next(iter(splits.values()))
    for read in splits.values():
        if read.space != first.space:
            fail("categories-differ", read.files.json.name, f"not those of {first.files.json.name}")
    return splits


def read_ids(path: Path, size: tuple[int, int] | None = None) -> npt.NDArray[np.int32]:
    """int32 [H, W] of an id PNG; `size` is what it must be."""
    if not path.is_file():
        fail("png-missing", str(path), path.name)
    try:
        with Image.open(path) as image:
            if size is not None and (image.height, image.width) != size:
                fail("size", str(path), f"the PNG is {image.width}×{image.height}, the JSON says {size[1]}×{size[0]}")
            if image.mode != "RGB":
                fail("png-mode", str(path), f"its mode is {image.mode}")
            return rgb_to_ids(np.asarray(image))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        fail("png-unreadable", str(path), str(error))


def parse_split(files: SplitFiles, tell: Tell) -> PanopticSplit | None:
    """The JSON, every entry checked; what is wrong goes to `tell` and, if that returns, is left out.

    Returns None where nothing can be read at all.
    """
    where = files.json.name
    if (files.json.parent / UNFINISHED).exists():
        tell("unfinished", where, f"{files.json.parent / UNFINISHED} is still there")
    content = load_json(files.json, tell)
    if content is None:
        return None
    parts = {key: content.get(key) for key in ("categories", "images", "annotations")}
    for key, value in parts.items():
        if not isinstance(value, list):
            tell("json-shape", where, f"'{key}' is {'missing' if value is None else 'not a list'}")
    if not all(isinstance(value, list) for value in parts.values()):
        return None
    try:
        space = LabelSpace.from_coco(content["categories"])
        labels = {entry["id"]: label for label, entry in enumerate(content["categories"])}
    except (LabelError, TypeError, ValueError) as error:
        tell("categories", where, str(error))
        return None
    for entry in content["categories"]:
        if "isthing" not in entry:
            tell("category-kind", where, f"'{entry['name']}'")
    info = content.get("info")
    images = _images(content["images"], where, tell)
    records = tuple(_records(content["annotations"], images, space, labels, files, tell))
    return PanopticSplit(files, space, records, isinstance(info, dict) and info.get("generator") == GENERATOR)


def load_json(path: Path, tell: Tell) -> dict[str, Any] | None:
    """A JSON object, without NaN and infinities, which JSON does not know."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        tell("json-unreadable", path.name, str(error)[:200])
        return None
    if not isinstance(content, dict):
        tell("json-shape", path.name, f"a {type(content).__name__} stands where an object should")
        return None
    return content


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number that JSON knows")


def _images(entries: list[Any], where: str, tell: Tell) -> dict[int | str, dict[str, Any]]:
    images: dict[int | str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for place, entry in enumerate(entries):
        here = f"{where}, images[{place}]"
        if not (isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("file_name"), str)):
            tell("json-shape", here, "an image needs 'id' and 'file_name'")
            continue
        image_id, name = entry["id"], entry["file_name"]
        here = f"{where}, image {image_id}"
        if image_id in images:
            tell("image-id-twice", here, f"{images[image_id]['file_name']} and {name}")
        elif inside(name) is None:
            tell("unsafe-name", here, repr(name))
        elif names.get(name.casefold()) == name:
            tell("file-name-twice", here, name)
        else:
            if name.casefold() in names:
                tell("name-case", here, f"{names[name.casefold()]} and {name}")
            names[name.casefold()] = name
            images[image_id] = entry
    return images


def _records(
    entries: list[Any],
    images: Mapping[int | str, Mapping[str, Any]],
    space: LabelSpace,
    labels: Mapping[int, int],
    files: SplitFiles,
    tell: Tell,
) -> Iterator[Record]:
    where = files.json.name
    seen: set[int | str] = set()
    for place, entry in enumerate(entries):
        here = f"{where}, annotations[{place}]"
        if not (
            isinstance(entry, dict)
            and _is_id(entry.get("image_id"))
            and isinstance(entry.get("file_name"), str)
            and isinstance(entry.get("segments_info"), list)
        ):
            tell("json-shape", here, "an annotation needs 'image_id', 'file_name' and 'segments_info'")
            continue
        image_id, png_name = entry["image_id"], entry["file_name"]
        here = f"{where}, image {image_id}"
        if image_id in seen:
            tell("annotation-twice", here, png_name)
        elif image_id not in images:
            tell("annotation-orphan", here, png_name)
        elif inside(png_name) is None:
            tell("unsafe-name", here, repr(png_name))
        else:
            seen.add(image_id)
            image = images[image_id]
            size = _size(image, here, tell)
            original = image.get("original_file")
            yield Record(
                image_id=image_id,
                file_name=image["file_name"],
                png_name=png_name,
                size=size,
                entries=tuple(_segments(entry["segments_info"], space, labels, here, tell)),
                space=space,
                labels=labels,
                files=files,
                original_file=original if isinstance(original, str) else None,
            )
    for image_id in images.keys() - seen:
        tell("image-unannotated", f"{where}, image {image_id}", images[image_id]["file_name"])


def _size(image: Mapping[str, Any], where: str, tell: Tell) -> tuple[int, int] | None:
    height: Any = image.get("height")
    width: Any = image.get("width")
    if height is None and width is None:
        return None
    if _is_whole(height) and _is_whole(width) and height > 0 and width > 0:
        return height, width
    tell("json-shape", where, f"height and width are {height!r} and {width!r}")
    return None


def _segments(
    entries: list[Any], space: LabelSpace, labels: Mapping[int, int], where: str, tell: Tell
) -> Iterator[Mapping[str, Any]]:
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        if not (isinstance(entry, dict) and _is_whole(entry.get("id")) and _is_whole(entry.get("category_id"))):
            tell("segment-shape", f"{where}, segments_info[{place}]", "'id' and 'category_id' must be whole numbers")
            continue
        here = f"{where}, segment {entry['id']}"
        if not 1 <= entry["id"] <= MAX_ID:
            tell("segment-shape", here, f"ids run from 1 to {MAX_ID}")
        elif entry["id"] in seen:
            tell("segment-id-twice", here, "listed before")
        elif entry["category_id"] not in labels:
            tell("category-unknown", here, f"category_id {entry['category_id']}")
        else:
            seen.add(entry["id"])
            yield _decorated(entry, space[labels[entry["category_id"]]].isthing, here, tell)


def _decorated(entry: Mapping[str, Any], isthing: bool, where: str, tell: Tell) -> Mapping[str, Any]:
    """The entry with an iscrowd, a score and a source that make sense."""
    odd: set[str] = set()
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        tell("crowd-odd", where, f"iscrowd is {crowd!r}")
        odd.add("iscrowd")
    elif crowd and not isthing:
        tell("crowd-odd", where, "a crowd of stuff")
    score = entry.get("score", 1.0)
    if not _is_score(score):
        tell("score-odd", where, f"score {score!r}")
        odd.add("score")
    if entry.get("source", "custom") not in SEGMENT_SOURCES:
        tell("score-odd", where, f"source {entry['source']!r}")
        odd.add("source")
    return {key: value for key, value in entry.items() if key not in odd} if odd else entry


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_id(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, str) and bool(value))
