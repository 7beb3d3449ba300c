"""Panoptic quality of one image: beside decoding its two PNG files, and beside torchmetrics' update.

    python benchmarks/quality.py
    python benchmarks/quality.py --pngs path/to/coco/panoptic_val2017

From files, ours reads, decodes and counts both sides; the other side reads the same files with Pillow into arrays and
does nothing else. On decoded maps torchmetrics gets its tensors and ours its PanopticMaps, both made beforehand; a
second row lets ours make and validate the maps too. torchmetrics measures something else (it forgives void of the
prediction and knows no crowd) and is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image

from hf_detr_panoptic import LabelSpace, PanopticMap, PanopticQuality, Segment
from hf_detr_panoptic.evaluation.metric.annotations import count_pair
from hf_detr_panoptic.panoptic_map import ids_to_rgb, rgb_to_ids

HEIGHT, WIDTH, COUNT = 480, 640, 20
SPACE = LabelSpace.coco()


def scene(fray: float, seed: int = 0) -> np.ndarray:
    """int32 [H, W]: 20 blobs over a background of four bands; `fray` scatters the borders over that many pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bend = sum(9 * np.sin(x / width + y / height) for width, height in ((31, 47), (13, -71), (-7, 11)))
    bend = bend + fray * np.random.default_rng(seed + 1).normal(size=bend.shape)
    ids = rng.choice(np.arange(1, 2**24), size=COUNT + 4, replace=False).astype(np.int32)
    canvas = ids[np.clip((y + bend) * 4 / HEIGHT, 0, 3).astype(int)]
    for segment_id, radius in zip(ids[4:], np.sort(rng.lognormal(3.8, 0.6, COUNT))[::-1], strict=True):
        cy, cx = rng.uniform((0, 0), (HEIGHT, WIDTH))
        canvas[np.hypot(y - cy, x - cx) + np.clip(bend, -radius / 2, radius / 2) < radius] = segment_id
    return canvas


def panoptic(ids: np.ndarray) -> PanopticMap:
    present = [segment_id for segment_id in np.unique(ids).tolist() if segment_id]
    return PanopticMap(ids, [Segment(segment_id, segment_id % len(SPACE)) for segment_id in present], SPACE)


def moved(ids: np.ndarray) -> np.ndarray:
    """A prediction: the truth three pixels off, a corner left void."""
    guess = np.roll(ids, (2, 3), axis=(0, 1))
    guess[:40, :60] = 0
    return guess


def torchmetrics_update(prediction: PanopticMap, truth: PanopticMap) -> Callable[[], object] | None:
    try:
        from torchmetrics.detection import PanopticQuality as TheirQuality
    except ImportError:
        return None
    theirs = TheirQuality(SPACE.thing_labels, SPACE.stuff_labels | {len(SPACE)})
    sides = []
    for side in (prediction, truth):
        table = np.full(int(side.ids.max()) + 1, len(SPACE))
        for segment in side.segments:
            table[segment.id] = segment.label
        sides.append(torch.from_numpy(np.stack([table[side.ids], side.ids], axis=-1))[None])
    return lambda: theirs.update(*sides)


def compare(name: str, truth_ids: np.ndarray, rounds: int) -> list[list[object]]:
    truth, prediction = panoptic(truth_ids), panoptic(moved(truth_ids))
    info = [
        [{"id": s.id, "category_id": s.label, "iscrowd": 0, "area": side.areas()[s.id]} for s in side.segments]
        for side in (truth, prediction)
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, "truth.png"), Path(folder, "prediction.png")]
        for file, side in zip(files, (truth, prediction), strict=True):
            Image.fromarray(ids_to_rgb(side.ids)).save(file)
        quality = PanopticQuality(SPACE)

        def decode() -> None:
            for file in files:
                np.asarray(Image.open(file))

        def from_files() -> None:
            pngs = [file.read_bytes() for file in files]
            quality.add(count_pair(pngs[0], info[0], pngs[1], info[1], range(len(SPACE))))

        seconds = interleaved({"decode": decode, "ours": from_files}, rounds=5 * rounds, warm_up=3)
    cost = speedup(seconds["ours"], seconds["decode"])
    rows: list[list[object]] = [
        [name, "from PNG files", f"decoding {duration(seconds['decode'])}", duration(seconds["ours"]), f"costs {cost}"]
    ]
    update = torchmetrics_update(prediction, truth)
    if update is None:
        return rows
    sides: dict[str, Callable[[], object]] = {
        "theirs": update,
        "ours": lambda: PanopticQuality(SPACE).update(prediction, truth),
        "with maps": lambda: PanopticQuality(SPACE).update(
            *(PanopticMap(side.ids.copy(), side.segments, SPACE) for side in (prediction, truth))
        ),
    }
    seconds = interleaved(sides, rounds)
    for what, key in (("decoded maps", "ours"), ("id arrays", "with maps")):
        ratio = speedup(seconds["theirs"], seconds[key])
        torchmetrics = f"torchmetrics {duration(seconds['theirs'])}"
        rows.append([name, what, torchmetrics, duration(seconds[key]), f"{ratio} faster"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pngs", type=Path, help="a folder of id PNGs to use besides the made-up scenes")
    parser.add_argument("--limit", type=int, default=4, help="how many of them (%(default)s)")
    options = parser.parse_args()
    print(machine())
    print(f"median (quartiles) of {options.rounds} interleaved rounds, {5 * options.rounds} from files")
    pictures = {"smooth borders": scene(0.0), "frayed borders": scene(3.0)}
    for file in sorted(options.pngs.rglob("*.png"))[: options.limit] if options.pngs else []:
        pictures[file.name] = rgb_to_ids(np.asarray(Image.open(file).convert("RGB")))
    rows = []
    for name, ids in pictures.items():
        height, width = ids.shape
        segments = len(np.unique(ids))
        runs = 1 + (np.diff(ids) != 0).sum() / height
        rows += compare(f"{name}, {width}×{height}, {segments} ids, {runs:.0f} runs a row", ids, options.rounds)
    print_table(["picture", "from", "other", "ours", "ratio"], rows)
    if len(rows) == len(pictures):
        print("torchmetrics is not installed: its rows are left out.")


if __name__ == "__main__":
    main()
