"""What a template says of a name is text: asked of the standard library's own parser."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from hf_detr_panoptic.report.pages import templates, visible

PAGES = templates("hf_detr_panoptic.report")


def rendered(source: str, **values: object) -> str:
    return PAGES.from_string(source).render(values)


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
    seen = Seen(rendered('<td title="{{ attribute }}">{{ content }}</td>', content=content, attribute=attribute))
    assert seen.tags == [("td", {"title": visible(attribute)})]
    assert seen.text == visible(content)


def test_names_as_people_and_attackers_write_them() -> None:
    assert rendered("<b>{{ name }}</b>", name="<script>alert(1)</script>") == (
        "<b>&lt;script&gt;alert(1)&lt;/script&gt;</b>"
    )
    assert rendered('<img alt="{{ name }}">', name='" onerror="alert(1)') == (
        '<img alt="&#34; onerror=&#34;alert(1)">'
    )
    assert visible("two\nlines\x00\u202e") == "two\\nlines\\x00\\u202e"
    assert visible("caf\udce9.jpg") == "caf\\udce9.jpg"  # a byte of a file name that is no UTF-8
    family = "👩\u200d👧 größe 日本"
    assert visible(family) == family


@pytest.mark.parametrize("source", ['{{ names|join(" · ") }}', '{{ "" ~ names[0] }}', "{{ say(names[0]) }}"])
def test_a_name_that_was_joined_or_handed_on_is_text(source: str) -> None:
    macro = "{% macro say(name) %}<b>{{ name }}</b>{% endmacro %}"
    assert "&lt;i&gt;\\n" in rendered(macro + source, names=["<i>\n", "x"])


def test_numbers_nothing_and_what_is_missing() -> None:
    assert rendered("{{ 3 }}{{ 0 }}{{ nothing }}{{ number|commas }}", number=4000, nothing=None) == "304,000"
    assert (
        rendered("{{ 0.1234|percent }} {{ none|percent }} {{ content|base64 }}", content=b"RIFF") == "12.3 – UklGRg=="
    )
    with pytest.raises(UndefinedError):
        rendered("{{ nmae }}", name="x")


def test_lines_that_are_meant() -> None:
    assert rendered("{{ text|lines }}", text="a: <1>\nb: \t2") == "a: &lt;1&gt;\nb: \\t2"
