"""Whose a run's folder is: what a recipe.yaml there binds to, and which stage may still be trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_detr_panoptic.errors import HfDetrPanopticError, RecipeError, RunError
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training import checkpoints
from hf_detr_panoptic.training.run_folder import Run, check_folder, check_order, claim_folder, stage_folder
from hf_detr_panoptic.training.sampling import Splits
from hf_detr_panoptic.training.stages import run_stages


def finish(output: Path, stage: str) -> None:
    checkpoints.mark_complete(made(stage_folder(output, stage)))


def begin(output: Path, stage: str) -> None:
    checkpoints.mark_complete(made(stage_folder(output, stage) / "checkpoint-4"))


def break_off(output: Path, stage: str) -> None:
    made(stage_folder(output, stage) / "checkpoint-4")


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("trained", [finish, begin])
def test_no_stage_is_trained_after_those_that_follow_it(trained: Callable[[Path, str], None], tmp_path: Path) -> None:
    finish(tmp_path, "detection")
    trained(tmp_path, "finetune")
    with pytest.raises(RecipeError, match=r"finetune was trained before mask_head.*--start finetune.*3-finetune"):
        check_order(tmp_path, ["detection", "mask_head", "finetune"])
    check_order(tmp_path, ["finetune"])
    check_order(tmp_path, ["detection"])


def test_all_later_stages_are_named(tmp_path: Path) -> None:
    finish(tmp_path, "mask_head")
    begin(tmp_path, "finetune")
    with pytest.raises(RecipeError, match="mask_head and finetune were trained before detection.*--start mask_head"):
        check_order(tmp_path, ["detection"])


def test_half_a_checkpoint_is_no_training(tmp_path: Path) -> None:
    break_off(tmp_path, "finetune")
    check_order(tmp_path, ["detection", "mask_head", "finetune"])


def test_a_run_that_never_began_binds_to_nothing(
    splits: Splits, shapes_folder: Path, model_folder: Path, make_recipe: Any, tmp_path: Path
) -> None:
    """A model that is not there is said once the folder is claimed; the command, mended, goes through."""
    recipe = make_recipe(shapes_folder, model_folder, tmp_path / "run")
    with pytest.raises(HfDetrPanopticError, match="nobody/nothing"):
        run_stages(recipe.changed(model="nobody/nothing"), splits, say=str)
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    check_folder(recipe)
    check_folder(recipe.changed(seed=3, data="another/dataset"))
    begin(tmp_path / "run", "mask_head")
    with pytest.raises(RecipeError, match="other settings: model"):
        check_folder(recipe)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"data": "here"}, "dataset"),
        ({"data": {"images": "photos", "annotations": None, "out": "here"}}, "dataset"),
        ({"data": "there", "model": "other/../here"}, "model"),
    ],
)
def test_a_run_is_not_written_into_what_it_learns_from(
    content: dict[str, Any], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report would lie where the dataset's lay."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=f"into the {what} that it learns from"):
        check_folder(Recipe.from_dict({**content, "output": "here"}))
    check_folder(Recipe.from_dict({**content, "output": "here/run"}))


def test_data_that_was_prepared_into_the_folder_binds(tmp_path: Path) -> None:
    content: dict[str, Any] = {"data": {"images": "photos", "annotations": "marks"}, "output": str(tmp_path / "run")}
    claim_folder(Recipe.from_dict(content))
    warmer = Recipe.from_dict({**content, "data": {**content["data"], "threshold": 0.7}})
    check_folder(warmer)
    made(tmp_path / "run" / "data").joinpath("prepare.json").write_text(json.dumps({}))
    check_folder(Recipe.from_dict({**content, "model": "another/model"}))
    with pytest.raises(RecipeError, match=r"other settings: data\.threshold"):
        check_folder(warmer)
    with pytest.raises(RecipeError, match="other settings: seed"):  # which shared the photos out
        check_folder(Recipe.from_dict({**content, "seed": 3}))


def test_a_run_that_has_only_begun_is_read_as_empty(tmp_path: Path) -> None:
    Recipe.from_dict({"data": "d", "output": str(tmp_path / "run")}).save(tmp_path / "run" / "recipe.yaml")
    run = Run.at(tmp_path / "run")
    assert run.recipe.data == "d"
    assert (run.stages, run.metrics, run.result, run.environment, run.rows) == ({}, {}, {}, {}, [])
    assert not run.is_finished
    with pytest.raises(RunError, match=r"not finished: it has no final/config\.json"):
        _ = run.space


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("metrics.json", '{"final": {"pq": "x"}}', "pq is 'x'"),
        ("metrics.json", '{"final": {"per_class": [{"isthing": 1}]}}', "isthing is 1"),
        ("metrics.json", '{"stages": {"detection": {"box": {"all": {"ap50": "0.4"}}}}}', "ap50 is '0.4'"),
        ("metrics.json", "[1]", r"it is \[1\]"),
        ("environment.json", '{"earlier": ["CPU"]}', "earlier is 'CPU'"),
        ("1-detection/complete.json", '{"rows": 3}', "rows is 3"),
        ("1-detection/complete.json", '{"name": "detection"}', "KeyError"),
        ("1-detection/complete.json", "{", "Expecting"),
        ("results.csv", b"stage\n\xff\n", "'utf-8' codec"),
    ],
)
def test_a_file_that_a_hand_has_damaged(tmp_path: Path, file: str, content: str | bytes, says: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = Run(tmp_path)
    with pytest.raises(RunError, match=rf"{file}: is damaged \({says}.*\)\. Restore it, or train again\."):
        _ = (run.metrics, run.environment, run.stages, run.rows)


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "results.csv"])
def test_a_link_of_a_received_run_shows_nobody_s_files(name: str, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("{}")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("data: x")
    assert Run.at(run).folder == run
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(private)
    with pytest.raises(RunError, match=f"{name}: the file lies outside of the run"):
        Run.at(run)


def test_a_link_in_a_circle_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("data: x")
    (tmp_path / "metrics.json").symlink_to("metrics.json")
    with pytest.raises(RunError, match=r"metrics\.json: cannot be read"):
        _ = Run.at(tmp_path).metrics


def test_the_links_of_the_hub_s_cache_are_its_own(tmp_path: Path) -> None:
    blobs, run = tmp_path / "models--me--site" / "blobs", tmp_path / "models--me--site" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    run.mkdir(parents=True)
    (blobs / "17").write_text("data: x")
    (run / "recipe.yaml").symlink_to("../../blobs/17")
    assert Run.at(run).plain == {"data": "x"}
