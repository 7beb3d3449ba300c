"""Where the curves and the axes of a chart lie; `charts.html.j2` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .values import Curve


@dataclass(frozen=True)
class Chart:
    """curves: (name, its dots as (x, y, words)); rows, columns: the grid's (y or x, number); best: x of an epoch."""

    width: ClassVar[int] = 380
    height: ClassVar[int] = 210
    left: ClassVar[int] = 44
    right: ClassVar[int] = 370
    top: ClassVar[int] = 12
    bottom: ClassVar[int] = 184

    title: str
    curves: Sequence[tuple[str, Sequence[tuple[float, float, str]]]] = ()
    rows: Sequence[tuple[float, str]] = ()
    columns: Sequence[tuple[float, str]] = ()
    best: float | None = None
    last: str = ""


def line_chart(title: str, curves: Sequence[Curve], percent: bool, best: float | None = None) -> Chart:
    """Curves over epochs from 0 up; `best`: the epoch to mark. Where no number can be drawn it has no curve."""
    points = [point for curve in curves for point in curve.points if all(map(math.isfinite, point))]
    if not points:
        return Chart(title)
    end = max(x for x, _ in points) or 1
    steps = ticks(max(y for _, y in points), limit=1.0 if percent else None)

    def across(epoch: float) -> float:
        return round(Chart.left + (Chart.right - Chart.left) * epoch / end, 1)

    def up(value: float) -> float:
        return round(Chart.bottom - (Chart.bottom - Chart.top) * max(value, 0.0) / steps[-1], 1)

    def figure(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.3g}"

    def dots(curve: Curve) -> list[tuple[float, float, str]]:
        known = [(x, y) for x, y in curve.points if math.isfinite(y)]
        return [(across(x), up(y), f"{curve.name}, epoch {x:g}: {figure(y)}") for x, y in known]

    return Chart(
        title=f"{title} (%)" if percent else title,
        curves=[(curve.name, dots(curve)) for curve in curves],
        rows=[(up(value), f"{100 * value if percent else value:g}") for value in steps],
        columns=[(across(value), f"{value:g}") for value in ticks(end, whole=True) if value <= end],
        best=across(best) if best is not None and best <= end else None,
        last=", ".join(f"{curve.name} {figure(curve.points[-1][1])}" for curve in curves if curve.points),
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
    numbers = [round(count * step, 10) for count in range(math.ceil(largest / step - 1e-9) + 1)]
    return [value for value in numbers if limit is None or value < limit] + ([limit] if limit in numbers else [])
