"""What the system refuses, a full disk or a folder that may not be written, as an error of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import HfDetrPanopticError


@contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """What the system refuses, in one sentence."""
    try:
        yield
    except OSError as error:
        if isinstance(error, HfDetrPanopticError):
            raise
        where = str(error.filename or out)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HfDetrPanopticError(
                "the disk is full", where=where, fix="Make room and run the same command again: it continues."
            ) from error
        raise HfDetrPanopticError(
            f"the system refuses ({error.strerror or error})", where=where, fix="Check path, permissions and disk."
        ) from error
