"""A photo and its map as one picture at 640×480: where the time goes, against fill and contours segment by segment.

    python benchmarks/draw.py

Drawing begins with a decoded photo and a map. "words kept" is what a run over many photos pays: each class's name is
drawn once. "words drawn" forgets them before each round. The other side is the plain way with one mask a segment:
blend its colour, and outline it by comparing the mask with its neighbours; no labels, no legend.
"""

from __future__ import annotations

import argparse

import numpy as np
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, draw
from hf_detr_panoptic.pictures import draw as legend
from hf_detr_panoptic.pictures import draw as text
from hf_detr_panoptic.pictures.draw import class_color

SPACE = LabelSpace(Category(f"building part {n}", isthing=n % 3 > 0) for n in range(20))


def scene(count: int, height: int, width: int, seed: int = 0) -> tuple[Image.Image, PanopticMap]:
    """A photo of noise, and `count` discs of three sources over each other, void between."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ids = np.zeros((height, width), dtype=np.int32)
    numbers = rng.choice(np.arange(1, 2**24), count, replace=False)
    for number, radius in zip(numbers, np.linspace(0.3, 0.03, count) * height, strict=True):
        ids[np.hypot(y - rng.integers(height), x - rng.integers(width)) < radius] = number
    sources = ("custom", "auto", "model")
    left = np.unique(ids[ids > 0]).tolist()
    segments = [Segment(n, place % 20, source=sources[place % 3]) for place, n in enumerate(left)]
    photo = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return photo, PanopticMap(ids, segments, SPACE)


def one_by_one(photo: Image.Image, map: PanopticMap) -> np.ndarray:
    pixels = np.asarray(photo).astype(np.float32)
    for segment in map.segments:
        mask = map.mask(segment.id)
        pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(class_color(map.space, segment.label))
        rim = np.zeros_like(mask)
        rim[:-1] |= mask[:-1] != mask[1:]
        rim[:, :-1] |= mask[:, :-1] != mask[:, 1:]
        pixels[rim & mask] = 20
    return pixels.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(machine(("numpy", "scipy", "pillow")))
    print(f"{rounds} interleaved rounds; median (quartiles)")
    rows = []
    for count, width, height in ((10, 640, 480), (50, 640, 480), (200, 640, 480), (50, 4000, 3000)):
        photo, map = scene(count, height, width)

        def forgetful(photo: Image.Image = photo, map: PanopticMap = map) -> None:
            text.words.cache_clear()
            legend.swatch.cache_clear()
            draw(photo, map)

        sides = {
            "kept": lambda photo=photo, map=map: draw(photo, map),
            "bare": lambda photo=photo, map=map: draw(photo, map, labels=False, legend=False),
            "one by one": lambda photo=photo, map=map: one_by_one(photo, map),
            "drawn": forgetful,
        }
        seconds = interleaved(sides, rounds if width < 1000 else max(3, rounds // 5))
        figures = [duration(seconds[side]) for side in ("kept", "drawn", "bare", "one by one")]
        rows.append(
            [f"{width}×{height}", len(map.segments), *figures, speedup(seconds["one by one"], seconds["kept"])]
        )
    header = ["photo", "segments", "words kept", "words drawn", "fill and contours", "one by one", "times faster"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
