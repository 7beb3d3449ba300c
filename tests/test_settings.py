"""One stage: names and types of TrainingArguments' fields, and settings that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.settings import Stage


@pytest.mark.parametrize(
    ("stage", "settings", "key", "what"),
    [
        ("detection", {"num_train_epoch": 3}, "num_train_epoch", "Did you mean 'num_train_epochs'?"),
        ("detection", {"lr_drpo": 3}, "lr_drpo", "Did you mean 'lr_drop'?"),
        ("detection", {"num_train_epochs": "many"}, "num_train_epochs", "Write a number"),
        ("detection", {"num_train_epochs": -3}, "num_train_epochs", "not above 0"),
        ("detection", {"num_train_epochs": 0}, "num_train_epochs", "skip: true"),
        ("detection", {"max_steps": 0}, "max_steps", "less than 1"),
        ("detection", {"max_steps": 2.5}, "max_steps", "Write a whole number"),
        ("detection", {"num_train_epochs": 3, "max_steps": 5}, "max_steps", "Keep one of them"),
        ("detection", {"learning_rate": 0}, "learning_rate", "not above 0"),
        ("detection", {"learning_rate": float("inf")}, "learning_rate", "Write a number"),
        ("detection", {"bf16": "yes please"}, "bf16", "Write true or false"),
        ("detection", {"bf16": True, "fp16": True}, "fp16", "Keep one of them"),
        ("detection", {"optim": "adamw_torhc"}, "optim", "Did you mean 'adamw_torch'"),
        ("detection", {"lr_scheduler_type": 3}, "lr_scheduler_type", "Write linear or cosine"),
        ("detection", {"report_to": 5}, "report_to", "a list of texts"),
        ("detection", {"per_device_train_batch_size": 0}, "per_device_train_batch_size", "less than 1"),
        ("detection", {"lr_drop": 3, "lr_scheduler_type": "cosine"}, "lr_drop", "Keep one of them"),
        ("detection", {"lr_drop": 0}, "lr_drop", "not above 0"),
        ("detection", {"metric_for_best_model": "pq"}, "metric_for_best_model", "Write `box_ap`"),
        ("detection", {"metric_for_best_model": "eval_pq_things"}, "metric_for_best_model", "Write `box_ap`"),
        ("detection", {"metric_for_best_model": "loss"}, "metric_for_best_model", "Known: box_ap, box_ap50"),
        ("detection", {"metric_for_best_model": "box_app"}, "metric_for_best_model", "Did you mean 'box_ap'"),
        ("mask_head", {"metric_for_best_model": "things_pq"}, "metric_for_best_model", "Did you mean 'pq_things'"),
        ("finetune", {"metric_for_best_model": "box_ap"}, "metric_for_best_model", "gives no 'box_ap'. Known: pq"),
        ("finetune", {"metric_for_best_model": None}, "metric_for_best_model", "Known: pq, sq, rq"),
        ("detection", {"early_stopping": 3, "eval_strategy": "no"}, "early_stopping", "needs evaluations"),
        (
            "detection",
            {"load_best_model_at_end": True, "eval_strategy": "no"},
            "load_best_model_at_end",
            "evaluations",
        ),
        ("detection", {"save_strategy": "steps"}, "save_strategy", "the same for both"),
        ("detection", {"eval_strategy": "steps"}, "eval_strategy", "eval_steps is missing"),
        ("detection", {"eval_strategy": "steps", "eval_steps": 10, "save_steps": 15}, "save_steps", "multiples"),
        (
            "detection",
            {"dataloader_num_workers": 0, "dataloader_prefetch_factor": 2},
            "dataloader_prefetch_factor",
            "",
        ),
        ("detection", {"dataloader_num_workers": -1}, "dataloader_num_workers", "less than 0"),
        ("detection", {"freeze": "stem"}, "freeze", "Write a list of texts"),
        ("detection", {"freeze": ["stm"]}, "freeze", "Did you mean 'stem'?"),
        ("detection", {"freeze": ["detr"]}, "freeze", "nothing is left to learn"),
        ("mask_head", {"freeze": ["mask_head"]}, "freeze", "nothing is left to learn"),
        ("finetune", {"freeze": ["backbone", "transformer", "heads", "mask_head"]}, "freeze", "nothing is left"),
        ("finetune", {"mask_queries": "confident"}, "mask_queries", "Write it under stages.mask_head"),
        ("mask_head", {"mask_queries": "confidnt"}, "mask_queries", "Did you mean 'confident'?"),
        ("mask_head", {"threshold": 85}, "threshold", "more than 1"),
        ("mask_head", {"ema": 1}, "ema", "not below 1"),
        ("mask_head", {"seed": 1}, "seed", "the whole run has one"),
        ("mask_head", {"push_to_hub": True}, "push_to_hub", "`push` block"),
        ("mask_head", {"output_dir": "x"}, "output_dir", "`output` at the top"),
        ("mask_head", {"fp16_full_eval": True}, "fp16_full_eval", "bf16_full_eval"),
        ("mask_head", {"remove_unused_columns": True}, "remove_unused_columns", "needs its own value"),
        # Fields that transformers 5 no longer has, and what came instead.
        ("mask_head", {"warmup_ratio": 0.1}, "warmup_ratio", "Write `warmup_steps: 0.1`"),
        ("mask_head", {"evaluation_strategy": "epoch"}, "evaluation_strategy", "Write `eval_strategy: epoch`"),
        ("mask_head", {"no_cuda": True}, "no_cuda", "Write `use_cpu: true`"),
        ("mask_head", {"overwrite_output_dir": True}, "overwrite_output_dir", "Leave it out"),
        ("mask_head", {"save_safetensors": True}, "save_safetensors", "Leave it out"),
        ("mask_head", {"logging_dir": "x"}, "logging_dir", "Leave it out"),
        ("mask_head", {"group_by_length": True}, "group_by_length", "Leave it out"),
    ],
)
def test_what_is_wrong_is_said_and_where(stage: str, settings: dict[str, Any], key: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Stage.of(stage, **settings)
    assert caught.value.where == f"stages.{stage}.{key}"
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": []},
        {"freeze": ["layer4", "transformer"]},
        {"eval_strategy": "steps", "eval_steps": 10},
        {"eval_strategy": "steps", "eval_steps": 10, "save_steps": 30},
        {"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.3},
        {"eval_strategy": "no"},
        {"save_strategy": "best"},
        {"save_strategy": "no", "load_best_model_at_end": False},
        {"warmup_steps": 0.1},
        {"metric_for_best_model": "eval_pq_stuff"},
        {"report_to": ["tensorboard", "trackio"]},
        {"lr_scheduler_kwargs": {"num_cycles": 2}},
        {"max_steps": -1, "num_train_epochs": 2},
    ],
)
def test_what_is_right_is_silent(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage.of("finetune", **settings)
    assert Stage.of("finetune", **stage.to_dict()) == stage
    assert not caplog.records


def test_an_unknown_stage() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'finetune'"):
        Stage.of("fintune")


def test_steps_take_the_place_of_epochs() -> None:
    arguments = Stage.of("detection", max_steps=20).training_arguments
    assert arguments["max_steps"] == 20
    assert "num_train_epochs" not in arguments


def test_saving_follows_evaluating() -> None:
    arguments = Stage.of("detection", eval_strategy="steps", eval_steps=50).training_arguments
    assert (arguments["save_strategy"], arguments["save_steps"]) == ("steps", 50)
    assert Stage.of("detection", eval_strategy="no").training_arguments["load_best_model_at_end"] is False


@pytest.mark.parametrize(
    ("lr_drop", "total", "per_epoch", "step"),
    [(15, 2500, 100, 1500), (0.6, 2500, 100, 1500), (0.5, 7, 3, 4), (30, 2500, 100, None), (25, 2500, 100, None)],
)
def test_when_the_rate_drops(lr_drop: float, total: int, per_epoch: int, step: int | None) -> None:
    assert Stage.of("finetune", lr_drop=lr_drop).drop_step(total, per_epoch) == step


def test_a_scheduler_of_transformers_takes_the_drops_place() -> None:
    stage = Stage.of("finetune", lr_scheduler_type="cosine")
    assert stage.lr_drop is None
    assert stage.drop_step(100, 10) is None
