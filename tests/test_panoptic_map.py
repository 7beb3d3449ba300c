"""Expected values: by hand, from the official COCO files, and from slow one-segment-at-a-time formulas."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.errors import LabelError, MapError
from hf_detr_panoptic.panoptic_map import MAX_ID, ids_to_rgb, rgb_to_ids, run_lengths, shared_pixels

SPACE = LabelSpace(
    [Category("pipe", True), Category("sky", False), Category("brick", True), Category("grass", False, source="auto")]
)
PIPE, SKY, BRICK, GRASS = range(4)

#            one pixel  a hole   two parts
IDS = np.array(
    [
        [5, 7, 7, 7, 0],
        [0, 7, 0, 7, 9],
        [9, 7, 7, 7, 0],
    ]
)
SEGMENTS = [Segment(5, PIPE), Segment(9, SKY, score=0.5, source="auto"), Segment(7, BRICK)]


def scene() -> PanopticMap:
    return PanopticMap(IDS, SEGMENTS, SPACE)


def test_areas_boxes_and_masks_by_hand() -> None:
    m = scene()
    assert m.areas() == {5: 1, 9: 2, 7: 8}
    assert m.boxes() == {5: (0, 0, 1, 1), 9: (0, 1, 5, 2), 7: (1, 0, 3, 3)}
    assert m.void_area == 4
    assert list(m.areas()) == [5, 9, 7]
    assert np.flatnonzero(m.mask(9)).tolist() == [9, 10]
    assert (m.height, m.width) == (3, 5)
    assert all(type(value) is int for value in [*m.areas().values(), *m.boxes()[7]])


def test_rle_by_hand() -> None:
    # Down the columns: 1 outside, then ids 0 and 9 … the two 9s are the pixels 2 and 13.
    assert coco_mask.frPyObjects({"size": [3, 5], "counts": [2, 1, 10, 1, 1]}, 3, 5) == scene().rles()[9]


def test_all_void() -> None:
    m = PanopticMap(np.zeros((2, 3), np.int32), [], SPACE)
    assert (m.areas(), m.boxes(), m.rles(), m.void_area) == ({}, {}, {}, 6)
    assert m.fused_stuff() == m.compacted() == m.without([]) == m


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        ([[1, 2]], [Segment(1, 0)], "id 2 is in the pixels but not in the list"),
        ([[1, 1]], [Segment(1, 0), Segment(2, 0)], "segment 2 is listed but without a pixel"),
        ([[0, 0]], [Segment(n, 0) for n in range(1, 9)], "segments 1, 2, 3, 4, 5 and 3 more are listed"),
        ([[1, 1]], [Segment(1, 0), Segment(1, 1)], "segment 1 is listed 2 times"),
        ([[1, 1]], [Segment(1, 4)], "segment 1 has the label 4, the space has 4"),
        ([[1.0, 1.0]], [Segment(1, 0)], "whole numbers, not float64"),
        ([[True, False]], [Segment(1, 0)], "whole numbers, not bool"),
        ([1, 1], [Segment(1, 0)], r"shape \[H, W\], not \[2\]"),
        ([[], []], [], r"shape \[H, W\], not \[2, 0\]"),
        ([[-1, 1]], [Segment(1, 0)], "ids run from -1 to 1"),
        ([[MAX_ID + 1]], [], "ids run from 16777216"),
    ],
)
def test_pixels_and_list_must_agree(ids: Any, segments: list[Segment], message: str) -> None:
    with pytest.raises(MapError, match=message):
        PanopticMap(np.array(ids), segments, SPACE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": 0}, "cannot have the id 0"),
        ({"id": MAX_ID + 1}, "cannot have the id 16777216"),
        ({"id": 1, "score": 1.5}, "score 1.5"),
        ({"id": 1, "score": float("nan")}, "score nan"),
        ({"id": 1, "source": "cvat"}, "unknown source"),
    ],
)
def test_what_is_no_segment(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MapError, match=message):
        Segment(label=0, **settings)


def test_a_map_cannot_be_changed_from_outside() -> None:
    mine = IDS.astype(np.int32)
    m = PanopticMap(mine, SEGMENTS, SPACE)
    mine[0, 0] = 7
    assert m.ids[0, 0] == 5
    with pytest.raises(ValueError, match="read-only"):
        m.ids[0, 0] = 7
    with pytest.raises(AttributeError):
        m.ids = mine  # type: ignore[misc]


def test_unknown_ids_are_answered() -> None:
    with pytest.raises(MapError, match="no segment has the id 6"):
        scene().mask(6)
    with pytest.raises(MapError, match="no segment has the id 6"):
        scene().without([6])


def test_without() -> None:
    m = scene().without([7])
    assert m.areas() == {5: 1, 9: 2}
    assert m.ids.tolist() == [[5, 0, 0, 0, 0], [0, 0, 0, 0, 9], [9, 0, 0, 0, 0]]


def test_relabelled_goes_by_name() -> None:
    other = LabelSpace([Category("brick", True), Category("pipe", True), Category("sky", False)])
    m = scene().relabelled(other)
    assert {s.id: other[s.label].name for s in m.segments} == {5: "pipe", 9: "sky", 7: "brick"}
    assert np.array_equal(m.ids, IDS)


def test_relabelled_into_groups_and_void() -> None:
    fate = SPACE.mapping(keep=[], merge={"thing": ["pipe", "brick"]})
    m = scene().relabelled(LabelSpace([Category("thing", True)]), fate)
    assert m.areas() == {5: 1, 7: 8}
    assert {s.label for s in m.segments} == {0}
    with pytest.raises(LabelError, match="segment 9 is 'sky'.*does not know.*map it to None"):
        scene().relabelled(LabelSpace([Category("pipe", True), Category("brick", True)]))


def test_stuff_is_fused_things_and_crowds_are_not() -> None:
    ids = np.array([[1, 1, 1, 2], [3, 4, 5, 6]])
    m = PanopticMap(
        ids,
        [
            Segment(1, SKY, score=0.9, source="auto"),
            Segment(2, SKY, score=0.5),
            Segment(3, PIPE),
            Segment(4, PIPE),
            Segment(5, SKY, crowd=True),
            Segment(6, GRASS, source="model"),
        ],
        SPACE,
    ).fused_stuff()
    assert m.ids.tolist() == [[1, 1, 1, 1], [3, 4, 5, 6]]
    assert [s.id for s in m.segments] == [1, 3, 4, 5, 6]
    assert m.segments[0].score == pytest.approx((3 * 0.9 + 0.5) / 4)
    assert m.segments[0].source == "custom"
    assert m.segments[-1].source == "model"


def test_fused_in_another_space() -> None:
    other = LabelSpace([Category("ground", False)])
    m = scene().relabelled(other, dict.fromkeys(SPACE.names, "ground"))
    assert m.fused_stuff().areas() == {5: 11}
    two = PanopticMap([[1, 2]], [Segment(1, PIPE), Segment(2, PIPE)], SPACE)
    assert len(two.fused_stuff().segments) == 2


def test_compacted() -> None:
    m = scene().compacted()
    assert [s.id for s in m.segments] == [1, 2, 3]
    assert m.ids.tolist() == [[1, 3, 3, 3, 0], [0, 3, 0, 3, 2], [2, 3, 3, 3, 0]]


def test_pickle_and_equality() -> None:
    m = scene()
    assert pickle.loads(pickle.dumps(m)) == m
    assert m != m.without([7])
    assert m != m.relabelled(LabelSpace(reversed(SPACE.categories)))


id_maps = arrays(
    np.int32,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 1, 2, 255, 256, 65536, MAX_ID]),
)


def random_map(ids: np.ndarray) -> PanopticMap:
    return PanopticMap(ids, [Segment(i, i % len(SPACE)) for i in np.unique(ids).tolist() if i], SPACE)


@given(id_maps)
def test_every_segment_as_a_loop_over_masks_would_have_it(ids: np.ndarray) -> None:
    m = random_map(ids)
    areas, boxes, rles = m.areas(), m.boxes(), m.rles()
    assert sum(areas.values()) + m.void_area == ids.size
    for segment in m.segments:
        mask = ids == segment.id
        rows, columns = np.nonzero(mask)
        assert areas[segment.id] == len(rows)
        assert boxes[segment.id] == (
            columns.min(),
            rows.min(),
            columns.max() - columns.min() + 1,
            rows.max() - rows.min() + 1,
        )
        assert rles[segment.id] == coco_mask.encode(np.asfortranarray(mask))
        assert np.array_equal(m.mask(segment.id), mask)


@given(id_maps)
def test_new_maps_hold_the_same_pixels(ids: np.ndarray) -> None:
    m = random_map(ids)
    compact = m.compacted()
    assert sorted(compact.areas().values()) == sorted(m.areas().values())
    assert np.array_equal(compact.ids == 0, ids == 0)
    assert compact.compacted() == compact
    fused = m.fused_stuff()
    assert fused.fused_stuff() == fused
    labels = {0: -1} | {s.id: s.label for s in m.segments}
    fused_labels = {0: -1} | {s.id: s.label for s in fused.segments}
    assert [labels[i] for i in ids.flat] == [fused_labels[i] for i in fused.ids.flat]
    assert m.without([s.id for s in m.segments]).void_area == ids.size


@given(arrays(np.int32, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.integers(0, MAX_ID)))
def test_rgb_there_and_back(ids: np.ndarray) -> None:
    rgb = ids_to_rgb(ids)
    assert rgb.dtype == np.uint8
    assert np.array_equal(rgb_to_ids(rgb), ids)


def test_rgb_by_hand() -> None:
    assert ids_to_rgb([[1, 256, 65536, 3 + 2 * 256 + 65536]]).tolist() == [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 2, 1]]
    ]


@pytest.mark.parametrize(
    ("convert", "value", "message"),
    [
        (ids_to_rgb, np.array([[MAX_ID + 1]]), "ids run from"),
        (ids_to_rgb, np.array([[-1]]), "ids run from -1"),
        (ids_to_rgb, np.array([[0.5]]), "whole numbers"),
        (rgb_to_ids, np.zeros((2, 2), np.uint8), "RGB mode"),
        (rgb_to_ids, np.zeros((2, 2, 4), np.uint8), "RGB mode"),
        (rgb_to_ids, np.zeros((2, 2, 3), np.int32), "RGB mode"),
    ],
)
def test_rgb_refuses(convert: Any, value: np.ndarray, message: str) -> None:
    with pytest.raises(MapError, match=message):
        convert(value)


def official_maps(shared_data: Path) -> list[tuple[PanopticMap, list[dict[str, Any]]]]:
    """COCO's own files: 50 segments of panopticapi's sample, 6 of transformers' two cats."""
    sample = shared_data / "panopticapi_sample" / "sample_data"
    cats = shared_data / "transformers_fixtures" / "COCO"
    files = [
        (sample / "panoptic_examples" / entry["file_name"], entry["segments_info"])
        for entry in json.loads((sample / "panoptic_examples.json").read_text())["annotations"]
    ]
    cat_segments = json.loads((cats / "coco_panoptic_annotations.txt").read_text())
    files.append((cats / "coco_panoptic" / "000000039769.png", cat_segments))
    categories = json.loads((shared_data / "panopticapi_sample" / "panoptic_coco_categories.json").read_text())
    label = {category["id"]: place for place, category in enumerate(categories)}
    maps = []
    for png, infos in files:
        segments = [Segment(i["id"], label[i["category_id"]], crowd=bool(i["iscrowd"])) for i in infos]
        maps.append((PanopticMap(rgb_to_ids(Image.open(png)), segments, LabelSpace.coco()), infos))
    return maps


def test_official_areas_and_boxes_to_the_pixel(shared_data: Path) -> None:
    maps = official_maps(shared_data)
    assert sum(len(infos) for _, infos in maps) == 56
    for m, infos in maps:
        assert m.areas() == {info["id"]: info["area"] for info in infos}
        assert m.boxes() == {info["id"]: tuple(info["bbox"]) for info in infos}
        assert np.array_equal(rgb_to_ids(ids_to_rgb(m.ids)), m.ids)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_are_those_of_pycocotools(mask: np.ndarray) -> None:
    rle = coco_mask.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
    assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
    assert rle == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@given(*[arrays(np.int32, (3, 5), elements=st.sampled_from([0, 1, 7, 2**24 - 1]))] * 2)
def test_shared_pixels_are_counted_one_by_one(one: np.ndarray, other: np.ndarray) -> None:
    left, right = (
        PanopticMap(ids, [Segment(i, 0) for i in np.unique(ids).tolist() if i], SPACE) for ids in (one, other)
    )
    assert shared_pixels(left, right) == Counter(zip(one.flat, other.flat, strict=True))


def test_maps_of_other_sizes_share_no_pixel() -> None:
    maps = [PanopticMap(np.zeros((height, 4), dtype=np.int32), [], SPACE) for height in (3, 5)]
    with pytest.raises(MapError, match="4×3 and 4×5"):
        shared_pixels(*maps)
