import errno
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from hf_detr_panoptic.errors import (
    AnnotationError,
    HfDetrPanopticError,
    RecipeError,
    clear_errors,
    did_you_mean,
    says_a_full_disk,
)


def test_a_message_says_where_what_and_what_to_do() -> None:
    error = AnnotationError("the polygon has 4 numbers", where="a.json, annotation 7", fix="Draw it again.")
    assert str(error) == "a.json, annotation 7: the polygon has 4 numbers. Draw it again."
    assert str(AnnotationError("the polygon has 4 numbers")) == "the polygon has 4 numbers"
    assert isinstance(error, HfDetrPanopticError)


def test_an_error_survives_the_way_home_from_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(AnnotationError("bad", where="a.json", fix="Mend it.")))
    assert type(error) is AnnotationError
    assert (error.what, error.where, error.fix) == ("bad", "a.json", "Mend it.")


@pytest.mark.parametrize(
    ("word", "known", "sentence"),
    [
        ("persn", ["person", "car"], "Did you mean 'person'?"),
        ("PERSON", ["person", "car"], "Did you mean 'person'?"),
        ("boats", ["boat", "boot"], "Did you mean 'boat' or 'boot'?"),
        ("zebra", ["person", "car"], "Known: person, car."),
        ("zebra", [], "None are known here."),
        ("--device", ["--duplicate"], "Known: --duplicate."),  # the dashes are no likeness
        ("--Devices", ["--device"], "Did you mean '--device'?"),
        ("q", [f"name{n}" for n in range(20)], "Known: " + ", ".join(f"name{n}" for n in range(12)) + " and 8 more."),
    ],
)
def test_did_you_mean(word: str, known: list[str], sentence: str) -> None:
    assert did_you_mean(word, known) == sentence


# --- a full disk, by the errors that were seen on a small tmpfs, and errors that only look alike

TORCH = "[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"


def raising(error: Exception, before: Exception | None = None) -> None:
    try:
        if before is not None:
            raise before
    finally:
        raise error


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
def test_every_library_in_the_same_words(error: Exception, free: Callable[[int], None]) -> None:
    free(0)
    with (
        pytest.raises(HfDetrPanopticError, match="the disk is full.*Make room.*resumes") as caught,
        says_a_full_disk(Path("runs/site"), "Make room: it resumes."),
    ):
        raising(error)
    assert caught.value.where == str(Path("runs/site"))
    assert caught.value.__cause__ is error


def test_what_torch_raises_after_the_disks_own_error(free: Callable[[int], None]) -> None:
    """It writes to a file of Python's where the name is not ASCII; by then its half of a file may be gone."""
    free(2**40)
    with pytest.raises(HfDetrPanopticError, match="the disk is full"), says_a_full_disk(Path("runs"), ""):
        raising(RuntimeError(TORCH), before=OSError(errno.ENOSPC, "No space left on device"))


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
def test_other_errors_stay_as_they_are(error: Exception, free: Callable[[int], None]) -> None:
    free(2**40)
    with pytest.raises(type(error)) as caught, says_a_full_disk(Path("runs"), ""):
        raising(error)
    assert caught.value is error


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    refused = pytest.raises(HfDetrPanopticError, match=r"taken: the system refuses \(.*\)\. Check path")
    with refused as caught, clear_errors(tmp_path):
        (tmp_path / "taken").mkdir()
    assert caught.value.where == str(tmp_path / "taken")
    with pytest.raises(HfDetrPanopticError, match=r"a\.bin: the disk is full.*it continues"), clear_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "a.bin")
    mine = RecipeError("the recipe is empty")
    with pytest.raises(RecipeError) as kept, clear_errors(tmp_path):
        raise mine
    assert kept.value is mine
