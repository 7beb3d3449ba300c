"""docs/quality.md: every division done again, the picture counted again, and our code asked for the same numbers."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, PanopticQuality, Segment

PAGE = "docs/quality.md"
EQUATION = re.compile(r"`([\d. +*/()-]+) = ([\d.]+)`")


def value(expression: str) -> Fraction:
    """Exactly, and nothing but arithmetic."""
    assert re.fullmatch(r"[\d. +*/()-]+", expression)
    return eval(re.sub(r"\d+(\.\d+)?", r"Fraction('\g<0>')", expression), {"Fraction": Fraction})


@pytest.fixture(scope="module")
def grids(blocks) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, as the page draws them."""
    text = next(block.text for block in blocks if block.page == PAGE and block.text.startswith("truth"))
    rows = np.array([[int(word) for word in line.split()] for line in text.splitlines()[1:]])
    return rows[:, :4], rows[:, 4:]


def test_every_equation_of_the_page_holds(prose) -> None:
    equations = EQUATION.findall(prose(PAGE))
    assert len(equations) >= 14
    for expression, result in equations:
        digits = len(result.partition(".")[2])
        assert abs(value(expression) - Fraction(result)) <= Fraction(1, 2 * 10**digits), f"{expression} = {result}"


def test_the_table_of_pairs_counts_the_picture(prose, grids) -> None:
    truth, prediction = grids
    rows = re.findall(
        r"^\| (\w+) (\d), \1 (\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| `.* = ([\d.]+)` \| (yes|no)",
        prose(PAGE),
        flags=re.MULTILINE,
    )
    assert len(rows) == 5
    for _, true_id, predicted_id, *numbers, iou, matches in rows:
        a, b = truth == int(true_id), prediction == int(predicted_id)
        shared, void = int((a & b).sum()), int((b & (truth == 0)).sum())
        assert [int(number) for number in numbers] == [shared, int(a.sum()), int(b.sum()), void]
        exact = Fraction(shared, int((a | b).sum()) - void)
        assert abs(exact - Fraction(iou)) < Fraction(1, 10_000)
        assert (matches == "yes") == (exact > Fraction(1, 2))
    # No pair of one class that shares a pixel is missing from the table.
    pairs = Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    same_class = {(t, p) for t, p in pairs if (t == 1 and p == 1) or (t > 1 and p > 1)}
    assert same_class == {(int(row[1]), int(row[2])) for row in rows}


def test_our_code_gives_the_pages_numbers(grids) -> None:
    space = LabelSpace([Category("sky", isthing=False), Category("pipe", isthing=True)])
    truth, prediction = (
        PanopticMap(ids, [Segment(number, int(number > 1)) for number in np.unique(ids[ids > 0]).tolist()], space)
        for ids in grids
    )
    quality = PanopticQuality(space).update(prediction, truth).compute()
    sky, pipe = quality["per_class"]
    assert [sky[key] for key in ("tp", "fp", "fn")] == [1, 0, 0]
    assert [pipe[key] for key in ("tp", "fp", "fn")] == [1, 2, 1]
    assert sky["pq"] == pytest.approx(5 / 6)
    assert [pipe[key] for key in ("pq", "sq", "rq")] == pytest.approx([4 / 15, 2 / 3, 0.4])
    assert [quality[key] for key in ("pq", "sq", "rq")] == pytest.approx([0.55, 0.75, 0.7])
    assert quality["things"]["pq"] == pytest.approx(4 / 15)
    assert quality["stuff"]["pq"] == pytest.approx(5 / 6)
