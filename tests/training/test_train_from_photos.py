"""`data: {images, annotations, labeler}` in a recipe: photos and marks are prepared first, then learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from made import ACCELERATE, run_python

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.recipe import Recipe


@pytest.fixture
def recipe(site: Path, tiny_labeler: Path, tmp_path: Path) -> Path:
    """Six photos with pipes and cracks; a tiny model that labels the rest, and is trained on the outcome."""
    content = {
        "model": str(tiny_labeler),
        "data": {
            "images": str(site / "photos"),
            "annotations": str(site / "marks.json"),
            "labeler": str(tiny_labeler),
            "threshold": 0.5,
            "validation": 0.34,
            "stuff": ["crack"],
        },
        "output": str(tmp_path / "run"),
        "seed": 5,
        "augmentation": {"crop": 0, "short_sides": []},
        "stages": {
            stage: {"num_train_epochs": 1, "use_cpu": True, "dataloader_num_workers": 0}
            for stage in ("detection", "mask_head", "finetune")
        },
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "site.yaml"


def check_prepared(run: Path) -> None:
    """Two photos of six are validated on, and each has the marked classes beside what the labeler added."""
    prepared = read_dataset(run / "data")
    assert {name: len(split) for name, split in prepared.items()} == {"train": 4, "val": 2}
    space = prepared["train"].space
    assert not space[space.index("crack")].isthing
    assert space[space.index("pipe")].isthing
    for row in [*prepared["train"], *prepared["val"]]:
        sources = {space[segment.label].name: segment.source for segment in row.segments}
        assert sources["pipe"] == "custom"
        assert "auto" in sources.values()
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["name"] for row in metrics["final"]["per_class"]] == list(space.names)
    assert json.loads((run / "data" / "prepare.json").read_text())["settings"]["seed"] == 5


def test_photos_and_marks_to_a_model_in_one_command(
    recipe: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--stop", "detection"]) == 0
    assert f"evaluate --model {run / 'final'} --data {run / 'data'}" in capsys.readouterr().out
    (site / "photos" / "site_0003.jpg").unlink()  # the run goes on with what it began with
    assert main(["train", str(recipe)]) == 0
    assert "as this run began" in capsys.readouterr().out
    check_prepared(run)
    changed = [str(recipe), "--data.threshold", "0.9"]
    assert main(["train", *changed]) == 2
    assert "begun with other settings: data.threshold" in capsys.readouterr().err


def test_a_dry_run_prepares_nothing(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--dry-run"]) == 0
    assert "photos with" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--model", "nobody/nothing"], "nobody/nothing"),
        (["--start", "masks"], "there is no stage 'masks'"),
        (["--stages.finetune.fp16"], "stages.finetune: fp16 is asked for"),
    ],
)
def test_what_cannot_be_trained_is_said_before_photos_are_labelled(
    recipe: Path, tmp_path: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), *words]) == 2
    assert answer in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_label_and_learn(recipe: Path, root: Path, tmp_path: Path, one_thread: None) -> None:
    """The same dataset as one process makes; two label, one writes."""
    run_python(*ACCELERATE, root / "examples" / "train.py", recipe)
    check_prepared(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    alone = Recipe.load(recipe, ["--output", str(tmp_path / "alone")])
    alone.save(tmp_path / "alone.yaml")
    assert main(["train", str(tmp_path / "alone.yaml"), "--stop", "detection"]) == 0
    for one in sorted((tmp_path / "alone" / "data").rglob("*")):
        name = one.relative_to(tmp_path / "alone" / "data")
        if one.is_file() and name.parts[0] in ("images", "annotations"):
            assert (tmp_path / "run" / "data" / name).read_bytes() == one.read_bytes(), name
