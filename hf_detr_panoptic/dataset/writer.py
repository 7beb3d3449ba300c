"""COCO panoptic on disk, written: photos and PNGs one at a time, the JSON last, every file atomically."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import DatasetError
from ..files import read_json, replacing, write_bytes, write_json
from ..images import open_lazily
from ..labels import LabelSpace
from ..lock import locked
from ..panoptic_map import MAX_ID, PanopticMap, rgb_to_ids
from .coco_panoptic import GENERATOR, UNFINISHED, PanopticSplit, inside, is_ours, load_json, read_dataset
from .faults import fail
from .photos import stem_key, store_photo, stored_names

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class EncodedMap:
    """A map as its files hold it. Making one is the work; it needs no folder, so processes can share it out."""

    size: tuple[int, int]
    png: bytes
    segments: tuple[dict[str, Any], ...]
    rles: tuple[str, ...]


def encode_map(panoptic: PanopticMap) -> EncodedMap:
    """PNG, segments_info and run-length encodings of a map, areas and boxes from the pixels."""
    areas, boxes, rles = panoptic.areas(), panoptic.boxes(), panoptic.rles()
    segments = tuple(
        {
            "id": segment.id,
            "category_id": segment.label + 1,
            "iscrowd": int(segment.crowd),
            "area": areas[segment.id],
            "bbox": list(boxes[segment.id]),
            "score": round(segment.score, 4),
            "source": segment.source,
        }
        for segment in panoptic.segments
    )
    counts = (rles[segment.id]["counts"] for segment in panoptic.segments)
    texts = tuple(count.decode("ascii") if isinstance(count, bytes) else str(count) for count in counts)
    return EncodedMap((panoptic.height, panoptic.width), encode_ids(panoptic.ids), segments, texts)


def decode_ids(png: Any) -> npt.NDArray[np.int32]:
    """int32 [H, W] of an RGB PNG: its bytes, its path, an image, or what `datasets` has of one that is not decoded."""
    if isinstance(png, Mapping):
        png = png["path"] if png.get("bytes") is None else png["bytes"]
    if isinstance(png, Image.Image):
        return rgb_to_ids(np.asarray(png))
    with open_lazily(png) as image:
        return rgb_to_ids(np.asarray(image))


def encode_ids(ids: npt.NDArray[np.integer[Any]]) -> bytes:
    """int [H, W] → an RGB PNG, id = R + 256·G + 256²·B.

    Written by hand because Pillow tries all five row filters on every row. An id map differs from the row above it at
    edges alone, so the filter "up" leaves runs of zeros, and zlib's run-length strategy needs a fifth of the time for
    a smaller file than Pillow at its fastest (benchmarks/data.py).
    """
    height, width = ids.shape
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high > MAX_ID:
        raise DatasetError(f"ids run from {low} to {high}", fix=f"A PNG holds 0 to {MAX_ID}.")
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 2
    for channel in range(3):
        if high >> 8 * channel:
            plane = (ids >> 8 * channel).astype(np.uint8)
            rows[0, 1 + channel :: 3] = plane[0]
            np.subtract(plane[1:], plane[:-1], out=rows[1:, 1 + channel :: 3])
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    pixels = packer.compress(rows.data) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


class DatasetWriter:
    """Writes a dataset photo by photo: `with DatasetWriter(folder, space) as writer: writer.add("train", …)`.

    The JSON files appear when the block ends well. Until then, and after a crash, `annotations/.incomplete` says so.
    Written again, a dataset replaces what it was before, and what is in no list any more goes. A folder that something
    else wrote is refused.
    """

    def __init__(self, folder: str | Path, space: LabelSpace, description: str = "") -> None:
        self.folder = Path(folder)
        self.space = space
        self._info = {"description": description, "generator": GENERATOR}
        self._annotations = self.folder / "annotations"
        self._marker = self._annotations / UNFINISHED
        finish_moving(self._annotations)
        self._previous = set(self._written_before())
        self._lists = {split: _Lists() for split in SPLITS}
        self._files: set[Path] = set()
        self._stems: dict[str, str] = {}
        self._image_ids: set[int] = set()
        self._annotations.mkdir(parents=True, exist_ok=True)
        self._marker.touch()

    def add(
        self,
        split: str,
        name: str,
        photo: str | Path | Image.Image,
        panoptic: PanopticMap | EncodedMap,
        *,
        image_id: int | None = None,
        original: str | None = None,
        incomplete: Iterable[str] = (),
        digest: str | None = None,
        mixed: bool = False,
        known_in: Sequence[Sequence[float]] = (),
    ) -> str:
        """Store one photo and its map under a name from `stored_names`; returns the photo's name in images/.

        A path is copied byte for byte, or written anew, upright, where EXIF or mode demand it. `original` is the name
        that the person knows the photo by; `incomplete`: the classes that nobody may have looked for on it, but for
        the boxes (x, y, width, height) `known_in`; `digest`: see `store_photo`; `mixed`: another dataset's photo,
        which is only ever learnt from.
        """
        if split not in SPLITS:
            raise DatasetError(f"there is no split {split!r}", fix=f"Use {', '.join(SPLITS)}.")
        if isinstance(panoptic, PanopticMap) and panoptic.space != self.space:
            raise DatasetError("the map's label space is not the dataset's", where=name, fix="Relabel it first.")
        if inside(name) is None or not name.isascii() or "\\" in name:
            fail("unsafe-name", str(self.folder), repr(name))
        if (twin := self._stems.get(stem_key(name))) is not None:
            fail("file-name-twice", str(self.folder), f"{twin} and {name}")
        image_id = max(self._image_ids, default=0) + 1 if image_id is None else int(image_id)
        if image_id in self._image_ids:
            fail("image-id-twice", str(self.folder), f"{image_id} ({name})")
        unasked = set(incomplete)
        if strangers := sorted(unasked - set(self.space.names)):
            fail("incomplete-odd", name, f"there is no category {strangers[0]!r}")
        encoded = panoptic if isinstance(panoptic, EncodedMap) else encode_map(panoptic)
        images = self.folder / "images"
        stored = store_photo(photo, images / name, encoded.size, digest)
        png_name = PurePosixPath(name).with_suffix(".png").as_posix()
        png = self._annotations / f"panoptic_{split}" / png_name
        write_bytes(png, encoded.png)
        self._stems[stem_key(name)] = name
        self._image_ids.add(image_id)
        self._files |= {stored, png}
        file_name = stored.relative_to(images).as_posix()
        image: dict[str, Any] = {"id": image_id, "file_name": file_name}
        image |= {"width": encoded.size[1], "height": encoded.size[0]}
        image |= {"original_file": original} if original and original != file_name else {}
        image |= {"incomplete": [one for one in self.space.names if one in unasked]} if unasked else {}
        if unasked and known_in:
            image |= {"known_in": [[round(float(side), 2) for side in box] for box in known_in]}
        image |= {"mixed": 1} if mixed else {}
        self._lists[split].add(image, png_name, encoded)
        return file_name

    def close(self) -> dict[str, int]:
        """Write the JSON files, remove what an earlier writing left; returns the number of photos of each split."""
        counts: dict[str, int] = {}
        for split, lists in self._lists.items():
            if not lists.images and split == "test":
                continue
            counts[split] = len(lists.images)
            for kind in ("panoptic", "instances"):
                path = self._annotations / f"{kind}_{split}.json"
                self._files.add(path)
                lists.write(path, kind, self._info, self.space.to_coco())
            (self._annotations / f"panoptic_{split}").mkdir(exist_ok=True)
        for path in self._previous - self._files:
            path.unlink(missing_ok=True)
        self._marker.unlink()
        return counts

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _written_before(self) -> Iterator[Path]:
        """The files that this package has put here; an error if others lie where ours would go."""
        unfinished = self._marker.exists()
        images = self.folder / "images"
        known = False
        for path in sorted(self._annotations.glob("panoptic_*.json")):
            content = load_json(path)
            if not is_ours(content):
                raise DatasetError(
                    "another program wrote this dataset",
                    where=str(path),
                    fix="Write to a new folder: what a person has is never overwritten.",
                )
            known = True
            yield path
            yield path.with_name(path.name.replace("panoptic", "instances", 1))
            folders = {"images": images, "annotations": path.with_suffix("")}
            for key, home in folders.items():
                for entry in content.get(key) or ():
                    file = home / str(entry["file_name"])
                    # A link among them must not make this program remove a file elsewhere.
                    if file.is_file() and file.resolve().is_relative_to(self.folder.resolve()):
                        yield file
        if not known and not unfinished and images.is_dir() and any(images.iterdir()):
            raise DatasetError(
                "the folder holds photos that are no dataset of ours",
                where=str(images),
                fix="Write to a new folder: what a person has is never overwritten.",
            )


class _Lists:
    """The lines of one split's two JSON files. Run-length encodings are many: they wait in a temporary file."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.annotations: list[str] = []
        self.boxes = tempfile.SpooledTemporaryFile(max_size=1 << 24, mode="w+", encoding="ascii")  # noqa: SIM115
        self.box_id = 0

    def add(self, image: Mapping[str, Any], png_name: str, encoded: EncodedMap) -> None:
        self.images.append(json.dumps(image))
        annotation = {"image_id": image["id"], "file_name": png_name, "segments_info": encoded.segments}
        self.annotations.append(json.dumps(annotation))
        for segment, counts in zip(encoded.segments, encoded.rles, strict=True):
            self.box_id += 1
            rle = {"size": list(encoded.size), "counts": counts}
            numbers = {"id": self.box_id, "image_id": image["id"], "segment_id": segment["id"], "segmentation": rle}
            self.boxes.write(json.dumps({**segment, **numbers}) + "\n")

    def write(self, path: Path, kind: str, info: Mapping[str, str], categories: list[dict[str, Any]]) -> None:
        self.boxes.seek(0)
        entries: Iterable[str] = self.annotations if kind == "panoptic" else (line.rstrip("\n") for line in self.boxes)
        write_lists(path, info, categories, self.images, entries)


def write_lists(
    path: Path,
    info: Mapping[str, Any],
    categories: Sequence[Mapping[str, Any]],
    images: Iterable[str],
    annotations: Iterable[str],
) -> None:
    """A COCO JSON from entries that are JSON already, one a line, so that two versions can be compared."""
    with replacing(path) as part, part.open("w", encoding="ascii", newline="\n") as file:
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n')
        for key, lines in (("images", images), ("annotations", annotations)):
            file.write(f'"{key}": [')
            for index, line in enumerate(lines):
                file.write((",\n" if index else "\n") + line)
            file.write("\n]" + (",\n" if key == "images" else "}\n"))


def rewrite(
    folder: str | Path,
    dataset: Mapping[str, PanopticSplit],
    parts: Mapping[str, str],
    space: LabelSpace | None = None,
    names: Mapping[str, str | None] | None = None,
) -> None:
    """A dataset once more, in a new folder: each photo, by its name in images/, in this part, and its classes as
    `PanopticMap.relabelled` has them in another `space`."""
    stored = stored_names(parts)
    old = next(iter(dataset.values())).space
    fate = {name: (names or {}).get(name, name) for name in old.names}
    with DatasetWriter(folder, space or old) as writer:
        for record in chain.from_iterable(dataset.values()):
            panoptic = record.map()
            writer.add(
                parts[record.file_name],
                stored[record.file_name],
                record.photo,
                panoptic if space is None else panoptic.relabelled(space, fate).fused_stuff(),
                image_id=record.image_id if isinstance(record.image_id, int) else None,
                original=record.original_file or record.file_name,
                incomplete=[new for name in record.incomplete if (new := fate[name]) is not None],
                mixed=record.mixed,
                known_in=record.known_in,
            )


def reassign(folder: str | Path, assignment: Mapping[str, str]) -> dict[str, int]:
    """`assignment`: the photo's name in images/ → part, for every photo. Returns the number of photos of each split.

    All new lists are written aside before anything changes; from then on `annotations/.incomplete` says that what is
    there is to be taken with them, and `finish_moving` ends what a crash cut short.
    """
    folder = Path(folder)
    home = folder / "annotations"
    content = {name: _ours(split.files.json) for name, split in read_dataset(folder).items()}  # every entry is checked
    first = next(iter(content.values()))
    sides = [part for part in SPLITS if part != "test" or part in content or part in assignment.values()]
    lists: dict[str, dict[str, list[Any]]] = {part: {"images": [], "annotations": [], "boxes": []} for part in sides}
    moves: list[tuple[Path, Path]] = []
    for name, panoptic in content.items():
        boxes = _ours(home / f"instances_{name}.json")
        files = {image["id"]: image["file_name"] for image in panoptic["images"]}
        unknown = sorted(set(files.values()) - assignment.keys())
        if unknown:
            raise DatasetError(f"{unknown[0]} is assigned to no split", where=str(folder))
        side = {image_id: assignment[file_name] for image_id, file_name in files.items()}
        for kind, entries in (("images", panoptic["images"]), ("annotations", panoptic["annotations"])):
            for entry in entries:
                lists[side[entry["id" if kind == "images" else "image_id"]]][kind].append(entry)
        for index, entry in enumerate(boxes.get("annotations", ())):
            if not isinstance(entry, dict) or entry.get("image_id") not in side:
                fail("instances-stale", f"instances_{name}.json, annotations[{index}]", "it belongs to no image")
            lists[side[entry["image_id"]]]["boxes"].append(entry)
        moves += [
            (home / f"panoptic_{name}" / entry["file_name"], home / f"panoptic_{target}" / entry["file_name"])
            for entry in panoptic["annotations"]
            if (target := side[entry["image_id"]]) != name
        ]
    if moves:
        _carry_out(home, first, lists, moves)
    return {part: len(listed["images"]) for part, listed in lists.items()}


def _carry_out(
    home: Path,
    first: Mapping[str, Any],
    lists: Mapping[str, Mapping[str, list[Any]]],
    moves: Sequence[tuple[Path, Path]],
) -> None:
    aside = home / _ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    for split, listed in lists.items():
        by_image = {entry["image_id"]: entry for entry in listed["annotations"]}
        listed["images"].sort(key=lambda image: image["id"])
        annotations = [by_image[image["id"]] for image in listed["images"] if image["id"] in by_image]
        listed["boxes"].sort(key=lambda entry: (entry["image_id"], entry["id"]))
        numbered = [{**entry, "id": number} for number, entry in enumerate(listed["boxes"], start=1)]
        for kind, entries in (("panoptic", annotations), ("instances", numbered)):
            lines = (map(json.dumps, part) for part in (listed["images"], entries))
            write_lists(aside / f"{kind}_{split}.json", first["info"], first["categories"], *lines)
    pairs = [[path.relative_to(home).as_posix() for path in pair] for pair in moves]
    write_json(aside / _MOVES, pairs, durable=True)
    (home / UNFINISHED).touch()
    finish_moving(home)


_ASIDE = ".split"
_MOVES = "moves.json"


def finish_moving(home: Path) -> bool:
    """Bring a `reassign` to its end that was cut short in this `annotations` folder once its lists were all there, or
    take away what there is of them; whether there was something to end."""
    aside = home / _ASIDE
    if not aside.is_dir():
        return False
    with locked(home.parent, together=False):
        decided = (home / UNFINISHED).exists() and (aside / _MOVES).is_file()
        if decided:
            for old, new in read_json(aside / _MOVES, DatasetError):
                if (home / old).is_file():
                    (home / new).parent.mkdir(parents=True, exist_ok=True)
                    (home / old).replace(home / new)
            for path in sorted(aside.glob("*.json")):
                if path.name != _MOVES:
                    path.replace(home / path.name)
            (home / UNFINISHED).unlink()
        shutil.rmtree(aside)
        return decided


def _ours(path: Path) -> dict[str, Any]:
    content = load_json(path)
    if not is_ours(content):
        raise DatasetError(
            "another program wrote this dataset",
            where=str(path),
            fix="Give --out a new folder: what a person has is never changed.",
        )
    return content
