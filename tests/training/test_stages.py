"""The three stages: hand-over, what lies in the run's folder, interruptions, and what is refused before hours pass."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import recipe_of
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DetrForSegmentation

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError, RecipeError
from hf_detr_panoptic.evaluation.calibrate import Calibration, Figures, shift_logits
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labels import LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.postprocess import choose_queries, postprocess
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.stage_settings import Stage
from hf_detr_panoptic.training import checkpoints, stages
from hf_detr_panoptic.training.callbacks import Patience, device_name
from hf_detr_panoptic.training.run_folder import StageEnd
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.stages import (
    Estimate,
    Interrupted,
    _Stage,
    rehearse,
    run_stages,
    starting_model,
    together,
)

FOLDERS = ("1-detection", "2-mask_head", "3-finetune", "final")
Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def make(shapes_folder: Path, model_folder: Path, make_recipe: Any) -> Make:
    def made(output: Path, **changes: Any) -> Recipe:
        changes["every"] = {"num_train_epochs": 1, **changes.get("every", {})}
        return make_recipe(shapes_folder, model_folder, output, **changes)

    return made


def test_no_donor_is_of_the_validation_photos(make: Make, splits: Splits, tmp_path: Path) -> None:
    recipe = make(tmp_path / "run", augmentation={"paste": 1.0})
    model = starting_model(recipe, splits.space, None)
    donors = _Stage(recipe, recipe.stages.detection, splits, model, lambda line: None, tmp_path).dataset.donors
    assert donors is not None
    places = {donor.place for of in donors.of_label.values() for donor in of}
    assert {donors.rows[place].image_id for place in places} == {row.image_id for row in splits.train}
    assert not {row.image_id for row in donors.rows} & {row.image_id for row in splits.val}


@pytest.fixture(scope="session")
def finished_run(make: Make, splits: Splits, tmp_path_factory: Any) -> tuple[Path, list[str], list[StageEnd]]:
    """A run of one epoch a stage: its folder, what it said, and what its stages ended with."""
    output = tmp_path_factory.mktemp("finished") / "run"
    said: list[str] = []
    told: list[StageEnd] = []
    ends = run_stages(make(output), splits, say=said.append, at_stage_end=told.append)
    assert told == ends
    return output, said, ends


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_lies_in_the_folder(finished_run: Any) -> None:
    output, _, _ = finished_run
    expected = {*FOLDERS, "recipe.yaml", "results.csv", "metrics.json", "per_class.csv"}
    expected |= {"environment.json", "dataset.json"}
    assert {path.name for path in output.iterdir()} == expected
    metrics = json.loads((output / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["detection", "mask_head", "finetune"]
    assert metrics["stages"]["detection"]["pq"] is None
    assert metrics["stages"]["detection"]["box"]["all"]["ap"] is not None
    assert metrics["final"] == metrics["stages"]["finetune"]
    assert metrics["final"]["pq"] is not None
    with (output / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["step"]) for row in rows] == [(name[2:], "4") for name in FOLDERS[:3]]
    assert all(float(row["loss"]) > 0 for row in rows)
    for folder in FOLDERS[:3]:
        end, saved = (
            json.loads((output / name / "complete.json").read_text()) for name in (folder, f"{folder}/checkpoint-4")
        )
        assert end["seconds"] >= saved["seconds"] > 0
        assert end["peak_memory_mb"] > 100  # torch alone takes more
    assert Recipe.load(output / "recipe.yaml") == Recipe.from_dict(Recipe.load(output / "recipe.yaml").to_dict())


def test_each_stage_begins_where_the_one_before_ended(finished_run: Any) -> None:
    output, said, ends = finished_run
    detection, mask_head = weights(output / "1-detection"), weights(output / "2-mask_head")
    frozen = [name for name in detection if not name.startswith(("mask_head", "bbox_attention"))]
    assert all(torch.equal(detection[name], mask_head[name]) for name in frozen)
    assert same(output / "3-finetune", output / "final")
    assert not same(output / "2-mask_head", output / "3-finetune")
    assert [end.trained for end in ends] == [line for line in said if line.endswith("trained")]
    for folder in FOLDERS[:3]:
        assert same(output / folder, output / folder / "checkpoint-4")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_stage_folder_is_a_plain_model(finished_run: Any, splits: Splits, folder: str) -> None:
    where = finished_run[0] / folder
    ours = DetrForPanopticSegmentation.from_pretrained(where).eval()
    plain, info = DetrForSegmentation.from_pretrained(where, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    photo = open_image(splits.val[0].photo)
    pixels = ours.preprocess(photo)[None]
    with torch.no_grad():
        mine, theirs = ours(pixels), plain.eval()(pixels)
    for name in ("logits", "pred_boxes", "pred_masks"):
        assert torch.allclose(mine[name], theirs[name], atol=1e-5), name
    (kept,) = choose_queries(theirs.logits, ours.label_space, 0.05)
    settings = ours.settings.changed(threshold=0.05)
    size = (photo.height, photo.width)
    assert len(kept)
    by_plain = postprocess(kept, theirs.pred_masks[0, kept.queries], ours.label_space, size, settings)
    by_ours = postprocess(kept, mine.pred_masks[0, kept.queries], ours.label_space, size, settings)
    assert np.array_equal(by_plain.ids, by_ours.ids)
    assert not (where / "training_args.bin").exists()


def test_a_finished_run_is_not_run_again(finished_run: Any, make: Make, splits: Splits) -> None:
    output, _, ends = finished_run
    said: list[str] = []
    assert run_stages(make(output), splits, say=said.append) == ends
    assert all("finished before" in line for line in said)
    assert len(said) == 3


def test_stopping_earlier_changes_nothing_in_a_finished_run(finished_run: Any, make: Make, splits: Splits) -> None:
    output, _, ends = finished_run
    names = ("metrics.json", "per_class.csv", "results.csv")
    before = [(output / name).read_bytes() for name in names]
    assert run_stages(make(output), splits, stop="detection", say=str) == ends
    assert [(output / name).read_bytes() for name in names] == before
    assert same(output / "3-finetune", output / "final")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_resumably(
    finished_run: Any, make: Make, splits: Splits, tmp_path: Path, number: signal.Signals
) -> None:
    recipe = make(tmp_path / "run")

    class KillsAfterSix(Tracked):
        def log(self, figures: Any, step: int) -> None:
            if step == 6:
                os.kill(os.getpid(), number)

    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        run_stages(recipe, splits, say=lambda line: None, tracker=KillsAfterSix())
    assert caught.value.number == number
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert checkpoints.last_complete(tmp_path / "run" / "2-mask_head") == tmp_path / "run/2-mask_head/checkpoint-3"
    run_stages(recipe, splits, say=lambda line: None)
    for folder in FOLDERS:
        assert same(tmp_path / "run" / folder, finished_run[0] / folder), folder


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["after the signal", "in the last evaluation"])
def test_no_step_too_many_after_an_interruption(
    make: Make, splits: Splits, tmp_path: Path, monkeypatch: Any, dies: str
) -> None:
    """Two steps of an epoch of four, and the signal in the last one: nothing is left to train."""
    recipe, undisturbed = (_of_two_steps(make(tmp_path / name)) for name in ("run", "other"))
    (whole,) = run_stages(undisturbed, splits, stop="detection", say=str)

    with monkeypatch.context() as patch:
        steps_seen: list[int] = []
        on_step_end = stages.StopOnSignal.on_step_end

        def at_the_last(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps_seen.append(state.global_step)
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            on_step_end(self, args, state, control, **kwargs)

        patch.setattr(stages.StopOnSignal, "on_step_end", at_the_last)
        if dies == "in the last evaluation":
            patch.setattr(
                "hf_detr_panoptic.training.trainer.PanopticTrainer.evaluate", lambda *args, **kw: pytest.fail("killed")
            )
        with pytest.raises(pytest.fail.Exception if dies == "in the last evaluation" else Interrupted):
            run_stages(recipe, splits, stop="detection", say=str)
        assert steps_seen == [1, 2]
    (end,) = run_stages(recipe, splits, stop="detection", say=str)
    assert (end.steps, end.best, end.last) == (2, whole.best, whole.last)
    assert same(tmp_path / "run" / "1-detection", tmp_path / "other" / "1-detection")
    rows, others = ((tmp_path / name / "results.csv").read_text() for name in ("run", "other"))
    assert rows == others


def _of_two_steps(recipe: Recipe) -> Recipe:
    content = recipe.to_dict()
    for stage in content["stages"].values():
        del stage["num_train_epochs"]
        stage |= {"max_steps": 2, "lr_drop": None}
    return Recipe.from_dict(content)


@pytest.mark.slow
def test_a_signal_in_mid_epoch_evaluates_nothing(make: Make, splits: Splits, tmp_path: Path, monkeypatch: Any) -> None:
    """The undisturbed run does not either: its rows, and the best of them, are the same."""
    recipe, undisturbed = make(tmp_path / "run"), make(tmp_path / "other")
    run_stages(undisturbed, splits, stop="detection", say=str)
    with monkeypatch.context() as patch:
        on_step_end = stages.StopOnSignal.on_step_end

        def at_the_second(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            on_step_end(self, args, state, control, **kwargs)

        patch.setattr(stages.StopOnSignal, "on_step_end", at_the_second)
        with pytest.raises(Interrupted):
            run_stages(recipe, splits, stop="detection", say=str)
    run_stages(recipe, splits, stop="detection", say=str)
    rows, others = ((tmp_path / name / "results.csv").read_text() for name in ("run", "other"))
    assert rows == others
    assert same(tmp_path / "run" / "1-detection", tmp_path / "other" / "1-detection")


class Tracked:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, str]] = []
        self.shown: list[tuple[int, str, list[Any]]] = []

    def log(self, figures: Any, step: int) -> None:
        self.figures.extend((step, name) for name in figures)

    def show(self, title: str, found: Any, step: int) -> None:
        self.shown.append((step, title, list(found)))


def test_a_tracker_sees_one_run(make: Make, splits: Splits, tmp_path: Path) -> None:
    seen = Tracked()
    ends = run_stages(make(tmp_path / "run", postprocess={"threshold": 0.0}), splits, say=str, tracker=seen)
    steps = [step for step, _ in seen.figures]
    assert steps == sorted(steps)
    assert {step for step, name in seen.figures if name == "mask_head/loss_dice"} == {5, 6, 7, 8}
    assert (4, "detection/eval_box_ap") in seen.figures
    assert (4, "detection/ap/sky") in seen.figures
    assert (12, "finetune/pq/sky") in seen.figures
    assert [(step, title) for step, title, _ in seen.shown] == [
        (8, "mask_head/validation"),
        (12, "finetune/validation"),
    ]
    model = DetrForPanopticSegmentation.from_pretrained(ends[-1].folder)  # one evaluation: it saw the best
    for row, map in seen.shown[-1][2]:
        (expected,) = model.segment(row.photo)
        assert map == expected
    assert [row for row, _ in seen.shown[-1][2]] == list(splits.val)


def test_start_stop_and_skip(make: Make, splits: Splits, tmp_path: Path) -> None:
    with_a_worker = make(tmp_path / "a", every={"dataloader_num_workers": 1})
    names = [end.name for end in run_stages(with_a_worker, splits, stop="detection", say=str)]
    assert names == ["detection"]
    assert multiprocessing.active_children() == []  # one that is left to the garbage collector stays
    assert same(tmp_path / "a" / "1-detection", tmp_path / "a" / "final")
    skipping = make(tmp_path / "b", stages={"detection": {"skip": True}, "finetune": {"skip": True}})
    assert [end.name for end in run_stages(skipping, splits, say=str)] == ["mask_head"]
    whole = make(tmp_path / "b")
    with pytest.raises(RecipeError, match="mask_head was trained before detection"):
        run_stages(whole, splits, say=str)
    assert not (tmp_path / "b" / "1-detection").exists()
    assert len(run_stages(whole, splits, start="mask_head", stop="mask_head", say=str)) == 1
    with pytest.raises(RecipeError, match="no stage is left"):
        run_stages(skipping, splits, start="finetune", say=str)
    with pytest.raises(RecipeError, match="Did you mean 'mask_head'"):
        run_stages(skipping, splits, start="mask_hed", say=str)


def test_another_recipe_is_refused(finished_run: Any, make: Make, splits: Splits) -> None:
    output = finished_run[0]
    with pytest.raises(RecipeError, match=r"stages\.mask_head\.learning_rate.*another `output`"):
        run_stages(make(output, stages={"mask_head": {"learning_rate": 0.5}}), splits, say=str)
    with pytest.raises(RecipeError, match="seed"):
        run_stages(make(output, seed=7), splits, say=str)
    run_stages(make(output, every={"logging_steps": 3}), splits, say=str)  # changes nothing that is learnt


def test_the_estimate_changes_nothing(make: Make, splits: Splits, tmp_path: Path) -> None:
    recipe = make(tmp_path / "run")
    model = starting_model(recipe, splits.space, None)
    trainer = _Stage(recipe, recipe.stages.finetune, splits, model, str, tmp_path / "scratch").trainer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    estimate = rehearse(trainer, 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (estimate.steps, estimate.evaluations) == (4, 2)
    assert estimate.step_seconds > 0
    said: list[str] = []
    assert run_stages(recipe, splits, estimate=True, say=said.append) == []
    assert sum("GB of disk" in line for line in said) == 3
    assert said[-1].startswith("together: about 0:0")
    assert not (tmp_path / "run").exists()


def test_an_estimate_says_hours_and_money() -> None:
    cpu = torch.device("cpu")
    stages = [Estimate(name, 1800, 2.0, 9, 40.0, 1.0, 1.0) for name in ("detection", "finetune")]  # 3600 + 360 s each
    assert together(stages, cpu, None, refit=False) == f"together: about 2:12:00 on {device_name(cpu)}"
    priced = together(stages, cpu, 2.5, refit=True)
    assert priced.startswith("together: about 4:12:00 on ")
    assert priced.endswith(", 2:00:00 of it for `refit`; at 2.5 an hour 10.50")


def test_patience() -> None:
    args: Any = type("Args", (), {"metric_for_best_model": "pq", "greater_is_better": True})
    history = [{"eval_pq": value} for value in (0.1, 0.3, 0.2, 0.3)]
    assert [Patience(2).is_over(args, history[:length]) for length in range(5)] == [False, False, False, False, True]
    assert not Patience(3).is_over(args, history)


def test_an_early_end_is_kept_after_a_kill(make: Make, splits: Splits, tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped for lack of progress, killed before the stage was saved: resumed, it must not train on."""
    recipe = make(tmp_path / "run", stages={"detection": {"early_stopping": 1, "num_train_epochs": 5}})
    figures = iter([0.5, 0.4])

    def falling(self: Any, rows: Any = None) -> dict[str, Any]:
        groups = {name: {"ap": next(figures, 0.4), "ap50": 0.0, "ap75": 0.0} for name in ("all",)}
        groups["yours"] = groups["all"]
        self.last_result = groups | {name: {"ap": 0.0, "ap50": 0.0, "ap75": 0.0} for name in ("things", "stuff")}
        return self.last_result

    monkeypatch.setattr("hf_detr_panoptic.training.trainer.PanopticTrainer.measure", falling)
    with monkeypatch.context() as patch:
        patch.setattr(StageEnd, "mark", lambda self: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            run_stages(recipe, splits, stop="detection", say=str)
    folder = tmp_path / "run" / "1-detection"
    assert checkpoints.last_complete(folder) == folder / "checkpoint-8"
    (end,) = run_stages(recipe, splits, stop="detection", say=str)
    assert (end.steps, end.best, end.best_epoch) == (8, 0.5, 1.0)
    assert same(folder, folder / "checkpoint-4")
    assert checkpoints.last_complete(folder) == folder / "checkpoint-8"


def test_the_last_stage_ends_calibrated(make: Make, splits: Splits, tmp_path: Path, monkeypatch: Any) -> None:
    """Of the class head's bias, what was chosen; the figures are those of the shifted model, at its new threshold."""
    figures = Figures(0.5, 0.5)
    told = Calibration(-0.5, 1.0, (0.85, 0.9), 3, 3, figures, figures, 0.5, figures, figures)

    def chosen(model: Any, rows: Any, **settings: Any) -> Calibration:
        assert rows is splits.val
        shift_logits(model, told.no_object, told.yours)
        model.settings = model.settings.changed(threshold=0.85)
        return told

    monkeypatch.setattr(stages, "calibrate", chosen)
    plain = run_stages(make(tmp_path / "plain"), splits, say=str)
    ends = run_stages(make(tmp_path / "run", calibrate=True), splits, say=str)
    assert "calibration" not in plain[-1].result
    assert ["calibration" in end.result for end in ends] == [False, False, True]
    assert ends[-1].result["calibration"]["no_object"] == -0.5
    before, after = weights(tmp_path / "plain" / "final"), weights(tmp_path / "run" / "final")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if name.endswith("class_labels_classifier.bias")}
    custom = [category.source == "custom" for category in splits.space]
    (name,) = changed
    assert (after[name] - before[name]).tolist() == pytest.approx([float(own) for own in custom] + [-0.5], abs=1e-6)


@pytest.mark.parametrize("writer", [(stages, "claim_folder"), (DetrForPanopticSegmentation, "save_pretrained")])
def test_a_full_disk_is_said(make: Make, splits: Splits, tmp_path: Path, monkeypatch: Any, writer: Any) -> None:
    """Wherever in a run: as it begins, and where a checkpoint is saved."""

    def full(*args: Any, **kwargs: Any) -> None:
        if writer[1] == "claim_folder":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(*writer, full)
    with pytest.raises(HfDetrPanopticError, match="disk is full.*resumes"):
        run_stages(make(tmp_path / "run"), splits, stop="detection", say=str)


@pytest.mark.parametrize(("stage", "metric"), [("detection", "box_ap_things"), ("mask_head", "eval_pq_things")])
def test_a_metric_of_a_group_that_is_not_there(
    make: Make, splits: Splits, tmp_path: Path, stage: str, metric: str
) -> None:
    only_stuff = write_maps(tmp_path / "stuff", splits, without={0, 1})
    recipe = make(tmp_path / "run", stages={stage: {"metric_for_best_model": metric}})
    with pytest.raises(RecipeError, match=rf"stages\.{stage}\.metric_for_best_model.*val has none") as caught:
        run_stages(recipe, replace(splits, val=only_stuff), say=str)
    assert caught.value.fix == f"Write `{metric.removeprefix('eval_').removesuffix('_things')}`."
    assert not (tmp_path / "run").exists()


def test_splits_that_cannot_be_learnt_from(splits: Splits, make: Make, tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(DatasetError, match="val is empty"):
        run_stages(make(tmp_path), replace(splits, val=[]), say=str)
    bare = write_maps(tmp_path / "bare", splits, void=True)
    with pytest.raises(DatasetError, match="no photo of the split val has a segment"):
        run_stages(make(tmp_path), replace(splits, val=bare), say=str)


def test_photos_without_segments_are_learnt_from(make: Make, splits: Splits, tmp_path: Path, caplog: Any) -> None:
    """All void, or one class missing everywhere: the first is no reason to stop, the second is said."""
    train = [*write_maps(tmp_path / "void", splits, void=True), *splits.train[:1]]
    ends = run_stages(make(tmp_path / "run"), replace(splits, train=train), say=str)
    assert len(ends) == 3
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run" / "final").values())
    only_stuff = write_maps(tmp_path / "stuff", splits, without={0, 1})
    run_stages(make(tmp_path / "again"), replace(splits, train=only_stuff), stop="detection", say=str)
    assert "2 of 4 classes have no segment to learn from: block, disc" in caplog.text


def write_maps(folder: Path, splits: Splits, void: bool = False, without: set[int] = frozenset()) -> list[Any]:  # type: ignore[assignment]
    """Three photos of the training split with less in their maps."""
    with DatasetWriter(folder, splits.space) as writer:
        for place, row in enumerate(splits.train[:3]):
            truth = row.map()
            gone = [segment.id for segment in truth.segments if void or segment.label in without]
            kept: PanopticMap = truth.without(gone)
            writer.add("train", f"p{place}.png", Image.open(row.photo), kept, image_id=100 + place)
    return list(read_dataset(folder)["train"])


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"fp16": True}, "fp16 is asked for, and a CPU cannot train in it"),
        ({"torch_empty_cache_steps": -1}, "transformers refuses these arguments .*bigger than 0"),
        ({"optim": "lomo"}, "transformers refuses these arguments .*install `lomo_optim`"),
    ],
)
def test_what_the_last_stage_cannot_do_is_said_at_once(
    settings: dict[str, Any], answer: str, make: Make, splits: Splits, tmp_path: Path
) -> None:
    recipe = make(tmp_path / "run", stages={"finetune": settings})
    with pytest.raises(RecipeError, match=rf"stages\.finetune: {answer}"):
        run_stages(recipe, splits, say=str)
    assert not (tmp_path / "run").exists()


def test_losses_are_weighed(make: Make, splits: Splits, tmp_path: Path) -> None:
    """Loss and gradients of a step with half the dice loss, by hand from the parts of one with all of it."""
    totals, parts = [], []
    for place, losses in enumerate(({}, {"dice": 0.5, "ce": 2.0})):
        recipe = make(tmp_path / str(place), losses=losses, every={"per_device_train_batch_size": 8})
        run_stages(recipe, splits, start="mask_head", stop="mask_head", say=str)
        with (tmp_path / str(place) / "results.csv").open() as file:
            (row,) = csv.DictReader(file)
        totals.append(float(row["loss"]))
        parts.append({name: float(value) for name, value in row.items() if name.startswith("loss_")})
    assert parts[0] == pytest.approx(parts[1], rel=1e-4)
    change = -0.5 * parts[0]["loss_dice"] + 1.0 * parts[0]["loss_ce"]
    assert totals[1] - totals[0] == pytest.approx(change, rel=1e-3)


def test_a_stage_needs_something_to_train(make: Make, splits: Splits, tmp_path: Path) -> None:
    recipe = make(tmp_path)
    stage = Stage.of("finetune", use_cpu=True)
    model = starting_model(recipe, splits.space, None)
    trainer = _Stage(recipe, stage, splits, model, str, tmp_path / "scratch").trainer()
    model.freeze("detr", "mask_head")
    with pytest.raises(RecipeError, match="nothing is left to train"):
        trainer.create_optimizer()


def test_a_renamed_class_of_the_dataset_starts_as_what_it_was(
    model_folder: Path, splits: Splits, tmp_path: Path
) -> None:
    """prepare.json tells that the model's `block` is called `brick` in the dataset."""
    (tmp_path / "set").mkdir()
    record: dict[str, Any] = {"settings": {"scheme": "coco", "merge": {}, "rename": {"block": "brick"}, "drop": []}}
    (tmp_path / "set" / "prepare.json").write_text(json.dumps(record))
    recipe = recipe_of(tmp_path / "set", model_folder, tmp_path / "run")
    space = LabelSpace(replace(c, name="brick") if c.name == "block" else c for c in splits.space)
    here, there = starting_model(recipe, space, None), DetrForPanopticSegmentation.from_pretrained(model_folder)
    assert here.label_space == space
    assert torch.equal(here.detr.class_labels_classifier.weight, there.detr.class_labels_classifier.weight)
    record["settings"]["rename"] = ["of", "no", "use"]
    (tmp_path / "set" / "prepare.json").write_text(json.dumps(record))
    assert starting_model(recipe, space, None).label_space == space


def test_more_segments_than_queries_are_told_at_the_start(make: Make, shapes_folder: Path, tmp_path: Path) -> None:
    recipe, split = make(tmp_path / "run"), read_dataset(shapes_folder)["train"]
    queries = DetrForPanopticSegmentation.from_pretrained(recipe.model).config.num_queries
    crowded: Any = SimpleNamespace(where="crowd.jpg", segments=split[1].segments[:1] * (queries + 1))
    said: list[str] = []
    starting_model(recipe, split.space, None, said.append, [*split, crowded])
    _, about = said
    assert about.startswith(f"1 photo with more segments than this model can find ({queries}), crowd.jpg first")
    assert "--tile" in about
