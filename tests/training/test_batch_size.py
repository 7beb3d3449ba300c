"""Memory: the batch that fits, and what happens when it runs out all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_detr_panoptic.dataset.batches import PanopticDataset
from hf_detr_panoptic.errors import HfDetrPanopticError, RecipeError
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training import batch_size, stages, trainer
from hf_detr_panoptic.training.batch_size import _dividing, fit_batch_size, heaviest_batch
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.stages import _Stage, run_stages, starting_model

Make = Callable[..., Recipe]


@pytest.fixture
def make(even_folder: Path, still_model_folder: Path, make_recipe: Any) -> Make:
    """Nothing is drawn and nothing padded: how photos are put together does not matter."""

    def made(output: Path, **every: Any) -> Recipe:
        augmentation = {"flip": 0.0, "short_sides": [], "crop": 0.0, "brightness": 0.0, "contrast": 0.0}
        return make_recipe(
            even_folder, still_model_folder, output, augmentation={**augmentation, "saturation": 0.0}, every=every
        )

    return made


class Memory:
    """Room for so many photos at once, from a step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 99
        self.from_step = 0
        self.seen: list[int] = []
        original = trainer.PanopticTrainer.compute_loss

        def compute_loss(own: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen.append(len(inputs["labels"]))
            if own.state.global_step >= self.from_step and self.seen[-1] > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return original(own, model, inputs, *args, **kwargs)

        monkeypatch.setattr(trainer.PanopticTrainer, "compute_loss", compute_loss)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def test_the_batch_is_made_to_fit(
    make: Make, even_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that holds two photos at most: batches of two, and twice as many of them in a step."""
    recipe = make(tmp_path / "run", per_device_train_batch_size=8)
    stage = _Stage(recipe, recipe.stages.finetune, even_splits, starting_model(recipe, even_splits.space, None), str)
    tried: list[int] = []

    def attempt(model: Any, batch: Any, args: Any) -> None:
        tried.append(len(batch["labels"]))
        if len(batch["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for _ in range(2):  # the second time, as after a resume, it is known
        stage.args.auto_find_batch_size = True
        stage.args.per_device_train_batch_size, stage.args.gradient_accumulation_steps = 8, 1
        fit_batch_size(stage.model, stage.args, stage.dataset, tmp_path / "scratch", str, attempt)
        assert (stage.args.per_device_train_batch_size, stage.args.gradient_accumulation_steps) == (2, 4)
        assert not stage.args.auto_find_batch_size
    assert tried == [8, 4, 2]

    def never(*args: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory")

    stage.args.auto_find_batch_size = True
    with pytest.raises(RecipeError, match="not even one photo fits"):
        fit_batch_size(stage.model, stage.args, stage.dataset, tmp_path / "other", str, never)

    gathered: list[int] = []
    monkeypatch.setattr(batch_size, "gather_object", lambda sizes: gathered.extend(sizes) or [*sizes, 4])
    stage.args.auto_find_batch_size = True
    with pytest.raises(RecipeError, match="not even one photo fits"):  # the other process, which found 4, is not left
        fit_batch_size(stage.model, stage.args, stage.dataset, tmp_path / "other", str, never)
    assert gathered == [0]


def test_the_canvas_that_is_tried_holds_the_tallest_and_the_widest(splits: Splits) -> None:
    """Photos of 64×96 and of 72×64: side by side they lie on 72×96."""
    dataset = PanopticDataset(splits.train, Preprocess(shortest_edge=64, longest_edge=96))
    assert {(64, 96), (72, 64)} == {row.size for row in splits.train}  # type: ignore[attr-defined]
    batch = heaviest_batch(dataset, 2)
    assert batch["pixel_values"].shape == (2, 3, 72, 96)
    assert batch["pixel_mask"].shape == (2, 72, 96)
    assert len(batch["labels"]) == 2
    assert heaviest_batch(dataset, 1)["pixel_values"].shape[0] == 1


def test_memory_that_runs_out_later(make: Make, even_splits: Splits, tmp_path: Path, memory: Memory) -> None:
    """In the second epoch there is room for one photo: from the first one's checkpoint it goes on photo by photo."""
    said: list[str] = []
    run_stages(make(tmp_path / "plain"), even_splits, stop="detection", say=str)
    memory.room, memory.from_step = 1, 4
    recipe = make(tmp_path / "run", auto_find_batch_size=True)
    run_stages(recipe, even_splits, stop="detection", say=said.append)
    assert "detection: memory ran out; it goes on with batches of 1" in said
    assert f"detection: resumed from {tmp_path / 'run/1-detection/checkpoint-3'}" in said
    assert json.loads((tmp_path / "run/1-detection/batch_size.json").read_text()) == {"per_device_train_batch_size": 1}
    assert memory.seen[-6:] == [2, 1, 1, 1, 1, 1]  # the one that failed, and then every photo of the epoch once
    found, expected = (losses(tmp_path / run / "1-detection/checkpoint-6") for run in ("run", "plain"))
    assert len(found) == 6
    assert found == pytest.approx(expected, rel=1e-5)


def losses(checkpoint: Path) -> list[float]:
    """Of each step: where weights differ, the next one's differs, too."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_without_leave_to_shrink_it_says_what_to_lower(
    make: Make, even_splits: Splits, tmp_path: Path, memory: Memory
) -> None:
    memory.room, memory.from_step = 1, 4
    with pytest.raises(HfDetrPanopticError, match="memory ran out in detection, at 2 photos.*auto_find_batch_size"):
        run_stages(make(tmp_path / "run"), even_splits, stop="detection", say=str)
    halved = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    with pytest.raises(RecipeError, match="per_device_train_batch_size × gradient_accumulation_steps"):
        run_stages(make(tmp_path / "run", per_device_train_batch_size=1), even_splits, say=str)
    (end,) = run_stages(make(tmp_path / "run", **halved), even_splits, stop="detection", say=str)
    assert end.steps == 6
    memory.room = memory.from_step = 0
    with pytest.raises(HfDetrPanopticError, match=r"at 1 photo a.*gradient_checkpointing"):
        run_stages(make(tmp_path / "one", **halved), even_splits, stop="detection", say=str)


def test_other_processes_would_wait(
    make: Make, even_splits: Splits, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several processes the next start goes on with half of the batch."""
    memory.room, memory.from_step = 1, 4
    recipe = make(tmp_path / "run", auto_find_batch_size=True)
    halve = stages.halve_batch_size

    def with_others(folder: Path) -> int | None:
        monkeypatch.setitem(stages.PartialState._shared_state, "num_processes", 2)
        return halve(folder)

    monkeypatch.setattr(stages, "halve_batch_size", with_others)
    with pytest.raises(HfDetrPanopticError, match="same command resumes from the last checkpoint, with batches of 1"):
        run_stages(recipe, even_splits, stop="detection", say=str)


def test_memory_that_runs_out_in_an_evaluation(
    make: Make, even_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*args: Any) -> None:
        raise RuntimeError("OutOfMemoryError('CUDA out of memory.')")  # as another process reports it

    monkeypatch.setattr(trainer, "box_precision", evaluate)
    with pytest.raises(HfDetrPanopticError, match="while detection was evaluated.*per_device_eval_batch_size"):
        run_stages(make(tmp_path / "run"), even_splits, stop="detection", say=str)


@pytest.mark.parametrize(
    ("wanted", "most", "size"), [(5, 2, 1), (14, 7, 7), (14, 6, 2), (16, 8, 8), (6, 3, 3), (4, 0, 1)]
)
def test_the_global_batch_stays(wanted: int, most: int, size: int) -> None:
    assert _dividing(wanted, most) == size
