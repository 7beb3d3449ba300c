"""The whole model against stock transformers, with the same random weights: photos to maps, and training steps.

    python benchmarks/model.py                       # every table, on the CPU: minutes, and 21 GB for stock's steps
    python benchmarks/model.py segment --size 800x1333
    python benchmarks/model.py steps memory --size 320x416
    python benchmarks/model.py --device cuda --batch 4 --size 800x1333

How many queries survive is set, not left to random weights: the class head is replaced by one that says, on both sides
alike, that the first n queries are sure. Masks of random weights claim half of all pixels, which is many.
Memory is the peak of a process that takes one step, above what it held before; on a GPU, the peak of allocations.
Time is measured, on both sides, with an allocator that keeps what it has got: as glibc comes, it hands the gigabytes
of stock's masks back after each use, and much of stock's time is page faults. `--hand-back` measures it as it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import duration, interleaved, machine, print_table, speedup
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import DetrConfig, DetrForSegmentation, DetrImageProcessor

from hf_detr_panoptic.labels import LabelSpace
from hf_detr_panoptic.model.detector import detect
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.segment import segment_batch
from hf_detr_panoptic.settings import Postprocess

SPACE = LabelSpace.coco()
SURVIVORS = (10, 30, 100)
TABLES = ("exact", "segment", "trunk", "steps", "memory", "growth")
STAGES = {"mask head only": ("detr",), "everything": ()}
Size = tuple[int, int]
# glibc reads these once, as a process begins: 64 GB are never handed back, and no tensor is a mapping of its own.
KEEP_MEMORY = {name: str(2**36) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=[], help=f"some of: {', '.join(TABLES)}")
    parser.add_argument("--size", default="512x672", help="height x width of the image")
    parser.add_argument("--backbone", default="resnet50", help="a timm name")
    parser.add_argument("--dilation", action="store_true", help="DC5")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="photos at once; 1 for maps and 2 for steps if not given")
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--hand-back", action="store_true", help="glibc as it comes: freed memory goes to the system")
    parser.add_argument("--one-step", nargs=2, metavar=("SIDE", "STAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        parser.error(f"no table is called {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    if not (options.hand_back or options.one_step or KEEP_MEMORY.items() <= os.environ.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    options.size = tuple(int(side) for side in options.size.split("x"))
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.one_step:
        print(json.dumps(memory_of_a_step(options, *options.one_step)))
        return
    print(f"{options.backbone}{' DC5' if options.dilation else ''}, {'×'.join(map(str, options.size))}, {machine()}")
    if options.device == "cpu":
        print("bf16 on this CPU: " + bf16_support())
        print("freed memory: " + ("handed back, as glibc does" if options.hand_back else "kept by both sides"))
    for table in options.tables or TABLES:
        print(f"\n## {table}\n")
        globals()[f"{table}_table"](options)


def bf16_support() -> str:
    """What the processor's flags promise; without any, bf16 is emulated and slow."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return ", ".join(flag for flag in ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16") if flag in flags) or "none"


# --- the two sides


class SureOf(nn.Module):
    """A class head that is sure of the first `count` queries, of each another class, and of no other."""

    def __init__(self, count: int, queries: int) -> None:
        super().__init__()
        logits = torch.zeros(queries, len(SPACE) + 1)
        logits[count:, -1] = 12.0
        logits[torch.arange(count), torch.arange(count) % len(SPACE)] = 12.0
        self.register_buffer("logits", logits)

    def forward(self, states: Tensor) -> Tensor:
        return self.logits.expand(*states.shape[:-1], -1)


def models(options: argparse.Namespace, queries: int = 100) -> tuple[DetrForSegmentation, DetrForPanopticSegmentation]:
    config = DetrConfig(
        backbone=options.backbone, dilation=options.dilation, num_queries=queries, dropout=0.0, **SPACE.to_config()
    )
    stock = DetrForSegmentation(config).eval().to(options.device)
    ours = DetrForPanopticSegmentation(config).eval().to(options.device)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def sure_of(count: int, *sides: DetrForSegmentation) -> None:
    for model in sides:
        model.detr.class_labels_classifier = SureOf(count, model.config.num_queries).to(model.device)


def pixels_of(options: argparse.Namespace, batch: int, size: Size | None = None) -> Tensor:
    return torch.randn(batch, 3, *(size or options.size), device=options.device)


def stock_maps(model: DetrForSegmentation, pixels: Tensor, bf16: bool = False) -> list[Any]:
    processor = DetrImageProcessor()
    with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
        outputs = model(pixels)
    found = processor.post_process_panoptic_segmentation(
        outputs,
        threshold=0.85,
        label_ids_to_fuse=set(SPACE.stuff_labels),
        target_sizes=[tuple(pixels.shape[-2:])] * len(pixels),
    )
    return [image["segmentation"].cpu() for image in found]


def our_maps(model: DetrForPanopticSegmentation, pixels: Tensor, precision: str = "fp32") -> list[Any]:
    sizes = [(pixels.shape[-2], pixels.shape[-1])] * len(pixels)
    return segment_batch(model, pixels, sizes, Postprocess(), precision=precision)


def labels_of(options: argparse.Namespace, batch: int, count: int, size: Size, who: str) -> list[dict[str, Tensor]]:
    """Stripes, as an id map for ours and as masks for stock."""
    edges = torch.linspace(0, size[1], count + 1).long()
    ids = torch.zeros(size, dtype=torch.int32)
    for place in range(count):
        ids[:, edges[place] : edges[place + 1]] = place + 1
    left, right = edges[:-1] / size[1], edges[1:] / size[1]
    boxes = torch.stack([(left + right) / 2, torch.full((count,), 0.5), right - left, torch.ones(count)], 1)
    label = {"class_labels": torch.arange(count) % len(SPACE), "boxes": boxes}
    if who == "stock":
        label["masks"] = (ids[None] == torch.arange(1, count + 1)[:, None, None]).float()
    else:
        label |= {"panoptic": ids, "segment_ids": torch.arange(1, count + 1)}
    # As each side's Trainer hands them over: ours leaves on the host what is small.
    far = tuple(label) if who == "stock" else ("panoptic",)
    return [
        {key: value.to(options.device) if key in far else value for key, value in label.items()} for _ in range(batch)
    ]


def step_of(
    model: DetrForSegmentation, options: argparse.Namespace, who: str, stage: str, pixels: Tensor, count: int
) -> Callable[[], None]:
    """Forward, backward and AdamW. Stem and layer1 are frozen on both sides; a frozen DETR is in eval mode on both."""
    frozen = STAGES[stage]
    if isinstance(model, DetrForPanopticSegmentation):
        model.freeze("stem", "layer1", *frozen)
        model.train()
    else:
        model.train()
        for name, parameter in model.detr.model.backbone.model.named_parameters():
            parameter.requires_grad_("layer2" in name or "layer3" in name or "layer4" in name)
        if frozen:
            model.detr.requires_grad_(False).eval()
    size = (pixels.shape[-2], pixels.shape[-1])
    labels = labels_of(options, len(pixels), count, size, who)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step() -> None:
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def waiter(options: argparse.Namespace) -> Callable[[], object] | None:
    return torch.cuda.synchronize if options.device.startswith("cuda") else None


def trunk_of(model: DetrForPanopticSegmentation, pixels: Tensor, precision: str = "fp32") -> Callable[[], object]:
    """Backbone and transformer alone, the backbone as `segment` runs it: what no way to make masks can save."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    backbone = model._fast.backbone(model, dtype)
    cast = pixels.to(dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def trunk() -> object:
        with torch.autocast(cast.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return detect(model.detr, cast, backbone=backbone)

    return trunk


# --- tables


@torch.no_grad()
def exact_table(options: argparse.Namespace) -> None:
    """Largest differences from stock, at this size and the next odd one, padded or not."""
    stock, ours = models(options)
    rows = []
    for size in (options.size, (options.size[0] // 2 | 1, options.size[1] // 2 | 1)):
        for padded in (False, True):
            pixels = pixels_of(options, 2, size)
            mask = torch.ones(2, *size, device=options.device)
            if padded:
                mask[0, :, size[1] // 2 :] = 0
            one, other = stock(pixels, mask if padded else None), ours(pixels, mask if padded else None)
            pairs = (one.logits, other.logits), (one.pred_boxes, other.pred_boxes), (one.pred_masks, other.pred_masks)
            differences = [f"{(a - b).abs().max().item():.1e}" for a, b in pairs]
            rows.append([f"{size[0]}×{size[1]}{', padded' if padded else ''}", *differences])
    print_table(["difference from stock", "logits", "boxes", "masks"], rows)


def segment_table(options: argparse.Namespace) -> None:
    stock, ours = models(options)
    pixels = pixels_of(options, options.batch or 1)
    rows = []
    for count in SURVIVORS:
        sure_of(count, stock, ours)
        sides: dict[str, Callable[[], object]] = {
            "stock": lambda: stock_maps(stock, pixels),
            "ours": lambda: our_maps(ours, pixels),
            "stock, bf16": lambda: stock_maps(stock, pixels, bf16=True),
            "ours, bf16": lambda: our_maps(ours, pixels, "bf16"),
            "the bare trunk": trunk_of(ours, pixels),
        }
        if count == SURVIVORS[-1]:
            sides["ours, dense logits"] = lambda: dense(ours, pixels)
        seconds = interleaved(sides, options.rounds, sync=waiter(options))
        stock_time, trunk = seconds["stock"], seconds["the bare trunk"]
        rows += [
            [count, name, duration(taken), speedup(stock_time, taken), speedup(taken, trunk)]
            for name, taken in seconds.items()
        ]
    columns = ["queries that survive", "tensor to map", "time", "faster than stock in fp32", "times the bare trunk"]
    print_table(columns, rows)


@torch.no_grad()
def dense(model: DetrForPanopticSegmentation, pixels: Tensor) -> Tensor:
    return model(pixels).pred_masks


@torch.no_grad()
def trunk_table(options: argparse.Namespace) -> None:
    """What is left: backbone and transformer, their share of the whole, and how near they are to its peak."""
    _, ours = models(options)
    sure_of(10, ours)
    pixels = pixels_of(options, options.batch or 1)
    with FlopCounterMode(display=False) as counter:
        detect(ours.detr, pixels)
    rows = []
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        factor = torch.randn(4096, 4096, device=options.device, dtype=dtype)
        sides = {
            "whole": lambda precision=precision: our_maps(ours, pixels, precision),
            "trunk": trunk_of(ours, pixels, precision),
            "product": lambda factor=factor: factor @ factor,
        }
        seconds = {
            name: sorted(taken)[len(taken) // 2]
            for name, taken in interleaved(sides, options.rounds, sync=waiter(options)).items()
        }
        peak, reached = 2 * 4096**3 / seconds["product"], counter.get_total_flops() / seconds["trunk"]
        rows.append(
            [
                precision,
                f"{seconds['trunk'] * 1e3:.0f} of {seconds['whole'] * 1e3:.0f} ms",
                f"{seconds['trunk'] / seconds['whole']:.0%}",
                f"{reached / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s",
                f"{reached / peak:.0%}",
            ]
        )
    print(f"backbone and transformer: {counter.get_total_flops() / 1e9:.0f} GFLOP, 10 queries survive\n")
    print_table(["", "trunk", "share of the whole", "speed", "of the peak"], rows)


def steps_table(options: argparse.Namespace) -> None:
    rows = []
    for stage in STAGES:
        stock, ours = models(options)
        pixels = pixels_of(options, options.batch or 2)
        sides = {
            name: step_of(model, options, name, stage, pixels, options.targets)
            for name, model in (("stock", stock), ("ours", ours))
        }
        seconds = interleaved(sides, options.rounds, sync=waiter(options))
        rows += [[stage, name, duration(taken), speedup(seconds["stock"], taken)] for name, taken in seconds.items()]
    print_table([f"a step, batch {options.batch or 2}, {options.targets} targets", "side", "time", "ratio"], rows)


def memory_table(options: argparse.Namespace) -> None:
    rows = []
    for stage in STAGES:
        peaks = {side: in_a_process(side, stage) for side in ("stock", "ours")}
        rows += [
            [stage, side, f"{peak['bytes'] / 1e9:.2f} GB", f"1/{peaks['stock']['bytes'] / peak['bytes']:.1f}"]
            for side, peak in peaks.items()
        ]
    print_table([f"a step, batch {options.batch or 2}, {options.targets} targets", "side", "peak", "of stock's"], rows)


def growth_table(options: argparse.Namespace) -> None:
    """Time of ours as one thing grows. Queries and targets cost their masks, pixels cost all of it."""
    rows = []
    _, ours = models(options, queries=300)
    for count in (1, 10, 30, 100, 300):
        sure_of(count, ours)
        pixels = pixels_of(options, 1)
        rows.append(["survivors, maps", count, once(options, partial(our_maps, ours, pixels))])
    _, ours = models(options)
    sure_of(10, ours)
    for scale in (0.5, 1.0, 1.5):
        size = (int(options.size[0] * scale), int(options.size[1] * scale))
        pixels = pixels_of(options, 1, size)
        rows.append(["pixels, maps", f"{size[0]}×{size[1]}", once(options, partial(our_maps, ours, pixels))])
    for count in (0, 1, 10, 40):
        _, ours = models(options)
        step = step_of(ours, options, "ours", "mask head only", pixels_of(options, options.batch or 2), count)
        rows.append(["targets an image, mask head's step", count, once(options, step)])
    print_table(["what grows", "to", "time"], rows)


def once(options: argparse.Namespace, run: Callable[[], object]) -> str:
    return duration(interleaved({"it": run}, options.rounds, sync=waiter(options))["it"])


def in_a_process(side: str, stage: str) -> dict[str, float]:
    arguments = [argument for argument in sys.argv[1:] if argument not in TABLES]
    as_it_comes = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    run = subprocess.run(
        [sys.executable, str(Path(__file__)), *arguments, "--one-step", side, stage],
        env=as_it_comes,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def memory_of_a_step(options: argparse.Namespace, side: str, stage: str) -> dict[str, float]:
    stock, ours = models(options)
    model = stock if side == "stock" else ours
    del stock, ours
    step = step_of(model, options, side, stage, pixels_of(options, options.batch or 2), options.targets)
    if options.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return {"bytes": torch.cuda.max_memory_allocated() - before, "seconds": time.perf_counter() - begin}
    # The kernel's own high-water mark, set back to what is held now; `ru_maxrss` would begin at the parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    begin = time.perf_counter()
    step()
    return {"bytes": high_water() - before, "seconds": time.perf_counter() - begin}


def high_water() -> int:
    """Bytes that were resident at most (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
