"""The one exception family: every message says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from .text import and_more

_FULL = (errno.ENOSPC, errno.EDQUOT)  # the quota of one person may be used up long before the disk is

# torch loses the cause: "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534".
_OF_TORCH_WRITING = ("inline_container", "PytorchStreamWriter", "iostream error")
_NEARLY_NOTHING = 16 * 2**20


class HfDetrPanopticError(Exception):
    """Anything a user can mend.

    `what` is wrong, `where` (file, image, annotation id), and `fix` says what to do. The three stay apart as
    attributes, so that a list of skipped photos can have them as columns.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(f"{where}: {what}" if where else what)

    def __str__(self) -> str:
        sentence = f"{self.where}: {self.what}" if self.where else self.what
        return f"{sentence.rstrip('.')}. {self.fix}" if self.fix else sentence

    def __reduce__(self) -> tuple[object, ...]:
        # The default rebuilds from `args` alone and loses the keywords when a worker process sends the error back.
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[HfDetrPanopticError], what: str, where: str | None, fix: str | None) -> HfDetrPanopticError:
    return cls(what, where=where, fix=fix)


class LabelError(HfDetrPanopticError):
    """Names, labels or things and stuff that do not fit together."""


class MapError(HfDetrPanopticError):
    """An id map and its list of segments that contradict each other."""


class ImageError(HfDetrPanopticError):
    """A photo that cannot be opened, or not safely."""


class AnnotationError(HfDetrPanopticError):
    """A mark that cannot be read or does not fit its photo."""


class DatasetError(HfDetrPanopticError):
    """A dataset on disk that is not what it claims to be."""


class ModelError(HfDetrPanopticError):
    """A checkpoint, a configuration or an input that the model cannot take."""


class RecipeError(HfDetrPanopticError):
    """A setting that is unknown, of the wrong type or impossible."""


class RunError(HfDetrPanopticError):
    """A run's folder that is none, is not finished, or holds a damaged file."""


class HubError(HfDetrPanopticError):
    """Something that the Hub refuses, that should not go there, or that does not get there."""


def did_you_mean(word: object, known: Iterable[object], otherwise: str | None = None) -> str:
    """A sentence that offers the closest names; where none is near, `otherwise` or those that there are."""
    names = [str(name) for name in known]
    # The dashes that all flags begin with make none of them nearer.
    bare = {name.removeprefix("--"): name for name in names}
    close = get_close_matches(str(word).removeprefix("--"), bare, n=3, cutoff=0.6)
    if not close:
        folded = {name.casefold(): name for name in bare}
        close = [folded[hit] for hit in get_close_matches(str(word).removeprefix("--").casefold(), folded, cutoff=0.6)]
    close = [bare[name] for name in close]
    if close:
        return f"Did you mean {_either(close)}?"
    if otherwise is not None:
        return otherwise
    if not names:
        return "None are known here."
    return f"Known: {and_more(names, 12)}."


def _either(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


@contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """What the system refuses, a full disk or a folder that may not be written, in one sentence."""
    with says_a_full_disk(out, "Make room and run the same command again: it continues."):
        try:
            yield
        except OSError as error:
            if isinstance(error, HfDetrPanopticError) or is_of_a_full_disk(error, out):
                raise
            raise HfDetrPanopticError(
                f"the system refuses ({error.strerror or error})",
                where=str(error.filename or out),
                fix="Check path, permissions and disk.",
            ) from error


@contextmanager
def says_a_full_disk(folder: Path, fix: str) -> Iterator[None]:
    """For what writes into a folder: where the disk is full, one clear error instead of the library's."""
    try:
        yield
    except HfDetrPanopticError:
        raise
    except Exception as error:
        if not is_of_a_full_disk(error, folder):
            raise
        where = getattr(error, "filename", None) or folder
        raise HfDetrPanopticError("the disk is full", where=str(where), fix=fix) from error


def is_of_a_full_disk(error: BaseException, folder: Path) -> bool:
    """Whether this, or what it was raised after, is what a full disk does to those who write.

    Every library says it in its own way, and some do not say it at all.
    """
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if type(cause).__name__ == "SafetensorError" and any(f"os error {number})" in str(cause) for number in _FULL):
            return True
        if isinstance(cause, RuntimeError) and any(word in str(cause) for word in _OF_TORCH_WRITING):
            there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
            if shutil.disk_usage(there).free < _NEARLY_NOTHING:
                return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
