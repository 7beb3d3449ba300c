"""Killed at random moments and run again: byte for byte the dataset of an undisturbed run. --kills 20 by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_prepare.py")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--grown"]], ids=["new", "grown"])
def test_killed_and_run_again(tmp_path: Path, more: list[str]) -> None:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--kills", "5", "--photos", "40", *more]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "5 kills" in run.stdout
    assert "every byte agrees" in run.stdout
