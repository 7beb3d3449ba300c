"""Work shared out: the guard of processes, telling all of them, threads that read ahead, and the progress bar."""

from __future__ import annotations

import atexit
import functools
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar, cast

from .errors import HfDetrPanopticError

Item = TypeVar("Item")
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


def results_of_all(work: Callable[[], Result]) -> list[Result]:
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
    return [share for share, _ in shares]


def by_first(work: Callable[[], Result]) -> Result:
    """What the main process makes, handed to all; the others wait. Its error is raised in each."""
    from accelerate import PartialState

    first = PartialState().is_main_process
    made = results_of_all(lambda: work() if first else None)[0]
    return cast(Result, made)


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


def begin_worker(number: int = 0) -> None:
    """The first thing that a process does which works for another: a signal is for that one, and both end together.

    Launchers, `timeout` and queues signal whole groups. A worker that took it for itself would be gone before the
    step at hand is done, and with it the checkpoint. `number` is what a DataLoader gives.
    """
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@functools.cache
def end_workers_at_exit() -> None:
    """For who starts workers that are daemons: Python ends these with SIGTERM, for which ours do not go, and waits."""
    atexit.register(_end_daemons)


def _end_daemons() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for a worker that is killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def default_threads() -> int:
    """For what opens and decodes photos: beyond eight the disk is what is waited for."""
    return min(8, os.cpu_count() or 1)


def read_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """`work` on each item, in a few threads, in the order of the items.

    At most `ahead` items are at work or wait for the caller, so that memory does not grow with their number. After an
    error, or when the caller stops, what has not begun is dropped.
    """
    threads = threads or default_threads()
    coming = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[Result]] = deque()
        waiting.extend(pool.submit(work, item) for item in islice(coming, ahead or 4 * threads))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(coming, 1))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int,
    what: str | None = None,
    unit: str = "photo",
    show: bool = True,
    **options: Any,
) -> Any:
    """tqdm around the items, or one to be updated by hand; a line a minute where nobody watches."""
    from tqdm import tqdm

    often = 0.2 if sys.stderr.isatty() else 60.0
    return tqdm(
        items,
        total=total,
        desc=what,
        unit=unit,
        disable=not show,
        mininterval=often,
        maxinterval=often,
        smoothing=0.05,
        **options,
    )
