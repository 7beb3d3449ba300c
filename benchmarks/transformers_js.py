"""transformers.js in Node on an exported folder: what it computes against our model, its maps, its time.

    npm install --prefix NODE @huggingface/transformers      (ONNXRUNTIME_NODE_INSTALL=skip: only the CPU is used)
    hf-detr-panoptic export hf_detr_panoptic/demo/teacher --out EXPORTED --precision fp32 --one-graph --no-page
    python benchmarks/transformers_js.py EXPORTED --modules NODE [--model MODEL] [--photos 10] [--rounds 5]

Its requests are refused: what it loads lies in the folder. For each photo, which are synthetic scenes:

- the pixels that it made go through our model in torch, and its logits, boxes and masks are compared with ours;
- its maps are compared with what its own post-processing makes of our logits, and with what stock's does;
- and with `segment`, which resizes with antialias, fuses stuff and leaves void.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image
from transformers import DetrImageProcessor

import hf_detr_panoptic
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.browser.runtime import OnnxModel
from hf_detr_panoptic.demo.scenes import scene

TEACHER = Path(hf_detr_panoptic.__file__).parent / "demo" / "teacher"
SIZES = ((256, 192), (192, 256), (256, 192), (1024, 768), (97, 211))  # the first three need no resize
LIMITS = {"threshold": 0.5, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}
ALLOWED = 1e-4  # of a range, and of the pixels of any map


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="what `export --one-graph` wrote")
    parser.add_argument("--modules", required=True, help="where node_modules lies")
    parser.add_argument("--model", default=str(TEACHER), help="what was exported: the demo's teacher without one")
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(("torch", "transformers", "onnxruntime")))
    model = DetrForPanopticSegmentation.from_pretrained(args.model)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for index in range(args.photos):
            scene(11, index, SIZES[index % len(SIZES)]).photo.save(scratch / f"{index:03}.png")
        (scratch / "settings.json").write_text(json.dumps(LIMITS))
        theirs = _node(args, scratch, str(args.rounds))
        shares = dict.fromkeys(("pixels", "logits", "boxes", "masks", "post", "stock", "segment"), 0.0)
        photos, stock_segments = {}, {}
        for photo, told in theirs.items():
            ours = _ours(model, scratch, photo, told, shares)
            stock = DetrImageProcessor().post_process_panoptic_segmentation(
                SimpleNamespace(logits=ours.logits, pred_masks=ours.pred_masks.clone()),
                label_ids_to_fuse=set(),
                target_sizes=[told["size"]],
                **LIMITS,
            )[0]
            found = _read(scratch / f"{photo}.ids", told["size"], np.int32)
            shares["stock"] = max(shares["stock"], _different(found, stock["segmentation"].numpy()))
            stock_segments[photo] = [model.config.id2label[each["label_id"]] for each in stock["segments_info"]]
            (mapped,) = model.segment(scratch / photo)
            classes = [model.config.label2id[label] + 1 for label, _ in told["segments"]]
            labels = np.array([0, *classes])[found]
            space = {
                each.id: model.config.label2id[model.label_space[each.label].name] + 1 for each in mapped.segments
            }
            wanted = np.vectorize(lambda number, space=space: space.get(number, 0))(mapped.ids)
            shares["segment"] += _different(labels, wanted) / len(theirs)
            photos[photo] = {
                "size": told["size"],
                "logits": list(ours.logits.shape),
                "masks": list(ours.pred_masks.shape),
            }
        (scratch / "settings.json").write_text(json.dumps({**LIMITS, "photos": photos}))
        again = _node(args, scratch)
        for photo, told in theirs.items():
            named = [label for label, _ in told["segments"]]
            assert named == [label for label, _ in again[photo]["segments"]] == stock_segments[photo], photo
            found, wanted = (_read(scratch / f"{photo}.{kind}", told["size"], np.int32) for kind in ("ids", "our_ids"))
            shares["post"] = max(shares["post"], _different(found, wanted))
        segments = sum(len(told["segments"]) for told in theirs.values())
        print(f"{len(theirs)} photos, {segments} segments, the same classes in the same order in each photo")
        print_table(
            ["the most that differs on any photo", "share"],
            [
                ["its pixels from ours, of the range, where no photo is resized", f"{shares['pixels']:.1e}"],
                *([f"{what} from our model's in torch, of the range", f"{shares[what]:.1e}"] for what in _OUTPUTS),
                ["maps: from its post-processing of our logits, of the pixels", f"{shares['post']:.1e}"],
                ["maps: from stock's post-processing of our logits, of the pixels", f"{shares['stock']:.1e}"],
                ["classes: from `segment`, of the pixels, on average", f"{shares['segment']:.1%}"],
            ],
        )
        _time(args, model, scratch, theirs)
    equal = all(shares[what] <= ALLOWED for what in ("pixels", *_OUTPUTS, "post", "stock"))
    return 0 if equal else 1


_OUTPUTS = {"logits": "logits", "boxes": "pred_boxes", "masks": "pred_masks"}


def _node(args: argparse.Namespace, scratch: Path, *rounds: str) -> dict[str, Any]:
    script = Path(__file__).with_suffix(".mjs")
    command = ["node", str(script), args.modules, args.folder, str(scratch), *rounds]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _ours(model: Any, scratch: Path, photo: str, told: dict[str, Any], shares: dict[str, float]) -> Any:
    """What our model in torch makes of the pixels that transformers.js made; shares: the most that differs."""
    pixels = torch.from_numpy(_read(scratch / f"{photo}.pixels", told["pixels"], np.float32))
    own = model.preprocess(Image.open(scratch / photo))
    if told["pixels"][2:] == told["size"] == list(own.shape[1:]):
        shares["pixels"] = max(shares["pixels"], _of_range(pixels[0], own))
    with torch.no_grad():
        ours = model(pixels)
    for what, output in _OUTPUTS.items():
        wanted = getattr(ours, output)
        found = torch.from_numpy(_read(scratch / f"{photo}.{output}", wanted.shape, np.float32))
        shares[what] = max(shares[what], _of_range(found, wanted))
    for name, output in (("logits", "logits"), ("masks", "pred_masks")):
        getattr(ours, output).numpy().tofile(scratch / f"{photo}.our_{name}")
    return ours


def _time(args: argparse.Namespace, model: Any, scratch: Path, theirs: dict[str, Any]) -> None:
    """Of the first photo; transformers.js' rounds were in its own process, before ours."""
    first = next(iter(theirs))
    exported = OnnxModel.from_folder(args.folder)
    sides = {
        "`segment` in torch": lambda: model.segment(scratch / first),
        "`segment` in onnxruntime": lambda: exported.segment(scratch / first),
    }
    seconds = {"transformers.js": theirs[first]["seconds"], **interleaved(sides, args.rounds)}
    base = seconds["`segment` in torch"]
    size = "×".join(map(str, reversed(theirs[first]["size"])))
    rows = [[name, duration(each), speedup(base, each)] for name, each in seconds.items()]
    print_table([f"a photo of {size}, one thread", "time", "faster than torch"], rows)


def _read(path: Path, shape: Any, kind: Any) -> Any:
    return np.fromfile(path, kind).reshape(shape)


def _of_range(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / (wanted.max() - wanted.min()))


def _different(found: Any, wanted: Any) -> float:
    return float((found != wanted).mean())


if __name__ == "__main__":
    raise SystemExit(main())
