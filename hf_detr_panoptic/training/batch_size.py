"""How many photos fit into memory at once: found out before a stage, and found out again where that was too many."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainingArguments

from ..dataset.batches import PanopticDataset
from ..errors import HfDetrPanopticError, RecipeError
from ..files import read_json, write_json
from ..model.modeling import DetrForPanopticSegmentation
from ..text import count_of
from .sampling import collate_for_training

FITTED = "batch_size.json"

_SMALLER = "`gradient_checkpointing: true`, or smaller photos (`size`, `augmentation.longest`)"


def training_step(model: DetrForPanopticSegmentation, batch: dict[str, Any], args: TrainingArguments) -> None:
    """Forward and backward as in training, of one micro-batch, on this process alone."""
    device = next(model.parameters()).device
    model.train()
    half = torch.bfloat16 if args.bf16 else torch.float16
    with torch.autocast(device.type, half, enabled=args.bf16 or args.fp16):
        loss = model(
            pixel_values=batch["pixel_values"].to(device),
            pixel_mask=batch["pixel_mask"].to(device),
            labels=[
                {k: v.to(device) if torch.is_tensor(v) else v for k, v in label.items()} for label in batch["labels"]
            ],
        ).loss
    if loss.requires_grad:
        loss.backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fit_batch_size(
    model: DetrForPanopticSegmentation,
    args: TrainingArguments,
    dataset: PanopticDataset,
    folder: Path,
    say: Callable[[str], None],
    attempt: Callable[[DetrForPanopticSegmentation, dict[str, Any], TrainingArguments], None] = training_step,
) -> None:
    """`auto_find_batch_size`: halve the batch and double the accumulation until the heaviest photos fit.

    Trainer's own way starts over, with weights that are no longer the first, when memory runs out hours later: here
    memory depends on how many segments a photo has. So the photos with most segments are tried first. The global
    batch stays what it was, and so does what is learnt. A resumed stage takes the size that it began with.
    """
    if not args.auto_find_batch_size:
        return
    args.auto_find_batch_size = False
    fitted = folder / FITTED
    size = args.per_device_train_batch_size
    wanted = size * args.gradient_accumulation_steps
    if fitted.is_file():
        size = _dividing(wanted, min(size, _read(fitted)))
    else:
        with torch.random.fork_rng([args.device] if args.device.type == "cuda" else []):
            while size and not _fits(model, heaviest_batch(dataset, size), args, attempt):
                size = _dividing(wanted, size // 2) if size > 1 else 0
        size = min(
            gather_object([size])
        )  # also of one that found no size: who raises before leaves the others waiting
        if not size:
            raise RecipeError("not even one photo fits into memory", fix=f"Give {_SMALLER}.")
        if PartialState().is_main_process:
            _write(fitted, size)
    args.gradient_accumulation_steps = wanted // size
    args.per_device_train_batch_size = size
    say(f"batches of {count_of(size, 'photo')} fit, {args.gradient_accumulation_steps} of them a step")


def _dividing(wanted: int, most: int) -> int:
    """The greatest size up to `most` that a step can be made of."""
    return next(size for size in range(max(1, most), 0, -1) if wanted % size == 0)


def halve_batch_size(folder: Path) -> int | None:
    """After memory ran out all the same: what `fit_batch_size` will take from now on, None where it was not asked."""
    fitted = folder / FITTED
    size = _read(fitted) // 2 if fitted.is_file() else 0
    if not size:
        return None
    _write(fitted, size)
    return size


def heaviest_batch(dataset: PanopticDataset, size: int) -> dict[str, Any]:
    """The photos with most segments, each as large as augmentation made it in four tries.

    Several lie on the canvas that they would have beside the tallest photo and the widest one.
    """
    rows: Any = dataset.rows
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].segments))
    indices = (order * size)[:size]
    sizes = [row.size for row in rows if getattr(row, "size", None)]
    if size > 1 and len(sizes) == len(rows):
        by_shape = sorted(range(len(rows)), key=lambda index: sizes[index][0] / sizes[index][1])
        indices += [by_shape[0], by_shape[-1]]
    items = []
    for index in indices:
        drawn = [dataset[epoch, index] for epoch in range(4)]
        items.append(max(drawn, key=lambda item: item["pixel_values"].numel()))
    return {name: values[:size] for name, values in collate_for_training(items).items()}


def ran_out_of_memory(error: BaseException) -> bool:
    """On a GPU, or where a CPU's memory is limited; also when another process says so."""
    message = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in message
        or "DefaultCPUAllocator" in message
    )


def training_memory_error(
    stage: str, args: TrainingArguments, folder: Path, halved: int | None
) -> HfDetrPanopticError:
    """What to do about it. These settings may be changed in a run that has begun."""
    if halved is not None:
        fix = f"The same command resumes from the last checkpoint, with batches of {halved}."
    elif args.per_device_train_batch_size > 1:
        fix = (
            f"Set {stage}.auto_find_batch_size to true, or halve its per_device_train_batch_size and double "
            "gradient_accumulation_steps: then the same command resumes from the last checkpoint."
        )
    else:
        fix = f"Set {stage}.gradient_checkpointing to true and resume, or start a run with smaller photos (`size`)."
    return HfDetrPanopticError(
        f"memory ran out in {stage}, at {count_of(args.per_device_train_batch_size, 'photo')} a batch",
        where=str(folder),
        fix=fix,
    )


def evaluation_memory_error(stage: str, args: TrainingArguments) -> HfDetrPanopticError:
    size = args.per_device_eval_batch_size
    fix = "Start a run with smaller photos (`size`)."
    if size > 1:
        fix = f"Lower {stage}.per_device_eval_batch_size; the same command resumes from the last checkpoint."
    return HfDetrPanopticError(
        f"memory ran out while {stage} was evaluated, at {count_of(size, 'photo')} a batch", fix=fix
    )


def _fits(model: Any, batch: Any, args: TrainingArguments, attempt: Any) -> bool:
    device = args.device
    tried = copy.deepcopy(model).to(device)
    try:
        learning = [parameter for parameter in tried.parameters() if parameter.requires_grad]
        moments = [torch.empty_like(parameter) for parameter in learning for _ in range(2)]  # what AdamW will hold
        attempt(tried, batch, args)
        del moments
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        return False
    finally:
        del tried
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _read(path: Path) -> int:
    return int(read_json(path)["per_device_train_batch_size"])


def _write(path: Path, size: int) -> None:
    write_json(path, {"per_device_train_batch_size": size}, indent=2, durable=True)
