"""How a report names folders: it is handed on, and nobody's home directory with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any


def shown_path(path: str | Path) -> str:
    """Relative to the working directory, or else the last part alone."""
    whole = Path(path)
    if not whole.is_absolute():
        return whole.as_posix()
    try:
        return whole.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return whole.name


def without_paths(value: Any) -> Any:
    """Plain data, each absolute path in it as "…/" and its last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each) for each in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or PureWindowsPath(value).drive):
        kind: type[PurePath] = PureWindowsPath if PureWindowsPath(value).drive else Path
        return f"…/{kind(value).name}"
    return value
