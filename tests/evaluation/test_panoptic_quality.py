"""Panoptic quality against a per-pixel oracle of panopticapi's rules, published numbers, and itself in pieces."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_detr_panoptic.errors import LabelError, MapError
from hf_detr_panoptic.evaluation.quality import PanopticQuality, image_counts
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment

SPACE = LabelSpace(
    [
        Category("pipe", isthing=True),
        Category("sky", isthing=False),
        Category("car", isthing=True),
        Category("road", isthing=False),
        Category("nobody", isthing=True),  # occurs nowhere
    ]
)


def oracle(cases, space):
    """panopticapi's rules pixel by pixel and segment by segment: sets of pixels, floats, nothing shared with ours.

    cases: (prediction, truth, truth areas or None). Returns {label: (tp, fp, fn, sum of IoU)}.
    """
    tally = {label: [0, 0, 0, 0.0] for label in range(len(space))}
    for prediction, truth, stated in cases:
        places = [(y, x) for y in range(truth.ids.shape[0]) for x in range(truth.ids.shape[1])]
        pixels_of_truth = {s.id: {at for at in places if truth.ids[at] == s.id} for s in truth.segments}
        pixels_of_pred = {s.id: {at for at in places if prediction.ids[at] == s.id} for s in prediction.segments}
        void = {at for at in places if truth.ids[at] == 0}
        matched_truth, matched_pred = set(), set()
        for t in truth.segments:
            for p in prediction.segments:
                if t.crowd or t.label != p.label:
                    continue
                inter = len(pixels_of_truth[t.id] & pixels_of_pred[p.id])
                if inter == 0:
                    continue
                area = stated[t.id] if stated else len(pixels_of_truth[t.id])
                iou = inter / (area + len(pixels_of_pred[p.id]) - inter - len(pixels_of_pred[p.id] & void))
                if iou > 0.5:
                    tally[t.label][0] += 1
                    tally[t.label][3] += iou
                    matched_truth.add(t.id)
                    matched_pred.add(p.id)
        last_crowd = {}
        for t in truth.segments:
            if t.crowd:
                last_crowd[t.label] = pixels_of_truth[t.id]
            elif t.id not in matched_truth:
                tally[t.label][2] += 1
        for p in prediction.segments:
            if p.id not in matched_pred:
                excused = void | last_crowd.get(p.label, set())
                if len(pixels_of_pred[p.id] & excused) / len(pixels_of_pred[p.id]) <= 0.5:
                    tally[p.label][1] += 1
    return tally


def averages(tally, labels):
    present = [tally[label] for label in labels if any(tally[label][:3])]
    if not present:
        return {"pq": None, "sq": None, "rq": None, "n": 0}
    return {
        "pq": sum(iou / (tp + 0.5 * fp + 0.5 * fn) for tp, fp, fn, iou in present) / len(present),
        "sq": sum(iou / tp if tp else 0.0 for tp, fp, fn, iou in present) / len(present),
        "rq": sum(tp / (tp + 0.5 * fp + 0.5 * fn) for tp, fp, fn, iou in present) / len(present),
        "n": len(present),
    }


def random_map(rng, height, width, base=None):
    """Rectangles on void, or `base` disturbed; ids with gaps and above 255."""
    ids = np.zeros((height, width), dtype=np.int32) if base is None else base.ids.copy()
    known = {} if base is None else {s.id: s for s in base.segments}
    for _ in range(rng.randint(0, 7) if base is None else rng.randint(0, 4)):
        y, x = rng.randrange(height), rng.randrange(width)
        new = rng.choice([0, *rng.sample(range(1, 70000), 3)])
        ids[y : y + rng.randint(1, height), x : x + rng.randint(1, width)] = new
        if new:
            known[new] = Segment(
                new,
                rng.randrange(4),
                source=rng.choice(["custom", "auto"]),
                crowd=base is None and rng.random() < 0.25,
            )
    present = set(np.unique(ids).tolist())
    segments = [s for s in known.values() if s.id in present]
    if base is not None:  # a prediction has no crowds, and is sometimes of another class
        segments = [Segment(s.id, s.label if rng.random() < 0.8 else rng.randrange(4)) for s in segments]
    rng.shuffle(segments)
    return PanopticMap(ids, segments, SPACE)


def random_case(rng):
    height, width = rng.randint(1, 9), rng.randint(1, 9)
    truth = random_map(rng, height, width)
    prediction = random_map(rng, height, width, base=truth)
    stale = {i: max(1, area + rng.randint(-5, 5)) for i, area in truth.areas().items()}
    return prediction, truth, stale if rng.random() < 0.3 else None


def half_overlaps(cases):
    found = 0
    for prediction, truth, _ in cases:
        for t in truth.segments:
            for p in prediction.segments:
                if t.label == p.label and not t.crowd:
                    inter = int(np.sum(truth.mask(t.id) & prediction.mask(p.id)))
                    forgiven = int(np.sum((truth.ids == 0) & prediction.mask(p.id)))
                    union = int(np.sum(truth.mask(t.id) | prediction.mask(p.id))) - forgiven
                    found += 2 * inter == union
    return found


def test_equal_to_the_oracle_on_random_pairs():
    rng = random.Random(20261112)
    cases = [random_case(rng) for _ in range(2000)]
    quality = PanopticQuality(SPACE)
    for case in cases:
        quality.update(*case)
    result = quality.compute()
    expected = oracle(cases, SPACE)
    for row in result["per_class"]:
        assert [row["tp"], row["fp"], row["fn"]] == expected[row["label"]][:3]
    for group, labels in (("all", range(5)), ("things", (0, 2, 4)), ("stuff", (1, 3))):
        ours, theirs = (result if group == "all" else result[group]), averages(expected, labels)
        assert ours["n"] == theirs["n"]
        for key in ("pq", "sq", "rq"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-12, rel=0)
    # The cases hold what they are meant to hold.
    assert result["per_class"][4]["pq"] is None
    assert half_overlaps(cases) > 50
    assert sum(s.crowd for _, truth, _ in cases for s in truth.segments) > 500
    assert sum(stated is not None and stated != truth.areas() for _, truth, stated in cases) > 300


def test_each_random_pair_alone():
    rng = random.Random(7)
    for _ in range(400):
        case = random_case(rng)
        result, expected = PanopticQuality(SPACE).update(*case).compute(), averages(oracle([case], SPACE), range(5))
        for key in ("pq", "sq", "rq", "n"):
            assert result[key] == (None if expected[key] is None else pytest.approx(expected[key], abs=1e-12, rel=0))


# --- the rules, one literal each; A is pipe, B is sky


def maps(prediction, truth, predicted, true):
    """Rows of digits → two maps; `predicted` and `true` are {id: label} or {id: Segment}."""

    def one(rows, segments):
        ids = np.array([[int(digit) for digit in row] for row in rows.split()])
        return PanopticMap(ids, [s if isinstance(s, Segment) else Segment(i, s) for i, s in segments.items()], SPACE)

    return one(prediction, predicted), one(truth, true)


def row(prediction, truth, predicted, true, label=0, truth_areas=None):
    result = PanopticQuality(SPACE).update(*maps(prediction, truth, predicted, true), truth_areas).compute()
    found = result["per_class"][label]
    return found["tp"], found["fp"], found["fn"], found["sq"]


def test_an_iou_of_exactly_one_half_is_no_match():
    # 2 of 2 + 2 pixels, and all the rest belongs to a third party: 2 / 4.
    assert row("1111", "1122", {1: 0}, {1: 0, 2: 1}) == (0, 1, 1, 0.0)
    assert row("11111", "11122", {1: 0}, {1: 0, 2: 1}) == (1, 0, 0, 0.6)


def test_void_of_the_truth_leaves_the_union():
    assert row("1111", "1100", {1: 0}, {1: 0}) == (1, 0, 0, 1.0)


def test_void_of_the_prediction_is_not_forgiven():
    assert row("1110", "1111", {1: 0}, {1: 0}) == (1, 0, 0, 0.75)


def test_an_unmatched_prediction_is_excused_above_one_half_of_void():
    assert row("1111", "0022", {1: 0}, {2: 1})[:3] == (0, 1, 0)  # exactly half is not enough
    assert row("1111", "0002", {1: 0}, {2: 1})[:3] == (0, 0, 0)


def test_a_crowd_of_the_same_class_excuses_together_with_void():
    crowd = Segment(3, 0, crowd=True)
    assert row("1111", "0332", {1: 0}, {2: 1, 3: crowd})[:3] == (0, 0, 0)
    assert row("1111", "0332", {1: 2}, {2: 1, 3: crowd}, label=2)[:3] == (0, 1, 0)  # another class: not excused


def test_a_crowd_is_neither_found_nor_missed():
    assert row("1111", "3333", {1: 0}, {3: Segment(3, 0, crowd=True)})[:3] == (0, 0, 0)
    assert row("0000", "3333", {}, {3: Segment(3, 0, crowd=True)})[:3] == (0, 0, 0)


def test_only_the_last_crowd_of_a_class_counts():
    crowds = {3: Segment(3, 0, crowd=True), 4: Segment(4, 0, crowd=True)}
    assert row("11111", "33344", {1: 0}, crowds)[:3] == (0, 1, 0)
    assert row("11111", "33344", {1: 0}, dict(reversed(crowds.items())))[:3] == (0, 0, 0)


def test_stated_areas_rule_in_parity_mode():
    pair = ("1111", "1111", {1: 0}, {1: 0})
    assert row(*pair) == (1, 0, 0, 1.0)
    assert row(*pair, truth_areas={1: 5}) == (1, 0, 0, 0.8)
    assert row(*pair, truth_areas={1: 8})[:3] == (0, 1, 1)
    with pytest.raises(MapError, match="segment 1 of the truth has no stated area"):
        row(*pair, truth_areas={2: 4})


# --- published numbers

DEEPLAB_COLORS = {
    (0, 0, 0): 0,
    (0, 0, 255): 1,
    (255, 0, 0): 2,
    (0, 255, 0): 3,
    (255, 0, 255): 4,
    (0, 255, 255): 5,
    (255, 255, 0): 6,
}
DEEPLAB_TRUTH = {
    "team": ({0: 0, 47: 1, 97: 1, 133: 1, 150: 1, 174: 1, 198: 2, 215: 1, 244: 1, 255: 1}, "team_gt_instance.png"),
    "bird": ({92: 5, 176: 3, 255: 4}, "bird_gt.png"),
    "cat": ({0: 0, 255: 6}, "cat_gt.png"),
}
DEEPLAB_SPACE = LabelSpace(
    Category(name, isthing=True) for name in ("person", "bear", "tree", "bird", "sky", "cat")
)  # labels are the published classes minus one: class 0 is the ignored one, our void


def deeplab_map(classes, instances):
    """Published class and instance maps → a map whose segments are the distinct (class, instance) pairs."""
    keys = np.where(classes == 0, 0, classes.astype(np.int64) * 1000 + instances)
    found = [key for key in np.unique(keys).tolist() if key]
    ids = np.zeros(keys.shape, dtype=np.int32)
    for place, key in enumerate(found, start=1):
        ids[keys == key] = place
    segments = [Segment(place, key // 1000 - 1) for place, key in enumerate(found, start=1)]
    return PanopticMap(ids, segments, DEEPLAB_SPACE)


def deeplab_case(folder: Path, name: str):
    classes_of, truth_file = DEEPLAB_TRUTH[name]
    true_instances = np.asarray(Image.open(folder / truth_file).convert("L"))
    true_classes = np.vectorize(classes_of.__getitem__)(true_instances)
    colors = np.asarray(Image.open(folder / f"{name}_pred_class.png").convert("RGB"))
    predicted_classes = np.full(colors.shape[:2], -1)
    for color, label in DEEPLAB_COLORS.items():
        predicted_classes[(colors == color).all(axis=2)] = label
    assert predicted_classes.min() >= 0
    predicted_instances = np.asarray(Image.open(folder / f"{name}_pred_instance.png").convert("L"))
    return deeplab_map(predicted_classes, predicted_instances), deeplab_map(true_classes, true_instances)


@pytest.mark.parametrize(
    ("names", "published"),
    [
        (["team"], {"pq": 0.62156284, "sq": 0.64664984, "rq": 0.9666667}),
        (["bird", "cat", "team"], {"pq": 0.76855499, "sq": 0.7769174, "rq": 0.98888892}),
    ],
)
def test_published_numbers_of_deeplab2(shared_data, names, published):
    quality = PanopticQuality(DEEPLAB_SPACE)
    for name in names:
        quality.update(*deeplab_case(shared_data / "deeplab2_pq", name))
    result = quality.compute()
    for key, value in published.items():
        assert result[key] == pytest.approx(value, abs=1e-7, rel=0)


def test_published_numbers_of_mmdetection():
    """Three boxes before a wall, 60 × 80; the numbers are panopticapi's, as mmdetection's own test records them."""
    space = LabelSpace(
        [Category("person", True), Category("cat", True), Category("dog", True), Category("wall", False)]
    )

    def boxes(*corners):
        ids = np.full((60, 80), 4)
        for place, (x, y, width, height) in enumerate(corners, start=1):
            ids[y : y + height, x : x + width] = place
        return PanopticMap(ids, [Segment(1, 0), Segment(2, 0), Segment(3, 2), Segment(4, 3)], space)

    truth = boxes((10, 10, 10, 40), (30, 10, 10, 40), (50, 10, 10, 5))
    prediction = boxes((11, 11, 10, 40), (38, 10, 10, 40), (51, 10, 10, 5))
    result = PanopticQuality(space).update(prediction, truth).compute()
    for group, pq, sq, rq in (
        (result, 67.86874803219071, 80.89770126158936, 83.33333333333334),
        (result["things"], 60.45252075318891, 79.9959505972869, 75.0),
        (result["stuff"], 82.70120259019427, 82.70120259019427, 100.0),
    ):
        assert [100 * group[key] for key in ("pq", "sq", "rq")] == pytest.approx([pq, sq, rq], abs=1e-12, rel=0)


# --- in pieces


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), shares=st.lists(st.integers(0, 4), min_size=12, max_size=12), data=st.data())
def test_any_partition_in_any_order_gives_the_same_bits(seed, shares, data):
    rng = random.Random(seed)
    cases = [random_case(rng) for _ in shares]
    whole = PanopticQuality(SPACE)
    for case in cases:
        whole.update(*case)
    parts = [PanopticQuality(SPACE) for _ in range(5)]
    for place in data.draw(st.permutations(range(len(cases)))):
        parts[shares[place]].update(*cases[place])
    merged = PanopticQuality(SPACE)
    for place in data.draw(st.permutations(range(5))):
        merged.merge(parts[place])
    assert merged.compute() == whole.compute()
    assert merged.counts == whole.counts


def test_a_quotient_is_rounded_once():
    # IoU 2/3 three times: floats added one by one would drift, the fraction does not.
    quality = PanopticQuality(SPACE)
    for _ in range(3000):
        quality.update(*maps("112", "111", {1: 0, 2: 1}, {1: 0}))
    assert quality.compute()["per_class"][0]["sq"] == pytest.approx(float(Fraction(2, 3)), abs=1e-16, rel=0)


# --- sources


def test_sources_add_up_and_each_has_its_own_quality():
    marked, added = Segment(1, 0, source="custom"), Segment(2, 0, source="auto")
    prediction, truth = maps("111133", "111222", {1: 0, 3: 0}, {1: marked, 2: added})
    result = PanopticQuality(SPACE).update(prediction, truth).compute()
    assert result["sources"]["custom"]["pq"] == 0.75
    assert result["sources"]["auto"]["pq"] == pytest.approx(2 / 3, abs=1e-15)
    assert set(result["sources"]) == {"custom", "auto"}


def test_a_false_positive_belongs_to_the_source_it_covers():
    marked, added = Segment(1, 1, source="custom"), Segment(2, 1, source="auto")
    counts = image_counts(*maps("333333", "112222", {3: 0}, {1: marked, 2: added}), SPACE)
    assert counts[0, "auto"].fp == 1
    assert (0, "custom") not in counts


def test_a_class_without_truth_of_a_source_is_not_in_its_mean():
    """Class 1 is the person's: what is invented of it over auto pixels costs them, not the labeler's classes."""
    marked, added = Segment(1, 1, source="custom"), Segment(2, 0, source="auto")
    prediction, truth = maps("11222223", "11222222", {1: 1, 2: 0, 3: 1}, {1: marked, 2: added})
    result = PanopticQuality(SPACE).update(prediction, truth).compute()
    assert result["sources"]["auto"] == {"pq": pytest.approx(5 / 6), "sq": pytest.approx(5 / 6), "rq": 1.0, "n": 1}
    assert result["sources"]["custom"]["pq"] == pytest.approx(2 / 3)  # one found whole, one invented
    assert [row["pq"] for row in result["per_class"][:2]] == pytest.approx([5 / 6, 2 / 3])


# --- inputs at the edge: a number or a clear error


@pytest.mark.parametrize(("kind", "empty"), [(True, "stuff"), (False, "things")])
def test_things_or_stuff_alone(kind, empty):
    space = LabelSpace([Category("only", isthing=kind)])
    one = PanopticMap(np.ones((2, 2), dtype=np.int32), [Segment(1, 0)], space)
    result = PanopticQuality(space).update(one, one).compute()
    assert result["pq"] == 1.0
    assert result[empty] == {"pq": None, "sq": None, "rq": None, "n": 0}


def test_empty_prediction_and_empty_truth():
    assert row("00", "11", {}, {1: 0}) == (0, 0, 1, 0.0)
    assert row("11", "00", {1: 0}, {})[:3] == (0, 0, 0)  # all of it lies on void
    assert PanopticQuality(SPACE).compute()["pq"] is None


def test_another_size_is_named():
    with pytest.raises(MapError, match="prediction is 2×1 pixels, the truth 3×1"):
        row("11", "111", {1: 0}, {1: 0})


def test_an_unknown_category_is_named():
    other = LabelSpace([Category("pip", isthing=True)])
    stranger = PanopticMap(np.ones((1, 1), dtype=np.int32), [Segment(1, 0)], other)
    known = PanopticMap(np.ones((1, 1), dtype=np.int32), [Segment(1, 0)], SPACE)
    with pytest.raises(LabelError, match=r"the prediction knows the class 'pip'.*Did you mean 'pipe'"):
        PanopticQuality(SPACE).update(stranger, known)
    with pytest.raises(LabelError, match="another label space"):
        PanopticQuality(SPACE).merge(PanopticQuality(LabelSpace([SPACE[1], SPACE[0]])))


# --- photos on which nobody looked for some of the classes


def slowly_left_out(prediction, truth, stated, labels):
    """The rule pixel by pixel, with sets: what is left of a case once these labels are left out."""
    places = [(y, x) for y in range(truth.ids.shape[0]) for x in range(truth.ids.shape[1])]
    label_of = {id(side): {s.id: s.label for s in side.segments} for side in (prediction, truth)}
    hidden = {at for at in places if label_of[id(prediction)].get(int(prediction.ids[at])) in labels}
    true, predicted = truth.ids.copy(), prediction.ids.copy()
    for at in hidden:
        predicted[at] = true[at] = 0
    for segment in truth.segments:
        own = {at for at in places if truth.ids[at] == segment.id}
        if segment.label in labels or len(own & hidden) > len(own - hidden):
            for at in own:
                true[at] = 0
    areas = {s.id: int((truth.ids == s.id).sum()) - int((true == s.id).sum()) for s in truth.segments}
    left = stated and {i: area - areas[i] for i, area in stated.items() if (true == i).any()}
    sides = ((prediction, predicted), (truth, true))
    maps = (PanopticMap(ids, [s for s in side.segments if (ids == s.id).any()], SPACE) for side, ids in sides)
    return *maps, left


def test_classes_that_nobody_looked_for_are_left_out_as_by_the_slow_rule():
    rng = random.Random(16)
    cases, quality = [], PanopticQuality(SPACE)
    hidden = covered = 0
    for _ in range(1500):
        prediction, truth, _ = random_case(rng)
        labels = rng.sample(range(5), rng.randint(0, 2))
        quality.update(prediction, truth, incomplete=[SPACE[label].name for label in labels])
        cases.append(slowly_left_out(prediction, truth, None, labels))
        hidden += sum(segment.label in labels for segment in prediction.segments)
        kept = {s.id for s in cases[-1][1].segments}
        covered += sum(s.id not in kept and s.label not in labels for s in truth.segments)
    expected = oracle(cases, SPACE)
    for row in quality.compute()["per_class"]:
        assert [row["tp"], row["fp"], row["fn"]] == expected[row["label"]][:3]
        assert (row["sq"] or 0.0) * row["tp"] == pytest.approx(expected[row["label"]][3], abs=1e-9)
    assert hidden > 500
    assert covered > 100


def test_stated_areas_lose_what_the_pixels_lose():
    truth = PanopticMap([[1, 1, 1, 1, 2, 2]], [Segment(1, 1), Segment(2, 2)], SPACE)
    guess = PanopticMap([[5, 1, 1, 1, 2, 2]], [Segment(5, 0), Segment(1, 1), Segment(2, 2)], SPACE)
    result = PanopticQuality(SPACE).update(guess, truth, {1: 5, 2: 2}, ["pipe"]).compute()
    # sky: 3 pixels found, 5 stated of which one is nobody's: 3 / (3 + 4 - 3)
    assert [row["sq"] for row in result["per_class"]] == [None, 0.75, 1.0, None, None]


def unmarked_photo():
    """A wall of sky with a pipe before it that the labeler calls a car, and a road; the model finds the pipe."""
    ids = np.full((20, 30), 1, dtype=np.int32)
    ids[15:] = 3
    truth = ids.copy()
    truth[2:12, 5:9] = 2
    found = ids.copy()
    found[2:13, 5:9] = 7
    segments = [Segment(1, 1, source="auto"), Segment(3, 3, source="auto")]
    return (
        PanopticMap(found, [*segments, Segment(7, 0)], SPACE),
        PanopticMap(truth, [*segments, Segment(2, 2, source="auto")], SPACE),
    )


def test_a_right_pipe_on_an_unmarked_photo_costs_nothing():
    prediction, truth = unmarked_photo()
    rows = PanopticQuality(SPACE).update(prediction, truth, incomplete=["pipe"]).compute()
    assert [(row["pq"], row["fp"], row["fn"]) for row in rows["per_class"]] == [
        (None, 0, 0), (1.0, 0, 0), (None, 0, 0), (1.0, 0, 0), (None, 0, 0)
    ]  # fmt: skip
    assert rows["pq"] == 1.0
    as_looked_at = PanopticQuality(SPACE).update(prediction, truth).compute()
    assert [(row["fp"], row["fn"]) for row in as_looked_at["per_class"]] == [(1, 0), (0, 0), (0, 1), (0, 0), (0, 0)]


def test_other_classes_are_asked_for_as_ever():
    prediction, truth = unmarked_photo()
    rows = PanopticQuality(SPACE).update(prediction, truth, incomplete=["nobody"]).compute()
    assert rows == PanopticQuality(SPACE).update(prediction, truth).compute()
