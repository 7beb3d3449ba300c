"""benchmarks/gpu.py in its tiny form: every part runs and leaves its figures, on a machine without a GPU too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(root: Path, *words: str) -> str:
    command = [sys.executable, str(root / "benchmarks" / "gpu.py"), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def part(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
def test_every_part_leaves_its_figures_and_one_command_makes_tables(root: Path, tmp_path: Path) -> None:
    run(root, "--device", "cpu", "--out", str(tmp_path))
    parts = {name: part(tmp_path, name) for name in ("right", "fast", "loop", "learning", "hours")}
    assert all(told["rows"] and not told["cut"] and "needs" not in told for told in parts.values())
    exact = [row for row in parts["right"]["rows"] if row["table"].startswith("exactness")]
    assert {(row["logits"], row["pred_boxes"]) for row in exact} == {("0.0e+00", "0.0e+00")}
    assert max(float(row["pred_masks"]) for row in exact) < 1e-4
    (cpu,) = [row for row in parts["right"]["rows"] if row.get("by") == "fp32"]
    assert cpu["pixels unlike the CPU's"] == "0.000%"
    shown = run(root, "--tables", str(tmp_path))
    assert [line for line in shown.splitlines() if line.startswith("## ")] == [f"## {name}" for name in parts]


def test_a_budget_ends_a_part_with_a_whole_file(root: Path, tmp_path: Path) -> None:
    run(root, "--device", "cpu", "--only", "right", "--budget", "0", "--out", str(tmp_path))
    told = part(tmp_path, "right")
    assert told["cut"]
    assert len(told["rows"]) == 1
