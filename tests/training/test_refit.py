"""Once more on all photos, in the steps that were best; what was measured stays what it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made import quality
from safetensors.torch import load_file

from hf_detr_panoptic.evaluation.calibrate import Calibration, Figures, shift_logits
from hf_detr_panoptic.stage_settings import Stage
from hf_detr_panoptic.training import refit as refit_file
from hf_detr_panoptic.training import stages
from hf_detr_panoptic.training.refit import refit_recipe
from hf_detr_panoptic.training.run_folder import StageEnd, finished
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.stages import run_stages
from hf_detr_panoptic.training.train import run_recipe, summary

pytestmark = pytest.mark.bits

FIGURES = Figures(0.5, 0.5)
CHOSEN = Calibration(-0.5, 1.0, (0.85, 0.9), 3, 3, FIGURES, FIGURES, 0.5, FIGURES, FIGURES)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def ended(name: str, steps: int, best_epoch: float | None, rows: Any = ()) -> StageEnd:
    result = quality(0.5)
    return StageEnd(name, Path(name), result, "pq", 0.5, 0.4, best_epoch, steps, "all of it", tuple(rows))


def test_the_final_model_has_learnt_from_all(
    make_recipe: Any, shapes_folder: Path, model_folder: Path, splits: Splits, tmp_path: Path, monkeypatch: Any
) -> None:
    """The same weights as those steps on all ten photos by hand, shifted as the first run was; run again, it rests."""

    def chosen(model: Any, rows: Any, **settings: Any) -> Calibration:
        shift_logits(model, CHOSEN.no_object, CHOSEN.yours)
        model.settings = model.settings.changed(threshold=0.85)
        return CHOSEN

    monkeypatch.setattr(stages, "calibrate", chosen)
    every = {"num_train_epochs": 2}
    skipped = {"stages": {"mask_head": {"skip": True}}}
    run = tmp_path / "run"
    recipe = make_recipe(shapes_folder, model_folder, run, every=every, calibrate=True, refit=True, **skipped)
    ends = run_recipe(recipe)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["refit"] == 10
    assert metrics["final"] == metrics["stages"]["finetune"] == json.loads(json.dumps(ends[-1].result))
    final = weights(run / "final")
    assert equal(final, weights(run / "refit" / "3-finetune"))
    assert not equal(final, weights(run / "3-finetune"))

    everything = Splits([*splits.train, *splits.val], splits.val, splits.space)
    steps = {end.name: {row["epoch"]: row["step"] for row in end.rows}[end.best_epoch] for end in ends}
    by_hand = make_recipe(shapes_folder, model_folder, tmp_path / "hand", every={"eval_strategy": "no"}, **skipped)
    in_steps = {
        name: Stage.of(
            name,
            **{
                key: value
                for key, value in getattr(by_hand.stages, name).to_dict().items()
                if key != "num_train_epochs"
            }
            | {"max_steps": number},
        )
        for name, number in steps.items()
    }
    run_stages(by_hand.changed(stages=by_hand.stages.changed(**in_steps)), everything, say=str)
    plain = weights(tmp_path / "hand" / "final")
    changed = {name for name in plain if not torch.equal(plain[name], final[name])}
    (name,) = changed
    assert name.endswith("class_labels_classifier.bias")
    own = [float(category.source == "custom") for category in splits.space]
    assert (final[name] - plain[name]).tolist() == pytest.approx([*own, -0.5], abs=1e-6)
    assert json.loads((run / "final" / "config.json").read_text())["hf_detr_panoptic"]["threshold"] == 0.85

    shutil.rmtree(run / "final")
    monkeypatch.setattr(stages._Stage, "run", None)  # whoever trained again would call it
    run_recipe(recipe)
    assert equal(weights(run / "final"), final)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert "learnt from the photos of validation too" in summary(ends, recipe)


def test_it_waits_for_the_last_stage(
    make_recipe: Any, shapes_folder: Path, model_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(refit_file, "refit", lambda *told: called.append(told))
    every = {"num_train_epochs": 1}
    recipe = make_recipe(shapes_folder, model_folder, tmp_path / "run", every=every, refit=True)
    run_recipe(recipe, stop="detection")
    assert finished(recipe.output, "detection") is not None
    assert not called


def test_steps_are_those_of_the_best_and_the_rate_falls_at_the_same_one(
    make_recipe: Any, shapes_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    """By hand: 10 steps an epoch, the best after 20 epochs of 25, a drop after 15: 200 steps, a drop at 0.75 of them.

    A drop that lies behind the best one never comes; without evaluations all steps count.
    """
    drops = {"detection": {"lr_drop": 15.0}, "mask_head": {"lr_drop": 23.0}}
    recipe = make_recipe(shapes_folder, model_folder, tmp_path / "run", every={"num_train_epochs": 25}, stages=drops)
    rows = [
        {"stage": stage, "epoch": float(epoch), "step": 10 * epoch}
        for stage in ("detection", "mask_head")
        for epoch in range(1, 26)
    ]
    ends = [
        ended("detection", 250, 20.0, rows[:25]),
        ended("mask_head", 250, 20.0, rows[25:]),
        ended("finetune", 250, None),
    ]
    changed = refit_recipe(recipe, ends)
    detection, mask_head, _ = changed.stages
    assert [stage.training_arguments["max_steps"] for stage in changed.stages] == [200, 200, 250]
    assert detection.lr_drop == pytest.approx(0.75)
    assert mask_head.lr_drop is None
    assert all(stage.training_arguments["eval_strategy"] == "no" for stage in changed.stages)
    assert all("num_train_epochs" not in stage.training_arguments for stage in changed.stages)
    assert changed.output == str(tmp_path / "run" / "refit")
    assert (changed.calibrate, changed.refit, changed.push) == (False, False, None)
