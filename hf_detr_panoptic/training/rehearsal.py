"""Before a stage: three steps on a copy of the model, which say what it will cost."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from .batch_size import training_step
from .callbacks import _duration, peak_memory
from .evaluation_loop import box_precision, panoptic_quality
from .parameter_groups import parameter_groups
from .sampling import collate_for_training
from .trainer import PanopticTrainer

STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """Seconds a step and an evaluation, GB of memory at the peak and of disk in the end."""

    stage: str
    steps: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    memory: float
    disk: float

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds

    def lines(self, folder: Path) -> list[str]:
        """What is printed: the cost, and a warning where the disk will not do."""
        lines = [
            f"{self.stage}: about {_duration(self.seconds)} ({self.steps} steps of {self.step_seconds:.2f} s, "
            f"{self.evaluations} evaluations of {self.evaluation_seconds:.1f} s), "
            f"{self.memory:.1f} GB of memory, {self.disk:.1f} GB of disk"
        ]
        there = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
        free = shutil.disk_usage(there).free / 1e9
        if free < self.disk:
            lines.append(f"{self.stage}: only {free:.1f} GB are free in {there}: make room, or lower save_total_limit")
        return lines


def rehearse(trainer: PanopticTrainer, stages: int) -> Estimate:
    """Three real steps, and a little evaluation. Neither weights nor random state are other afterwards."""
    args, device = trainer.args, trainer.args.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = copy.deepcopy(trainer.model).to(device)  # type: ignore[arg-type]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        groups = parameter_groups(model, args.weight_decay, None)
        optimizer = torch.optim.AdamW(groups, lr=0.0) if groups else None
        seconds = []
        for batch in _first_batches(trainer):
            began = time.perf_counter()
            training_step(model, batch, args)
            if optimizer is not None:
                optimizer.step()
            seconds.append(time.perf_counter() - began)
        memory = peak_memory(device)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e9
        learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) / 1e9
        del optimizer
        model.zero_grad(set_to_none=True)
        few = trainer.eval_rows[: args.eval_batch_size * args.world_size]
        began = time.perf_counter()
        measure = panoptic_quality if model.with_masks else box_precision
        measure(model, few, args.eval_batch_size)
        evaluation = (time.perf_counter() - began) * len(trainer.eval_rows) / len(few)
    steps, per_epoch = total_steps(trainer)
    kept = (args.load_best_model_at_end + (trainer.keep_checkpoints or 10)) if args.save_strategy != "no" else 0
    return Estimate(
        stage=trainer.stage.name,
        steps=steps,
        step_seconds=min(seconds) * args.gradient_accumulation_steps,  # the first one warms caches up
        evaluations=_evaluations(args, steps, per_epoch),
        evaluation_seconds=evaluation,
        memory=memory - (weights if device.type == "cuda" else 0.0),
        disk=kept * (weights + 2 * learning) + weights * (1 + 1 / stages),
    )


def total_steps(trainer: PanopticTrainer) -> tuple[int, int]:
    """Optimizer steps of the stage, and of an epoch."""
    per_epoch = trainer.steps_per_epoch
    most = trainer.args.max_steps
    return (most if most > 0 else -int(-trainer.args.num_train_epochs * per_epoch // 1)), per_epoch


def _evaluations(args: TrainingArguments, steps: int, per_epoch: int) -> int:
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    every = {"no": steps + 1, "epoch": per_epoch}.get(strategy, int(args.eval_steps or steps) or 1)
    return 1 + steps // every


def _first_batches(trainer: PanopticTrainer) -> Iterator[dict[str, Any]]:
    """This process's first ones, as they will come; again from the start if an epoch has fewer."""
    loader = trainer.get_train_dataloader()
    first = list(islice(iter(loader.batch_sampler), STEPS))  # type: ignore[arg-type]
    for keys in islice(cycle(first), STEPS):
        yield collate_for_training([loader.dataset[key] for key in keys])
