"""What is built is markup, everything else is text: asked of the standard library's own parser."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from hf_detr_panoptic.visual.report_html import Html, join, lines, tag, visible


class Seen(HTMLParser):
    """Tags with attributes, and the text."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@given(st.text(), st.text())
def test_no_text_becomes_markup(content: str, attribute: str) -> None:
    seen = Seen(tag("td", content, title=attribute))
    assert seen.tags == [("td", {"title": visible(attribute)})]
    assert seen.text == visible(content)


def test_names_as_people_and_attackers_write_them() -> None:
    assert tag("b", "<script>alert(1)</script>") == "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>"
    assert tag("img", alt='" onerror="alert(1)') == '<img alt="&quot; onerror=&quot;alert(1)">'
    assert visible("two\nlines\x00\u202e") == "two\\nlines\\x00\\u202e"
    assert visible("caf\udce9.jpg") == "caf\\udce9.jpg"  # a byte of a file name that is no UTF-8
    family = "👩\u200d👧 größe 日本"
    assert visible(family) == family


def test_attributes_and_nesting() -> None:
    assert tag("td", 3, None, [tag("i"), "a&b"], class_="text", data_value=0, hidden=True, id=None, title=False) == (
        '<td class="text" data-value="0" hidden>3<i></i>a&amp;b</td>'
    )
    assert join(Html("<hr>"), "<hr>") == "<hr>&lt;hr&gt;"
    assert lines("a: <1>\nb: \t2") == "a: &lt;1&gt;\nb: \\t2"
