"""What tests of many rooms need, made once: photos, datasets, tiny models, a finished run, and Python started anew."""

from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.settings import Postprocess

ROOT = Path(__file__).resolve().parents[1]
SPACE = LabelSpace([Category("pipe", True), Category("crane", True), Category("sky", False), Category("mud", False)])
SHAPES = LabelSpace([Category("block", True), Category("disc", True), Category("sky", False), Category("mud", False)])
HOSTILE = LabelSpace(
    [
        Category("pipe", True, source="custom"),
        Category("crane <script>alert(1)</script>", True, source="custom"),
        Category("sky|grey\nor *blue*", False, source="auto"),
        Category('mud "wet" 🚧', False, source="auto"),
    ]
)


# --- photos and datasets


def noise(seed: int = 0, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """A soft photo, unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save_photo(path: Path, size: tuple[int, int] = (96, 72), seed: int = 0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, size).save(path, **options)
    return path


def write_dataset(folder: Path, splits: Mapping[str, Sequence[PanopticMap]]) -> Path:
    """`write_dataset(folder, {"train": maps, "val": maps})`: p0.png, p1.png, … of noise, with these maps."""
    maps = [(split, truth) for split, some in splits.items() for truth in some]
    with DatasetWriter(folder, maps[0][1].space) as writer:
        for index, (split, truth) in enumerate(maps):
            writer.add(split, f"p{index}.png", noise(index, (truth.width, truth.height)), truth)
    return folder


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
    colours = np.array([[0, 0, 0], [150, 200, 240], [110, 80, 40], [200, 40, 40], [40, 60, 220]])
    pixels = colours[ids] + rng.integers(-12, 13, (height, width, 3))
    if seed % 3 == 0:
        ids[:, :4] = 0
    segments = [Segment(i, label) for i, label in {1: 2, 2: 3, 3: 0, 4: 1}.items() if (ids == i).any()]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), PanopticMap(ids, segments, SHAPES)


def write_shapes(folder: Path, train: int = 7, val: int = 3, same_size: bool = False) -> Path:
    with DatasetWriter(folder, SHAPES) as writer:
        for index in range(train + val):
            size = (64, 96) if same_size or index % 2 else (72, 64)
            photo, truth = shapes(index, *size)
            writer.add("train" if index < train else "val", f"p{index}.png", photo, truth)
    return folder


def write_half_marked(source: Path, folder: Path) -> Path:
    """Every second photo of a set has no marks: all of it is the labeler's, and who learns from it lacks the discs.

    Discs are seldom at the border.
    """
    read = read_dataset(source)
    with DatasetWriter(folder, read["train"].space) as writer:
        for split, rows in read.items():
            for place, row in enumerate(rows):
                whole, marked = row.map(), not place % 2
                segments = [replace(each, source="custom" if marked else "auto") for each in whole.segments]
                incomplete = ["disc"] if split == "train" and not marked else []
                map = PanopticMap(whole.ids, segments, whole.space)
                writer.add(split, row.file_name, row.photo, map, incomplete=incomplete)
    return folder


def save_site(folder: Path, count: int = 6) -> Path:
    """`photos/`, `marks.json`: a pipe on every photo, a crack on every other one, in COCO's instances format."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    images, annotations = [], []
    for index in range(count):
        height, width = (72, 96) if index % 3 else (96, 72)
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        name = f"site_{index:04}.jpg"
        photo.save(folder / "photos" / name, quality=95)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for category in (1, 2) if index % 2 else (1,):
            x, y = (int(rng.integers(0, side // 2)) for side in (width, height))
            polygon = [x, y, x + width // 3, y, x + width // 3, y + height // 3, x, y + height // 3]
            entry = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category}
            annotations.append({**entry, "segmentation": [polygon], "bbox": [], "iscrowd": 0})
    categories = [{"id": 1, "name": "pipe"}, {"id": 2, "name": "crack"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "marks.json").write_text(json.dumps(content))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- tiny models

TIMM = {
    "model_type": "timm_backbone",
    "backbone": "test_resnet",
    "features_only": True,
    "out_indices": [1, 2, 3, 4],
    "use_pretrained_backbone": False,
}
BACKBONES = {
    "timm": TIMM,
    "dilated": {**TIMM, "output_stride": 16},
    "five levels": {**TIMM, "out_indices": [0, 1, 2, 3, 4]},
    "hf": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32, 48],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "efficientnet": {**TIMM, "backbone": "tf_efficientnet_lite0", "freeze_batch_norm_2d": True},
    "regnet": {**TIMM, "backbone": "regnetx_002", "freeze_batch_norm_2d": True},
    "mobilenet, five levels": {**TIMM, "backbone": "mobilenetv3_small_050", "out_indices": [0, 1, 2, 3, 4]},
    "swin": {
        "model_type": "swin",
        "image_size": 64,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
}


def tiny_config(space: LabelSpace | None = None, backbone: str = "timm", **changes: Any) -> DetrConfig:
    """Of a DETR of 0.3 M parameters, without dropout, that draws its weights and asks no network for them."""
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    labels = {} if space is None else space.to_config()
    fields = {**sizes, "num_queries": 9, "dropout": 0.0, **labels, **changes}
    return DetrConfig(backbone_config=dict(BACKBONES[backbone]), **fields)


def tiny_model(
    space: LabelSpace, seed: int = 0, longest_edge: int = 96, **changes: Any
) -> DetrForPanopticSegmentation:
    """Its photos become 64 pixels high or wide."""
    torch.manual_seed(seed)
    model = DetrForPanopticSegmentation(tiny_config(space, **changes))
    model.image_processor = Preprocess(shortest_edge=64, longest_edge=longest_edge)
    return model


def save_tiny_labeler(folder: Path, space: LabelSpace | None = None) -> Path:
    """A model on disk that gives every pixel of any photo to something."""
    sizes = {"decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12}
    model = tiny_model(space or LabelSpace.coco(), longest_edge=128, **sizes)
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


COCO_NAMES = ("person", "car", "sky-other-merged", "pavement-merged")


def tiny_mask2former(names: Sequence[str] = COCO_NAMES) -> tuple[Any, Any]:
    """Model and processor."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=8,
        **_labels_of(names),
    )  # fmt: skip
    processor = Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}, size_divisor=32)
    return _differing(Mask2FormerForUniversalSegmentation(config)), processor


def tiny_eomt(names: Sequence[str] = COCO_NAMES) -> tuple[Any, Any]:
    """Model and processor."""
    from transformers import EomtConfig, EomtForUniversalSegmentation, EomtImageProcessor

    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8, num_blocks=1,
        num_queries=8, num_upscale_blocks=1, num_register_tokens=1, mlp_ratio=2, **_labels_of(names),
    )  # fmt: skip
    processor = EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True)
    return _differing(EomtForUniversalSegmentation(config)), processor


def _labels_of(names: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}


def _differing(model: torch.nn.Module) -> torch.nn.Module:
    """Masks and classes that differ from query to query."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 2:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 2 / tensor.shape[1] ** 0.5)
            if "class_predictor.weight" in name:
                tensor.mul_(3)
            if "class_predictor.bias" in name:
                tensor[-1] = -9
    return model.eval()


def speaking_model() -> DetrForPanopticSegmentation:
    """Its own copy of a tiny random DETR that sees things and stuff on noise, with masks that differ."""
    return copy.deepcopy(_speaking_model())


@functools.cache
@torch.no_grad()
def _speaking_model() -> DetrForPanopticSegmentation:
    model = tiny_model(HOSTILE, longest_edge=128, num_queries=16).eval()
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


# --- a finished run


def scene(space: LabelSpace = HOSTILE) -> PanopticMap:
    """Two pipes before sky, on 72 × 96."""
    ids = np.full((72, 96), 3, dtype=np.int32)
    ids[40:, :30], ids[40:, 50:70] = 1, 2
    sources = [Segment(1, 0), Segment(2, 0), Segment(3, 2, score=0.9, source="auto")]
    return PanopticMap(ids, sources, space)


def write_data(folder: Path, space: LabelSpace = HOSTILE) -> Path:
    """Two photos in train, one in val; people marked the pipes, the sky is the labeler's."""
    with DatasetWriter(folder, space) as writer:
        for index, split in enumerate(("train", "train", "val")):
            writer.add(split, f"p{index}.jpg", noise(index), scene(space))
    content = {
        "format": 1,
        "settings": {"labeler": "facebook/detr-resnet-50-panoptic", "threshold": 0.7, "leakage": 0.5, "min_area": 64},
        "labeler": {"fingerprint": "0123456789abcdef", "threshold": 0.5, "batch_size": 4, "device": "cpu"},
        "counts": {"pixels": {"custom": 30, "auto": 60, "void: unsure": 10}},
    }
    (folder / "prepare.json").write_text(json.dumps(content))
    return folder


def quality(pq: float | None, n: int = 4) -> dict[str, Any]:
    return {"pq": pq, "sq": None if pq is None else 0.8, "rq": None if pq is None else 0.75, "n": n}


def write_run(
    folder: Path, data: str | Path, *, model: bool = False, sources: tuple[str, ...] = ("custom", "auto")
) -> Path:
    """A run as `train` leaves it; with `model` the weights too, else the configuration alone."""
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
            "yours": category.source == "custom",
            **quality(value),
            "tp": 1,
            "fp": 0,
            "fn": 0,
        }
        for label, (category, value) in enumerate(zip(HOSTILE, (0.5, None, 0.625, 0.1234), strict=True))
    ]
    average = {"ap": 0.4567, "ap50": 0.7, "ap75": 0.5, "n": 4}
    box = dict.fromkeys(("all", "things", "stuff"), average) | {"yours": {**average, "ap": 0.3, "n": 2}}
    result = {
        **quality(0.53125),
        "yours": quality(0.75, 1),
        "things": quality(0.616, 1),
        "stuff": quality(0.299, 2),
        "per_class": rows,
        "sources": dict.fromkeys(sources, quality(0.25, 2)) | {"custom": quality(0.75, 1)} if len(sources) > 1
        else {source: quality(0.53125) for source in sources},
        "box": {**box, "per_class": []},
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


def recipe_of(data: Path, model: Path, output: Path, **changes: Any) -> Recipe:
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


# --- Python started anew

TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file", str(ROOT / "training_args/accelerate/cpu2.yaml"))


def child_environment() -> dict[str, str]:
    """One thread, no GPU; this checkout and this file are importable."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def run_python(*words: object, fails: bool = False, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python WORDS …`; a hang ends in the time limit. Its failure is the test's, unless it is meant to fail."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=child_environment(), cwd=cwd, capture_output=True, text=True, timeout=600)
    assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-4000:]
    return done


def run_by_one_and_by_two(script: Path, *words: object, folder: Path) -> tuple[Any, Any]:
    """What a script saves in the file that is its last word, run by one process and by two."""
    run_python(script, *words, folder / "one.pt")
    run_python(*TWO_PROCESSES, script, *words, folder / "two.pt")
    one, two = (torch.load(folder / name, weights_only=False) for name in ("one.pt", "two.pt"))
    return one, two
