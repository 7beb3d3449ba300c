"""Segments from logits and masks, as `postprocess` makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_detr_panoptic import Category, LabelSpace
from hf_detr_panoptic.model.postprocess import KeptMasks, choose_queries
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.settings import Postprocess

SPACE = LabelSpace([Category(f"class {n}", isthing=n % 2 == 0) for n in range(5)], columns=[0, 2, 3, 5, 6])
FLOOR = 0.2
SETTINGS = [
    Postprocess(threshold=0.3, min_area=40),
    Postprocess(threshold=0.25, min_area=300, mask_threshold=0.3, duplicate=0.3),
    Postprocess(threshold=0.6, min_area=0, mask_threshold=0.0),
    Postprocess(threshold=0.2, min_area=900, fill="argmax", duplicate=0.0),
    Postprocess(threshold=0.99, min_area=4),
    Postprocess(threshold=0.3, mask_threshold=1.0),
]
SIZES = [((20, 27), (113, 150)), ((12, 9), (12, 9)), ((30, 40), (23, 17)), ((1, 1), (5, 7)), ((6, 8), (1, 1))]

SCRIPT = """
import { above, chosenQueries, panopticMap } from "./segments.js";
const run = ({ photos, space, settings, floor, columns }) => photos.map(({ logits, list, grid, size }) => {
  const kept = chosenQueries(logits, columns, space, floor);
  const [height, width] = grid;
  const area = height * width;
  const masks = { height, width, list: kept.queries.map((query) => list.subarray(query * area, (query + 1) * area)) };
  return settings.map((each) => panopticMap(...above(kept, masks, each.threshold), space, size, each));
});
"""


def photos() -> list[tuple[torch.Tensor, torch.Tensor, tuple[int, int]]]:
    """Logits [30, 8], smooth masks [30, h, w], a photo's size; several queries cover one another."""
    made = []
    for seed, (grid, size) in enumerate(SIZES):
        random = torch.Generator().manual_seed(seed)
        logits = 5 * torch.randn(30, 8, generator=random)
        coarse = 8 * torch.randn(1, 20, 4, 5, generator=random) - 4
        masks = torch.nn.functional.interpolate(coarse, size=grid, mode="bicubic")[0]
        masks = torch.cat([masks, masks[:10] + 0.3 * torch.randn(10, *grid, generator=random)])
        made.append((logits, masks, size))
    return made


@pytest.mark.bits
def test_maps_are_those_of_postprocess(node):
    given = {
        "photos": [
            {"logits": logits.numpy(), "list": masks.numpy(), "grid": masks.shape[1:], "size": size}
            for logits, masks, size in photos()
        ],
        "space": [
            {"name": category.name, "isthing": category.isthing, "column": column}
            for category, column in zip(SPACE, SPACE.columns, strict=True)
        ],
        "settings": [each.to_dict() for each in SETTINGS],
        "floor": FLOOR,
        "columns": 8,
    }
    segments = fused = 0
    for (logits, masks, size), answers in zip(photos(), node(SCRIPT, given), strict=True):
        (kept,) = choose_queries(logits[None], SPACE, FLOOR)
        for settings, told in zip(SETTINGS, answers, strict=True):
            ours = KeptMasks(kept, masks[kept.queries], SPACE, size, settings, FLOOR).map(settings.threshold)
            ids = told["ids"].reshape(size).astype(np.int32)
            assert (ids != ours.ids).sum() <= ids.size // 2000  # where two masks tie in the last bit
            assert told["voidArea"] == (ids == 0).sum()
            assert_told(told["segments"], ours)
            segments += len(ours.segments)
            fused += len(kept.indices_above(settings.threshold)) > len(ours.segments)
    assert segments > 60
    assert fused > 10


def assert_told(told: list[dict], ours: PanopticMap) -> None:
    areas, boxes = ours.areas(), ours.boxes()
    assert [(segment["id"], segment["label"]) for segment in told] == [(s.id, s.label) for s in ours.segments]
    for segment, expected in zip(told, ours.segments, strict=True):
        assert segment["score"] == pytest.approx(expected.score, abs=2e-3)
        assert segment["area"] == pytest.approx(areas[expected.id], abs=5)
        assert np.abs(np.subtract(segment["box"], boxes[expected.id])).max() <= 1


def test_logits_that_are_not_finite_are_told(node):
    script = """
    import { chosenQueries } from "./segments.js";
    const run = (logits) => { try { chosenQueries(logits, 2, [], 0.5) } catch (error) { return error.message } };
    """
    assert "NaN" in node(script, np.array([0, 1, np.nan, 0], dtype=np.float32))
