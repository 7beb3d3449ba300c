"""What the Trainer must do otherwise than stock: load, accumulate, freeze, group, hand over."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DetrForSegmentation, Trainer, TrainerCallback, TrainingArguments

from hf_detr_panoptic.dataset.batches import PanopticDataset, collate
from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.labels import LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.stage_settings import Stage
from hf_detr_panoptic.training.arguments import training_arguments
from hf_detr_panoptic.training.sampling import Splits, measurable
from hf_detr_panoptic.training.stages import prepare_model, rehearse, total_steps
from hf_detr_panoptic.training.trainer import PanopticTrainer, dropping_rate, parameter_groups, trainable_line

pytestmark = pytest.mark.bits

QUICK = {"dataloader_num_workers": 0, "logging_steps": 1, "use_cpu": True, "num_train_epochs": 1}


def trainer_for(
    folder: Path, splits: Splits, output: Path, stage: str = "finetune", callbacks: Any = (), **settings: Any
) -> PanopticTrainer:
    recipe = Stage.of(stage, **settings.pop("only", {**QUICK, **settings}))
    model = DetrForPanopticSegmentation.from_pretrained(folder)
    prepare_model(model, recipe)
    args = training_arguments(recipe, "cpu", output_dir=output, seed=0)
    dataset = PanopticDataset(splits.train, model.preprocess)
    return PanopticTrainer(model, args, recipe, dataset, splits.val, callbacks)


def differing(model: torch.nn.Module, checkpoint: Path) -> list[str]:
    """The weights that are not the checkpoint's, as its own class loads it."""
    wanted = DetrForPanopticSegmentation.from_pretrained(checkpoint).state_dict()
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, wanted[name])]


def test_it_ends_with_the_best_checkpoint(
    model_folder: Path, splits: Splits, tmp_path: Path, monkeypatch: Any
) -> None:
    trainer = trainer_for(model_folder, splits, tmp_path, num_train_epochs=2, learning_rate=1e-2)
    measured = iter([{"pq": 0.9}, {"pq": 0.1}])
    monkeypatch.setattr(
        trainer, "measure", lambda rows=None: dict.fromkeys(("sq", "rq"), 0.5) | next(measured) | NO_GROUPS
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert differing(trainer.model, tmp_path / "checkpoint-8")  # the last one has other weights
    assert differing(trainer.model, tmp_path / "checkpoint-4") == []


NO_GROUPS = {"things": {"pq": None}, "stuff": {"pq": None}, "yours": {"pq": 0.5}}


@pytest.mark.parametrize(("written", "best"), [({}, 8), ({"metric_for_best_model": "pq"}, 4)])
def test_the_best_is_that_of_the_persons_classes_and_all(
    written: dict[str, str], best: int, model_folder: Path, splits: Splits, tmp_path: Path, monkeypatch: Any
) -> None:
    """(0.6 + 0.2) / 2 is less than (0.5 + 0.5) / 2; a recipe that names a metric keeps it."""
    trainer = trainer_for(model_folder, splits, tmp_path, num_train_epochs=2, **written)
    measured = iter([{"pq": 0.6, "yours": {"pq": 0.2}}, {"pq": 0.5, "yours": {"pq": 0.5}}])
    monkeypatch.setattr(
        trainer, "measure", lambda rows=None: dict.fromkeys(("sq", "rq"), 0.5) | NO_GROUPS | next(measured)
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")


def test_without_classes_of_the_persons_it_is_that_of_all(splits: Splits) -> None:
    of_nobody = LabelSpace([replace(category, source="auto") for category in splits.space])
    assert measurable("eval_pq_yours_and_all", splits.val, splits.space) == "eval_pq_yours_and_all"
    assert measurable("eval_pq_yours_and_all", splits.val, of_nobody) == "eval_pq"
    assert measurable("box_ap_yours_and_all", [], splits.space) == "box_ap"
    assert measurable("pq_things", splits.val, of_nobody) == "pq_things"


def test_stock_trainer_ends_with_other_weights(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    """The defect that the test above holds us to (transformers#43701)."""
    model = DetrForSegmentation.from_pretrained(model_folder)
    dataset = [_stock_item(item) for item in (PanopticDataset(splits.train)[index] for index in (1, 3))]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="fixed",
        greater_is_better=True,
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )

    class First(Trainer):
        def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
            return {"eval_fixed": 1.0 / self.state.global_step}

    trainer = First(
        model,
        args,
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=lambda items: {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "labels": [item["labels"] for item in items],
        },
    )
    logging.disable(logging.CRITICAL)
    try:
        trainer.train()
    finally:
        logging.disable(logging.NOTSET)
    best = DetrForSegmentation.from_pretrained(tmp_path / "checkpoint-1").state_dict()
    wrong = [name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, best[name])]
    assert any(name.startswith("mask_head") for name in wrong)


def _stock_item(item: dict[str, Any]) -> dict[str, Any]:
    labels = item["labels"]
    masks = (labels["panoptic"][None] == labels["segment_ids"][:, None, None]).float()
    return {
        "pixel_values": item["pixel_values"],
        "labels": {"class_labels": labels["class_labels"], "boxes": labels["boxes"], "masks": masks},
    }


@pytest.mark.parametrize("stage", ["detection", "mask_head", "finetune"])
def test_a_checkpoint_loads_in_plain_transformers(
    model_folder: Path, splits: Splits, tmp_path: Path, stage: str
) -> None:
    trainer = trainer_for(model_folder, splits, tmp_path, stage)
    trainer.train()
    plain, info = DetrForSegmentation.from_pretrained(tmp_path / "checkpoint-4", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = trainer.train_dataset[0, 1]["pixel_values"][None]
    model = trainer.model.eval()
    model.with_masks = True
    with torch.no_grad():
        ours, theirs = model(pixels), plain.eval()(pixels)
    for name in ("logits", "pred_boxes", "pred_masks"):
        assert torch.allclose(ours[name], theirs[name], atol=1e-5), name


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def in_doubles(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch = collate(items)
    return {**batch, "pixel_values": batch["pixel_values"].double()}


def test_four_small_batches_are_one_large(still_model_folder: Path, even_splits: Splits, tmp_path: Path) -> None:
    found = []
    for size, times in ((4, 1), (1, 4)):
        gradients = Gradients()
        trainer = trainer_for(
            still_model_folder,
            even_splits,
            tmp_path / str(size),
            callbacks=[gradients],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            max_grad_norm=0.0,
            num_train_epochs=1,
        )
        # In fp32, rounding alone moves some of these gradients by more than what is looked for.
        trainer.model.double()
        trainer.data_collator = in_doubles
        trainer.train()
        found.append((gradients.steps, trainer.state.log_history))
    (large, one), (small, four) = found
    assert len(large) == len(small) == 2  # five photos: a step of four, and one of one
    for step, (expected, ours) in enumerate(zip(large, small, strict=True)):
        scale = max(gradient.norm() for gradient in expected.values())
        for name, gradient in expected.items():
            assert (ours[name] - gradient).norm() <= 1e-6 * scale, (step, name)
    for name in ("loss", "loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        assert four[0][name] == pytest.approx(one[0][name], rel=1e-6), name


def test_only_what_a_stage_trains_changes(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    before = load_file(model_folder / "model.safetensors")
    moved = {}
    for stage in ("detection", "mask_head", "finetune"):
        trainer = trainer_for(model_folder, splits, tmp_path / stage, stage, learning_rate=1e-3)
        in_optimizer = {id(p) for group in trainer.create_optimizer().param_groups for p in group["params"]}
        wanted = {id(p) for p in trainer.model.parameters() if p.requires_grad}
        assert in_optimizer == wanted
        trainer.train()
        after = load_file(tmp_path / stage / "checkpoint-4" / "model.safetensors")
        moved[stage] = {name for name in before if not torch.equal(before[name], after[name])}
    masks = {name for name in before if name.startswith(("mask_head", "bbox_attention"))}
    assert moved["mask_head"] <= masks
    assert not moved["detection"] & masks
    assert moved["mask_head"]
    assert moved["detection"]
    assert moved["finetune"] & masks
    assert moved["finetune"] - masks
    assert not any("backbone" in name and ".layer1." in name for name in moved["finetune"])


def test_the_backbone_has_a_rate_of_its_own(model_folder: Path) -> None:
    model = DetrForPanopticSegmentation.from_pretrained(model_folder)
    rest, backbone = parameter_groups(model, 1e-4, 1e-5)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all("backbone" in names[id(p)] for p in backbone["params"])
    assert not any("backbone" in names[id(p)] for p in rest["params"])
    assert backbone["lr"] == 1e-5
    assert "lr" not in rest
    assert rest["weight_decay"] == backbone["weight_decay"] == 1e-4
    model.freeze("detr")
    assert len(parameter_groups(model, 1e-4, 1e-5)) == 1
    assert trainable_line("mask_head", model).startswith("mask_head: 0.0")


def test_the_rate_rises_and_drops() -> None:
    factor = dropping_rate(warmup_steps=3, drop_step=6, left=0.1)
    assert [round(factor(step), 4) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.1, 0.1]
    assert dropping_rate(0, None, 0.1)(10**6) == 1.0


def test_the_rate_drops_at_its_epoch(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, optimizer: Any = None, **kwargs: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    settings = {"num_train_epochs": 3, "lr_drop": 2, "learning_rate": 1e-4, "eval_strategy": "no"}
    trainer_for(model_folder, splits, tmp_path, "mask_head", [Rates()], **settings).train()
    # Seven photos in batches of two: four steps an epoch.
    assert rates == pytest.approx([1e-4] * 8 + [1e-5] * 4)
    rates.clear()
    trainer_for(model_folder, splits, tmp_path / "half", "mask_head", [Rates()], **settings, lr_drop_to=0.5).train()
    assert rates == pytest.approx([1e-4] * 8 + [5e-5] * 4)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"num_train_epochs": 3, "min_steps": 12}, 12),
        ({"num_train_epochs": 3, "min_steps": 13}, 16),
        ({"num_train_epochs": 1.5, "min_steps": 6}, 6),
        ({"num_train_epochs": 1.5, "min_steps": 7}, 8),
        ({"max_steps": 3, "min_steps": 5}, 5),
        ({"max_steps": 6, "min_steps": 5}, 6),
    ],
)
def test_at_least_so_many_steps(
    model_folder: Path, splits: Splits, tmp_path: Path, length: dict[str, Any], steps: int
) -> None:
    """Seven photos in batches of two: four steps an epoch. A drop that is a share follows."""
    counted: list[float] = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, optimizer: Any = None, **kwargs: Any) -> None:
            counted.append(optimizer.param_groups[0]["lr"])

    settings = {"learning_rate": 1e-4, "eval_strategy": "no", "save_strategy": "no", "lr_drop": 0.5, **length}
    if "max_steps" in length:
        settings["num_train_epochs"] = None
    stage = {name: value for name, value in {**QUICK, **settings}.items() if value is not None}
    trainer = trainer_for(model_folder, splits, tmp_path, "mask_head", [Rates()], only=stage)
    assert total_steps(trainer) == (steps, 4)
    trainer.train()
    assert counted == pytest.approx([1e-4] * round(steps / 2) + [1e-5] * (steps - round(steps / 2)))


def test_evaluations_wait_for_so_many_steps(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    """Four steps an epoch, at least six between evaluations: the ends of the epochs at 8, 12, 20, and the last."""
    settings = {"num_train_epochs": 6, "eval_every": 6, "save_total_limit": 9}
    trainer = trainer_for(model_folder, splits, tmp_path, "detection", **settings)
    assert rehearse(trainer, 1).evaluations == 1 + 4
    trainer.train()
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_box_ap" in entry]
    assert evaluated == [8, 12, 20, 24]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (12, 20, 24, 8)]


def test_when_an_epoch_is_evaluated() -> None:
    plain, longer = Stage.of("detection"), Stage.of("detection", min_steps=5000)
    often = Stage.of("detection", min_steps=5000, eval_every=10)
    ends = range(24, 5041, 24)
    assert all(plain.evaluates_after(end, 24, 5040) for end in ends)
    assert all(often.evaluates_after(end, 24, 5040) for end in ends)
    found = [end for end in ends if longer.evaluates_after(end, 24, 5040)]
    # By hand: of each 250 steps the first end of an epoch, 11 · 24, 21 · 24, 32 · 24, …; and the last one.
    assert found[:3] == [264, 504, 768]
    assert (len(found), found[-1]) == (21, 5040)
    with pytest.raises(RecipeError, match="eval_steps"):
        Stage.of("detection", eval_every=10, eval_strategy="steps", eval_steps=5)


def test_confident_queries_alone_learn_masks(model_folder: Path, splits: Splits) -> None:
    model = DetrForPanopticSegmentation.from_pretrained(model_folder)
    prepare_model(model, Stage.of("mask_head", mask_queries="confident", threshold=0.85))
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[0] = 50.0  # every query is sure
    dataset = PanopticDataset(splits.train, model.preprocess)
    batch = collate([dataset[0, 1], dataset[0, 3]])
    everybody = model(**batch)
    assert len(everybody.matched_masks) == len(everybody.matching) > 0
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[0] = 0.0
        model.detr.class_labels_classifier.bias[-1] = 50.0  # nobody is, of anything
    nobody = model(**batch)
    assert len(nobody.matched_masks) == 0
    assert nobody.loss_dict["loss_mask"] == nobody.loss_dict["loss_dice"] == 0
    model.mask_query_threshold = None
    assert len(model(**batch).matched_masks) == len(nobody.matching)


def test_the_average_is_evaluated_saved_and_resumed(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    settings = {"num_train_epochs": 2, "ema": 0.5, "learning_rate": 1e-3}
    whole = trainer_for(model_folder, splits, tmp_path / "whole", **settings)
    whole.train()
    again = trainer_for(model_folder, splits, tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name in ("model", "weights_in_training"):
        ours, theirs = (
            load_file(tmp_path / run / "checkpoint-8" / f"{name}.safetensors") for run in ("again", "whole")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    raw = load_file(tmp_path / "whole" / "checkpoint-8" / "weights_in_training.safetensors")
    best = {name: p for name, p in whole.model.named_parameters() if p.requires_grad}
    assert raw.keys() == best.keys()
    assert any(not torch.equal(raw[name], best[name]) for name in raw)
    assert differing(whole.model, Path(str(whole.state.best_model_checkpoint))) == []


def test_gradient_checkpointing_learns_the_same(still_model_folder: Path, even_splits: Splits, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        gradients = Gradients()
        trainer_for(
            still_model_folder,
            even_splits,
            tmp_path / str(checkpointing),
            "detection",
            callbacks=[gradients],
            gradient_checkpointing=checkpointing,
        ).train()
        found.append(gradients.steps[0])
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-6), name


def test_what_others_draw_does_not_matter(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    """Loaders, evaluations and resumes draw from the generator that dropout draws from."""

    class Draws(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.rand(7)

    found = []
    for place, callbacks in enumerate(([], [Draws()])):
        trainer_for(model_folder, splits, tmp_path / str(place), callbacks=callbacks, num_train_epochs=1).train()
        found.append(load_file(tmp_path / str(place) / "checkpoint-4" / "model.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_best_average_stays(model_folder: Path, splits: Splits, tmp_path: Path, monkeypatch: Any) -> None:
    """The average of the last step must not replace that of the best one at the end."""
    trainer = trainer_for(model_folder, splits, tmp_path, num_train_epochs=2, ema=0.5, learning_rate=1e-2)
    measured = iter([{"pq": 0.9}, {"pq": 0.1}])
    monkeypatch.setattr(
        trainer, "measure", lambda rows=None: dict.fromkeys(("sq", "rq"), 0.5) | next(measured) | NO_GROUPS
    )
    trainer.train()
    trainer.settle()
    assert differing(trainer.model, tmp_path / "checkpoint-8")
    assert differing(trainer.model, tmp_path / "checkpoint-4") == []


def test_workers_leave_a_signal_to_the_process_they_work_for(
    model_folder: Path, splits: Splits, tmp_path: Path
) -> None:
    """A launcher, `timeout` and a queue signal the whole group: the step at hand still needs its photos."""
    trainer = trainer_for(model_folder, splits, tmp_path, dataloader_num_workers=2)
    loader = trainer.get_train_dataloader()
    coming = iter(loader)
    batches = [next(coming), next(coming)]  # each worker has begun
    workers: Any = coming._workers  # type: ignore[attr-defined]
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    batches += coming
    assert len(batches) == len(loader)
    assert all(worker.is_alive() for worker in workers)
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    assert not any(worker.is_alive() for worker in workers)


def test_what_is_written_of_the_loader_is_done(model_folder: Path, splits: Splits, tmp_path: Path) -> None:
    written = {"dataloader_multiprocessing_context": "spawn", "dataloader_persistent_workers": False}
    written |= {"dataloader_in_order": False, "dataloader_num_workers": 1}
    loader = trainer_for(model_folder, splits, tmp_path, **written).get_train_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    assert not loader.persistent_workers
    assert not loader.in_order
