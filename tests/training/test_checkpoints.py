"""A checkpoint counts when its marker is there; halves are never resumed from, and never kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_detr_panoptic.training import checkpoints


def checkpoint(output: Path, step: int, complete: bool = True) -> Path:
    folder = checkpoints.checkpoint_folder(output, step)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if complete:
        checkpoints.mark_complete(folder, step=step)
    return folder


def test_the_last_complete_one_counts(tmp_path: Path) -> None:
    assert checkpoints.last_complete(tmp_path) is None
    checkpoint(tmp_path, 9)
    whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 100, complete=False)
    (tmp_path / "checkpoint-best").mkdir()  # not ours
    assert checkpoints.last_complete(tmp_path) == whole
    assert checkpoints.read_marker(whole) == {"step": 10}


def test_rotation_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 12, complete=False)
    checkpoints.rotate(tmp_path, limit=2, best_step=4)
    assert [checkpoints.step_of(folder) for folder in checkpoints.checkpoints(tmp_path)] == [4, 8, 10]
    checkpoints.rotate(tmp_path, limit=None, best_step=None)
    assert len(checkpoints.checkpoints(tmp_path)) == 3


def test_a_kill_while_removing_leaves_none_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path, 4)
    monkeypatch.setattr("shutil.rmtree", lambda path: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        checkpoints.remove(folder)
    assert checkpoints.last_complete(tmp_path) is None
