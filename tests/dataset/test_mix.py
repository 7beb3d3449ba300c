from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made import save_photo

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.labeling.prepare import mixed

THEIRS = LabelSpace([Category("pipe", True), Category("crack", True), Category("sky", False, source="auto")])
OURS = LabelSpace([Category("sky", False), Category("beam", True), Category("pipe", True)])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three photos with two pipes and sky, a quarter of them void."""
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[:20] = 300
    ids[20:35, 5:25] = 1
    ids[20:40, 30:45] = 70_000
    panoptic = PanopticMap(ids, [Segment(1, 0), Segment(70_000, 0), Segment(300, 2, source="auto")], THEIRS)
    with DatasetWriter(tmp_path / "set", THEIRS) as writer:
        for number in range(3):
            photo = save_photo(tmp_path / f"p{number}.jpg", (60, 40), number)
            writer.add("train", f"p{number}.jpg", photo, panoptic)
    return tmp_path / "set"


def test_classes_are_matched_by_name_and_the_rest_is_void(dataset) -> None:
    ((name, _, panoptic), *_) = list(mixed(read_split(dataset), OURS, folder="coco"))
    assert name == "coco/p0.jpg"
    assert panoptic.space == OURS
    assert {(s.id, OURS[s.label].name) for s in panoptic.segments} == {(300, "sky"), (1, "pipe"), (70_000, "pipe")}
    sky_only = LabelSpace([Category("sky", False)])
    assert [panoptic.areas() for _, _, panoptic in mixed(read_split(dataset), sky_only)] == [{300: 1200}] * 3


def test_names_may_be_translated(dataset) -> None:
    ((_, _, panoptic), *_) = list(mixed(read_split(dataset), OURS, {"pipe": "beam", "sky": None}, min_known=0.25))
    assert {(s.id, OURS[s.label].name) for s in panoptic.segments} == {(1, "beam"), (70_000, "beam")}
    with pytest.raises(DatasetError, match="Did you mean 'beam'"):
        list(mixed(read_split(dataset), OURS, {"pipe": "beem"}))


def test_what_teaches_little_is_passed_over(dataset) -> None:
    beams = LabelSpace([Category("beam", True)])
    assert list(mixed(read_split(dataset), beams)) == []
    assert list(mixed(read_split(dataset), OURS, min_known=0.8)) == []  # 600 of 2,400 pixels are void


def test_stuff_of_two_names_that_become_one_is_one_segment(tmp_path) -> None:
    theirs = LabelSpace([Category("sky-other", False), Category("clouds", False)])
    ids = np.ones((40, 60), dtype=np.int32)
    ids[:10] = 2
    with DatasetWriter(tmp_path / "set", theirs) as writer:
        panoptic = PanopticMap(ids, [Segment(1, 0), Segment(2, 1)], theirs)
        writer.add("train", "a.jpg", save_photo(tmp_path / "a.jpg", (60, 40)), panoptic)
    ((_, _, panoptic),) = mixed(read_split(tmp_path / "set"), OURS, {"sky-other": "sky", "clouds": "sky"})
    assert panoptic.areas() == {1: 2400}
