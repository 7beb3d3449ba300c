"""benchmarks/gpu.py in its tiny form: every part runs and leaves its figures, on a machine without a GPU too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


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
    assert not [row for told in parts.values() for row in told["rows"] if {"failed", "ended"} & row.keys()]
    exact = [row for row in parts["right"]["rows"] if row["table"].startswith("exactness")]
    assert {(row["logits"], row["pred_boxes"]) for row in exact} == {("0.0e+00", "0.0e+00")}
    assert max(float(row["pred_masks"]) for row in exact) < 1e-4
    (cpu,) = [row for row in parts["right"]["rows"] if row.get("by") == "fp32"]
    assert cpu["pixels unlike the CPU's"] == "0.000%"
    shown = run(root, "--tables", str(tmp_path))
    assert [line for line in shown.splitlines() if line.startswith("## ")] == [f"## {name}" for name in parts]


@pytest.fixture
def bench(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from gpu_bench import Bench

    return Bench.tiny(torch.device("cpu"), tmp_path)


@pytest.mark.parametrize(
    ("budget", "takes", "done", "cut"),
    [
        (100, (10, 20, 30), 3, False),
        (55, (10, 20, 30), 3, True),  # 25 s are left, and the longest row so far took 20: the third is begun
        (45, (10, 20, 30), 2, True),  # 15 s are left: it is not
        (0, (10,), 0, True),
    ],
)
def test_a_budget_ends_a_part_with_a_whole_file(
    bench: Any, monkeypatch: pytest.MonkeyPatch, budget: float, takes: tuple[int, ...], done: int, cut: bool
) -> None:
    import gpu_bench

    clock = [1000.0]
    monkeypatch.setattr(gpu_bench.time, "monotonic", lambda: clock[0])
    begun = []

    def rows(_: Any) -> Iterator[dict[str, Any]]:
        for number, seconds in enumerate(takes):
            begun.append(number)
            clock[0] += seconds
            yield {"table": "any", "number": number}

    bench.until = clock[0] + budget
    gpu_bench.run_part("right", rows, bench)
    told = part(bench.out, "right")
    assert [row["number"] for row in told["rows"]] == list(range(done))
    assert told["cut"] is cut
    assert told["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_what_runs_out_of_time_leaves_nothing_running(bench: Any, tmp_path: Path) -> None:
    """A launcher that is killed does not take its workers along; here one keeps a pipe open while it lives."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    bench.until = 0.0
    with pytest.raises(subprocess.TimeoutExpired):
        bench.run(["sh", "-c", f"(exec 3>{pipe}; echo begun >&3; sleep 600) & wait"])
    with os.fdopen(reader, "rb") as end:
        assert end.read() == b"begun\n"
    bench.until = float("inf")
    assert bench.run([sys.executable, "-c", "print(7)"]) == "7\n"
    with pytest.raises(subprocess.CalledProcessError):
        bench.run(["false"])
