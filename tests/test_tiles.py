"""Tiles and their joined maps, against a labeler that sees nothing but colours: its map needs no tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.errors import MapError
from hf_detr_panoptic.tiles import Joiner, count_of_tiles, rows_of_tiles, segment_in_tiles

SPACE = LabelSpace([Category("block", True), Category("disc", True), Category("sky", False), Category("mud", False)])


def by_color(photo: Image.Image) -> PanopticMap:
    """Red is a label + 1: things are connected parts, stuff is one segment, black is void."""
    labels = np.asarray(photo)[..., 0]
    ids, segments = np.zeros(labels.shape, np.int32), []
    for label in range(4):
        parts, count = ndimage.label(labels == label + 1, np.ones((3, 3)))
        parts, count = (parts, count) if label < 2 else ((parts > 0).astype(np.int32), min(count, 1))
        for part in range(1, count + 1):
            segments.append(Segment(len(segments) + 1, label, 0.5))
            ids[parts == part] = len(segments)
    return PanopticMap(ids, segments, SPACE)


def blobs(seed: int, width: int, height: int) -> Image.Image:
    """Five labels in soft shapes of many sizes, things across many tiles among them."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(height, width)), 9) for _ in range(5)]
    labels = np.argmax(fields, axis=0).astype(np.uint8)
    return Image.fromarray(np.repeat(labels[..., None], 3, axis=2))


def first_seen(panoptic: PanopticMap) -> npt.NDArray[np.int64]:
    """Ids in the order in which they are met, with their labels: equal where two maps say the same."""
    flat = panoptic.ids.ravel()
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    labels = np.array([-1 if known == 0 else panoptic.segment(known).label for known in flat.tolist()])
    return np.stack([order[inverse.ravel()], labels])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tile", "overlap"), [(64, 8), (64, 32), (80, None), (100, 10)])
def test_tiled_equals_untiled_pixel_for_pixel(seed: int, tile: int, overlap: int | None) -> None:
    photo = blobs(seed, 190, 150)
    calls: list[int] = []

    def segment(photos: list[Image.Image]) -> list[PanopticMap]:
        assert all(max(photo.size) <= tile for photo in photos)
        return [by_color(photo) for photo in photos]

    made = segment_in_tiles(photo, (150, 190), segment, SPACE, tile, overlap, batch_size=3, done=calls.append)
    whole = by_color(photo)
    assert len(whole.segments) > 5
    assert (first_seen(made) == first_seen(whole)).all()
    assert sum(calls) == count_of_tiles((150, 190), tile, overlap) > 3


def test_tiles_cover_a_photo_evenly_and_their_cores_cover_it_once() -> None:
    rows = rows_of_tiles((150, 190), 64, 8)
    assert [tile.left for tile in rows[0]] == [0, 42, 84, 126]  # by hand: 126 / 3
    assert [row[0].top for row in rows] == [0, 43, 86]
    assert [tile.core[1::2] for tile in rows[0]] == [(0, 53), (53, 95), (95, 137), (137, 190)]
    seen = np.zeros((150, 190), int)
    for tile in (tile for row in rows for tile in row):
        top, left, below, right = tile.core
        seen[top:below, left:right] += 1
        assert (tile.width, tile.height) == (64, 64)
    assert (seen == 1).all()
    assert count_of_tiles((64, 40), 64) == 1
    assert [tile.box for tile in rows_of_tiles((40, 100), 64, 0)[0]] == [(0, 0, 64, 40), (36, 0, 100, 40)]


def test_two_things_that_lie_side_by_side_stay_two_and_scores_are_weighed() -> None:
    """Tiles of 4×4 that share nothing: one thing crosses the border on rows 0 and 1, on row 3 two classes meet."""
    rows = rows_of_tiles((4, 8), 4, 0)
    left, right = np.zeros((4, 4), int), np.zeros((4, 4), int)
    left[:2, 2:], right[:2, :1] = 1, 1
    left[3], right[3] = 2, 2
    joiner = Joiner(rows, SPACE)
    joiner.add(PanopticMap(left, [Segment(1, 0, 0.9), Segment(2, 1, 0.5)], SPACE))
    joiner.add(PanopticMap(right, [Segment(1, 0, 0.6), Segment(2, 0, 0.7)], SPACE))
    made = joiner.map()
    assert [(s.id, s.label, round(s.score, 9)) for s in made.segments] == [(1, 0, 0.8), (2, 1, 0.5), (3, 0, 0.7)]
    assert made.ids.tolist() == [[0, 0, 1, 1, 1, 0, 0, 0]] * 2 + [[0] * 8, [2] * 4 + [3] * 4]


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(MapError, match="overlap by 40"):
        rows_of_tiles((100, 100), 64, 40)
    with pytest.raises(MapError, match="came back as 3×3"):
        Joiner(rows_of_tiles((8, 8), 4), SPACE).add(PanopticMap(np.zeros((3, 3), int), [], SPACE))


def test_a_photo_pasted_together_from_scenes_is_the_scenes_tile_by_tile() -> None:
    """The teacher on four scenes at once: each pixel has the class that it has alone, and no thing is torn."""
    teacher = DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval()
    scenes = [scene(11, index, (192, 192)).photo for index in range(4)]
    pasted = Image.new("RGB", (384, 384))
    for place, photo in enumerate(scenes):
        pasted.paste(photo, (place % 2 * 192, place // 2 * 192))
    (whole,) = teacher.segment(pasted, tile=192, overlap=0, batch_size=1)
    things = 0
    for place, photo in enumerate(scenes):
        (alone,) = teacher.segment(photo, batch_size=1)
        rows, columns = (slice(start * 192, start * 192 + 192) for start in (place // 2, place % 2))
        part = whole.ids[rows, columns]
        for segment in alone.segments:
            (known,) = np.unique(part[alone.mask(segment.id)])
            assert whole.segment(known).label == segment.label
            things += segment.label in teacher.label_space.thing_labels
        assert ((part == 0) == (alone.ids == 0)).all()
    assert things > 3
    stuff = [segment.label for segment in whole.segments if segment.label in teacher.label_space.stuff_labels]
    assert len(stuff) == len(set(stuff)) > 1
