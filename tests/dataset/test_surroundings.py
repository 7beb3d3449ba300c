"""What `check` says of classes that live on one background, and of those that differ by their side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import SPACE, write_dataset

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.dataset.check import check_dataset, sided

PIPE, CRANE, SKY, MUD = range(4)


def photo(label: int, left: int, source: str = "custom") -> PanopticMap:
    """Two fifths sky, three fifths mud; a thing of 10 × 10 that lies on neither border of these, at `left`."""
    ids = np.where(np.arange(100) < 40, 1, 2)[None].repeat(40, 0).astype(np.int32)
    ids[10:20, left : left + 10] = 3
    return PanopticMap(ids, [Segment(1, SKY), Segment(2, MUD), Segment(3, label, source=source)], SPACE)


def told(folder: Path, maps: list[PanopticMap]) -> list[str]:
    found = check_dataset(write_dataset(folder, {"train": maps[:-1], "val": maps[-1:]})).findings
    return [detail for _, detail in found["one-background"].examples] if "one-background" in found else []


def test_marks_that_always_lie_on_one_class_are_told(tmp_path: Path) -> None:
    assert told(tmp_path / "sky", [photo(PIPE, 10)] * 10) == ["100% of what is around pipe is sky"]
    assert told(tmp_path / "few", [photo(PIPE, 10)] * 9) == []
    assert told(tmp_path / "both", [photo(PIPE, 10)] * 9 + [photo(PIPE, 70)]) == []
    assert told(tmp_path / "auto", [photo(PIPE, 10, "auto")] * 10) == []
    assert told(tmp_path / "mud", [photo(PIPE, 70)] * 10) == []  # most of every photo is mud


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["left mirror", "right mirror", "door"], [("left mirror", "right mirror")]),
        (["mirror_R", "mirror_L"], [("mirror_L", "mirror_R")]),
        (["left mirror", "door", "rightmost"], []),
        (["light", "night"], []),
    ],
)
def test_names_that_differ_by_a_side(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert sided(names) == pairs
