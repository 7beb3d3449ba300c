"""From a checked recipe to TrainingArguments, for the device at hand and not before its stage begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from ..stage_settings import Stage
from ..training_fields import training_fields

if TYPE_CHECKING:
    from transformers import TrainingArguments

# What the loop relies on. Labels are lists of id maps, which Trainer's own evaluation and padding cannot hold;
# the loss already counts the processes; our row of progress takes tqdm's place.
_LOOP: dict[str, Any] = {
    "average_tokens_across_devices": False,
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "eval_do_concat_batches": False,
    "greater_is_better": True,
    "push_to_hub": False,
}
_MOST_WORKERS = 8


def training_arguments(stage: Stage, device: Any, *, output_dir: str | Path, seed: int) -> TrainingArguments:
    """TrainingArguments of a stage on this device: a torch.device, or its name.

    Built just before the stage's Trainer: a second precision can only follow once the first run is over.
    """
    import torch
    from transformers import Trainer, TrainingArguments

    written = dict(stage.training_arguments)
    device = torch.device("cpu" if written.get("use_cpu") else device)
    for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
        new = old.replace("gradient", "activation")
        if old in written and new in training_fields():
            written.setdefault(new, written.pop(old))
    arguments = {
        **_loader(device, written),
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        "logging_nan_inf_filter": False,  # it waits for each step's loss; matching raises for NaN anyway
        **written,
        **_precision(stage, device),
        **_LOOP,
    }
    if device.type == "cpu":
        arguments["use_cpu"] = True
    if "lr_scheduler_type" not in arguments:
        # The drop is ours (`Stage.drop_step`); before it the rate is constant, once it is warm.
        arguments["lr_scheduler_type"] = "constant_with_warmup"
    if arguments["lr_scheduler_type"] == "reduce_lr_on_plateau":
        # torch waits for the least value; what is best here is the greatest. A mode that is written stays.
        kwargs = arguments.get("lr_scheduler_kwargs") or {}
        arguments["lr_scheduler_kwargs"] = {"mode": "max", **kwargs}
    try:
        built = TrainingArguments(output_dir=str(output_dir), seed=seed, **arguments)
        Trainer.get_optimizer_cls_and_kwargs(built)  # raises for an optimizer that is not installed
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        raise RecipeError(f"transformers refuses these arguments ({error})", where=f"stages.{stage.name}") from error
    if not (built.bf16 or built.fp16):
        built.mixed_precision = "no"  # else ACCELERATE_MIXED_PRECISION would decide against the recipe
    return built


def _loader(device: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Workers that leave a core to the loop, and stay from epoch to epoch."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen = min(_MOST_WORKERS, max(1, cores // processes - 1))
    workers = written.get("dataloader_num_workers", chosen)
    if not workers:
        return {"dataloader_num_workers": 0, "dataloader_pin_memory": device.type == "cuda"}
    return {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 4,
        "dataloader_pin_memory": device.type == "cuda",
    }


def check_arguments(stages: Iterable[Stage], device: Any) -> None:
    """Raise now for what transformers, or the device, will refuse when a later stage begins."""
    for stage in stages:
        with process_kept():
            training_arguments(stage, device, output_dir=stage.name, seed=0)


@contextmanager
def process_kept() -> Iterator[None]:
    """What TrainingArguments and a Trainer set for the whole process, undone: the next stage has its own.

    These are precision and device, which accelerate remembers, and TF32 in torch.
    """
    import torch
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    state = dict(PartialState._shared_state)
    switches: list[tuple[Any, str]] = [(torch.backends, "fp32_precision")]
    if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9
        switches = [(torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")]
    before = [getattr(*switch) for switch in switches]
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._shared_state.update(state)
        for switch, value in zip(switches, before, strict=True):
            setattr(*switch, value)


def _precision(stage: Stage, device: Any) -> dict[str, bool]:
    """bf16 where CUDA has it, else fp32, unless the recipe, or else the accelerate configuration, asks for another."""
    written = stage.training_arguments
    asked: dict[str, bool] = {name: bool(written[name]) for name in ("bf16", "fp16") if name in written}
    who = f"stages.{stage.name}"
    if not asked:
        configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if configured in ("bf16", "fp16"):
            asked, who = {configured: True}, "the accelerate configuration (mixed_precision)"
    if not asked:
        return {"bf16": device.type == "cuda" and _has_bf16(device), "fp16": False}
    if asked.get("bf16") and not _has_bf16(device):
        fix = "Write `fp16: true` or leave bf16 out." if device.type == "cuda" else "Leave bf16 out."
        raise RecipeError(f"bf16 is asked for, and {_named(device)} has none", where=who, fix=fix)
    if asked.get("fp16") and device.type != "cuda":
        raise RecipeError(
            f"fp16 is asked for, and {_named(device)} cannot train in it", where=who, fix="Leave fp16 out."
        )
    return {"bf16": asked.get("bf16", False), "fp16": asked.get("fp16", False)}


def slower_than_it_could(stage: Stage, args: TrainingArguments) -> str | None:
    """What to write where a GPU without bf16 trains in 32 bits, and nobody has said so."""
    said = {"bf16", "fp16"} & stage.training_arguments.keys()
    if args.device.type != "cuda" or args.bf16 or args.fp16 or said or _has_bf16(args.device):
        return None
    return (
        f"{stage.name}: {_named(args.device)} has no bf16 and trains in fp32; `fp16: true` takes less time and memory"
    )


def _has_bf16(device: Any) -> bool:
    """Whether autocast to bf16 works: on any CPU (slowly where it is emulated), on a GPU in hardware."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return torch.backends.mps.is_available() and torch.backends.mps.is_macos_or_newer(14, 0)
    return bool(device.type == "cpu")


def _named(device: Any) -> str:
    import torch

    if device.type == "cuda" and torch.cuda.is_available():
        return f"this GPU ({torch.cuda.get_device_name(device)})"
    return {"cpu": "a CPU", "mps": "this Apple GPU"}.get(device.type, f"the device {device}")
