"""Is this machine ready? Versions, device, processes, Hub, disk."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HfDetrPanopticError
from .text import count_of

if TYPE_CHECKING:
    from PIL import Image


HUB_TIMEOUT_S = 3.0
DISK_WANTED = 10 * 2**30
STOCK_TOLERANCE = 1e-3  # of mask logits, whose size is tens; the sums run in another order


@dataclass(frozen=True)
class Diagnosis:
    """One line of the doctor's. `mood`: "ok", "note" (works, but know this) or "bad" (will not work)."""

    what: str
    value: str
    mood: str = "ok"
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="do not ask the Hub")
    parser.add_argument(
        "--model", metavar="NAME", help="also load this checkpoint strictly, segment a photo, and compare with stock"
    )
    parser.add_argument("--photo", metavar="FILE", help="the photo for --model (default: a drawn one)")


def main(args: argparse.Namespace) -> int:
    """Is this machine ready? Each line says OK, or what to do."""
    checks: list[Callable[[], Iterator[Diagnosis]]] = [_python, _packages, _device, _processes, _recipes, _disk]
    if not args.offline:
        checks.append(_hub)
    if args.model:
        checks.append(lambda: _model(args.model, args.photo))
    bad = 0
    for check in checks:
        for diagnosis in check():
            bad += diagnosis.mood == "bad"
            print(_line(diagnosis), flush=True)
    print()
    print("Ready." if not bad else f"{count_of(bad, 'thing')} to mend, marked ✗ above.")
    return 1 if bad else 0


def _line(diagnosis: Diagnosis) -> str:
    sign = {"ok": "✓", "note": "•", "bad": "✗"}[diagnosis.mood]
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        sign = {"ok": "OK", "note": "--", "bad": "!!"}[diagnosis.mood]
    line = f"{sign} {diagnosis.what:<16} {diagnosis.value}"
    return f"{line}\n  {'':<16} → {diagnosis.advice}" if diagnosis.advice else line


def _python() -> Iterator[Diagnosis]:
    yield Diagnosis("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Diagnosis]:
    """Versions for a bug report; that they are the right ones is pip's to see to."""
    try:
        ours = metadata.distribution("hf-detr-panoptic")
    except metadata.PackageNotFoundError:
        yield Diagnosis("hf-detr-panoptic", "not installed", "bad", "pip install it: this is only its source.")
        return
    yield Diagnosis("hf-detr-panoptic", ours.version)
    for requirement in ours.requires or []:
        name = re.split(r"[^\w.-]", requirement)[0]
        if "extra ==" not in requirement:
            yield Diagnosis(name, metadata.version(name))


def _device() -> Iterator[Diagnosis]:
    import torch

    threads = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: train in fp16 or fp32"
            yield Diagnosis("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    elif torch.backends.mps.is_available():
        yield Diagnosis("device", "Apple GPU (MPS), fp32")
    else:
        bf16 = "bf16 in hardware" if _cpu_has_bf16() else "bf16 is emulated and slower than fp32"
        yield Diagnosis("device", f"CPU only, {threads}, {bf16}", "note", "Labeling works; training wants a GPU.")
    if "OMP_NUM_THREADS" in os.environ:
        yield Diagnosis("threads", f"{threads} (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})", "note")


def _cpu_has_bf16() -> bool:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags or "bf16" in capability.lower()


def _processes() -> Iterator[Diagnosis]:
    from .parallel import guard_processes

    try:
        count = guard_processes()
    except HfDetrPanopticError as error:
        yield Diagnosis("processes", error.what, "bad", error.fix or "")
    else:
        yield Diagnosis("processes", f"{count} started, {os.environ.get('WORLD_SIZE', '1')} promised")


def _recipes() -> Iterator[Diagnosis]:
    from .recipe import recipe_names

    try:
        yield Diagnosis("recipes", ", ".join(recipe_names()))
    except HfDetrPanopticError as error:
        yield Diagnosis("recipes", error.what, "bad", error.fix or "")


def _disk() -> Iterator[Diagnosis]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    for what, folder in (("disk, here", Path.cwd()), ("disk, Hub cache", cache)):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        value = f"{free / 2**30:.0f} GiB free in {folder}"
        if free < DISK_WANTED:
            yield Diagnosis(what, value, "note", "A three-stage run with R50 keeps up to 10 GiB of checkpoints.")
        else:
            yield Diagnosis(what, value)


def _hub() -> Iterator[Diagnosis]:
    import urllib.error
    import urllib.request

    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        yield Diagnosis("Hub", "offline by HF_HUB_OFFLINE", "note", "Only what is in the cache can be loaded.")
        return
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(f"{ENDPOINT}/api/models?limit=1", timeout=HUB_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "Use a local folder or the cache (HF_HUB_OFFLINE=1), or set HTTPS_PROXY or HF_ENDPOINT."
        yield Diagnosis("Hub", f"{ENDPOINT} does not answer ({reason})", "note", advice)
    else:
        signed = "signed in" if get_token() else "not signed in: `hf auth login` before a push"
        yield Diagnosis("Hub", f"{ENDPOINT} answers in {time.perf_counter() - began:.1f} s, {signed}")


def _model(name: str, photo: str | None) -> Iterator[Diagnosis]:
    import torch
    from transformers import DetrForSegmentation

    from .images import open_image
    from .model.modeling import DetrForPanopticSegmentation

    try:
        image = open_image(photo) if photo else _drawn_photo()
        loaded: Any = DetrForPanopticSegmentation.from_pretrained(name, output_loading_info=True)
        model, info = loaded
        space = model.eval().label_space
        yield Diagnosis("model", f"{name}: every weight found its place; {space}")
        began = time.perf_counter()
        (panoptic,) = model.segment(image)
        yield Diagnosis("segment", f"{panoptic}, in {time.perf_counter() - began:.2f} s")
        pixels = model.preprocess(image)[None]
    except HfDetrPanopticError as error:
        yield Diagnosis("model", f"{error.where or name}: {error.what}", "bad", error.fix or "")
        return
    if info["missing_keys"]:
        yield Diagnosis("beside stock", "a detection checkpoint: its mask head is new, so there is nothing to compare")
        return
    stock = DetrForSegmentation.from_pretrained(name, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs, ours = stock(pixels), model(pixels)
    differences = {
        part: float((getattr(theirs, part) - getattr(ours, part)).abs().max())
        for part in ("logits", "pred_boxes", "pred_masks")
    }
    said = ", ".join(f"{part} {difference:.1e}" for part, difference in differences.items())
    if max(differences.values()) <= STOCK_TOLERANCE:
        yield Diagnosis("beside stock", f"the largest differences: {said}")
    else:
        yield Diagnosis("beside stock", f"they differ: {said}", "bad", "Please report this with the versions above.")


def _drawn_photo() -> Image.Image:
    """A deterministic picture with edges and gradients: what is in it does not matter here, that it is equal does."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:480, 0:640]
    pixels = np.stack([x * 255 // 639, y * 255 // 479, ((x // 80 + y // 60) % 2) * 200], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))
