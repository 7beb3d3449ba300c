"""Killed at random moments and run again: byte for byte the dataset of an undisturbed run. --kills 20 by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import run_python

SCRIPT = Path(__file__).with_name("killed_prepare.py")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--grown"]], ids=["new", "grown"])
def test_killed_and_run_again(tmp_path: Path, more: list[str]) -> None:
    done = run_python(SCRIPT, tmp_path, "--kills", 5, "--photos", 40, *more)
    assert "5 kills" in done.stdout
    assert "every byte agrees" in done.stdout
