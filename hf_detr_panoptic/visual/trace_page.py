"""The trace as one HTML file without a network, and its tables as text."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

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
td.shape { font-family: ui-monospace, monospace; white-space: nowrap; }
td { overflow-wrap: anywhere; }
nav a { margin-right: 1rem; white-space: nowrap; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } .wide { overflow: visible; } }
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
    links = "".join(f'<a href="#s{number}">{_text(section.title)}</a> ' for number, section in enumerate(sections))
    body = "\n".join(_section(number, section) for number, section in enumerate(sections))
    return (
        f'<!doctype html>\n{MARK}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
        f'<p class="about">{_text(about)}</p>\n<nav>{links}</nav>\n{body}\n</body>\n</html>\n'
    )


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


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="s{number}">\n<h2>{_text(section.title)}</h2>']
    parts += [f"<p>{_text(paragraph)}</p>" for paragraph in section.text]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(picture) for picture in section.pictures]
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = []
    for row in table.rows:
        cells = (
            f'<td class="shape">{_text(cell)}</td>' if column in table.shapes else f"<td>{_text(cell)}</td>"
            for column, cell in enumerate(row)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    shows = _text(picture.shows)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{shows}"><figcaption>{shows}</figcaption></figure>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _printable(text: str) -> str:
    """On one line, without what could move a terminal's cursor."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
