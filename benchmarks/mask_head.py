"""The mask head and the folded trunk against stock transformers, with random weights.

    python benchmarks/mask_head.py --size 512x672 --backbone resnet50 --threads 2

Memory is how far the resident peak of a process lies above what it held before its one training step: an upper bound,
since loading may have peaked higher. Each side is handed the trunk's maps in the layout that its trunk gives them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import duration, interleaved, machine, print_table, speedup
from torch import Tensor
from transformers import DetrConfig, DetrForSegmentation
from transformers.models.detr.modeling_detr import DetrConvEncoder

from hf_detr_panoptic.model.detector import folded_trunk
from hf_detr_panoptic.model.mask_head import masks_for, shared_mask_features

ASKED = (1, 10, 30, 100)
BATCH, TARGETS = 2, 10


@dataclass(frozen=True)
class Features:
    """What the trunk hands to the mask head."""

    queries: Tensor
    projected: Tensor
    memory: Tensor
    fpn: list[Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="512x672", help="height x width of the image")
    parser.add_argument("--backbone", default="resnet50", help="a timm name")
    parser.add_argument("--dilation", action="store_true", help="DC5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=2, help="training steps")
    parser.add_argument("--no-train", action="store_true", help="leave out training, which takes stock many GB")
    parser.add_argument("--one-step", choices=["stock", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = DetrConfig(backbone=options.backbone, dilation=options.dilation)
    model = DetrForSegmentation(config).eval()
    size = tuple(int(side) for side in options.size.split("x"))
    if options.one_step:
        print(json.dumps(training_step(model, features(model, size, BATCH), options.one_step)))
        return
    print(f"{options.backbone}, {options.size}: {machine(('torch', 'transformers', 'timm'))}")
    seconds = {"trunk, " + name: runs for name, runs in trunk_times(model, size, options.repeats).items()}
    seconds |= {"masks, " + name: runs for name, runs in inference_times(model, size, options.repeats).items()}
    rows = [
        [name, duration(runs), speedup(seconds[name.split(", ")[0] + ", stock"], runs)]
        for name, runs in seconds.items()
    ]
    print_table(["one image", "time", "against stock"], rows)
    if not options.no_train:
        steps = {name: one_step(name, options.steps) for name in ("stock", "ours")}
        rows = [
            [name, duration(taken), speedup(steps["stock"][0], taken), f"{peak / 1e9:.2f} GB"]
            for name, (taken, peak) in steps.items()
        ]
        print()
        print_table([f"mask head's step, batch {BATCH}, {TARGETS} targets", "time", "against stock", "peak"], rows)


def features(model: DetrForSegmentation, size: tuple[int, int], batch: int) -> Features:
    """Random values of the trunk's shapes; found without running it, which would leave a peak of memory."""
    with torch.device("meta"):
        maps = [
            feature for feature, _ in DetrConvEncoder(model.config)(torch.empty(1, 3, *size), torch.ones(1, *size))
        ]
    width, coarse = model.config.d_model, maps[-1].shape[-2:]
    return Features(
        queries=torch.randn(batch, model.config.num_queries, width),
        projected=torch.randn(batch, width, *coarse),
        memory=torch.randn(batch, width, *coarse),
        fpn=[torch.randn(batch, *maps[level].shape[1:]) for level in (2, 1, 0)],
    )


def stock_masks(model: DetrForSegmentation, inputs: Features) -> Tensor:
    attention = model.bbox_attention(inputs.queries, inputs.memory)
    masks = model.mask_head(inputs.projected, attention, inputs.fpn).squeeze(1)
    return masks.unflatten(0, inputs.queries.shape[:2])


def channels_last(inputs: Features) -> Features:
    return Features(
        inputs.queries,
        inputs.projected.contiguous(memory_format=torch.channels_last),
        inputs.memory,
        [feature.contiguous(memory_format=torch.channels_last) for feature in inputs.fpn],
    )


def our_masks(model: DetrForSegmentation, inputs: Features, images: Tensor, places: Tensor) -> Tensor:
    parts = model.mask_head, model.bbox_attention
    shared = shared_mask_features(*parts, inputs.projected, inputs.memory, None, inputs.fpn)
    return masks_for(*parts, shared, inputs.queries[images, places], images)


@torch.no_grad()
def trunk_times(model: DetrForSegmentation, size: tuple[int, int], repeats: int) -> dict[str, list[float]]:
    backbone, pixels, mask = model.detr.model.backbone, torch.randn(1, 3, *size), torch.ones(1, *size)
    folded, half = folded_trunk(backbone), folded_trunk(backbone, dtype=torch.bfloat16)
    return interleaved(
        {
            "stock": lambda: backbone(pixels, mask),
            "folded": lambda: folded(pixels, mask),
            "folded, bf16": lambda: half(pixels.bfloat16(), mask),
        },
        repeats,
    )


@torch.no_grad()
def inference_times(model: DetrForSegmentation, size: tuple[int, int], repeats: int) -> dict[str, list[float]]:
    inputs = features(model, size, 1)
    fast = channels_last(inputs)

    def asked(count: int) -> Callable[[], Tensor]:
        return lambda: our_masks(model, fast, torch.zeros(count, dtype=torch.int64), torch.arange(count))

    difference = (asked(ASKED[-1])() - stock_masks(model, inputs)[0]).abs().max()
    print(f"largest difference of a mask logit: {difference:.1e}\n")
    runs: Mapping[str, Callable[[], Tensor]] = {f"ours, {count} of 100": asked(count) for count in ASKED}
    return interleaved({"stock": lambda: stock_masks(model, inputs), **runs}, repeats)


def training_step(model: DetrForSegmentation, inputs: Features, who: str) -> dict[str, float]:
    """Seconds and bytes of a forward and a backward pass of the mask head, the trunk's outputs given."""
    images = torch.arange(BATCH).repeat_interleave(TARGETS)
    places = torch.arange(TARGETS).repeat(BATCH)
    parameters = [*model.mask_head.parameters(), *model.bbox_attention.parameters()]
    inputs = inputs if who == "stock" else channels_last(inputs)
    before, start = resident_bytes(), time.perf_counter()
    masks = stock_masks(model, inputs)[images, places] if who == "stock" else our_masks(model, inputs, images, places)
    torch.autograd.grad(masks.square().mean(), parameters)
    return {"seconds": time.perf_counter() - start, "peak": peak_bytes() - before}


def one_step(who: str, steps: int) -> tuple[list[float], float]:
    """Seconds of each step and the highest peak."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one-step", who]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(steps)]
    return [run["seconds"] for run in runs], max(run["peak"] for run in runs)


def resident_bytes() -> int:
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else peak_bytes()


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main()
