"""A tiny random DETR that finds something on any photo, on disk, and photos with marks to prepare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic.labels import LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess


def save_tiny_labeler(folder: Path, space: LabelSpace | None = None) -> Path:
    torch.manual_seed(0)
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "dropout": 0.0}
    config = DetrConfig(backbone_config=backbone, d_model=32, num_queries=12, **layers)
    model = DetrForPanopticSegmentation(config, space or LabelSpace.coco()).eval()
    model.image_processor = Preprocess(shortest_edge=64, longest_edge=128)
    # Every pixel goes to a query, and the classes differ from query to query: at random weights none would.
    model.settings = Postprocess(fill="argmax")
    with torch.no_grad():
        for tensor in model.detr.parameters():
            if tensor.ndim == 2:
                tensor.normal_(std=4.0 / tensor.shape[1] ** 0.5)
        model.detr.model.query_position_embeddings.weight.normal_(std=3.0)
        model.detr.class_labels_classifier.weight.normal_(std=1.4)
        model.detr.class_labels_classifier.bias[-1] = -99.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_labeler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_labeler(tmp_path_factory.mktemp("labeler"))


def save_site(folder: Path, count: int = 6, size: tuple[int, int] = (72, 96), seed: int = 0) -> Path:
    """`photos/`, `marks.json`: a pipe on every photo, a crack on every other one, in COCO's instances format."""
    rng = np.random.default_rng(seed)
    (folder / "photos").mkdir(parents=True)
    images, annotations = [], []
    for place in range(count):
        height, width = size if place % 3 else size[::-1]
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        name = f"site_{place:04}.jpg"
        photo.save(folder / "photos" / name, quality=95)
        images.append({"id": place + 1, "file_name": name, "width": width, "height": height})
        for category in (1, 2) if place % 2 else (1,):
            x, y = (int(rng.integers(0, side // 2)) for side in (width, height))
            polygon = [x, y, x + width // 3, y, x + width // 3, y + height // 3, x, y + height // 3]
            entry = {"id": len(annotations) + 1, "image_id": place + 1, "category_id": category}
            annotations.append({**entry, "segmentation": [polygon], "bbox": [], "iscrowd": 0})
    categories = [{"id": 1, "name": "pipe"}, {"id": 2, "name": "crack"}]
    told = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "marks.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return save_site(tmp_path / "site")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def save_labeler():
    return save_tiny_labeler


@pytest.fixture
def contents():
    return tree


@pytest.fixture
def grown_sites(tmp_path: Path) -> tuple[Path, Path]:
    """A site of 20 photos, and the same when there were 10 of them."""
    whole, half = save_site(tmp_path / "whole", 20), tmp_path / "half"
    (half / "photos").mkdir(parents=True)
    for path in sorted((whole / "photos").iterdir())[::2]:
        (half / "photos" / path.name).write_bytes(path.read_bytes())
    return half, whole
