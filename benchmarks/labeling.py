"""The labeler over many photos against the bare model: photos a second. `memory.py` has what it takes of memory.

    python benchmarks/labeling.py                    # about ten minutes on two cores

DETR R50 with random weights, or with --teacher the demo's own small model, on JPEGs of 1067×800 and 800×1067.
"Bare" is `model.segment` on photos that are decoded already, in the labeler's own batches; "one after the other"
reads, decodes, segments, encodes and writes each batch in turn; "model alone between" reads and writes in threads, and
resizes and makes maps between two batches, as it was until 27 November; "at the same time" is the labeler.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import duration, interleaved, machine, print_table, speedup
from PIL import Image
from transformers import DetrConfig

from hf_detr_panoptic import LabelSpace
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.labeling.inputs import survey
from hf_detr_panoptic.labeling.labeler import DetrLabeler, Labeler, label, labeler_settings, plan_batches
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


class Between:
    """A labeler of which `label` knows only `segment`."""

    def __init__(self, labeler: DetrLabeler) -> None:
        self.label_space, self.fingerprint = labeler.label_space, labeler.fingerprint
        self.preprocess, self.device, self.segment = labeler.preprocess, labeler.device, labeler.segment


def speed(folder: Path, args: argparse.Namespace) -> None:
    model = random_model(tiny=False)
    if args.teacher:
        model = DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval()
    seconds, segments = speeds(
        folder,
        model.to(args.device),
        photos=args.photos,
        batch_size=args.batch_size,
        precision=args.precision,
        rounds=args.rounds,
        sync=torch.cuda.synchronize if args.device == "cuda" else None,
    )
    print(
        f"{args.photos} photos of 1067×800, batches of {args.batch_size}, {args.precision}, {segments:.0f} segments\n"
    )
    print_table(
        ["the teacher" if args.teacher else "DETR R50", "a photo", "photos a second", "of the bare model's throughput",
         "faster than model alone between"],
        [
            [
                name,
                duration([value / args.photos for value in values]),
                f"{args.photos / np.median(values):.2f}",
                str(speedup(seconds["bare"], values)),
                str(speedup(seconds["model alone between"], values)),
            ]
            for name, values in seconds.items()
        ],
    )  # fmt: skip
    print()


def speeds(
    folder: Path,
    model: DetrForPanopticSegmentation,
    *,
    photos: int,
    batch_size: int,
    precision: str,
    rounds: int,
    sync: Callable[[], object] | None = None,
) -> tuple[dict[str, list[float]], float]:
    """Seconds for all photos, round by round, of each of the four ways; and how many segments a photo has."""
    count = photos
    names = photos_in(folder / "photos", count, [(1067, 800), (800, 1067), (1067, 800)])
    known, _ = survey(folder / "photos", names)
    labeler = DetrLabeler(model, precision)
    opened = {name: open_image(folder / "photos" / name) for name in names}
    batches = plan_batches(labeler, known, batch_size)
    segments = []

    def bare() -> None:
        segments[:] = [
            len(map.segments)
            for batch in batches
            for map in labeler.segment([opened[photo.name] for photo in batch], threshold=0.5)
        ]

    def answers_in(new: str) -> AutoLabels:
        return AutoLabels.open(Path(new), labeler.label_space, labeler_settings(labeler, 0.5, batch_size))

    def labelled(by: Labeler) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as new:
            done = label(by, folder / "photos", known, answers_in(new), threshold=0.5, batch_size=batch_size)
            assert done.made == count

    def one_after_the_other() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as new:
            answers = answers_in(new)
            for batch in batches:
                read = [open_image(folder / "photos" / photo.name) for photo in batch]
                for photo, map in zip(batch, labeler.segment(read, threshold=0.5), strict=True):
                    answers.write(photo.digest, map)

    sides = {
        "bare": bare,
        "one after the other": one_after_the_other,
        "model alone between": partial(labelled, Between(labeler)),
        "at the same time": partial(labelled, labeler),
    }
    warm_up = 1 if rounds > 1 else 0
    return interleaved(sides, rounds, warm_up, sync), float(np.mean(segments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--teacher", action="store_true", help="the demo's teacher, 256×192")
    args = parser.parse_args()
    print(machine(("numpy", "pillow", "transformers")))
    with tempfile.TemporaryDirectory() as folder:
        speed(Path(folder) / "speed", args)


if __name__ == "__main__":
    main()
