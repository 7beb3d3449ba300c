"""The recipes and accelerate files that people copy: each is read, and each says the command that runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_detr_panoptic.recipe import Recipe, recipe_names
from hf_detr_panoptic.settings import Prepare

ROOT = Path(__file__).resolve().parents[1] / "training_args"
RECIPES = sorted(path.stem for path in ROOT.glob("*.yaml"))
LAUNCHERS = sorted(path.stem for path in (ROOT / "accelerate").glob("*.yaml"))


def test_these_are_shipped() -> None:
    assert {"coco", "construction", "laptop", "quick"} <= set(RECIPES)
    assert recipe_names() == RECIPES
    assert LAUNCHERS == ["cpu2", "multi_gpu", "multi_node", "single_gpu"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_without_a_murmur(name: str, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe.load(name)
    assert recipe.output == f"runs/{name}"
    assert recipe == Recipe.from_dict(recipe.to_dict())
    assert not caplog.records


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_header_is_its_command(name: str) -> None:
    first = (ROOT / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(("# hf-detr-panoptic train ", "# accelerate launch "))
    assert f"{name}.yaml" in first


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launchers_header_is_its_command(name: str) -> None:
    lines = (ROOT / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    words = lines[0].split()
    assert words[:5] == ["#", "accelerate", "launch", "--config_file", f"training_args/accelerate/{name}.yaml"]
    recipe = words[-1].removesuffix(".yaml")
    assert recipe in RECIPES
    assert name == "cpu2" or any(line.startswith("# Not run:") for line in lines)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_accelerate_knows_every_key(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    content = yaml.safe_load((ROOT / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
    config = load_config_from_file(str(ROOT / "accelerate" / f"{name}.yaml"))  # raises at an unknown key
    assert config.num_processes == content["num_processes"]
    assert config.mixed_precision == "no"  # the recipe chooses it for the device


def test_the_construction_plan() -> None:
    """As it was first written down: 80/20, the mask head alone for 25 epochs, threshold .85, then a lower rate."""
    recipe = Recipe.load("construction")
    assert isinstance(recipe.data, Prepare)
    assert (recipe.data.validation, recipe.data.threshold) == (0.2, 0.85)
    assert recipe.model == recipe.data.labeler == "facebook/detr-resnet-50-panoptic"
    detection, mask_head, finetune = recipe.stages.to_run
    assert (mask_head.training_arguments["num_train_epochs"], mask_head.lr_drop) == (25, 15)
    assert finetune.training_arguments["learning_rate"] < detection.training_arguments["learning_rate"]


def test_the_papers_schedule() -> None:
    """Carion et al. 2020: 300 epochs, drop at 200, 64 images a step; then 25 epochs of the mask head."""
    recipe = Recipe.load("coco")
    detection, mask_head = recipe.stages.to_run
    arguments = detection.training_arguments
    assert (arguments["num_train_epochs"], detection.lr_drop) == (300, 200)
    assert (arguments["learning_rate"], detection.backbone_learning_rate) == (1e-4, 1e-5)
    assert (arguments["weight_decay"], arguments["max_grad_norm"]) == (1e-4, 0.1)
    processes = yaml.safe_load((ROOT / "accelerate" / "multi_gpu.yaml").read_text(encoding="utf-8"))["num_processes"]
    assert arguments["per_device_train_batch_size"] * processes == 64
    assert mask_head.training_arguments["num_train_epochs"] == 25


GUARDED = """
import sys, torch
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.arguments import training_arguments
from hf_detr_panoptic.parallel import end_processes, guard_processes

count = guard_processes()
stage = Recipe.load("quick").stages.detection
arguments = training_arguments(stage, "cpu", output_dir=sys.argv[1], seed=0)
ranks = torch.tensor([arguments.process_index + 1.0])
torch.distributed.all_reduce(ranks)
open(f"{sys.argv[1]}/rank{arguments.process_index}", "w").write(f"{count} {arguments.world_size} {ranks.item()}")
end_processes()
"""


@pytest.mark.slow
def test_cpu2_starts_two_processes_that_know_each_other(tmp_path: Path) -> None:
    script = tmp_path / "guarded.py"
    script.write_text(GUARDED)
    config = ROOT / "accelerate" / "cpu2.yaml"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port",
        "0",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT.parent)}
    subprocess.run([*launch, str(script), str(tmp_path)], check=True, env=environment, timeout=300)
    assert {path.name: path.read_text() for path in tmp_path.glob("rank*")} == {"rank0": "2 2 3.0", "rank1": "2 2 3.0"}
