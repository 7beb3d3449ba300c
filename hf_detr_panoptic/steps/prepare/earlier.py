"""What an earlier run decided, and a later one must not change: sides of the split, stored names, image ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DatasetError

_SNAPSHOT = ".earlier.json"
_ELSEWHERE = "Give --out a new folder: what a person has is never overwritten."


@dataclass(frozen=True)
class Earlier:
    """Of each photo that was in the dataset, by the name that the person knows it by."""

    parts: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, out: Path) -> Earlier:
        """As the dataset tells, or, where a run was killed while it wrote, as it was before that run."""
        snapshot = out / "annotations" / _SNAPSHOT
        if snapshot.is_file():
            return cls(**_json(snapshot))
        from ...data.coco_panoptic import GENERATOR
        from ...data.layouts import UNFINISHED
        from ...data.writer import SPLITS

        parts: dict[str, str] = {}
        stored: dict[str, str] = {}
        ids: dict[str, int] = {}
        for part in SPLITS:
            path = out / "annotations" / f"panoptic_{part}.json"
            if not path.is_file():
                continue
            content = _json(path)
            info = content.get("info")
            if not (isinstance(info, dict) and info.get("generator") == GENERATOR):
                raise DatasetError("another program wrote this dataset", where=str(path), fix=_ELSEWHERE)
            for image in content["images"]:
                name = image.get("original_file", image["file_name"])
                parts[name], stored[name], ids[name] = part, image["file_name"], image["id"]
        images = out / "images"
        if not parts and not (out / "annotations" / UNFINISHED).exists() and images.is_dir() and any(images.iterdir()):
            raise DatasetError(
                "the folder holds photos that are no dataset of ours", where=str(images), fix=_ELSEWHERE
            )
        return cls(parts, stored, ids)

    def remember(self, out: Path) -> None:
        """Before anything is written: until `forget`, this is what a run goes by."""
        from ...data.stored_photos import write_atomically

        content = {"parts": dict(self.parts), "stored": dict(self.stored), "ids": dict(self.ids)}
        write_atomically(out / "annotations" / _SNAPSHOT, json.dumps(content).encode())

    @staticmethod
    def forget(out: Path) -> None:
        (out / "annotations" / _SNAPSHOT).unlink(missing_ok=True)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read ({error})", where=str(path), fix="Restore it, or write to a new folder."
        ) from error
    if not isinstance(content, dict):
        raise DatasetError("is no dataset of ours", where=str(path), fix=_ELSEWHERE)
    return content
