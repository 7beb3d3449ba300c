"""Two processes learn and measure what one with the same global batch does, whatever the number of photos.

Every second photo to learn from has no marks, and is incomplete for one class: what is for such photos is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import run_by_one_and_by_two, write_half_marked

pytestmark = pytest.mark.bits

SCRIPT = Path(__file__).parent / "two_processes.py"
STAGES = ("detection", "mask_head", "finetune")


@pytest.fixture(scope="module")
def runs(even_folder: Path, still_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(one process, two processes) with five photos: a step of four, and one that leaves a process without any."""
    folder = tmp_path_factory.mktemp("runs")
    half_marked = write_half_marked(even_folder, folder / "half-marked")
    return run_by_one_and_by_two(SCRIPT, half_marked, still_model_folder, folder=folder)


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_losses(runs: tuple[Any, Any], stage: str) -> None:
    one, two = (run["stages"][stage]["rows"] for run in runs)
    assert len(one) == len(two) == 2
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == (pytest.approx(value, rel=2e-4) if name.startswith("loss") else value), name


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_gradients(runs: tuple[Any, Any], stage: str) -> None:
    one, two = (run["stages"][stage]["gradients"] for run in runs)
    assert len(one) == len(two) == 4  # two epochs of two steps
    # Later steps start from weights that rounding has moved apart already.
    for step, tolerance in ((0, 1e-4), (1, 1e-2)):
        assert one[step].keys() == two[step].keys()
        scale = max(gradient.norm() for gradient in one[step].values())
        assert scale > 0
        for name, gradient in one[step].items():
            assert (two[step][name] - gradient).norm() <= tolerance * scale, (step, name)


def test_the_same_quality(runs: tuple[Any, Any]) -> None:
    for stage in STAGES:
        assert runs[0]["stages"][stage]["result"] == runs[1]["stages"][stage]["result"]
    result = runs[0]["stages"]["finetune"]["result"]
    assert sum(row["tp"] + row["fn"] for row in result["per_class"]) == 12  # four segments on each of three photos
    assert sum(row["fp"] for row in result["per_class"]) > 0  # there are predictions to disagree about


def test_each_photo_counts_once(runs: tuple[Any, Any]) -> None:
    assert runs[0]["counted"][-1] == runs[1]["counted"][-1] == [6, 7, 8]
