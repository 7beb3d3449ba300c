"""Settings: names, types and limits, whoever writes them; and what contradicts each other."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest

from hf_detr_panoptic.checked import current_name
from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.recipe import Recipe, add_prepare_flags, prepare_settings, recipe_keys
from hf_detr_panoptic.settings import Augmentation, Prepare
from hf_detr_panoptic.stage_settings import Stage


@pytest.mark.parametrize(
    ("stage", "settings", "key", "what"),
    [
        ("detection", {"num_train_epoch": 3}, "num_train_epoch", "Did you mean 'num_train_epochs'?"),
        ("detection", {"lr_drpo": 3}, "lr_drpo", "Did you mean 'lr_drop'"),
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


# --- prepare: by flags, by YAML, in a recipe, from Python


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_prepare_flags(parser)
    return parser.parse_args(list(flags))


def in_yaml(tmp_path: Path, text: str, *flags: str) -> Prepare:
    path = tmp_path / "prepare.yaml"
    path.write_text(f"images: photos\nout: data\n{text}\n")
    return prepare_settings(parsed("--config", str(path), *flags))


def test_all_that_prepare_knows_is_a_flag_a_key_of_its_yaml_and_a_key_of_a_recipe() -> None:
    assert set(vars(parsed())) == {*Prepare.model_fields, "config"}
    assert {key.path[1] for key in recipe_keys() if key.path[0] == "data" and len(key.path) == 2} == set(
        Prepare.model_fields
    )


@pytest.mark.parametrize(
    ("flags", "text", "value"),
    [
        (["--values", "9=fire", "--values", "254=smoke"], "values: {9: fire, 254: smoke}", {9: "fire", 254: "smoke"}),
        (["--pattern", "{stem}_{class}.png"], "pattern: '{stem}_{class}.png'", "{stem}_{class}.png"),
        (["--rescale"], "rescale: true", True),
        (["--strict"], "strict: yes", True),
        (["--labeler-stuff", "sky,grass"], "labeler_stuff: [sky, grass]", ("sky", "grass")),
        (["--max-size", "640"], "max-size: 640", 640),
        (["--mix", "data/other"], "mix: data/other", Path("data/other")),
        (["--batch-size", "8"], "batch_size: 8.0", 8),
        (["--precision", "bf16"], "precision: bf16", "bf16"),
        (["--threads", "2"], "threads: 2", 2),
        (["--stuff", "a, b"], "stuff: a, b", ("a", "b")),
        (["--merge", "ground=gravel,road", "--merge", "sky=clouds"], "merge: {ground: 'gravel,road', sky: [clouds]}",
         {"ground": ("gravel", "road"), "sky": ("clouds",)}),
        (["--rename", "truck=lorry"], "rename: {truck: lorry}", {"truck": "lorry"}),
        (["--leakage", "1"], "leakage: 1", 1.0),
        (["--box-fit", "0.7"], "box_fit: 0.7", 0.7),
        (["--group-pattern", "^a"], "group_by: ^a", "^a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_setting_is_the_same_wherever_it_is_said(tmp_path: Path, flags: list[str], text: str, value: object) -> None:
    by_flags = prepare_settings(parsed("--images", "photos", "--out", "data", *flags))
    by_yaml = in_yaml(tmp_path, text)
    name = current_name(text.partition(":")[0])
    assert getattr(by_flags, name) == value
    assert type(getattr(by_flags, name)) is type(value)
    assert by_yaml == by_flags
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data:\n  images: photos\n  annotations: null\n  out: data\n  {text}\n")
    assert Recipe.load(recipe).prepare == by_flags.changed(seed=0)


def test_flags_override_the_yaml_however_it_spells_them(tmp_path: Path) -> None:
    assert in_yaml(tmp_path, "min-area: 10\nmerge: {a: [b]}", "--min-area", "5", "--merge", "c=d") == Prepare(
        images=Path("photos"), out=Path("data"), min_area=5, merge={"c": ("d",)}
    )


def test_null_is_not_set_unless_it_has_a_meaning(tmp_path: Path) -> None:
    found = in_yaml(tmp_path, "threshold: null\nstuff:\nleakage: null\nannotations:")
    assert (found.threshold, found.stuff, found.leakage, found.annotations) == (0.85, (), None, None)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("stuff: [a]\nstuff: [b]", "prepare.yaml", "'stuff' stands twice, in lines 3 and 4"),
        ("treshold: 0.9", "line 3, treshold", "unknown key 'treshold'. Did you mean 'threshold'"),
        ("threshold: 85", "line 3, threshold", "more than 1"),
        ("threshold: 0.3", "line 3, threshold", "run at 0.5"),
        ("min-area: many", "line 3, min-area", "Write a whole number"),
        ("min_area: '5'", "line 3, min_area", "the text '5'. Write a whole number"),
        ("min_area: true", "line 3, min_area", "min_area is true"),
        ("batch_size: 1.5", "line 3, batch_size", "batch_size is 1.5. Write a whole number"),
        ("strict: 'yes'", "line 3, strict", "Write true or false"),
        ("strict: 1", "line 3, strict", "Write true or false"),
        ("images: 5", "prepare.yaml", "stands twice"),
        ("mix: 5", "line 3, mix", "mix is 5. Write text or null"),
        ("labeler: 5", "line 3, labeler", "labeler is 5. Write text"),
        ("format: cvta", "line 3, format", "Did you mean 'cvat'?"),
        ("values: {fire: 127}", "line 3, values", "such as {127: fire, 254: smoke}"),
        ("merge: ground", "line 3, merge", "Write a mapping, such as {ground: [gravel, road]}"),
        ("rename: [ground]", "line 3, rename", "such as {truck: lorry}."),
        ("5: a", "prepare.yaml", "the key 5 is no text"),
        ("group_by: a\ngroup_pattern: b", "group_pattern", "are the same setting"),
        ("max-size: 5\nmax_size: 6", "max_size", "are the same setting"),
        ("leaky: [misc]", "line 3, leaky", "Take it out"),
    ],
)
def test_what_is_wrong_in_a_config_is_said_and_where(tmp_path: Path, text: str, where: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        in_yaml(tmp_path, text)
    assert where in str(caught.value.where)
    assert what in str(caught.value)


def test_a_flag_that_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the flag --min-area: min_area is -1, less than 0. Give a number at least"):
        in_yaml(tmp_path, "", "--min-area", "-1")
    message = r"the flag --values: values is '1,2=building 3=car'. Write --values NAME=VALUE, such as --values 127=fir"
    with pytest.raises(RecipeError, match=message):
        in_yaml(tmp_path, "", "--values", "1,2=building", "--values", "3=car")
    message = r"--merge: merge is 'ground'. Write --merge NAME=VALUE, such as --merge ground=gravel,road\."
    with pytest.raises(RecipeError, match=message):
        in_yaml(tmp_path, "", "--merge", "ground")
    with pytest.raises(RecipeError, match="images is not given. Give --images, or images: in the YAML"):
        prepare_settings(parsed("--out", "x"))


def test_recipes_of_earlier_runs_are_read() -> None:
    """They have `leaky`, always empty, and `group_by`."""
    data = {"images": "p", "annotations": "a", "leaky": [], "group_by": "^a", "box_fit": 0.5}
    recipe = Recipe.from_dict({"data": data})
    assert recipe.prepare.group_pattern == "^a"


def test_the_seed_of_the_split_is_the_recipes_unless_it_has_its_own() -> None:
    data = {"images": "p", "annotations": "a"}
    assert Recipe.from_dict({"data": data, "seed": 3}).prepare.seed == 3
    assert Recipe.from_dict({"data": data | {"seed": 4}, "seed": 3}).prepare.seed == 4


# --- from Python


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        ({"stages": {"detection": {"num_train_epoch": 3}}}, "stages.detection.num_train_epoch", "'num_train_epochs'"),
        ({"stages": {"detection": {"skip": 1}}}, "stages.detection.skip", "Write true or false"),
        ({"stages": {"finetune": Stage.of("detection")}}, "stages.finetune", "Write it under stages.detection"),
        ({"stages": {"detection": {"name": "finetune"}}}, "stages.detection.name", "'run_name'"),
        ({"stages": 3}, "stages", "not a mapping"),
        ({"stages": {"detection": {5: 3}}}, "stages.detection.5", "unknown key 5"),
        ({"size": {5: 3}}, "size", "the key 5 is no text"),
        ({"seed": "3"}, "seed", "Write a whole number"),
        ({"losses": {"ce": -1.0}}, "losses.ce", "less than 0"),
        ({"sed": 3}, "sed", "Did you mean 'seed'?"),
        ({"data": {"images": "p", "annotations": None, "labeler": type("L", (), {"segment": 1})()}}, "data.labeler",
         "in memory"),
    ],
)  # fmt: skip
def test_a_recipe_made_in_python_is_checked(settings: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        Recipe(**{"data": "x"} | settings)
    assert caught.value.where == where


def test_settings_do_not_change_and_their_copies_are_checked() -> None:
    recipe = Recipe(data="x")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]
    assert recipe.changed(seed=3).seed == 3
    with pytest.raises(RecipeError, match="less than 0"):
        recipe.changed(seed=-1)
    assert recipe.stages.finetune.changed(skip=True).skip
    assert recipe.changed(stages=recipe.stages.changed(finetune=Stage.of("finetune", skip=True))).stages.finetune.skip


def test_settings_travel_to_worker_processes() -> None:
    recipe = Recipe(data=Prepare(images=Path("p"), annotations=None), stages={"detection": {"max_steps": 3}})
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert pickle.loads(pickle.dumps(Augmentation().for_size(96))) == Augmentation().for_size(96)
