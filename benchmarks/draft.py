"""`augmentation.draft`: what a training item of a large JPEG costs with it and without, and how its pixels differ.

    OMP_NUM_THREADS=1 python benchmarks/draft.py

Cost: photos of 4032×3024, as a phone takes them, with twelve segments, and of 1067×800, seen at DETR's 480 to 800 with
its augmentation; the processor's time on one core. Pixels: the same items with the same draws, in bytes. PQ: the
shipped teacher on synthetic scenes of known truth, enlarged four times and stored as JPEG, decoded whole and at a
quarter. That says how alike the pixels are to a model; whether one that is trained on them is worse was not measured.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data import SPACE, clocked, make
from measure import interleaved, machine, print_table, speedup
from PIL import Image

from hf_detr_panoptic.dataset.batches import PanopticDataset
from hf_detr_panoptic.dataset.coco_panoptic import PanopticSplit, read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.evaluation.quality import PanopticQuality
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Augmentation

HELD_OUT = 1_000_000
ENLARGED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=60)
    given = parser.parse_args()
    print(machine(("torch", "torchvision", "pillow")))
    with tempfile.TemporaryDirectory() as folder:
        for size in ((4032, 3024), (1067, 800)):
            cost(Path(folder) / str(size[0]), size, given.photos, given.rounds)
    quality(given.scenes)


def photos(root: Path, size: tuple[int, int], count: int) -> PanopticSplit:
    """As the other benchmark of loading has them, and larger."""
    root.mkdir()
    with DatasetWriter(root / "set", SPACE) as writer:
        for place in range(count):
            path, auto, _ = make(root, place)
            Image.open(path).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
            auto = auto.relabelled(SPACE)
            rows, columns = (np.arange(new) * old // new for new, old in zip(size[::-1], auto.ids.shape, strict=True))
            writer.add("train", path.name, path, PanopticMap(auto.ids[rows][:, columns], auto.segments, SPACE))
    return read_split(root / "set")


def cost(root: Path, size: tuple[int, int], count: int, rounds: int) -> None:
    rows = photos(root, size, count)
    whole, draft = (PanopticDataset(rows, Preprocess(), Augmentation(draft=on)) for on in (False, True))

    def items(dataset: PanopticDataset) -> Callable[[], None]:
        def run() -> None:
            for place in range(count):
                dataset[place % 3, place]

        return run

    busy: dict[str, list[float]] = {"whole": [], "draft": []}
    interleaved(
        {name: clocked(items(each), busy[name]) for name, each in (("whole", whole), ("draft", draft))}, rounds
    )
    away, reductions = [], []
    for place in range(count):
        key = place % 3, place
        std = 255 * np.array(Preprocess().std)[:, None, None]
        away.append(np.abs((whole[key]["pixel_values"] - draft[key]["pixel_values"]).numpy() * std))
        panoptic = rows[place].map()
        reductions.append(draft._drawn(panoptic, rows[place].image_id, place % 3).reduction)
    print(f"\n{count} photos of {size[0]}×{size[1]}, decoded {', '.join(map(str, reductions))} times smaller\n")
    print_table(
        ["an item", "core-milliseconds", "faster than whole"],
        [
            [
                name,
                f"{1e3 * statistics.median(values[1:]) / count:.0f} ms",
                str(speedup(busy["whole"][1:], values[1:])),
            ]
            for name, values in busy.items()
        ],
    )
    mean, most = np.mean([one.mean() for one in away]), np.max([np.percentile(one, 99) for one in away])
    print(f"\nPixels differ by {mean:.2f} of 255 on average; 99 of 100 values by less than {most:.1f}.")


def quality(count: int) -> None:
    model = DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval()
    made = [scene(HELD_OUT, HELD_OUT + index, custom=False) for index in range(count)]
    files = []
    for one in made:
        stream = io.BytesIO()
        larger = one.photo.resize(tuple(ENLARGED * side for side in one.photo.size), Image.Resampling.BICUBIC)
        larger.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    rows = []
    maps = {}
    for name, times in (("whole", 1), ("draft", ENLARGED)):
        maps[name] = model.segment([open_image(file, draft=times) for file in files], batch_size=8)
        measured = PanopticQuality(made[0].truth.space)
        for found, one in zip(maps[name], made, strict=True):
            step = ENLARGED // times
            ids = np.ascontiguousarray(found.ids[step // 2 :: step, step // 2 :: step])
            there = set(np.unique(ids).tolist())
            small = PanopticMap(ids, [segment for segment in found.segments if segment.id in there], found.space)
            names = {name: name for name in found.space.names}
            measured.update(small.relabelled(one.truth.space, names), one.truth)
        rows.append([name, f"{100 * measured.compute()['pq']:.2f}"])
    print(f"\nThe teacher on {count} scenes, enlarged {ENLARGED} times, JPEG of quality 90\n")
    print_table(["decoded", "PQ"], rows)


if __name__ == "__main__":
    main()
