"""The demo: what it refuses before any work, the road in small from end to end, killed, and made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import save_tiny_labeler
from PIL import Image

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset, read_split
from hf_detr_panoptic.demo import demo as demo_step
from hf_detr_panoptic.demo.demo import DemoSettings, demo, demo_recipe
from hf_detr_panoptic.demo.figures import LabelledScene, by_groups, merged_quality, mergings, without_void
from hf_detr_panoptic.demo.photos import Place
from hf_detr_panoptic.demo.scenes import SITE, TEACHER
from hf_detr_panoptic.errors import HfDetrPanopticError
from hf_detr_panoptic.evaluation.quality import PanopticQuality
from hf_detr_panoptic.labels import LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.settings import OverlayRules

SMALL = ["--photos", "8", "--held-out", "2", "--size", "128x96"]
QUICK = ["--max_steps", "2", "--eval_strategy", "no", "--per_device_train_batch_size", "2", "--data.threshold", "0.5"]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random labeler of this folder's other tests, with the teacher's classes."""
    return save_tiny_labeler(tmp_path_factory.mktemp("teacher"), TEACHER)


def arguments(teacher: Path, out: Path) -> list[str]:
    return ["demo", "--out", str(out), "--teacher", str(teacher), *SMALL, *QUICK]


# --- where processes cannot reach each other


def test_one_process_takes_the_batches_of_two_where_there_is_no_loopback(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("Network is unreachable")

    ran: list[Recipe] = []
    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("hf_detr_panoptic.training.train.check_run", lambda recipe: None)
    monkeypatch.setattr("hf_detr_panoptic.training.train.run_recipe", lambda recipe: ran.append(recipe) or [])
    recipe = demo_recipe(DemoSettings(out=tmp_path, teacher=teacher), Place(tmp_path))
    assert demo_step.trained(recipe, 2) == []
    sizes = {stage.name: stage.training_arguments["per_device_train_batch_size"] for stage in ran[0].stages}
    assert sizes == {"detection": 8, "mask_head": 8, "finetune": 8}


def test_training_that_was_not_finished_is_told(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    recipe = demo_recipe(DemoSettings(out=tmp_path, teacher=teacher), Place(tmp_path))
    with pytest.raises(HfDetrPanopticError, match="training ended with 1"):
        demo_step.trained(recipe, 2)


# --- before any work


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--photos", "2"], "photos is 2. Give 5 or more"),
        (["--size", "big"], "--size cannot be 'big'"),
        (["--size", "16x16"], "size is 16"),
        (["--sead", "1"], "Did you mean '--seed'"),
        (["--recipe", "quick"], "`data` names no photos and marks"),
        (["--teacher", "nowhere"], "there is no model.safetensors"),
    ],
)
def test_a_clear_answer_at_once(
    words: list[str], answer: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--teacher", str(teacher), *words]) == 2
    assert answer in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_somebody_elses_is_left_alone(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(HfDetrPanopticError, match="is no demo"):
        demo(DemoSettings(out=tmp_path, teacher=teacher))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_recipe_is_the_demos_wherever_it_lies(tmp_path: Path) -> None:
    place = Place(tmp_path / "elsewhere")
    recipe = demo_recipe(DemoSettings(out=place.folder, seed=7), place, ["--stages.finetune.skip", "true"])
    assert recipe.seed == 7
    assert recipe.model == recipe.data.labeler == str(tmp_path / "elsewhere" / "teacher")
    assert recipe.output == str(tmp_path / "elsewhere" / "run")
    assert recipe.data.unannotated == "auto"
    assert [stage.name for stage in recipe.stages.to_run] == ["detection", "mask_head"]
    plain = demo_recipe(DemoSettings(), Place(Path("demo")))
    assert (plain.model, plain.data.images) == ("demo/teacher", Path("demo/site/photos"))  # as the YAML has them


# --- what is measured


def square(space: LabelSpace, label: int, source: str, score: float = 1.0, side: int = 4) -> PanopticMap:
    """8 × 8, a square in the corner, the rest void."""
    ids = np.zeros((8, 8), dtype=np.int32)
    ids[:side, :side] = 5
    return PanopticMap(ids, [Segment(5, label, score, source)], space)


def test_void_goes_to_the_nearest() -> None:
    ids = np.array([[3, 0, 0, 0, 9]], dtype=np.int32)
    filled = without_void(PanopticMap(ids, [Segment(3, 0), Segment(9, 1)], SITE))
    assert filled.ids.tolist()[0] in ([3, 3, 3, 9, 9], [3, 3, 9, 9, 9])
    empty = PanopticMap(np.zeros((2, 2), dtype=np.int32), [], SITE)
    assert without_void(empty) is empty


def test_what_a_rule_adds_is_counted() -> None:
    """A car of score .6 that is none: below the threshold it is void, without that rule an invention."""
    truth = square(SITE, SITE.index("truck"), "custom", side=8)
    auto = square(TEACHER, TEACHER.index("car"), "auto", score=0.6)
    photo = LabelledScene("a.jpg", auto, (), truth)
    quality = merged_quality([photo], mergings(OverlayRules()))
    assert quality["all rules"]["all"] == 0.0  # the truck was missed
    ways = mergings(OverlayRules())
    assert photo.merged(ways["all rules"]).segments == ()
    assert photo.merged(ways["low scores kept"]).areas() == {1: 16}
    assert photo.merged(ways["only pasted, no void"]).areas() == {1: 64}


def test_groups_are_means_over_their_own_classes() -> None:
    quality = PanopticQuality(SITE)
    truth = square(SITE, SITE.index("pipe"), "custom")
    quality.update(truth, truth)
    wrong = square(SITE, SITE.index("car"), "model")
    quality.update(wrong, square(SITE, SITE.index("truck"), "custom"))
    expected = {"all": 1 / 3, "things": 1 / 3, "stuff": None, "your classes": 1.0, "the teacher's classes": 0.0}
    assert by_groups(quality.compute()) == pytest.approx(expected)


# --- the road


@pytest.mark.slow
def test_the_road_from_end_to_end(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(teacher, tmp_path / "one")) == 0
    said = capsys.readouterr().out
    place = Place(tmp_path / "one")
    figures = json.loads((place.folder / "figures.json").read_text())

    space = next(iter(read_dataset(place.data).values())).space
    assert set(TEACHER.names) < set(space.names) <= set(SITE.names)
    assert sum(len(split) for split in read_dataset(place.data).values()) == 8
    assert {s.source for record in read_split(place.data, "train") for s in record.segments} >= {"custom"}
    assert len(read_split(place.held_out, "val")) == figures["held-out"]["images"] == 2
    stages = {"1-detection", "2-mask_head", "3-finetune", "final"}
    assert stages <= {path.name for path in place.run.iterdir()}
    assert list(figures["merged"]) == ["all rules", "only pasted, no void"]
    assert figures["merged"]["all rules"]["your classes"] > 0.8  # the marks are near the truth
    assert set(figures["held-out"]["pq"]) == {"all", "things", "stuff", "your classes", "the teacher's classes"}
    for name in ("strip.png", "held-out.png"):
        with Image.open(place.pictures / name) as picture:
            assert picture.width > 1000
    for folder in (place.data, place.run):
        assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    assert isinstance(figures["pictures"]["pipeline"], list)
    for words in ("1  photos of a site", "PQ against the truth", "hf-detr-panoptic prepare --images photos/"):
        assert said.count(words) == 1

    # Once more in the same folder: nothing is made again. With other settings: refused.
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*") if path.name != "figures.json"}
    assert main(arguments(teacher, place.folder)) == 0
    assert capsys.readouterr().out.count("(done before)") == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert main([*arguments(teacher, place.folder), "--seed", "1"]) == 2
    assert "other settings: seed" in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_and_run_again_it_gives_the_figures_of_an_undisturbed_run(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(teacher, tmp_path / "whole")) == 0

    def cut(*given: Any) -> Any:
        raise KeyboardInterrupt

    for part in ("make_dataset", "learn", "measure"):
        with monkeypatch.context() as patch:
            patch.setattr(demo_step, part, cut)
            assert main(arguments(teacher, tmp_path / "cut")) == 130
    capsys.readouterr()
    assert main(arguments(teacher, tmp_path / "cut")) == 0
    assert capsys.readouterr().out.count("(done before)") == 4
    whole, again = ((tmp_path / name / "figures.json").read_bytes() for name in ("whole", "cut"))
    assert whole == again


@pytest.mark.slow
def test_two_processes_train_together_and_one_aborts_when_all_is_done(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, aborted = subprocess.run, []

    def aborting(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        done = run(command, **options, capture_output=True, text=True)
        print(done.stdout)
        if "torch.distributed.run" in command:
            aborted.append(command)
            done.returncode = 1
        return done

    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("subprocess.run", aborting)
    assert main([*arguments(teacher, tmp_path / "two"), "--processes", "2"]) == 0
    assert len(aborted) == 1
    said = capsys.readouterr().out
    assert (said.count("measured by"), said.count("n/a  ")) == (1, 0)  # its last stages end with figures
    figures = json.loads((tmp_path / "two" / "figures.json").read_text())
    assert list(figures["training"]) == ["detection", "mask_head", "finetune"]


# --- examples/train.py without a word, under a launcher


IN_SMALL = """
import runpy, sys
import hf_detr_panoptic.cli as cli
whole, words = cli.main, sys.argv[2:]
cli.main = lambda argv: whole([*argv, *words])
sys.argv = sys.argv[1:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launched(
    launcher: list[str], root: Path, tmp_path: Path, words: list[str], before: str = ""
) -> subprocess.CompletedProcess[str]:
    """The script without arguments of its own, which runs the demo: here with `words`, so that it is a small one.

    before: Python that each process runs first.
    """
    small = tmp_path / "in_small.py"
    small.write_text(before + IN_SMALL)
    command = [sys.executable, "-m", *launcher, str(small), str(root / "examples" / "train.py"), *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    environment |= {"PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [TORCHRUN, [*ACCELERATE, "--multi_gpu", "--num_processes", "2"]], ids=["torchrun", "accelerate"]
)
def test_two_processes_of_a_launcher_make_one_demo(
    launcher: list[str], teacher: Path, root: Path, tmp_path: Path
) -> None:
    done = launched(launcher, root, tmp_path, arguments(teacher, tmp_path / "demo")[1:])
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "demo" / "figures.json").read_text())
    assert figures["settings"]["processes"] == 2
    assert list(figures["training"]) == ["detection", "mask_head", "finetune"]
    assert figures["held-out"]["images"] == 2
    environment = json.loads((tmp_path / "demo" / "run" / "environment.json").read_text())
    assert environment["processes"] == 2
    assert done.stdout.count("PQ against the truth\n") + done.stdout.count("PQ against the truth ") == 1  # one speaks
    assert done.stdout.count("4  three stages") == 1

    if launcher != TORCHRUN:
        return
    again = launched(launcher, root, tmp_path, arguments(teacher, tmp_path / "demo")[1:])
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("(done before)") == 6


@pytest.mark.slow
def test_one_process_of_a_launcher_is_the_demo_as_ever(teacher: Path, root: Path, tmp_path: Path) -> None:
    """`accelerate launch examples/train.py` where there is no GPU and no configuration: it starts one process."""
    words = [*arguments(teacher, tmp_path / "demo")[1:], "--processes", "1"]
    done = launched([*ACCELERATE, "--num_processes", "1"], root, tmp_path, words)
    assert done.returncode == 0, done.stderr
    assert "processes" in json.loads((tmp_path / "demo" / "figures.json").read_text())["settings"]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(teacher: Path, root: Path, tmp_path: Path) -> None:
    """In the first one's own work, and in the work of all."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    first = launched(TORCHRUN, root, tmp_path, arguments(teacher, tmp_path / "demo")[1:])
    assert first.returncode != 0
    assert "is no demo" in first.stderr
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["thesis.txt"]

    breaking = (
        "import os, hf_detr_panoptic.training.stages as stages\n"
        "whole_run = stages.run_stages\n"
        "def broken(*given, **more):\n"
        "    if os.environ['RANK'] == '1': raise MemoryError('of the second process')\n"
        "    return whole_run(*given, **more)\n"
        "stages.run_stages = broken\n"
    )
    both = launched(TORCHRUN, root, tmp_path, arguments(teacher, tmp_path / "other")[1:], breaking)
    assert both.returncode != 0
    assert "of the second process" in both.stderr
    assert not (tmp_path / "other" / "figures.json").exists()


# --- examples/train.py


def ran(root: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the script hands to the command line."""
    handed: list[str] = []
    monkeypatch.setattr("hf_detr_panoptic.cli.main", lambda argv: handed.extend(argv) or 0)
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    source = (root / "examples" / "train.py").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        exec(compile(source, "train.py", "exec"), {"__name__": "__main__"})
    return handed


def test_the_script_alone_is_the_demo(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(root, [], monkeypatch) == ["demo"]


def test_the_script_with_words_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(root, ["site.yaml", "--seed", "1"], monkeypatch) == ["train", "--no-launch", "site.yaml", "--seed", "1"]
    assert ran(root, ["--help"], monkeypatch) == ["train", "--no-launch", "--help"]


@pytest.mark.slow
def test_the_script_under_accelerate_launch(root: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    script = str(root / "examples" / "train.py")
    environment = os.environ | {"PYTHONPATH": str(root)}
    for words, answer in ((["--help"], "--estimate"), (["quick", "--data", "nowhere/at/all", "--dry-run"], "nowhere")):
        done = subprocess.run([*launch, script, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert answer in done.stdout + done.stderr
