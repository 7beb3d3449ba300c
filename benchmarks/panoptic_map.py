"""Areas and boxes of 50 segments at 800×1333: PanopticMap against a mask a segment with stock masks_to_boxes.

    python benchmarks/panoptic_map.py

Both sides start from the same int32 id map and end with every segment's area and box. Ours includes making and
validating the PanopticMap, afresh in each round. Stock is transformers' own `masks_to_boxes` on
`ids == each[:, None, None]`. Our time grows with the length of the borders: hence a second picture with frayed ones.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from measure import duration, interleaved, machine, print_table, speedup
from transformers.models.detr.image_processing_detr import masks_to_boxes

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment

HEIGHT, WIDTH, COUNT = 800, 1333, 50


def blobs(fray: float = 0.0, seed: int = 0) -> np.ndarray:
    """int32 [H, W]: 50 blobs with bent borders, the small in front of the large, void between; random ids below 2²⁴.

    `fray` scatters the borders over that many pixels, as an undecided mask head does.
    """
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(1, 2**24), size=COUNT, replace=False)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bend = rng.normal(0.0, 1.0, (HEIGHT, WIDTH)) * fray
    for length in (200, 80, 30, 10):
        for fy, fx, phase in rng.normal(0.0, 1.0, (3, 3)):
            bend += length * 0.1 * np.sin(6.28 * (y * fy + x * fx) / length + 6.28 * phase)
    canvas = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    radii = np.sort(rng.lognormal(4.2, 0.7, COUNT))[::-1]
    centres = rng.uniform((0, 0), (HEIGHT, WIDTH), (COUNT, 2))
    for segment_id, radius, (cy, cx) in zip(ids, radii, centres, strict=True):
        canvas[np.hypot(y - cy, x - cx) + np.clip(bend, -0.5 * radius, 0.5 * radius) < radius] = segment_id
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(machine())
    print(f"{COUNT} segments, {WIDTH}×{HEIGHT}, {rounds} interleaved rounds; median (quartiles)")
    rows = []
    own_threads = torch.get_num_threads()
    for name, fray in (("smooth borders", 0.0), ("frayed borders", 8.0)):
        canvas = blobs(fray)
        changes = f"{1 + (np.diff(canvas) != 0).sum() / HEIGHT:.0f} runs a row"
        for threads in sorted({1, own_threads}):
            torch.set_num_threads(threads)
            rows.append([name, changes, threads, *compare(canvas, rounds)])
    print_table(["picture", "detail", "torch threads", "stock", "ours", "times faster"], rows)


def compare(canvas: np.ndarray, rounds: int) -> list[object]:
    """Time of stock, time of ours, ratio; after checking that both say the same."""
    listed = [int(value) for value in np.unique(canvas) if value]
    assert len(listed) == COUNT
    space = LabelSpace([Category("pipe", isthing=True)])
    segments = [Segment(id=value, label=0) for value in listed]
    ids, wanted = torch.from_numpy(canvas), torch.tensor(listed)

    def ours() -> tuple[dict, dict]:
        panoptic_map = PanopticMap(canvas, segments, space)
        return panoptic_map.areas(), panoptic_map.boxes()

    def stock() -> tuple[torch.Tensor, torch.Tensor]:
        masks = ids == wanted[:, None, None]
        return masks.flatten(1).sum(1), masks_to_boxes(masks)

    areas, boxes = ours()
    stock_areas, stock_boxes = stock()
    assert list(areas.values()) == stock_areas.tolist()
    corners = [
        [x, y, x + w - 1, y + h - 1] for x, y, w, h in boxes.values()
    ]  # stock leaves out the last row and column
    assert corners == stock_boxes.tolist()
    seconds = interleaved({"stock": stock, "ours": ours}, rounds)
    return [duration(seconds["stock"]), duration(seconds["ours"]), speedup(seconds["stock"], seconds["ours"])]


if __name__ == "__main__":
    main()
