"""Other backbones than ResNets: from stock's checkpoint through a step of training and back, equal to stock."""

import pytest
import torch
from made import noise
from transformers import DetrForSegmentation

from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.parts import part_modules
from hf_detr_panoptic.preprocess import Preprocess

pytestmark = pytest.mark.bits

BACKBONES = [
    pytest.param("efficientnet", marks=pytest.mark.slow),
    pytest.param("regnet", marks=pytest.mark.slow),
    "mobilenet, five levels",
    "swin",
]


@torch.no_grad()
def assert_equal_outputs(ours, stock, x):
    """But for rounding: stock's own logits move by 2e-5 where its weights were loaded to another place in memory."""
    found, expected = ours.eval()(x), stock.eval()(x)
    for part in ("logits", "pred_boxes", "pred_masks"):
        of_ours, of_stock = getattr(found, part), getattr(expected, part)
        size = of_stock.abs().max().item()
        torch.testing.assert_close(of_ours, of_stock, rtol=0, atol=1e-4 * size)
        assert of_stock.std() > 1e-2 * size, part


@pytest.mark.parametrize("backbone", BACKBONES)
def test_loaded_frozen_trained_saved_and_segmented_as_stock(stock_model, pixels, labels, tmp_path, backbone):
    stock, x = stock_model(backbone), pixels(1, 3, 64, 96)
    stock.save_pretrained(tmp_path / "stock")
    ours = DetrForPanopticSegmentation.from_pretrained(tmp_path / "stock")
    assert_equal_outputs(ours, stock, x)

    frozen = {name for name, parameter in ours.named_parameters() if not parameter.requires_grad}
    held = [p for part in ("stem", "layer1") for module in part_modules(ours, part) for p in module.parameters()]
    assert len(frozen) == len(held) > 1
    before = {name: parameter.clone() for name, parameter in ours.named_parameters()}
    ours.train()
    ours(x, labels=labels([2], (64, 96))).loss.backward()
    torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=1e-3, fused=True).step()
    moved = {name for name, parameter in ours.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved.isdisjoint(frozen)
    assert {name for name in moved if ".backbone." in name}

    ours.image_processor = Preprocess(shortest_edge=64, longest_edge=96)
    ours.save_pretrained(tmp_path / "ours")
    again = DetrForSegmentation.from_pretrained(tmp_path / "ours")
    assert_equal_outputs(ours, again, x)

    # What `segment` runs, with folded norms, beside the backbone that stock runs.
    (map_,) = ours.segment(noise(), threshold=0.0)
    assert map_.ids.shape == (72, 96)
    folded, mask = ours._fast.backbone(ours, torch.float32), torch.ones(1, 64, 96)
    with torch.no_grad():
        pairs = zip(folded(x, mask), again.detr.model.backbone(x, mask), strict=True)
        for (found, _), (expected, _) in pairs:
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())
