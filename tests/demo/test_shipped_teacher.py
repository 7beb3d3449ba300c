"""The teacher that comes with the package: small, and ignorant of what the person marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_detr_panoptic.demo import demo as shipped_teacher
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import CUSTOM, TEACHER
from hf_detr_panoptic.errors import ModelError

FOLDER = Path(shipped_teacher.__file__).parent / "teacher"


def test_where_it_is_missing_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped_teacher, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="the demo's teacher is not there"):
        teacher_folder()


def test_it_is_small_and_does_not_know_the_persons_classes() -> None:
    from hf_detr_panoptic import DetrForPanopticSegmentation

    assert teacher_folder() == FOLDER
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert (FOLDER / "model.safetensors").stat().st_size <= 3_000_000
    model = DetrForPanopticSegmentation.from_pretrained(FOLDER)
    assert model.label_space == TEACHER
    assert not set(model.label_space.names) & set(CUSTOM.names)
