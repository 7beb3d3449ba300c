"""AP against pycocotools called by hand, with its own COCO class and files' dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hf_detr_panoptic.errors import LabelError, MapError
from hf_detr_panoptic.evaluation.quality import AveragePrecision, Objects, objects_left_out
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment

SPACE = LabelSpace(
    [
        Category("pipe", True),
        Category("sky", False),
        Category("car", True),
        Category("road", False),
        Category("no", True),
    ]
)


def random_maps(seed, images=12, side=40):
    """Rectangles on void; the prediction is the truth moved by a pixel or three, classes and scores changed."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(images):
        ids = np.zeros((side, side + 5), dtype=np.int32)
        for segment_id in range(1, rng.integers(2, 9)):
            y, x = rng.integers(0, side - 4, 2)
            ids[y : y + rng.integers(2, 18), x : x + rng.integers(2, 18)] = segment_id
        moved = np.roll(ids, rng.integers(0, 3, 2), axis=(0, 1)) * (rng.random(ids.shape) < 0.97)
        kinds = {i: int(rng.integers(0, 4)) for i in range(1, 9)}
        truth = [Segment(i, kinds[i], crowd=bool(rng.random() < 0.15)) for i in np.unique(ids).tolist() if i]
        prediction = [
            Segment(i, kinds[i] if rng.random() < 0.8 else 2, score=round(float(rng.random()), 1))  # scores tie
            for i in np.unique(moved).tolist()
            if i
        ]
        cases.append((PanopticMap(moved, prediction, SPACE), PanopticMap(ids, truth, SPACE)))
    return cases


def by_hand(cases, kind, labels):
    """ap, ap50, ap75 from pycocotools' own summary of a COCO dataset of the same pixels."""

    def entries(side):
        made = []
        for image_id, case in enumerate(cases):
            for segment in case[side].segments:
                mask = np.asfortranarray(case[side].mask(segment.id).astype(np.uint8))
                rle = coco_mask.encode(mask)
                entry = {"image_id": image_id, "category_id": segment.label, "segmentation": rle}
                entry |= {"bbox": coco_mask.toBbox(rle).tolist(), "area": float(coco_mask.area(rle))}
                extra = {"id": len(made) + 1, "iscrowd": int(segment.crowd)} if side else {"score": segment.score}
                made.append(entry | extra)
        return made

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": c[1].height, "width": c[1].width} for i, c in enumerate(cases)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(SPACE.names)],
        "annotations": entries(1),
    }
    truth.createIndex()
    predictions = entries(0)
    if kind == "bbox":
        predictions = [{k: v for k, v in e.items() if k != "segmentation"} for e in predictions]
    run = COCOeval(truth, truth.loadRes(predictions), kind)
    run.params.catIds = labels
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[:3]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "kind"), [("box", "bbox"), ("mask", "segm")])
def test_equal_to_pycocotools_by_hand(seed, name, kind, capsys):
    cases = random_maps(seed)
    quality = AveragePrecision(SPACE)
    for image_id, (prediction, truth) in reversed(list(enumerate(cases))):  # the ids decide, not the order of arrival
        quality.update(image_id, prediction, truth)
    capsys.readouterr()
    result = quality.compute()[name]
    assert capsys.readouterr().out == ""
    for group, labels in (("things", [0, 2, 4]), ("stuff", [1, 3]), ("all", [0, 1, 2, 3, 4])):
        ours = [result[group][key] for key in ("ap", "ap50", "ap75")]
        assert ours == pytest.approx(by_hand(cases, kind, labels), abs=1e-15, rel=0)
        assert 0 < ours[0] < 1
    assert result["per_class"][4]["ap"] is None
    assert result["all"]["n"] == 4


def test_boxes_alone_are_enough():
    # One of two cars found at IoU 1; by hand: precision 1 up to recall 1/2, 51 of the 101 points of recall.
    truth = Objects(labels=[2, 2], boxes=[[0, 0, 10, 10], [20, 20, 10, 10]])
    found = Objects(labels=[2], boxes=[[0, 0, 10, 10]], scores=[0.9])
    result = AveragePrecision(SPACE).update("photo", found, truth).compute()
    assert result["mask"] is None
    half = pytest.approx(51 / 101)
    assert result["box"]["things"] == {"ap": half, "ap50": half, "ap75": half, "n": 1}
    assert result["box"]["stuff"] == {"ap": None, "ap50": None, "ap75": None, "n": 0}


def test_the_first_object_of_all_is_matched():
    # pycocotools takes an annotation with the id 0 for no match.
    one = Objects(labels=[0], boxes=[[0, 0, 4, 4]])
    assert AveragePrecision(SPACE).update(0, one, one).compute()["box"]["all"]["ap"] == pytest.approx(1.0)


def test_merged_in_any_order_and_no_image_twice():
    cases = random_maps(3)
    whole, left, right = (AveragePrecision(SPACE) for _ in range(3))
    for image_id, case in enumerate(cases):
        whole.update(image_id, *case)
    for image_id in (9, 3, 5):
        left.update(image_id, *cases[image_id])
    for image_id in (5, 0, 1, 2, 4, 6, 7, 8, 10, 11, 3):  # 5 and 3 for the second time
        right.update(image_id, *cases[image_id])
    right.update(0, *cases[1])  # the id says that this has been counted
    assert right.add(left.images).compute() == whole.compute()


def test_nothing_to_average():
    empty = Objects([], [])
    space = LabelSpace([Category("sky", isthing=False)])
    for counter in (AveragePrecision(space), AveragePrecision(space).update(1, empty, empty)):
        assert counter.compute()["box"]["things"]["ap"] is None
        assert counter.compute()["box"]["all"]["ap"] is None
    missed = AveragePrecision(SPACE).update(1, empty, Objects([0], [[0, 0, 2, 2]]))
    assert missed.compute()["box"]["things"]["ap"] == 0.0
    invented = AveragePrecision(SPACE).update(1, Objects([0], [[0, 0, 2, 2]]), empty)
    assert invented.compute()["box"]["things"]["ap"] is None  # pycocotools leaves such a class out


def test_wrong_objects_are_named():
    with pytest.raises(MapError, match="2 labels, 1 boxes"):
        Objects([0, 1], [[0, 0, 1, 1]])
    with pytest.raises(LabelError, match="labels run from 5 to 5, the space has 5"):
        AveragePrecision(SPACE).update(0, Objects([5], [[0, 0, 1, 1]]), Objects([], []))


# --- photos on which nobody looked for some of the classes


def with_a_pipe(box=(5, 2, 4, 11)):
    """A photo of sky with a pipe that the labeler calls a car, which is there twice; and what a model finds on it."""
    ids = np.full((20, 30), 1, dtype=np.int32)
    truth, found = ids.copy(), ids.copy()
    truth[2:12, 5:9] = 2
    truth[2:12, 20:24] = 3
    x, y, w, h = box
    found[y : y + h, x : x + w] = 7
    found[2:12, 20:24] = 3
    sky = Segment(1, 1, score=0.9)
    return (
        PanopticMap(found, [sky, Segment(3, 2, score=0.8), Segment(7, 0, score=0.7)], SPACE),
        PanopticMap(truth, [sky, Segment(2, 2), Segment(3, 2)], SPACE),
    )


def ap_of(precision, kind):
    return [row["ap"] for row in precision.compute()[kind]["per_class"]]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_a_right_pipe_on_an_unmarked_photo_costs_nothing(kind):
    maps = with_a_pipe()
    there = ap_of(AveragePrecision(SPACE).update(1, *maps, ["pipe"]), kind)
    assert (there[0], there[1:3], there[3:]) == (None, pytest.approx([1.0, 1.0]), [None, None])
    as_looked_at = ap_of(AveragePrecision(SPACE).update(1, *maps), kind)
    assert as_looked_at[0] is None  # no pipe in the truth: COCO counts no false alarm for such a class
    assert as_looked_at[2] < 0.6  # of two cars one is missed


def test_an_invented_pipe_is_no_false_alarm_where_others_have_pipes():
    prediction, truth = with_a_pipe()
    marked = PanopticMap(truth.ids, [Segment(1, 1), Segment(2, 0), Segment(3, 2)], SPACE)
    plain, told = AveragePrecision(SPACE), AveragePrecision(SPACE)
    for precision, incomplete in ((plain, []), (told, ["pipe"])):
        precision.update(1, Objects.of(prediction), Objects.of(marked))
        sure = Objects(labels=[0], boxes=[[14, 14, 4, 4]], scores=[0.95])
        precision.update(2, sure, Objects(labels=[1], boxes=[[0, 0, 30, 20]]), incomplete)
    assert ap_of(told, "box")[0] == pytest.approx(2 * ap_of(plain, "box")[0])  # precision 1 in place of a half


def test_boxes_of_a_detector_are_left_out_too():
    """The car that the model is surest to be a pipe is not asked for; one that it is less sure of is."""
    truth = Objects(labels=[2, 2], boxes=[[5, 2, 4, 10], [20, 2, 4, 10]])
    boxes = [[5, 2, 4, 11], [5, 2, 4, 10], [20, 2, 4, 10], [20, 2, 4, 11]]
    found = Objects(labels=[0, 2, 2, 0], boxes=boxes, scores=[0.6, 0.3, 0.8, 0.7])
    left, asked = objects_left_out(found, truth, {0})
    assert left.labels.tolist() == [2, 2]
    assert left.scores.tolist() == [0.3, 0.8]
    assert asked.crowds.tolist() == [True, False]
    assert ap_of(AveragePrecision(SPACE).update(1, found, truth, ["pipe"]), "box")[2] == pytest.approx(1.0)
    only_wrong = Objects(labels=[0], boxes=[[8, 2, 4, 10]], scores=[0.9])  # a quarter of it lies on the car
    assert ap_of(AveragePrecision(SPACE).update(1, only_wrong, truth, ["pipe"]), "box")[2] == 0.0


def test_the_truths_own_objects_of_such_classes_are_not_asked_for():
    truth = Objects(labels=[0, 1], boxes=[[5, 2, 4, 10], [0, 0, 30, 20]], crowds=[False, True])
    left, asked = objects_left_out(Objects(labels=[], boxes=[]), truth, {0})
    assert (left.labels.size, asked.labels.tolist(), asked.crowds.tolist()) == (0, [1], [True])
