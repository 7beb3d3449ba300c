"""Expected maps are written out by hand; on random ones, a pixel-by-pixel reading of the rules says what must be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.annotations.marks import Mark
from hf_detr_panoptic.errors import AnnotationError, LabelError, RecipeError
from hf_detr_panoptic.labeling.overlay import FATES, OverlayRules, overlay
from hf_detr_panoptic.labeling.schemes import scheme
from hf_detr_panoptic.panoptic_map import rgb_to_ids

AUTO = LabelSpace(
    [Category(name, name in ("truck", "car"), source="auto") for name in ("truck", "car", "sky", "road")]
)
CUSTOM = LabelSpace([Category("loader", True), Category("pipe", True), Category("mud", False)])
SPACE = AUTO.merged(CUSTOM)
TINY = OverlayRules(min_area=0)  # the drawings here are smaller than the default's pieces


def drawn(text: str) -> np.ndarray:
    """ "112\\n..0" → int32 [2, 3]; "." is void."""
    rows = [row.strip() for row in text.split()]
    return np.array([[0 if mark == "." else int(mark, 36) for mark in row] for row in rows], dtype=np.int32)


def auto_map(text: str, *segments: tuple[str, float]) -> PanopticMap:
    """Segment n is the n-th of `segments`: name and score."""
    listed = [Segment(n, AUTO.index(name), score, source="auto") for n, (name, score) in enumerate(segments, start=1)]
    return PanopticMap(drawn(text), listed, AUTO)


def mark(name: str, mask: np.ndarray | str, crowd: bool = False, where: str = "a.json, annotation 1") -> Mark:
    """Pixels that are not 0 are the mark's."""
    pixels = drawn(mask) if isinstance(mask, str) else mask
    rle = coco_mask.encode(np.asfortranarray((pixels > 0).astype(np.uint8)))
    x, y, w, h = (float(side) for side in coco_mask.toBbox(rle))
    return Mark(name, rle, (x, y, w, h), crowd, where)


def rectangle(name: str, *box: float) -> Mark:
    return Mark(name, None, (box[0], box[1], box[2], box[3]), False, "a.json, annotation 1")


def names(panoptic_map: PanopticMap) -> list[str]:
    return [panoptic_map.space[segment.label].name for segment in panoptic_map.segments]


def by_name(panoptic_map: PanopticMap, name: str) -> np.ndarray:
    """bool [H, W], the pixels of a class."""
    listed = [s.id for s in panoptic_map.segments if panoptic_map.space[s.label].name == name]
    return np.isin(panoptic_map.ids, listed)


# --- who lies on top


def test_a_higher_layer_lies_on_top_whatever_its_size():
    big, small = mark("pipe", "1111 1111 1111"), mark("loader", "0000 0110 0000")
    for collisions in ("smaller", "file"):
        rules = TINY.changed(collisions=collisions)
        nothing = PanopticMap(np.zeros((3, 4), np.int32), [], AUTO)
        done = overlay(nothing, [replace(big, layer=2.0), replace(small, layer=1.0)], SPACE, rules=rules)
        assert names(done.map) == ["pipe"]
        done = overlay(
            nothing,
            [replace(big, layer=2.0), replace(small, layer=1.0)],
            SPACE,
            rules=rules.changed(priority=["loader"]),
        )
        assert by_name(done.map, "loader").sum() == 2


def test_marks_lie_on_the_labelers_map_and_the_ids_are_compact():
    auto = auto_map(
        """3333
           3333
           1122""",
        ("road", 0.9),
        ("sky", 0.95),
        ("car", 0.99),
    )
    done = overlay(auto, [mark("loader", "0000 0110 0110")], SPACE, rules=TINY.changed(leakage=None))
    assert done.map.ids.tolist() == drawn("4444 4114 2113").tolist()
    assert [(names(done.map)[n], s.score, s.source) for n, s in enumerate(done.map.segments)] == [
        ("loader", 1.0, "custom"),
        ("road", 0.9, "auto"),
        ("sky", 0.95, "auto"),
        ("car", 0.99, "auto"),
    ]
    assert done.taken == {("loader", "car"): 2, ("loader", "road"): 1, ("loader", "sky"): 1}
    assert done.pixels == {**dict.fromkeys(FATES, 0), "custom": 4, "auto": 8}
    assert done.dropped == ()


def empty(text: str) -> PanopticMap:
    return PanopticMap(np.zeros_like(drawn(text)), [], AUTO)


BIG, SMALL = "1110 1110 1110", "0000 0110 0110"


@pytest.mark.parametrize(
    ("order", "rules", "expected"),
    [
        ([("loader", BIG), ("pipe", SMALL)], {}, "1110 1220 1220"),
        ([("pipe", SMALL), ("loader", BIG)], {}, "2220 2110 2110"),  # the smaller first in the file, and still on top
        ([("pipe", SMALL), ("loader", BIG)], {"collisions": "file"}, "1110 1110 1110"),
        ([("pipe", SMALL), ("loader", BIG)], {"priority": ["loader"]}, "1110 1110 1110"),
        ([("loader", BIG), ("pipe", SMALL)], {"collisions": "file", "priority": ["loader", "pipe"]}, BIG),
        ([("loader", SMALL), ("pipe", "0000 1100 1100")], {}, "0000 2210 2210"),  # equal: the later in the file
        ([("loader", SMALL), ("pipe", "0000 1100 1100")], {"priority": ["loader"]}, "0000 2110 2110"),
    ],
)
def test_between_marks_priority_then_the_smaller_then_the_later(order, rules, expected):
    done = overlay(empty(BIG), [mark(*entry) for entry in order], SPACE, rules=TINY.changed(**rules))
    assert done.map.ids.tolist() == drawn(expected.replace("0", ".")).tolist()
    loader_first = order[0][0] == "loader"
    if rules == {} and not loader_first:
        assert done.taken == {("pipe", "loader"): 4, ("pipe", "void"): 4, ("loader", "void"): 5}


def test_colliding_marks_can_be_refused_and_a_shared_border_is_no_collision():
    marks = [mark("loader", BIG, where="a.json, annotation 3"), mark("pipe", SMALL, where="a.json, annotation 8")]
    with pytest.raises(AnnotationError, match="annotation 8: 'pipe' overlaps 'loader' .*annotation 3.* in 4 pixels"):
        overlay(empty(BIG), marks, SPACE, rules=OverlayRules(collisions="fail", min_area=4))
    assert len(overlay(empty(BIG), marks, SPACE, rules=OverlayRules(collisions="fail", min_area=5)).map.segments) == 2
    layers = [marks[0], replace(marks[1], layer=1.0)]
    assert len(overlay(empty(BIG), layers, SPACE, rules=OverlayRules(collisions="fail", min_area=4)).map.segments) == 2
    decided = OverlayRules(collisions="fail", min_area=4, priority=["pipe"])
    assert names(overlay(empty(BIG), marks, SPACE, rules=decided).map) == ["loader", "pipe"]


def test_a_mark_of_which_nothing_shows_is_reported():
    marks = [
        mark("pipe", SMALL, where="a.json, annotation 5"),
        mark("loader", BIG),
        rectangle("loader", -9, -9, 4, 4),
        mark("mud", "0000 0000 0000"),
    ]
    done = overlay(empty(BIG), marks, SPACE, rules=TINY.changed(priority=["loader"]))
    assert [(d.reason, d.name, d.where, d.pixels, d.by) for d in done.dropped] == [
        ("hidden", "pipe", "a.json, annotation 5", 4, ("loader",)),
        ("empty", "loader", "a.json, annotation 1", 0, ()),
        ("empty", "mud", "a.json, annotation 1", 0, ()),
    ]
    assert names(done.map) == ["loader"]


def test_void_marks_make_void_and_crowds_stay_crowds():
    auto = auto_map("1111 1111", ("road", 0.9))
    done = overlay(auto, [mark("ignore", "1100 0000"), mark("pipe", "0000 1100", crowd=True)], SPACE, rules=TINY)
    assert done.map.ids.tolist() == drawn("..22 1122").tolist()
    assert [(s.crowd, s.source) for s in done.map.segments] == [(True, "custom"), (False, "auto")]
    assert done.pixels["void mark"] == 2
    assert done.taken["ignore", "road"] == 2


def test_crowds_of_stuff_stay_apart():
    marks = [
        mark("mud", "1000"),
        mark("mud", "0100", crowd=True),
        mark("mud", "0010", crowd=True),
        mark("mud", "0001"),
    ]
    assert overlay(empty("1111"), marks, SPACE).map.ids.tolist() == [[1, 2, 3, 1]]


def test_stuff_of_one_class_is_one_segment_and_the_persons_part_makes_it_custom():
    auto = auto_map("1122 1133", ("road", 0.9), ("sky", 1.0), ("road", 0.99))
    done = overlay(auto, [mark("mud", "1000 0000"), mark("mud", "0001 0000")], SPACE, {"road": "mud"}, TINY)
    assert done.map.ids.tolist() == drawn("1121 1111").tolist()
    mud, sky = done.map.segments
    assert (mud.source, sky.source) == ("custom", "auto")
    assert mud.score == pytest.approx((1 + 1 + 3 * 0.9 + 2 * 0.99) / 7)


# --- what of the labeler's may still be believed

LEAK = """22222222
          21111112
          21111112
          21111112
          22222222"""
INSIDE = """........
            ........
            ..1111..
            ..1111..
            ........"""


def test_a_thing_that_coincides_with_a_mark_goes_and_its_rim_becomes_void():
    auto = auto_map(LEAK, ("truck", 0.95), ("sky", 0.95))
    done = overlay(auto, [mark("loader", INSIDE)], SPACE, rules=TINY.changed(leakage=8 / 18))
    assert names(done.map) == ["loader", "sky"]
    assert np.array_equal(by_name(done.map, "loader"), drawn(INSIDE) == 1)
    assert np.array_equal(by_name(done.map, "sky"), drawn(LEAK) == 2)
    assert done.map.void_area == done.pixels["leakage"] == 10
    assert [(d.reason, d.name, d.where, d.pixels, d.by) for d in done.dropped] == [
        ("leakage", "truck", "auto segment 1", 18, ("loader",))
    ]
    # 8 of 18 pixels are less than half: by default the truck stays, as it does where the rule is off
    for rules in (TINY, TINY.changed(leakage=None)):
        assert names(overlay(auto, [mark("loader", INSIDE)], SPACE, rules=rules).map) == ["loader", "truck", "sky"]


def test_several_marks_together_unmask_one_thing():
    auto = auto_map("1111111 1111111", ("truck", 0.95))
    marks = [mark("pipe", "1100000 1100000"), mark("loader", "0000011 0000011")]
    assert names(overlay(auto, marks, SPACE, rules=TINY).map) == ["pipe", "loader"]
    assert names(overlay(auto, marks[:1], SPACE, rules=TINY).map) == ["pipe", "truck"]


def test_stuff_keeps_its_place_around_a_mark():
    auto = auto_map(LEAK, ("road", 0.95), ("sky", 0.95))
    assert names(overlay(auto, [mark("loader", INSIDE)], SPACE, rules=TINY.changed(leakage=0.1)).map) == [
        "loader",
        "road",
        "sky",
    ]


def test_what_the_labeler_took_for_a_thing_counts_not_what_it_is_merged_into():
    space = AUTO.merged(CUSTOM, merge={"misc": ["truck", "car"]}, stuff=["misc"])
    fate = AUTO.mapping(merge={"misc": ["truck", "car"]})
    auto = auto_map(LEAK, ("truck", 0.95), ("sky", 0.95))
    done = overlay(auto, [mark("loader", INSIDE)], space, fate, TINY.changed(leakage=0.4))
    assert names(done.map) == ["loader", "sky"]


def test_a_model_that_knows_the_custom_class_only_proposes():
    labeler = LabelSpace([*AUTO, Category("loader", True)])
    ids = drawn("1111.22 1111.22")
    auto = PanopticMap(ids, [Segment(1, 4, 0.9, "model"), Segment(2, 4, 0.92, "model")], labeler)
    done = overlay(auto, [mark("loader", "0111000 0111000")], SPACE, rules=TINY)
    assert done.map.ids.tolist() == drawn(".111.22 .111.22").tolist()
    assert [(s.source, s.score) for s in done.map.segments] == [("custom", 1.0), ("auto", 0.92)]


FRAGMENTS = """1111..1.
               1111..1.
               1111....
               1111...1"""


def test_pieces_that_a_mark_cuts_off_become_void_and_others_stay_small():
    auto = auto_map(FRAGMENTS, ("truck", 0.95))
    cut = """..1.....
             ..1.....
             ..1.....
             ..1....."""
    done = overlay(auto, [mark("pipe", cut)], SPACE, rules=OverlayRules(min_area=5))
    # the column right of the pipe was cut off; the pieces of 2 and 1 pixels at the right were so before
    assert np.array_equal(by_name(done.map, "truck"), drawn(FRAGMENTS.replace("1111", "11..")) > 0)
    assert done.pixels["fragment"] == 4
    assert overlay(auto, [mark("pipe", cut)], SPACE, rules=OverlayRules(min_area=4)).pixels["fragment"] == 0
    everything = overlay(auto, [mark("pipe", cut)], SPACE, rules=OverlayRules(min_area=9, leakage=None))
    assert by_name(everything.map, "truck").sum() == 3
    assert overlay(auto, [mark("pipe", cut)], SPACE, rules=TINY).pixels["fragment"] == 0


def test_a_segment_of_which_fragments_alone_are_left_is_dropped():
    auto = auto_map("1111 1111 2222", ("car", 0.9), ("road", 0.9))
    cut = [mark("pipe", "0001 0011 0111")]
    done = overlay(auto, cut, SPACE, rules=OverlayRules(min_area=4))
    assert [(d.reason, d.name) for d in done.dropped] == [("fragment", "road")]  # 1 pixel of 4 left
    assert overlay(auto, cut, SPACE, rules=OverlayRules(min_area=1)).dropped == ()
    done = overlay(auto, cut, SPACE, rules=OverlayRules(min_area=6))
    assert [(d.reason, d.name) for d in done.dropped] == [("fragment", "car"), ("fragment", "road")]
    assert done.pixels["fragment"] == 6


def test_low_confidence_dropped_classes_and_the_labelers_void_become_void_each_for_its_reason():
    auto = auto_map("112233..", ("road", 0.84), ("sky", 0.85), ("car", 0.99))
    fate = AUTO.mapping(drop=["car"])
    done = overlay(auto, [], SPACE, fate)
    assert done.map.ids.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0]]
    wanted = {"low score": 2, "auto": 2, "no class": 2, "unlabelled": 2}
    assert done.pixels == {**dict.fromkeys(FATES, 0), **wanted}
    assert [(d.reason, d.name) for d in done.dropped] == [("low score", "road"), ("no class", "car")]


def test_a_covered_segment_is_reported():
    auto = auto_map("1122", ("road", 0.9), ("sky", 0.9))
    done = overlay(auto, [mark("pipe", "1100")], SPACE, rules=TINY)
    assert [(d.reason, d.name, d.by) for d in done.dropped] == [("covered", "road", ("pipe",))]
    two = [mark("pipe", "1000 0000"), mark("loader", "0110 1110")]
    done = overlay(auto_map("1112 1112", ("car", 0.9), ("sky", 0.9)), two, SPACE, rules=TINY)
    assert [(d.reason, d.name, d.by) for d in done.dropped] == [("covered", "car", ("loader", "pipe"))]


# --- rectangles

SCENE = """22222222
           21112332
           21112332
           22222222"""


def test_a_rectangle_takes_the_part_of_the_best_fitting_segment_that_lies_in_it():
    auto = auto_map(SCENE, ("truck", 0.6), ("sky", 0.95), ("car", 0.95))
    # the truck's tight box is (1, 1, 3, 2); they share 2.4 × 1.4 of 3 × 2 and 3 × 2: IoU 3.36 / 8.64 = 0.389
    box = rectangle("loader", 1.6, 1.6, 3, 2)
    done = overlay(auto, [box], SPACE, rules=TINY.changed(box_fit=0.38))
    assert np.array_equal(by_name(done.map, "loader"), drawn("00000000 00000000 00110000 00000000") > 0)
    assert done.boxes == {"refined": 1, "rectangle": 0, "skipped": 0}
    plain = overlay(auto, [box], SPACE, rules=TINY.changed(box_fit=0.39))
    assert np.array_equal(by_name(plain.map, "loader"), drawn("00000000 00000000 00111000 00111000") > 0)
    assert plain.boxes == {"refined": 0, "rectangle": 1, "skipped": 0}
    assert overlay(auto, [box], SPACE, rules=TINY.changed(box_fit=0.38, boxes="rectangle")).boxes == plain.boxes
    skipped = overlay(auto, [box], SPACE, rules=TINY.changed(boxes="skip"))
    assert [(d.reason, d.name) for d in skipped.dropped] == [("skipped", "loader"), ("low score", "truck")]


def test_a_crowd_fits_no_rectangle():
    auto = auto_map(SCENE, ("truck", 0.9), ("sky", 0.95), ("car", 0.95))
    crowded = PanopticMap(auto.ids, [replace(s, crowd=s.id == 1) for s in auto.segments], AUTO)
    box = rectangle("loader", 1, 1, 3, 2)
    assert overlay(auto, [box], SPACE, rules=TINY).boxes["refined"] == 1
    assert overlay(crowded, [box], SPACE, rules=TINY).boxes["refined"] == 0


def test_two_rectangles_never_share_a_segment():
    auto = auto_map(SCENE, ("truck", 0.9), ("sky", 0.95), ("car", 0.95))
    better, worse = rectangle("loader", 1, 1, 3, 2), rectangle("pipe", 1, 1, 4, 2)
    done = overlay(auto, [worse, better], SPACE, rules=TINY)
    assert done.boxes == {"refined": 1, "rectangle": 1, "skipped": 0}
    assert np.array_equal(by_name(done.map, "loader"), drawn(SCENE) == 1)
    assert np.array_equal(by_name(done.map, "pipe"), drawn("00000000 00001000 00001000 00000000") > 0)


def test_a_void_rectangle_is_never_refined():
    auto = auto_map(SCENE, ("truck", 0.9), ("sky", 0.95), ("car", 0.95))
    for boxes in ("refine", "skip"):
        done = overlay(auto, [rectangle("void", 0, 1, 4, 2)], SPACE, rules=TINY.changed(boxes=boxes))
        assert done.pixels["void mark"] == 8


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.4, 0.4, 2.2, 1.2), "1110 1110 0000"),  # from 0.4 to 2.6 and to 1.6: centres at 0.5, 1.5 and 2.5
        ((0.5, 0.0, 1.0, 1.0), "1000 0000 0000"),
        ((0.6, 0.0, 1.0, 1.0), "0100 0000 0000"),
        ((-5.0, -5.0, 99.0, 99.0), "1111 1111 1111"),
    ],
)
def test_a_rectangle_has_the_pixels_whose_centre_lies_in_it(box, expected):
    done = overlay(empty(BIG), [rectangle("pipe", *box)], SPACE, rules=TINY)
    assert done.map.ids.tolist() == drawn(expected).tolist()


# --- what cannot be


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"collisions": "smallest"}, "Did you mean 'smaller'"),
        ({"boxes": "refined"}, "Did you mean 'refine'"),
        ({"leakage": 0.0}, "null"),
        ({"leakage": 1.5}, "more than 1"),
        ({"threshold": -0.1}, "less than 0"),
        ({"min_area": -1}, "min_area is -1"),
        ({"priority": {"pipe": 1}}, "a list of texts"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(RecipeError, match=message):
        OverlayRules(**wrong)


def test_names_that_nobody_knows_are_refused():
    with pytest.raises(RecipeError, match="Did you mean 'pipe'"):
        overlay(empty(BIG), [], SPACE, rules=OverlayRules(priority=["piep"]))


def test_marks_and_classes_that_do_not_fit_say_where():
    with pytest.raises(LabelError, match="a.json, annotation 1: .*'pipes'.*Did you mean 'pipe'"):
        overlay(empty(BIG), [mark("pipes", BIG)], SPACE)
    with pytest.raises(AnnotationError, match="a.json, annotation 1: .*4×2 pixels, the photo has 4×3"):
        overlay(empty(BIG), [mark("pipe", "1111 1111")], SPACE)
    with pytest.raises(LabelError, match="'truck' becomes 'lorry'"):
        overlay(auto_map("1", ("truck", 0.9)), [], SPACE, {"truck": "lorry"})


# --- any map, any marks


@st.composite
def photos(draw) -> tuple[PanopticMap, list[Mark], OverlayRules]:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    cells = draw(st.lists(st.integers(0, 4), min_size=height * width, max_size=height * width))
    lookup = np.array([0, *draw(st.lists(st.integers(1, 2**24 - 1), min_size=4, max_size=4, unique=True))])
    ids = lookup[np.array(cells).reshape(height, width)].astype(np.int32)
    segments = [
        Segment(int(n), draw(st.integers(0, 3)), draw(st.floats(0, 1)), draw(st.sampled_from(["auto", "model"])))
        for n in np.unique(ids)
        if n
    ]
    marks = []
    for number in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(["loader", "pipe", "mud", "truck", "ignore"]))
        if draw(st.booleans()):
            bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
            marks.append(mark(name, np.reshape(bits, (height, width)), draw(st.booleans()), f"annotation {number}"))
        else:
            sides = draw(st.tuples(*[st.floats(-3, 9)] * 2, *[st.floats(0, 9)] * 2))
            marks.append(replace(rectangle(name, *sides), where=f"annotation {number}"))
    rules = OverlayRules(
        threshold=draw(st.sampled_from([0.0, 0.5])),
        leakage=draw(st.sampled_from([None, 0.5, 1.0])),
        min_area=draw(st.sampled_from([0, 2, 5])),
        priority=draw(st.sampled_from([(), ("pipe", "ignore")])),
        collisions=draw(st.sampled_from(["smaller", "file"])),
        boxes=draw(st.sampled_from(["refine", "rectangle", "skip"])),
    )
    return PanopticMap(ids, segments, AUTO), marks, rules


def expected_marks(auto: PanopticMap, marks: list[Mark], rules: OverlayRules) -> list[list[str | None]]:
    """The name on top of each pixel, None where no mark is: pixel by pixel, for outlines only."""
    areas = [int(coco_mask.area(m.rle)) for m in marks]

    def height(place: int) -> tuple[int, int, int]:
        name = marks[place].name
        first = rules.priority.index(name) if name in rules.priority else len(rules.priority)
        return -first, -areas[place] if rules.collisions == "smaller" else 0, place

    masks = [coco_mask.decode(m.rle) for m in marks]
    table: list[list[str | None]] = []
    for y in range(auto.height):
        row = []
        for x in range(auto.width):
            there = [place for place in range(len(marks)) if masks[place][y, x]]
            row.append(marks[max(there, key=height)].name if there else None)
        table.append(row)
    return table


@settings(deadline=None, max_examples=300)
@given(photos())
def test_every_pixel_is_accounted_for_and_only_listed_ids_occur(photo):
    auto, marks, rules = photo
    done = overlay(auto, marks, SPACE, rules=rules)
    assert list(done.pixels) == list(FATES)
    assert sum(done.pixels.values()) == auto.ids.size
    assert min(done.pixels.values()) >= 0
    assert [segment.id for segment in done.map.segments] == list(range(1, len(done.map.segments) + 1))
    assert done.map.void_area == auto.ids.size - done.pixels["custom"] - done.pixels["auto"]
    assert done.map == done.map.fused_stuff()
    assert len(done.boxes) == 3
    assert sum(done.boxes.values()) >= sum(m.rle is None and not m.void for m in marks)


@settings(deadline=None, max_examples=300)
@given(photos())
def test_custom_pixels_are_the_union_of_the_marks_and_auto_ones_keep_their_class(photo):
    auto, marks, rules = photo
    marks = [m for m in marks if m.rle is not None]
    done = overlay(auto, marks, SPACE, rules=rules)
    on_top = expected_marks(auto, marks, rules)
    label_of = {segment.id: names(done.map)[n] for n, segment in enumerate(done.map.segments)}
    source_of = {segment.id: segment.source for segment in done.map.segments}
    auto_class = {segment.id: AUTO[segment.label].name for segment in auto.segments}
    for y, row in enumerate(on_top):
        for x, top in enumerate(row):
            now, before = int(done.map.ids[y, x]), int(auto.ids[y, x])
            if top is None:
                assert now == 0 or label_of[now] == auto_class[before]
            elif top == "ignore":
                assert now == 0
            else:
                assert label_of[now] == top
                assert source_of[now] == "custom"
    flat = [name for row in on_top for name in row]
    assert done.pixels["custom"] == sum(name not in (None, "ignore") for name in flat)
    visible = {place for place, m in enumerate(marks) if m.where not in {d.where for d in done.dropped}}
    assert {marks[place].name for place in visible} == {name for name in flat if name is not None}


@settings(deadline=None, max_examples=100)
@given(photos())
def test_without_marks_nothing_but_confidence_and_names_matter(photo):
    auto, _, rules = photo
    done = overlay(auto, [], SPACE, rules=rules)
    sure = [segment.id for segment in auto.segments if segment.score >= rules.threshold]
    assert np.array_equal(done.map.ids > 0, np.isin(auto.ids, sure))
    assert done.pixels["leakage"] == done.pixels["fragment"] == done.pixels["custom"] == 0


# --- the construction set's own photo


@pytest.fixture(scope="module")
def sample(shared_data) -> tuple[np.ndarray, list[Mark], list[np.ndarray]]:
    """The students' finished id map, the CVAT marks, and the same marks as masks."""
    folder = shared_data / "tsai_construction" / "complete_sample"
    with Image.open(folder / "wheel_loader_10000.png") as picture:
        ids = rgb_to_ids(np.asarray(picture.convert("RGB")))
    marks, masks = [], []
    for entry in json.loads((folder / "cvat_coco_things.json").read_text())["annotations"]:
        rle = coco_mask.merge(coco_mask.frPyObjects(entry["segmentation"], *ids.shape))
        marks.append(Mark("wheel_loader", rle, tuple(entry["bbox"]), False, f"annotation {entry['id']}"))
        masks.append(coco_mask.decode(rle).astype(bool))
    return ids, marks, masks


MISC, GROUND, SKY, LOADERS = 3937500, 11573866, 11829830, (6798751, 8370069)
LOADER = LabelSpace([Category("wheel_loader", True)])


def near(masks: list[np.ndarray]) -> np.ndarray:
    return ndimage.distance_transform_edt(~np.logical_or.reduce(masks)) <= 5


def test_the_students_file_has_the_rim(sample):
    ids, _, masks = sample
    assert ndimage.label(ids == MISC)[1] == 41
    assert (ids == MISC).sum() == 2622
    assert (near(masks) & (ids == MISC)).sum() == 1132


def test_merged_again_from_its_parts_the_sample_has_no_rim(sample):
    """The labeler saw a truck: its outline is what misc is left of, and the loader that was pasted on it."""
    ids, marks, masks = sample
    coco = LabelSpace.coco()
    parts = {MISC: 1, LOADERS[1]: 1, GROUND: 2, SKY: 3, LOADERS[0]: 0}
    before = np.zeros_like(ids)
    for old, new in parts.items():
        before[ids == old] = new
    labels = {1: "truck", 2: "dirt-merged", 3: "sky-other-merged"}
    auto = PanopticMap(before, [Segment(n, coco.index(name), 0.95, "auto") for n, name in labels.items()], coco)
    groups = scheme("stuff_groups", coco)
    space, fate = groups.space(coco, LOADER), groups.mapping(coco)

    done = overlay(auto, marks, space, fate)
    assert names(done.map) == ["wheel_loader", "wheel_loader", "ground", "sky"]
    assert [done.map.areas()[1], done.map.areas()[2]] == [72415, 70655]
    # what is left of the truck: misc but for the one pixel under a mark, and 879 where the students' paste was larger
    assert done.pixels["leakage"] == 2621 + 71531 - 70652
    assert done.pixels["custom"] == 72415 + 70655

    pasted = overlay(auto, marks, space, fate, OverlayRules(leakage=None, min_area=0))
    assert (near(masks) & by_name(pasted.map, "misc")).sum() >= 1132  # what the rules are there for
