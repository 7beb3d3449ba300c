"""Two hundred hostile cases end with an error of ours or right; `make fuzz CASES=2000` by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import run_python

HERE = Path(__file__).parent


@pytest.mark.slow
def test_what_strangers_hand_over() -> None:
    done = run_python(HERE / "fuzz.py", "--cases", 200)
    assert "200 cases, 0 failed" in done.stdout
