"""The labeler over many photos against the bare model, and memory from 100 photos to 5,000.

    python benchmarks/labeling.py                    # about ten minutes on two cores
    python benchmarks/labeling.py --skip speed

Speed: DETR R50 with random weights on JPEGs of 1067×800 and 800×1067. "Bare" is `model.segment` on photos that are
decoded already, in the labeler's own batches; "labeler" reads, decodes, segments, encodes and writes every answer.
Memory: whole runs of `prepare` with a tiny model on tiny photos, each in a process of its own; peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic import LabelSpace, prepare
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


def memory(folder: Path, counts: list[int]) -> None:
    random_model(tiny=True).save_pretrained(folder / "labeler")
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "--one", str(folder), str(count)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        told = json.loads(said.splitlines()[-1])
        rows.append([f"{count:,}", f"{told['before']:.0f} MB", f"{told['peak']:.0f} MB", f"{told['seconds']:.0f} s"])
    print_table(["photos through prepare", "after the imports", "peak resident memory", "time"], rows)
    print()


def one(folder: Path, count: int) -> None:
    """In a process of its own: make photos and marks, prepare them, tell the memory."""
    import time

    home = folder / str(count)
    names = photos_in(home / "photos", count, [(96, 72), (72, 96), (96, 72)])
    images, entries = [], []
    for number, name in enumerate(names, start=1):
        width, height = Image.open(home / "photos" / name).size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        polygon = [[10, 10, 40, 10, 40, 40, 10, 40]]
        entries.append({"id": number, "image_id": number, "category_id": 1, "segmentation": polygon})
    told = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "pipe"}]}
    (home / "marks.json").write_text(json.dumps(told))
    del images, entries, told
    before = peak()
    begin = time.perf_counter()
    prepare(home / "photos", home / "out", home / "marks.json", labeler=str(folder / "labeler"))
    print(json.dumps({"before": before, "peak": peak(), "seconds": time.perf_counter() - begin}))


def peak() -> float:
    """In MB; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1000 if sys.platform != "darwin" else 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--skip", choices=["speed", "memory"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Path(args.one[0]), int(args.one[1]))
        return
    print(machine(("numpy", "pillow", "transformers")))
    with tempfile.TemporaryDirectory() as folder:
        if args.skip != "speed":
            speed(Path(folder) / "speed", args.photos, args.rounds, args.batch_size, args.device, args.precision)
        if args.skip != "memory":
            memory(Path(folder) / "memory", args.counts)


if __name__ == "__main__":
    main()
