"""A tiny dataset of coloured shapes, tiny models, and recipes that train them in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made import SHAPES, recipe_of, tiny_model, write_shapes

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.sampling import Splits


@pytest.fixture(scope="session", name="make_recipe")
def _make_recipe() -> Callable[..., Recipe]:
    return recipe_of


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photos to train on, three to validate on, of two sizes."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="session")
def even_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photos to train on, three to validate on, all of one size: nothing is padded, so batches do not matter."""
    return write_shapes(tmp_path_factory.mktemp("even") / "set", train=5, same_size=True)


@pytest.fixture(scope="session")
def still_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout."""
    folder = tmp_path_factory.mktemp("still") / "model"
    tiny_model(SHAPES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model(SHAPES, dropout=0.1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def splits(shapes_folder: Path) -> Splits:
    read = read_dataset(shapes_folder)
    return Splits(read["train"], read["val"], read["train"].space)


@pytest.fixture(scope="session")
def even_splits(even_folder: Path) -> Splits:
    read = read_dataset(even_folder)
    return Splits(read["train"], read["val"], read["train"].space)
