"""Augmentation: photo, map and boxes stay together, whatever is drawn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.dataset.transforms import Draw, Window, make_labels, rng_of
from hf_detr_panoptic.errors import DatasetError, RecipeError
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Augmentation

pytestmark = pytest.mark.bits

SMALL = Preprocess(shortest_edge=96, longest_edge=160)
EVERY = Augmentation().for_size(96)
JITTER = Augmentation(scale_jitter=(0.1, 2.0)).for_size(96)


def blobs(seed: int) -> tuple[np.ndarray, list[Segment]]:
    """int32 ids of overlapping rectangles on void, one pixel among them, and their segments."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 220, 2)
    ids = np.zeros((height, width), dtype=np.int32)
    for segment_id in rng.choice(2**24 - 1, 8, replace=False) + 1:
        top, left = rng.integers(0, height), rng.integers(0, width)
        ids[top : top + rng.integers(1, 90), left : left + rng.integers(1, 90)] = segment_id
    ids[rng.integers(0, height), rng.integers(0, width)] = 2**24 - 1
    listed = [Segment(int(i), n % 3, crowd=n == 2) for n, i in enumerate(np.unique(ids[ids > 0]))]
    return ids, listed


def tight_boxes(ids: np.ndarray, segment_ids: list[int]) -> np.ndarray:
    """Centre, width, height as shares, by looking for each id in turn."""
    boxes = []
    for segment_id in segment_ids:
        y, x = np.nonzero(ids == segment_id)
        left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
        boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    return np.array(boxes).reshape(-1, 4) / [ids.shape[1], ids.shape[0], ids.shape[1], ids.shape[0]]


@pytest.mark.parametrize("augmentation", [EVERY, JITTER], ids=["paper", "jitter"])
def test_boxes_are_tight_on_the_transformed_map_for_500_draws(augmentation: Augmentation) -> None:
    vanished = 0
    for draw_id in range(500):
        ids, segments = blobs(draw_id % 25)
        draw = Draw.of(augmentation, *ids.shape, SMALL, rng_of("boxes", draw_id))
        new = draw.ids(ids)
        labels = make_labels(new, segments, image_id=draw_id)
        assert new.shape == draw.size == tuple(labels["valid_size"].tolist())
        left = [segment for segment in segments if (new == segment.id).any()]
        vanished += len(segments) - len(left)
        assert labels["segment_ids"].tolist() == [segment.id for segment in left]
        assert labels["class_labels"].tolist() == [segment.label for segment in left]
        assert labels["iscrowd"].tolist() == [segment.crowd for segment in left]
        np.testing.assert_allclose(
            labels["boxes"].numpy(), tight_boxes(new, labels["segment_ids"].tolist()), atol=1e-7
        )
    assert vanished > 100  # else nothing was cut away and the test says little


def test_labels_of_a_map_counted_by_hand() -> None:
    ids = np.array([[0, 5, 5, 0], [9, 5, 0, 0]], dtype=np.int32)
    segments = [Segment(9, 2, score=0.5), Segment(5, 0), Segment(7, 1)]
    labels = make_labels(ids, segments, image_id="a")
    assert labels["segment_ids"].tolist() == [9, 5]
    assert labels["class_labels"].tolist() == [2, 0]
    assert labels["scores"].tolist() == [0.5, 1.0]
    assert labels["boxes"].tolist() == [[0.125, 0.75, 0.25, 0.5], [0.5, 0.5, 0.5, 1.0]]
    assert labels["panoptic"].dtype == torch.int32
    assert labels["panoptic"].tolist() == ids.tolist()
    assert labels["image_id"] == "a"


def test_a_map_of_void_has_no_targets() -> None:
    labels = make_labels(np.zeros((3, 4), np.int32), [Segment(1, 0)], image_id=1)
    assert labels["boxes"].shape == (0, 4)
    assert labels["class_labels"].shape == (0,)


def test_an_id_that_nobody_listed_is_an_error() -> None:
    with pytest.raises(DatasetError, match="photo x: id 8 is in the pixels"):
        make_labels(np.full((2, 2), 8, np.int32), [], image_id=1, where="photo x")


@pytest.mark.parametrize("size", [(61, 83), (47, 60), (123, 170), (40, 200)])
@pytest.mark.parametrize("flip", [False, True])
def test_photo_and_map_keep_the_same_borders(size: tuple[int, int], flip: bool) -> None:
    """A photo that shows its own map, resized as a photo, must show the map resized as a map."""
    y, x = np.mgrid[:80, :110]
    ids = (1 + (np.hypot(y - 37.3, x - 50.8) < 29) + 2 * (y > 70)).astype(np.int32)
    plain = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)
    draw = Draw(Window(3, 5, 70, 97), size, flip)
    pixels = torch.from_numpy(np.where(ids == 2, 255, 0).astype(np.uint8)).expand(3, -1, -1)
    shown = draw.photo(pixels, plain)[0].numpy() > 0.5
    truth = draw.ids(ids) == 2
    border = np.zeros_like(truth)
    border[1:] |= truth[1:] != truth[:-1]
    border[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    assert (shown != truth).sum() <= 0.1 * border.sum()  # rounding on the border itself
    # The share that an upper-left-corner rule ("nearest") would get wrong, so that the bound above means something.
    rows, columns = (np.arange(new) * old // new for old, new in zip((70, 97), size, strict=True))
    corner = (ids[3:73, 5:102] == 2)[rows][:, columns]
    corner = corner[:, ::-1] if flip else corner
    if min(size[0] / 70, size[1] / 97) > 1.3:  # shrinking, the two rules differ less than the border is wide
        assert (shown != corner).sum() > 0.15 * border.sum()


@pytest.mark.parametrize(("old", "new"), [((50, 70), (33, 91)), ((64, 48), (128, 96)), ((7, 1000), (1, 13))])
def test_ids_are_torchs_nearest_exact(old: tuple[int, int], new: tuple[int, int]) -> None:
    ids = np.arange(old[0] * old[1], dtype=np.int32).reshape(old)
    stock = tvf.resize(torch.from_numpy(ids)[None], list(new), interpolation=InterpolationMode.NEAREST_EXACT)[0]
    assert np.array_equal(Draw(Window(0, 0, *old), new).ids(ids), stock.numpy())


def test_a_mirrored_map_is_the_map_mirrored() -> None:
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert Draw(Window(0, 0, 3, 4), (3, 4), flip=True).ids(ids).tolist() == ids[:, ::-1].tolist()
    pixels = torch.arange(36, dtype=torch.uint8).reshape(3, 3, 4)
    photo = Draw(Window(0, 0, 3, 4), (3, 4), flip=True).photo(pixels, Preprocess())
    assert torch.equal(photo, Preprocess().normalize(pixels.flip(-1)))


def test_without_augmentation_pixels_are_preprocesss() -> None:
    pixels = torch.randint(0, 256, (3, 120, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draw = Draw.of(Augmentation.none(), 120, 90, SMALL, rng_of(0))
    assert draw == Draw(Window(0, 0, 120, 90), (128, 96))
    assert torch.equal(draw.photo(pixels, SMALL), SMALL(pixels))


@pytest.mark.parametrize(
    ("strengths", "stock"),
    [
        ((1.3, 1.0, 1.0), lambda x: tvf.adjust_brightness(x, 1.3)),
        ((1.0, 0.7, 1.0), lambda x: tvf.adjust_contrast(x, 0.7)),
        ((1.0, 1.0, 1.4), lambda x: tvf.adjust_saturation(x, 1.4)),
        (
            (0.8, 1.2, 0.7),
            lambda x: tvf.adjust_saturation(tvf.adjust_contrast(tvf.adjust_brightness(x, 0.8), 1.2), 0.7),
        ),
        ((1.9, 1.0, 1.0), lambda x: tvf.adjust_brightness(x, 1.9)),
    ],
    ids=["brightness", "contrast", "saturation", "all", "clipped"],
)
def test_colours_are_torchvisions(strengths: tuple[float, float, float], stock) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.randint(60, 180, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ours = Draw(Window(0, 0, 40, 50), (40, 50), False, *strengths).photo(pixels, Preprocess())
    shown = ours * torch.tensor(Preprocess().std).view(3, 1, 1) + torch.tensor(Preprocess().mean).view(3, 1, 1)
    expected = stock(pixels / 255)  # floats: on bytes stock cuts the decimals off after every step
    assert (shown - expected).abs().max() < 5e-4  # stock's grey weights are rounded to four digits
    assert (expected - pixels / 255).abs().max() > 0.05


def test_sizes_are_those_of_the_paper() -> None:
    """Short sides 480 to 800 by 32, long side at most 1333, whatever the photo; half of them cropped."""
    draws = [Draw.of(Augmentation().for_size(), 900, 1200, Preprocess(), rng_of(n)) for n in range(400)]
    whole = [draw for draw in draws if draw.window == Window(0, 0, 900, 1200)]
    assert {draw.size[0] for draw in whole} == set(range(480, 801, 32))
    assert 150 < len(whole) < 250
    assert 150 < sum(draw.flip for draw in draws) < 250
    for draw in draws:
        window, (height, width) = draw.window, draw.size
        assert max(height, width) <= 1333
        assert 0 <= window.top <= 900 - window.height
        assert 0 <= window.left <= 1200 - window.width
        # On the photo at 400, 500 or 600 a window is 384 to 600 wide.
        assert any(383 <= round(window.height * s / 900) <= 601 for s in (400, 500, 600)) or draw in whole
        assert abs(height / width - window.height / window.width) < 0.02
    panorama = [Draw.of(Augmentation(crop=0).for_size(), 300, 3000, Preprocess(), rng_of(n)) for n in range(50)]
    assert {draw.size for draw in panorama} == {(133, 1333)}


def test_jitter_keeps_within_its_size() -> None:
    draws = [Draw.of(JITTER, 80, 120, SMALL, rng_of(n)) for n in range(300)]
    size = JITTER.jitter_size
    assert max(max(draw.size) for draw in draws) == size == 123
    assert min(max(draw.size) for draw in draws) < 0.2 * size
    enlarged = [draw for draw in draws if draw.window.width < 120]
    assert enlarged
    assert all(draw.size[1] >= size - 1 for draw in enlarged)


def test_a_photo_of_one_pixel_survives() -> None:
    for n in range(50):
        for augmentation in (EVERY, JITTER):
            draw = Draw.of(augmentation, 1, 1, SMALL, rng_of(n))
            assert draw.ids(np.ones((1, 1), np.int32)).min() == 1


def test_draws_differ_by_every_part_of_the_key() -> None:
    first = rng_of(0, 0, 7).random()
    assert rng_of(0, 0, 7).random() == first
    assert len({first, rng_of(1, 0, 7).random(), rng_of(0, 1, 7).random(), rng_of(0, 0, 8).random()}) == 4
    assert rng_of(0, 11, 1).random() != rng_of(0, 1, 11).random()


def test_global_randomness_is_neither_read_nor_moved() -> None:
    random.seed(1)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    first = Draw.of(EVERY, 100, 120, SMALL, rng_of(3))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])
    random.seed(99)
    assert Draw.of(EVERY, 100, 120, SMALL, rng_of(3)) == first


def test_the_map_survives_a_round_trip_through_labels(small_map: PanopticMap) -> None:
    draw = Draw.of(Augmentation.none(), small_map.height, small_map.width, Preprocess(None, None), rng_of(0))
    labels = make_labels(draw.ids(small_map.ids), small_map.segments, image_id=1)
    expected = tight_boxes(small_map.ids, [s.id for s in small_map.segments])
    np.testing.assert_allclose(labels["boxes"].numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"brightness": 1.0},
        {"short_sides": (0,)},
        {"short_sides": ()},
        {"crop_window": (600, 384)},
        {"scale_jitter": (2.0, 0.1)},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        Augmentation(**wrong)  # type: ignore[arg-type]


def test_settings_from_yaml_lists_are_the_same_value() -> None:
    papers = Augmentation(crop_window=[384, 600], short_sides=list(range(480, 801, 32)))  # type: ignore[arg-type]
    assert papers.for_size() == Augmentation().for_size()
