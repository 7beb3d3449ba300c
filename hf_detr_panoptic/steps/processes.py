"""The guard of every entry point: the processes that were asked for are the processes that run."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import HfDetrPanopticError

Result = TypeVar("Result")

_HOW = (
    "On a CPU start them with `accelerate launch --multi_gpu --num_processes N` or `torchrun`, "
    "not with `accelerate launch --cpu`."
)


def guard_processes(patience: timedelta | None = None) -> int:
    """The number of processes that work together; raises when the launcher promised others.

    `patience`: how long one may wait for another before that is taken for a failure; torch's own 10 minutes on GPUs
    are too short where processes share hours of work and meet at the end.

    `accelerate launch --cpu --num_processes 2` starts one process and says nothing; two processes that each believe
    to be alone do all the work twice and write over each other.
    """
    from accelerate import PartialState

    promised = launched()
    several = _wanted_several()
    options: dict[str, Any] = {} if patience is None else {"timeout": patience}
    started = int(PartialState(cpu=_without_accelerator(), **options).num_processes)
    if promised != started:
        raise HfDetrPanopticError(
            f"the launcher promised {promised} processes, but this one knows of {started}",
            fix=_HOW,
        )
    if several and started == 1:
        raise HfDetrPanopticError(
            "the launcher was asked for several processes and started one",
            fix=f"{_HOW} For one process, leave out --num_processes.",
        )
    return started


def told_to_all(work: Callable[[], Any]) -> list[Any]:
    """The results of all processes. An error of one is raised in each: one that dies alone leaves the rest waiting."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    if PartialState().num_processes == 1:
        return [work()]
    result: Any = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as failure:
        error = failure if isinstance(failure, HfDetrPanopticError | OSError) else RuntimeError(repr(failure))
    shares = gather_object([(result, error)])
    for _, reported in shares:
        if reported is not None:
            raise reported
    return [found for found, _ in shares]


def by_first(work: Callable[[], Result]) -> Result:
    """What the main process makes, handed to all; the others wait. Its error is raised in each."""
    from accelerate import PartialState

    first = PartialState().is_main_process
    made: Result = told_to_all(lambda: work() if first else None)[0]
    return made


def launched() -> int:
    """The number of processes that a launcher says it has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def end_processes() -> None:
    """Take leave of the other processes, at the end of a program: torch may abort one that just goes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # what still knows the group keeps its threads until Python itself is ending
        torch.distributed.destroy_process_group()


def _wanted_several() -> bool:
    """Whether accelerate's launcher of one process was asked for more: only then it says where processes meet.

    On a cluster MASTER_ADDR may be there without its doing; what it writes by itself is this machine.
    """
    without_gpu, meeting = os.environ.get("ACCELERATE_USE_CPU"), os.environ.get("MASTER_ADDR")
    if without_gpu is None or meeting is None or "WORLD_SIZE" in os.environ:
        return False
    return without_gpu == "True" or meeting == "127.0.0.1"


def _without_accelerator() -> bool:
    # Without cpu=True, PartialState on a machine without a GPU ignores WORLD_SIZE.
    import torch

    return not torch.accelerator.is_available()


def can_talk() -> bool:
    """Whether processes of this machine reach each other: a sandbox without a network may lack even the loopback."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=10).close()
    except OSError:
        return False
    return True
