"""What a Trainer measures is what `evaluate_model` measures on the saved model, and COCO's boxes are the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.evaluation import evaluate
from hf_detr_panoptic.evaluation.evaluate import (
    box_precision,
    detections,
    eval_metrics,
    evaluate_model,
    panoptic_quality,
    plan_batches,
)
from hf_detr_panoptic.evaluation.quality import Objects
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.stage_settings import METRICS
from hf_detr_panoptic.training.sampling import Splits


@pytest.fixture
def model(model_folder: Path) -> DetrForPanopticSegmentation:
    loaded = DetrForPanopticSegmentation.from_pretrained(model_folder)
    loaded.settings = type(loaded.settings)(threshold=0.0, fill="argmax")
    return loaded


def test_pq_is_that_of_evaluate(model: DetrForPanopticSegmentation, splits: Splits) -> None:
    ours = panoptic_quality(model, splits.val, batch_size=2)
    theirs = evaluate_model(model, splits.val, batch_size=2)
    assert sum(row["fp"] for row in ours["per_class"]) > 0
    for name in ("pq", "sq", "rq", "per_class", "things", "stuff"):
        assert ours[name] == theirs[name]


def test_the_model_trains_on(model: DetrForPanopticSegmentation, splits: Splits) -> None:
    model.train()
    panoptic_quality(model, splits.val[:1], batch_size=2)
    assert model.training


def test_boxes_are_the_models(model: DetrForPanopticSegmentation, splits: Splits) -> None:
    row = splits.val[0]
    photo = open_image(row.photo)
    pixels = model.preprocess(photo)[None]
    (found,) = detections(model.eval(), pixels, [(photo.height, photo.width)])
    with torch.no_grad():
        output = model(pixels)
    probabilities = output.logits[0].softmax(-1)[:, :-1]
    assert found.labels.tolist() == probabilities.argmax(-1).tolist()
    assert found.scores == pytest.approx(probabilities.amax(-1).numpy(), rel=1e-4)
    x, y, w, h = (output.pred_boxes[0] * torch.tensor([photo.width, photo.height] * 2)).unbind(-1)
    expected = torch.stack([x - w / 2, y - h / 2, w, h], -1)
    assert torch.allclose(torch.from_numpy(found.boxes).float(), expected, atol=1e-3)


def test_perfect_boxes_have_ap_1(model: DetrForPanopticSegmentation, splits: Splits, monkeypatch: Any) -> None:
    truths = iter([Objects.of(row.map(), masks=False) for batch in plan_batches(splits.val, 1) for row in batch])
    monkeypatch.setattr(evaluate, "detections", lambda *_: [next(truths)])
    result = box_precision(model, splits.val, batch_size=1)
    assert result["all"]["ap"] == pytest.approx(1.0)
    assert eval_metrics("boxes", result)["eval_box_ap"] == pytest.approx(1.0)


def test_boxes_and_pq_leave_incomplete_classes_out(
    model: DetrForPanopticSegmentation, splits: Splits, monkeypatch: Any
) -> None:
    """Of a photo that is incomplete for all classes nothing counts; the others count as they would alone."""
    rows = [replace(splits.val[0], incomplete=tuple(splits.space.names)), *splits.val[1:]]
    pq = panoptic_quality(model, rows, 1)
    assert pq == panoptic_quality(model, splits.val[1:], 1) != panoptic_quality(model, splits.val, 1)

    def found(model: Any, pixels: Any, sizes: Any, precision: str) -> list[Objects]:
        """The first photo's boxes are all wrong, the others' right."""
        place = next(places)
        truth = Objects.of(splits.val[place].map(), masks=False)
        return [Objects(truth.labels, truth.boxes + (100 if place == 0 else 0), truth.scores)]

    monkeypatch.setattr(evaluate, "detections", found)
    order = [splits.val.records.index(row) for batch in plan_batches(splits.val, 1) for row in batch]
    for measured, right in ((rows, True), (splits.val, False)):
        places = iter(order)
        assert (box_precision(model, measured, 1)["all"]["ap"] == pytest.approx(1.0)) is right


def test_batches_hold_one_size(splits: Splits) -> None:
    batches = plan_batches(splits.train, 2)
    assert sorted(row.image_id for batch in batches for row in batch) == sorted(row.image_id for row in splits.train)
    assert all(len({row.size for row in batch}) == 1 and len(batch) <= 2 for batch in batches)


def test_nothing_found_counts_as_0() -> None:
    nothing = {"pq": None, "sq": None, "rq": None, "things": {"pq": None}, "stuff": {"pq": 0.25}}
    assert eval_metrics("maps", nothing) == {"eval_pq": 0.0, "eval_pq_stuff": 0.25}


def test_no_photos(model: DetrForPanopticSegmentation) -> None:
    with pytest.raises(DatasetError, match="no photo to evaluate"):
        panoptic_quality(model, [], 2)


@pytest.mark.parametrize(("stage", "mode"), [("detection", "boxes"), ("mask_head", "maps"), ("finetune", "maps")])
def test_figures_have_the_names_that_a_recipe_may_choose_by(stage: str, mode: str) -> None:
    group = dict.fromkeys(("pq", "sq", "rq", "ap", "ap50", "ap75"), 0.5)
    whole = group | dict.fromkeys(("all", "things", "stuff"), group)
    yours = group | {"pq": 0.25, "ap": 0.25}
    figures = eval_metrics(mode, whole | {"yours": yours})
    assert {name.removeprefix("eval_") for name in figures} == set(METRICS[stage])
    (mean,) = (value for name, value in figures.items() if name.endswith("_yours_and_all"))
    assert mean == 0.375
    # Without classes of the person's, or where none of theirs can be measured, there is no such figure.
    nothing = dict.fromkeys(group)
    for others in (whole, whole | {"yours": nothing}):
        assert {name for name in eval_metrics(mode, others) if "yours" in name} == set()
