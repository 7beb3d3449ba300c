"""A finished run, written by hand: what training leaves, with figures that a test knows."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess

SPACE = LabelSpace(
    [
        Category("pipe", True, source="custom"),
        Category("crane <script>alert(1)</script>", True, source="custom"),
        Category("sky|grey\nor *blue*", False, source="auto"),
        Category('mud "wet" 🚧', False, source="auto"),
    ]
)


def speaking_model() -> DetrForPanopticSegmentation:
    """Its own copy of a tiny random DETR that sees things and stuff on noise, with masks that differ."""
    return copy.deepcopy(_speaking_model())


@functools.cache
@torch.no_grad()
def _speaking_model() -> DetrForPanopticSegmentation:
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "dropout": 0.0}
    torch.manual_seed(0)
    model = DetrForPanopticSegmentation(
        DetrConfig(backbone_config=backbone, d_model=32, num_queries=16, **layers), SPACE
    )
    model.eval()
    model.image_processor = Preprocess(shortest_edge=64, longest_edge=128)
    model.settings = Postprocess(threshold=0.3)
    for tensor in model.detr.parameters():
        if tensor.ndim == 2:
            tensor.normal_(std=1.5 / tensor.shape[1] ** 0.5)
    model.detr.model.query_position_embeddings.weight.normal_(std=2.0)
    model.mask_head.conv1.conv.weight[:, -8:] *= 100  # the attention channels, in which alone queries differ
    for tensor in model.bbox_attention.parameters():
        tensor.mul_(5)  # queries look at different places: masks do not tie, and rounding moves no pixel
    # At random weights all queries say the same: what they have in common is taken out of classes and masks.
    inputs = model.image_processor(images=noise(), return_tensors="pt")
    states = model(**inputs).last_hidden_state[0]
    classes = model.detr.class_labels_classifier
    classes.weight.normal_()
    classes.weight.mul_(4 / (states - states.mean(0)).std() / 32**0.5)
    classes.bias.copy_(-(classes.weight @ states.mean(0)))
    model.mask_head.output_conv.weight.mul_(100)
    model.mask_head.output_conv.bias.sub_(model(**inputs).pred_masks.mean())
    return model


def noise(seed: int = 0, size: tuple[int, int] = (96, 72)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def scene(space: LabelSpace = SPACE) -> PanopticMap:
    """Two pipes before sky, on 72 × 96."""
    ids = np.full((72, 96), 3, dtype=np.int32)
    ids[40:, :30], ids[40:, 50:70] = 1, 2
    sources = [Segment(1, 0), Segment(2, 0), Segment(3, 2, score=0.9, source="auto")]
    return PanopticMap(ids, sources, space)


def write_data(folder: Path, space: LabelSpace = SPACE) -> Path:
    """Two photos in train, one in val; people marked the pipes, the sky is the labeler's."""
    with DatasetWriter(folder, space) as writer:
        for place, split in enumerate(("train", "train", "val")):
            writer.add(split, f"p{place}.jpg", noise(place), scene(space))
    told = {
        "format": 1,
        "settings": {"labeler": "facebook/detr-resnet-50-panoptic", "threshold": 0.7, "leakage": 0.5, "min_area": 64},
        "labeler": {"fingerprint": "0123456789abcdef", "threshold": 0.5, "batch_size": 4, "device": "cpu"},
        "counts": {"pixels": {"custom": 30, "auto": 60, "void: unsure": 10}},
    }
    (folder / "prepare.json").write_text(json.dumps(told))
    return folder


def quality(pq: float | None, n: int = 4) -> dict[str, Any]:
    return {"pq": pq, "sq": None if pq is None else 0.8, "rq": None if pq is None else 0.75, "n": n}


def write_run(
    folder: Path, data: str | Path, *, model: bool = False, sources: tuple[str, ...] = ("custom", "auto")
) -> Path:
    """runs as `train` leaves them; with `model` the weights too, else the configuration alone."""
    made = speaking_model()
    for name in ("1-detection", "2-mask_head", "3-finetune", "final"):
        (folder / name).mkdir(parents=True)
    if model:
        made.save_pretrained(folder / "final")
        shutil.copytree(folder / "final", folder / "3-finetune", dirs_exist_ok=True)
    else:
        made._remember()
        made.config.save_pretrained(folder / "final")
    rows = [
        {
            "label": label,
            "name": category.name,
            "isthing": category.isthing,
            **quality(value),
            "tp": 1,
            "fp": 0,
            "fn": 0,
        }
        for label, (category, value) in enumerate(zip(SPACE, (0.5, None, 0.625, 0.1234), strict=True))
    ]
    average = {"ap": 0.4567, "ap50": 0.7, "ap75": 0.5, "n": 4}
    result = {
        **quality(0.53125),
        "things": quality(0.616, 1),
        "stuff": quality(0.299, 2),
        "per_class": rows,
        "sources": dict.fromkeys(sources, quality(0.25, 2)) | {"custom": quality(0.75, 1)} if len(sources) > 1
        else {source: quality(0.53125) for source in sources},
        "box": dict.fromkeys(("all", "things", "stuff"), average) | {"per_class": []},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({"final": result, "stages": {"finetune": result}}))
    stages = {
        "detection": ("box_ap", 0.5, 12.0, 30.0, 1e-4, 1e-5, 3725.0),
        "mask_head": ("pq", 0.5, 20.0, 25.0, 1e-4, None, 65.4),
        "finetune": ("pq", 0.53125, 9.0, 10.0, 1e-5, 1e-6, 9.0),
    }
    settings = {}
    for number, (name, (metric, best, epoch, epochs, rate, backbone, seconds)) in enumerate(stages.items(), start=1):
        marker = {"name": name, "result": {}, "metric": metric, "best": best, "last": best, "best_epoch": epoch}
        marker |= {"steps": 100 * number, "trained": "", "rows": [], "seconds": seconds, "peak_memory_mb": 2500}
        (folder / f"{number}-{name}" / "complete.json").write_text(json.dumps(marker))
        settings[name] = {"num_train_epochs": epochs, "learning_rate": rate, "backbone_learning_rate": backbone}
        settings[name] |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": number}
    recipe = {"data": str(data), "model": "facebook/detr-resnet-50-panoptic", "output": str(folder), "seed": 17}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "stages": settings}))
    environment = {"hf_detr_panoptic": "0.1.0", "python": "3.11.7", "system": "Linux x86_64", "torch": "2.15.0"}
    environment |= {"transformers": "5.23.0", "timm": "1.0.31", "device": "NVIDIA H200", "processes": 2}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder
