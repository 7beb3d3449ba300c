"""The page around a report's sections: one file that asks the network for nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from .report_gallery import AT_ONCE
from .report_html import Html, join, tag

Section = tuple[str, str, Html]  # anchor, title, what it holds


def page(
    title: str,
    kind: str,
    tiles: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    pictures: Html,
    version: str,
) -> str:
    """The whole file. tiles: (figure, what it is); pictures: the gallery's store, which the script reads."""
    style, script = _template("report.css"), _template("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # Should a name ever slip through unescaped, the browser would still neither run nor load anything.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title} · {kind}"),
        tag("style", Html(style)),
    )
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections]
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", tag("bdi", title)),
            tag("p", kind, class_="quiet"),
            tag("ul", [tag("li", tag("b", figure), tag("span", what)) for figure, what in tiles], class_="tiles"),
        ),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", [tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in sections]),
        tag("footer", f"Written by hf-detr-panoptic {version}. This file is complete: it loads nothing."),
        pictures,
        tag("script", Html(script)),
        data_paper=AT_ONCE,
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n{join(head, body)}\n</html>\n'


def _template(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
