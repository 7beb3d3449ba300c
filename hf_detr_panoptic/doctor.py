"""Is this machine ready? Versions, device, processes, Hub, disk; with `--real` the whole road, in minutes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HfDetrPanopticError
from .settings import DEFAULT_MODEL, FromBackbone
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
    parser.add_argument(
        "--real", action="store_true", help=f"label ten photos with {DEFAULT_MODEL} or --model, and train it a little"
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="for --real: yours (default: painted ones)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="for --real: of training (%(default)s)")
    parser.add_argument(
        "--push",
        metavar="NAME",
        help="for --real: push the model to this private repository of yours, and load it back",
    )


def main(args: argparse.Namespace) -> int:
    """Is this machine ready? Each line says OK, or what to do.

      hf-detr-panoptic doctor
      hf-detr-panoptic doctor --real --photos photos/ --push anna/trial

    `--real` is the first thing to run with a network: in a few minutes it loads the real checkpoint, compares it with
    stock transformers, labels ten photos, trains, and loads what came out with plain transformers. What it says can be
    pasted into an issue as it is.
    """
    for flag in ("photos", "push"):
        if getattr(args, flag) and not args.real:
            raise HfDetrPanopticError(f"--{flag} goes with --real", fix="Add --real.")
    checks: list[Callable[[], Iterator[Diagnosis]]] = [_python, _packages, _device, _processes, _recipes, _disk]
    if not args.offline:
        checks.append(_hub)
    if args.model or args.real:
        checks.append(lambda: _model(args.model or DEFAULT_MODEL, args.photo))
    if args.real:
        checks.append(lambda: _real(args.model or DEFAULT_MODEL, args.photos, args.steps, args.push))
    bad = 0
    for check in checks:
        for diagnosis in check():
            bad += diagnosis.mood == "bad"
            print(_line(diagnosis), flush=True)
    print()
    ready = "Ready: the whole road works here." if args.real else "Ready."
    print(ready if not bad else f"{count_of(bad, 'thing')} to mend, marked ✗ above.")
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
    from .model.from_backbone import hub_name, load_backbone
    from .model.modeling import DetrForPanopticSegmentation

    try:
        if "/" not in name and not Path(name).exists() and hub_name(name):
            yield Diagnosis("model", load_backbone(FromBackbone(backbone=name)).said)
            advice = f"In a recipe `model: {{backbone: {name}}}`; its transformer starts fresh."
            yield Diagnosis("a backbone", "there is no DETR to compare", "note", advice)
            return
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


# --- the whole road, once


_SIDES = {"shortest_edge": 320, "longest_edge": 533}  # a sixth of the pixels of 800 and 1333
_PHOTOS = 10


def _real(name: str, photos: Path | None, steps: int, repository: str | None) -> Iterator[Diagnosis]:
    """Label, train, load back. What fails is told in one line, and ends it: the rest stands on it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts: dict[str, Callable[[], str]] = {
            "label": lambda: _label(name, photos, folder),
            "train": lambda: _train(name, steps, folder),
            "plain client": lambda: _plain_client(folder / "run" / "final", str(folder / "run" / "final")),
        }
        if repository:
            parts["push"] = lambda: _push(folder / "run", repository)
        for what, part in parts.items():
            began = time.perf_counter()
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # what the parts say to a person is not asked for here
                    said = part()
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                if isinstance(error, HfDetrPanopticError):
                    told = f"{error.where}: {error.what}" if error.where else error.what
                fix = getattr(error, "fix", None) or "Please report this, with the lines above."
                yield Diagnosis(what, told.replace(str(folder), "…"), "bad", fix)
                return
            yield Diagnosis(what, f"{said}, in {time.perf_counter() - began:.0f} s")


def _label(name: str, photos: Path | None, folder: Path) -> str:
    from .images import list_images, open_image
    from .road import prepare

    there = folder / "photos"
    there.mkdir()
    if photos is None:
        from .demo.scenes import scene

        for index in range(_PHOTOS):
            scene(0, index, (512, 384)).photo.save(there / f"painted_{index}.png")
    else:
        found = list_images(photos)[:_PHOTOS]
        if not found:
            raise HfDetrPanopticError("there is no photo", where=str(photos), fix="Check --photos.")
        for index, path in enumerate(found):
            open_image(path).save(there / f"{index}.png")
    prepared = prepare(there, folder / "data", labeler=name, unannotated="auto")
    if prepared is None:
        raise HfDetrPanopticError("several processes were started", fix="Run the doctor in one.")
    tally = prepared.tally
    segments, classes = sum(tally.segments.values()), len({name for name, _ in tally.segments})
    return f"{count_of(sum(tally.photos.values()), 'photo')}, {segments} segments of {classes} classes"


def _train(name: str, steps: int, folder: Path) -> str:
    from .recipe import Recipe
    from .road import train

    skipped = {"skip": True}
    learning = {"max_steps": steps, "logging_steps": max(1, steps // 10), "eval_strategy": "no", "lr_drop": None}
    places = {"model": name, "data": str(folder / "data"), "output": str(folder / "run")}
    stages = {"detection": skipped, "mask_head": skipped, "finetune": learning}
    recipe = Recipe.from_dict({**places, "size": _SIDES, "stages": stages})
    (end,) = train(recipe)
    state = max(end.folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    losses = [entry["loss"] for entry in json.loads(state.read_bytes())["log_history"] if "loss" in entry]
    told = (
        f"{count_of(end.steps, 'step')} at {_SIDES['shortest_edge']} pixels, loss {losses[0]:.3f} → {losses[-1]:.3f}"
    )
    if steps >= 100 and not losses[-1] < losses[0]:
        raise HfDetrPanopticError(f"{told}: nothing was learnt", fix="Please report this, with the lines above.")
    return told


def _plain_client(folder: Path, name: str) -> str:
    """transformers alone, from a folder or a name on the Hub; its logits beside ours from the run."""
    import torch
    from transformers import DetrForSegmentation

    from .model.modeling import DetrForPanopticSegmentation

    ours = DetrForPanopticSegmentation.from_pretrained(folder).eval()
    theirs: Any = DetrForSegmentation.from_pretrained(name, output_loading_info=True, dtype=torch.float32)
    stock, info = theirs
    if info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"]:
        raise HfDetrPanopticError(f"transformers loads it with other keys: {info}")
    pixels = ours.preprocess(_drawn_photo())[None]
    with torch.no_grad():
        apart = float((stock.eval()(pixels).logits - ours(pixels).logits).abs().max())
    if not apart <= STOCK_TOLERANCE:
        raise HfDetrPanopticError(f"transformers alone gives logits that are {apart:.1e} apart")
    return f"every key found, logits {apart:.1e} apart"


def _push(run: Path, repository: str) -> str:
    from .hub.push import push

    addresses = push(run, repository, stages=False, private=True)
    return f"{', '.join(addresses)}; loaded back: {_plain_client(run / 'final', repository)}"


def _drawn_photo() -> Image.Image:
    """A deterministic picture with edges and gradients: what is in it does not matter here, that it is equal does."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:480, 0:640]
    pixels = np.stack([x * 255 // 639, y * 255 // 479, ((x // 80 + y // 60) % 2) * 200], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))
