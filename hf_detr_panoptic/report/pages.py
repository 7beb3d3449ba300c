"""Pages from templates: whatever a name holds comes out as text."""

from __future__ import annotations

import functools
from base64 import b64encode
from functools import partial
from typing import TYPE_CHECKING, Any

from ..text import percent

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

NOTHING = "–"
_JOINERS = "\u200c\u200d"  # invisible, and part of many scripts and of composed emoji


@functools.cache
def templates(package: str) -> Environment:
    """The templates beside a package's modules. All that they are given is escaped; None is nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader(package, ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "base64": base64,
        "commas": "{:,}".format,
        "lines": _lines,
        "percent": partial(percent, unknown=NOTHING),
    }
    return made


def visible(text: str) -> str:
    """What a name holds beside letters, written out: a line break as \\n, a mark that turns the reading direction too.

    Bytes that are no UTF-8, as file names may have them, come out the same way.
    """
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() or mark in _JOINERS else repr(mark)[1:-1] for mark in text)


def base64(content: bytes) -> str:
    return b64encode(content).decode("ascii")


def _shown(value: Any) -> Any:
    """What a template says of a value, before it is escaped; markup of its own it says as it is."""
    if value is None:
        return ""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _lines(text: str) -> Markup:
    """Text whose line breaks are meant, for `pre`."""
    from markupsafe import Markup

    return Markup("\n").join(map(visible, text.split("\n")))
