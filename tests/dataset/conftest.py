"""Small datasets on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made import save_photo

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.writer import DatasetWriter

SPACE = LabelSpace([Category("pipe", True), Category("crack", True), Category("sky", False, source="auto")])


@pytest.fixture
def space() -> LabelSpace:
    return SPACE


@pytest.fixture
def small_map() -> PanopticMap:
    """Two pipes and sky on 40 × 60, and 300 pixels of void."""
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[:20] = 300
    ids[20:35, 5:25] = 1
    ids[20:40, 30:45] = 70_000
    return PanopticMap(
        ids, [Segment(1, 0), Segment(70_000, 0, score=0.9), Segment(300, 2, score=0.75, source="auto")], SPACE
    )


@pytest.fixture
def photo() -> Callable[..., Path]:
    """photo(path, seed): a noisy JPEG, unlike those of other seeds."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
        return save_photo(path, size, seed, quality=90)

    return make


@pytest.fixture
def dataset(tmp_path: Path, small_map: PanopticMap, photo: Callable[..., Path]) -> Path:
    """Three photos in train, two in val, all right."""
    with DatasetWriter(tmp_path / "set", SPACE) as writer:
        for place in range(5):
            name = f"p{place}.jpg"
            writer.add("train" if place < 3 else "val", name, photo(tmp_path / "photos" / name, place), small_map)
    return tmp_path / "set"
