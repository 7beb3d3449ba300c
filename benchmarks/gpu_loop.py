"""The parts `loop`, `learning`, `hours` of benchmarks/gpu.py: photos from the disk, to Trainer and the labeler."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gpu_bench import Bench, Row

TIME_IS_UP = "not within the part's time"


def loop(bench: Bench) -> Iterator[Row]:
    import datasets  # noqa: F401  the package wants it beyond the model

    rows = trainers(bench)
    yield from islice(rows, 1)
    yield from labeler(bench)
    yield from rows


def labeler(bench: Bench) -> Iterator[Row]:
    """Photos a second from files to files, R50, against the model alone on photos in memory."""
    import labeling

    count = 2 if bench.small else 64
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for precision in ("fp32",) if bench.small else ("fp32", "bf16"):
            seconds, _ = labeling.speeds(
                Path(scratch) / precision,
                labeling.random_model(tiny=bench.small).to(bench.device),
                photos=count,
                batch_size=2 if bench.small else 4,
                precision=precision,
                rounds=1 if bench.small else 3,
                sync=bench.sync,
            )
            rates = {name: f"{count / statistics.median(values):.3g}" for name, values in seconds.items()}
            yield {"table": "the labeler, photos a second", "precision": precision, **rates}


def trainers(bench: Bench) -> Iterator[Row]:
    """`Trainer` with photos from the disk, ours against stock; each run in a process of its own."""
    import train as whole

    size, large, batch, ours = ((96, 96), (96, 96), 2, 2) if bench.small else ((512, 512), (800, 1066), 8, 60)
    cores = os.cpu_count() or 1
    many = [0] if bench.small else sorted({min(workers, cores) for workers in (4, 8, 16)}, reverse=True)
    cells = [("finetune", size, many[0], 1), *(("finetune", size, workers, 0) for workers in many[1:])]
    cells += [] if bench.small else [(stage, large, many[0], 0) for stage in whole.STAGES]
    cells += [] if bench.small else [(stage, size, many[0], 1) for stage in whole.STAGES[:2]]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for stage, photos, workers, with_stock in cells:
            folder = Path(scratch) / "x".join(map(str, photos))
            if not folder.is_dir():
                folder.mkdir()
                # An epoch must have batches for all workers: what one ends is not begun for the next.
                whole.write_photos(folder, photos, 4 if bench.small else 320)
                whole.save_models(folder, bench.backbones[0][0], photos)
            given = argparse.Namespace(
                batch=batch, backbone=bench.backbones[0][0], threads=1, workers=workers, ours=ours,
                stock=2 if bench.small else 12, size="x".join(map(str, photos)),
            )  # fmt: skip
            row: Row = {
                "table": f"Trainer, batch {batch}, bf16 where there is a GPU",
                "stage": stage,
                "photos": "×".join(map(str, photos)),
                "workers": workers,
            }
            for who in ("ours", "stock") if with_stock else ("ours",):
                try:
                    found = json.loads(bench.run(*whole.command_of(given, who, stage, folder)).splitlines()[-1])
                except subprocess.TimeoutExpired:
                    yield {**row, "ended": TIME_IS_UP}
                    return
                row[f"{who}, images/s"] = round(found["images_per_second"], 1)
                row[f"{who}, memory"] = f"{found['memory']:.1f} GB"
                row[f"{who}, waits for photos"] = f"{found['waiting']:.0%}"
            yield row


def learning(bench: Bench) -> Iterator[Row]:
    """The demo's recipe, as it is and for as long as there is time: what is reachable when time is not the limit?"""
    import datasets  # noqa: F401

    photos, held_out, scales = (12, 2, [0.02]) if bench.small else (600, 300, [1.0, 3.0])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for scale in scales:
            results = Path(scratch) / "results.jsonl"
            command = [sys.executable, str(Path(__file__).with_name("demo_ablation.py")), "--variants", "pipeline",
                       "--seeds", "0", "--photos", str(photos), "--held-out", str(held_out), "--scale", str(scale),
                       "--folder", scratch, "--results", str(results)]  # fmt: skip
            began = time.perf_counter()
            try:
                bench.run(command)
            except subprocess.TimeoutExpired:
                yield {"table": "the demo's recipe", "times the epochs": scale, "minutes": TIME_IS_UP}
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
    rates = {
        row["stage"]: row["ours, images/s"]
        for row in rows
        if "ours, images/s" in row and (row["photos"] == "800×1066" or bench.small)
    }
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
