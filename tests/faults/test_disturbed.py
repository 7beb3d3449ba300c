"""Thirty disturbed commands end as if nothing had been; `make test-faults TRIALS=300` by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import run_python

HERE = Path(__file__).parent


@pytest.mark.slow
def test_disturbed_and_run_again() -> None:
    done = run_python(HERE / "faults.py", "--trials", 30)
    assert "30 trials, 0 failed" in done.stdout
