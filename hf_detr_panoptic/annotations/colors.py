"""Which class a value or a colour in a mask stands for: as people write it down, and as tools put it beside masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..checked import as_shade
from ..errors import AnnotationError
from ..files import content_of, parse_json
from .marks import is_void_name
from .sources import Source, class_name, folder_of

Values = Mapping[int | str, str]  # a grey value, a palette's number, or a colour as "128,0,0" → its class

LABELMAP = "labelmap.txt"
# What CVAT, CamVid and Roboflow call the list that they put beside masks.
BESIDE = (LABELMAP, "class_dict.csv", "_classes.csv", "label_colors.txt")
MOST_LINES = 10_000
_AS = "Write a class a line: `name,128,0,0`, `name:128,0,0::` or, for grey values, `127,name`."


@dataclass(frozen=True)
class Table:
    """The class of each number in a mask; `colored` where a number is a colour, R + 256·G + 256²·B."""

    names: Mapping[int, str]
    colored: bool

    @classmethod
    def of(cls, values: Values) -> Table:
        """A background at 0 is what nobody marked; any other class there is a class."""
        colored = any(isinstance(value, str) for value in values)
        if colored and any(isinstance(value, int) for value in values):
            raise AnnotationError(
                "numbers and colours are mixed", where="values", fix="Give all of them as 128,0,0=NAME, or none."
            )
        names = {packed(value): class_name(name, "values") for value, name in values.items()}
        return cls({value: name for value, name in names.items() if value or not is_void_name(name)}, colored)

    def shown(self, value: int) -> str:
        """As a person types it after --values."""
        return shown_color(value) if self.colored else str(value)


def packed(value: int | str) -> int:
    """127 → 127; "128,0,0" → 128."""
    if isinstance(value, int):
        return value
    red, green, blue = map(int, value.split(","))
    return red | green << 8 | blue << 16


def shown_color(value: int) -> str:
    return f"{value & 255},{value >> 8 & 255},{value >> 16}"


def as_values(values: Values | Path | None) -> Values | None:
    """What --values says: pairs, or the file that holds them."""
    if not isinstance(values, Path):
        return values
    try:
        content = content_of(values)
    except OSError as error:
        raise AnnotationError(
            f"the list of classes cannot be read ({error.strerror})",
            where=str(values),
            fix="Give a file, or pairs: --values 128,0,0=building.",
        ) from error
    return listed_values(content, str(values))


def values_beside(source: Source, folder: str) -> Values | None:
    """The list that lies beside masks in `folder`, or above it."""
    names = [f"{home}/{name}".lstrip("/") for home in (folder, folder_of(folder), "") for name in BESIDE]
    found = source.first(names)
    return None if found is None else listed_values(source.read(found), source.where(found))


def listed_values(content: bytes, where: str) -> Values:
    """A CSV, a JSON or a labelmap.txt → the class of each value or colour."""
    if PurePosixPath(where).suffix.lower() == ".json":
        try:
            pairs = list(_of_json(parse_json(content), where))
        except ValueError as error:
            raise AnnotationError(f"this is not JSON that can be read ({error})", where=where, fix=_AS) from None
    else:
        pairs = list(_of_lines(content.decode("utf-8-sig", "replace").splitlines(), where))
    values: dict[int | str, str] = {}
    for value, name, at in pairs:
        if values.setdefault(value, name) != name:
            raise AnnotationError(f"'{name}' and '{values[value]}' share {value}", where=at, fix="Give each its own.")
    if not values:
        raise AnnotationError("the list holds no class", where=where, fix=_AS)
    return values


def _of_lines(lines: list[str], where: str) -> Iterator[tuple[int | str, str, str]]:
    if len(lines) > MOST_LINES:
        raise AnnotationError(f"{len(lines):,} lines are no list of classes", where=where, fix=_AS)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (line.startswith("#") and not re.match(r"#[0-9a-fA-F]{6}\b", line)):
            continue
        at = f"{where}, line {number}"
        if match := re.fullmatch(r"(.*?):(\d+,\s*\d+,\s*\d+)(?::.*)?", line.strip()):
            yield _color(match[2].split(","), line, at), class_name(match[1], at), at
            continue
        separator = next((mark for mark in (";", ",") if mark in line), None)
        words = [word.strip().strip('"') for word in line.split(separator)]
        words = [word for word in words if word]
        numbers = [word for word in words if word.isdecimal()]
        names = [word for word in words if not word.isdecimal() and not _HEX.fullmatch(word)]
        name = (names[0] if separator else " ".join(names)) if names else ""
        if number == 1 and not numbers and len(names) == len(words) > 1:
            continue  # the columns' names
        if shade := next((word for word in words if _HEX.fullmatch(word)), None):
            yield str(as_shade(shade)), class_name(name, at), at
        elif name and len(numbers) in (3, 4):  # four: a number of the class, then its colour
            yield _color(numbers[-3:], line, at), class_name(name, at), at
        elif name and len(numbers) == 1:
            yield int(numbers[0][:9]), class_name(name, at), at
        else:
            raise AnnotationError(f"{line[:60]!r} names no class and its colour or value", where=at, fix=_AS)


def _of_json(data: Any, where: str) -> Iterator[tuple[int | str, str, str]]:
    """{"building": [128, 0, 0]}, {"128,0,0": "building"}, {"1": "pipe"}, or a list of {"name": …, "color": …}."""
    if isinstance(data, dict) and len(data) == 1:
        (inner,) = data.values()
        data = inner if isinstance(inner, dict) or (isinstance(inner, list) and _value(inner) is None) else data
    entries = list(data.items()) if isinstance(data, dict) else data if isinstance(data, list) else None
    if entries is None or len(entries) > MOST_LINES:
        raise AnnotationError("this is no list of classes", where=where, fix='Write {"building": [128, 0, 0], …}.')
    for number, entry in enumerate(entries):
        at = f"{where}, entry {number + 1}"
        if isinstance(entry, dict):
            name = next((entry[key] for key in ("name", "class", "label", "title") if key in entry), None)
            value = next((entry[key] for key in ("color", "colour", "rgb", "value", "id") if key in entry), None)
        elif isinstance(entry, tuple):
            name, value = entry if _value(entry[1]) is not None else entry[::-1]
        else:
            name, value = entry, number
        shade = _value(value)
        if shade is None:
            what = f"{str(value)[:60]!r} is no colour and no value"
            raise AnnotationError(what, where=at, fix='Write "128,0,0", or 127.')
        yield shade, class_name(name, at), at


def _value(value: Any) -> int | str | None:
    """A grey value or a colour, however JSON has it; None for anything else."""
    if isinstance(value, list) and len(value) in (3, 4):
        value = ",".join(map(str, value[:3]))
    if type(value) is int:
        return value if 0 <= value < 2**24 else None
    shade = as_shade(value) if isinstance(value, str) else None
    return shade if isinstance(shade, int | str) else None


def _color(channels: list[str], line: str, where: str) -> str:
    shade = as_shade(",".join(channels))
    if not isinstance(shade, str):
        raise AnnotationError(f"{line[:60]!r} is not 'label:red,green,blue::'", where=where, fix=_AS)
    return shade


_HEX = re.compile(r"#[0-9a-fA-F]{6}")
