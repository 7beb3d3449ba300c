"""The one exception family: every message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """A sentence that offers the closest known names, or all of them if there are few."""
    names = [str(name) for name in known]
    close = get_close_matches(str(word), names, n=3, cutoff=0.6)
    if not close:
        by_fold = {name.casefold(): name for name in names}
        close = [by_fold[hit] for hit in get_close_matches(str(word).casefold(), by_fold, n=3, cutoff=0.6)]
    if close:
        return f"Did you mean {_either(close)}?"
    if not names:
        return "None are known here."
    if len(names) <= 12:
        return f"Known: {', '.join(names)}."
    return f"Known: {', '.join(names[:12])} and {len(names) - 12} more."


def _either(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
