"""HTML by construction: plain text is escaped wherever it goes, only what was built here is markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias


class Html(str):
    """Markup that was built here, so that it is not escaped once more."""

    __slots__ = ()


Content: TypeAlias = "str | int | float | Iterable[Content] | None"

_VOID = frozenset(("br", "col", "img", "input", "meta"))
_JOINERS = "\u200c\u200d"  # invisible, and part of many scripts and of composed emoji


def tag(name: str, /, *content: Content, **attributes: object) -> Html:
    """`tag("td", 3, class_="number", data_value=3)`; None and False leave an attribute out, True gives no value."""
    written = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            attribute = key.rstrip("_").replace("_", "-")
            written.append(attribute if value is True else f'{attribute}="{_quoted(value)}"')
    opened = f"<{' '.join(written)}>"
    return Html(opened if name in _VOID else f"{opened}{join(*content)}</{name}>")


def join(*content: Content) -> Html:
    """One after the other; None is nothing."""
    return Html("".join(_markup(each) for each in content))


def lines(text: str) -> Html:
    """Text whose line breaks are meant, for `pre`."""
    return Html("\n".join(_markup(line) for line in text.split("\n")))


def visible(text: str) -> str:
    """What a name holds beside letters, written out: a line break as \\n, a mark that turns the reading direction too.

    Bytes that are no UTF-8, as file names may have them, come out the same way.
    """
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() or mark in _JOINERS else repr(mark)[1:-1] for mark in text)


def _markup(content: Content) -> str:
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return html.escape(visible(content))
    if content is None:
        return ""
    if isinstance(content, int | float):
        return str(content)
    return "".join(_markup(each) for each in content)


def _quoted(value: object) -> str:
    return html.escape(visible(str(value)))
