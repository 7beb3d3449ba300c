"""A person's words in Markdown: names of classes and files come out as text, whatever they hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "&#64;"}
_MARKUP = frozenset("\\`*_[]~|#!^")
_ADDRESS = re.compile(r"(?<=www)\.|(?<=http):(?=//)|(?<=https):(?=//)|(?<=ftp):(?=//)", re.IGNORECASE)
_KEPT_FORMATS = "\u200c\u200d"  # join letters and emoji; the rest of their kind hide or turn text
_MOST = 80


def text(words: object, most: int = _MOST) -> str:
    """Words on one line, at most so many characters, that Markdown and HTML show as they are and nothing else."""
    line = one_line(words, most)
    links = {found.start() for found in _ADDRESS.finditer(line)}  # the Hub makes links of bare addresses
    return "".join(f"&#{ord(mark)};" if place in links else _escaped(mark) for place, mark in enumerate(line))


def one_line(words: object, most: int = _MOST) -> str:
    """Words on one line, at most so many characters, without what is invisible or cannot be written as UTF-8."""
    kept = "".join(_visible(mark) for mark in str(words))
    line = " ".join(kept.split())
    return (line if len(line) <= most else line[: most - 1].rstrip() + "…") or "?"


def code(words: object, most: int = 200) -> str:
    """Words in a code span."""
    inner = one_line(words, most).replace("|", "∣")  # a table splits at | even in code
    ticks = "`" * (max((len(run) for run in re.findall("`+", inner)), default=0) + 1)
    space = " " if inner.startswith("`") or inner.endswith("`") else ""
    return f"{ticks}{space}{inner}{space}{ticks}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> list[str]:
    """The lines of a table of cells that are Markdown already; `right` names the columns of numbers."""
    rule = ["---:" if name in right else "---" for name in head]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, rule, *rows)]


def _escaped(mark: str) -> str:
    return f"\\{mark}" if mark in _MARKUP else _ENTITIES.get(mark, mark)


def _visible(mark: str) -> str:
    kind = unicodedata.category(mark)
    if kind == "Cs":
        return "\ufffd"
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "" if kind == "Cf" and mark not in _KEPT_FORMATS else mark
