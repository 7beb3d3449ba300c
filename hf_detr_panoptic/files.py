"""Files: all of one or nothing, JSON that says where it is broken, and paths that may be shown to others."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from .errors import HfDetrPanopticError


@contextlib.contextmanager
def replacing(path: str | Path, *, shared: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; at the end of the block it takes the place of `path`, all at once.

    What a killed process leaves begins with a dot, ends in `.part` and is written over by the next one. `shared`:
    several processes or machines may write this file at the same time, so that each has a name of its own.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    own = f".{os.getpid()}-{secrets.token_hex(4)}" if shared else ""
    part = target.with_name(f".{target.name}{own}.part")
    try:
        yield part
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, content: bytes, *, shared: bool = False) -> None:
    """All of the file or nothing."""
    with replacing(path, shared=shared) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str, *, shared: bool = False) -> None:
    """UTF-8, the same bytes on every system. What a file name held that is no UTF-8 comes out as it went in."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), shared=shared)


def write_json(
    path: str | Path, content: Any, *, indent: int | None = 1, ascii_only: bool = True, durable: bool = False
) -> None:
    """`durable`: on the disk when this returns, whatever happens to the machine then."""
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only) + "\n"
    with replacing(path) as part, part.open("wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        if durable:
            file.flush()
            os.fsync(file.fileno())


def write_csv(
    path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, newline: str = "\r\n"
) -> None:
    """A row for the names of the columns, then these."""
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator=newline)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows, by the names of the columns; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def read_json(path: Path, error: type[HfDetrPanopticError] = HfDetrPanopticError, fix: str | None = None) -> Any:
    """What a JSON file holds. Raises an `error` that says what is wrong, in which line, and `fix`."""
    try:
        return parse_json(path.read_bytes())
    except OSError as failure:
        raise error(f"cannot be read ({failure.strerror})", where=str(path), fix=fix) from failure
    except ValueError as failure:
        raise error(f"is not JSON ({failure})", where=str(path), fix=fix) from failure


def parse_json(content: bytes, *, finite: bool = False, errors: str = "strict") -> Any:
    """With or without a byte order mark; whatever is wrong, it is a ValueError.

    `finite`: refuse NaN and infinities, which JSON does not know and Python writes. `errors`: "surrogateescape" for
    what `write_json` made of a name that is no UTF-8.
    """
    try:
        text = content.decode(json.detect_encoding(content), errors)
        return json.loads(text, parse_constant=_no_constant if finite else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number that JSON knows")


def shown_path(path: str | Path) -> str:
    """A path that may be handed on: relative to the working directory, or else the last part alone."""
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
