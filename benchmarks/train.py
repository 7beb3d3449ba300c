"""Images a second of each stage through the whole loop, loading included, against stock transformers.

    python benchmarks/train.py                      # the mask head's stage; stock needs 16 GB and minutes
    python benchmarks/train.py --batch 1 --threads 1     # 7 GB; and threads that share busy cores wait for each other
    python benchmarks/train.py --stages detection mask_head finetune

Stock is what its documentation shows: `Trainer`, `DetrImageProcessor` in the dataset, `DetrForSegmentation` (for
detection `DetrForObjectDetection`), with the same photos, batches, workers and random R50 weights. Each side runs in a
process of its own, in turn; its first step is left out. Memory is the process's peak, or the GPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = ("detection", "mask_head", "finetune")
CLASSES, TARGETS, PHOTOS = 12, 10, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["mask_head"])
    parser.add_argument("--size", default="512x672", help="height x width of the photos")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--backbone", default="resnet50", help="a timm name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ours", type=int, default=9, metavar="N", help="steps of ours, of which N - 1 are timed")
    parser.add_argument("--stock", type=int, default=3, metavar="N", help="steps of stock; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=1, help="how often each side is run, in turn")
    parser.add_argument("--side", choices=["ours", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run_side(given)))
    else:
        compare(given)


def compare(given: argparse.Namespace) -> None:
    from measure import machine, print_table

    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        write_photos(Path(scratch), tuple(map(int, given.size.split("x"))))
        save_models(Path(scratch), given.backbone, tuple(map(int, given.size.split("x"))))
        rows = []
        for stage in given.stages:
            sides = [side for side in ("stock", "ours") if getattr(given, side)]
            found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(given.rounds):
                for side in sides:
                    found[side].append(in_a_process(given, side, stage, Path(scratch)))
            for side in sides:
                best = max(found[side], key=lambda one: one["images_per_second"])
                ratio = ""
                if side == "ours" and "stock" in found:
                    ratios = [
                        a["images_per_second"] / b["images_per_second"]
                        for a, b in zip(found["ours"], found["stock"], strict=True)
                    ]
                    ratio = f"{sorted(ratios)[len(ratios) // 2]:.1f}×"
                rows.append(
                    (
                        stage,
                        side,
                        f"{best['images_per_second']:.3g}",
                        f"{best['memory']:.1f} GB",
                        f"{100 * best['waiting']:.1f} %",
                        ratio,
                    )
                )
    print_table(("stage", "side", "images/s", "peak memory", "waits for data", "ratio"), rows)


def command_of(given: argparse.Namespace, side: str, stage: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """A side in a process of its own: what to run, and in which environment. The last line that it prints is JSON."""
    options = ["batch", "backbone", "threads", "workers", "ours", "stock", "size"]
    words = [word for name in options for word in (f"--{name}", str(getattr(given, name)))]
    command = [sys.executable, __file__, "--side", side, "--stages", stage, "--folder", str(folder), *words]
    return command, os.environ | {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1"}


def in_a_process(given: argparse.Namespace, side: str, stage: str, folder: Path) -> dict[str, float]:
    command, environment = command_of(given, side, stage, folder)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def label_space() -> Any:
    from hf_detr_panoptic import Category, LabelSpace

    return LabelSpace([Category(f"class {place}", place < CLASSES - 2) for place in range(CLASSES)])


def write_photos(folder: Path, size: tuple[int, ...], count: int = PHOTOS) -> None:
    """Photos of blurred noise with ten segments each; every pixel has an owner."""
    import numpy as np
    from PIL import Image

    from hf_detr_panoptic import PanopticMap, Segment
    from hf_detr_panoptic.dataset.writer import DatasetWriter

    random = np.random.default_rng(0)
    height, width = size
    space = label_space()
    with DatasetWriter(folder / "set", space) as writer:
        for place in range(count):
            noise = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            photo = folder / f"p{place}.jpg"
            Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(photo, quality=90)
            ids = np.ones((height, width), dtype=np.int32)
            for segment in range(2, TARGETS + 1):
                top, left = random.integers(0, height - 80), random.integers(0, width - 80)
                ids[top : top + random.integers(60, 200), left : left + random.integers(60, 200)] = segment
            there = np.unique(ids).tolist()
            segments = [Segment(i, CLASSES - 1 if i == 1 else int(random.integers(0, CLASSES - 2))) for i in there]
            writer.add("train", photo.name, photo, PanopticMap(ids, segments, space))


def save_models(folder: Path, backbone: str, size: tuple[int, ...]) -> None:
    import torch
    from transformers import DetrConfig, DetrForObjectDetection

    from hf_detr_panoptic import DetrForPanopticSegmentation
    from hf_detr_panoptic.preprocess import Preprocess

    torch.manual_seed(0)
    trunk = {"model_type": "timm_backbone", "backbone": backbone, "out_indices": [1, 2, 3, 4]}
    config = DetrConfig(backbone_config={**trunk, "use_pretrained_backbone": False}, **label_space().to_config())
    model = DetrForPanopticSegmentation(config)
    model.image_processor = Preprocess(shortest_edge=min(size), longest_edge=max(size))
    model.save_pretrained(folder / "panoptic")
    detector = DetrForObjectDetection(model.config)
    detector.load_state_dict(model.detr.state_dict())
    detector.save_pretrained(folder / "detection")


class Clock:
    """Seconds from the end of the first step to that of the last, and how many of them the loop waited for data."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.waited = 0.0

    def attach(self, trainer: Any) -> None:
        from transformers import TrainerCallback

        clock = self

        class Ends(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.ends.append(time.perf_counter())

        trainer.add_callback(Ends())
        original = trainer.get_batch_samples

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            batch = original(*args, **kwargs)
            if self.ends:
                self.waited += time.perf_counter() - began
            return batch

        trainer.get_batch_samples = timed

    def result(self, batch: int) -> dict[str, float]:
        import torch

        seconds = self.ends[-1] - self.ends[0]
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        return {
            "images_per_second": batch * (len(self.ends) - 1) / seconds,
            "memory": memory / 1e9,
            "waiting": self.waited / seconds,
        }


def run_side(given: argparse.Namespace) -> dict[str, float]:
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as output:
        make = {"ours": our_trainer, "stock": stock_trainer}[given.side]
        trainer = make(given, given.stages[0], Path(output))
        clock = Clock()
        clock.attach(trainer)
        trainer.train()
        return clock.result(given.batch)


def our_trainer(given: argparse.Namespace, stage: str, output: Path) -> Any:
    import torch
    from accelerate import PartialState

    from hf_detr_panoptic import DetrForPanopticSegmentation
    from hf_detr_panoptic.dataset.batches import PanopticDataset
    from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
    from hf_detr_panoptic.stage_settings import Stage
    from hf_detr_panoptic.training.arguments import training_arguments
    from hf_detr_panoptic.training.stages import prepare_model
    from hf_detr_panoptic.training.trainer import PanopticTrainer

    device = PartialState(cpu=not torch.cuda.is_available()).device
    recipe = Stage.of(
        stage,
        per_device_train_batch_size=given.batch,
        max_steps=given.ours,
        dataloader_num_workers=given.workers,
        eval_strategy="no",
        save_strategy="no",
    )
    model = DetrForPanopticSegmentation.from_pretrained(given.folder / "panoptic")
    prepare_model(model, recipe)
    args = training_arguments(recipe, device, output_dir=output, seed=0)
    rows = read_dataset(given.folder / "set")["train"]
    return PanopticTrainer(model, args, recipe, PanopticDataset(rows, model.preprocess), rows)


def stock_trainer(given: argparse.Namespace, stage: str, output: Path) -> Any:
    import torch
    from PIL import Image
    from transformers import (
        DetrForObjectDetection,
        DetrForSegmentation,
        DetrImageProcessor,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    processor = DetrImageProcessor.from_pretrained(given.folder / "panoptic")
    content = json.loads((given.folder / "set/annotations/panoptic_train.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}

    class Photos(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(content["annotations"])

        def __getitem__(self, place: int) -> Any:
            target = content["annotations"][place]
            segments = [{**entry, "category_id": entry["category_id"] - 1} for entry in target["segments_info"]]
            encoded = processor(
                images=Image.open(given.folder / "set/images" / names[target["image_id"]]),
                annotations=[{**target, "segments_info": segments}],
                masks_path=given.folder / "set/annotations/panoptic_train",
                return_tensors="pt",
            )
            return {"pixel_values": encoded["pixel_values"][0], "labels": encoded["labels"][0]}

    def collate(items: list[Any]) -> dict[str, Any]:
        pixels = torch.stack([item["pixel_values"] for item in items])  # all photos have one size
        labels = [dict(item["labels"]) for item in items]
        return {"pixel_values": pixels, "pixel_mask": torch.ones_like(pixels[:, 0]).long(), "labels": labels}

    if stage == "detection":
        model: Any = DetrForObjectDetection.from_pretrained(given.folder / "detection")
    else:
        model = DetrForSegmentation.from_pretrained(given.folder / "panoptic")
        if stage == "mask_head":
            model.detr.requires_grad_(False)
    args = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=given.batch,
        max_steps=given.stock,
        learning_rate=1e-4,
        dataloader_num_workers=given.workers,
        remove_unused_columns=False,
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, train_dataset=Photos(), data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    main()
