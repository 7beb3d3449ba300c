"""Which checkpoints count: those with a marker that was written last. A kill while saving leaves one without."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..files import read_json, write_json

MARKER = "complete.json"

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folder(output: str | Path, step: int) -> Path:
    """Where a Trainer puts the checkpoint of a step."""
    return Path(output) / f"checkpoint-{step}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint, from its name."""
    match = _NAME.fullmatch(folder.name)
    assert match is not None, folder
    return int(match[1])


def mark_complete(folder: Path, **content: Any) -> None:
    """Say that a folder is whole: the last thing that is written into it, after everything reached the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    write_json(folder / MARKER, content, indent=2, durable=True)


def unmark(folder: Path) -> None:
    """Before a folder is written to or removed."""
    (folder / MARKER).unlink(missing_ok=True)


def is_complete(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def read_marker(folder: Path) -> dict[str, Any]:
    """What `mark_complete` was told."""
    content = read_json(folder / MARKER, RunError, _TORN)
    if not isinstance(content, dict):
        raise RunError("is damaged", where=str(folder / MARKER), fix=_TORN)
    return content


_TORN = "Remove the folder that it lies in: the run goes on from what is before it."


def checkpoints(output: str | Path) -> list[Path]:
    """Every checkpoint of a stage, whole or not, by rising step."""
    folders = [path for path in Path(output).glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(folders, key=step_of)


def last_complete(output: str | Path) -> Path | None:
    """Where a stage can be resumed from."""
    return next((folder for folder in reversed(checkpoints(output)) if is_complete(folder)), None)


def remove(folder: Path) -> None:
    """Marker first: a kill in between must not leave half a checkpoint that counts."""
    unmark(folder)
    shutil.rmtree(folder)


def rotate(output: str | Path, limit: int | None, best_step: int | None) -> None:
    """Keep the last `limit` complete checkpoints and the best; halves go."""
    complete = [folder for folder in checkpoints(output) if is_complete(folder)]
    kept = {step_of(folder) for folder in (complete[-limit:] if limit else complete)} | {best_step}
    for folder in checkpoints(output):
        if not is_complete(folder) or step_of(folder) not in kept:
            remove(folder)
