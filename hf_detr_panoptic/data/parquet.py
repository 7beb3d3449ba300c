"""A dataset as Parquet, photos and maps embedded: what the Hub shows and streams."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage

from ..errors import DatasetError
from ..labels import LabelSpace
from .bare_photos import bare_photo
from .loading import SPACE_FILE, PanopticDatasets
from .stored_photos import write_atomically

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
    told: Counter[str] = Counter()
    parts = {split: _write_parts(rows, data, split, max_shard_bytes, told) for split, rows in dataset.items()}
    for path in before:
        path.unlink()
    written = []
    for split, files in parts.items():
        for place, part in enumerate(files):
            path = data / f"{split}-{place:05d}-of-{len(files):05d}.parquet"
            part.replace(path)
            written.append(path)
    write_atomically(root / SPACE_FILE, (json.dumps({"categories": space.to_coco()}, indent=1) + "\n").encode())
    if told["more"]:
        logger.warning(
            "Of %d photos %d say more than their picture, %d where they were taken: that stays out of the Parquet.",
            sum(dataset.num_rows.values()),
            told["more"],
            told["where"],
        )
    return written


def _write_parts(
    dataset: datasets.Dataset, folder: Path, split: str, max_bytes: int, told: Counter[str]
) -> list[Path]:
    """Unfinished names: how many shards there are is known at the end."""
    tables = dataset.with_format("arrow")
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    size = 0
    for start in range(0, max(len(dataset), 1), _ROWS):
        table = _bare(embed_table_storage(tables[start : start + _ROWS]), told)
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


def _bare(table: pa.Table, told: Counter[str]) -> pa.Table:
    """Embedded photos without what their files say beside the picture; `told` counts those that did."""
    place = table.schema.get_field_index("image")
    images = []
    for image, name in zip(table["image"].to_pylist(), table["file_name"].to_pylist(), strict=True):
        bare = bare_photo(image["bytes"], name)
        told.update(more=bare.said_more, where=bare.said_where)
        images.append({**image, "bytes": bare.content})
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(images, field.type))
