"""Files: all of one or nothing, JSON and YAML that say where they are broken, and paths that may be shown."""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import yaml

from .errors import HfDetrPanopticError, RecipeError


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


def content_of(path: Path) -> bytes:
    """All of a file. What is none, a pipe or a device, never ends: an OSError, as of all that cannot be read."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return path.read_bytes()


def leads_outside(file: Path, folder: Path) -> bool:
    """Is this file of a folder a link to a place outside of it? Then somebody may want to see what lies there.

    Not so in the Hub's cache, where a snapshot's files are links into the folder `blobs` beside `snapshots`.
    """
    # Path.resolve raises where links lead in a circle.
    real, home = Path(os.path.realpath(file)), Path(os.path.realpath(folder))
    cached = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    return not (real.is_relative_to(home) or cached)


_MOST_THINGS = 20_000_000  # COCO's largest file has 4 million; an empty object in 3 bytes takes Python 72


def read_json(path: Path, error: type[HfDetrPanopticError] = HfDetrPanopticError, fix: str | None = None) -> Any:
    """What a JSON file holds. Raises an `error` that says what is wrong, in which line, and `fix`."""
    try:
        return parse_json(content_of(path))
    except OSError as failure:
        raise error(f"cannot be read ({failure.strerror})", where=str(path), fix=fix) from failure
    except ValueError as failure:
        raise error(f"is not JSON ({failure})", where=str(path), fix=fix) from failure


def parse_json(content: bytes, *, finite: bool = False, errors: str = "strict") -> Any:
    """With or without a byte order mark; whatever is wrong, it is a ValueError.

    `finite`: refuse NaN and infinities, which JSON does not know and Python writes. `errors`: "surrogateescape" for
    what `write_json` made of a name that is no UTF-8.
    """
    if content.count(b"{") + content.count(b"[") > _MOST_THINGS:
        raise ValueError(f"more than {_MOST_THINGS:,} objects and lists")
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


# --- YAML

# YAML 1.1, as PyYAML reads it, takes 1e-4 for text.
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


for _tool in (_Loader, _Dumper):  # the dumper too, so that the text "1e-4" is written in quotes
    _tool.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    # Unquoted, PyYAML writes a line break such as U+0085 as it is, and reads a space.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text)


def read_yaml(path: str | Path, what: str = "the recipe") -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The mapping in a file, and the line of each of its keys; `what` is what messages call it."""
    path = Path(path)
    try:
        text = content_of(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"it cannot be read as text ({error})", where=str(path)) from None
    lines: dict[tuple[str, ...], int] = {}
    if len(text) > _MOST_YAML:
        raise RecipeError(f"{what} has {len(text):,} characters", where=str(path), fix="Is it the right file?")
    try:
        node = yaml.compose(text, _Loader)
        if node is not None:
            if _spelled_out(node, {}) > _MOST_YAML:
                raise RecipeError("its anchors stand for too much", where=str(path), fix="Write it without them.")
            _note_lines(node, (), lines, str(path))
        data = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise _syntax_error(error, path) from None
    except RecursionError:
        raise RecipeError("this is not YAML that can be read: too deep", where=str(path)) from None
    except _NO_VALUE as error:
        raise RecipeError(f"a value cannot be read ({error})", where=str(path), fix="Put it in quotes.") from None
    if data is None:
        raise RecipeError(
            f"{what} is empty", where=str(path), fix="Start from a copy of one of ours, such as construction.yaml."
        )
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else repr(data)[:60]
        raise RecipeError(
            f"{what} is {kind}, not a mapping of settings", where=str(path), fix="Write `name: value`, one a line."
        )
    return data, lines


def parse_yaml(content: bytes) -> Any:
    """What a stranger's YAML holds; whatever is wrong, it is a ValueError."""
    try:
        text = content.decode("utf-8-sig")
        if len(text) > _MOST_YAML:
            raise ValueError(f"it has {len(text):,} characters")
        node = yaml.compose(text, _Loader)
        if node is not None and _spelled_out(node, {}) > _MOST_YAML:
            raise ValueError("its anchors stand for too much")
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, *_NO_VALUE) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def read_value(text: str) -> Any:
    """What a text means in YAML: 5, 1e-4, true, [a, b], {a: b}; text that is no YAML is itself."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, *_NO_VALUE):
        return text


_MOST_YAML = 1_000_000
_NO_VALUE = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # of PyYAML, for 2001-13-45 or `!!int x`


def _spelled_out(node: yaml.Node, known: dict[int, float]) -> float:
    """How many nodes there are once each anchor's content stands wherever it is named."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf  # one that holds itself never ends
    inside = node.value if isinstance(node, yaml.SequenceNode | yaml.MappingNode) else ()
    parts = itertools.chain.from_iterable(inside) if isinstance(node, yaml.MappingNode) else inside
    known[id(node)] = 1 + sum(_spelled_out(part, known) for part in parts)
    return known[id(node)]


def _note_lines(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], source: str) -> None:
    """Lines of all keys; a key that stands twice is an error here, where YAML silently takes the later one."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in seen and name != "<<":
            raise RecipeError(
                f"the key {name!r} stands twice, in lines {seen[name]} and {line}",
                where=", ".join(filter(None, [source, ".".join(path)])),
                fix="Keep one of them.",
            )
        seen[name] = line
        lines[(*path, name)] = line
        _note_lines(value, (*path, name), lines, source)


def _syntax_error(error: yaml.YAMLError, path: Path) -> RecipeError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    fix = (
        "Indent with spaces."
        if "\\t" in problem
        else "See this line and the one before it: indentation, quotes, colons."
    )
    return RecipeError(f"this is not YAML ({problem})", where=where, fix=fix)


def write_yaml(data: dict[str, Any], path: Path, header: str = "") -> None:
    """Atomically; a `header` of several lines becomes comments."""
    comment = "".join(f"# {line}\n" if line else "#\n" for line in header.splitlines())
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    write_text(path, f"{comment}\n{text}" if comment else text)


def yaml_line(name: str, value: Any) -> str:
    """`name: value` on one line, whatever the value."""
    text = yaml.dump({name: value}, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.strip()[1:-1]
