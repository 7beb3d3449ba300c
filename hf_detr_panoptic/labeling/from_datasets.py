"""A `datasets` dataset as `prepare` reads it: its photos, and what is marked on them, as files.

The readers of photos and masks go on from there, so that a dataset and a folder come to the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from ..annotations.colors import Values
from ..annotations.marks import is_void_name
from ..errors import DatasetError, did_you_mean
from ..files import write_bytes
from ..images import SUFFIXES, list_images, open_lazily

if TYPE_CHECKING:
    import datasets

_SUFFIX = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}
MARKER = ".unpacked"  # in a folder that is ours to clear out
_CAST = "Cast it: dataset.cast_column(name, datasets.Image())."


@dataclass(frozen=True)
class Unpacked:
    """Where the photos are; a folder of masks or the JSON of panoptic maps, None where nothing is marked; `values` is
    the class of each value of the masks, where the dataset says it."""

    images: Path
    annotations: Path | None
    values: Values | None


def names_a_dataset(images: Path) -> bool:
    """Whether this is no folder of photos: Parquet, what `save_to_disk` wrote, an image folder whose metadata names a
    mask beside each photo, or else a name as the Hub has them."""
    if images.is_dir():
        parquet = any(images.glob("*.parquet")) or any(images.glob("data/*.parquet"))
        return _is_saved(images) or _names_masks(images) or (parquet and not list_images(images))
    return not images.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", images.as_posix()) is not None


def load(images: Path) -> datasets.DatasetDict:
    """What `names_a_dataset` recognised."""
    import datasets

    from ..dataset.rows import load_splits

    if _names_masks(images):
        return _image_folder(images)
    if not _is_saved(images):
        try:
            return load_splits(images.as_posix())
        except DatasetError as error:
            if images.is_dir():
                raise
            what = f"is no folder here, and as a dataset it {error.what}"
            raise DatasetError(what, where=error.where, fix=error.fix) from error
    try:
        loaded = datasets.load_from_disk(str(images))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"cannot be loaded ({error})", where=str(images), fix="Save it again.") from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"all": loaded})


def _names_masks(images: Path) -> bool:
    """Whether the metadata of an image folder name a second file of each row, such as `mask_file_name`."""
    for path in (images / "metadata.csv", images / "metadata.jsonl"):
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                columns = set(re.findall(r"\w*file_name\b", file.readline(10_000)))
            return "file_name" in columns and len(columns) > 1
    return False


def _image_folder(images: Path) -> datasets.DatasetDict:
    import datasets

    try:
        loaded = datasets.load_dataset("imagefolder", data_dir=str(images.resolve()), drop_labels=True)
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        fix = "Its metadata.csv or metadata.jsonl needs the columns file_name and mask_file_name."
        raise DatasetError(f"cannot be loaded ({error})", where=str(images), fix=fix) from error
    return loaded


def places_of(images: Path) -> tuple[Path, ...]:
    """Where the files of a dataset may lie that `load` read: whoever wrote its rows could name any file of this
    machine."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    own = (images,) if images.is_dir() else ()
    return (*own, Path(config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE))


def unpack(
    dataset: datasets.Dataset | datasets.DatasetDict,
    folder: Path,
    *,
    masks: bool = True,
    mask_column: str | None = None,
    values: Values | None = None,
    within: Sequence[Path] | None = None,
) -> Unpacked:
    """The photos of all splits into `folder`/photos, and their masks (unless told not to), byte for byte.

    A mask beside a column `segments` or `segments_info` is a panoptic PNG; else its values are classes, whose names
    are in `values` or in a ClassLabel that begins with a background. Without a mask a photo is one that nobody marked.
    A row may name a file in place of its bytes: one that lies in `within`, if that is given; see `places_of`.
    What lies in the folder already is not touched, and what is in no row any more goes.
    """
    import datasets

    splits = dict(dataset) if isinstance(dataset, datasets.DatasetDict) else {"all": dataset}
    if not splits or not all(isinstance(rows, datasets.Dataset) for rows in splits.values()):
        raise DatasetError(
            f"{type(dataset).__name__} is no dataset that can be unpacked",
            where="images",
            fix="Give a datasets.Dataset or DatasetDict, or a folder of photos.",
        )
    columns = _Columns.of(next(iter(splits.values())).features, mask_column, masks)
    names = values or columns.names
    if columns.segments is not None and names is None:
        raise DatasetError(
            "its labels have no names",
            where=f"column {columns.segments}",
            fix="Make them a ClassLabel, or say values.",
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise DatasetError(
            "the folder holds something else", where=str(folder), fix="Give --out another folder: this one is needed."
        )
    written = {write_changed(folder / MARKER, b"")}
    entries: list[tuple[str, str, Sequence[Mapping[str, Any]]]] = []
    for name, photo, mask, segments in _rows(splits, columns, within):
        written.add(write_changed(folder / "photos" / name, photo))
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if mask is not None and columns.segments is None:
            written.add(write_changed(folder / "masks" / f"{stem}{_suffix(mask)}", mask))
        elif mask is not None:
            written.add(write_changed(folder / "annotations" / "panoptic" / f"{stem}.png", mask))
            entries.append((name, f"{stem}.png", segments))
    annotations = folder / "masks"
    if entries and names is not None:
        annotations = folder / "annotations" / "panoptic.json"
        written.add(write_changed(annotations, _panoptic_json(entries, names)))
    for path in folder.rglob("*"):
        if path.is_file() and path not in written:
            path.unlink()
    marked = any(path.is_relative_to(annotations) for path in written)
    return Unpacked(folder / "photos", annotations if marked else None, None if columns.segments else names)


class _Columns(NamedTuple):
    """The columns of photo, mask and segments, and the names of the classes that the numbers in there stand for."""

    image: str
    mask: str | None
    segments: str | None
    names: Values | None

    @classmethod
    def of(cls, features: datasets.Features, wanted: str | None, masks: bool) -> _Columns:
        import datasets

        pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        files = [*pictures, *(name for name in features if features[name] == datasets.Value("binary"))]
        if wanted is not None and wanted not in files:
            raise DatasetError(
                f"there is no column {wanted!r} of images", where="mask_column", fix=did_you_mean(wanted, files)
            )
        photos = [name for name in pictures if name != wanted]
        if not photos:
            raise DatasetError(f"none of the columns {', '.join(features)} holds photos", where="images", fix=_CAST)
        image = "image" if "image" in photos else photos[0]
        others = [name for name in files if name != image] if masks else []
        if wanted is None and len(others) > 1:
            raise DatasetError(
                f"the masks may be any of {', '.join(others)}",
                where="images",
                fix=f"Say which column: --mask-column {others[0]}.",
            )
        mask = wanted or next(iter(others), None)
        if mask is None:
            return cls(image, None, None, None)
        segments = next((name for name in ("segments", "segments_info") if name in features), None)
        if segments is not None:
            return cls(image, mask, segments, _one_list_of_names(features[segments], of_masks=False))
        return cls(image, mask, None, _one_list_of_names(features, of_masks=True))


def _one_list_of_names(feature: Any, of_masks: bool) -> Values | None:
    """Those of the only ClassLabel in there. In masks 0 is nothing: other labels than those with a background at 0
    count something else."""
    lists = {tuple(label.names) for label in _class_labels(feature)}
    if of_masks:
        lists = {names for names in lists if names and is_void_name(names[0])}
    if len(lists) != 1:
        return None
    return {number: name for number, name in enumerate(lists.pop()) if number or not of_masks}


def _class_labels(feature: Any) -> Iterator[datasets.ClassLabel]:
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        yield feature
    elif isinstance(feature, Mapping):
        for inner in feature.values():
            yield from _class_labels(inner)
    elif isinstance(feature, list):
        yield from _class_labels(feature[0])
    elif hasattr(feature, "feature"):
        yield from _class_labels(feature.feature)


def _rows(
    splits: Mapping[str, datasets.Dataset], columns: _Columns, within: Sequence[Path] | None
) -> Iterator[tuple[str, bytes, bytes | None, Sequence[Mapping[str, Any]]]]:
    """Of each photo a name that no other one has, its file, its mask's file, and its segments."""
    import datasets

    chosen = [column for column in (columns.image, columns.mask, columns.segments) if column is not None]
    for split, rows in splits.items():
        for column in chosen:
            if column not in rows.features:
                raise DatasetError(
                    f"the split {split!r} has no column {column!r}", where="images", fix="Leave it out."
                )
        plain = rows.with_format(None).select_columns(chosen)
        for column in chosen:
            if isinstance(plain.features[column], datasets.Image):
                plain = plain.cast_column(column, datasets.Image(decode=False))
        folder = "" if len(splits) == 1 else f"{split}/"
        taken: set[str] = set()
        for number, row in enumerate(plain):
            where = f"split {split}, row {number}"
            photo = _content(row[columns.image], where, within)
            if photo is None:
                raise DatasetError("the row has no photo", where=where, fix="Leave it out: dataset.filter(…).")
            name = _name(row[columns.image]["path"], photo, number, taken)
            mask = None if columns.mask is None else _content(row[columns.mask], where, within)
            yield f"{folder}{name}", photo, mask, row[columns.segments] if columns.segments else ()


def _name(path: str | None, photo: bytes, number: int, taken: set[str]) -> str:
    """The photo's own name where the dataset knows it, else its number."""
    own = PurePosixPath(re.sub(r"[\\]", "/", path or "")).name
    stem = re.sub(r'[<>:"|?*\x00-\x1f]', "_", PurePosixPath(own).stem).lstrip(".")
    suffix = PurePosixPath(own).suffix
    suffix = suffix if suffix.lower() in SUFFIXES else _suffix(photo)
    for candidate in (stem, f"{number:06}", f"{number:06}_{stem}"):
        if candidate and candidate.casefold() not in taken:
            taken.add(candidate.casefold())
            return f"{candidate}{suffix}"
    raise DatasetError(f"no name is left for {own!r}", where=f"row {number}", fix="Rename the photos.")


def _suffix(content: bytes) -> str:
    """By what is in the file; what no reader knows stays for them to refuse."""
    try:
        with open_lazily(content) as image:
            return _SUFFIX.get(image.format or "", ".png")
    except Exception:  # a decoder that meets damaged bytes raises nearly anything
        return ".png"


def _content(cell: Any, where: str, within: Sequence[Path] | None) -> bytes | None:
    if cell is None or isinstance(cell, bytes):
        return cell
    content: bytes | None = cell["bytes"]
    if content is not None or cell["path"] is None:
        return content
    path = Path(cell["path"])
    if within is not None and not any(path.resolve().is_relative_to(place.resolve()) for place in within):
        raise DatasetError(
            f"it names a file outside of the dataset ({path})",
            where=where,
            fix="Whoever wrote the dataset has to put the photos themselves in it.",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"its file cannot be read ({error.strerror})", where=where, fix="Put it back.") from error


def write_changed(path: Path, content: bytes) -> Path:
    """Unless it is there already: what has not changed keeps its time."""
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
    return path


def _panoptic_json(entries: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]], names: Values) -> bytes:
    images, annotations = [], []
    for number, (name, png, segments) in enumerate(entries, start=1):
        images.append({"id": number, "file_name": name})
        listed = [
            {
                "id": segment["id"],
                "category_id": segment["label"] if "label" in segment else segment.get("category_id"),
                "iscrowd": int(segment.get("iscrowd") or 0),
            }
            for segment in segments
        ]
        annotations.append({"image_id": number, "file_name": png, "segments_info": listed})
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False).encode()


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
