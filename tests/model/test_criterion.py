"""The whole loss: against stock where stock is right, against slow loops where it is not."""

import logging
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch.nn.functional import interpolate, pad
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForSegmentationLoss

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model import criterion as criterion_module
from hf_detr_panoptic.model.criterion import Denominators, criterion, losses_of, write_losses
from hf_detr_panoptic.model.matcher import MatchCosts, Predictions, match
from hf_detr_panoptic.model.targets import Targets
from hf_detr_panoptic.settings import Losses

pytestmark = pytest.mark.bits

NUM_LABELS, LAYERS = 3, 3


def outputs_of(num_images, num_queries, grid, seed=0, dtype=torch.float64):
    """Leaves: logits [L, B, Q, C + 1], boxes [L, B, Q, 4], masks [B, Q, h, w]; the last layer is last, as in stock."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, num_images, num_queries, NUM_LABELS + 1, generator=random, dtype=torch.float64)
    boxes = torch.rand(LAYERS, num_images, num_queries, 4, generator=random, dtype=torch.float64) * 0.5 + 0.2
    masks = torch.randn(num_images, num_queries, *grid, generator=random, dtype=torch.float64) * 2
    return [x.to(dtype).requires_grad_() for x in (logits, boxes, masks)]


def label_of(ids, segment_ids, seed=0, **extra):
    random = torch.Generator().manual_seed(seed)
    count = len(segment_ids)
    return {
        "class_labels": torch.randint(0, NUM_LABELS, (count,), generator=random),
        "boxes": torch.rand(count, 4, generator=random) * 0.5 + 0.2,
        "panoptic": ids,
        "segment_ids": torch.tensor(segment_ids, dtype=torch.long),
    } | extra


def blocks(height, width, ids, seed=0):
    """An id map of random 4 × 4 blocks."""
    random = torch.Generator().manual_seed(seed)
    shape = (math.ceil(height / 4), math.ceil(width / 4))
    coarse = torch.tensor(ids, dtype=torch.int32)[torch.randint(0, len(ids), shape, generator=random)]
    return coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width]


def ours(outputs, labels, canvas, auxiliary=True, **settings):
    logits, boxes, masks = outputs
    targets = Targets.from_labels(labels, num_labels=NUM_LABELS, canvas=canvas, device="cpu")
    earlier = (logits[:-1], boxes[:-1]) if auxiliary else ()
    predictions = Predictions(logits[-1], boxes[-1], *earlier)
    matching = match(predictions, targets)
    chosen = masks[matching.image_index, matching.query_index]
    return criterion(predictions, targets, matching, chosen, **settings)


def stock(outputs, labels, auxiliary=True, **coefficients):
    logits, boxes, masks = outputs
    config = DetrConfig(
        id2label={i: str(i) for i in range(NUM_LABELS)},
        auxiliary_loss=auxiliary,
        decoder_layers=LAYERS,
        **coefficients,
    )
    dtype = logits.dtype
    labels = [
        entry
        | {
            "masks": (entry["panoptic"] == entry["segment_ids"][:, None, None]).to(dtype),
            "boxes": entry["boxes"].to(dtype),
        }
        for entry in labels
    ]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        loss, losses, _ = ForSegmentationLoss(logits[-1], labels, "cpu", boxes[-1], masks, config, logits, boxes)
    finally:
        torch.set_default_dtype(default)
    return loss, losses


IDS = (0, 11, 7, 300)
FULL_LABELS = [
    label_of(blocks(38, 50, IDS, seed=1), [7, 300, 11], seed=1),
    label_of(blocks(38, 50, IDS, seed=2), [300, 7], seed=2),
]


# ---- paper mode: stock on one process without padding


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("form", ["panoptic", "masks"])
def test_paper_mode_is_stock(auxiliary, form):
    labels = FULL_LABELS
    if form == "masks":
        labels = [
            {
                "class_labels": entry["class_labels"],
                "boxes": entry["boxes"],
                "masks": entry["panoptic"] == entry["segment_ids"][:, None, None],
            }
            for entry in labels
        ]
    for dtype, loss_tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        outputs = outputs_of(2, 10, (10, 13), dtype=dtype)
        expected, expected_entries = stock(outputs, FULL_LABELS, auxiliary)
        found, entries = ours(outputs, labels, (38, 50), auxiliary, paper=True)
        assert found.item() == pytest.approx(expected.item(), rel=loss_tolerance)
        assert set(expected_entries) <= set(entries)
        for name, value in expected_entries.items():
            assert entries[name].item() == pytest.approx(value.item(), rel=loss_tolerance, abs=1e-7), name
        if dtype == torch.float64:
            wanted = torch.autograd.grad(expected, outputs, allow_unused=True)
            gradients = torch.autograd.grad(found, outputs)
            scale = max(x.norm() for x in wanted)
            for gradient, reference in zip(gradients, wanted, strict=True):
                assert (gradient - reference).norm() <= 1e-8 * scale


def test_void_makes_the_default_differ_from_stock():
    outputs = outputs_of(2, 10, (10, 13))
    assert ours(outputs, FULL_LABELS, (38, 50))[0].item() != pytest.approx(stock(outputs, FULL_LABELS)[0].item())


# ---- the default: void, crowd and padding left out, queries inside void left alone


def slow_giou(a, b):
    a, b = ([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (a, b))
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union - (around - union) / around


def slow_pairs(logits, boxes, label):
    """The cheapest assignment of all, as (query, target)."""
    probabilities = logits.softmax(-1).tolist()
    boxes, wanted = boxes.tolist(), label["boxes"].tolist()

    def price(query, target):
        l1 = sum(abs(a - b) for a, b in zip(boxes[query], wanted[target], strict=True))
        chance = probabilities[query][label["class_labels"][target]]
        return 5 * l1 - chance - 2 * slow_giou(boxes[query], wanted[target])

    assignments = permutations(range(len(boxes)), len(wanted))
    best = min(assignments, key=lambda queries: sum(price(query, target) for target, query in enumerate(queries)))
    return [(query, target) for target, query in enumerate(best)]


def slow_is_unknown(box, ids, known, size):
    """More than half of the pixels whose centre is in the box are void or crowd."""
    height, width = size
    x, y, w, h = box
    inside = [
        int(ids[row, column]) not in known
        for row in range(height)
        for column in range(width)
        if y - h / 2 <= (row + 0.5) / height < y + h / 2 and x - w / 2 <= (column + 0.5) / width < x + w / 2
    ]
    return sum(inside) > len(inside) / 2


def slow_losses(outputs, labels, sizes, canvas):
    """Every entry of the loss dict, from plain loops over targets, queries and pixels."""
    logits, boxes, masks = (x.detach() for x in outputs)
    num_queries = logits.shape[2]
    num_targets = sum(len(label["class_labels"]) for label in labels)
    class_weight = num_targets + (len(labels) * num_queries - num_targets) * 0.1
    losses = {}
    for layer in range(LAYERS):
        ce = bbox = giou = focal = dice = ignored = 0.0
        for image, (label, size) in enumerate(zip(labels, sizes, strict=True)):
            pairs = slow_pairs(logits[layer, image], boxes[layer, image], label)
            chances = logits[layer, image].log_softmax(-1).tolist()
            known = label["segment_ids"].tolist()
            matched = dict(pairs)
            for query in range(num_queries):
                box = boxes[layer, image, query].tolist()
                if query in matched:
                    target = matched[query]
                    ce -= chances[query][label["class_labels"][target]]
                    wanted = label["boxes"][target].tolist()
                    bbox += sum(abs(a - b) for a, b in zip(box, wanted, strict=True))
                    giou += 1 - slow_giou(box, wanted)
                elif slow_is_unknown(box, label["panoptic"], known, size):
                    ignored += 1
                else:
                    ce -= 0.1 * chances[query][-1]
            if layer < LAYERS - 1:
                continue
            for query, target in pairs:
                large = interpolate(masks[image, query][None, None], size=canvas, mode="bilinear")[0, 0]
                pixels, focal_sum, overlap, area = 0, 0.0, 0.0, 0.0
                for row in range(size[0]):
                    for column in range(size[1]):
                        segment = int(label["panoptic"][row, column])
                        if segment not in known:
                            continue
                        truth = segment == known[target]
                        p = 1 / (1 + math.exp(-float(large[row, column])))
                        right = p if truth else 1 - p
                        pixels += 1
                        focal_sum += (0.25 if truth else 0.75) * (1 - right) ** 2 * -math.log(right)
                        overlap += p * truth
                        area += p + truth
                focal += focal_sum / pixels
                dice += 1 - (2 * overlap + 1) / (area + 1)
        suffix = "" if layer == LAYERS - 1 else f"_{layer}"
        losses |= {
            f"loss_ce{suffix}": ce / class_weight,
            f"loss_bbox{suffix}": bbox / num_targets,
            f"loss_giou{suffix}": giou / num_targets,
            f"ignored_queries{suffix}": ignored,
        }
    return losses | {"loss_mask": focal / num_targets, "loss_dice": dice / num_targets}


# The second image is smaller than the canvas; 0 is void, 40 a crowd, 50 listed nowhere.
CANVAS, SIZES = (24, 32), [(24, 32), (17, 23)]
ROUGH_LABELS = [
    label_of(blocks(24, 32, (0, 11, 7, 40, 50), seed=3), [7, 11], seed=3, crowd_ids=torch.tensor([40])),
    label_of(
        blocks(17, 23, (0, 0, 3, 5, 40), seed=4),
        [5, 3],
        seed=4,
        crowd_ids=torch.tensor([40]),
        valid_size=torch.tensor([17, 23]),
    ),
]


def test_void_crowd_and_padding_against_slow_loops():
    outputs = outputs_of(2, 5, (6, 8), seed=5)
    loss, losses = ours(outputs, ROUGH_LABELS, CANVAS)
    expected = slow_losses(outputs, ROUGH_LABELS, SIZES, CANVAS)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9), name
    # The example would show nothing if no query, or each of them, lay in the unknown.
    assert 0 < expected["ignored_queries"] < 6
    weights = {"ce": 1, "bbox": 5, "giou": 2, "mask": 1, "dice": 1, "queries": 0}
    total = sum(weights[name.split("_")[1]] * value for name, value in expected.items())
    assert loss.item() == pytest.approx(total, rel=1e-9)


def test_what_else_is_in_the_batch_does_not_matter():
    """Padding the canvas (logits going on as at the rim) changes stock's mask loss, not ours."""
    logits, boxes, masks = outputs_of(2, 10, (10, 13))
    labels = [label | {"valid_size": (40, 52)} for label in FULL_LABELS]
    labels = [label | {"panoptic": pad(label["panoptic"], (0, 2, 0, 2))} for label in labels]
    wider = [logits, boxes, pad(masks, (0, 5, 0, 6), mode="replicate")]
    far = [label | {"panoptic": pad(label["panoptic"], (0, 20, 0, 24))} for label in labels]
    near_loss, far_loss = (
        ours(outputs, some, canvas)[1]["loss_mask"].item()
        for outputs, some, canvas in (([logits, boxes, masks], labels, (40, 52)), (wider, far, (64, 72)))
    )
    assert far_loss == pytest.approx(near_loss, rel=1e-12)
    stock_near, stock_far = stock([logits, boxes, masks], labels)[1], stock(wider, far)[1]
    assert stock_far["loss_mask"].item() != pytest.approx(stock_near["loss_mask"].item(), rel=0.01)


def test_crowds_are_never_targets():
    listed = [label | {"crowd_ids": label["segment_ids"][:1]} for label in FULL_LABELS]
    dropped = [
        label | {key: label[key][1:] for key in ("class_labels", "boxes", "segment_ids")} for label in FULL_LABELS
    ]
    outputs = outputs_of(2, 6, (10, 13))
    assert ours(outputs, listed, (38, 50))[0].item() == ours(outputs, dropped, (38, 50))[0].item()


@pytest.mark.parametrize(
    ("box", "ignored"),
    [
        ((0.5, 0.5, 1.0, 1.0), False),  # exactly half of it
        ((0.4, 0.5, 0.6, 0.5), True),  # columns 1 to 6: four of six
        ((0.8, 0.5, 0.4, 0.4), False),
        ((0.01, 0.01, 1e-4, 1e-4), True),  # no pixel's centre: the one that it is in
        ((0.0, 0.5, 1.4, 1.0), True),  # of what is inside the image, five of seven
    ],
)
def test_which_queries_are_left_alone(box, ignored):
    """Left half void, right half a segment that another query takes."""
    ids = torch.zeros(10, 10, dtype=torch.int32)
    ids[:, 5:] = 6
    label = {
        "class_labels": torch.tensor([1]),
        "boxes": torch.tensor([[0.75, 0.5, 0.5, 1.0]]),
        "panoptic": ids,
        "segment_ids": torch.tensor([6]),
    }
    boxes = torch.tensor([[[0.75, 0.5, 0.5, 1.0], box]])
    logits = torch.tensor([[[0.0, 9, 0, 0], [0.0, 0, 0, 0]]], requires_grad=True)
    targets = Targets.from_labels([label], num_labels=NUM_LABELS, canvas=(10, 10), device="cpu")
    predictions = Predictions(logits, boxes)
    for paper in (False, True):
        loss, losses = criterion(predictions, targets, match(predictions, targets), paper=paper)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[0, 1].abs().sum() == 0) == (ignored and not paper)
    assert "ignored_queries" not in losses


# ---- weights, scores, surplus, nothing to find


def test_every_weight_weighs_its_loss():
    outputs = outputs_of(2, 6, (10, 13))
    base = ours(outputs, FULL_LABELS, (38, 50))
    for name in ("ce", "bbox", "giou", "mask", "dice"):
        heavier = ours(outputs, FULL_LABELS, (38, 50), weights=Losses().changed(**{name: getattr(Losses(), name) + 3}))
        parts = [
            base[1][f"loss_{name}{suffix}"].item() for suffix in ("", "_0", "_1") if f"loss_{name}{suffix}" in base[1]
        ]
        assert heavier[0].item() - base[0].item() == pytest.approx(3 * sum(parts))
    expected = stock(outputs, FULL_LABELS, eos_coefficient=0.4)[1]["loss_ce"]
    found = ours(outputs, FULL_LABELS, (38, 50), paper=True, weights=Losses(no_object=0.4))[1]["loss_ce"]
    assert found.item() == pytest.approx(expected.item())


def test_weights_come_from_the_config():
    coefficients = {"bbox_loss": 3, "giou_loss": 4, "mask_loss": 6, "dice_loss": 7, "eos": 0.2}
    config = DetrConfig(
        class_cost=8, bbox_cost=9, giou_cost=10, **{f"{key}_coefficient": value for key, value in coefficients.items()}
    )
    assert losses_of(config) == Losses(ce=1, bbox=3, giou=4, mask=6, dice=7, no_object=0.2)
    assert losses_of(DetrConfig()) == Losses()
    assert MatchCosts.from_config(config) == MatchCosts(ce=8, bbox=9, giou=10)
    assert MatchCosts.from_config(DetrConfig()) == MatchCosts()


def test_fractions_are_kept_beside_what_stock_can_hold(tmp_path):
    """DetrConfig refuses 0.5 for a weight that it declares a whole number."""
    weights = Losses(ce=2.5, bbox=4, mask=0.5, no_object=0.25)
    config = DetrConfig()
    write_losses(weights, config)
    config.save_pretrained(tmp_path)
    loaded = DetrConfig.from_pretrained(tmp_path)
    assert losses_of(loaded) == weights
    assert (loaded.bbox_loss_coefficient, loaded.mask_loss_coefficient, loaded.eos_coefficient) == (4, 1, 0.25)
    write_losses(Losses(), loaded)
    assert losses_of(loaded) == Losses()
    assert loaded.bbox_loss_coefficient == 5


def test_scores_weigh_targets_only_when_asked():
    outputs = outputs_of(1, 6, (10, 13))
    whole = FULL_LABELS[1]
    halves = [whole | {"scores": scores} for scores in torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.25]])]
    settings = {"segment_scores": True, "weights": Losses(no_object=0.0)}
    losses = [ours(outputs, [label], (38, 50), **settings)[1] for label in halves]
    for name in ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "loss_ce_0", "loss_giou_1"):
        both, first, second, mixed = (entries[name].item() for entries in losses)
        assert both == pytest.approx(first + second)
        assert mixed == pytest.approx(0.5 * first + 0.25 * second)
        assert min(first, second) > 0
    deaf = ours(outputs, [halves[3]], (38, 50))[0]
    assert deaf.item() == ours(outputs, [whole], (38, 50))[0].item()


def test_more_targets_than_queries_are_counted_and_said_once(caplog):
    criterion_module._warn_of_surplus.cache_clear()
    outputs = outputs_of(2, 2, (10, 13))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss, losses = ours(outputs, FULL_LABELS, (38, 50))
    assert losses["surplus_targets"].item() == 1
    assert loss.isfinite()
    assert sum("more segments than" in record.message for record in caplog.records) == 1
    assert ours(outputs_of(2, 3, (10, 13)), FULL_LABELS, (38, 50))[1]["surplus_targets"].item() == 0


NOTHING = label_of(torch.full((38, 50), 3, dtype=torch.int32), [], crowd_ids=torch.tensor([7]))


@pytest.mark.parametrize("labels", [[NOTHING, NOTHING], [NOTHING, FULL_LABELS[0]]])
def test_images_without_targets_keep_every_output_in_the_graph(labels):
    outputs = outputs_of(2, 6, (10, 13))
    loss, losses = ours(outputs, labels, (38, 50))
    assert all(value.isfinite() for value in losses.values())
    gradients = torch.autograd.grad(loss, outputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][:, 0].any()
    assert not gradients[2][0].any()


def test_masks_of_a_stand_in_query_get_zero_gradients():
    """A model may run its mask head on any one query where nothing matched."""
    logits, boxes, masks = outputs_of(1, 6, (10, 13))
    targets = Targets.from_labels([NOTHING], num_labels=NUM_LABELS, canvas=(38, 50), device="cpu")
    predictions = Predictions(logits[-1], boxes[-1])
    loss, losses = criterion(predictions, targets, match(predictions, targets), masks[0, :1])
    (gradient,) = torch.autograd.grad(loss, masks)
    assert losses["loss_mask"].item() == losses["loss_dice"].item() == 0
    assert not gradient.any()


def test_without_maps_boxes_and_classes_are_learnt_alone():
    outputs = outputs_of(2, 10, (10, 13))
    labels = [{key: label[key] for key in ("class_labels", "boxes")} for label in FULL_LABELS]
    targets = Targets.from_labels(labels, num_labels=NUM_LABELS, canvas=(38, 50), device="cpu")
    predictions = Predictions(outputs[0][-1], outputs[1][-1])
    matching = match(predictions, targets)
    losses = criterion(predictions, targets, matching)[1]
    expected = stock(outputs, FULL_LABELS, auxiliary=False)[1]
    assert {name for name in losses if name.startswith("loss")} == {"loss_ce", "loss_bbox", "loss_giou"}
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert losses[name].item() == pytest.approx(expected[name].item())
    with pytest.raises(ModelError, match="labels have none"):
        criterion(predictions, targets, matching, torch.zeros(len(matching), 10, 13))


def test_wrong_number_of_masks():
    logits, boxes, masks = outputs_of(2, 10, (10, 13))
    targets = Targets.from_labels(FULL_LABELS, num_labels=NUM_LABELS, canvas=(38, 50), device="cpu")
    predictions = Predictions(logits[-1], boxes[-1])
    with pytest.raises(ModelError, match="5 matched queries"):
        criterion(predictions, targets, match(predictions, targets), masks[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_measured_in_fp32(dtype):
    half = [x.detach().to(dtype).requires_grad_() for x in outputs_of(2, 10, (10, 13))]
    full = [x.detach().float().requires_grad_() for x in half]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, entries = ours(half, ROUGH_LABELS, CANVAS)
    expected = ours(full, ROUGH_LABELS, CANVAS)[0]
    assert {value.dtype for value in entries.values()} == {torch.float32}
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found, half))


# ---- denominators


def test_denominators_follow_from_the_targets():
    # By hand: 3 + 0 + 12 targets, 10 queries: 3 + 0 + 10 matched, 17 unmatched that weigh 0.1.
    found = Denominators.of([3, 0, 12], num_queries=10, weights=Losses())
    assert found == Denominators(boxes=15, class_weight=pytest.approx(13 + 1.7))
    parts = [Denominators.of([count], 10, Losses()) for count in (3, 0, 12)]
    total = parts[0] + parts[1] + parts[2]
    assert (total.boxes, total.class_weight) == (15, pytest.approx(14.7))
    assert total.summed_over_ranks() is total
    with pytest.raises(ModelError, match="processes"):
        _ = total + replace(total, processes=2)


def test_micro_batches_add_up_to_the_whole_batch():
    outputs = outputs_of(2, 5, (6, 8), seed=5)
    whole = ours(outputs, ROUGH_LABELS, CANVAS)[0]
    gradients = torch.autograd.grad(whole, outputs)
    denominators = Denominators.of([2, 2], 5, Losses())
    for rank_count in (1, 2):
        pieces = []
        for image in range(2):
            logits, boxes, masks = outputs
            piece = [logits[:, image : image + 1], boxes[:, image : image + 1], masks[image : image + 1]]
            shares = replace(denominators, processes=rank_count)
            pieces.append(ours(piece, ROUGH_LABELS[image : image + 1], CANVAS, denominators=shares)[0])
        # One after the other on one rank they are added; on two ranks they are averaged.
        together = sum(pieces) / rank_count
        assert together.item() == pytest.approx(whole.item(), rel=1e-12)
        for found, expected in zip(torch.autograd.grad(together, outputs), gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_no_weight_at_all_is_not_a_division_by_zero():
    outputs = outputs_of(1, 4, (10, 13))
    loss, _ = ours(outputs, [NOTHING], (38, 50), weights=Losses(no_object=0.0))
    assert loss.item() == 0


def test_nothing_is_communicated(monkeypatch):
    """A rank that is alone in having labels must not wait for the others."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: pytest.fail("a collective in the forward"))
    ours(outputs_of(2, 5, (6, 8)), ROUGH_LABELS, CANVAS)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(pytest.fail.Exception, match="collective"):
        Denominators(1, 1).summed_over_ranks()


def test_cardinality_error():
    """By hand: 3 and 2 targets; all queries of image 0 claim something, none of image 1 does."""
    logits = torch.zeros(2, 10, NUM_LABELS + 1)
    logits[0, :, 0] = 5
    logits[1, :, -1] = 5
    targets = Targets.from_labels(FULL_LABELS, num_labels=NUM_LABELS, canvas=(38, 50), device="cpu")
    predictions = Predictions(logits, torch.full((2, 10, 4), 0.5))
    losses = criterion(predictions, targets, match(predictions, targets))[1]
    assert losses["cardinality_error"].item() == (abs(10 - 3) + abs(0 - 2)) / 2
