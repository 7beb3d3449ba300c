"""Curves and bars without a library: SVG and CSS that scale, print, and say their numbers to a screen reader."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..pictures.draw import Color
from .report_html import Html, join, tag
from .report_values import Curve

_WIDTH, _HEIGHT = 380, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 26


def line_chart(title: str, curves: Sequence[Curve], percent: bool, best: float | None = None) -> Html:
    """Curves over epochs from 0 up; `best`: the epoch to mark. Each has its colour and its dashes."""
    points = [point for curve in curves for point in curve.points if all(map(math.isfinite, point))]
    if not points:
        return tag("p", f"{title}: nothing was written down.", class_="quiet")
    end = max(x for x, _ in points) or 1
    ticks_x = [value for value in ticks(end, whole=True) if value <= end]
    ticks_y = ticks(max(y for _, y in points), limit=1.0 if percent else None)

    def at(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / end
        return round(across, 1), round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * max(y, 0.0) / ticks_y[-1], 1)

    def shown(value: float) -> str:
        return f"{100 * value:g}" if percent else f"{value:g}"

    parts: list[Html] = []
    for value in ticks_y:
        _, y = at(0, value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", shown(value), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for value in ticks_x:
        x, _ = at(value, 0)
        parts.append(tag("text", f"{value:g}", x=x, y=_HEIGHT - 8, text_anchor="middle"))
    if best is not None and best <= end:
        x, _ = at(best, 0)
        parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="best"))
    for turn, curve in enumerate(curves):
        places = [(*at(x, y), x, y) for x, y in curve.points if math.isfinite(y)]
        path = " ".join(f"{px},{py}" for px, py, _, _ in places)
        parts.append(tag("polyline", points=path, class_=f"curve c{turn % 5}"))
        parts += [
            tag("circle", tag("title", f"{curve.name}, epoch {x:g}: {_figure(y, percent)}"), cx=px, cy=py, r=3,
                class_=f"dot c{turn % 5}")
            for px, py, x, y in places
        ]  # fmt: skip
    last = ", ".join(f"{curve.name} {_figure(curve.points[-1][1], percent)}" for curve in curves if curve.points)
    drawing = tag(
        "svg", parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title} over epochs; last: {last}"
    )
    keys = [
        tag(
            "span",
            tag(
                "svg", tag("line", x1=0, x2=26, y1=5, y2=5, class_=f"curve c{turn % 5}"), viewBox="0 0 26 10",
                class_="key", aria_hidden="true",
            ),
            f" {curve.name}",
        )
        for turn, curve in enumerate(curves)
    ]  # fmt: skip
    mark = tag("span", "┆ best", class_="quiet") if best is not None else None
    unit = " (%)" if percent else ""
    return tag(
        "figure",
        tag("figcaption", tag("b", title + unit), " over epochs", tag("span", keys, mark, class_="keys")),
        drawing,
    )


def ticks(largest: float, whole: bool = False, limit: float | None = None) -> list[float]:
    """0 and up to five round numbers beyond; the last is not below `largest`, nor above `limit`."""
    if largest <= 0 or not math.isfinite(largest):
        return [0.0, 1.0]
    rough = largest / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step - 1e-9)))
    count = math.ceil(largest / step - 1e-9)
    found = [round(place * step, 10) for place in range(count + 1)]
    return [value for value in found if limit is None or value < limit] + ([limit] if limit in found else [])


def bar(share: float | None, text: str, hue: str = "") -> Html:
    """A number with its bar."""
    length = 0.0 if share is None else min(max(share, 0.0), 1.0)
    return tag(
        "span",
        tag("span", text, class_="figure"),
        tag("span", tag("span", style=f"width:{100 * length:.1f}%", class_=hue or None), class_="bar",
            aria_hidden="true"),
        class_="measure",
    )  # fmt: skip


def stack(parts: Sequence[tuple[str, float, str]]) -> Html:
    """One bar of several parts: (name, share, CSS class), the words beneath it."""
    pieces = [
        tag("span", style=f"width:{100 * share:.2f}%", class_=kind, title=f"{name} {share:.1%}")
        for name, share, kind in parts
        if share > 0
    ]
    words = [
        tag("span", tag("i", class_=f"chip {kind}", aria_hidden="true"), f" {name} {share:.1%}")
        for name, share, kind in parts
    ]
    return join(tag("div", pieces, class_="stack", aria_hidden="true"), tag("p", words, class_="keys"))


def swatch(color: Color) -> Html:
    """A class's colour beside its name."""
    red, green, blue = color
    return tag("i", class_="chip", style=f"background:rgb({red},{green},{blue})", aria_hidden="true")


def _figure(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.3g}"
