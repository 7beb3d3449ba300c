"""Matching, against stock transformers (right in fp32) and against trying every assignment."""

from itertools import permutations

import pytest
import torch
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import HungarianMatcher, generalized_box_iou

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.matcher import MatchCosts, Predictions, generalized_iou, match
from hf_detr_panoptic.model.targets import Targets

pytestmark = pytest.mark.bits

NUM_LABELS = 4


def random_batch(counts, num_queries=9, seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), num_queries, NUM_LABELS + 1, generator=random)
    boxes = torch.rand(len(counts), num_queries, 4, generator=random) * 0.5 + 0.1
    labels = [
        {
            "class_labels": torch.randint(0, NUM_LABELS, (count,), generator=random),
            "boxes": torch.rand(count, 4, generator=random) * 0.5 + 0.1,
        }
        for count in counts
    ]
    return logits, boxes, labels


def targets_of(labels):
    return Targets.from_labels(labels, num_labels=NUM_LABELS, canvas=(8, 8), device="cpu")


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (9, 1), (12, 2), (1,), (0, 0)])
def test_agrees_with_stock(counts):
    logits, boxes, labels = random_batch(counts)
    matching = match(Predictions(logits, boxes), targets_of(labels))
    expected = HungarianMatcher(1, 5, 2)({"logits": logits, "pred_boxes": boxes}, labels) if sum(counts) else []
    pairs = [
        (image, query, start + place, place)
        for image, (queries, places) in enumerate(expected)
        for start in [sum(counts[:image])]
        for query, place in zip(queries.tolist(), places.tolist(), strict=True)
    ]
    found = torch.stack(
        [matching.image_index, matching.query_index, matching.target_index, matching.target_index_in_image], 1
    )
    assert found.tolist() == [list(pair) for pair in pairs]
    assert matching.counts == tuple(min(9, count) for count in counts)
    assert matching.surplus == sum(max(0, count - 9) for count in counts)
    assert len(matching) == len(found)


def test_is_the_cheapest_of_all_assignments():
    logits, boxes, labels = random_batch((3,), num_queries=5, seed=4)
    costs = MatchCosts(ce=2.0, bbox=1.0, giou=3.0)
    prices = {}
    for queries in permutations(range(5), 3):
        prices[queries] = sum(
            2 * -logits[0, query].softmax(-1)[labels[0]["class_labels"][target]]
            + (boxes[0, query] - labels[0]["boxes"][target]).abs().sum()
            - 3 * stock_giou(boxes[0, query], labels[0]["boxes"][target])
            for target, query in enumerate(queries)
        )
    matching = match(Predictions(logits, boxes), targets_of(labels), costs)
    cheapest = min(prices, key=prices.get)
    assert {(q, t) for t, q in enumerate(cheapest)} == set(
        zip(matching.query_index.tolist(), matching.target_index.tolist(), strict=True)
    )


def stock_giou(ours, theirs):
    return generalized_box_iou(center_to_corners_format(ours[None]), center_to_corners_format(theirs[None]))[0, 0]


def test_generalized_iou():
    ours, theirs = torch.rand(2, 20, 4).mul(0.5).add(0.01).unbind()
    expected = torch.stack([stock_giou(a, b) for a, b in zip(ours, theirs, strict=True)])
    torch.testing.assert_close(generalized_iou(ours, theirs), expected)
    # By hand: unit squares a unit apart, 1 + 1 in an enclosing 3: 0 - (3 - 2) / 3.
    apart = generalized_iou(torch.tensor([0.5, 0.5, 1, 1]), torch.tensor([2.5, 0.5, 1, 1]))
    assert apart.item() == pytest.approx(-1 / 3)


def test_each_auxiliary_layer_is_matched_by_itself():
    layers = [random_batch((3, 2), seed=seed)[:2] for seed in (1, 2, 3)]
    labels = random_batch((3, 2), seed=9)[2]
    (logits, boxes), earlier = layers[-1], layers[:-1]
    predictions = Predictions(
        logits, boxes, torch.stack([x for x, _ in earlier]), torch.stack([x for _, x in earlier])
    )
    matching = match(predictions, targets_of(labels))
    alone = [match(Predictions(*layer), targets_of(labels)) for layer in (layers[-1], *earlier)]
    for found, expected in zip((matching, *matching.auxiliary), alone, strict=True):
        assert found.query_index.tolist() == expected.query_index.tolist()
        assert found.target_index.tolist() == expected.target_index.tolist()
    assert len({tuple(one.query_index.tolist()) for one in alone}) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_matched_in_fp32(dtype):
    logits, boxes, labels = (x.to(dtype) if isinstance(x, torch.Tensor) else x for x in random_batch((4, 6), seed=2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = match(Predictions(logits, boxes), targets_of(labels))
    full = match(Predictions(logits.float(), boxes.float()), targets_of(labels))
    assert half.query_index.tolist() == full.query_index.tolist()


@pytest.mark.parametrize("counts", [(2, 2), (0, 0)])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_an_error_not_a_bad_match(counts, which):
    tensors = list(random_batch(counts)[:2])
    tensors[which][1, 3, 2] = float("nan")
    with pytest.raises(ModelError, match="image 1 of the batch: the model's classes or boxes are NaN"):
        match(Predictions(*tensors), targets_of(random_batch(counts)[2]))


def test_a_segment_without_pixels_is_named():
    logits, boxes, labels = random_batch((1,))
    labels[0] |= {"panoptic": torch.ones(8, 8, dtype=torch.int32), "segment_ids": torch.tensor([3])}
    with pytest.raises(ModelError, match="image 0 of the batch: segment 3 is listed but has no pixel"):
        match(Predictions(logits, boxes), targets_of(labels))
