"""Is this machine ready? Each line says OK, or what to do."""

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

from ..errors import HfDetrPanopticError

HUB_TIMEOUT_S = 3.0
DISK_WANTED = 10 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's. `mood`: "ok", "note" (works, but know this) or "bad" (will not work)."""

    what: str
    value: str
    mood: str = "ok"
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="do not ask the Hub")


def main(args: argparse.Namespace) -> int:
    checks: list[Callable[[], Iterator[Finding]]] = [_python, _packages, _device, _processes, _recipes, _disk]
    if not args.offline:
        checks.append(_hub)
    bad = 0
    for check in checks:
        for finding in check():
            bad += finding.mood == "bad"
            print(_line(finding), flush=True)
    print()
    print("Ready." if not bad else f"{bad} {'thing' if bad == 1 else 'things'} to mend, marked ✗ above.")
    return 1 if bad else 0


def _line(finding: Finding) -> str:
    sign = {"ok": "✓", "note": "•", "bad": "✗"}[finding.mood]
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        sign = {"ok": "OK", "note": "--", "bad": "!!"}[finding.mood]
    line = f"{sign} {finding.what:<16} {finding.value}"
    return f"{line}\n  {'':<16} → {finding.advice}" if finding.advice else line


def _python() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        ours = metadata.distribution("hf-detr-panoptic")
    except metadata.PackageNotFoundError:
        yield Finding("hf-detr-panoptic", "not installed", "bad", "pip install it: this is only its source.")
        return
    yield Finding("hf-detr-panoptic", ours.version)
    for requirement in map(Requirement, ours.requires or []):
        optional = bool(re.search(r"\bextra\b", str(requirement.marker or "")))
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if not optional:
                yield Finding(requirement.name, "missing", "bad", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            advice = f"pip install '{requirement.name}{requirement.specifier}'"
            yield Finding(requirement.name, f"{version}, needs {requirement.specifier}", "bad", advice)
        elif not optional:
            yield Finding(requirement.name, version)


def _device() -> Iterator[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: train in fp16 or fp32"
            yield Finding("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")
    elif torch.backends.mps.is_available():
        yield Finding("device", "Apple GPU (MPS), fp32")
    else:
        bf16 = "bf16 in hardware" if _cpu_has_bf16() else "bf16 is emulated and slower than fp32"
        yield Finding("device", f"CPU only, {threads}, {bf16}", "note", "Labeling works; training wants a GPU.")
    if "OMP_NUM_THREADS" in os.environ:
        yield Finding("threads", f"{threads} (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})", "note")


def _cpu_has_bf16() -> bool:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags or "bf16" in capability.lower()


def _processes() -> Iterator[Finding]:
    from .processes import guard_processes

    try:
        count = guard_processes()
    except HfDetrPanopticError as error:
        yield Finding("processes", error.what, "bad", error.fix or "")
    else:
        yield Finding("processes", f"{count} started, {os.environ.get('WORLD_SIZE', '1')} promised")


def _recipes() -> Iterator[Finding]:
    from ..training.arguments import recipe_names

    try:
        yield Finding("recipes", ", ".join(recipe_names()))
    except HfDetrPanopticError as error:
        yield Finding("recipes", error.what, "bad", error.fix or "")


def _disk() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    for what, folder in (("disk, here", Path.cwd()), ("disk, Hub cache", cache)):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        value = f"{free / 2**30:.0f} GiB free in {folder}"
        if free < DISK_WANTED:
            yield Finding(what, value, "note", "A three-stage run with R50 keeps up to 10 GiB of checkpoints.")
        else:
            yield Finding(what, value)


def _hub() -> Iterator[Finding]:
    import urllib.error
    import urllib.request

    from huggingface_hub import get_token
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        yield Finding("Hub", "offline by HF_HUB_OFFLINE", "note", "Only what is in the cache can be loaded.")
        return
    began = time.perf_counter()
    try:
        with urllib.request.urlopen(f"{ENDPOINT}/api/models?limit=1", timeout=HUB_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "Use a local folder or the cache (HF_HUB_OFFLINE=1), or set HTTPS_PROXY or HF_ENDPOINT."
        yield Finding("Hub", f"{ENDPOINT} does not answer ({reason})", "note", advice)
    else:
        signed = "signed in" if get_token() else "not signed in: `hf auth login` before a push"
        yield Finding("Hub", f"{ENDPOINT} answers in {time.perf_counter() - began:.1f} s, {signed}")
