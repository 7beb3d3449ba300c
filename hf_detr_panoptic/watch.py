"""Those who work together: where one dies the others end with a sentence, and one that was stopped is named."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta

from .errors import HfDetrPanopticError
from .parallel import guard_processes, launched

EVERY = 10.0  # seconds between two looks
STOPPED = 3  # looks, until one that was stopped is named
LEAVE = 45.0  # seconds that one may still save what it has; torch's launcher gives 30

_OF_A_LOADER = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
_OF_A_RANK = re.compile(
    r"gloo|NCCL|Connection (closed|reset) by peer|connection was likely closed|Broken pipe", re.IGNORECASE
)
_AGAIN = "Its own last words say more; often memory ran out. The same command goes on from what is saved."

_watching = threading.Lock()


class LostProcessError(HfDetrPanopticError):
    """One of several processes is no more."""


@contextlib.contextmanager
def watched(*, together: bool = True) -> Iterator[None]:
    """While the block lasts. `together`: all processes that a launcher has started are in it, and leave it at once.

    A collective waits for a dead process with gloo's traceback, or days, and for a stopped one without a word.
    """
    several = together and launched() > 1
    if several:
        guard_processes(timedelta(days=7))  # who asks first decides how all of them talk
    if not _watching.acquire(blocking=False):  # once is enough
        yield
        return
    watch = Watch({}, speaks=not several or os.environ.get("RANK") == "0")
    done = threading.Event()
    thread = threading.Thread(target=watch.until, args=(done,), daemon=True)
    try:
        if several:
            watch.others = _others()
        thread.start()
        yield
        if several:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
    except (RuntimeError, BrokenProcessPool) as error:
        lost = _lost(error, watch, several)
        if lost is None:
            raise
        raise lost from error
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
        _watching.release()


def _others() -> dict[str, tuple[int, float]]:
    """The other processes of this machine: what they are called → number and when they began."""
    import psutil
    from accelerate import PartialState
    from accelerate.utils import gather_object

    me, host = psutil.Process(), socket.gethostname()
    everybody = gather_object([(PartialState().process_index, host, me.pid, me.create_time())])
    return {
        f"process {rank} of {len(everybody)} ({number} on {host})": (number, began)
        for rank, at, number, began in everybody
        if at == host and number != me.pid
    }


def _lost(error: Exception, watch: Watch, several: bool) -> LostProcessError | None:
    text = str(error)
    if isinstance(error, BrokenProcessPool):
        return LostProcessError("a process that this one had started is gone", fix=_AGAIN)
    if _OF_A_LOADER.search(text):
        fix = f"{_AGAIN} With a lower dataloader_num_workers less is needed."
        return LostProcessError(f"a process that loads photos is gone ({text.splitlines()[0].rstrip('.')})", fix=fix)
    return lost_process(error, watch) if several else None


def lost_process(error: Exception, watch: Watch | None = None) -> LostProcessError | None:
    """What an error of a collective means; None where it means something else."""
    if launched() == 1 or not _OF_A_RANK.search(str(error)):
        return None
    gone = watch.wait_for_one_to_go(5.0) if watch is not None and watch.others else None
    return LostProcessError(f"{gone or 'one of the other processes'} is gone, and this one ends with it", fix=_AGAIN)


class Watch:
    """`others`: see `_others`; children of this process are looked at too. `speaks`: names those that are stopped."""

    def __init__(self, others: Mapping[str, tuple[int, float]], speaks: bool = True) -> None:
        self.others, self.speaks = others, speaks
        self._stopped: Counter[str] = Counter()

    def until(self, done: threading.Event) -> None:
        """Look every now and then; some time after one has gone this process ends too, whatever it waits for."""
        while not done.wait(EVERY):
            gone = self.look()
            if gone is not None:
                _say(f"{gone} is gone, and this one ends with it. {_AGAIN}")
                if not done.wait(LEAVE):
                    os._exit(1)
                return

    def look(self) -> str | None:
        """Which of the others is gone. Who has been stopped for some looks is named, once."""
        import psutil

        states = {name: _state(*other) for name, other in self.others.items()}
        numbers = {name: number for name, (number, _) in self.others.items()}
        for child in psutil.Process().children():
            name = f"process {child.pid}, which works for {os.getpid()},"
            states[name], numbers[name] = _state(child.pid, None), child.pid
        for name, state in states.items():
            self._stopped[name] = self._stopped[name] + 1 if state == psutil.STATUS_STOPPED else 0
            if self._stopped[name] == STOPPED and (self.speaks or name not in self.others):
                _say(f"{name} was stopped and is waited for; `kill -CONT {numbers[name]}` lets it go on")
        return next((name for name in self.others if states[name] is None), None)

    def wait_for_one_to_go(self, seconds: float) -> str | None:
        """A connection ends a moment before its process does."""
        done = threading.Event()
        for _ in range(int(seconds * 10)):
            gone = next((name for name, other in self.others.items() if _state(*other) is None), None)
            if gone is not None:
                return gone
            done.wait(0.1)
        return None


def _state(number: int, began: float | None) -> str | None:
    """psutil's word; None for one that is no more, also where its number is somebody else's now."""
    import psutil

    try:
        process = psutil.Process(number)
        state: str = process.status()
        if state == psutil.STATUS_ZOMBIE or (began is not None and process.create_time() != began):
            return None
        return state
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return "unknown"


def _say(text: str) -> None:
    print(f"\nhf-detr-panoptic: {text}", file=sys.stderr, flush=True)
