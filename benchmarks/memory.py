"""Memory of whole commands: `prepare` over many photos of one camera, and everything over one that is large.

    python benchmarks/memory.py                      # about twenty minutes of one core
    python benchmarks/memory.py --counts 500         # a minute

Each command runs in a process of its own. "Beyond" is what its peak of resident memory is above what it took to
import everything and label a first photo. Photos of one camera are 160×120, with a tiny model: one background, other
things in front, other noise, a polygon of a person's on each. The large photo has 8,000×6,000 pixels and lies beside
one of usual size; there the model is the demo's labeler.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from labeling import random_model
from measure import machine, print_table
from PIL import Image

from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.demo.demo import teacher_folder


def camera_photos(folder: Path, count: int) -> None:
    """`photos/` of one camera that does not move, and `marks.json`."""
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    background = np.asarray(coarse.resize((160, 120), Image.Resampling.BICUBIC)).astype(np.int16)
    images, entries = [], []
    for number in range(1, count + 1):
        pixels = background + rng.integers(-4, 5, background.shape)
        for _ in range(4):
            y, x, height, width = (int(rng.integers(*ends)) for ends in ((0, 90), (0, 120), (10, 30), (10, 40)))
            pixels[y : y + height, x : x + width] = rng.integers(0, 256, 3)
        name = f"{number:05}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name, quality=90)
        images.append({"id": number, "file_name": name, "width": 160, "height": 120})
        polygon = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        entries.append({"id": number, "image_id": number, "category_id": 1, "segmentation": polygon})
    content = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "pipe"}]}
    (folder / "marks.json").write_text(json.dumps(content))


def large_photo(folder: Path) -> None:
    """Beside one of usual size: one photo alone cannot be split."""
    (folder / "photos").mkdir(parents=True)
    for seed, name, size in ((0, "large.jpg", (8000, 6000)), (1, "usual.jpg", (800, 600))):
        coarse = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        photo.save(folder / "photos" / name, quality=85)


def memory(folder: Path, counts: list[int]) -> None:
    random_model(tiny=True).save_pretrained(folder / "labeler")
    rows = []
    for count in counts:
        home = folder / str(count)
        camera_photos(home, count)
        given = "--images", home / "photos", "--annotations", home / "marks.json", "--labeler", folder / "labeler"
        rows.append(
            [f"prepare, {count:,} photos of one camera", *in_a_process("prepare", *given, "--out", home / "out")]
        )
        shutil.rmtree(home)
    large = folder / "large"
    large_photo(large)
    given = "--images", large / "photos", "--labeler", teacher_folder(), "--unannotated", "auto"
    for words in (
        ("prepare", *given, "--out", large / "out"),
        ("check", large / "out"),
        ("predict", teacher_folder(), large / "photos", "--out", large / "predicted"),
    ):
        rows.append([f"{words[0]}, 8,000×6,000", *in_a_process(*words)])
    print_table(["command", "peak resident memory", "of it beyond imports and model", "time"], rows)
    print()


def in_a_process(*words: object) -> list[str]:
    command = [sys.executable, __file__, "--one", *map(str, words)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    found = json.loads(said.splitlines()[-1])
    beyond = found["peak"] - found["before"]
    return [f"{found['peak']:.0f} MB", f"{beyond:.0f} MB", f"{found['seconds']:.0f} s"]


def one(words: list[str]) -> None:
    """In a process of its own: a command, and its memory."""
    for name in ("labeling.prepare", "dataset.check", "predict", "road", "hub.cards"):
        importlib.import_module(f"hf_detr_panoptic.{name}")
    from hf_detr_panoptic.cli import main as command

    model = DetrForPanopticSegmentation.from_pretrained(teacher_folder())
    model.segment(Image.new("RGB", (64, 48)))
    before = peak()
    begin = time.perf_counter()
    code = command(words)
    assert code == 0, code
    print(json.dumps({"before": before, "peak": peak(), "seconds": time.perf_counter() - begin}))


def peak() -> float:
    """In MB, of this program alone: what `getrusage` says begins with the peak of whoever started it, under Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts in bytes


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 20_000])
    args = parser.parse_args()
    print(machine(("numpy", "pillow", "transformers")))
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder), args.counts)


if __name__ == "__main__":
    main()
