"""A tiny dataset of coloured shapes, a tiny model, and recipes that train it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.sampling import Splits

SPACE = LabelSpace([Category("block", True), Category("disc", True), Category("sky", False), Category("mud", False)])
COLOURS = {0: (200, 40, 40), 1: (40, 60, 220), 2: (150, 200, 240), 3: (110, 80, 40)}


def shapes(seed: int, height: int, width: int) -> tuple[Image.Image, PanopticMap]:
    """Sky above mud, a block and a disc in front; a stripe of void on the left of every third."""
    rng = np.random.default_rng(seed)
    ids = np.full((height, width), 1, dtype=np.int32)
    horizon = int(rng.integers(height // 3, 2 * height // 3))
    ids[horizon:] = 2
    top, left = int(rng.integers(4, height // 2)), int(rng.integers(4, width // 2))
    ids[top : top + height // 4, left : left + width // 4] = 3
    y, x = np.mgrid[:height, :width]
    cy, cx = int(rng.integers(height // 2, height - 10)), int(rng.integers(width // 2, width - 10))
    ids[(y - cy) ** 2 + (x - cx) ** 2 < (min(height, width) / 7) ** 2] = 4
    labels = {1: 2, 2: 3, 3: 0, 4: 1}
    pixels = np.zeros((height, width, 3), dtype=np.int64)
    for segment_id, label in labels.items():
        pixels[ids == segment_id] = COLOURS[label]
    pixels += rng.integers(-12, 13, pixels.shape)
    if seed % 3 == 0:
        ids[:, :4] = 0
    segments = [Segment(i, label) for i, label in labels.items() if (ids == i).any()]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), PanopticMap(ids, segments, SPACE)


def write_shapes(folder: Path, train: int = 7, val: int = 3, same_size: bool = False) -> Path:
    with DatasetWriter(folder, SPACE) as writer:
        for place in range(train + val):
            size = (64, 96) if same_size or place % 2 else (72, 64)
            photo, truth = shapes(place, *size)
            writer.add("train" if place < train else "val", f"p{place}.png", photo, truth)
    return folder


def tiny_model(seed: int = 0, **changes: object) -> DetrForPanopticSegmentation:
    """A DETR of 0.3 M parameters on a random timm backbone."""
    torch.manual_seed(seed)
    fields = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_queries": 9,
        "dropout": 0.1,
        **changes,
    }
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    config = DetrConfig(backbone_config=backbone, **SPACE.to_config(), **fields)
    model = DetrForPanopticSegmentation(config)
    model.image_processor = Preprocess(shortest_edge=64, longest_edge=96)
    return model


def recipe_of(data: Path, model: Path, output: Path, **changes: object) -> Recipe:
    """Three stages of two epochs, with dropout and augmentation, so that randomness matters."""
    every = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 2,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "use_cpu": True,
        **changes.pop("every", {}),
    }
    content = {
        "model": str(model),
        "data": str(data),
        "output": str(output),
        "postprocess": {"threshold": 0.3},
        "augmentation": {"short_sides": [56, 64], "longest": 96, "crop": 0.0},
        **changes,
    }
    stages = content.pop("stages", {})
    content["stages"] = {name: {**every, **stages.get(name, {})} for name in ("detection", "mask_head", "finetune")}
    return Recipe.from_dict(content)


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
    tiny_model(dropout=0.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def splits(shapes_folder: Path) -> Splits:
    read = read_dataset(shapes_folder)
    return Splits(read["train"], read["val"], read["train"].space)


@pytest.fixture(scope="session")
def even_splits(even_folder: Path) -> Splits:
    read = read_dataset(even_folder)
    return Splits(read["train"], read["val"], read["train"].space)
