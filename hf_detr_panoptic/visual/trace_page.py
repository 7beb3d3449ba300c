"""The trace as one HTML file without a network, and its tables as text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from .report_html import Html, tag

MARK = "<!-- made by hf-detr-panoptic trace -->"

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #16181d; background: #fff; margin: 0 auto; padding: 1.5rem;
  max-width: 62rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.about { color: #555b66; }
img { display: block; max-width: 100%; height: auto; margin: .8rem 0 .2rem; }
figure { margin: 0; }
figcaption { color: #555b66; font-size: .9rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .6rem 0; }
th, td { text-align: left; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid #d9dce2; vertical-align: top; }
th { color: #555b66; font-weight: 600; }
td:first-child { white-space: nowrap; }
td.shape { font-family: ui-monospace, monospace; white-space: nowrap; }
td { overflow-wrap: anywhere; }
nav a { margin-right: 1rem; white-space: nowrap; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } img { max-height: 23cm; width: auto; }
  h2 { break-after: avoid; } .wide { overflow: visible; } }
"""


@dataclass(frozen=True)
class Table:
    """`shapes`: the columns that hold shapes and module names, kept on one line."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shapes: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG, the name of its file, and what it shows."""

    name: str
    png: bytes
    shows: str


@dataclass(frozen=True)
class Section:
    """A heading with text, tables and pictures under it, in this order."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def html_page(title: str, about: str, sections: Sequence[Section]) -> str:
    """One file that needs no other. Whatever a name holds comes out as text."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    links = [(tag("a", section.title, href=f"#s{number}"), " ") for number, section in enumerate(sections)]
    body = [_section(f"s{number}", section) for number, section in enumerate(sections)]
    page = tag("html", head, tag("body", tag("h1", title), tag("p", about, class_="about"), tag("nav", links), body))
    return f"<!doctype html>\n{MARK}\n{page}\n"


def text_table(table: Table) -> str:
    """The table in columns, for a terminal."""
    rows = [table.header, *table.rows]
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(table: Table) -> str:
    """The table for a page of documentation."""
    rows = [[cell.replace("|", "\\|") for cell in map(_printable, row)] for row in table.rows]
    rows = [
        [f"`{cell}`" if column in table.shapes and cell else cell for column, cell in enumerate(row)] for row in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table.header, ["---"] * len(table.header), *rows])


def _section(anchor: str, section: Section) -> Html:
    return tag(
        "section",
        tag("h2", section.title),
        [tag("p", paragraph) for paragraph in section.text],
        [_table(table) for table in section.tables],
        [_figure(picture) for picture in section.pictures],
        id=anchor,
    )


def _table(table: Table) -> Html:
    rows = [
        tag("tr", [tag("td", cell, class_=column in table.shapes and "shape") for column, cell in enumerate(row)])
        for row in table.rows
    ]
    head = tag("thead", tag("tr", [tag("th", cell) for cell in table.header]))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="wide")


def _figure(picture: Picture) -> Html:
    data = base64.b64encode(picture.png).decode()
    image = tag("img", src=f"data:image/png;base64,{data}", alt=picture.shows)
    return tag("figure", image, tag("figcaption", picture.shows))


def _printable(text: str) -> str:
    """On one line, without what could move a terminal's cursor."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
