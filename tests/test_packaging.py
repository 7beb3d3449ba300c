"""What is installed is what is in the folders, from a wheel as from a checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.recipe import find_recipe, recipe_folder, recipe_names


def test_setup_cfg_lists_every_package(root: Path) -> None:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    listed = config["options"]["packages"].split()
    inits = (root / "hf_detr_panoptic").rglob("__init__.py")
    folders = {".".join(init.parent.relative_to(root).parts) for init in inits}
    assert sorted(listed) == sorted(folders | {"hf_detr_panoptic.training_args"})


def test_every_folder_with_code_is_a_package(root: Path) -> None:
    folders = {path.parent for path in (root / "hf_detr_panoptic").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_example_shadows_a_dependency(root: Path) -> None:
    names = {path.stem for path in (root / "examples").glob("*.py")}
    assert not names & {"evaluate", "datasets", "accelerate", "transformers", "torch", "timm", "scipy", "numpy"}


def test_recipes_are_found_by_name_in_a_checkout(root: Path) -> None:
    assert recipe_folder() == root / "training_args"
    assert find_recipe("construction") == root / "training_args" / "construction.yaml"
    assert find_recipe(root / "training_args" / "construction.yaml").is_file()


def test_an_unknown_recipe_is_answered() -> None:
    assert "construction" in recipe_names()
    with pytest.raises(RecipeError, match="Did you mean 'construction'"):
        find_recipe("constructin")


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a wheel of this checkout is installed; nothing of the checkout is beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(root, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    installed = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(installed), str(wheel)], check=True, cwd=folder)
    shutil.rmtree(source)
    return installed


def from_the_wheel(site: Path) -> dict[str, str]:
    """The wheel comes before an editable checkout on the path."""
    return os.environ | {"PYTHONPATH": str(site)}


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_runs_and_finds_its_recipes(site: Path, tmp_path: Path) -> None:
    code = (
        "import hf_detr_panoptic, hf_detr_panoptic.recipe as a;"
        "print(hf_detr_panoptic.__file__); print(a.find_recipe('construction'))"
    )
    python = [sys.executable, "-P", "-c", code]
    environment = from_the_wheel(site)
    said = subprocess.run(python, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    home, recipe = map(Path, said.split())
    assert home == site / "hf_detr_panoptic" / "__init__.py"
    assert recipe == site / "hf_detr_panoptic" / "training_args" / "construction.yaml"
    assert (site / "hf_detr_panoptic" / "py.typed").is_file()

    command = [site / "bin" / "hf-detr-panoptic", "doctor", "--offline"]
    doctor = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "construction" in doctor.stdout
    assert "Ready." in doctor.stdout


@pytest.mark.slow
def test_the_demo_of_a_wheel_needs_nothing_else(site: Path, tmp_path: Path) -> None:
    small = ["--photos", "5", "--held-out", "1", "--size", "128x96", "--max_steps", "1", "--eval_strategy", "no"]
    command = [sys.executable, "-P", str(site / "bin" / "hf-detr-panoptic"), "demo", *small]
    environment = from_the_wheel(site) | {"HF_HUB_OFFLINE": "1"}
    demo = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
    assert (tmp_path / "demo" / "run" / "final" / "model.safetensors").is_file()
    assert (tmp_path / "demo" / "pictures" / "strip.png").is_file()
