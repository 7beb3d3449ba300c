"""The labeler over many photos against the bare model, and memory: from 100 photos to 5,000, and one that is large.

    python benchmarks/labeling.py                    # about ten minutes on two cores
    python benchmarks/labeling.py --skip speed --counts 1000 5000 20000

Speed: DETR R50 with random weights on JPEGs of 1067×800 and 800×1067. "Bare" is `model.segment` on photos that are
decoded already, in the labeler's own batches; "labeler" reads, decodes, segments, encodes and writes every answer.
Memory: whole runs in a process of their own, peak resident memory, and what of it came after everything was imported
and the model loaded. `prepare` with a tiny model on photos of one camera, 160×120: one background, other things in
front, other noise, a polygon of a person's on each. Then `prepare`, `check` and `predict` with the demo's labeler on
one photo of 8,000×6,000.
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
import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic import LabelSpace
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.labeling.inputs import survey
from hf_detr_panoptic.labeling.labeler import DetrLabeler, label, labeler_settings, plan_batches
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess

TINY = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}


def random_model(tiny: bool) -> DetrForPanopticSegmentation:
    """Weights of no use, yet twelve queries pass, as on a usual photo: masks are computed, maps have segments."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "timm_backbone",
        "backbone": "test_resnet" if tiny else "resnet50",
        "features_only": True,
        "out_indices": [1, 2, 3, 4],
        "use_pretrained_backbone": False,
    }
    sizes = TINY if tiny else {}
    model = DetrForPanopticSegmentation(
        DetrConfig(backbone_config=backbone, num_queries=12, **sizes), LabelSpace.coco()
    ).eval()
    model.settings = Postprocess(fill="argmax")
    if tiny:
        model.image_processor = Preprocess(shortest_edge=64, longest_edge=128)
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[0] = 20.0
    return model


def photos_in(folder: Path, count: int, sizes: list[tuple[int, int]]) -> list[str]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = []
    for place in range(count):
        width, height = sizes[place % len(sizes)]
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 1))
        names.append(f"{place:05}.jpg")
        Image.fromarray(np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)).save(
            folder / names[-1], quality=90
        )
    return names


def speed(folder: Path, count: int, rounds: int, batch_size: int, device: str, precision: str) -> None:
    model = random_model(tiny=False).to(device)
    names = photos_in(folder / "photos", count, [(1067, 800), (800, 1067), (1067, 800)])
    photos, _ = survey(folder / "photos", names)
    labeler = DetrLabeler(model, precision)
    opened = {name: open_image(folder / "photos" / name) for name in names}
    batches = plan_batches(labeler, photos, batch_size)
    segments = []

    def bare() -> None:
        segments[:] = [
            len(map.segments)
            for batch in batches
            for map in labeler.segment([opened[photo.name] for photo in batch], threshold=0.5)
        ]

    def labelled() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as new:
            answers = AutoLabels.open(Path(new), labeler.label_space, labeler_settings(labeler, 0.5, batch_size))
            done = label(labeler, folder / "photos", photos, answers, batch_size=batch_size)
            assert done.made == count

    sync = torch.cuda.synchronize if device == "cuda" else None
    seconds = interleaved({"bare": bare, "labeler": labelled}, rounds, sync=sync)
    print(f"{count} photos of 1067×800, batches of {batch_size}, {precision}, {np.mean(segments):.1f} segments each\n")
    print_table(
        ["DETR R50", "a photo", "photos a second", "of the bare model's throughput"],
        [
            [
                name,
                duration([value / count for value in values]),
                f"{count / np.median(values):.2f}",
                str(speedup(seconds["bare"], values)),
            ]
            for name, values in seconds.items()
        ],
    )
    print()


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--skip", choices=["speed", "memory"])
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2:])
        return
    args = parser.parse_args()
    print(machine(("numpy", "pillow", "transformers")))
    with tempfile.TemporaryDirectory() as folder:
        if args.skip != "speed":
            speed(Path(folder) / "speed", args.photos, args.rounds, args.batch_size, args.device, args.precision)
        if args.skip != "memory":
            memory(Path(folder) / "memory", args.counts)


if __name__ == "__main__":
    main()
