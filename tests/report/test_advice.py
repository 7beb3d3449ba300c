"""Advice follows from figures, and names them."""

from __future__ import annotations

from dataclasses import replace

from hf_detr_panoptic.report.advice import dataset_advice, run_advice
from hf_detr_panoptic.report.values import (
    Curve,
    DatasetClass,
    Pair,
    Part,
    Remark,
    RunClass,
    Score,
    StageReport,
)

PIPE = DatasetClass("pipe", True, (0, 0, 0), 40, 0, 0.1, {"train": 30, "val": 8})
SKY = DatasetClass("sky", False, (0, 0, 0), 0, 40, 0.9, {"train": 3, "val": 0})
PARTS = {"train": Part(30, 60, 10, 80, 10), "val": Part(8, 16, 10, 80, 10)}
GOOD = RunClass("pipe", True, (0, 0, 0), True, 0.7, 0.8, 0.8, 20, 2, 3, train_photos=40)
SCORES = [Score("all", (0.7, 0.8, 0.85), 1)]


def of_dataset(**changes):
    given = {"classes": [PIPE, SKY], "parts": PARTS, "remarks": [], "pairs": [], "prepared": False} | changes
    return [(advice.text, advice.command) for advice in dataset_advice("data/my site", **given)]


def of_run(**changes):
    given = {
        "data": "d",
        "agreement": False,
        "scores": SCORES,
        "classes": [GOOD],
        "stages": [],
        "mix_ups": [],
        "val_photos": 80,
        "finished": True,
    } | changes
    return [advice.text for advice in run_advice("runs/a", **given)]


def test_a_good_dataset_is_looked_at_and_trained_on() -> None:
    assert [command for _, command in of_dataset()] == [
        "hf-detr-panoptic export-review 'data/my site' review.zip",
        "hf-detr-panoptic train construction --data 'data/my site'",
    ]


def test_what_is_wrong_with_a_dataset_comes_first() -> None:
    rare = replace(PIPE, name="crack", photos={"train": 2, "val": 0})
    pair = Pair("a", "train", "b", "val", True, 0)
    errors = [Remark("error", "", "", 3), Remark("warning", "", "", 9)]
    parts = {name: replace(part, void=90) for name, part in PARTS.items()}
    found = of_dataset(classes=[PIPE, rare, SKY], remarks=errors, pairs=[pair], parts=parts, prepared=True)
    starts = ["Mend the 3 errors", "1 photo in two splits", "Mark more photos of what is rare", "No validation photo"]
    for (text, _), start in zip(found, starts, strict=False):
        assert text.startswith(start)
    assert found[2][0].endswith("Fewer than 10 to learn from: crack (2).")
    assert found[3][0] == "No validation photo shows crack: their quality cannot be measured."
    assert found[4][0].startswith("50% of all pixels are void")
    assert not any("train construction" in (command or "") for _, command in found)


def test_a_good_run_is_used() -> None:
    assert of_run() == [
        "See it on new photos:",
        "Measure box and mask AP on all validation photos, to the last decimal:",
    ]


def test_what_a_run_is_weak_in() -> None:
    crack = replace(GOOD, name="crack", pq=0.1, found=1, missed=9, train_photos=4)
    blind = replace(GOOD, name="bolt", pq=0.0, found=0, missed=6)
    stage = StageReport("finetune", "pq", 0.5, 3, 0.4, 9, [], [Curve("PQ", ((1, 0.2), (3, 0.5), (9, 0.4)))])
    said = of_run(
        classes=[GOOD, crack, blind],
        mix_ups=[("crack", "pipe", 4), ("pipe", "crack", 2)],
        stages=[stage, replace(stage, name="detection", best_epoch=9)],
        scores=[Score("all", (0.4, 0.6, 0.7), 3)],
        val_photos=12,
        agreement=True,
    )
    assert said[0].startswith("The truth of the validation photos is the labeler's own")
    assert "Mark more photos of what is rare and weak: crack (4 photos, PQ 10)." in said
    assert any(text.startswith("Never found: bolt (6 missed)") for text in said)
    assert any(text.startswith("Often taken for another: crack for pipe (4 of 10).") for text in said)
    assert any(text.startswith("What is found is cut badly (SQ 60)") for text in said)
    assert any(text.startswith("finetune was best at epoch 3 and worse after") for text in said)
    assert any(text.startswith("detection was best at its last epoch") for text in said)
    assert any(text.startswith("12 validation photos") for text in said)


def test_threshold_advice_goes_both_ways() -> None:
    shy, bold = (replace(GOOD, found=10, missed=m, invented=i) for m, i in ((20, 2), (2, 20)))
    assert any("a lower threshold finds more" in text for text in of_run(classes=[shy]))
    assert not any("0.7" in text for text in of_run(classes=[shy]))  # the model's own may be lower already
    assert any("a higher threshold is more careful" in text for text in of_run(classes=[bold]))


def test_an_unfinished_run_is_resumed() -> None:
    assert of_run(finished=False)[0].startswith("The run is not finished")
