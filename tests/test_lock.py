"""Who writes into a folder: one command at a time, and the second is told who the first is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made import SHAPES, save_photo, tiny_model, write_shapes

from hf_detr_panoptic import lock
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.lock import LOCK, LockedError, locked

HOLD = (
    "import sys; from hf_detr_panoptic.lock import locked\nwith locked(sys.argv[1]): print('in', flush=True); input()"
)


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_the_second_is_told_who_the_first_is_and_a_dead_one_is_taken_over(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        with pytest.raises(LockedError) as refused, locked(tmp_path):
            pass
        for word in (str(tmp_path), f"process {process.pid} on {socket.gethostname()}, since 20"):
            assert word in str(refused.value)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK).exists()
        with locked(tmp_path), locked(tmp_path):  # once more inside is no second command
            assert json.loads((tmp_path / LOCK).read_bytes())["process"] == os.getpid()
        assert not any(tmp_path.iterdir())


def test_what_another_machine_left_is_asked_about(tmp_path: Path) -> None:
    content = '{"process": 7, "host": "far-away", "since": "2026-01-02 03:04+00:00"}'
    (tmp_path / LOCK).write_text(content)
    asks = "process 7 on far-away.*remove .*lock and run the same"
    with pytest.raises(LockedError, match=asks) as refused, locked(tmp_path):
        pass
    assert str(tmp_path / LOCK) in str(refused.value)
    assert (tmp_path / LOCK).read_text() == content
    (tmp_path / LOCK).write_text('{"process": 7, "ho')  # cut short while it was written
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("alive", [True, False])
def test_where_the_file_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    monkeypatch.setattr(lock, "_ask_system", lambda descriptor: None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    process = os.getppid() if alive else gone.pid
    (tmp_path / LOCK).write_text(json.dumps({"process": process, "host": socket.gethostname(), "since": "now"}))
    if alive:
        with pytest.raises(LockedError, match=f"process {process} "), locked(tmp_path):
            pass
    else:
        with locked(tmp_path):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_keeps_no_lock_of_a_dead_parent(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time; from hf_detr_panoptic.lock import locked\n"
        "with locked(sys.argv[1]):\n"
        "    read, write = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.write(write, b'.'); sys.stdin.read(); os._exit(0)\n"
        "    os.read(read, 1); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE) as parent:
        parent.wait()
        with locked(tmp_path):  # while the child still lives
            pass
        parent.stdin.close()  # type: ignore[union-attr]


def test_nothing_is_left_of_a_folder_that_nothing_was_written_to(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "site"):
        assert (tmp_path / "runs" / "site").is_dir()
    assert not any(tmp_path.iterdir())


def test_every_command_that_writes_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, model, data, out = (tmp_path / name for name in ("photos/a.png", "model", "data", "out"))
    save_photo(photo)
    write_shapes(data, train=2, val=1)
    tiny_model(SHAPES).save_pretrained(model)
    recipe = tmp_path / "site.yaml"
    recipe.write_text(f"model: {model}\ndata: {data}\noutput: {out}\n")
    images = ["--images", photo.parent, "--out", out, "--labeler", model]
    commands = {
        "prepare": images,
        "overlay": images[:4],
        "train": [recipe, "--use_cpu"],
        "predict": [model, photo, "--out", out],
        "split": [data, "--out", out],
        "calibrate": ["--model", model, "--data", data, "--out", out],
        "import-review": [data, data / "annotations" / "instances_val.json", "--out", out],
        "demo": ["--out", out],
    }
    with held(out) as process:
        for command, words in commands.items():
            assert main([command, *map(str, words)]) == 2, command
            said = capsys.readouterr().err
            assert f"another command writes there: process {process.pid} " in said, (command, said)
        assert {path.name for path in out.iterdir()} == {LOCK}
    with held(data):
        assert main(["split", str(data)]) == 2
        assert "another command writes there" in capsys.readouterr().err
        assert main(["split", str(data), "--dry-run"]) == 0
