"""The loader at 800 px: photos a second with two workers, and what takes the time.

    OMP_NUM_THREADS=1 python benchmarks/loader.py

Photos of 1067×800 with twelve segments, on disk as `prepare` writes them; DETR's augmentation (short side 480 to 800)
with colours, batches of 2. First one core, piece by piece; then the loader with 0, 1 and 2 workers, from a folder and
from Parquet, over whole epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from data import PHOTOS, SPACE, clocked, make
from measure import duration, interleaved, machine, print_table, speedup
from torch.utils.data import DataLoader

from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.batches import EpochSampler, PanopticDataset, Row, collate
from hf_detr_panoptic.dataset.coco_panoptic import PanopticSplit, read_ids, read_split
from hf_detr_panoptic.dataset.rows import rows_of, write_parquet
from hf_detr_panoptic.dataset.transforms import Draw, make_labels, rng_of
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.preprocess import Preprocess, as_pixels
from hf_detr_panoptic.settings import Augmentation

TIMES = 4  # an epoch sees each photo so often
AUGMENTATION = Augmentation().for_size()
PREPROCESS = Preprocess()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(machine(("torch", "torchvision", "pillow", "datasets")))
    print(f"{PHOTOS} photos, {rounds} interleaved rounds; median (quartiles)\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with DatasetWriter(root / "set", SPACE) as writer:
            for place in range(PHOTOS):
                path, auto, _ = make(root, place)
                writer.add("train", path.name, path, auto.relabelled(SPACE))
        rows = read_split(root / "set")
        pieces(rows, rounds)
        loaded = load_panoptic(root / "set")
        write_parquet(loaded, root / "parquet")
        stored = load_panoptic(root / "parquet")
        loaders(rows, rows_of(stored["train"], stored.label_space), rounds)


def pieces(rows: PanopticSplit, rounds: int) -> None:
    """Each piece from what the piece before it made."""
    dataset = PanopticDataset(rows, PREPROCESS, AUGMENTATION)
    records = list(rows)
    draws = [Draw.of(AUGMENTATION, 800, 1067, PREPROCESS, rng_of(0, 0, record.image_id)) for record in records]
    plain = [Draw(draw.window, draw.size, draw.flip) for draw in draws]
    pixels = [as_pixels(open_image(record.photo)) for record in records]
    ids = [read_ids(record.png) for record in records]
    moved = [draw.ids(one) for draw, one in zip(draws, ids, strict=True)]
    items = [dataset[0, place] for place in range(len(rows))]
    batches = [collate(items[place : place + 2]) for place in range(0, len(items), 2)]
    shared = [
        [batch["pixel_values"], batch["pixel_mask"], *(x["panoptic"] for x in batch["labels"])] for batch in batches
    ]

    def over(*columns: list, do: Callable[..., object]) -> Callable[[], None]:
        def run() -> None:
            for values in zip(*columns, strict=True):
                do(*values)

        return run

    sides: dict[str, Callable[[], None]] = {
        "an item": over(range(len(rows)), do=lambda place: dataset[0, place]),
        "  decode the photo": over(records, do=lambda record: as_pixels(open_image(record.photo))),
        "  decode the id map": over(records, do=lambda record: read_ids(record.png)),
        "  check it against its list": over(ids, records, do=lambda one, r: PanopticMap(one, r.segments, SPACE)),
        "  crop, resize, normalise": over(plain, pixels, do=lambda draw, photo: draw.photo(photo, PREPROCESS)),
        "  the same with colours": over(draws, pixels, do=lambda draw, photo: draw.photo(photo, PREPROCESS)),
        "  crop, resize ids": over(draws, ids, do=lambda draw, one: draw.ids(one)),
        "  boxes and labels": over(moved, records, do=lambda one, r: make_labels(one, r.segments, image_id=1)),
        "collate by two": over([items[place : place + 2] for place in range(0, len(items), 2)], do=collate),
        "into shared memory": over(
            shared, do=lambda *tensors: [tensor.clone().share_memory_() for tensor in tensors[0]]
        ),
    }
    busy: dict[str, list[float]] = {name: [] for name in sides}
    seconds = interleaved({name: clocked(run, busy[name]) for name, run in sides.items()}, rounds)
    medians = {name: statistics.median(values[1:]) for name, values in busy.items()}  # without the warm-up
    whole = medians["an item"] + medians["collate by two"] + medians["into shared memory"]
    count = len(rows)
    print_table(
        ["on one core", "a photo, by the clock", "processor time", "share"],
        [
            [
                name,
                duration([value / count for value in seconds[name]]),
                f"{1000 * medians[name] / count:.2f} ms",
                f"{medians[name] / whole:.0%}",
            ]
            for name in sides
        ],
    )
    print(f"\nA core, were it alone: {count / whole:.0f} photos a second.\n")


def loaders(folder: Sequence[Row], parquet: Sequence[Row], rounds: int) -> None:
    def epoch(rows: Sequence[Row], workers: int) -> Callable[[], None]:
        dataset = PanopticDataset(rows, PREPROCESS, AUGMENTATION)
        sampler = EpochSampler(len(rows), seed=0)
        loader = DataLoader(
            dataset,
            batch_sampler=Repeated(sampler),
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

        def run() -> None:
            for _ in loader:
                pass

        return run

    sides = {"folder, 0 workers": epoch(folder, 0), "folder, 1 worker": epoch(folder, 1)}
    sides |= {"folder, 2 workers": epoch(folder, 2), "Parquet, 2 workers": epoch(parquet, 2)}
    seconds = interleaved(sides, rounds)
    count = PHOTOS * TIMES
    print_table(
        ["an epoch", "a photo", "photos a second", "faster than 0 workers"],
        [
            [
                name,
                duration([value / count for value in values]),
                f"{count / statistics.median(values):.0f}",
                speedup(seconds["folder, 0 workers"], values),
            ]
            for name, values in seconds.items()
        ],
    )


class Repeated:
    """Batches of two over a few epochs: one is too short beside the start of an iteration."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return TIMES * len(self.sampler) // 2

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(TIMES):
            self.sampler.set_epoch(epoch)
            pairs = list(self.sampler)
            yield from (pairs[place : place + 2] for place in range(0, len(pairs), 2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
