"""The trace against stock's own outputs, and what an explanation of DETR panoptic may claim, in numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import DetrForSegmentation

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.settings import Postprocess
from hf_detr_panoptic.trace.trace import trace

pytestmark = pytest.mark.bits

EVERYTHING = Postprocess(threshold=0.0, fill="argmax")


@pytest.fixture
def model(stock_model, tiny_config):
    """A factory of our models, with weights that matter."""

    def make(backbone="timm", **changes):
        stock = stock_model(backbone, **changes)
        ours = DetrForPanopticSegmentation(tiny_config(backbone, **changes)).eval()
        ours.load_state_dict(stock.state_dict())
        return ours

    return make


def shapes(traced):
    return {row.what: row.one_image for row in traced.shapes}


# --- the table


def test_shapes_by_hand(model, pixels):
    """Counted by hand: a 3×3 convolution of stride 2 makes ceil(n / 2) cells of n."""
    traced = trace(model(), pixels(1, 3, 90, 131), settings=EVERYTHING)
    seen = shapes(traced)
    assert seen["Res2"][1:] == seen["masks"][1:] == seen["stage 3"][2:] == (23, 33)
    assert seen["Res3"][1:] == seen["stage 2"][2:] == (12, 17)
    assert seen["Res4"][1:] == seen["stage 1"][2:] == (6, 9)
    assert seen["Res5"][1:] == (3, 5)
    assert seen["projected"] == seen["memory"] == (32, 3, 5)
    assert seen["encoder's output"] == (15, 32)
    assert seen["object queries"] == seen["box embeddings"] == (9, 32)
    assert seen["class logits"] == (9, 5)
    assert seen["boxes"] == (9, 4)
    assert seen["attention"] == (9, 8, 3, 5)
    assert seen["input"] == seen["conv1"] == (9, 40, 3, 5)
    assert [seen[f"stage {n}, sum"][1] for n in (1, 2, 3)] == [16, 8, 4]
    assert seen["output"] == (9, 1, 23, 33)
    assert seen["map"] == (90, 131)
    assert {row.what: row.stride for row in traced.shapes if row.move == 1} == dict(
        zip(("Res2", "Res3", "Res4", "Res5"), (4, 8, 16, 32), strict=True)
    )


def test_a_dilated_backbone_stops_at_stride_16(model, pixels):
    traced = trace(model("dilated"), pixels(1, 3, 64, 96), settings=EVERYTHING)
    assert shapes(traced)["Res5"][1:] == shapes(traced)["Res4"][1:] == (4, 6)
    assert {row.stride for row in traced.shapes if row.what in ("Res4", "Res5", "memory", "attention")} == {16}


@pytest.mark.parametrize("backbone", ["timm", "hf"])
def test_maps_are_those_of_stock(backbone, model, stock_model, pixels):
    ours, stock = model(backbone, num_queries=5), stock_model(backbone, num_queries=5)
    values = pixels(2, 3, 64, 96)
    traced = trace(ours, values, settings=EVERYTHING)
    stock.set_attn_implementation("eager")
    with torch.no_grad():
        expected = stock(values, output_attentions=True)
    for place, image in enumerate(traced.images):
        close(image.masks, expected.pred_masks[place])
        close(image.boxes, expected.pred_boxes[place])
        close(image.scores, expected.logits[place].softmax(-1)[:, :-1].max(-1).values)
        close(image.memory.reshape(32, -1).T, expected.encoder_last_hidden_state[place])
        close(image.self_attention.reshape(6, 6), expected.encoder_attentions[-1][place].mean(0))
        close(image.cross_attention.reshape(5, 6), expected.cross_attentions[-1][place].mean(0))
    assert {row.tensor[0] for row in traced.shapes if row.module.startswith("mask_head")} == {10}
    assert {row.tensor[0] for row in traced.shapes if row.move in (1, 2, 3, 4)} == {2}


def close(found, expected):
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_padding_is_left_out(model, pixels):
    ours = model()
    values, mask = pixels(2, 3, 64, 128), torch.ones(2, 64, 128, dtype=torch.int64)
    mask[1, :, 64:] = 0
    values[1, :, :, 64:] = 0
    whole, half = trace(ours, values, mask, settings=EVERYTHING).images
    assert (half.map.height, half.map.width) == (64, 64)
    assert (whole.map.height, whole.map.width) == (64, 128)
    for attention in (half.attention, half.self_attention, half.cross_attention):
        assert attention[..., 2:].max() == 0
        assert attention[..., :2].min() > 0
    assert whole.attention[..., 2:].min() > 0


def test_what_segment_computes_instead(model, pixels):
    ours = model()
    values = pixels(2, 3, 64, 96)
    scores = trace(ours, values).images[0].scores
    some = trace(ours, values, settings=EVERYTHING.changed(threshold=float(np.median(scores))))
    kept = sum(len(image.kept) for image in some.images)
    assert 0 < kept < 18
    assert some.difference < 1e-4  # of logits around 5
    work = {row.module: (row.stock, row.ours) for row in some.work}
    assert work["mask_head.fpn_stages.2.fpn_adapter"] == ((18, 4, 16, 24), (2, 4, 16, 24))
    assert work["mask_head.fpn_stages.2.refine.norm"] == ((18, 2, 16, 24), (kept, 2, 16, 24))
    assert work["mask_head.output_conv"] == ((18, 1, 16, 24), (kept, 1, 16, 24))
    assert work["mask_head.conv1.conv"] == ((18, 40, 2, 3), None)
    none = trace(ours, values, settings=EVERYTHING.changed(threshold=1.0))
    assert none.difference is None
    assert {row.ours for row in none.work} == {None}
    assert [len(image.map.segments) for image in none.images] == [0, 0]


def test_the_map_is_that_of_segment_and_knows_its_queries(model):
    ours = model(space=LabelSpace([Category("pipe", True), Category("crane", True)]))  # things: nothing is fused
    photo = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ours.image_processor = replace(ours.preprocess, shortest_edge=64, longest_edge=128)
    traced = trace(ours, ours.preprocess(photo)[None], photo_sizes=[(96, 128)], settings=EVERYTHING)
    (image,) = traced.images
    (expected,) = ours.segment(photo, threshold=0.0, fill="argmax")
    assert np.mean(image.map.ids == expected.ids) > 0.99  # rounding may turn pixels on a border
    assert len(image.map.segments) == len(image.queries) > 1
    enlarged = F.interpolate(torch.from_numpy(image.masks[list(image.kept)])[None], (96, 128), mode="bilinear")[0]
    winners = np.array(image.kept)[enlarged.argmax(0).numpy()]
    for segment, query in zip(image.map.segments, image.queries, strict=True):
        assert image.labels[query] == segment.label
        assert (winners[image.map.mask(segment.id)] == query).mean() > 0.98  # but for near ties


def test_a_segments_query_is_not_one_that_was_dropped_as_its_duplicate(model, pixels):
    ours = model(space=LabelSpace([Category("pipe", True), Category("crane", True)]))
    settings = EVERYTHING.changed(min_area=0, duplicate=0.0)
    (image,) = trace(ours, pixels(1, 3, 64, 96), settings=settings).images
    assert 0 < len(image.map.segments) < len(image.kept)
    for segment, query in zip(image.map.segments, image.queries, strict=True):
        assert segment.score == pytest.approx(image.scores[query])


def test_the_model_is_left_as_it_was(model, pixels):
    ours = model().train()
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in ours.modules())
    trace(ours, pixels(1, 3, 64, 64))
    assert ours.training
    assert ours.mask_head.forward.__func__ is type(ours.mask_head).forward
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in ours.modules()) == hooks


def test_slices_do_not_show(model, pixels, monkeypatch):
    ours, values = model(), pixels(1, 3, 64, 96)
    whole = trace(ours, values, settings=EVERYTHING)
    monkeypatch.setattr("hf_detr_panoptic.trace.trace._SLICE_FLOATS", 4 * 32 * 16 * 24)
    sliced = trace(ours, values, settings=EVERYTHING)
    assert sliced.shapes == whole.shapes
    np.testing.assert_allclose(sliced.images[0].masks, whole.images[0].masks, rtol=0, atol=1e-5)
    for (_, one), (_, other) in zip(sliced.images[0].growth, whole.images[0].growth, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_what_cannot_be_traced(model, pixels):
    ours = model()
    with pytest.raises(ModelError, match="the batch is empty"):
        trace(ours, pixels(0, 3, 64, 64))
    with pytest.raises(ModelError, match="image 0 hold NaN"):
        trace(ours, pixels(1, 3, 64, 64) * float("nan"))
    with pytest.raises(ModelError, match="an image without a pixel"):
        trace(ours, pixels(1, 3, 64, 64), torch.zeros(1, 64, 64))


# --- what docs/how-detr-panoptic-works.md claims


class Spied:
    """What entered and left stock's modules, by name, in one forward."""

    def __init__(self, model, values, **words):
        self.inputs, self.outputs = {}, {}
        handles = [
            module.register_forward_hook(self._spy(name), with_kwargs=True) for name, module in model.named_modules()
        ]
        with torch.no_grad():
            self.result = model(values, **words)
        for handle in handles:
            handle.remove()

    def _spy(self, name):
        def spy(module, inputs, words, output):
            self.inputs[name], self.outputs[name] = (inputs, words), output

        return spy


@pytest.fixture
def spied(stock_model, pixels):
    model = stock_model()
    return model, Spied(model, pixels(2, 3, 80, 112))


def test_one_softmax_over_heads_and_cells_together(model, pixels):
    (image,) = trace(model(), pixels(1, 3, 80, 112)).images
    np.testing.assert_allclose(image.attention.sum((1, 2, 3)), 1, atol=1e-5)
    assert np.ptp(image.attention.sum((2, 3)), axis=1).max() > 0.01  # a head holds more than another
    # The transformer's own attention is another matter: each cell, each query, each head by itself adds up to 1.
    np.testing.assert_allclose(image.self_attention.sum((2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(image.cross_attention.sum((1, 2)), 1, atol=1e-5)


def test_the_heads_attention_is_not_the_decoders(model, pixels):
    (image,) = trace(model(), pixels(1, 3, 80, 112)).images
    own = image.attention.sum(1)
    assert np.abs(own - image.cross_attention).max() > 0.05


def test_the_encoded_image_is_what_leaves_the_encoder(spied):
    _, seen = spied
    (states, memory), _ = seen.inputs["bbox_attention"]
    left = seen.outputs["detr.model.encoder"].last_hidden_state  # [B, h·w, d]
    assert torch.equal(memory.flatten(2).transpose(1, 2), left)
    assert torch.equal(states, seen.outputs["detr.model.decoder"].last_hidden_state)
    assert not torch.allclose(memory, seen.outputs["detr.model.input_projection"], atol=0.1)


def test_keys_are_the_memory_without_positions(spied):
    model, seen = spied
    attention = model.bbox_attention
    (states, memory), _ = seen.inputs["bbox_attention"]
    keys = (memory.flatten(2).transpose(1, 2) @ attention.k_proj.weight.T + attention.k_proj.bias).unflatten(
        -1, (8, 4)
    )
    queries = (states @ attention.q_proj.weight.T + attention.q_proj.bias).unflatten(-1, (8, 4))
    logits = torch.einsum("bqmc,bpmc->bqmp", queries, keys) / 4**0.5
    expected = logits.flatten(2).softmax(-1).view(seen.outputs["bbox_attention"].shape)
    torch.testing.assert_close(seen.outputs["bbox_attention"], expected, rtol=0, atol=1e-5)


def test_the_one_concatenation_is_projected_beside_attention(spied):
    _, seen = spied
    (entered,), _ = seen.inputs["mask_head.conv1"]
    entered = entered.unflatten(0, (2, 9))
    projected = seen.outputs["detr.model.input_projection"]
    assert torch.equal(entered[:, :, :32], projected[:, None].expand(-1, 9, -1, -1, -1))
    assert torch.equal(entered[:, :, 32:], seen.outputs["bbox_attention"])


def test_finer_levels_are_added(spied):
    _, seen = spied
    below = seen.outputs["mask_head.conv2"]
    for stage in range(3):
        name = f"mask_head.fpn_stages.{stage}"
        adapted = seen.outputs[f"{name}.fpn_adapter"]
        (entered,), _ = seen.inputs[f"{name}.refine"]
        assert adapted.shape == entered.shape  # concatenated, it would have more channels
        assert adapted.shape[1] == below.shape[1]
        torch.testing.assert_close(entered, adapted + F.interpolate(below, adapted.shape[-2:], mode="nearest"))
        below = seen.outputs[name]


def test_masks_depend_on_neither_box_nor_class(stock_model, pixels):
    model, values = stock_model(), pixels(1, 3, 64, 96)
    with torch.no_grad():
        before = model(values)
        for module in (model.detr.bbox_predictor, model.detr.class_labels_classifier):
            for parameter in module.parameters():
                parameter.add_(1)
        after = model(values)
    assert not torch.allclose(before.pred_boxes, after.pred_boxes)
    assert torch.equal(before.pred_masks, after.pred_masks)


def test_only_the_last_level_gets_positions(spied):
    _, seen = spied
    assert seen.outputs["detr.model.position_embedding"].shape[-2:] == (3, 4)
    assert seen.inputs["detr.model.position_embedding"][1]["shape"][-2:] == (3, 4)


def test_masks_are_not_exclusive_before_the_argmax(model, pixels):
    """They are no N channels of one softmax: two may claim a pixel, and none."""
    (image,) = trace(model(), pixels(1, 3, 64, 96)).images
    claims = (image.masks > 0).sum(0)
    assert claims.max() > 1
    assert not np.allclose(np.exp(image.masks).sum(0), 1)


def test_stocks_class_is_what_runs(model, pixels, monkeypatch):
    """Not our fast forward, whose mask head makes other tensors."""
    called = []
    stock = DetrForSegmentation.forward
    monkeypatch.setattr(DetrForSegmentation, "forward", lambda *args: called.append(1) or stock(*args))
    trace(model(), pixels(1, 3, 64, 64))
    assert called == [1]
