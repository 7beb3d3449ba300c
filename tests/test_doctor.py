"""Each line of the doctor's with the machine it describes: the real one, or one with a fault."""

import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
import torch
from made import TWO_PROCESSES, run_python, save_photo, save_tiny_labeler, tiny_config
from safetensors.torch import load_file, save_file
from transformers import DetrForSegmentation, DetrImageProcessor

from hf_detr_panoptic import Category, LabelSpace, doctor
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HfDetrPanopticError
from hf_detr_panoptic.parallel import guard_processes

ROOT = Path(__file__).resolve().parents[2]


def test_here_everything_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline"]) == 0
    said = capsys.readouterr().out
    assert metadata.version("transformers") in said
    assert "1 started, 1 promised" in said
    assert said.endswith("Ready.\n")


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
        "import os, pathlib\n"
        "from hf_detr_panoptic.parallel import guard_processes\n"
        "pathlib.Path(f'rank{os.environ[\"RANK\"]}').write_text(str(guard_processes()))\n"
    )
    accelerate = (
        "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
        "--main_process_port 0 --mixed_precision no --dynamo_backend no"
    )
    run_python(*{"torchrun": TWO_PROCESSES, "accelerate": accelerate.split()}[launcher], script, cwd=tmp_path)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2", "2"]


# What accelerate's launcher writes for `--cpu --num_processes 2`, for the same without --cpu, and for one process.
CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LAUNCHES = [
    (CPU, True),
    (CPU | {"ACCELERATE_USE_CPU": "False"}, True),
    ({"ACCELERATE_USE_CPU": "True"}, False),
    ({"ACCELERATE_USE_CPU": "False"}, False),
    ({"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "node7"}, False),  # exported by a cluster's script
    ({"MASTER_ADDR": "127.0.0.1"}, False),
    ({}, False),
]


@pytest.mark.parametrize(("environment", "refused"), LAUNCHES)
def test_a_launcher_that_was_asked_for_more(
    environment: dict[str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CPU, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(HfDetrPanopticError, match="asked for several processes and started one.*--multi_gpu"):
            guard_processes()
    else:
        assert guard_processes() == 1


@pytest.mark.slow
def test_accelerate_on_a_cpu(tmp_path: Path) -> None:
    script = tmp_path / "guarded.py"
    script.write_text("from hf_detr_panoptic.parallel import guard_processes\nguard_processes()\n")
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no"
    done = run_python(*launch.split(), script, fails=True)
    assert "asked for several processes and started one" in done.stderr


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
    said = run_python("-c", code, fails=True).stdout
    assert "promised 2 processes, but this one knows of 1" in said
    assert "torchrun" in said


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny random panoptic DETR, saved by stock transformers."""
    space = LabelSpace([Category("pipe", True), Category("sky", False)])
    torch.manual_seed(0)
    DetrForSegmentation(tiny_config(space)).save_pretrained(tmp_path / "model")
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_checkpoint_beside_stock(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline", "--model", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    assert "every weight found its place; LabelSpace(2: pipe, sky (stuff))" in said
    assert "PanopticMap(640×480" in said
    assert "the largest differences: logits 0.0e+00" in said


def test_a_checkpoint_with_a_weight_missing(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop("bbox_attention.q_linear.weight")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert main(["doctor", "--offline", "--model", str(checkpoint)]) == 1
    said = capsys.readouterr().out
    assert "✗ model" in said
    assert "1 missing: bbox_attention.q_proj.weight" in said


def test_a_checkpoint_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline", "--model", "nobody/nothing"]) == 1
    assert "'nobody/nothing' is not in the cache" in capsys.readouterr().out


def test_the_whole_road_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On photos of one's own, a tiny checkpoint for the real one: labelled, trained, loaded by transformers alone."""
    for seed in range(12):
        save_photo(tmp_path / "photos" / f"{seed}.jpg", seed=seed)
    labeler = save_tiny_labeler(tmp_path / "labeler")
    weights = load_file(labeler / "model.safetensors")
    weights["detr.class_labels_classifier.weight"] *= 5  # sure of what it sees: nothing is left out
    save_file(weights, labeler / "model.safetensors", {"format": "pt"})
    words = ["--model", str(labeler), "--photos", str(tmp_path / "photos"), "--steps", "4"]
    assert main(["doctor", "--offline", "--real", *words]) == 0
    said = capsys.readouterr().out
    assert "label            10 photos, " in said  # of twelve
    assert "train            4 steps at 320 pixels, loss " in said
    assert "plain client     every key found, logits 0.0e+00 apart" in said
    assert said.endswith("Ready: the whole road works here.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labeler", "photos"]


def test_what_fails_on_the_road_ends_it_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    labeler = save_tiny_labeler(tmp_path / "labeler")
    words = ["--model", str(labeler), "--photos", str(tmp_path / "empty")]
    assert main(["doctor", "--offline", "--real", *words]) == 1
    said = capsys.readouterr().out
    assert "✗ label" in said
    assert "train  " not in said
    assert main(["doctor", "--push", "anna/trial"]) == 2
    assert "--push goes with --real" in capsys.readouterr().err
