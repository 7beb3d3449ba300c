"""A full disk by the errors that were seen on a small tmpfs, and errors that only look alike."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from hf_detr_panoptic.errors import HfDetrPanopticError, RecipeError
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.full_disk import says_a_full_disk

TORCH = "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe.from_dict({"data": "x", "output": str(tmp_path / "runs" / "site")})


def failing(error: Exception, before: Exception | None = None) -> Callable[[Recipe], None]:
    @says_a_full_disk
    def work(recipe: Recipe) -> None:
        try:
            if before is not None:
                raise before
        finally:
            raise error

    return work


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """How many bytes the disk is said to have left."""
    return lambda left: monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=left))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError(TORCH),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_every_library_in_the_same_words(error: Exception, recipe: Recipe, free: Callable[[int], None]) -> None:
    free(0)
    with pytest.raises(HfDetrPanopticError, match="the disk is full.*Make room.*resumes") as caught:
        failing(error)(recipe)
    assert caught.value.where == recipe.output
    assert caught.value.__cause__ is error


def test_what_torch_raises_after_the_disks_own_error(recipe: Recipe, free: Callable[[int], None]) -> None:
    """It writes to a file of Python's where the name is not ASCII; by then its half of a file may be gone."""
    free(2**40)
    with pytest.raises(HfDetrPanopticError, match="the disk is full"):
        failing(RuntimeError(TORCH), before=OSError(errno.ENOSPC, "No space left on device"))(recipe)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(TORCH),
        OSError(errno.EACCES, "Permission denied"),
        SafetensorError("Error while deserializing header: header too large"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RecipeError("the recipe is empty"),
    ],
)
def test_other_errors_stay_as_they_are(error: Exception, recipe: Recipe, free: Callable[[int], None]) -> None:
    free(2**40)
    with pytest.raises(type(error)) as caught:
        failing(error)(recipe)
    assert caught.value is error
