"""A full disk, in one sentence: every library that writes says it in its own way, and some do not say it at all."""

from __future__ import annotations

import errno
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from safetensors import SafetensorError

from ..errors import HfDetrPanopticError
from ..recipe import Recipe

_ERRORS = (errno.ENOSPC, errno.EDQUOT)  # the quota of one person may be used up long before the disk is

# torch loses the cause: "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534".
_OF_TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")
_NEARLY_NOTHING = 16 * 2**20

P = ParamSpec("P")
R = TypeVar("R")


def says_a_full_disk(work: Callable[Concatenate[Recipe, P], R]) -> Callable[Concatenate[Recipe, P], R]:
    """For what writes into the run's folder: where the disk is full, one clear error instead of the library's."""

    @functools.wraps(work)
    def explained(recipe: Recipe, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return work(recipe, *args, **kwargs)
        except HfDetrPanopticError:
            raise
        except Exception as error:
            if not is_of_a_full_disk(error, Path(recipe.output)):
                raise
            raise HfDetrPanopticError(
                "the disk is full",
                where=recipe.output,
                fix="Make room and run the same command: it resumes from the last checkpoint.",
            ) from error

    return explained


def is_of_a_full_disk(error: BaseException, folder: Path) -> bool:
    """Whether this, or what it was raised after, is what a full disk does to those who write."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _ERRORS:
            return True
        if isinstance(cause, SafetensorError) and any(f"os error {number})" in str(cause) for number in _ERRORS):
            return True
        if isinstance(cause, RuntimeError) and any(word in str(cause) for word in _OF_TORCH_WRITING):
            there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
            if shutil.disk_usage(there).free < _NEARLY_NOTHING:
                return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
