"""Eight photos, a tiny DETR from random weights, three stages: PQ on those photos, with the curve that led there.

    python benchmarks/overfit.py [--folder DIR]

What it shows: that the three stages hand over and learn. PQ must reach 0.9 in five CPU minutes, else it exits with 1.
Four helps for a tiny DETR from scratch (a real run starts from a checkpoint and needs none): enough encoder tokens,
frozen batch norm that was calibrated on the photos, query positions on a grid that cross-attention can read, and the
mask head's attention channels scaled up.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import DetrConfig
from transformers.utils import logging as transformers_logging

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.model.checkpoints import strengthen_attention
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.stages import run_stages

SIZE = (128, 160)  # at stride 16: 80 tokens
SPACE = LabelSpace([Category("block", True), Category("disc", True), Category("sky", False), Category("mud", False)])
COLOURS = np.array([(0, 0, 0), (150, 200, 240), (110, 80, 40), (200, 40, 40), (40, 60, 220)])
LABEL_OF_ID = {1: 2, 2: 3, 3: 0, 4: 1}


def photo(seed):
    """Sky above mud, a block and a disc in front."""
    random = np.random.default_rng(seed)
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    ids = np.where(y < random.integers(50, 80), 1, 2).astype(np.int32)
    top, left = random.integers(4, 40), random.integers(4, 90)
    ids[top : top + random.integers(44, 60), left : left + random.integers(44, 60)] = 3
    ids[(y - random.integers(80, 100)) ** 2 + (x - random.integers(30, 130)) ** 2 < random.integers(20, 27) ** 2] = 4
    pixels = COLOURS[ids] + random.integers(-12, 13, (height, width, 3))
    truth = PanopticMap(ids, [Segment(i, label) for i, label in LABEL_OF_ID.items()], SPACE)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), truth


def tiny_model(photos):
    torch.manual_seed(0)
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "output_stride": 16,
        "use_pretrained_backbone": False,
    }
    fields = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "num_queries": 20, "dropout": 0.0}
    fields |= {"encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    model = DetrForPanopticSegmentation(DetrConfig(backbone_config=backbone, **SPACE.to_config(), **fields))
    model.image_processor = Preprocess(shortest_edge=min(SIZE), longest_edge=max(SIZE))
    calibrate(model, torch.stack([model.preprocess(image) for image in photos]))
    ground_queries(model)
    strengthen_attention(model)
    return model


@torch.no_grad()
def calibrate(model, pixels):
    """Frozen batch norm with the statistics that live batch norm would have found, layer after layer."""

    def measure(module, inputs):
        features = inputs[0]
        module.running_mean.copy_(features.mean((0, 2, 3)))
        module.running_var.copy_(features.var((0, 2, 3)))

    norms = [module for module in model.detr.model.backbone.modules() if type(module).__name__.endswith("BatchNorm2d")]
    hooks = [module.register_forward_pre_hook(measure) for module in norms]
    model.eval()(pixels)
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def ground_queries(model):
    """Each query looks at its own place from the start."""
    detr, config = model.detr.model, model.config
    count, channels = config.num_queries, config.d_model
    columns = int(np.ceil(np.sqrt(count * SIZE[1] / SIZE[0])))
    rows = int(np.ceil(count / columns))
    places = [((i // columns + 0.5) / rows, (i % columns + 0.5) / columns) for i in range(count)]
    frequencies = 10000 ** (2 * torch.div(torch.arange(channels // 2), 2, rounding_mode="floor") / (channels // 2))
    for query, place in enumerate(places):
        halves = []
        for share in place:
            angles = share * 2 * torch.pi / frequencies
            halves.append(torch.stack([angles[0::2].sin(), angles[1::2].cos()], 1).flatten())
        detr.query_position_embeddings.weight[query] = torch.cat(halves)
    for layer in detr.decoder.layers:
        for projection in (layer.encoder_attn.q_proj, layer.encoder_attn.k_proj):
            nn.init.eye_(projection.weight)
            projection.weight.mul_(2.0)
            nn.init.zeros_(projection.bias)


def recipe_for(folder, steps):
    common = {
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "dataloader_num_workers": 1,
        "eval_strategy": "steps",
        "save_total_limit": 1,
        "logging_steps": 50,
        "use_cpu": True,
        "freeze": [],
        "lr_scheduler_type": "cosine",
    }
    rates = {"detection": 8e-4, "mask_head": 2e-3, "finetune": 3e-4}
    stages = {}
    for name, count in zip(rates, steps, strict=True):
        own = {"learning_rate": rates[name], "max_steps": count, "eval_steps": max(count // 5, 1), "warmup_steps": 20}
        stages[name] = {
            **common,
            **own,
            **({} if name == "mask_head" else {"backbone_learning_rate": rates[name] / 2}),
        }
    return Recipe.from_dict(
        {
            "model": str(folder / "start"),
            "data": str(folder / "set"),
            "output": str(folder / "run"),
            "postprocess": {"threshold": 0.5},
            "augmentation": {"flip": 0, "crop": 0, "short_sides": [], "brightness": 0, "contrast": 0, "saturation": 0},
            "stages": stages,
        }
    )


def main(folder, steps):
    transformers_logging.disable_progress_bar()
    began, cpu = time.perf_counter(), time.process_time()
    photos = [photo(seed) for seed in range(8)]
    with DatasetWriter(folder / "set", SPACE) as writer:
        for place, (image, truth) in enumerate(photos):
            writer.add("train", f"p{place}.png", image, truth)
    tiny_model([image for image, _ in photos]).save_pretrained(folder / "start")
    learnt = read_dataset(folder / "set")["train"]
    ends = run_stages(recipe_for(folder, steps), Splits(learnt, learnt, learnt.space))
    minutes, cpu = (time.perf_counter() - began) / 60, (time.process_time() - cpu) / 60

    print("\nstage       step  loss    box AP  PQ")
    with (folder / "run" / "results.csv").open() as file:
        for row in csv.DictReader(file):
            quality = [f"{float(row[name]):.3f}" if row.get(name) else "" for name in ("box_ap", "pq")]
            print(f"{row['stage']:10}  {row['step']:>4}  {float(row['loss']):6.3f}  {quality[0]:6}  {quality[1]}")
    pq = ends[-1].result["pq"]
    print(f"\nPQ {pq:.3f} on the {len(photos)} photos it learnt, after {minutes:.1f} minutes, {cpu:.1f} of CPU")
    return 0 if pq >= 0.9 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where everything is left; a temporary one otherwise")
    parser.add_argument("--steps", type=int, nargs=3, default=(900, 500, 250), metavar="N", help="of each stage")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raise SystemExit(main(given.folder or Path(scratch), given.steps))
