"""What the class loss asks on photos that nobody has looked at: −log of sums of probabilities, query by query."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.criterion import Denominators, criterion
from hf_detr_panoptic.model.matcher import Matching, Predictions, match
from hf_detr_panoptic.model.targets import Targets
from hf_detr_panoptic.settings import Losses

pytestmark = pytest.mark.bits

CLASSES, QUERIES, LAYERS = 5, 7, 3
CUSTOM, AUTO, MODEL = 0, 1, 2


def label_of(seed: int, classes: list[int], **more: Any) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(len(classes), 4, generator=random) * 0.4 + 0.2
    told = {name: torch.tensor(value, dtype=torch.long) for name, value in more.items()}
    return {"class_labels": torch.tensor(classes, dtype=torch.long), "boxes": boxes, **told}


# The last image is complete. On the first, 3 and 4 may lie about unmarked: an auto thing, auto stuff, a pasted mark
# of an incomplete class, and a thing that a model found.
LABELS = [
    label_of(1, [0, 1, 3, 2], incomplete=[3, 4], sources=[AUTO, AUTO, CUSTOM, MODEL], isthing=[1, 0, 1, 1]),
    label_of(2, [], incomplete=[4], sources=[], isthing=[]),
    label_of(3, [0, 2], incomplete=[], sources=[AUTO, CUSTOM], isthing=[1, 1]),
]


def outputs(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, len(LABELS), QUERIES, CLASSES + 1, generator=random, dtype=torch.float64) * 3
    boxes = torch.rand(LAYERS, len(LABELS), QUERIES, 4, generator=random, dtype=torch.float64) * 0.4 + 0.2
    return logits.to(dtype).requires_grad_(), boxes.to(dtype).requires_grad_()


def learnt(
    logits: torch.Tensor, boxes: torch.Tensor, labels: list[dict[str, torch.Tensor]], **more: Any
) -> tuple[dict[str, torch.Tensor], Matching]:
    targets = Targets.from_labels(labels, num_labels=CLASSES, canvas=(64, 64), device="cpu")
    predictions = Predictions(logits[-1], boxes[-1], logits[:-1], boxes[:-1])
    matching = match(predictions, targets)
    return criterion(predictions, targets, matching, **more)[1], matching


def slow_class_loss(logits: torch.Tensor, pairs: Matching, losses: Losses) -> torch.Tensor:
    """Query by query, from probabilities."""
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    matched = list(
        zip(pairs.image_index.tolist(), pairs.query_index.tolist(), pairs.target_index.tolist(), strict=True)
    )
    begins = [0, 4, 4]
    for image, label in enumerate(LABELS):
        incomplete = label["incomplete"].tolist() if losses.partial else []
        for query in range(QUERIES):
            probabilities = torch.softmax(logits[image, query], -1)
            found = [target - begins[image] for i, q, target in matched if (i, q) == (image, query)]
            if not found:
                right = {CLASSES, *incomplete}
                weighs = losses.no_object
            else:
                right = {int(label["class_labels"][found[0]])}
                weighs = 1.0
                guess = label["sources"][found[0]] == AUTO and label["isthing"][found[0]] == 1
                if guess and losses.partial_things:
                    right |= set(incomplete)
            total = total - weighs * torch.log(sum(probabilities[one] for one in right))
            weight += weighs
    return total / weight


def test_where_somebody_looked_all_is_asked() -> None:
    """As if the photo were complete for the queries whose centre lies in a box, as before for the others."""
    logits, boxes = outputs()
    known = [{**label} for label in LABELS]
    known[0]["known_in"] = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.1, 0.1]])
    complete = [{**label, "incomplete": label["incomplete"][:0]} for label in LABELS]
    inside = {
        query
        for query in range(QUERIES)
        for x, y, wide, high in known[0]["known_in"].tolist()
        if abs(boxes[-1, 0, query, 0] - x) < wide / 2 and abs(boxes[-1, 0, query, 1] - y) < high / 2
    }
    assert 0 < len(inside) < QUERIES
    slopes = []
    for labels in (known, LABELS, complete):
        found, _ = learnt(logits, boxes, labels)
        (slope,) = torch.autograd.grad(found["loss_ce"], logits)
        slopes.append(slope[-1])
    for query in range(QUERIES):
        torch.testing.assert_close(slopes[0][0, query], slopes[2 if query in inside else 1][0, query])
    torch.testing.assert_close(slopes[0][1], slopes[1][1])


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("things", [True, False])
def test_the_class_loss_is_the_slow_formula_in_every_layer(partial: bool, things: bool) -> None:
    losses = Losses(partial=partial, partial_things=things, no_object=0.3)
    logits, boxes = outputs()
    found, matching = learnt(logits, boxes, LABELS, weights=losses)
    for suffix, layer, pairs in [
        ("", -1, matching),
        ("_0", 0, matching.auxiliary[0]),
        ("_1", 1, matching.auxiliary[1]),
    ]:
        expected = slow_class_loss(logits[layer], pairs, losses)
        assert found["loss_ce" + suffix].item() == pytest.approx(expected.item(), rel=1e-12)
        ours, theirs = (
            torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found["loss_ce" + suffix], expected)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_what_is_right_costs_nothing() -> None:
    """A pipe found on a photo that nobody looked at; where somebody has, it costs its logit."""
    logits = torch.full((1, QUERIES, CLASSES + 1), -50.0)
    logits[..., 4] = 50.0
    predictions = Predictions(logits, torch.full((1, QUERIES, 4), 0.5))
    for incomplete, expected in (([4], 0.0), ([3], 100 - math.log(2))):
        label = label_of(0, [], incomplete=incomplete)
        targets = Targets.from_labels([label], num_labels=CLASSES, canvas=(64, 64), device="cpu")
        found = criterion(predictions, targets, match(predictions, targets))[1]
        assert found["loss_ce"].item() == pytest.approx(expected)


def test_complete_photos_keep_their_bits() -> None:
    """Where nothing is incomplete the formula is the old one; beside an incomplete photo, gradients are the same."""
    bare = [{key: label[key] for key in ("class_labels", "boxes")} for label in LABELS]
    complete = [{**label, "incomplete": torch.zeros(0, dtype=torch.long)} for label in LABELS]
    logits, boxes = outputs(dtype=torch.float32)
    before, same = (learnt(logits, boxes, labels)[0] for labels in (bare, complete))
    assert before.keys() == same.keys()
    for name, value in before.items():
        assert torch.equal(same[name], value), name
    ours, theirs = (
        torch.autograd.grad(x["loss_ce"], logits)[0][-1] for x in (learnt(logits, boxes, LABELS)[0], before)
    )
    assert torch.equal(ours[2], theirs[2])
    assert not torch.equal(ours[0], theirs[0])


def test_rest_of_the_losses_is_not_touched() -> None:
    logits, boxes = outputs()
    with_it, without = (learnt(logits, boxes, LABELS, weights=Losses(partial=on))[0] for on in (True, False))
    assert {name for name in with_it if with_it[name] != without[name]} == {"loss_ce", "loss_ce_0", "loss_ce_1"}


def test_photos_shared_out_over_processes_add_up() -> None:
    logits, boxes = outputs()
    losses = Losses(partial_things=True)
    whole = learnt(logits, boxes, LABELS, weights=losses)[0]["loss_ce"]
    counts = [len(label["class_labels"]) for label in LABELS]
    all_of_it = Denominators.of(counts, QUERIES, losses)
    shares = Denominators(all_of_it.boxes, all_of_it.class_weight, processes=2)
    parts = [
        learnt(logits[:, some], boxes[:, some], LABELS[some], weights=losses, denominators=shares)[0]["loss_ce"]
        for some in (slice(0, 1), slice(1, 3))
    ]
    assert (sum(parts) / 2).item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_fp32(dtype: torch.dtype) -> None:
    half = tuple(x.detach().to(dtype).requires_grad_() for x in outputs())
    full = tuple(x.detach().float().requires_grad_() for x in half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = learnt(*half, LABELS)[0]["loss_ce"]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(learnt(*full, LABELS)[0]["loss_ce"].item(), rel=1e-6)


def test_logits_far_apart_stay_finite() -> None:
    logits = torch.zeros(1, QUERIES, CLASSES + 1)
    logits[..., 0], logits[..., 1:] = 1e4, -1e4
    logits.requires_grad_()
    targets = Targets.from_labels([LABELS[1]], num_labels=CLASSES, canvas=(64, 64), device="cpu")
    predictions = Predictions(logits, torch.full((1, QUERIES, 4), 0.5))
    found = criterion(predictions, targets, match(predictions, targets))[1]["loss_ce"]
    assert found.item() == pytest.approx(2e4, rel=1e-4)
    assert torch.autograd.grad(found, logits)[0].isfinite().all()


def test_an_incomplete_class_that_is_none_is_an_error() -> None:
    with pytest.raises(ModelError, match="class label 5 is outside the 5 labels"):
        Targets.from_labels([label_of(0, [1], incomplete=[5])], num_labels=CLASSES, canvas=(64, 64), device="cpu")
    with pytest.raises(ModelError, match="1 class_labels and 2 sources"):
        Targets.from_labels([label_of(0, [1], sources=[0, 1])], num_labels=CLASSES, canvas=(64, 64), device="cpu")
