"""Datasets from folders, Parquet and the Hub as a `datasets.DatasetDict`, their rows as photos with maps, and back."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from PIL import UnidentifiedImageError

from ..errors import DatasetError, LabelError, MapError
from ..files import content_of, parse_json, write_json
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment
from .builder import PanopticBuilder
from .photos import bare_photo
from .upright import upright
from .validation import KEY, says_train, validates_on_train
from .writer import decode_ids

SPACE_FILE = "label_space.json"


class PanopticDatasets(datasets.DatasetDict):
    """A DatasetDict that knows its `label_space`; what its methods return is a plain one."""

    label_space: LabelSpace
    validates_on_train: bool = False  # see validation.py; it counts where there is no split validation


def load_panoptic(
    source: str | Path,
    *,
    photos: str | Path | None = None,
    stuff: Iterable[str] | None = None,
    num_proc: int | None = None,
    revision: str | None = None,
) -> PanopticDatasets:
    """The splits of a dataset: a folder in any COCO panoptic layout, a folder of Parquet, or a name on the Hub.

    `photos`: where the photos of a folder are, if not in it. `stuff`: the stuff classes of Parquet that others wrote,
    without label_space.json. `num_proc` and `revision` are those of `load_dataset`.
    Maps and photos stay on disk until a row is asked for. See `rows_of` for training, `to_panoptic_map` for one map.
    """
    folder = Path(source)
    if folder.is_dir():
        if any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
            loaded = load_splits(str(folder), num_proc, None)
            return _with_space(loaded, _read_space(folder / SPACE_FILE), stuff, str(folder))
        return _from_folder(folder, photos, num_proc)
    name = str(source)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise DatasetError(
            "is no folder, nor a name on the Hub",
            where=name,
            fix="Give the dataset's folder, or a name such as 'person/site'.",
        )
    loaded = load_splits(name, num_proc, revision)
    return _with_space(loaded, _read_space(_space_on_hub(name, revision)), stuff, name)


def to_panoptic_map(row: Mapping[str, Any], space: LabelSpace) -> PanopticMap:
    """The map of a row of `load_panoptic`, or of one of which `datasets` decoded nothing."""
    return _map(row["panoptic"], _segments(row), space, f"{row['file_name']}, image {row['image_id']}")


def rows_of(dataset: datasets.Dataset, space: LabelSpace) -> StoredRows:
    """A split's rows by number, as training reads them."""
    return StoredRows(dataset, space)


@dataclass(frozen=True, eq=False)
class StoredRow:
    """One photo with its map: what a `Record` is for a folder. `photo` is a path where it is not embedded."""

    image_id: int | str
    file_name: str
    photo: Path | bytes
    png: bytes
    segments: tuple[Segment, ...]
    space: LabelSpace
    incomplete: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any], space: LabelSpace) -> StoredRow:
        image = row["image"] if isinstance(row.get("image"), Mapping) else {}
        photo = image.get("bytes") or Path(image.get("path") or row["file_name"])
        # Parquet without the column is from a time, or of a dataset, in which somebody looked at every photo.
        incomplete = tuple(space[label].name for label in row.get("incomplete") or ())
        png = row["panoptic"]
        png = png["bytes"] if isinstance(png, Mapping) else png  # bytes alone in Parquet of before
        return cls(row["image_id"], row["file_name"], photo, png, _segments(row), space, incomplete)

    @property
    def where(self) -> str:
        return f"{self.file_name}, image {self.image_id}"

    def map(self) -> PanopticMap:
        return _map(self.png, self.segments, self.space, self.where, self.photo)


def _segments(row: Mapping[str, Any]) -> tuple[Segment, ...]:
    return tuple(
        Segment(s["id"], s["label"], score=s["score"], source=s["source"], crowd=bool(s["iscrowd"]))
        for s in row["segments"]
    )


def _map(
    png: Any, segments: tuple[Segment, ...], space: LabelSpace, where: str, photo: Path | bytes | None = None
) -> PanopticMap:
    """Laid as the photo is seen, where its file is at hand."""
    try:
        ids = decode_ids(png)
        return PanopticMap(ids if photo is None else upright(ids, photo), segments, space)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DatasetError(f"its PNG cannot be read ({error})", where=where, fix="Write it again.") from error
    except (MapError, LabelError) as error:
        raise DatasetError(error.what, where=where, fix=error.fix) from error


class StoredRows(Sequence[StoredRow]):
    """The rows of one split. Nothing is decoded or kept: a row is read from the memory-mapped file when asked for."""

    def __init__(self, dataset: datasets.Dataset, space: LabelSpace) -> None:
        for column in _IMAGES:
            if isinstance(dataset.features[column], datasets.Image):
                dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self.dataset = dataset.with_format(None)
        self.space = space

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> StoredRow: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...
    def __getitem__(self, index: int | slice) -> StoredRow | StoredRows:
        if isinstance(index, slice):
            return StoredRows(self.dataset.select(range(len(self))[index]), self.space)
        return StoredRow.of(self.dataset[index], self.space)


def _from_folder(folder: Path, photos: str | Path | None, num_proc: int | None) -> PanopticDatasets:
    builder = PanopticBuilder(data_dir=str(folder.absolute()), photos=photos, dataset_name="panoptic_folder")
    builder.download_and_prepare(num_proc=num_proc)
    splits = PanopticDatasets(builder.as_dataset())
    splits.label_space = builder.label_space
    splits.validates_on_train = validates_on_train(folder)
    return splits


def load_splits(name: str, num_proc: int | None = None, revision: str | None = None) -> datasets.DatasetDict:
    """Any dataset of the Hub, or of a folder of Parquet, as it is."""
    source = str(Path(name).absolute()) if Path(name).is_dir() else name  # "parquet" is also a builder's name
    try:
        return datasets.load_dataset(source, num_proc=num_proc, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        raise DatasetError(
            f"cannot be loaded ({error})",
            where=name,
            fix="Check the name, the network and `hf auth login`; or copy the dataset here and give its folder.",
        ) from error


def _space_on_hub(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name, SPACE_FILE, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None


def _read_space(path: Path | None) -> tuple[LabelSpace, bool] | None:
    """The label space, and whether the photos of train are validated on."""
    if path is None or not path.is_file():
        return None
    try:
        content = parse_json(content_of(path))
        return LabelSpace.from_coco(content["categories"]), says_train(content)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"is no label space ({error!r})", where=str(path), fix="Write the dataset again."
        ) from error


def _with_space(
    loaded: datasets.DatasetDict, read: tuple[LabelSpace, bool] | None, stuff: Iterable[str] | None, where: str
) -> PanopticDatasets:
    """`loaded` with its space; where no file says it, kinds come from `stuff`, else from COCO by name."""
    space, on_train = read or (None, False)
    for split, dataset in loaded.items():
        missing = {"image", "image_id", "file_name", "panoptic", "segments"} - set(dataset.column_names)
        if missing:
            raise DatasetError(
                f"split {split} has no column {', '.join(sorted(missing))}",
                where=where,
                fix="This is not a dataset that write_parquet or push made.",
            )
        _check_embedded(dataset, f"{where}, split {split}")
        names = _names(dataset)
        if space is None:
            space = LabelSpace.from_config({"id2label": dict(enumerate(names)), "_name_or_path": where}, stuff)
        if list(space.names) != names:
            raise DatasetError(
                f"the labels of split {split} are not those of {SPACE_FILE}", where=where, fix="Write the data again."
            )
    splits = PanopticDatasets(loaded)
    assert space is not None  # a DatasetDict has a split
    splits.label_space, splits.validates_on_train = space, on_train
    return splits


def _check_embedded(dataset: datasets.Dataset, where: str) -> None:
    """Raise where a row names a file in place of a photo: whoever wrote it could name any file of this machine."""
    for column, what in _IMAGES.items():
        for chunk in dataset.data.column(column).chunks:
            if pa.types.is_struct(chunk.type) and chunk.field("bytes").null_count:
                raise DatasetError(
                    f"{what} is not in the dataset, only a path",
                    where=where,
                    fix="Ask for a dataset that write_parquet or push made: all of it is in there.",
                )


_IMAGES = {"image": "a photo", "panoptic": "a map"}


def _names(dataset: datasets.Dataset) -> list[str]:
    segments = dataset.features["segments"]
    fields = segments[0] if isinstance(segments, list) else segments.feature
    return list(fields["label"].names)


logger = logging.getLogger(__name__)

_ROWS = 32  # photos a row group: what a reader must hold at once


def write_parquet(
    dataset: datasets.DatasetDict,
    folder: str | Path,
    space: LabelSpace | None = None,
    *,
    max_shard_bytes: int = 500_000_000,
) -> list[Path]:
    """`folder`/data/train-00000-of-00001.parquet and so on, with label_space.json beside; returns the Parquet files.

    Photos go in pixel for pixel (`Dataset.to_parquet` would store their paths), a few at a time, without what their
    files say beside the picture: see `bare_photo`. How many said more is logged. `space` is `dataset.label_space`
    where it has one. What an earlier writing left there is replaced.
    """
    if space is None:
        if not isinstance(dataset, PanopticDatasets):
            raise DatasetError("a plain DatasetDict does not say which classes are things", fix="Hand over `space`.")
        space = dataset.label_space
    root = Path(folder)
    data = root / "data"
    before = sorted(data.glob("*.parquet"))
    if before and not (root / SPACE_FILE).is_file():
        raise DatasetError(
            "another program wrote Parquet here",
            where=str(data),
            fix="Write to a new folder: what a person has is never overwritten.",
        )
    data.mkdir(parents=True, exist_ok=True)
    said: Counter[str] = Counter()
    parts = {split: _write_parts(rows, data, split, max_shard_bytes, said) for split, rows in dataset.items()}
    for path in before:
        path.unlink()
    written = []
    for split, files in parts.items():
        for index, part in enumerate(files):
            path = data / f"{split}-{index:05d}-of-{len(files):05d}.parquet"
            part.replace(path)
            written.append(path)
    on_train = isinstance(dataset, PanopticDatasets) and dataset.validates_on_train and "validation" not in dataset
    write_json(root / SPACE_FILE, {"categories": space.to_coco()} | ({KEY: "train"} if on_train else {}))
    if said["more"]:
        logger.warning(
            "Of %d photos %d say more than their picture, %d where they were taken: that stays out of the Parquet.",
            sum(dataset.num_rows.values()),
            said["more"],
            said["where"],
        )
    return written


def _write_parts(
    dataset: datasets.Dataset, folder: Path, split: str, max_bytes: int, said: Counter[str]
) -> list[Path]:
    """Unfinished names: how many shards there are is known at the end."""
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    size = 0
    for start in range(0, max(len(dataset), 1), _ROWS):
        rows = dataset.select(range(start, min(start + _ROWS, len(dataset))))
        if not isinstance(rows.features["panoptic"], datasets.Image):  # it was read from Parquet of before
            rows = rows.cast_column("panoptic", datasets.Image())
        table = _bare(embed_table_storage(rows.with_format("arrow")[:]), said)
        if writer is not None and size + table.nbytes > max_bytes:
            writer.close()
            writer = None
        if writer is None:
            parts.append(folder / f".{split}-{len(parts)}.part")
            writer, size = pq.ParquetWriter(parts[-1], table.schema), 0
        writer.write_table(table)
        size += table.nbytes
    if writer is not None:
        writer.close()
    return parts


def _bare(table: pa.Table, said: Counter[str]) -> pa.Table:
    """Embedded photos without what their files say beside the picture; `said` counts those that did."""
    column = table.schema.get_field_index("image")
    images = []
    for image, name in zip(table["image"].to_pylist(), table["file_name"].to_pylist(), strict=True):
        bare = bare_photo(image["bytes"], name)
        said.update(more=bare.said_more, where=bare.said_where)
        images.append({**image, "bytes": bare.content})
    field = table.schema.field(column)
    return table.set_column(column, field, pa.array(images, field.type))
