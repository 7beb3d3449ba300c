"""Each line of the doctor's with the machine it describes: the real one, or one with a fault."""

import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.steps import doctor


def test_here_everything_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline"]) == 0
    said = capsys.readouterr().out
    assert metadata.version("transformers") in said
    assert "1 started, 1 promised" in said
    assert said.endswith("Ready.\n")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "scipy" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert main(["doctor", "--offline"]) == 1
    said = capsys.readouterr().out
    assert "pip install 'timm>=" in said
    assert "0.0.1, needs >=" in said
    assert "2 things to mend" in said


def test_a_hub_that_does_not_answer_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the discard port: refuses
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert main(["doctor"]) == 0
    assert "127.0.0.1:9 does not answer" in capsys.readouterr().out


def test_little_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 2**30, 2**30))
    assert [finding.mood for finding in doctor._disk()] == ["note", "note"]


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_processes_that_work_together(launcher: str, tmp_path: Path) -> None:
    script = tmp_path / "guarded.py"
    script.write_text(
        "from hf_detr_panoptic.steps.processes import guard_processes\nprint('count', guard_processes())\n"
    )
    launch = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    }[launcher]
    if launcher == "accelerate":
        launch += [
            "--main_process_port",
            "0",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
        ]
    run = subprocess.run([sys.executable, *launch, str(script)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("count 2") == 2


def test_processes_that_are_alone_without_knowing_it() -> None:
    """A world of two is promised, but the process state was made before anybody could meet: what scripts do wrong."""
    code = (
        "import os\n"
        "from accelerate import PartialState\n"
        "PartialState(cpu=True)\n"
        "os.environ['WORLD_SIZE'] = '2'\n"
        "from hf_detr_panoptic.cli import main\n"
        "raise SystemExit(main(['doctor', '--offline']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "promised 2 processes, but this one knows of 1" in run.stdout
    assert "torchrun" in run.stdout
