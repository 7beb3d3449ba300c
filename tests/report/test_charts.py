"""Axes by hand, and curves where they must lie."""

from __future__ import annotations

import math
import re

import pytest

from hf_detr_panoptic.report.charts import line_chart, ticks
from hf_detr_panoptic.report.pages import templates
from hf_detr_panoptic.report.values import Curve

MACROS = templates("hf_detr_panoptic.report").get_template("charts.html.j2").module


def drawn(title: str, *curves: Curve, percent: bool, best: float | None = None) -> str:
    return str(MACROS.figure(line_chart(title, curves, percent, best)))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("largest", "settings", "wanted"),
    [
        (0.43, {}, [0, 0.2, 0.4, 0.6]),
        (0.98, {"limit": 1.0}, [0, 0.25, 0.5, 0.75, 1.0]),
        (12, {"whole": True}, [0, 5, 10, 15]),
        (3, {"whole": True}, [0, 1, 2, 3]),
        (2, {"whole": True}, [0, 1, 2]),
        (0, {}, [0, 1]),
        (math.nan, {}, [0, 1]),
        (36.2, {}, [0, 10, 20, 30, 40]),
    ],
)
def test_ticks(largest: float, settings: dict[str, object], wanted: list[float]) -> None:
    assert ticks(largest, **settings) == wanted  # type: ignore[arg-type]


def test_a_curve_lies_where_its_numbers_are() -> None:
    # 380 × 210 with margins 44, 10, 12, 26: epoch 4 of 4 at the right edge, 100 % at the top, 0 at the bottom.
    chart = drawn("PQ <all>", Curve("pq", ((0, 0.0), (2, 0.5), (4, 1.0))), percent=True, best=4)
    assert 'points="44.0,184.0 207.0,98.0 370.0,12.0"' in chart
    assert "PQ &lt;all&gt; (%)" in chart
    assert "pq, epoch 2: 50.0 %" in chart
    assert re.search(r'<line x1="370.0" x2="370.0" y1="12" y2="184" class="best"/>', chart)


def test_the_last_epoch_is_at_the_right_edge() -> None:
    chart = drawn("loss", Curve("all", ((0, 10.0), (21, 0.0))), percent=False)
    assert 'points="44.0,12.0 370.0,184.0"' in chart
    assert re.findall(r'text-anchor="middle">(\d+)<', chart) == ["0", "10", "20"]
    assert "</b> over epochs<" in chart


def test_a_best_epoch_beyond_the_last_has_no_mark() -> None:
    assert "best" not in drawn("loss", Curve("all", ((0, 10.0), (21, 0.0))), percent=False, best=30)


def test_one_dot_is_no_curve() -> None:
    chart = MACROS.figure(line_chart("quality", [Curve("PQ", ((3, 0.5),)), Curve("SQ", ((3, 0.75),))], True))  # type: ignore[attr-defined]
    assert "<svg" not in chart
    assert "once: PQ, epoch 3: 50.0 %; SQ, epoch 3: 75.0 %</p>" in chart


def test_what_cannot_be_drawn_is_said() -> None:
    assert "nothing was written down" in drawn("loss", Curve("all", ((1, math.nan),)), percent=False)
    broken = drawn("loss", Curve("all", ((1, 2.0), (2, math.inf), (3, 1.0))), percent=False)
    assert "inf" not in broken
    assert broken.count("<circle") == 2


def test_bars() -> None:
    bar, stack = MACROS.bar, MACROS.stack  # type: ignore[attr-defined]
    assert 'style="width:25.0%"' in bar(0.25, "25")
    assert 'style="width:100.0%"' in bar(3.0, "300")
    assert 'style="width:0.0%"' in bar(None, "–")
    drawn = stack([("by hand", 0.25, "custom"), ("void", 0.0, "void")])
    assert drawn.count("width:") == 1
    assert "void 0.0%" in drawn
