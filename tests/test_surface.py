"""Whatever users typed, wrote or imported before the code moved still works: tests/surface.yaml has the list."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import hf_detr_panoptic
from hf_detr_panoptic import Recipe
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HfDetrPanopticError

SURFACE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("surface.yaml").read_text(encoding="utf-8"))

# What was taken away, and why.
GONE = {"data.leaky": "it served maps merged before; a recipe that named it was refused by `train`"}


def listed() -> list[str]:
    """Every key of the surface's recipe, dotted, but for what is gone."""

    def below(block: dict[str, Any], above: str) -> Iterator[str]:
        for key, value in block.items():
            if isinstance(value, dict) and f"{above}{key}" not in ("data.merge", "data.rename"):
                yield from below(value, f"{above}{key}.")
            else:
                yield f"{above}{key}"

    return [key for key in below(SURFACE["recipe"], "") if key not in GONE]


def without(recipe: dict[str, Any], key: str) -> dict[str, Any]:
    recipe = copy.deepcopy(recipe)
    *above, last = key.split(".")
    block = recipe
    for name in above:
        block = block[name]
    del block[last]
    return recipe


def todays() -> dict[str, Any]:
    recipe = SURFACE["recipe"]
    for key in GONE:
        recipe = without(recipe, key)
    return recipe


# --- from Python


@pytest.mark.parametrize("name", SURFACE["names"])
def test_a_public_name(name: str) -> None:
    assert name in dir(hf_detr_panoptic)
    assert getattr(hf_detr_panoptic, name) is not None


@pytest.mark.parametrize("name", SURFACE["attributes"])
def test_attributes_of_a_class(name: str) -> None:
    cls = getattr(hf_detr_panoptic, name)
    known = set(dir(cls)).union(*(inspect.get_annotations(base) for base in cls.__mro__))
    assert [attribute for attribute in SURFACE["attributes"][name] if attribute not in known] == []


@pytest.mark.parametrize("name", SURFACE["parameters"])
def test_parameters(name: str) -> None:
    owner, *method = name.split(".")
    function = getattr(hf_detr_panoptic, owner)
    for word in method:
        function = getattr(function, word)
    known = inspect.signature(function).parameters
    assert [parameter for parameter in SURFACE["parameters"][name] if parameter not in known] == []


# --- from the command line


@pytest.mark.parametrize("command", SURFACE["commands"])
def test_flags_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    entries = re.findall(r"^  (-\S.*|[\w/]+)", capsys.readouterr().out, flags=re.MULTILINE)
    known = {word.rstrip(",") for entry in entries for word in re.split(r"\s{2,}", entry)[0].split()}
    assert [word for word in SURFACE["commands"][command] if word not in known] == []


def test_settings_of_prepare(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("photos", "marks", "other"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        Image.new("RGB", (96, 72), (40 * number, 90, 30)).save(tmp_path / "photos" / f"site{number}_a.png")
        mask = Image.new("L", (96, 72))
        mask.paste(1 + number % 2, (10, 10, 50, 50))
        mask.save(tmp_path / "marks" / f"site{number}_a_marks.png")
    labeler = {"architectures": ["DetrForSegmentation"], "model_type": "detr", "id2label": {}}
    names = ["person", "car", "truck", "cat", "tree-merged", "sky-other-merged"]
    labeler["id2label"] = {str(index): name for index, name in enumerate(names)}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(labeler))
    folders = {"images": "photos", "annotations": "marks", "out": "out", "labeler": "teacher", "mix": "other"}
    settings = SURFACE["prepare"] | {key: str(tmp_path / folder) for key, folder in folders.items()}
    file = tmp_path / "prepare.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert main(["prepare", "--config", str(file), "--dry-run"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "crack: thing, 3 marks" in said
    assert "gravel: stuff, 3 marks" in said
    file.write_text(yaml.safe_dump(settings | {"treshold": 0.7}))  # an unknown one would have been refused
    assert main(["prepare", "--config", str(file), "--dry-run"]) == 2


# --- recipes


@pytest.mark.parametrize("name", SURFACE["recipes"])
def test_a_shipped_recipe(name: str) -> None:
    assert Recipe.load(name) == Recipe.load(f"{name}.yaml")


def test_a_recipe_with_every_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(todays()))
    recipe = Recipe.load(file)
    assert (recipe.seed, recipe.model, recipe.output) == (7, "someone/detr", "runs/mine")
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize("key", listed())
def test_a_key_is_read(key: str) -> None:
    whole = Recipe.from_dict(todays())
    try:
        assert Recipe.from_dict(without(todays(), key)) != whole
    except HfDetrPanopticError:  # one that has to be there
        assert key in ("data.images", "data.annotations", "push.repository", "size.shortest_edge", "size.longest_edge")


@pytest.mark.parametrize("key", SURFACE["training_arguments"])
def test_a_key_of_the_training_arguments_is_read(key: str) -> None:
    source = Path(importlib.util.find_spec("transformers").origin).with_name("training_args.py")
    if not re.search(rf"^    {key}: ", source.read_text(encoding="utf-8"), flags=re.MULTILINE):
        pytest.skip("the installed transformers has no such argument")
    written = {"data": "site", "stages": {"finetune": {key: SURFACE["training_arguments"][key]}}}
    assert Recipe.from_dict(written) != Recipe.from_dict({"data": "site"})
