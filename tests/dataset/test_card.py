"""Names as text, and the card beside a dataset, checked with a Markdown reader that this package does not use."""

from __future__ import annotations

import html
import re

import markdown_it
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_detr_panoptic import Category, LabelSpace
from hf_detr_panoptic.dataset.card import MARKER, Contents, Markdown, code, dataset_card, listed, plain_line, text

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
    assert shown(text(name)) == plain_line(name)


def test_what_hides_or_breaks_is_gone() -> None:
    assert plain_line("a\nb\r\n\tc\x00d\u2028e") == "a b c d e"
    assert plain_line("safe\u202egpj.exe\u200b") == "safegpj.exe"
    assert plain_line("👩\u200d🔧") == "👩\u200d🔧"
    assert plain_line("bad\udc80name") == "bad\ufffdname"
    assert plain_line("x" * 300, 10) == "xxxxxxxxx…"
    assert plain_line("\u200b") == "?"
    assert "http:" not in text("http://example.org")
    assert "www." not in text("www.example.org")


@pytest.mark.parametrize("name", ["plain", "tick ` inside", "``", "`edge`", "<b>"])
def test_code(name: str) -> None:
    rendered = READER.renderInline(code(name))
    assert html.unescape(re.fullmatch(r"<code>(.*)</code>", rendered)[1]) == name


def test_code_in_a_table_stays_in_its_cell() -> None:
    rendered = READER.render(table(code("a|b")))
    assert rendered.count("<td>") == 1


def test_text_that_is_markdown_stays() -> None:
    assert text(Markdown("*a*")) == "*a*"
    assert text(text("*a*")) == "\\*a\\*"
    assert listed(["a|b", Markdown("*c*")]) == "a\\|b, *c*"


SPACE = LabelSpace(
    [
        Category("pipe <script>alert(1)</script>", True),
        Category("sky|grey\nor *blue*", False, source="auto"),
        Category("never seen", True, source="auto"),
    ]
)
SEGMENTS = {("", SPACE[0].name, "custom"): 6, ("", SPACE[1].name, "auto"): 3}
PREPARED = {
    "settings": {"labeler": "my `<b>` labeler", "threshold": 0.85, "leakage": 0.5, "min_area": 64},
    "labeler": {"fingerprint": "0123456789abcdef"},
    "counts": {"pixels": {"custom": 30, "auto": 60, "void: unsure": 10}},
}


def test_the_card_beside_the_files_of_a_dataset() -> None:
    card = dataset_card(Contents(SPACE, {"train": 2, "val": 1}, SEGMENTS, PREPARED), "<i>site</i>")
    front, body = card.removeprefix("---\n").split("\n---\n\n", 1)
    assert yaml.safe_load(front) == {
        "task_categories": ["image-segmentation"],
        "tags": ["panoptic-segmentation", "coco-panoptic", "hf-detr-panoptic"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "photos", "path": "images/**"}],
                "drop_labels": True,
            }
        ],
    }
    assert body.startswith(f"{MARKER}\n\n# &lt;i&gt;site&lt;/i&gt;\n\n")
    assert "in COCO's format: 2 in `train`, 1 in `val`." in body
    assert "Kinds of things: 2; of stuff: 1." in body
    assert "- `custom`: people marked 6 segments, of 1 class: pipe &lt;script&gt;" in body
    assert "- `auto`: ``my `<b>` labeler`` added 3 segments, those that it was surer of than 0.85 (weights" in body
    assert "Of all pixels 30.0% are `custom`, 60.0% `auto` and 10.0% void: nobody knows what they are.\n" in body
    assert "`prepare.json` holds the settings that made it, `skipped.csv` what was left out and why.\n" in body
    assert "load_dataset" not in body
    rendered = READER.render(body.removeprefix(MARKER))
    assert "<script" not in rendered
    assert "<i>" not in rendered
    rows = re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    assert [re.findall(r">([^<>\n]*)</t", row) for row in rows] == [
        ["class", "kind", "marked by people", "added by the labeler"],
        ["pipe &lt;script&gt;alert(1)&lt;/script&gt;", "thing", "6", "0"],
        ["sky|grey or *blue*", "stuff", "0", "3"],
    ]


def test_many_classes_are_not_all_named() -> None:
    space = LabelSpace([Category(f"c{number}", True) for number in range(10)])
    card = dataset_card(Contents(space, {"train": 1}, {("", name, "custom"): 1 for name in space.names}), "site")
    assert "of 10 classes: c0, c1, c2, c3, c4, c5, c6, c7 and 2 more.\n" in card
