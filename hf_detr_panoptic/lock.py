"""One command at a time in a folder that it writes to; a second one is told who has it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import HfDetrPanopticError, clear_errors
from .parallel import by_first, guard_processes, launched

LOCK = ".lock"

_held: dict[Path, int] = {}  # folder → descriptor of its lock


class LockedError(HfDetrPanopticError):
    """Another command writes there."""


@contextlib.contextmanager
def locked(folder: str | Path, *, together: bool = True) -> Iterator[None]:
    """The folder is this command's while the block lasts; raises if it is another's.

    The system keeps the lock and lets it go when its process ends, however that ends: what a dead process of this
    machine left is taken over. What another machine left may be alive, so that one asks. Of processes that a launcher
    started the first one holds it, for all; not `together` where one of them alone is here.
    """
    path = Path(folder).resolve()
    with contextlib.ExitStack() as held:
        if together and launched() > 1:
            guard_processes(timedelta(days=7))
            by_first(lambda: held.enter_context(_locked(path)))
        else:
            held.enter_context(_locked(path))
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if folder in _held:
        yield
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with clear_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _held[folder] = _take(folder / LOCK)
        try:
            yield
        finally:
            if _held.pop(folder, None) == descriptor:
                _release(folder / LOCK, descriptor)
    finally:
        with contextlib.suppress(OSError):  # a command that wrote nothing leaves no folder
            for each in made:
                each.rmdir()


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            answer = _ask_system(descriptor)
            there = _holder(descriptor)
            elsewhere = there.get("host", socket.gethostname()) != socket.gethostname()
            if answer is False or elsewhere or (answer is None and _is_alive(there.get("process"))):
                raise _locked_by(there, path, elsewhere)
            if _is_at(path, descriptor):
                since = datetime.now().astimezone().isoformat(" ", "minutes")
                content = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(content).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was let go, and with it removed, while this one was opened


def _release(path: Path, descriptor: int) -> None:
    steps = [lambda: path.unlink(missing_ok=True), lambda: os.close(descriptor)]
    for step in reversed(steps) if os.name == "nt" else steps:  # Windows removes no open file
        with contextlib.suppress(OSError):
            step()


def _ask_system(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows none."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # nobody could read the bytes that are locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return None
        raise
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    """Who wrote it; nothing where its writer was cut short, or has only begun."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        content = json.loads(os.read(descriptor, 4096))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_alive(process: Any) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except OSError:
        return True
    return True


def _locked_by(there: dict[str, Any], path: Path, elsewhere: bool) -> LockedError:
    who = "another command writes there"
    if there:
        who += f": process {there.get('process')} on {there.get('host')}, since {there.get('since')}"
    fix = "Wait for it, end it, or write to another folder."
    if elsewhere:
        fix = f"If that process is no more, remove {path} and run the same command again."
    return LockedError(who, where=str(path.parent), fix=fix)


def _let_go() -> None:
    """In a forked child, which would keep the lock of a parent that is killed."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
