"""Commands forked off one warm process that has imported everything and started no thread, and what became of them."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import pkgutil
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_detr_panoptic
from hf_detr_panoptic import cli

_WITHOUT = (
    "tensorflow",
    "jax",
    "grpc",
    "gradio",
    "IPython",
    "onnxruntime",
    "__main__",
)  # they start threads, or are not ours to run


@dataclass
class Ended:
    """A command that has ended; `code` is minus the signal, None where it had to be stopped."""

    words: Sequence[str]
    code: int | None
    said: str
    errors: str
    seconds: float
    peak_mb: float

    @property
    def signed(self) -> bool:
        """Whether it refused in a sentence of ours."""
        return f"hf-detr-panoptic {self.words[0]}: " in self.errors

    def complaint(self) -> str | None:
        """What no command may do, however it is disturbed."""
        if self.code is None:
            return f"did not end in {self.seconds:.0f} s"
        # Of a killed one only those can speak whom it had started: their pipes end, and Python says so.
        if self.code != -signal.SIGKILL and "Traceback (most recent call last)" in self.errors + self.said:
            return "a traceback"
        if self.code not in (0, 1, 2, 130, 143, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
            return f"ended with {self.code}"
        return None

    def __str__(self) -> str:
        tail = "\n".join(f"      | {line}" for line in (self.said[-700:] + self.errors[-2500:]).splitlines())
        return f"`{' '.join(self.words)}` → {self.code} after {self.seconds:.1f} s, {self.peak_mb:.0f} MB\n{tail}"


@dataclass
class Running:
    words: Sequence[str]
    process: int
    log: Path
    began: float

    def ended_within(self, seconds: float) -> bool:
        descriptor = os.pidfd_open(self.process)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self, limit: float = 120) -> Ended:
        """It and all that it started; whoever is still there after `limit` seconds is ended."""
        ended = self.ended_within(limit)
        if not ended:
            self.signal(signal.SIGKILL)
        _, status, usage = os.wait4(self.process, 0)
        seconds = time.monotonic() - self.began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        said, errors = (self.log.with_suffix(end).read_text(errors="replace") for end in (".out", ".err"))
        code = os.waitstatus_to_exitcode(status) if ended else None
        return Ended(self.words, code, said, errors, seconds, usage.ru_maxrss / 1024)


def start(
    words: Sequence[object],
    log: Path,
    arrange: Callable[[], object] = lambda: None,
    *,
    after: Callable[[], object] = lambda: None,
    stdout: int | None = None,
    memory_mb: int | None = None,
) -> Running:
    """`hf-detr-panoptic WORDS` in a fork, in the folder of its log. `arrange` is called first there, `after` last."""
    told = [str(word) for word in words]
    log.parent.mkdir(parents=True, exist_ok=True)
    for end in (".out", ".err"):
        log.with_suffix(end).touch()  # it may be killed before it opens them
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    process = os.fork()
    if process:
        return Running(told, process, log, began)
    code = 1
    try:
        os.setsid()
        os.chdir(log.parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for place, end in ((1, ".out"), (2, ".err")):
            file = os.open(log.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file if place == 2 or stdout is None else stdout, place)
        if memory_mb is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory_mb * 2**20,) * 2)
        arrange()
        code = _run(told)
        after()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(words: list[str]) -> int:
    """As Python runs a console script, to its very end: what is printed where nobody listens, what runs at exit."""
    try:
        code = cli.main(words)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        sys.stderr.write("Exception ignored while flushing sys.stdout\n")
        code = 120
    sys.stderr.flush()
    return code


def in_a_fork(work: Callable[[], object]) -> None:
    """Work that computes, and so may start threads: what a fork copies while one holds a lock hangs."""
    sys.stdout.flush()
    process = os.fork()
    if not process:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the world could not be made")


def write_modules(path: Path) -> Callable[[], object]:
    """For `after`: what this command had to import."""
    return lambda: path.write_text("\n".join(sorted(sys.modules)))


def warm(names: Iterable[str] = ()) -> None:
    """Import, so that forks need not: all of ours, and these."""
    ours = (found.name for found in pkgutil.walk_packages(hf_detr_panoptic.__path__, "hf_detr_panoptic."))
    for name in (*(name for name in ours if not name.endswith(("handler", "without_torch"))), *names):
        if name.partition(".")[0] not in _WITHOUT and name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()
    threads = [Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    # pyarrow's allocator has one of its own, which gets through a fork.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, f"a fork would copy locks of {threads}"


# --- what forks may not do, and what they suffer


class Watch:
    """In a fork: which programs it starts, whom it calls, what it writes outside of `inside`. Never taken off."""

    def __init__(self, inside: Path, report: Path) -> None:
        self.inside, self.report = (str(inside.resolve()), "/dev/"), report

    def __call__(self) -> None:
        report = os.open(self.report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def hook(event: str, details: tuple[Any, ...]) -> None:
            deed = None
            if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "pty.spawn", "os.startfile"):
                deed = f"{event} {str(details[:2])[:300]}"
            elif event == "socket.connect":
                deed = f"{event} {str(details[1:])[:200]}"
            else:
                deed = next((f"{event} {path}" for path in written(event, details) if self._is_outside(path)), None)
            if deed:
                os.write(report, f"{deed}\n".encode(errors="replace"))

        sys.addaudithook(hook)

    def _is_outside(self, path: str) -> bool:
        place = Path(path).parent.resolve() / Path(path).name  # a link itself, not what it leads to
        return not str(place).startswith(self.inside)


def written(event: str, details: tuple[Any, ...]) -> list[str]:
    """The paths that an audit event is about to make, change or take away."""
    if event == "open":
        path, _, flags = details
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        paths: tuple[Any, ...] = (path,) if flags & writing else ()
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = details[:2]
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
        paths = details[:1]
    else:
        return []
    return [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]


def refuse(inside: Path, number: int, after: int = 0, *, folders: bool = True) -> Callable[[], None]:
    """For `arrange`: what is written `inside` is refused with this error's number, from the `after`-th time on."""
    where, left = str(inside), after

    def begin() -> None:
        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal left
            for path in written(event, details):
                # What is full lets files go and be renamed; what may not be written does not.
                if not path.startswith(where) or (not folders and event not in ("open", "os.mkdir")):
                    continue
                left -= 1
                if left < 0:
                    raise OSError(number, os.strerror(number), path)

        sys.addaudithook(hook)

    return begin
