"""What a run ran on, and what it cost: for the model card, the report, and whoever wants to do it again."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from .. import __version__
from .callbacks import peak_memory
from .checkpoints import write_json

ENVIRONMENT = "environment.json"

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware. No names of hosts or people, and no paths: it is published with the model."""
    return {
        "hf_detr_panoptic": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in _PACKAGES},
        "device": device_name(device),
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """What people call it, such as "NVIDIA H200"; of a CPU the model, where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return f"CPU ({models[0]})" if models and models[0] else "CPU"


def write_environment(output: str | Path, device: torch.device) -> None:
    """environment.json: what the run runs on now; where it began elsewhere, that is kept under "earlier"."""
    path = Path(output) / ENVIRONMENT
    now = environment(device)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    earlier = before.pop("earlier", [])
    if before and before != now:
        earlier = [*earlier, before]
    write_json(path, now | ({"earlier": earlier} if earlier else {}))


class Cost:
    """Seconds and memory of a stage, over all the times that it was resumed; what a kill has undone is not counted.

    before: what `so_far` said when the checkpoint was saved that the stage is resumed from.
    """

    def __init__(self, device: torch.device, before: Mapping[str, Any]) -> None:
        self._device = device
        self._seconds_before = float(before.get("seconds") or 0.0)
        self._peak_before = float(before.get("peak_memory_mb") or 0.0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._began = time.perf_counter()

    def so_far(self) -> dict[str, float | None]:
        """`seconds`, and `peak_memory_mb` of the process that took most; every process calls this alike.

        Memory is the GPU's. On a CPU it is the most that the process ever took, earlier stages included.
        """
        seconds = self._seconds_before + time.perf_counter() - self._began
        peaks = [self._peak_before, *gather_object([peak_memory(self._device) * 1000])]
        peak = max(peak for peak in peaks if not math.isnan(peak))
        return {"seconds": round(seconds, 1), "peak_memory_mb": round(peak) or None}
