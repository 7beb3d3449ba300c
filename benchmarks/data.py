"""Datasets on disk at 800 px, on one core: photos a second through overlay and writing, and what takes the time.

    OMP_NUM_THREADS=1 python benchmarks/data.py

The photos are synthetic, 1067×800 with twelve auto segments, bent borders and two marks each; every round writes all
of them, JPEGs copied, to a new folder. Also: our PNG against Pillow's, at each of its compression levels; `check`;
near copies among 10,000. The labeler and the memory of `prepare` are in benchmarks/labeling.py.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.annotations.marks import Mark
from hf_detr_panoptic.dataset.check import check_dataset
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.copies import Fingerprint, fingerprint, near_pairs, nearest_across
from hf_detr_panoptic.dataset.writer import DatasetWriter, encode_ids, encode_map
from hf_detr_panoptic.labeling.overlay import overlay
from hf_detr_panoptic.panoptic_map import ids_to_rgb

HEIGHT, WIDTH, SEGMENTS, PHOTOS = 800, 1067, 12, 8
COCO = LabelSpace.coco()
SPACE = LabelSpace([Category("pipe", True), Category("crack", True), *COCO])


def blobs(count: int, rng: np.random.Generator) -> np.ndarray:
    """int32 [H, W]: `count` blobs with bent borders over a ground of id 1, the small in front of the large."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bend = np.zeros((HEIGHT, WIDTH), dtype=np.float32)
    for length in (200, 80, 30, 10):
        for fy, fx, phase in rng.normal(0.0, 1.0, (3, 3)):
            bend += length * 0.1 * np.sin(6.28 * (y * fy + x * fx) / length + 6.28 * phase)
    ids = np.ones((HEIGHT, WIDTH), dtype=np.int32)
    radii = np.sort(rng.lognormal(4.6, 0.5, count - 1))[::-1]
    for place, radius in enumerate(radii, start=2):
        centre_y, centre_x = rng.uniform((0, 0), (HEIGHT, WIDTH))
        ids[np.hypot(y - centre_y, x - centre_x) + np.clip(bend, -0.5 * radius, 0.5 * radius) < radius] = place
    return ids


def make(folder: Path, place: int) -> tuple[Path, PanopticMap, list[Mark]]:
    """A photo in the colours of its segments, the labeler's map, and two marks."""
    rng = np.random.default_rng(place)
    ids = blobs(SEGMENTS, rng)
    found = [int(value) for value in np.unique(ids)]
    labels = rng.choice(len(COCO), len(found), replace=False)
    auto = PanopticMap(
        ids, [Segment(i, int(n), score=0.9, source="auto") for i, n in zip(found, labels, strict=True)], COCO
    )
    shapes = blobs(3, rng)
    outlines = PanopticMap(shapes, [Segment(int(value), 0) for value in np.unique(shapes)], COCO)
    rles, boxes = outlines.rles(), outlines.boxes()
    marks = [
        Mark(name, rles[i], boxes[i], False, f"bench, annotation {i}")
        for i, name in ((2, "pipe"), (3, "crack"))
        if i in rles
    ]
    colours = rng.integers(40, 216, (SEGMENTS + 1, 3))
    pixels = colours[ids] + rng.normal(0, 12, (HEIGHT, WIDTH, 3))
    path = folder / f"{place}.jpg"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path, auto, marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(machine(("numpy", "pillow")))
    print(f"{PHOTOS} photos of {WIDTH}×{HEIGHT}, {rounds} interleaved rounds; median (quartiles)\n")
    with tempfile.TemporaryDirectory() as folder:
        items = [make(Path(folder), place) for place in range(PHOTOS)]
        road(items, Path(folder), rounds)
        pngs([auto.ids for _, auto, _ in items], rounds)
        with DatasetWriter(Path(folder) / "set", SPACE) as writer:
            for path, auto, marks in items:
                writer.add("train", path.name, path, overlay(auto, marks, SPACE).map)
        reading(Path(folder) / "set", [path for path, _, _ in items], rounds)
    copies(rounds)


def road(items: list[tuple[Path, PanopticMap, list[Mark]]], folder: Path, rounds: int) -> None:
    """overlay + write, whole and piece by piece. Each piece starts from fresh maps: nothing is remembered."""
    merged = [overlay(auto, marks, SPACE).map for _, auto, marks in items]
    encoded = [encode_map(map) for map in merged]

    def fresh(map: PanopticMap) -> PanopticMap:
        return PanopticMap(map.ids, map.segments, map.space)

    def write(maps: Callable[[], list]) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as new, DatasetWriter(new, SPACE) as writer:
                for (path, _, _), map in zip(items, maps(), strict=True):
                    writer.add("train", path.name, path, map)

        return run

    sides = {
        "overlay + write": write(lambda: [overlay(fresh(auto), marks, SPACE).map for _, auto, marks in items]),
        "overlay alone": lambda: [overlay(fresh(auto), marks, SPACE) for _, auto, marks in items],
        "write alone": write(lambda: [fresh(map) for map in merged]),
        "  areas and boxes": lambda: [(m.areas(), m.boxes()) for m in map(fresh, merged)],
        "  run-length encoding": lambda: [map.rles() for map in merged],
        "  PNG": lambda: [encode_ids(map.ids) for map in merged],
        "  files and JSON": write(lambda: encoded),
    }
    busy: dict[str, list[float]] = {name: [] for name in sides}
    seconds = interleaved({name: clocked(run, busy[name]) for name, run in sides.items()}, rounds, warm_up=0)
    whole = statistics.median(busy["overlay + write"])
    print_table(
        ["on one core", "a photo, by the clock", "processor time", "photos a second of it", "share"],
        [
            [
                name,
                duration([value / PHOTOS for value in values]),
                duration([value / PHOTOS for value in busy[name]]),
                f"{PHOTOS / statistics.median(busy[name]):.0f}",
                f"{statistics.median(busy[name]) / whole:.0%}",
            ]
            for name, values in seconds.items()
        ],
    )
    print()


def clocked(run: Callable[[], object], busy: list[float]) -> Callable[[], None]:
    """The same, noting processor time: what a core can do, also where the machine is shared."""

    def timed() -> None:
        begin = time.process_time()
        run()
        busy.append(time.process_time() - begin)

    return timed


def pngs(maps: list[np.ndarray], rounds: int) -> None:
    def pillow(**options: int) -> list[int]:
        sizes = []
        for ids in maps:
            stream = io.BytesIO()
            Image.fromarray(ids_to_rgb(ids)).save(stream, "PNG", **options)
            sizes.append(stream.tell())
        return sizes

    sides: dict[str, Callable[[], list[int]]] = {"ours": lambda: [len(encode_ids(ids)) for ids in maps]}
    for level in (1, 2, 3, 6):
        sides[f"Pillow, compress_level {level}"] = lambda level=level: pillow(compress_level=level)
    sides["Pillow, level 1, run lengths"] = lambda: pillow(compress_level=1, compress_type=3)
    seconds = interleaved(sides, rounds)
    print_table(
        ["id map to PNG", "a map", "kB", "ours is faster"],
        [
            [
                name,
                duration([value / len(maps) for value in values]),
                f"{np.mean(sides[name]()) / 1000:.1f}",
                speedup(values, seconds["ours"]),
            ]
            for name, values in seconds.items()
        ],
    )
    print()


def reading(dataset: Path, photos: list[Path], rounds: int) -> None:
    split = read_split(dataset)
    sides = {
        "PNG to PanopticMap": lambda: [record.map() for record in split],
        "fingerprint of a photo": lambda: [fingerprint(path) for path in photos],
        "check, one thread": lambda: check_dataset(dataset, workers=1),
    }
    seconds = interleaved(sides, rounds)
    rows = [[name, duration([value / len(photos) for value in values])] for name, values in seconds.items()]
    print_table(["reading", "a photo"], rows)
    print()


def copies(rounds: int) -> None:
    rng = np.random.default_rng(0)
    distinct = [Fingerprint(str(place), rng.bytes(32), rng.bytes(32), rng.bytes(320)) for place in range(10_000)]
    one_camera = [Fingerprint(str(place), b"\1" * 32, b"\2" * 32, b"\3" * 320) for place in range(10_000)]
    sides = ["train"] * 8_000 + ["val"] * 2_000
    seconds = interleaved(
        {
            "groups of near copies, all different": lambda: list(near_pairs(distinct, links=True)),
            "groups of near copies, a fixed camera": lambda: list(near_pairs(one_camera, links=True)),
            "nearest on the other side, all different": lambda: list(nearest_across(distinct, sides)),
            "nearest on the other side, a fixed camera": lambda: list(nearest_across(one_camera, sides)),
        },
        min(rounds, 3),
    )
    print_table(["10,000 photos", "time"], [[name, duration(values)] for name, values in seconds.items()])


if __name__ == "__main__":
    main()
