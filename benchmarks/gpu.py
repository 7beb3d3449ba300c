"""What this does on a GPU, unattended: is it right, is it fast, and where does it wait?

    python benchmarks/gpu.py --out gpu                  # every part, each under four minutes
    python benchmarks/gpu.py --only right,fast --budget 300
    python benchmarks/gpu.py --device cpu               # a tiny form of every part: that it runs, not how fast
    python benchmarks/gpu.py --tables gpu               # what was written before, as the tables of RESULTS.md

No network and no checkpoint: random weights, and the teacher that comes with the package. Each part leaves
OUT/PART.json with the card, the driver, versions and every figure so far, so that a run that is cut off counts. What
comes first in a part tells most. `right` and `fast` need torch, transformers, timm, torchvision, scipy, pillow, pyyaml
and pydantic; the other parts the whole package, and they say so where it is not there.

    right      against stock and against the CPU: outputs, maps, losses, in every precision
    fast       photo to map and training steps against stock, memory, and what the host waits for
    loop       Trainer with photos from the disk: images a second, and the share that it waits for them
    learning   the demo's recipe for as long as there is time
    hours      of construction.yaml on 1,000 and 10,000 photos, from the rates of `loop`
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measure import interleaved, print_table
from model import models, our_maps, pixels_of, step_of, stock_maps, sure_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.evaluation.quality import PanopticQuality
from hf_detr_panoptic.files import write_json
from hf_detr_panoptic.model.detector import detect
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.panoptic_map import PanopticMap

Row = dict[str, Any]
HELD_OUT = 1_000_000  # index of the first scene, and what is added to the seed: as the demo's held-out ones
PART_SECONDS = 230.0


@dataclass
class Bench:
    """The device, how large everything is, and until when there is time."""

    device: torch.device
    out: Path
    until: float = math.inf
    rounds: int = 7
    sizes: tuple[tuple[int, int], ...] = ((512, 672), (800, 1333))
    backbones: tuple[tuple[str, bool], ...] = (("resnet50", False), ("resnet101", False), ("resnet50", True))
    batches: tuple[int, ...] = (1, 4, 16)
    survivors: tuple[int, ...] = (10, 1, 30, 100)
    step_batches: tuple[int, ...] = (2, 8)
    scenes: int = 60
    steps: int = 30

    @classmethod
    def tiny(cls, device: torch.device, out: Path) -> Bench:
        return cls(
            device,
            out,
            rounds=1,
            sizes=((64, 96),),
            backbones=(("resnet18", False),),
            batches=(1, 2),
            survivors=(3,),
            step_batches=(2,),
            scenes=2,
            steps=2,
        )

    @property
    def small(self) -> bool:
        return self.rounds == 1

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def options(self, size: tuple[int, int], backbone: str = "", dilation: bool = False) -> Any:
        """As the other benchmark's command line says it."""
        backbone = backbone or self.backbones[0][0]
        return SimpleNamespace(device=str(self.device), size=size, backbone=backbone, dilation=dilation, targets=10)

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median(self, run: Callable[[], object], rounds: int = 0) -> float:
        """Seconds; `nan` where memory ran out."""
        try:
            return statistics.median(interleaved({"it": run}, rounds or self.rounds, sync=self.sync)["it"])
        except torch.OutOfMemoryError:
            return math.nan
        finally:
            self.free()

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether fp32 products may be rounded to TF32."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = on
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop before it, with whole files")
    parser.add_argument("--out", type=Path, default=Path("gpu"), metavar="DIR", help="(%(default)s)")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="print what is there, as Markdown, and run nothing")
    given = parser.parse_args()
    if given.tables:
        show(given.tables)
        return
    chosen = given.only.split(",") if given.only else list(PARTS)
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    device = torch.device(given.device)
    torch.manual_seed(0)
    bench = Bench.tiny(device, given.out) if device.type == "cpu" else Bench(device, given.out)
    end = time.monotonic() + (math.inf if given.budget is None else given.budget)
    for name in chosen:
        bench.until = min(end, time.monotonic() + PART_SECONDS)
        run_part(name, bench)


def run_part(name: str, bench: Bench) -> None:
    """A part's rows, written as they come. What the part cannot go on with is a row of it too."""
    print(f"\n== {name}", flush=True)
    began = time.monotonic()
    told: Row = {"part": name, **circumstances(bench.device), "seconds": 0.0, "cut": False, "rows": []}
    try:
        for row in PARTS[name](bench):
            told["rows"].append(row)
            told["seconds"] = round(time.monotonic() - began, 1)
            print("  " + " · ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            write_json(bench.out / f"{name}.json", told)
            if bench.left < 0:
                told["cut"] = True
                break
    except ImportError as error:
        told["needs"] = str(error)
        print(f"  left out: {error}", flush=True)
    write_json(bench.out / f"{name}.json", told)


def circumstances(device: torch.device) -> Row:
    packages = ("torch", "transformers", "timm", "torchvision")
    found: Row = {
        "device": str(device),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {"card": card.name, "memory": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda}
        try:
            asked = "--query-gpu=driver_version,clocks.sm,clocks.mem"
            line = subprocess.run(["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True)
            found["driver"], found["clock"], found["memory_clock"] = line.stdout.splitlines()[0].split(", ")
        except (OSError, IndexError, ValueError):
            found["driver"] = "unknown"
    return found


# --- right


def right(bench: Bench) -> Iterator[Row]:
    with tf32(False):
        yield from exactness(bench)
        yield from same_maps(bench)
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
    return float((some.double() - other.double()).abs().max() / other.double().abs().max())


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
    exact = ours.double().detr.model.backbone(pixels.double(), mask)[-1][0]
    ours.float()
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


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


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
        gradient = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
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


# --- fast


def fast(bench: Bench) -> Iterator[Row]:
    yield from waits(bench)
    maps = photo_to_map(bench)
    yield from islice(maps, 4)
    yield from trunk(bench)
    yield from steps(bench)
    yield from maps
    yield from largest_batch(bench)


def waits(bench: Bench) -> Iterator[Row]:
    """By the profiler: launches, waits of the host, and how much of the time the device works."""
    size = bench.sizes[-1]
    for precision in ("fp32", "bf16"):
        options = bench.options(size)
        _, ours = models(options)
        sure_of(10, ours)
        with tf32(True):
            run = partial(our_maps, ours, pixels_of(options, 1), precision)
            yield profiled(bench, "photo to map, 10 survive", precision, run)
    for stage, frozen in STEPS.items():
        for precision in ("fp32", "bf16"):
            _, model = models(bench.options(size))
            pixels = pixels_of(bench.options(size), 2)
            step = training_step(bench, model, "ours", stage, pixels, precision, frozen)
            with tf32(True):
                yield profiled(bench, f"step: {stage}, batch 2", precision, step)
            del model, step
            bench.free()


def profiled(bench: Bench, name: str, precision: str, run: Callable[[], object]) -> Row:
    for _ in range(3):
        run()
    bench.sync()
    times = 5 if not bench.small else 1
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])
    began = time.perf_counter()
    for _ in range(times):
        run()
    bench.sync()
    wall = (time.perf_counter() - began) / times
    with profile(activities=kinds) as watched:
        for _ in range(times):
            run()
        bench.sync()
    averages = watched.key_averages()
    counted = {event.key: event.count / times for event in averages}
    kernels = sum(event.self_device_time_total for event in averages) / 1e6 / times
    bench.out.mkdir(parents=True, exist_ok=True)
    with (bench.out / "profiles.txt").open("a", encoding="utf-8") as file:
        for kind in ("cpu", "device"):
            order = f"self_{kind}_time_total"
            table = averages.table(sort_by=order, row_limit=30, max_name_column_width=80)
            file.write(f"\n== {name}, {precision}, by {kind}, {times} times\n{table}\n")
    return {
        "table": f"where it waits, {'×'.join(map(str, bench.sizes[-1]))}",
        "what": name,
        "precision": precision.replace("fp32", "TF32"),
        "time": milliseconds(wall),
        "device busy": f"{kernels / wall:.0%}",
        "launches": round(sum(count for key, count in counted.items() if "LaunchKernel" in key)),
        "waits": round(sum(count for key, count in counted.items() if key in SYNCHRONIZES) - 1 / times, 1),
        "copies": round(counted.get("cudaMemcpyAsync", 0), 1),
    }


SYNCHRONIZES = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
STEPS: dict[str, tuple[str, ...]] = {"detection": (), "mask head only": ("detr",), "everything": ()}


def training_step(
    bench: Bench, model: Any, who: str, stage: str, pixels: Tensor, precision: str, frozen: Sequence[str]
) -> Callable[[], object]:
    if who == "ours" and stage == "detection":
        model.with_masks = False
    step = step_of(model, bench.options(tuple(pixels.shape[-2:])), who, "mask head only" if frozen else "everything",
                   pixels, 10)  # fmt: skip

    def run() -> None:
        with autocast(bench.device, PRECISIONS[precision]):
            step()

    return run


def steps(bench: Bench) -> Iterator[Row]:
    """Forward, backward and AdamW of random weights with ten targets an image, and the peak of memory."""
    stages = [stage for stage in STEPS if stage != "detection"]
    for size, precision, stage, batch in product(
        reversed(bench.sizes), ("bf16", "fp32"), stages, reversed(bench.step_batches)
    ):
        found = {who: timed_step(bench, who, stage, size, batch, precision) for who in ("stock", "ours", "last")}
        yield {
            "table": "training steps, ten targets an image",
            "size": "×".join(map(str, size)),
            "stage": stage,
            "batch": batch,
            "precision": precision.replace("fp32", "TF32"),
            "stock": milliseconds(found["stock"][0]),
            "ours": milliseconds(found["ours"][0]),
            "ours, pixels channels last": milliseconds(found["last"][0]),
            "ratio": times_faster(found["stock"][0], found["ours"][0]),
            "stock's memory": gigabytes(found["stock"][1]),
            "ours's": gigabytes(found["ours"][1]),
        }


def timed_step(
    bench: Bench, who: str, stage: str, size: tuple[int, int], batch: int, precision: str
) -> tuple[float, float]:
    """Seconds, and bytes at the peak."""
    options = bench.options(size)
    stock, ours = models(options)
    model = stock if who == "stock" else ours
    del stock, ours
    pixels = pixels_of(options, batch)
    if who == "last":
        who, pixels = "ours", pixels.contiguous(memory_format=torch.channels_last)
    step = training_step(bench, model, who, stage, pixels, precision, STEPS[stage])
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tf32(True):
        seconds = bench.median(step, rounds=min(4, bench.rounds))
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else math.nan
    return seconds, peak


def photo_to_map(bench: Bench) -> Iterator[Row]:
    """Normalised pixels on the device to finished maps on the host."""
    cells = product(reversed(bench.sizes), bench.batches, bench.survivors)
    for size, batch, count in sorted(cells, key=lambda cell: (cell[1] * cell[2] != 10, cell[2] != 10)):
        options = bench.options(size)
        stock, ours = models(options)
        sure_of(count, stock, ours)
        pixels = pixels_of(options, batch)
        ways: dict[str, tuple[bool, Callable[[], object]]] = {
            "stock fp32": (False, partial(stock_maps, stock, pixels)),
            "stock TF32": (True, partial(stock_maps, stock, pixels)),
            "stock bf16": (True, partial(stock_maps, stock, pixels, bf16=True)),
            "fp32": (False, partial(our_maps, ours, pixels)),
            "TF32": (True, partial(our_maps, ours, pixels)),
            "bf16": (True, partial(our_maps, ours, pixels, "bf16")),
        }
        taken = {}
        for name, (switch, run) in ways.items():
            with tf32(switch):
                rounds = bench.rounds if not name.startswith("stock") else min(3, bench.rounds)
                taken[name] = bench.median(run, rounds)
        yield {
            "table": "pixels to maps, a photo",
            "size": "×".join(map(str, size)),
            "batch": batch,
            "survive": count,
            **{name: milliseconds(seconds / batch) for name, seconds in taken.items()},
            "ratio fp32": times_faster(taken["stock fp32"], taken["fp32"]),
            "ratio TF32": times_faster(taken["stock TF32"], taken["TF32"]),
            "ratio bf16": times_faster(taken["stock bf16"], taken["bf16"]),
        }
        del stock, ours, ways
        bench.free()


@torch.no_grad()
def trunk(bench: Bench) -> Iterator[Row]:
    """Backbone and transformer alone: eager, compiled, and recorded as a CUDA graph."""
    for size, batch in product(bench.sizes, bench.batches[:2]):
        options = bench.options(size)
        _, ours = models(options)
        row: Row = {"table": "backbone and transformer alone", "size": "×".join(map(str, size)), "batch": batch}
        with tf32(True):
            for name, dtype in (("TF32", torch.float32), ("bf16", torch.bfloat16)):
                plain = pixels_of(options, batch).to(dtype)
                run = partial(detected, ours, dtype, ours._fast.backbone(ours, dtype))
                last = partial(run, plain.contiguous(memory_format=torch.channels_last))
                row[name] = milliseconds(bench.median(partial(run, plain)))
                row[f"{name}, channels last"] = milliseconds(bench.median(last))
                if bench.device.type == "cuda":
                    row[f"{name}, graph"] = milliseconds(recorded(bench, last))
        yield row


def detected(
    model: DetrForPanopticSegmentation, dtype: torch.dtype, backbone: torch.nn.Module, pixels: Tensor
) -> Tensor:
    half = dtype is torch.bfloat16
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
        return detect(model.detr, pixels, backbone=backbone).states


def recorded(bench: Bench, run: Callable[[], object]) -> float:
    """Seconds of a replay of its CUDA graph; `nan` where it cannot be recorded."""
    stream = torch.cuda.Stream()
    try:
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
    except RuntimeError as error:
        print(f"  no graph: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.synchronize()
        return math.nan
    return bench.median(graph.replay)


def largest_batch(bench: Bench) -> Iterator[Row]:
    """Doubled until memory runs out; images a second at the largest that fits."""
    size, most = bench.sizes[-1], 4 if bench.small else 128
    for stage in ("everything", "mask head only"):
        row: Row = {"table": f"largest batch in bf16, {'×'.join(map(str, size))}", "stage": stage}
        for who in ("ours", "stock"):
            batch, best = bench.step_batches[-1], ("", "")
            while batch <= most and bench.left > 0:
                seconds, peak = timed_step(bench, who, stage, size, batch, "bf16")
                if math.isnan(seconds):
                    break
                best = (f"{batch}", f"{batch / seconds:.3g} images/s, {gigabytes(peak)}")
                batch *= 2
            row[who], row[f"{who} at it"] = best
        yield row


def milliseconds(seconds: float) -> str:
    return "out of memory" if math.isnan(seconds) else f"{1e3 * seconds:.3g} ms"


def gigabytes(count: float) -> str:
    return "" if math.isnan(count) else f"{count / 1e9:.1f} GB"


def times_faster(slow: float, fast: float) -> str:
    return "" if math.isnan(slow) or math.isnan(fast) else f"{slow / fast:.3g}×"


# --- the whole loop


def loop(bench: Bench) -> Iterator[Row]:
    """`Trainer` with photos from the disk, ours against stock; each run in a process of its own."""
    import datasets  # noqa: F401  the package wants it beyond the model
    import train as whole

    size, large, batch, ours = ((128, 128), (128, 128), 2, 3) if bench.small else ((512, 512), (800, 1066), 8, 60)
    cores = os.cpu_count() or 1
    many = [0] if bench.small else sorted({min(workers, cores) for workers in (4, 8, 16)}, reverse=True)
    cells = [("finetune", size, many[0], 1), *(("finetune", size, workers, 0) for workers in many[1:])]
    cells += [] if bench.small else [(stage, large, many[0], 0) for stage in whole.STAGES]
    cells += [] if bench.small else [(stage, size, many[0], 1) for stage in whole.STAGES[:2]]
    with tempfile.TemporaryDirectory() as scratch:
        for stage, photos, workers, with_stock in cells:
            folder = Path(scratch) / "x".join(map(str, photos))
            if not folder.is_dir():
                folder.mkdir()
                # An epoch must have batches for all workers: what one ends is not begun for the next.
                whole.write_photos(folder, photos, whole.PHOTOS if bench.small else 320)
                whole.save_models(folder, bench.backbones[0][0], photos)
            given = argparse.Namespace(
                batch=batch, backbone=bench.backbones[0][0], threads=1, workers=workers, ours=ours,
                stock=3 if bench.small else 12, size="x".join(map(str, photos)),
            )  # fmt: skip
            row: Row = {
                "table": f"Trainer, batch {batch}, bf16 where there is a GPU",
                "stage": stage,
                "photos": "×".join(map(str, photos)),
                "workers": workers,
            }
            for who in ("ours", "stock") if with_stock else ("ours",):
                found = whole.in_a_process(given, who, stage, folder)
                row[f"{who}, images/s"] = round(found["images_per_second"], 1)
                row[f"{who}, memory"] = f"{found['memory']:.1f} GB"
                row[f"{who}, waits for photos"] = f"{found['waiting']:.0%}"
            yield row


def learning(bench: Bench) -> Iterator[Row]:
    """The demo's recipe, as it is and for as long as there is time: what is reachable when time is not the limit?"""
    import datasets  # noqa: F401

    photos, held_out, scales = (12, 2, [0.02]) if bench.small else (600, 300, [1.0, 3.0])
    with tempfile.TemporaryDirectory() as scratch:
        for scale in scales:
            results = Path(scratch) / "results.jsonl"
            command = [sys.executable, str(Path(__file__).with_name("demo_ablation.py")), "--variants", "pipeline",
                       "--seeds", "0", "--photos", str(photos), "--held-out", str(held_out), "--scale", str(scale),
                       "--folder", scratch, "--results", str(results)]  # fmt: skip
            began = time.perf_counter()
            try:
                subprocess.run(command, check=True, timeout=max(60, bench.left + 200), stdout=subprocess.DEVNULL)
            except subprocess.TimeoutExpired:
                yield {
                    "table": "the demo's recipe",
                    "times the epochs": scale,
                    "minutes": "not within the part's time",
                }
                return
            lines = [json.loads(line) for line in results.read_text().splitlines()]
            run = next(line for line in lines if line["kind"] == "model" and line["scale"] == scale)
            yield {
                "table": "the demo's recipe",
                "times the epochs": scale,
                "minutes": f"{run['seconds'] / 60:.1f}",
                "with photos and labels": f"{(time.perf_counter() - began) / 60:.1f}",
                **{f"PQ {name}": "" if value is None else f"{100 * value:.1f}" for name, value in run["pq"].items()},
            }


def hours(bench: Bench) -> Iterator[Row]:
    """Of construction.yaml, from the images a second that `loop` has seen here at its size."""
    from hf_detr_panoptic.recipe import Recipe

    path = bench.out / "loop.json"
    rows = json.loads(path.read_bytes())["rows"] if path.is_file() else []
    rates = {row["stage"]: row["ours, images/s"] for row in rows if row["photos"] == "800×1066" or bench.small}
    recipe = Recipe.load("construction")
    for photos in (1_000, 10_000):
        row: Row = {"table": f"hours of construction.yaml by these rates, {len(rates)} stages seen", "photos": photos}
        total = 0.0
        for stage in recipe.stages.to_run:
            if stage.name in rates:
                epochs = float(stage.training_arguments["num_train_epochs"])
                row[stage.name] = f"{epochs * 0.8 * photos / rates[stage.name] / 3600:.2f}"
                total += epochs * 0.8 * photos / rates[stage.name] / 3600
        yield {**row, "together": f"{total:.1f}"}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "right": right,
    "fast": fast,
    "loop": loop,
    "learning": learning,
    "hours": hours,
}


# --- the tables


def show(folder: Path) -> None:
    for path in sorted(folder.glob("*.json"), key=lambda path: [*PARTS, path.stem].index(path.stem)):
        told = json.loads(path.read_bytes())
        versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
        card = told.get("card", "CPU")
        driver = f", driver {told['driver']}" if "driver" in told else ""
        print(f"\n## {told['part']}\n\n{card}{driver}, {told['cores']} cores, Python {told['python']}, {versions}, "
              f"{told['date']}, {told['seconds']:.0f} s{', cut off' if told['cut'] else ''}.")  # fmt: skip
        for table in dict.fromkeys(row["table"] for row in told["rows"]):
            rows = [{key: value for key, value in row.items() if key != "table"} for row in told["rows"]
                    if row["table"] == table]  # fmt: skip
            header = list(dict.fromkeys(key for row in rows for key in row))
            print(f"\n**{table}**\n")
            print_table(header, [[row.get(key, "") for key in header] for row in rows])


if __name__ == "__main__":
    main()
