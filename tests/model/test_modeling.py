"""The class against stock `DetrForSegmentation` with the same weights, wherever stock is right."""

from copy import deepcopy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.criterion import Denominators
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation, PanopticOutput
from hf_detr_panoptic.settings import Losses

pytestmark = pytest.mark.bits

SIZES = {"even": (96, 128), "odd": (97, 131), "small": (33, 47)}


def ours_of(stock, **attributes):
    model = DetrForPanopticSegmentation(stock.config).eval()
    model.load_state_dict(stock.state_dict())
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def padding(batch, size):
    mask = torch.ones(batch, *size, dtype=torch.int64)
    mask[0, :, size[1] // 2 :] = 0
    mask[-1, size[0] // 3 * 2 :] = 0
    return mask


# --- without labels: what stock says


@pytest.mark.parametrize("backbone", ["timm", "dilated", "five levels", "hf"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_output_is_stocks(stock_model, pixels, backbone, size, padded):
    stock = stock_model(backbone)
    ours = ours_of(stock)
    x = pixels(2, 3, *size)
    mask = padding(2, size) if padded else None
    expected, found = stock(x, mask), ours(x, mask)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.pred_boxes, expected.pred_boxes)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert found.pred_masks.shape == expected.pred_masks.shape
    assert (found.pred_masks - expected.pred_masks).abs().max() < 1e-4
    assert found.matched_masks is None


@torch.no_grad()
def test_what_stock_records_is_recorded(stock_model, pixels):
    stock = stock_model(attn_implementation="eager")
    ours = ours_of(stock)
    wanted = {"output_attentions": True, "output_hidden_states": True}
    expected, found = stock(pixels(1, 3, 64, 64), **wanted), ours(pixels(1, 3, 64, 64), **wanted)
    for name in ("decoder_hidden_states", "encoder_hidden_states", "decoder_attentions", "cross_attentions"):
        assert len(found[name]) == len(expected[name]) > 0
        for one, other in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@torch.no_grad()
def test_a_tuple_on_request(stock_model, pixels):
    stock = stock_model()
    expected, found = (m(pixels(1, 3, 64, 64), return_dict=False) for m in (stock, ours_of(stock)))
    assert isinstance(found, tuple)
    assert [value.shape for value in found] == [value.shape for value in expected]


@torch.no_grad()
def test_masks_can_be_left_out(stock_model, pixels):
    ours = ours_of(stock_model())
    assert ours(pixels(1, 3, 64, 64), output_masks=False).pred_masks is None
    ours.with_masks = False
    assert ours(pixels(1, 3, 64, 64)).pred_masks is None


# --- with labels


@pytest.mark.parametrize("backbone", ["timm", "dilated", "hf"])
def test_paper_mode_is_stocks_loss(stock_model, pixels, labels, with_masks, backbone):
    stock = stock_model(backbone)
    ours = ours_of(stock)
    x, targets = pixels(2, 3, 97, 131), labels([3, 5], (97, 131))
    expected, found = stock(x, labels=with_masks(targets)), ours(x, labels=targets, paper=True)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        assert found.loss_dict[name].item() == pytest.approx(expected.loss_dict[name].item(), abs=1e-5)


@pytest.mark.parametrize("backbone", ["timm", "dilated", "hf"])
def test_paper_mode_has_stocks_gradients(stock_model, pixels, labels, with_masks, backbone, float64):
    stock = stock_model(backbone).double()
    ours = ours_of(stock).double()
    for model in (stock, ours):
        model.requires_grad_(True)
    x, targets = pixels(2, 3, 65, 93), labels([2, 4], (65, 93))
    stock(x, labels=with_masks(targets)).loss.backward()
    ours(x, labels=targets, paper=True).loss.backward()
    expected = dict(stock.named_parameters())
    largest = max(parameter.grad.norm() for parameter in expected.values())
    assert largest > 1
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[name].grad).norm() < 1e-8 * largest, name


def test_matched_masks_are_the_dense_ones(stock_model, pixels, labels):
    ours = ours_of(stock_model())
    found = ours(pixels(3, 3, 96, 128), labels=labels([3, 0, 2], (96, 128)), output_masks=True)
    pairs = found.matching
    assert found.matched_masks.shape == (5, 24, 32)
    dense = found.pred_masks[pairs.image_index, pairs.query_index]
    torch.testing.assert_close(found.matched_masks, dense, rtol=0, atol=1e-5)
    assert ours(pixels(1, 3, 96, 128), labels=labels([3], (96, 128))).pred_masks is None


def test_auxiliary_losses_come_from_a_normed_copy(stock_model, pixels, labels):
    """The reference: hidden states recorded by a model without auxiliary losses, normed and judged one by one."""
    stock = stock_model()
    plain, ours = ours_of(stock), ours_of(stock, auxiliary_loss=True)
    x, targets = pixels(2, 3, 64, 96), labels([3, 2], (64, 96))
    found = ours(x, labels=targets)
    torch.testing.assert_close(found.logits, plain(x).logits, rtol=0, atol=1e-4)
    hidden = plain(x, output_hidden_states=True).decoder_hidden_states
    assert len(found.auxiliary_outputs) == 2  # three layers
    total = plain(x, labels=targets).loss
    for layer, said in enumerate(found.auxiliary_outputs):
        states = plain.detr.model.decoder.layernorm(hidden[layer + 1])
        logits = plain.detr.class_labels_classifier(states)
        boxes = plain.detr.bbox_predictor(states).sigmoid()
        torch.testing.assert_close(said["logits"], logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(said["pred_boxes"], boxes, rtol=0, atol=1e-4)
        for name, weight in (("ce", 1), ("bbox", 5), ("giou", 2)):
            total = total + weight * found.loss_dict[f"loss_{name}_{layer}"]
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-5)


def test_the_configurations_auxiliary_flag_is_heard_and_stays_harmless(tiny_config, stock_model, pixels, labels):
    stock = stock_model()
    config = deepcopy(stock.config)
    config.auxiliary_loss = True
    ours = DetrForPanopticSegmentation(config).eval()
    ours.load_state_dict(stock.state_dict())
    assert config.auxiliary_loss  # the caller's own is not touched
    assert not ours.config.auxiliary_loss
    assert "loss_ce_0" in ours(pixels(1, 3, 64, 64), labels=labels([1], (64, 64))).loss_dict
    assert torch.equal(ours(pixels(1, 3, 64, 64)).logits, stock(pixels(1, 3, 64, 64)).logits)
    ours = ours_of(stock)
    ours.config.auxiliary_loss = True  # set later, as a trainer might
    assert torch.equal(ours(pixels(1, 3, 64, 64)).logits, stock(pixels(1, 3, 64, 64)).logits)
    assert ours.auxiliary_loss


def test_denominators_are_handed_on(stock_model, pixels, labels):
    ours = ours_of(stock_model())
    x, targets = pixels(2, 3, 64, 64), labels([1, 3], (64, 64))
    one = ours(x, labels=targets)
    counts = Denominators.of([1, 3], 9, Losses())
    doubled = counts + counts
    for arguments in ({"denominators": doubled}, {"num_items_in_batch": doubled}):
        assert ours(x, labels=targets, **arguments).loss.item() == pytest.approx(one.loss.item() / 2, rel=1e-5)


def test_without_any_target_every_parameter_stays_in_the_graph(stock_model, pixels, labels):
    ours = ours_of(stock_model(), auxiliary_loss=True).train()
    found = ours(pixels(2, 3, 64, 64), labels=labels([0, 0], (64, 64)))
    found.loss.backward()
    assert found.matched_masks.shape == (0, 16, 16)
    without = [name for name, p in ours.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_bf16_autocast_comes_close(stock_model, pixels, labels):
    ours = ours_of(stock_model()).train()
    x, targets = pixels(2, 3, 97, 131), labels([3, 2], (97, 131))
    exact = ours(x, labels=targets).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(x, labels=targets).loss
    assert rough.dtype == torch.float32
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_boxes_are_of_32_bits_under_autocast(stock_model, pixels):
    """In bf16 a corner would lie on a grid of 1/256 of the photo."""
    ours = ours_of(stock_model()).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = ours(pixels(1, 3, 97, 131))
    states = found.last_hidden_state.float()
    with torch.no_grad():
        torch.testing.assert_close(found.pred_boxes, ours.detr.bbox_predictor(states).sigmoid())
        torch.testing.assert_close(found.logits, ours.detr.class_labels_classifier(states))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(stock_model, pixels, labels, reentrant, float64):
    stock = stock_model()
    gradients = []
    for checkpointing in (False, True):
        ours = ours_of(stock, auxiliary_loss=True).train()
        if checkpointing:
            ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
        ours(pixels(1, 3, 64, 96), labels=labels([3], (64, 96))).loss.backward()
        gradients.append({name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# --- what trains


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("backbone", ["timm", "hf"])
def test_stem_and_layer1_are_frozen_at_first_and_nothing_else(tiny_config, backbone):
    ours = DetrForPanopticSegmentation(tiny_config(backbone))
    everything = {name for name, _ in ours.named_parameters()}
    first = "stages.0." if backbone == "hf" else "layer1."
    stem = "embedder." if backbone == "hf" else "model.conv1."
    frozen = everything - trainable(ours)
    assert frozen == {name for name in everything if "backbone" in name and (first in name or stem in name)}
    assert any(first in name for name in frozen)
    assert any(stem in name for name in frozen)
    ours.freeze()
    assert trainable(ours) == everything


def test_a_frozen_detr_has_no_dropout_whatever_train_says(tiny_config, pixels, labels):
    ours = DetrForPanopticSegmentation(tiny_config(dropout=0.5))
    ours.freeze("detr")
    ours.train()
    assert ours.mask_head.training
    assert not any(module.training for module in ours.detr.modules())
    x, targets = pixels(1, 3, 64, 64), labels([2], (64, 64))
    assert torch.equal(ours(x, labels=targets).logits, ours(x, labels=targets).logits)
    found = ours(x, labels=targets)
    assert not found.logits.requires_grad
    found.loss.backward()
    assert {name.split(".")[0] for name, p in ours.named_parameters() if p.grad is not None} == {
        "mask_head",
        "bbox_attention",
    }
    ours.freeze("stem", "layer1")
    assert ours.detr.model.encoder.training
    assert not torch.equal(ours(x, labels=targets).logits, ours(x, labels=targets).logits)


def test_detection_neither_runs_nor_trains_the_mask_head(tiny_config, pixels, labels, monkeypatch):
    ours = DetrForPanopticSegmentation(tiny_config())
    ours.freeze("stem", "layer1", "mask_head")
    ours.with_masks = False
    ours.train()
    monkeypatch.setattr("hf_detr_panoptic.model.modeling.shared_mask_features", pytest.fail)
    found = ours(pixels(1, 3, 64, 64), labels=labels([2], (64, 64)))
    assert "loss_mask" not in found.loss_dict
    found.loss.backward()
    assert all(p.grad is None for p in ours.mask_head.parameters())


def test_an_unknown_part_is_named(tiny_config):
    with pytest.raises(ModelError, match="mask_head"):
        DetrForPanopticSegmentation(tiny_config()).freeze("maskhead")


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"pixel_values": x[:0]}, "the batch is empty"),
        (lambda x, y: {"pixel_values": x[0]}, r"pixel_values are \[3, 64, 64\]"),
        (lambda x, y: {"pixel_values": x.mul(9).to(torch.uint8)}, "torch.uint8"),
        (lambda x, y: {"pixel_values": x.clone().index_fill_(3, torch.tensor(5), torch.nan)}, "image 0, 1 hold NaN"),
        (lambda x, y: {"pixel_mask": torch.ones(2, 9, 9)}, r"pixel_mask is \[2, 9, 9\]"),
        (lambda x, y: {"labels": y[:1]}, "1 label dicts for a batch of 2"),
        (lambda x, y: {"labels": [{**y[0], "class_labels": y[0]["class_labels"] + 4}, y[1]]}, "outside the 4 labels"),
        (lambda x, y: {"labels": [{**y[0], "panoptic": y[0]["panoptic"][:9]}, y[1]]}, "the map is 9×64"),
    ],
)
def test_bad_input_is_one_clear_error(tiny_config, pixels, labels, change, message):
    ours = DetrForPanopticSegmentation(tiny_config())
    x, y = pixels(2, 3, 64, 64), labels([1, 1], (64, 64))
    with pytest.raises(ModelError, match=message):
        ours(**{"pixel_values": x, "labels": y, **change(x, y)})


def test_output_is_a_model_output():
    assert PanopticOutput(loss=torch.zeros(())).to_tuple() == (torch.zeros(()),)


def test_a_frozen_detr_runs_folded_and_says_the_same(stock_model, pixels, labels, float64):
    ours = ours_of(stock_model().double())
    x, targets = pixels(2, 3, 65, 93), labels([2, 3], (65, 93))
    plain = ours(x, labels=targets)
    plain.loss.backward()
    expected = ours.mask_head.conv1.conv.weight.grad.clone()
    ours.zero_grad()
    ours.freeze("detr")
    for _ in range(2):  # a trainer calls train() before every step
        ours.train()
        frozen = ours(x, labels=targets)
        assert len(ours._fast._made) == 1
    assert frozen.loss.item() == pytest.approx(plain.loss.item(), rel=1e-10)
    frozen.loss.backward()
    torch.testing.assert_close(ours.mask_head.conv1.conv.weight.grad, expected, rtol=1e-8, atol=1e-10)


def test_transformers_trainer_evaluates_with_compute_metrics(stock_model, pixels, labels, tmp_path):
    ours = ours_of(stock_model())
    values = pixels(1, 3, 64, 64)[0]
    rows = [{"pixel_values": values, "labels": labels([1] * (1 + number), (64, 64))[0]} for number in range(2)]
    seen = []

    def collate(rows):
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": [rows[0]["labels"]]}

    def compute_metrics(prediction):
        seen.append(prediction.predictions)
        return {}

    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=1, use_cpu=True, report_to=[], remove_unused_columns=False
    )
    trainer = Trainer(ours, arguments, eval_dataset=rows, data_collator=collate, compute_metrics=compute_metrics)
    assert trainer.evaluate()["eval_loss"] > 0
    with torch.no_grad():
        logits = ours(values[None]).logits
    assert any(getattr(found, "shape", None) == (2, *logits.shape[1:]) for found in seen[0])
    ours.save_pretrained(tmp_path / "saved")
    assert "keys_to_ignore_at_inference" not in (tmp_path / "saved" / "config.json").read_text()
    assert "matching" in ours.config.keys_to_ignore_at_inference
