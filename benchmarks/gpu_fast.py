"""The part `fast` of benchmarks/gpu.py: photo to map and training steps against stock, and what they wait for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice, product
from typing import Any

import torch
from gpu_bench import PRECISIONS, Bench, Row, autocast, gigabytes, milliseconds, tf32, times_faster
from model import models, our_maps, pixels_of, step_of, stock_maps, sure_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hf_detr_panoptic.model.detector import detect
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation


def fast(bench: Bench) -> Iterator[Row]:
    yield from waits(bench)
    maps = photo_to_map(bench)
    yield from islice(maps, 4)
    yield from trunk(bench)
    yield from steps(bench)
    yield from compiled(bench)
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
        for precision in ("fp32", "bf16")[: 1 if bench.small else 2]:
            _, model = models(bench.options(size))
            pixels = pixels_of(bench.options(size), 2)
            step = training_step(bench, model, "ours", stage, pixels, precision, frozen)
            with tf32(True):
                yield profiled(bench, f"step: {stage}, batch 2", precision, step)
            del model, step
            bench.free()


def profiled(bench: Bench, name: str, precision: str, run: Callable[[], object]) -> Row:
    for _ in range(1 if bench.small else 3):
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
    } | ({} if bench.device.type != "cuda" else {
        "device busy": f"{kernels / wall:.0%}",
        "launches": round(sum(count for key, count in counted.items() if "LaunchKernel" in key)),
        "waits": round(sum(count for key, count in counted.items() if key in SYNCHRONIZES) - 1 / times, 1),
        "copies": round(counted.get("cudaMemcpyAsync", 0), 1),
    })  # fmt: skip


SYNCHRONIZES = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
STEPS: dict[str, tuple[str, ...]] = {"detection": (), "mask head only": ("detr",), "everything": ()}


def training_step(
    bench: Bench, model: Any, who: str, stage: str, pixels: Tensor, precision: str, frozen: Sequence[str]
) -> Callable[[], object]:
    if stage == "detection":
        if who == "ours":
            model.with_masks = False
        else:
            model.forward = model.detr.forward  # boxes and classes alone, as stock's detector learns them
    step = step_of(model, bench.options(tuple(pixels.shape[-2:])), who, "mask head only" if frozen else "everything",
                   pixels, 10)  # fmt: skip

    def run() -> None:
        with autocast(bench.device, PRECISIONS[precision]):
            step()

    return run


def steps(bench: Bench) -> Iterator[Row]:
    """Forward, backward and AdamW of random weights with ten targets an image, and the peak of memory."""
    stages = [stage for stage in STEPS if stage != "detection"] + ["detection"]
    for size, precision, stage, batch in product(
        reversed(bench.sizes), ("bf16", "fp32")[: 1 if bench.small else 2], stages, reversed(bench.step_batches)
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
    """Backbone and transformer alone: eager, channels last, and recorded as a CUDA graph."""
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


@torch.no_grad()
def compiled(bench: Bench) -> Iterator[Row]:
    """The same by `torch.compile`, for one shape; in the tiny form it is only taken down, and run as it is."""
    options = bench.options(bench.sizes[-1])
    _, ours = models(options)
    for name, dtype in (("TF32", torch.float32), ("bf16", torch.bfloat16))[: 1 if bench.small else 2]:
        pixels = pixels_of(options, 1).to(dtype).contiguous(memory_format=torch.channels_last)
        backbone = ours._fast.backbone(ours, dtype)
        plain = partial(detected, ours, dtype, backbone, pixels)
        fast = torch.compile(partial(detected, ours, dtype, backbone), backend="eager" if bench.small else "inductor")
        row: Row = {
            "table": "backbone and transformer alone, compiled, batch 1",
            "size": "×".join(map(str, options.size)),
            "precision": name,
        }
        with tf32(True):
            began = time.perf_counter()
            try:
                fast(pixels)
            except Exception as error:  # whatever a compiler says, the other rows count
                yield {**row, "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
                continue
            bench.sync()
            row["to compile"] = f"{time.perf_counter() - began:.1f} s"
            before, after = bench.median(plain), bench.median(partial(fast, pixels))
        yield {
            **row,
            "as it is": milliseconds(before),
            "compiled": milliseconds(after),
            "ratio": times_faster(before, after),
        }


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
    size, most = bench.sizes[-1], 2 if bench.small else 128
    for stage in ("everything", "mask head only")[: 1 if bench.small else 2]:
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
