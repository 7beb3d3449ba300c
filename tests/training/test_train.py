"""`train` on the command line: what is asked before anything loads, and what a run leaves and says."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made import ACCELERATE, SHAPES, child_environment, run_python, save_photo, tiny_model, write_shapes

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import LabelError
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.run_folder import StageEnd
from hf_detr_panoptic.training.train import launch_command, splits_of, stage_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six photos, a tiny model, and a recipe that begins with both."""
    root = tmp_path_factory.mktemp("train")
    write_shapes(root / "set", train=4, val=2)
    tiny_model(SHAPES).save_pretrained(root / "model")
    (root / "site.yaml").write_text(
        f"model: {root}/model\ndata: {root}/set\noutput: {root}/run\n"
        "augmentation: {crop: 0, short_sides: []}\npostprocess: {threshold: 0.3}\n"
    )
    return root


QUICK = ["--num_train_epochs", "1", "--use_cpu", "--dataloader_num_workers", "0"]


def test_the_whole_road(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(folder / "site.yaml"), "--output", str(tmp_path / "run"), *QUICK]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "detection: 0." in said
    assert "PQ THINGS" not in said
    assert f"Next: hf-detr-panoptic evaluate --model {tmp_path / 'run' / 'final'}" in said
    assert f"look at it: {tmp_path / 'run' / 'report.html'}" in said
    assert "2 validation photos" in (tmp_path / "run" / "report.html").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["detection", "mask_head", "finetune"]
    assert main(["evaluate", "--model", str(tmp_path / "run" / "final"), "--data", str(folder / "set")]) == 0
    again = main(words)
    assert again == 0
    assert capsys.readouterr().out.count("finished before") == 3


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "no recipe is given"),
        (["sit.yaml"], "there is no recipe"),
        (["SITE", "--seeed", "1"], "Did you mean '--seed'"),
        (["SITE", "--num_train_epochs", "many"], "num_train_epochs is the text 'many'"),
        (["SITE", "--data", "./nowhere"], "'./nowhere' does not exist"),
        (["SITE", "--stages.mask_hed.seed", "1"], "unknown stage 'mask_hed'"),
        (["SITE", "--start", "masks", "--use_cpu"], "there is no stage 'masks'"),
        (["SITE", "--labels", "[block, sea]", "--use_cpu"], "the dataset has no class 'sea'"),
    ],
)
def test_a_clear_answer_at_once(
    folder: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [str(folder / "site.yaml") if word == "SITE" else word for word in words]
    if words and words[0].endswith("site.yaml"):
        words += ["--output", str(tmp_path / "run")]
    assert main(["train", *words]) == 2
    assert answer in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_loads_nothing(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "--dry-run", str(folder / "site.yaml"), "--output", str(tmp_path / "run"), "--seed", "3"]
    assert main(words) == 0
    assert "mask_head 25 epochs" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["a folder of photos", "an empty val"])
def test_a_dry_run_looks_at_the_dataset(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What would end the run after its model is loaded is said before."""
    data = tmp_path / "data"
    if what == "a folder of photos":
        save_photo(data / "one.jpg")
        answer = str(data)
    else:
        shutil.copytree(Recipe.load(folder / "site.yaml").data, data)
        path = data / "annotations" / "panoptic_val.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "images": [], "annotations": []}))
        answer = "the split val is empty"
    words = ["train", "--dry-run", str(folder / "site.yaml"), "--data", str(data), "--output", str(tmp_path / "run")]
    assert main(words) == 2
    assert answer in capsys.readouterr().err


def test_several_gpus_and_no_launcher(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    words = ["train", "--no-launch", str(folder / "site.yaml")]
    monkeypatch.setattr(sys, "argv", ["train.py", *words[2:]])
    assert main(words) == 2
    assert "accelerate launch --multi_gpu --num_processes 2 examples/train.py" in capsys.readouterr().err
    started = []

    class Started:
        def __init__(self, command: list[str]) -> None:
            started.append(command)

        def wait(self) -> int:
            return 7

    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(sys, "argv", ["hf-detr-panoptic", "train", *words[2:]])
    assert main(["train", *words[2:]]) == 7
    assert started == [launch_command(2, words[2:])]
    monkeypatch.setenv("WORLD_SIZE", "2")  # a launcher has been here: this is one of its processes
    assert main(["train", *words[2:], "--dry-run"]) == 0


def test_some_classes_in_another_order(folder: Path) -> None:
    recipe = Recipe.load(folder / "site.yaml", ["--labels", "[mud, block]"])
    splits = splits_of(recipe)
    assert splits.space.names == ("mud", "block")
    row = splits.train[0]
    assert sorted(segment.label for segment in row.segments) == [0, 1]
    truth = row.map()
    assert truth.space == splits.space
    assert (truth.ids == 0).sum() > 0  # sky
    assert {segment.id: segment.label for segment in truth.segments} == {s.id: s.label for s in row.segments}
    with pytest.raises(LabelError, match="Did you mean 'block'"):
        splits_of(Recipe.load(folder / "site.yaml", ["--labels", "[blok]"]))


@pytest.mark.slow
def test_the_script_on_two_processes_and_a_signal(folder: Path, root: Path, tmp_path: Path) -> None:
    """`accelerate launch` with our configuration for two CPU processes; SIGTERM, and the same command again."""
    script = [str(root / "examples" / "train.py"), str(folder / "site.yaml"), "--output", str(tmp_path / "run")]
    command = [*ACCELERATE, *script, "--num_train_epochs", "3", *QUICK[2:], "--logging_steps", "1"]
    environment = child_environment() | {"PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert first.stdout is not None
    for line in first.stdout:
        if "mask_head  epoch 1.00" in line:
            first.send_signal(signal.SIGTERM)
            break
    first.stdout.read()
    assert first.wait() != 0
    assert not (tmp_path / "run" / "final").exists()
    again = run_python(*command)
    assert "detection: finished before" in again.stdout
    assert "mask_head: resumed from" in again.stdout
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_what_is_said_of_stages_that_were_not_evaluated_on_their_way() -> None:
    def end(name: str, metric: str, result: dict[str, Any], *found: float | None) -> StageEnd:
        return StageEnd(name, Path(name), result, metric, *(found or (None, None, None)), 9, "all", ())  # type: ignore[arg-type]

    thing = {"pq": 0.2, "sq": None, "rq": None, "things": {"pq": 0.2}, "stuff": {"pq": None}, "yours": {"pq": 0.4}}
    box = {"all": {"ap": 0.25, "ap50": 0.5, "ap75": 0.1}, "things": {"ap": 0.25}, "stuff": {"ap": None}}
    ends = [
        end("detection", "box_ap", {"pq": None, "box": box}),
        end("finetune", "pq_yours_and_all", thing),  # the mean of 20 and 40
    ]
    assert stage_table(ends) == [
        "            measured by       at its end",
        "detection   box_ap                  25.0",
        "finetune    pq_yours_and_all        30.0",
    ]
    ends[1] = end("finetune", "pq_yours_and_all", thing, 0.35, 0.31, 4.0)
    assert stage_table(ends)[-1].split() == ["finetune", "pq_yours_and_all", "35.0", "4", "31.0"]
