"""A COCO panoptic dataset for `datasets`, as a builder class.

    builder = PanopticBuilder(data_dir="data/site")
    builder.download_and_prepare(num_proc=2)
    dataset = builder.as_dataset()                             # or builder.as_streaming_dataset("train")

`load_panoptic` does the same in one call, and knows Parquet and the Hub too.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

from ..errors import DatasetError
from ..labels import LabelSpace
from .coco_panoptic import PanopticSplit, Record, read_dataset

SPLIT_NAMES = {"val": "validation"}
_SHARDS = 64  # what processes or streaming workers can share out


def panoptic_features(names: Iterable[str], whole_ids: bool = True, incomplete: bool = False) -> datasets.Features:
    """The columns; labels count from 0 in the order of `names`. `whole_ids`: image ids are numbers, not texts.

    `incomplete`: some photo is incomplete for some class; without such a photo there is no such column.
    """
    names = list(names)
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64" if whole_ids else "string"),
            "file_name": datasets.Value("string"),
            "panoptic": datasets.Image(),  # a PNG: R + 256 · G + 256² · B is the segment's id
            "segments": [
                {
                    "id": datasets.Value("int32"),
                    "label": datasets.ClassLabel(names=names),
                    "score": datasets.Value("float64"),
                    "source": datasets.Value("string"),
                    "iscrowd": datasets.Value("int8"),
                }
            ],
            **({"incomplete": [datasets.ClassLabel(names=names)]} if incomplete else {}),
        }
    )


def _fingerprint(splits: Iterable[PanopticSplit]) -> str:
    """Changes with any annotation: the content of the JSON files, and name, size and time of the id maps."""
    digest = hashlib.blake2b(digest_size=16)
    homes: list[str] = []
    for split in splits:
        digest.update(split.files.json.name.encode())
        digest.update(split.files.json.read_bytes())
        for path in sorted(record.png for record in split):
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        homes += map(str, split.files.photo_folders)
    return digest.hexdigest() + "|".join(homes)


class PanopticBuilder(datasets.GeneratorBasedBuilder):
    """`data_dir` is the dataset's folder, in any COCO panoptic layout; `photos`: where its photos are, if not in it.

    Every entry of the JSON is checked; splits without a photo are left out.
    """

    VERSION = datasets.Version("1.1.0")  # part of a cache's name: in 1.0 `panoptic` was bytes
    DEFAULT_WRITER_BATCH_SIZE = 100  # photos embedded in Parquet are large, and an Arrow array ends at 2 GiB

    def __init__(self, *args: Any, data_dir: str, photos: str | Path | None = None, **kwargs: Any) -> None:
        self._splits = {name: split for name, split in read_dataset(data_dir, photos).items() if len(split)}
        if not self._splits:
            raise DatasetError("no split has a photo", where=data_dir, fix="Add photos, or choose another folder.")
        # A cache of datasets is found by this hash, and would ignore edited annotations without them in it.
        digest = hashlib.blake2b(_fingerprint(self._splits.values()).encode(), digest_size=16).hexdigest()
        super().__init__(*args, data_dir=data_dir, hash=digest, **kwargs)

    @property
    def label_space(self) -> LabelSpace:
        """The classes, the same in all splits."""
        return next(iter(self._splits.values())).space

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Photos and their COCO panoptic maps.",
            features=panoptic_features(self.label_space.names, self._whole_ids, self._knows_incomplete),
        )

    @property
    def _knows_incomplete(self) -> bool:
        return any(record.incomplete for split in self._splits.values() for record in split)

    @property
    def _whole_ids(self) -> bool:
        return all(isinstance(record.image_id, int) for split in self._splits.values() for record in split)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        kind = int if self._whole_ids else str
        return [
            datasets.SplitGenerator(
                name=split_title(name),
                gen_kwargs={
                    "shards": _shards(
                        [_row(record, kind(record.image_id), self._knows_incomplete) for record in split]
                    )
                },
            )
            for name, split in self._splits.items()
        ]

    def _generate_examples(self, shards: list[list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in itertools.chain.from_iterable(shards):
            columns: dict[str, Any] = {
                key: row[key] for key in ("image_id", "file_name", "segments", "incomplete") if key in row
            }
            png = {"bytes": Path(row["png"]).read_bytes(), "path": None}
            yield str(row["image_id"]), {**columns, "image": row["photo"], "panoptic": png}


def split_title(split: str) -> str:
    """The name of a split in `datasets`, which spells val out and allows letters, digits and underscores."""
    return SPLIT_NAMES.get(split, re.sub(r"\W", "_", split))


def _row(record: Record, image_id: int | str, incomplete: bool) -> dict[str, Any]:
    """Paths for pixels, all else as in the columns; `incomplete`: there is such a column."""
    return {
        "image_id": image_id,
        "file_name": record.file_name,
        "photo": str(record.photo.absolute()),
        "png": str(record.png.absolute()),
        "segments": [
            {"id": s.id, "label": s.label, "score": s.score, "source": s.source, "iscrowd": int(s.crowd)}
            for s in record.segments
        ],
        **({"incomplete": [record.space.index(name) for name in record.incomplete]} if incomplete else {}),
    }


def _shards(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """In order, as even as they come: datasets shares the outer list out among processes."""
    size = max(-(-len(rows) // _SHARDS), 1)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
