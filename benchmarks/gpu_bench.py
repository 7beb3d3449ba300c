"""What the parts of benchmarks/gpu.py share: the device, how large everything is, files in time, precisions, units."""

from __future__ import annotations

import gc
import importlib.metadata
import math
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measure import interleaved

from hf_detr_panoptic.files import write_json

Row = dict[str, Any]


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
            batches=(2,),
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
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()  # cuda, mps, xpu

    def median(self, run: Callable[[], object], rounds: int = 0) -> float:
        """Seconds; `nan` where memory ran out."""
        try:
            warm_up = 0 if self.small else 1
            return statistics.median(interleaved({"it": run}, rounds or self.rounds, warm_up, self.sync)["it"])
        except torch.OutOfMemoryError:
            return math.nan
        finally:
            self.free()

    def free(self) -> None:
        gc.collect()
        if self.device.type != "cpu":
            getattr(torch, self.device.type).empty_cache()

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """What a command prints. Where the part's time ends first, so does it, with all that it started."""
        left = None if math.isinf(self.left) else max(1.0, self.left)
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as started:
            try:
                printed, _ = started.communicate(timeout=left)
            except BaseException:
                os.killpg(started.pid, signal.SIGKILL)  # what a killed launcher leaves would keep the device
                raise
        if started.returncode:
            raise subprocess.CalledProcessError(started.returncode, command)
        return printed

    @property
    def exact(self) -> torch.device:
        """Where there is float64: Apple's GPUs have none."""
        return self.device if self.device.type == "cuda" else torch.device("cpu")


def run_part(name: str, part: Callable[[Bench], Iterator[Row]], bench: Bench) -> None:
    """A part's rows, written as they come. What the part cannot go on with is a row of it too."""
    print(f"\n== {name}", flush=True)
    began = last = time.monotonic()
    longest = 0.0  # of its rows, in seconds: none is begun that would not end in time if it were as long
    told: Row = {"part": name, **circumstances(bench.device), "seconds": 0.0, "cut": bench.left <= 0, "rows": []}
    try:
        for row in part(bench) if bench.left > 0 else ():
            told["rows"].append(row)
            told["seconds"] = round(time.monotonic() - began, 1)
            print("  " + " · ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            write_json(bench.out / f"{name}.json", told)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            if bench.left < longest:
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


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def milliseconds(seconds: float) -> str:
    return "out of memory" if math.isnan(seconds) else f"{1e3 * seconds:.3g} ms"


def gigabytes(count: float) -> str:
    return "" if math.isnan(count) else f"{count / 1e9:.1f} GB"


def times_faster(slow: float, fast: float) -> str:
    return "" if math.isnan(slow) or math.isnan(fast) else f"{slow / fast:.3g}×"
