"""Flags over a recipe, as they stand on a command line."""

from __future__ import annotations

from dataclasses import fields
from itertools import takewhile
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.recipe import Recipe, apply_overrides
from hf_detr_panoptic.settings import Prepare

TEXT = """\
data: {images: photos, annotations: a.zip}
stages:
  mask_head: {num_train_epochs: 25, lr_drop: 15, fp16: true}
  finetune: {max_steps: 100}
"""


def load(tmp_path: Path, *flags: str, text: str = TEXT) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return Recipe.load(path, flags)


def test_one_stage_or_all(tmp_path: Path) -> None:
    recipe = load(tmp_path, "--num_train_epochs", "40", "--stages.mask_head.num_train_epochs", "50")
    assert [stage.training_arguments["num_train_epochs"] for stage in recipe.stages] == [40, 50, 40]
    assert "max_steps" not in recipe.stages.finetune.training_arguments  # the flag says when to stop, not the file


def test_a_flag_takes_the_place_of_its_rival_in_the_file(tmp_path: Path) -> None:
    mask_head = load(tmp_path, "--max_steps=5", "--lr_scheduler_type", "cosine", "--bf16").stages.mask_head
    assert mask_head.training_arguments["max_steps"] == 5
    assert mask_head.lr_drop is None
    assert mask_head.training_arguments["bf16"] is True
    assert not {"num_train_epochs", "fp16"} & mask_head.training_arguments.keys()


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--seed", "3"], "seed", 3),
        (["--seed=3"], "seed", 3),
        (["--output", "2024"], "output", "2024"),
        (["--output", "no"], "output", "no"),
        (["--labels", "a,b c"], "labels", ("a", "b c")),
        (["--labels", "a", "b c"], "labels", ("a", "b c")),
        (["--labels", "[a, b c]"], "labels", ("a", "b c")),
        (["--labels", "null"], "labels", None),
        (["--labels", "007"], "labels", ("007",)),
        (["--data", "data/site"], "data", "data/site"),
        (["--data.threshold", ".9"], "data.threshold", 0.9),
        (["--data.stuff", "gravel"], "data.stuff", ("gravel",)),
        (["--data.stuff", "no,off"], "data.stuff", ("no", "off")),
        (["--data.boxes", "skip"], "data.boxes", "skip"),
        (["--data.rename", "{a: b}"], "data.rename", {"a": "b"}),
        (["--data.rename.a", "b"], "data.rename", {"a": "b"}),
        (["--data.values", "9=fire", "254=smoke"], "data.values", {9: "fire", 254: "smoke"}),
        (["--data.values", "9=fire", "--data.values", "254=smoke"], "data.values", {9: "fire", 254: "smoke"}),
        (["--data.merge", "ground=gravel,road"], "data.merge", {"ground": ("gravel", "road")}),
        (["--data.max-size", "640"], "data.max_size", 640),
        (["--data.group_by", "[ab]"], "data.group_pattern", "[ab]"),
        (["--data.strict"], "data.strict", True),
        (["--augmentation.scale_jitter", "0.1", "2"], "augmentation.scale_jitter", (0.1, 2.0)),
        (["--augmentation.crop_window", "32,64"], "augmentation.crop_window", (32, 64)),
        (["--push.repository", "user/name"], "push.repository", "user/name"),
        (["--push.repository", "user/name", "--push.private", "false"], "push.private", False),
        (["--stages.detection.skip"], "stages.detection.skip", True),
        (["--stages.detection.freeze", "[]"], "stages.detection.freeze", ()),
        (["--freeze="], "stages.finetune.freeze", ()),
        (["--lr-drop", "null"], "stages.mask_head.lr_drop", None),
        (["--mask_queries", "confident"], "stages.mask_head.mask_queries", "confident"),
        (["--learning_rate", "1e-3"], "stages.detection.training_arguments.learning_rate", 1e-3),
        (["--bf16", "false"], "stages.detection.training_arguments.bf16", False),
        (["--eval_strategy", "no"], "stages.detection.training_arguments.eval_strategy", "no"),
        (["--report_to", "tensorboard"], "stages.finetune.training_arguments.report_to", "tensorboard"),
        (["--report_to", "[a, b]"], "stages.finetune.training_arguments.report_to", ["a", "b"]),
        (["--max_steps", "-1"], "stages.finetune.training_arguments.num_train_epochs", 10.0),
    ],
)
def test_values(tmp_path: Path, flags: list[str], key: str, value: object) -> None:
    found: object = load(tmp_path, *flags)
    for name in key.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_the_rest_of_the_recipe_stays(tmp_path: Path) -> None:
    assert load(tmp_path, "--data.threshold", "0.85") == load(tmp_path)
    data = load(tmp_path, "--data.threshold", "0.9").data
    assert isinstance(data, Prepare)
    assert data.images == Path("photos")


def test_help_names_every_key_and_each_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    _, _, keys = capsys.readouterr().out.partition("keys of the recipe")
    rows = [line.split() for line in keys.splitlines() if line.startswith("  --")]
    named = {flag for row in rows for flag in takewhile(lambda word: word.startswith("--"), row)} - {"--data.KEY"}
    assert {"--seed", "--augmentation.paste", "--lr_drop", "--stages.mask_head.threshold"} <= named
    known = {field.name for field in fields(TrainingArguments)}
    assert {"--num_train_epochs", "--learning_rate"} < {flag for flag in named if flag[2:] in known}
    for flag in sorted(named):
        apply_overrides({}, [flag, "1"])  # else it is unknown, or could mean several


@pytest.mark.parametrize(
    ("flags", "where", "what"),
    [
        (["--sed", "1"], "the command line", "'--seed'"),
        (["--num_train_epoch", "3"], "the command line", "Did you mean '--num_train_epochs'?"),
        (["--mask_head.lr_drop", "3"], "the command line", "Did you mean --stages.mask_head.lr_drop?"),
        (["--stuff", "a"], "the command line", "Did you mean --data.stuff?"),
        (["--threshold", "0.5"], "the command line", "--data.threshold or --postprocess.threshold or --stages.mask_h"),
        (["--stages.mask_hed.lr_drop", "3"], "the flag --stages.mask_hed.lr_drop", "Did you mean 'mask_head'?"),
        (["--stages.mask_head.lr_drp", "3"], "the flag --stages.mask_head.lr_drp", "Did you mean 'lr_drop'"),
        (["--data.thresold", "3"], "the flag --data.thresold", "Did you mean 'threshold'"),
        (["--data.threshold", "9"], "the flag --data.threshold", "more than 1"),
        (["--data", "x", "--data.threshold", ".9"], "the flag --data.threshold", "data is 'x' in the recipe"),
        (["--sneed", "1"], "the command line", "Did you mean '--seed'?"),
        (
            ["--device", "cuda"],
            "the command line",
            "flag --device. See hf-detr-panoptic train --help",
        ),
        (
            ["--data.values", "a,b=c"],
            "the flag --data.values",
            "--data.values NAME=VALUE, such as --data.values 127=",
        ),
        (["--seed", "x"], "the flag --seed", "Write a whole number"),
        (["--seed"], "the flag --seed", "Write --seed VALUE"),
        (["--seed", "1", "2"], "the flag --seed", "it takes one value"),
        (["--stages", "x"], "the flag --stages", "not a mapping"),
        (["--push.private", "true"], "the flag --push.private", "'repository' is missing"),
        (["--warmup_ratio", ".1"], "the flag --warmup_ratio", "Write `warmup_steps: 0.1`"),
        (["--max_steps", "5", "--num_train_epochs", "3"], "the flag --max_steps", "Keep one of them"),
        (["stray"], "the command line", "'stray' belongs to no flag"),
        (["--seed", "1", "-x"], "the command line", "'-x' belongs to no flag"),
        (["--skip"], "r.yaml, line 2, stages", "every stage is skipped"),
    ],
)
def test_what_is_wrong_is_said_and_where(tmp_path: Path, flags: list[str], where: str, what: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, *flags)
    assert where in str(caught.value.where)
    assert what in str(caught.value)
