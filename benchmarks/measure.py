"""What every benchmark shares: interleaved timing, ratios with their spread, the machine, a table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Ratio(NamedTuple):
    """How many times faster: the median over the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g}× ({self.low:.3g}–{self.high:.3g})"


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    warm_up: int = 1,
    sync: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each side in each round. A round times every side once, so that a busy spell hits all of them alike.

    The order turns around from round to round: none is always the one that finds the caches cold. `sync` waits for an
    accelerator, for example `torch.cuda.synchronize`.
    """
    wait = sync or (lambda: None)
    for _ in range(warm_up):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        order = list(sides) if turn % 2 == 0 else list(reversed(sides))
        for name in order:
            wait()
            begin = time.perf_counter()
            sides[name]()
            wait()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def speedup(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Round by round, so that what slowed a whole round cancels."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def duration(seconds: Sequence[float]) -> str:
    """Median and quartiles, in milliseconds or seconds."""
    low, median, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    )
    factor, unit = (1000, "ms") if median < 1 else (1, "s")
    return f"{median * factor:.3g} {unit} ({low * factor:.3g}–{high * factor:.3g})"


def machine(packages: Sequence[str] = ("torch", "transformers", "numpy")) -> str:
    """Processor, cores, threads, load and versions: the line without which a figure means little."""
    import torch

    parts = [_processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} torch threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.1f}")
    parts.append(f"Python {platform.python_version()}")
    parts.extend(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return " · ".join(parts)


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Markdown, so that it can be pasted into a note as it is."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
