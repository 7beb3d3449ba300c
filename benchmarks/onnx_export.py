"""An exported model against the model: pixels that differ, time a photo, size on disk.

    python benchmarks/onnx_export.py [MODEL] [--folder EXPORTED] [--photos 20] [--rounds 7]

MODEL is the demo's teacher without one; `--folder`: what `export` wrote of it, else it is exported first, in fp32.
Photos are synthetic scenes of several sizes, each turned by another of the eight values of EXIF.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image

import hf_detr_panoptic
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.browser.export import export
from hf_detr_panoptic.browser.runtime import OnnxModel
from hf_detr_panoptic.demo.scenes import scene

TEACHER = Path(hf_detr_panoptic.__file__).parent / "demo" / "teacher"
SIZES = ((256, 192), (1024, 768), (400, 300), (97, 211), (640, 480))
ALLOWED = 0.001  # of the pixels of any photo


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(TEACHER))
    parser.add_argument("--folder", help="what `export` wrote of the model")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(("torch", "onnxruntime", "onnxscript")))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.folder or export(args.model, Path(scratch) / "onnx", precision="fp32").folder)
        model, exported = DetrForPanopticSegmentation.from_pretrained(args.model), OnnxModel.from_folder(folder)
        photos = []
        for index in range(args.photos):
            exif = Image.Exif()
            exif[0x0112] = index % 8 + 1
            photos.append(Path(scratch) / f"{index}.jpg")
            scene(11, index, SIZES[index % len(SIZES)]).photo.save(photos[-1], exif=exif, quality=95)
        shares, pixels, segments = [], 0, 0
        for photo in photos:
            (found,), (expected,) = exported.segment(photo), model.segment(photo)
            shares.append(float((found.ids != expected.ids).mean()))
            pixels += int((found.ids != expected.ids).sum())
            segments += len(expected.segments)
        print(
            f"{len(photos)} photos, {segments} segments: {pixels} pixels differ, at most {max(shares):.2e} of a photo"
        )
        sides = {"torch": lambda: model.segment(photos[0]), "onnxruntime": lambda: exported.segment(photos[0])}
        seconds = interleaved(sides, args.rounds)
        sizes = {path.name: path.stat().st_size / 1e6 for path in folder.rglob("*.onnx")}
        print_table(
            ["", "a photo, one thread", "against torch"],
            [
                ["torch", duration(seconds["torch"]), ""],
                ["onnxruntime", duration(seconds["onnxruntime"]), speedup(seconds["torch"], seconds["onnxruntime"])],
            ],
        )
        print(", ".join(f"{name} {size:.2f} MB" for name, size in sorted(sizes.items())))
    return 0 if max(shares) <= ALLOWED else 1


if __name__ == "__main__":
    raise SystemExit(main())
