"""From recipe to TrainingArguments: names as the installed version has them, precision as the device has it."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import PartialState
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.recipe import recipe_keys, training_keys
from hf_detr_panoptic.stage_settings import STAGES, Stage, arguments_class
from hf_detr_panoptic.training.arguments import check_arguments, slower_than_it_could, training_arguments
from hf_detr_panoptic.training_fields import GONE, OURS, training_fields


def test_fields_read_from_the_source_are_those_of_the_class() -> None:
    wanted = {entry.name for entry in dataclasses.fields(TrainingArguments) if entry.init}
    assert set(training_fields()) == wanted
    assert set(OURS) <= wanted
    assert not set(GONE) & wanted


def test_types_read_from_the_source_take_the_classes_own_defaults() -> None:
    plain = TrainingArguments(output_dir="x", use_cpu=True).to_dict()
    for entry in dataclasses.fields(TrainingArguments):
        known = arguments_class().model_fields
        if entry.name in known and entry.name not in ("optim", "debug", "accelerator_config", "report_to"):
            default = entry.default if entry.default is not dataclasses.MISSING else plain[entry.name]
            default = getattr(default, "value", default)
            if entry.name != "max_steps":  # its -1 is left out before
                arguments_class().read({entry.name: default})


@pytest.mark.parametrize("stage", STAGES)
def test_arguments_on_a_cpu(stage: str, tmp_path: Path) -> None:
    arguments = training_arguments(Stage.of(stage, weight_decay=0.05), "cpu", output_dir=tmp_path, seed=7)
    assert (arguments.output_dir, arguments.seed, arguments.weight_decay) == (str(tmp_path), 7, 0.05)
    assert arguments.device == torch.device("cpu")
    assert (arguments.bf16, arguments.fp16, arguments.mixed_precision) == (False, False, "no")
    assert arguments.max_grad_norm == 0.1
    assert arguments.eval_strategy == arguments.save_strategy == IntervalStrategy.EPOCH
    assert arguments.load_best_model_at_end
    assert arguments.greater_is_better
    assert arguments.metric_for_best_model == f"{'box_ap' if stage == 'detection' else 'pq'}_yours_and_all"
    assert arguments.lr_scheduler_type == SchedulerType.CONSTANT_WITH_WARMUP
    assert not arguments.average_tokens_across_devices
    assert not arguments.remove_unused_columns
    assert not arguments.eval_do_concat_batches
    assert not arguments.push_to_hub
    assert arguments.label_names == ["labels"]
    assert arguments.report_to == []
    assert arguments.dataloader_persistent_workers == (arguments.dataloader_num_workers > 0)


def build(device: str, tmp_path: Path, **settings: Any) -> TrainingArguments:
    return training_arguments(Stage.of("finetune", **settings), device, output_dir=tmp_path, seed=0)


def test_one_precision_after_another(tmp_path: Path) -> None:
    """transformers fails here when the arguments of three stages are built up front."""
    assert build("cpu", tmp_path, bf16=True).mixed_precision == "bf16"
    assert build("cpu", tmp_path).mixed_precision == "no"
    assert build("cpu", tmp_path, bf16=True).mixed_precision == "bf16"


def test_what_accelerate_was_configured_for_counts_until_the_recipe_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert build("cpu", tmp_path).mixed_precision == "bf16"
    assert build("cpu", tmp_path, bf16=False).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(RecipeError, match=r"the accelerate configuration .*: fp16 is asked for"):
        build("cpu", tmp_path)


def test_a_gpu_without_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(RecipeError, match=r"this GPU \(Tesla T4\) has none. Write `fp16: true`"):
        build("cuda", tmp_path, bf16=True)


@pytest.mark.parametrize(("hardware", "settings", "chosen"), [
    (True, {}, ("bf16", True)),
    (False, {}, ("bf16", False)),
    (True, {"bf16": False}, ("bf16", False)),
    (False, {"fp16": True}, ("fp16", True)),
    (True, {"fp16": True}, ("bf16", False)),
])  # fmt: skip
def test_precision_on_cuda(
    hardware: bool, settings: dict[str, Any], chosen: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_detr_panoptic.training import arguments

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: hardware)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    name, value = chosen
    assert arguments._precision(Stage.of("finetune", **settings), torch.device("cuda"))[name] is value


def test_a_gpu_that_trains_in_fp32_for_want_of_bf16_is_told_of_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), bf16=False, fp16=False)
    on_cpu: Any = SimpleNamespace(device=torch.device("cpu"), bf16=False, fp16=False)
    said = slower_than_it_could(Stage.of("finetune"), on_gpu)
    assert said is not None
    assert "finetune: this GPU (Tesla T4) has no bf16" in said
    assert slower_than_it_could(Stage.of("finetune", fp16=False), on_gpu) is None  # who asks for fp32 knows
    assert slower_than_it_could(Stage.of("finetune"), on_cpu) is None


def test_an_apple_gpu_has_fp32_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_detr_panoptic.training import arguments

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert not any(arguments._precision(Stage.of("finetune"), torch.device("mps")).values())
    with pytest.raises(RecipeError, match="bf16 is asked for, and this Apple GPU has none"):
        build("mps", tmp_path, bf16=True)


def test_use_cpu_in_the_recipe_wins_over_the_device_at_hand(tmp_path: Path) -> None:
    assert build("cuda", tmp_path, use_cpu=True).device == torch.device("cpu")


def test_workers(tmp_path: Path) -> None:
    without = build("cpu", tmp_path, dataloader_num_workers=0)
    assert (without.dataloader_num_workers, without.dataloader_persistent_workers) == (0, False)
    three = build("cpu", tmp_path, dataloader_num_workers=3)
    assert (three.dataloader_num_workers, three.dataloader_prefetch_factor) == (3, 4)


def test_a_scheduler_of_transformers(tmp_path: Path) -> None:
    assert build("cpu", tmp_path, lr_scheduler_type="cosine").lr_scheduler_type == SchedulerType.COSINE


def test_checkpointing_under_either_name(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert build("cpu", tmp_path, gradient_checkpointing=True).gradient_checkpointing is True
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_what_transformers_refuses_is_said_with_the_stage(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="stages.finetune: transformers refuses these arguments"):
        build("cpu", tmp_path, torch_empty_cache_steps=-1)


def test_a_check_of_all_stages_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with TF32, which a stage's arguments turn on for all of torch."""
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    state = PartialState()
    switch = attrgetter("fp32_precision" if hasattr(torch.backends, "fp32_precision") else "cuda.matmul.allow_tf32")
    before, tf32 = dict(vars(state)), switch(torch.backends)
    monkeypatch.setitem(state._shared_state, "device", "the GPU")
    stages = [Stage.of("detection", tf32=True, bf16=True, use_cpu=True), Stage.of("finetune")]
    check_arguments(stages, "cpu")
    assert switch(torch.backends) == tf32
    assert vars(PartialState()) == before | {"device": "the GPU"}


def test_every_key_is_documented() -> None:
    keys = {str(key): key for key in recipe_keys()}
    assert all(key.meaning and key.type for key in keys.values())
    assert keys["data.threshold"].default == "0.85"
    assert keys["losses.bbox"].default == "5"
    assert keys["stages.STAGE.freeze"].default == "[stem, layer1]"
    assert keys["stages.STAGE.backbone_learning_rate"].default == "detection 1e-05, mask_head null, finetune 1e-06"
    assert keys["stages.mask_head.mask_queries"].type == "matched or confident"
    theirs = {key.path[-1]: key for key in training_keys()}
    assert set(theirs) == set(training_fields()) - set(OURS)
    assert theirs["num_train_epochs"].default == "detection 30, mask_head 25, finetune 10"
    assert theirs["adam_beta1"].default == "0.9"


@pytest.mark.parametrize(("kwargs", "lowered"), [({}, False), ({"mode": "min"}, True)])
def test_the_rate_stays_while_quality_rises(kwargs: dict[str, Any], lowered: bool, tmp_path: Path) -> None:
    """Torch's plateau waits for the least value, and PQ that rose lowered the rate; who writes a mode has it."""
    settings = {"patience": 1, **kwargs}
    stage = Stage.of("finetune", lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs=settings)
    args = training_arguments(stage, "cpu", output_dir=tmp_path, seed=0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    for quality in (0.1, 0.2, 0.3, 0.4, 0.5):
        schedule.step(quality)
    assert (optimizer.param_groups[0]["lr"] < 1.0) is lowered
