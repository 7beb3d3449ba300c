"""The first evening: so few marked photos that nothing, or not every class, can be held out. No dead end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from made import SPACE, noise, scene, write_dataset, write_shapes

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.rows import load_panoptic, write_parquet
from hf_detr_panoptic.dataset.validation import ON_TRAIN, say_validates_on, validates_on_train
from hf_detr_panoptic.evaluation.table import format_table
from hf_detr_panoptic.hub.cards import model_card_files
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.train import splits_of


def save_marks(folder: Path, photos: list[list[str]]) -> None:
    """`photos/` and `marks.json`: an object of each of these classes on each photo."""
    (folder / "photos").mkdir(parents=True)
    names = sorted({name for marked in photos for name in marked})
    images, annotations = [], []
    for index, marked in enumerate(photos, start=1):
        noise(index).save(folder / "photos" / f"p{index}.png")
        images.append({"id": index, "file_name": f"p{index}.png", "width": 96, "height": 72})
        for place, name in enumerate(marked):
            x = 8 + 28 * place
            polygon = [x, 20, x + 24, 20, x + 24, 60, x, 60]
            entry = {"id": len(annotations) + 1, "image_id": index, "category_id": names.index(name) + 1}
            annotations.append({**entry, "segmentation": [polygon], "bbox": [], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "marks.json").write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photos", "held_out"),
    [
        pytest.param([["pipe"]], 0, id="one photo"),
        pytest.param([["pipe"], ["crack"]], 0, id="two photos, no class twice"),
        pytest.param([["pipe", "crack"], ["crack", "lime"], ["lime", "pipe"]], 1, id="three, each class on two"),
        pytest.param([["crack"], ["crack", "pipe"], ["crack"], ["crack"], ["crack"]], 1, id="five, a class on one"),
        pytest.param([["crack", "pipe"], ["crack"], ["pipe"], ["crack"], ["crack"]], 1, id="five, a class on two"),
    ],
)
def test_from_the_first_photos_to_a_model_and_its_report(
    photos: list[list[str]], held_out: int, tiny_labeler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_marks(tmp_path, photos)
    data, run = tmp_path / "data", tmp_path / "run"
    inputs = ["--images", tmp_path / "photos", "--annotations", tmp_path / "marks.json", "--labeler", tiny_labeler]
    assert main(["prepare", *map(str, inputs), "--out", str(data), "--threshold", "0.5"]) == 0
    assert ("nothing is left for val" in capsys.readouterr().out) == (not held_out)
    read = read_dataset(data)
    assert (len(read["train"]), len(read["val"])) == (len(photos) - held_out, held_out)
    learnt = {s.label for row in read["train"] for s in row.segments if s.source == "custom"}
    assert learnt == read["train"].space.custom_labels
    assert main(["check", str(data)]) == 0
    assert f"next: hf-detr-panoptic train RECIPE --data {data}" in capsys.readouterr().out
    assert main(["split", str(data)]) == 0  # whoever shares them out again is no worse off
    assert main(["check", str(data)]) == 0
    stage = {"num_train_epochs": 1, "use_cpu": True, "dataloader_num_workers": 0}
    recipe = {"model": str(tiny_labeler), "data": str(data), "output": str(run)}
    recipe |= {"augmentation": {"crop": 0, "short_sides": []}, "calibrate": not held_out, "refit": not held_out}
    recipe["stages"] = dict.fromkeys(("detection", "finetune"), stage) | {"mask_head": {"skip": True}}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(tmp_path / "site.yaml")]) == 0
    said = capsys.readouterr().out
    assert (ON_TRAIN in said) == (not held_out)
    metrics = json.loads((run / "metrics.json").read_text())
    stages = [metrics["final"], *metrics["stages"].values()]
    assert {result.get("measured_on") for result in stages} == {None if held_out else "train"}
    card = model_card_files(run, "me/site", license=None, data_repository=None)["README.md"]
    pages = [(run / "report.html").read_text(), card.decode(), format_table(metrics["final"])]
    assert [ON_TRAIN in page for page in pages] == [not held_out] * 3
    assert (f"PQ, {ON_TRAIN}" in pages[1]) == (not held_out)  # the model-index's names
    capsys.readouterr()
    assert main(["evaluate", "--model", str(run / "final"), "--data", str(data)]) == 0
    assert (ON_TRAIN in capsys.readouterr().out) == (not held_out)


def test_an_empty_val_that_nobody_decided_on_is_an_error_and_its_remedy_works(
    tmp_path: Path, tiny_labeler: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "set", {"train": [scene(SPACE)]})
    recipe = ["laptop", "--model", str(tiny_labeler), "--data", str(data), "--output", str(tmp_path / "run")]
    assert main(["train", *recipe, "--dry-run"]) == 2
    assert "hf-detr-panoptic split" in capsys.readouterr().err
    assert main(["check", str(data)]) == 1
    assert "error val-empty" in capsys.readouterr().out
    assert main(["split", str(data)]) == 0
    assert main(["check", str(data)]) == 0
    assert ON_TRAIN in capsys.readouterr().out
    assert main(["train", *recipe, "--dry-run"]) == 0


def test_it_counts_only_where_val_is_empty(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "set", train=2, val=1)
    say_validates_on(data, train=True)
    splits = splits_of(Recipe(data=str(data)))
    assert not splits.on_train
    assert [row.file_name for row in splits.val] == ["p2.png"]
    say_validates_on(data, train=False)
    assert json.loads((data / "prepare.json").read_text()) == {"format": 1}


def test_measured_are_the_photos_that_somebody_looked_at(tmp_path: Path) -> None:
    from hf_detr_panoptic.dataset.writer import DatasetWriter

    with DatasetWriter(tmp_path / "set", SPACE) as writer:
        for name, about in {"a": {}, "b": {"incomplete": ["pipe"]}, "c": {"mixed": True}}.items():
            writer.add("train", f"{name}.png", noise(ord(name)), scene(SPACE), **about)
    say_validates_on(tmp_path / "set", train=True)
    splits = splits_of(Recipe(data=str(tmp_path / "set")))
    assert [len(rows) for rows in splits.by_name.values()] == [3, 0]  # as run records have it
    assert [row.file_name for row in splits.val] == ["a.png"]


def test_parquet_says_it_too(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", {"train": [scene(SPACE)]})
    say_validates_on(data, train=True)
    write_parquet(load_panoptic(data), tmp_path / "parquet")
    splits = splits_of(Recipe(data=str(tmp_path / "parquet")))
    assert splits.on_train
    assert np.array_equal(splits.val[0].map().ids, scene(SPACE).ids)
    assert validates_on_train(data)
