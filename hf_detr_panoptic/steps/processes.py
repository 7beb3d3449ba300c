"""The guard of every entry point: the processes that were asked for are the processes that run."""

from __future__ import annotations

import os

from ..errors import HfDetrPanopticError


def guard_processes() -> int:
    """The number of processes that work together; raises when the launcher promised others.

    `accelerate launch --cpu --num_processes 2` starts one process and says nothing; two processes that each believe
    to be alone do all the work twice and write over each other.
    """
    from accelerate import PartialState

    promised = int(os.environ.get("WORLD_SIZE", "1"))
    started = int(PartialState(cpu=_without_accelerator()).num_processes)
    if promised != started:
        raise HfDetrPanopticError(
            f"the launcher promised {promised} processes, but this one knows of {started}",
            fix="On a CPU start them with `accelerate launch --multi_gpu --num_processes N` or `torchrun`, "
            "not with `accelerate launch --cpu`.",
        )
    return started


def _without_accelerator() -> bool:
    # Without cpu=True, PartialState on a machine without a GPU ignores WORLD_SIZE.
    import torch

    return not torch.accelerator.is_available()
