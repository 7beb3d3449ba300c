"""COCO panoptic on disk, read: where its files lie, what can be wrong with them, and their rows."""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..errors import DatasetError, LabelError, MapError, did_you_mean
from ..files import content_of, parse_json
from ..images import open_lazily
from ..labels import LabelSpace
from ..panoptic_map import MAX_ID, SEGMENT_SOURCES, PanopticMap, Segment, rgb_to_ids
from .faults import FaultError, Tell, fail, raise_errors
from .upright import upright

# --- where the files lie

GENERATOR = "hf_detr_panoptic"  # info.generator of the files that this package wrote
UNFINISHED = ".incomplete"  # lies in annotations/ while a dataset is being written

_ALIASES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}
_OFFICIAL = re.compile(r"(cityscapes_)?panoptic_(train|val|test)(20\d\d)?(_trainId)?")
_CITYSCAPES = re.compile(r"^(?P<city>[^/_]+)_(?P<shot>.+?)(_gtFine)?_leftImg8bit\.png$")


@dataclass(frozen=True)
class SplitFiles:
    """One split on disk: its JSON, the folder of its PNGs, and the folders in which its photos may lie."""

    split: str
    root: Path
    json: Path
    pngs: Path
    photo_folders: tuple[Path, ...]
    _lucky: list[Path] = field(default_factory=list, compare=False, repr=False)

    @property
    def instances(self) -> Path:
        """The instances JSON beside the panoptic one, if there is one."""
        return self.json.with_name(self.json.name.replace("panoptic", "instances"))

    def png(self, file_name: str) -> Path:
        """The id map of a name in the JSON."""
        path = self.find_png(file_name)
        if path is None:
            fail("png-missing", self.json.name, f"{file_name} is not in {self.pngs.name}/")
        return self._contained(path, file_name)

    def photo(self, file_name: str) -> Path:
        """The photo of a name in the JSON."""
        path = self.find_photo(file_name)
        if path is None:
            homes = ", ".join(folder.name for folder in self.photo_folders)
            fail("photo-missing", self.json.name, f"{file_name} is in none of {homes}")
        return self._contained(path, file_name)

    def find_png(self, file_name: str) -> Path | None:
        name = inside(file_name)
        path = self.pngs / name if name else None
        return path if path and path.is_file() else None

    def find_photo(self, file_name: str) -> Path | None:
        if name := inside(file_name):
            for folder in [*self._lucky, *self.photo_folders]:
                for candidate in (folder / name, *_cityscapes(folder, name)):
                    if candidate.is_file():
                        self._lucky[:] = [folder]
                        return candidate
        return None

    @property
    def photo_home(self) -> Path | None:
        """The folder in which a photo was found last."""
        return self._lucky[0] if self._lucky else None

    def escapes(self, path: Path) -> bool:
        """Does a symbolic link lead out of the dataset? It would publish a file of this machine with it."""
        real = path.resolve()
        homes = [folder for folder in (self.root, *self.photo_folders) if not folder.is_symlink()]
        return not any(real.is_relative_to(home) for home in homes)

    def _contained(self, path: Path, file_name: str) -> Path:
        if self.escapes(path):
            fail("unsafe-name", self.json.name, f"{file_name} is a link to a place outside")
        return path


def inside(file_name: str) -> PurePosixPath | None:
    """The name as a relative path, None if it leads out of its folder. Windows' separators are understood."""
    name = PurePosixPath(file_name.replace("\\", "/"))
    leads_out = name.is_absolute() or ".." in name.parts or not name.name or "\0" in file_name or ":" in name.parts[0]
    return None if leads_out else name


def find_splits(folder: Path, photos: Path | None = None) -> dict[str, SplitFiles]:
    """Split name → its files. `photos` says where the photos are, if the folder itself does not hold them."""
    if not Path(folder).is_dir():
        raise DatasetError("there is no such folder", where=str(folder))
    folder = Path(folder).resolve()
    splits: dict[str, SplitFiles] = {}
    for path in _panoptic_jsons(folder):
        split = split_name(path)
        if split in splits:
            # Cityscapes ships each list twice, by id and by trainId; the pixels and the names are the same.
            if path.stem.endswith("_trainId"):
                continue
            split = path.stem
        splits[split] = SplitFiles(split, folder, path, _png_folder(path), _photo_folders(folder, path, split, photos))
    if not splits:
        raise DatasetError(
            "no COCO panoptic JSON is here",
            where=str(folder),
            fix="Expected annotations/panoptic_train.json and annotations/panoptic_train/*.png.",
        )
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(splits.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def find_split(folder: Path, split: str, photos: Path | None = None) -> SplitFiles:
    splits = find_splits(folder, photos)
    wanted = _ALIASES.get(split, split)
    if wanted not in splits:
        raise DatasetError(f"there is no split called {split!r}", where=str(folder), fix=did_you_mean(split, splits))
    return splits[wanted]


def split_name(json: Path) -> str:
    """panoptic_train2017.json, cityscapes_panoptic_train_trainId.json → train."""
    stem = re.sub(r"_trainId$", "", json.stem)
    rest = re.sub(r"^.*?panoptic_?", "", stem) if "panoptic" in stem else stem
    rest = re.sub(r"(?<=[a-z])20\d\d$", "", rest)
    return _ALIASES.get(rest, rest) or "all"


def _panoptic_jsons(folder: Path) -> Iterator[Path]:
    candidates = sorted(itertools.chain(folder.glob("*.json"), folder.glob("*/*.json")))
    for path in sorted(candidates, key=lambda path: path.stem.endswith("_trainId")):
        named = "panoptic" in path.stem or path.with_suffix("").is_dir()
        if named and _mentions(path, b'"segments_info"'):
            yield path


def _mentions(path: Path, word: bytes) -> bool:
    """Does the file hold the word? COCO lists megabytes of images before the first annotation, so all of it counts."""
    tail = b""
    with path.open("rb") if path.is_file() else io.BytesIO() as file:  # a link to /dev/zero has no end
        while block := file.read(1 << 20):
            if word in tail + block:
                return True
            tail = block[-len(word) :]
    # An empty or broken file under the official name is a dataset too, one that has something wrong with it.
    return _OFFICIAL.fullmatch(path.stem) is not None


def _png_folder(json: Path) -> Path:
    folder = json.with_suffix("")
    if not folder.is_dir() and any(json.parent.glob("*.png")):
        return json.parent
    return folder


def _photo_folders(root: Path, json: Path, split: str, photos: Path | None) -> tuple[Path, ...]:
    if photos is not None:
        return (Path(photos).resolve(),)
    stem = re.sub(r"^.*?panoptic_?", "", re.sub(r"_trainId$", "", json.stem))  # train2017, as COCO names the folder
    names = [f"{base}{name}" for name in (stem, split) for base in ("images/", "leftImg8bit/", "")]
    homes = [home for home in dict.fromkeys((root, json.parent, json.parent.parent)) if home.is_relative_to(root)]
    if json.parent == root and root.name == "gtFine":  # Cityscapes keeps photos and truth side by side
        homes.append(root.parent)
    usual = ["images", *names, "input_images", "photos", "."]
    folders = [home / name for home, name in itertools.product(homes, usual)]
    return tuple(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def _cityscapes(folder: Path, name: PurePosixPath) -> Iterator[Path]:
    """The JSON's aachen_000000_000019_gtFine_leftImg8bit.png is aachen/aachen_000000_000019_leftImg8bit.png."""
    if match := _CITYSCAPES.match(name.name):
        yield folder / match["city"] / f"{match['city']}_{match['shot']}_leftImg8bit.png"


# --- what they say


@dataclass(frozen=True, eq=False)
class Record:
    """One photo of a dataset with its map: names now, pixels on demand.

    `size` is (height, width) as the JSON says, None where it does not; `entries` are its segments_info as they stand.
    `incomplete`: the classes that nobody may have looked for on it, in the order of the categories, but for the boxes
    (x, y, width, height) `known_in`. `mixed`: another dataset's, brought by `prepare --mix`, only ever learnt from.
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
    incomplete: tuple[str, ...] = ()
    mixed: bool = False
    known_in: tuple[tuple[float, ...], ...] = ()

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
        """The id map and its segments as the photo is seen. Where JSON and PNG disagree, that is an error."""
        try:
            ids = upright(read_ids(self.png, self.size), self.files.find_photo(self.file_name))
            return PanopticMap(ids, self.segments, self.space)
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
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

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
    names = find_splits(Path(folder), Path(photos) if photos else None)
    splits = {name: read_split(folder, name, photos) for name in names}
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
        with open_lazily(path) as image:
            if size is not None and (image.height, image.width) != size:
                fail("size", str(path), f"the PNG is {image.width}×{image.height}, the JSON says {size[1]}×{size[0]}")
            if image.mode != "RGB":
                fail("png-mode", str(path), f"its mode is {image.mode}")
            ids = rgb_to_ids(np.asarray(image))
        ids.flags.writeable = False  # nobody else has it: a map need not copy it
        return ids
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        fail("png-unreadable", str(path), str(error))


def parse_split(files: SplitFiles, tell: Tell) -> PanopticSplit | None:
    """The JSON, every entry checked; what is wrong goes to `tell` and, if that returns, is left out.

    Returns None where nothing can be read at all.
    """
    where = files.json.name
    if (files.json.parent / UNFINISHED).exists():
        tell("unfinished", where, f"{files.json.parent / UNFINISHED} is still there")
    try:
        content = load_json(files.json)
        categories, images, annotations = lists_of(content, where, "categories", "images", "annotations")
        space, labels = categories_of(categories, where)
    except FaultError as error:
        tell(error.kind, where, error.detail)
        return None
    for entry in categories:
        if "isthing" not in entry:
            tell("category-kind", where, f"'{entry['name']}'")
    records = tuple(_records(annotations, _images(images, where, tell), space, labels, files, tell))
    return PanopticSplit(files, space, records, is_ours(content))


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object, without NaN and infinities, which JSON does not know."""
    try:
        content = parse_json(content_of(path), finite=True)
    except (OSError, ValueError) as error:
        fail("json-unreadable", path.name, str(error)[:200])
    if not isinstance(content, dict):
        fail("json-shape", path.name, f"a {type(content).__name__} stands where an object should")
    return content


def is_ours(content: Mapping[str, Any]) -> bool:
    """Did this package write the file?"""
    info = content.get("info")
    return isinstance(info, dict) and info.get("generator") == GENERATOR


def lists_of(content: Mapping[str, Any], where: str, *keys: str) -> list[list[Any]]:
    """The lists under these keys."""
    lists = [content.get(key) for key in keys]
    wrong = [key for key, value in zip(keys, lists, strict=True) if not isinstance(value, list)]
    if wrong:
        said = (f"'{key}' is {'missing' if content.get(key) is None else 'not a list'}" for key in wrong)
        fail("json-shape", where, ", ".join(said))
    return lists  # type: ignore[return-value]


def categories_of(entries: list[Any], where: str) -> tuple[LabelSpace, dict[int, int]]:
    """The label space of `categories`, and category id → label."""
    try:
        return LabelSpace.from_coco(entries), {entry["id"]: label for label, entry in enumerate(entries)}
    except (LabelError, TypeError, ValueError) as error:
        fail("categories", where, str(error))


class Annotated(NamedTuple):
    """One entry of `annotations`. `wrong`, a kind and its detail, where it is of no use."""

    image_id: int | str | None
    png_name: str
    entries: list[Any]
    where: str
    wrong: tuple[str, str] | None


def annotated(entries: list[Any], where: str) -> Iterator[Annotated]:
    """Every entry of `annotations`: the first one of an image counts."""
    seen: set[int | str | None] = set()
    for index, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        image_id, png_name, segments = (fields.get(key) for key in ("image_id", "file_name", "segments_info"))
        if not _is_id(image_id):
            image_id = None
        here = f"{where}, image {image_id}"
        wrong = None
        if image_id is None or not isinstance(png_name, str) or not isinstance(segments, list):
            here = f"{where}, annotations[{index}]"
            wrong = "json-shape", "an annotation needs 'image_id', 'file_name' and 'segments_info'"
            png_name, segments = "", []
        elif image_id in seen:
            wrong = "annotation-twice", png_name
        elif inside(png_name) is None:
            wrong = "unsafe-name", repr(png_name)
        seen.add(image_id)
        yield Annotated(image_id, png_name, segments, here, wrong)


def sound(entries: Iterable[Annotated], tell: Tell) -> Iterator[Annotated]:
    """Those that are of use; the others are told."""
    for entry in entries:
        if entry.wrong is None:
            yield entry
        else:
            tell(entry.wrong[0], entry.where, entry.wrong[1])


def listed_segments(
    entries: list[Any], categories: Container[int], where: str, tell: Tell
) -> Iterator[dict[str, Any]]:
    """The entries of `segments_info` that have an id of their own and a category among these; the others are told."""
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        if not (isinstance(entry, dict) and _is_whole(entry.get("id")) and _is_whole(entry.get("category_id"))):
            tell("segment-shape", f"{where}, segments_info[{index}]", "'id' and 'category_id' must be whole numbers")
            continue
        here = f"{where}, segment {entry['id']}"
        if not 1 <= entry["id"] <= MAX_ID:
            tell("segment-shape", here, f"ids run from 1 to {MAX_ID}")
        elif entry["id"] in seen:
            tell("segment-id-twice", here, "listed before")
        elif entry["category_id"] not in categories:
            tell("category-unknown", here, f"category_id {entry['category_id']}")
        else:
            seen.add(entry["id"])
            yield entry


def _images(entries: list[Any], where: str, tell: Tell) -> dict[int | str, dict[str, Any]]:
    images: dict[int | str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for index, entry in enumerate(entries):
        here = f"{where}, images[{index}]"
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
    for annotation in sound(annotated(entries, where), tell):
        image = images.get(annotation.image_id) if annotation.image_id is not None else None
        if image is None or annotation.image_id is None:
            tell("annotation-orphan", annotation.where, annotation.png_name)
            continue
        seen.add(annotation.image_id)
        size = _size(image, annotation.where, tell)
        original = image.get("original_file")
        yield Record(
            image_id=annotation.image_id,
            file_name=image["file_name"],
            png_name=annotation.png_name,
            size=size,
            entries=tuple(
                _decorated(entry, space[labels[entry["category_id"]]].isthing, annotation.where, tell)
                for entry in listed_segments(annotation.entries, labels, annotation.where, tell)
            ),
            space=space,
            labels=labels,
            files=files,
            original_file=original if isinstance(original, str) else None,
            incomplete=_incomplete(image, space, annotation.where, tell),
            mixed=bool(image.get("mixed")),
            known_in=_known_in(image, annotation.where, tell),
        )
    for image_id in images.keys() - seen:
        tell("image-unannotated", f"{where}, image {image_id}", images[image_id]["file_name"])


def _incomplete(image: Mapping[str, Any], space: LabelSpace, where: str, tell: Tell) -> tuple[str, ...]:
    names = image.get("incomplete", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        tell("incomplete-odd", where, repr(names)[:80])
        return ()
    for name in names:
        if name not in space.names:
            tell("incomplete-odd", where, f"there is no category {name!r}")
    return tuple(name for name in space.names if name in names)


def _known_in(image: Mapping[str, Any], where: str, tell: Tell) -> tuple[tuple[float, ...], ...]:
    boxes = image.get("known_in", [])
    kinds = isinstance(boxes, list) and all(isinstance(box, list) and len(box) == 4 for box in boxes)
    if not kinds or not all(type(side) in (int, float) for box in boxes for side in box):
        tell("incomplete-odd", where, f"known_in: {boxes!r}"[:80])
        return ()
    return tuple(map(tuple, boxes))


def _size(image: Mapping[str, Any], where: str, tell: Tell) -> tuple[int, int] | None:
    height: Any = image.get("height")
    width: Any = image.get("width")
    if height is None and width is None:
        return None
    if _is_whole(height) and _is_whole(width) and height > 0 and width > 0:
        return height, width
    tell("json-shape", where, f"height and width are {height!r} and {width!r}")
    return None


def _decorated(entry: Mapping[str, Any], isthing: bool, where: str, tell: Tell) -> Mapping[str, Any]:
    """The entry with an iscrowd, a score and a source that make sense."""
    where = f"{where}, segment {entry['id']}"
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
