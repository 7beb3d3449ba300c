"""Id maps as PNG: what each filter, level and strategy of zlib costs in time and in bytes.

    OMP_NUM_THREADS=1 python benchmarks/png.py                     # synthetic maps of 1333×800
    OMP_NUM_THREADS=1 python benchmarks/png.py FOLDER [FOLDER …]   # real ones: every PNG in there, or --most of them

"Ours" is `encode_ids`: the filter "up", level 1, run lengths. "Pillow" is `Image.save`, which tries five filters on
every row. Each is read back with Pillow, and must be the same map. Time is the processor's, on one core.
"""

from __future__ import annotations

import argparse
import io
import statistics
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from data import clocked
from measure import interleaved, machine, print_table
from panoptic_map import blobs
from PIL import Image

from hf_detr_panoptic.dataset.writer import decode_ids, encode_ids

STRATEGIES = {"default": zlib.Z_DEFAULT_STRATEGY, "filtered": zlib.Z_FILTERED, "run lengths": zlib.Z_RLE}
FILTERS = {"none": 0, "sub": 1, "up": 2}
TRIED = [
    ("none", 1, "default"),
    ("sub", 1, "run lengths"),
    ("up", 1, "run lengths"),
    ("up", 1, "default"),
    ("up", 3, "default"),
    ("up", 6, "default"),
    ("up", 9, "default"),
    ("up", 6, "filtered"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--most", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(machine(("numpy", "pillow")))
    folders = {str(folder.name): sorted(folder.rglob("*.png")) for folder in given.folders}
    for name, files in folders.items():
        every = max(1, len(files) // given.most)
        measure(
            name, [decode_ids(Image.open(file).convert("RGB")) for file in files[::every][: given.most]], given.rounds
        )
    if not folders:
        for name, fray in (("smooth borders", 0.0), ("frayed borders", 8.0)):
            measure(name, [blobs(fray, seed) for seed in range(2)], given.rounds)


def measure(name: str, maps: list[np.ndarray], rounds: int) -> None:
    ways: dict[str, Callable[[np.ndarray], bytes]] = {"ours": encode_ids}
    for kind, level, strategy in TRIED:
        ways[f"{kind}, level {level}, {strategy}"] = partial(encoded, kind=kind, level=level, strategy=strategy)
    for level in (1, 3, 6):
        ways[f"Pillow, level {level}"] = partial(by_pillow, level=level)
    sizes = {}
    for way, encode in ways.items():
        files = [encode(ids) for ids in maps]
        assert all(np.array_equal(decode_ids(file), ids) for file, ids in zip(files, maps, strict=True)), way
        sizes[way] = sum(map(len, files)) / len(files)
    busy: dict[str, list[float]] = {way: [] for way in ways}
    sides = {way: clocked(partial(every, encode, maps), busy[way]) for way, encode in ways.items()}
    interleaved(sides, rounds, warm_up=0)
    times = {way: statistics.median(values) / len(maps) for way, values in busy.items()}
    print(f"\n{name}: {len(maps)} maps, {np.mean([ids.size for ids in maps]) / 1e6:.2f} megapixels\n")
    print_table(
        ["way", "a map", "time, of ours", "bytes", "size, of ours"],
        [
            [way, f"{1e3 * times[way]:.2f} ms", f"{times[way] / times['ours']:.2f}×", f"{sizes[way]:,.0f}",
             f"{sizes[way] / sizes['ours']:.2f}×"]
            for way in ways
        ],
    )  # fmt: skip


def every(encode: Callable[[np.ndarray], bytes], maps: list[np.ndarray]) -> None:
    for ids in maps:
        encode(ids)


def encoded(ids: np.ndarray, kind: str, level: int, strategy: str) -> bytes:
    """As `encode_ids`, with another filter, level and strategy."""
    height, width = ids.shape
    planes = np.stack([(ids >> 8 * channel).astype(np.uint8) for channel in range(3)], -1)
    if kind == "up":
        planes[1:] -= planes[:-1].copy()
    elif kind == "sub":
        planes[:, 1:] -= planes[:, :-1].copy()
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = FILTERS[kind]
    rows[:, 1:] = planes.reshape(height, -1)
    packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, STRATEGIES[strategy])
    pixels = packer.compress(rows.data) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def by_pillow(ids: np.ndarray, level: int) -> bytes:
    stream = io.BytesIO()
    planes = np.stack([(ids >> 8 * channel).astype(np.uint8) for channel in range(3)], -1)
    Image.fromarray(planes).save(stream, "PNG", compress_level=level)
    return stream.getvalue()


if __name__ == "__main__":
    main()
