"""Processes that work together, and one of them dies or is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from made import TWO_PROCESSES, run_python

from hf_detr_panoptic.watch import STOPPED, LostProcessError, Watch, watched

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there one is not stopped by a signal")


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_one_that_was_stopped_is_named_once_and_one_that_is_gone_at_once(
    other: subprocess.Popen[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    watch = Watch({"process 1 of 2": (other.pid, psutil.Process(other.pid).create_time())})
    os.kill(other.pid, signal.SIGSTOP)
    os.waitpid(other.pid, os.WUNTRACED)
    for _ in range(STOPPED + 2):
        assert watch.look() is None
    said = capfd.readouterr().err
    # This child of ours is named as such too.
    assert said.count("process 1 of 2 was stopped and is waited for") == 1
    assert said.count(f"`kill -CONT {other.pid}` lets it go on") == 2
    os.kill(other.pid, signal.SIGCONT)
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert watch.look() == "process 1 of 2"
    other.wait()
    assert watch.look() == "process 1 of 2"


def test_a_number_that_is_somebody_elses_now(other: subprocess.Popen[bytes]) -> None:
    began = psutil.Process(other.pid).create_time()
    assert Watch({"process 1": (other.pid, began - 100)}).look() == "process 1"
    assert Watch({"process 1": (other.pid, began)}).look() is None


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "loads photos is gone (DataLoader worker (pid 7)"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "loads photos is gone (DataLoader worker (pid(s) 7"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer", None),  # this one is alone
    ],
)
def test_what_torch_says(words: str, ours: str | None) -> None:
    with pytest.raises(RuntimeError if ours is None else LostProcessError) as raised, watched(), watched():
        raise RuntimeError(words)
    assert (ours or words) in str(raised.value)


def test_a_rank_that_dies(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from hf_detr_panoptic.errors import HfDetrPanopticError\n"
        "from hf_detr_panoptic.parallel import guard_processes\n"
        "from hf_detr_panoptic.watch import watched\n"
        "guard_processes()\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"  # as while a step is at work
        "try:\n"
        "    with watched():\n"
        "        if os.environ['RANK'] == '1':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        torch.distributed.all_reduce(torch.ones(1))\n"
        "except HfDetrPanopticError as error:\n"
        "    print('OURS:', error, file=sys.stderr)\n"
        "    os._exit(2)\n"
    )
    said = run_python(*TWO_PROCESSES, script, fails=True).stderr
    assert "OURS: process 1 of 2 (" in said
    assert "is gone, and this one ends with it" in said
