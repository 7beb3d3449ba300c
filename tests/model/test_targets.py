"""Labels to targets: what is accepted, what is void, and one clear error for each thing that is wrong."""

import pytest
import torch

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.targets import Targets, count_targets

IDS = torch.tensor([[7, 7, 0, 9], [7, 7, 5, 9], [4, 4, 5, 9]], dtype=torch.int32)


def label(**changes):
    """Segments 7 (class 2), 9 (class 0) and the crowd 5; 4 is in the map and listed nowhere."""
    entry = {
        "class_labels": torch.tensor([2, 0]),
        "boxes": torch.tensor([[0.25, 0.3, 0.5, 0.6], [0.875, 0.5, 0.25, 1.0]]),
        "panoptic": IDS,
        "segment_ids": torch.tensor([7, 9]),
        "crowd_ids": torch.tensor([5]),
    } | changes
    return {key: value for key, value in entry.items() if value is not None}


def targets_of(*labels, canvas=(3, 4), **settings):
    return Targets.from_labels(labels, num_labels=3, canvas=canvas, device="cpu", **settings)


def test_regions_hold_places_and_leave_out_void_crowd_and_unlisted_ids():
    targets = targets_of(label())
    assert targets.regions[0].tolist() == [[1, 1, 0, 2], [1, 1, 0, 2], [0, 0, 0, 2]]
    assert targets.labels.tolist() == [2, 0]
    assert targets.scores.tolist() == [1, 1]
    assert targets.mask(0, torch.tensor([1, 0])).tolist() == [(IDS == 9).tolist(), (IDS == 7).tolist()]
    assert targets.counted(0).sum() == 7


@pytest.mark.parametrize(
    "crowd", [{"crowd_ids": torch.tensor([5, 9])}, {"iscrowd": torch.tensor([0, 1]), "crowd_ids": torch.tensor([5])}]
)
def test_a_listed_crowd_is_never_a_target(crowd):
    targets = targets_of(label(**crowd))
    assert targets.labels.tolist() == [2]
    assert targets.boxes.tolist() == [[0.25, pytest.approx(0.3), 0.5, pytest.approx(0.6)]]
    assert targets.regions[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert count_targets([label(**crowd), label()]) == [1, 2]


def test_hf_masks_know_no_void_and_may_overlap():
    masks = torch.zeros(2, 3, 4)
    masks[0, :, :2] = 1
    masks[1, :, 1:] = 1
    targets = targets_of(label(panoptic=None, segment_ids=None, crowd_ids=None, masks=masks))
    assert targets.counted(0).all()
    assert torch.equal(targets.mask(0, torch.tensor([0, 1])), masks.bool())
    crowd = targets_of(
        label(panoptic=None, segment_ids=None, crowd_ids=None, masks=masks, iscrowd=torch.tensor([1, 0]))
    )
    assert torch.equal(crowd.counted(0), ~masks[0].bool())
    assert torch.equal(crowd.mask(0, torch.tensor([0])), masks[1:].bool())


@pytest.mark.parametrize("map_on", ["valid part", "canvas"])
@pytest.mark.parametrize("size_from", ["valid_size", "pixel_mask"])
@pytest.mark.parametrize("form", ["panoptic", "masks"])
def test_padding_is_not_counted(map_on, size_from, form):
    ids = IDS if map_on == "valid part" else torch.nn.functional.pad(IDS, (0, 2, 0, 1), value=7)
    changes = {"valid_size": (3, 4)} if size_from == "valid_size" else {}
    if form == "masks":
        changes |= {"panoptic": None, "segment_ids": None, "crowd_ids": None}
        changes |= {"masks": torch.stack([ids == 7, ids == 9])}
    else:
        changes |= {"panoptic": ids}
    pixel_mask = torch.zeros(1, 4, 6, dtype=torch.long)
    pixel_mask[:, :3, :4] = 1
    targets = targets_of(label(**changes), canvas=(4, 6), pixel_mask=pixel_mask if size_from == "pixel_mask" else None)
    assert targets.valid_sizes == ((3, 4),)
    assert not targets.counted(0)[3:].any()
    assert not targets.counted(0)[:, 4:].any()
    assert targets.mask(0, torch.tensor([0])).sum() == (IDS == 7).sum()


def test_without_maps_there_are_no_regions():
    targets = targets_of({"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 1.0, 1.0]])})
    assert targets.regions is None
    assert targets.counts == (1,)


def test_an_image_without_segments():
    empty = label(
        class_labels=torch.tensor([], dtype=torch.long), boxes=torch.zeros(0, 4), segment_ids=torch.tensor([]).long()
    )
    targets = targets_of(empty, label())
    assert targets.counts == (0, 2)
    assert not targets.counted(0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_labels": torch.tensor([2, 3])}, "class label 3 is outside .* 1-based"),
        ({"class_labels": torch.tensor([-1, 0])}, "class label -1 is outside"),
        ({"class_labels": torch.tensor([1.0, 0.0])}, "class_labels are torch.float32"),
        ({"class_labels": torch.tensor([1])}, "1 class_labels and 2 boxes"),
        ({"segment_ids": torch.tensor([7])}, "2 class_labels and 1 segment_ids"),
        ({"scores": torch.ones(3)}, "2 class_labels and 3 scores"),
        ({"segment_ids": torch.tensor([7, 7])}, "listed twice"),
        ({"segment_ids": torch.tensor([7, 0])}, "segment id 0"),
        ({"boxes": torch.tensor([[0.5, 0.5, 1, 1], [0.5, 0.5, 0, 1]])}, r"box 1 is \[0.5, 0.5, 0.0, 1.0\]"),
        ({"boxes": torch.tensor([[0.5, 0.5, 1, 1], [320, 240, 64, 48.0]])}, "box 1 is"),
        ({"boxes": torch.tensor([[0.5, float("nan"), 1, 1], [0.5, 0.5, 1, 1]])}, "box 0 is"),
        ({"boxes": torch.zeros(2, 5)}, r"boxes have shape \[2, 5\]"),
        ({"panoptic": IDS[:2]}, "map is 2×4, the pixels are 3×4"),
        ({"panoptic": IDS[None]}, r"`panoptic` has shape \(1, 3, 4\)"),
        ({"valid_size": (5, 4)}, "valid_size .* does not fit the canvas"),
        ({"segment_ids": None}, "no 'segment_ids'"),
        ({"boxes": None, "bboxes": torch.zeros(2, 4)}, "no 'boxes'.*'bboxes'"),
        ({"score": torch.ones(2)}, "unknown key 'score'.*'scores'"),
        ({"panoptic": None, "masks": torch.zeros(3, 3, 4)}, "`masks` has shape"),
    ],
)
def test_bad_labels(changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        targets_of(label(), label(image_id=torch.tensor([41]), **changes))
    assert caught.value.where.startswith("image 1 of the batch")
    assert caught.value.fix


def test_errors_name_the_image_id():
    with pytest.raises(ModelError, match=r"image 0 of the batch \(image_id 41\)"):
        targets_of(label(image_id=torch.tensor([41]), class_labels=torch.tensor([9, 9])))


def test_image_ids_may_be_names():
    with pytest.raises(ModelError, match="image 0 of the batch: class label 9"):
        targets_of(label(image_id="shed.jpg", class_labels=torch.tensor([9, 9])))


def test_bad_batches():
    with pytest.raises(ModelError, match="1 label dicts for a batch of 2 images"):
        targets_of(label(), num_images=2)
    with pytest.raises(ModelError, match="empty"):
        targets_of()
    with pytest.raises(ModelError, match="no map"):
        targets_of(label(), label(panoptic=None))


def test_a_listed_segment_without_pixels():
    targets = targets_of(label(), label(segment_ids=torch.tensor([7, 8])))
    assert targets.absent.tolist() == [False, False, False, True]
    with pytest.raises(ModelError, match=r"image 1 of the batch: segment 8 is listed but has no pixel"):
        targets.require_pixels(targets.absent.tolist())


@pytest.mark.parametrize("gone", ["pixels", "width"])
def test_what_resizing_left_nothing_of_is_left_out_of_hf_labels(gone):
    """DetrImageProcessor lists it all the same, with a box of no size for one of a pixel, and stock trains on."""
    masks = torch.stack([IDS == 7, (IDS == 8) if gone == "pixels" else (IDS == 9)])
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5 if gone == "pixels" else 0.0, 0.5]])
    foreign = label(panoptic=None, segment_ids=None, crowd_ids=None, masks=masks, boxes=boxes)
    targets = targets_of(foreign)
    assert (targets.counts, targets.labels.tolist()) == ((1,), foreign["class_labels"][:1].tolist())
    assert targets.absent.tolist() == [False]
    assert torch.equal(targets.mask(0, torch.tensor([0])), masks[:1])
    assert count_targets([foreign]) == [1]


def test_ids_above_every_listed_one_are_void():
    targets = targets_of(label(panoptic=IDS.where(IDS != 4, torch.tensor(2**24 - 1, dtype=torch.int32))))
    assert targets.regions[0].tolist() == [[1, 1, 0, 2], [1, 1, 0, 2], [0, 0, 0, 2]]
