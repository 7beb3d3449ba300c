"""Names as text, checked with a Markdown reader that this package does not use."""

from __future__ import annotations

import html
import re

import markdown_it
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_detr_panoptic.dataset.card import code, one_line, text

READER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

NAMES = [
    "sky-other-merged",
    "<script>alert(1)</script>",
    "a|b",
    "\"quoted\" and 'single'",
    "*bold* _it_ __x__ ~~gone~~ `code`",
    "[link](http://example.org) ![x](y.png)",
    "https://example.org www.example.org",
    "&lt; &amp; &#60;",
    "$x$ $$y$$ @someone #1 \\",
    "pipe 🚧 größer 管",
    "# heading",
    "- item",
]


def table(cell: str) -> str:
    return f"| x |\n| --- |\n| {cell} |"


def cell(rendered: str) -> str:
    """What a reader sees in the only cell of the only row; other elements than the table's are an error."""
    (inner,) = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert "<" not in inner, rendered
    return html.unescape(inner)


def shown(markdown: str) -> str:
    return cell(READER.render(table(markdown)))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is(name: str) -> None:
    assert shown(text(name)) == name
    assert html.unescape(READER.renderInline(text(name))) == name


@given(st.text(min_size=1, max_size=60))
def test_any_text_is_read_as_one_line_of_it(name: str) -> None:
    assert shown(text(name)) == one_line(name)


def test_what_hides_or_breaks_is_gone() -> None:
    assert one_line("a\nb\r\n\tc\x00d\u2028e") == "a b c d e"
    assert one_line("safe\u202egpj.exe\u200b") == "safegpj.exe"
    assert one_line("👩\u200d🔧") == "👩\u200d🔧"
    assert one_line("bad\udc80name") == "bad\ufffdname"
    assert one_line("x" * 300, 10) == "xxxxxxxxx…"
    assert one_line("\u200b") == "?"
    assert "http:" not in text("http://example.org")
    assert "www." not in text("www.example.org")


@pytest.mark.parametrize("name", ["plain", "tick ` inside", "``", "`edge`", "<b>"])
def test_code(name: str) -> None:
    rendered = READER.renderInline(code(name))
    assert html.unescape(re.fullmatch(r"<code>(.*)</code>", rendered)[1]) == name


def test_code_in_a_table_stays_in_its_cell() -> None:
    rendered = READER.render(table(code("a|b")))
    assert rendered.count("<td>") == 1
