"""docs/pictures/marks.png: what a marked photo is worth, from the lines of benchmarks/marks.jsonl.

    python docs/pictures/make_worth.py

The lines are `benchmarks/demo_ablation.py`'s own, one a run; several seeds of a variant become their mean.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "benchmarks" / "marks.jsonl"

# variant → how it is called and drawn
LINES = {
    "partial + more + refit": ("this package: unmarked photos are incomplete, marks are pasted", (0, 105, 180)),
    "as looked at": ("the same, unmarked photos as if looked at", (200, 80, 20)),
    "stock": ("stock DetrForSegmentation + Trainer", (110, 110, 110)),
}
TWICE = 2  # drawn larger, then made smaller: Pillow's lines have hard edges
SIZE = (900, 460)
LEFT, RIGHT, TOP, BOTTOM = 60, 30, 56, 50
MOST = 80  # PQ, the top of the chart


def main() -> None:
    runs = [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines() if line.strip()]
    picture = chart(runs)
    picture.save(HERE / "marks.png", optimize=True)
    print(HERE / "marks.png", picture.size)


def chart(runs: list[dict]) -> Image.Image:
    marked = sorted({run["marked"] for run in runs})
    width, height = (side * TWICE for side in SIZE)
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    font, small = (ImageFont.load_default(points * TWICE) for points in (15, 13))

    def x(count: float) -> float:
        share = (math.log(count) - math.log(marked[0])) / (math.log(marked[-1]) - math.log(marked[0]))
        return TWICE * (LEFT + share * (SIZE[0] - LEFT - RIGHT - 150))

    def y(quality: float) -> float:
        return TWICE * (SIZE[1] - BOTTOM - quality / MOST * (SIZE[1] - TOP - BOTTOM))

    title = "What a mark is worth: PQ on held-out photos, by how many of 600 photos are marked"
    draw.text((TWICE * 12, TWICE * 12), title, "black", font)
    for quality in range(0, MOST + 1, 20):
        draw.line([(x(marked[0]), y(quality)), (x(marked[-1]), y(quality))], (225, 225, 225), TWICE)
        draw.text((TWICE * (LEFT - 12), y(quality)), str(quality), (90, 90, 90), small, anchor="rm")
    for count in marked:
        draw.text((x(count), y(0) + TWICE * 8), str(count), (90, 90, 90), small, anchor="mt")
    draw.text((x(marked[0]), y(0) + TWICE * 27), "photos with marks", (90, 90, 90), small, anchor="lt")
    ends: list[float] = []
    for variant, (_, colour) in LINES.items():
        for group, words, dashed in (("all", "all classes", True), ("your classes", "your classes", False)):
            points = curve(runs, variant, group)
            if not points:
                continue
            line(draw, [(x(count), y(quality)) for count, quality in points], colour, dashed)
            for count, quality in [] if dashed else points[:-1]:
                below = quality > MOST / 4
                place = y(quality) + TWICE * (9 if below else -9)
                draw.text((x(count), place), f"{quality:.0f}", colour, small, anchor="mt" if below else "mb")
            place = y(points[-1][1])
            while any(abs(place - other) < TWICE * 15 for other in ends):
                place += TWICE
            ends.append(place)
            label = f"{words}, {points[-1][1]:.0f}"
            draw.text((x(points[-1][0]) + TWICE * 10, place), label, colour, small, anchor="lm")
    left = TWICE * LEFT
    for variant, (name, colour) in LINES.items():
        if any(run["variant"] == variant for run in runs):
            draw.line([(left, TWICE * 42), (left + TWICE * 22, TWICE * 42)], colour, TWICE * 3)
            draw.text((left + TWICE * 28, TWICE * 42), name, "black", small, anchor="lm")
            left += TWICE * 46 + draw.textlength(name, small)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def curve(runs: list[dict], variant: str, group: str) -> list[tuple[int, float]]:
    """(marked photos, PQ in percent), the mean over seeds; where all are marked, the variants are one."""
    of = [run for run in runs if run["variant"] in (variant, "all marked")]
    if all(run["variant"] == "all marked" for run in of):
        return []
    return [
        (count, 100 * statistics.mean(run["pq"][group] or 0.0 for run in of if run["marked"] == count))
        for count in sorted({run["marked"] for run in of})
    ]


def line(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: tuple[int, ...], dashed: bool) -> None:
    """A line through points, with a dot at each; dashed: strokes and gaps of eight pixels."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        step = TWICE * 8 if dashed else length
        for begin in range(0, max(int(length), 1), int(2 * step) or 1):
            one, other = begin / length, min(1.0, (begin + step) / length)
            draw.line(
                [(x0 + one * (x1 - x0), y0 + one * (y1 - y0)), (x0 + other * (x1 - x0), y0 + other * (y1 - y0))],
                colour,
                TWICE * 3 if not dashed else TWICE * 2,
            )
    for at_x, at_y in points:
        reach = TWICE * (4 if not dashed else 3)
        draw.ellipse([at_x - reach, at_y - reach, at_x + reach, at_y + reach], colour)


if __name__ == "__main__":
    main()
