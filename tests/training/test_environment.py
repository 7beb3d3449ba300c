"""What a run says about the machine it ran on, and what its stages cost."""

from __future__ import annotations

import getpass
import json
import socket
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

from hf_detr_panoptic.training import callbacks as module
from hf_detr_panoptic.training.callbacks import Cost, environment, write_environment

CPU = torch.device("cpu")


def test_versions_and_hardware_and_nobody_by_name() -> None:
    found = environment(CPU)
    assert found["torch"] == metadata.version("torch")
    assert found["processes"] == 1
    assert found["device"].startswith("CPU")
    said = json.dumps(found)
    assert str(Path.home()) not in said
    for name in (socket.gethostname(), getpass.getuser()):
        assert name not in list(found.values())
        assert f"{name}@" not in said


def test_a_run_that_moved_keeps_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> dict:
        return json.loads((tmp_path / "environment.json").read_text())

    write_environment(tmp_path, CPU)
    first = told()
    write_environment(tmp_path, CPU)
    assert told() == first
    for name in ("Card A", "Card B"):
        monkeypatch.setattr(module, "device_name", lambda device, name=name: name)
        write_environment(tmp_path, CPU)
    assert told()["device"] == "Card B"
    assert [entry["device"] for entry in told()["earlier"]] == [first["device"], "Card A"]
    assert all("earlier" not in entry for entry in told()["earlier"])


def test_cost_goes_on_where_the_checkpoint_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "peak_memory", lambda device: 0.5)
    cost = Cost(CPU, {"step": 4, "seconds": 20.0, "peak_memory_mb": 800})
    assert cost.so_far() == {"seconds": 27.5, "peak_memory_mb": 800}


def test_memory_that_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peak_memory", lambda device: float("nan"))
    assert Cost(CPU, {}).so_far()["peak_memory_mb"] is None
