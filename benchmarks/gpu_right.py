"""The part `right` of benchmarks/gpu.py: against stock and against the CPU, in every precision."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from gpu_bench import PRECISIONS, Bench, Row, autocast, tf32
from model import models, pixels_of
from torch import Tensor

from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.evaluation.quality import PanopticQuality
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.panoptic_map import PanopticMap

HELD_OUT = 1_000_000  # index of the first scene, and what is added to the seed: as the demo's held-out ones


def right(bench: Bench) -> Iterator[Row]:
    with tf32(False):
        yield from exactness(bench)
        yield from same_maps(bench)
        yield from outputs(bench)
        yield from folding(bench)
        yield from losses(bench)
        yield from scaled_steps(bench)


@torch.no_grad()
def exactness(bench: Bench) -> Iterator[Row]:
    """Random weights, ours against stock: the largest difference, as a share of the largest value."""
    for (backbone, dilation), size, padded in product(bench.backbones, bench.sizes, (False, True)):
        options = bench.options(size, backbone, dilation)
        stock, ours = models(options)
        pixels = pixels_of(options, 2)
        mask = torch.ones(2, *size, device=bench.device)
        if padded:
            mask[0, :, size[1] // 2 :] = 0
        row: Row = {
            "table": "exactness against stock, fp32",
            "model": backbone + (" DC5" if dilation else ""),
            "size": f"{size[0]}×{size[1]}{', padded' if padded else ''}",
        }
        try:
            one, other = stock(pixels, mask), ours(pixels, mask if padded else None)
            for name in ("logits", "pred_boxes", "pred_masks"):
                row[name] = f"{apart(getattr(other, name), getattr(one, name)):.1e}"
        except torch.OutOfMemoryError:
            row["logits"] = "out of memory"
        del stock, ours, pixels
        bench.free()
        yield row


def apart(some: Tensor, other: Tensor) -> float:
    some, other = some.detach().cpu().double(), other.detach().cpu().double()
    return float((some - other).abs().max() / other.abs().max())


def teacher(device: torch.device) -> DetrForPanopticSegmentation:
    return DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval().to(device)


def same_maps(bench: Bench) -> Iterator[Row]:
    """The shipped teacher on scenes of known truth: how many pixels change beside the CPU's fp32, and PQ."""
    made = [scene(HELD_OUT, HELD_OUT + index, custom=False) for index in range(bench.scenes)]
    photos = [one.photo for one in made]
    expected = teacher(torch.device("cpu")).segment(photos, batch_size=8)
    model = teacher(bench.device)
    ways = {"the CPU": None, "fp32": (False, "fp32"), "TF32": (True, "fp32"), "bf16": (False, "bf16")}
    for name, way in ways.items():
        maps = expected
        if way is not None:
            with tf32(way[0]):
                maps = model.segment(photos, precision=way[1], batch_size=8)
        changed = statistics.mean(different(a, b) for a, b in zip(maps, expected, strict=True))
        quality = PanopticQuality(made[0].truth.space)
        for found, one in zip(maps, made, strict=True):
            quality.update(found.relabelled(one.truth.space, {name: name for name in found.space.names}), one.truth)
        yield {
            "table": f"maps of the shipped teacher on {bench.scenes} scenes",
            "by": name,
            "pixels unlike the CPU's": f"{changed:.3%}",
            "PQ": f"{100 * quality.compute()['pq']:.2f}",
        }


def different(some: PanopticMap, other: PanopticMap) -> float:
    """The share of pixels of another class."""
    return float((labels_of(some) != labels_of(other)).mean())


def labels_of(panoptic: PanopticMap) -> Any:
    import numpy as np

    table = np.full(int(panoptic.ids.max()) + 1, -1)
    for segment in panoptic.segments:
        table[segment.id] = segment.label
    return table[panoptic.ids]


@torch.no_grad()
def folding(bench: Bench) -> Iterator[Row]:
    """The folded trunk against the unfolded one in float64, both on the device; and what a folding costs."""
    options = bench.options(bench.sizes[0])
    _, ours = models(options)
    pixels = pixels_of(options, 1)
    backbone = ours.detr.model.backbone
    mask = torch.ones(1, *options.size, device=bench.device)
    there = bench.exact
    exact = copy.deepcopy(backbone).to(there).double()(pixels.to(there).double(), mask.to(there))[-1][0]
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16"):
            plain = backbone(pixels, mask)[-1][0]
        began = time.perf_counter()
        folded = ours._fast.backbone(ours, dtype)
        bench.sync()
        seconds = time.perf_counter() - began
        again = bench.median(lambda dtype=dtype: ours._fast.backbone(ours, dtype))
        yield {
            "table": "the folded backbone, against float64",
            "precision": precision,
            "unfolded": f"{apart(plain, exact):.1e}",
            "folded": f"{apart(folded(pixels.to(dtype), mask)[-1][0], exact):.1e}",
            "folding": f"{seconds:.2f} s",
            "asking whether it still holds": f"{again * 1e3:.2f} ms",
        }


def learnt_scenes(model: DetrForPanopticSegmentation, count: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pixels and labels of scenes, as training has them; on the model's device."""
    pixels, labels = [], []
    space = model.label_space
    for index in range(count):
        one = scene(HELD_OUT, index, custom=False)
        known = {name: name if name in space.names else None for name in one.truth.space.names}
        truth = one.truth.relabelled(space, known)
        ids = torch.from_numpy(truth.ids.copy())
        boxes = []
        for segment in truth.segments:
            rows, columns = (ids == segment.id).nonzero().unbind(1)
            low = torch.tensor([int(columns.min()), int(rows.min())])
            high = torch.tensor([int(columns.max()) + 1, int(rows.max()) + 1])
            sides = torch.tensor([ids.shape[1], ids.shape[0]])
            boxes.append(torch.cat([(low + high) / 2 / sides, (high - low) / sides]))
        label = {
            "class_labels": torch.tensor([segment.label for segment in truth.segments]),
            "boxes": torch.stack(boxes),
            "panoptic": ids,
            "segment_ids": torch.tensor([segment.id for segment in truth.segments]),
        }
        pixels.append(model.preprocess(one.photo))
        labels.append({key: value.to(model.device) for key, value in label.items()})
    return torch.stack(pixels).to(model.device), labels


@torch.no_grad()
def outputs(bench: Bench) -> Iterator[Row]:
    """Of the teacher on eight scenes under autocast: the largest difference from fp32, as a share of the largest."""
    model = teacher(bench.device)
    pixels, _ = learnt_scenes(model, min(8, bench.scenes))
    expected = model(pixels)
    for name in ("bf16", "fp16"):
        with autocast(bench.device, PRECISIONS[name]):
            found = model(pixels)
        yield {
            "table": "outputs of the shipped teacher under autocast, against fp32",
            "precision": name,
            **{
                key: f"{apart(getattr(found, key), getattr(expected, key)):.1e}"
                for key in ("logits", "pred_boxes", "pred_masks")
            },
        }


def losses(bench: Bench) -> Iterator[Row]:
    """Of the teacher on eight scenes: the loss, the pairs and the gradient under autocast beside fp32."""
    model = teacher(bench.device)
    pixels, labels = learnt_scenes(model, min(8, bench.scenes))
    expected: dict[str, Any] = {}
    for name, dtype in PRECISIONS.items():
        model.zero_grad()
        with autocast(bench.device, dtype):
            outputs = model(pixels, labels=labels)
        outputs.loss.backward()
        slopes = [p.grad.to(bench.exact).flatten() for p in model.parameters() if p.grad is not None]
        gradient = torch.cat(slopes).double()
        pairs = torch.stack([outputs.matching.image_index, outputs.matching.query_index])
        expected = expected or {"loss": outputs.loss.item(), "gradient": gradient, "pairs": pairs}
        cosine = torch.nn.functional.cosine_similarity(gradient, expected["gradient"], dim=0)
        yield {
            "table": "losses of the shipped teacher under autocast",
            "precision": name,
            "loss": f"{outputs.loss.item():.5f}",
            "against fp32": f"{outputs.loss.item() / expected['loss'] - 1:+.2%}",
            "pairs as in fp32": f"{(pairs == expected['pairs']).all(0).float().mean().item():.1%}",
            "gradient's cosine": f"{cosine.item():.5f}",
            "its length": f"{gradient.norm().item() / expected['gradient'].norm().item():.4f}",
        }


def scaled_steps(bench: Bench) -> Iterator[Row]:
    """Steps of everything at 1e-4 on the same scenes, fp16 with a scaler."""
    for name, dtype in PRECISIONS.items():
        model = teacher(bench.device)
        model.freeze("stem", "layer1")
        model.train()
        pixels, labels = learnt_scenes(model, min(8, bench.scenes))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        scaler = torch.amp.GradScaler(bench.device.type, enabled=dtype is torch.float16)
        seen = []
        for _ in range(bench.steps):
            torch.manual_seed(0)  # the same dropout: what is left is the descent
            with autocast(bench.device, dtype):
                loss = model(pixels, labels=labels).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            seen.append(loss.detach())
        curve = torch.stack(seen).tolist()
        yield {
            "table": f"{bench.steps} steps of AdamW at 1e-4 on the same eight scenes",
            "precision": name,
            "first loss": f"{curve[0]:.4f}",
            "last loss": f"{curve[-1]:.4f}",
            "finite": all(math.isfinite(value) for value in curve),
            "scale": f"{scaler.get_scale():.0f}" if scaler.is_enabled() else "",
        }
