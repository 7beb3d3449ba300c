"""What a run learns from, remembered: a resume on other photos or maps would be neither the old run nor a new one."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatasetError
from .checkpoints import write_json

if TYPE_CHECKING:
    from ..data.batches import Row

DATASET = "dataset.json"

# A PNG ends with the Adler-32 of its pixels, the CRC of its last chunk, and 12 bytes that are always the same.
_TAIL = 20


def dataset_record(parts: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Of each split the number of photos and a fingerprint, the same wherever the dataset lies.

    It changes with names, sizes and order of the photos and with every segment and pixel of the maps; nothing is
    decoded.
    """
    return {name: {"photos": len(rows), "fingerprint": _fingerprint(rows)} for name, rows in parts.items()}


def check_dataset(output: str | Path, parts: Mapping[str, Sequence[Row]]) -> None:
    """Raise when a run that has begun in this folder learns from something else."""
    path = Path(output) / DATASET
    if not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), dataset_record(parts)
    for name, entry in now.items():
        if before.get(name) != entry:
            then = before.get(name, {}).get("photos", 0)
            counts = f" ({then} photos then, {entry['photos']} now)" if then != entry["photos"] else ""
            raise DatasetError(
                f"the photos or maps of {name} are not those that the run began with{counts}",
                where=str(output),
                fix="Give another `output` to learn from what is there now, or put the dataset back to resume.",
            )


def write_dataset_record(output: str | Path, parts: Mapping[str, Sequence[Row]]) -> None:
    """dataset.json: what `check_dataset` compares with, and how many segments there are, for the model card."""
    write_json(Path(output) / DATASET, dataset_record(parts) | {"segments": segment_counts(parts)})


def segment_counts(parts: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, dict[str, int]]]:
    """split → label, as text → source → how many."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, rows in parts.items():
        labels = counts[name] = {}
        for (label, source), number in sorted(
            Counter((s.label, s.source) for row in rows for s in row.segments).items()
        ):
            labels.setdefault(str(label), {})[source] = number
    return counts


def _fingerprint(rows: Sequence[Row]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        try:
            content = [_of_photo(row.photo), _of_map(row.png)]
        except OSError as error:
            raise DatasetError(
                f"{Path(error.filename).name} cannot be read ({error.strerror})",
                where=row.where,
                fix="`hf-detr-panoptic check` lists everything that is missing.",
            ) from error
        segments = [(segment.id, segment.label, segment.crowd) for segment in row.segments]
        digest.update(repr((row.image_id, *content, segments)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _of_photo(photo: Path | bytes) -> tuple[str, int]:
    return ("", len(photo)) if isinstance(photo, bytes) else (photo.name, photo.stat().st_size)


def _of_map(png: Path | bytes) -> tuple[int, bytes]:
    if isinstance(png, bytes):
        return len(png), png[-_TAIL:]
    with png.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return size, file.read()
