"""What a dataset is validated on: val, or, where nothing is left for it, the photos that are learnt from.

With one marked photo, or with each of two photos the only one of some class, there is nothing to hold out. Then val is
empty and prepare.json says `validate_on: train`: a decision that is written down, so that nobody takes a list that is
empty by mistake for one, and every figure says `ON_TRAIN`. Where val has a photo the word counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DatasetError
from ..files import read_json, write_json

if TYPE_CHECKING:
    from .batches import Row

R = TypeVar("R", bound="Row")

ON_TRAIN = "on photos that it learnt from"
KEY = "validate_on"  # in prepare.json, and in label_space.json beside Parquet
MARK_MORE = "Mark more photos and prepare again; or `hf-detr-panoptic split DATASET`: it finds some for val, or says "
MARK_MORE += "in prepare.json that the model is validated on what it learns from."


def says_train(record: Any) -> bool:
    """Whether such a file says so."""
    return isinstance(record, dict) and record.get(KEY) == "train"


def validates_on_train(folder: str | Path) -> bool:
    """Whether prepare.json in a dataset's folder says so."""
    path = Path(folder) / "prepare.json"
    return path.is_file() and says_train(read_json(path, DatasetError))


def say_validates_on(folder: str | Path, train: bool) -> None:
    """Write into prepare.json of a dataset whether it does; all else that stands there stays."""
    path = Path(folder) / "prepare.json"
    record = read_json(path, DatasetError) if path.is_file() else {"format": 1}
    if isinstance(record, dict) and says_train(record) != train:
        rest = {key: value for key, value in record.items() if key != KEY}
        write_json(path, rest | ({KEY: "train"} if train else {}), ascii_only=False)


def learnt_and_known(train: Sequence[R]) -> list[R]:
    """The photos of train that can be measured on: complete ones of this dataset, as val would have them, or all."""
    return [row for row in train if not row.incomplete and not getattr(row, "mixed", False)] or list(train)
