"""A photo and its map as one picture: each pixel where it was, what it means readable without colours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, draw
from hf_detr_panoptic.errors import ImageError
from hf_detr_panoptic.panoptic_map import rgb_to_ids
from hf_detr_panoptic.pictures.draw import class_color

RED, BLUE = (200, 40, 40), (40, 40, 200)
SPACE = LabelSpace([Category("pipe", isthing=True, color=RED), Category("sky", isthing=False, color=BLUE)])
BARE = {"labels": False, "legend": False}
WHITE, DARK = (255, 255, 255), (20, 20, 24)


def halves(left: Segment, right: Segment | None = None, height: int = 20, width: int = 40) -> PanopticMap:
    ids = np.zeros((height, width), dtype=np.int32)
    ids[:, : width // 2] = left.id
    if right:
        ids[:, width // 2 :] = right.id
    return PanopticMap(ids, [left, right] if right else [left], SPACE)


def grey(map: PanopticMap, level: int = 100) -> Image.Image:
    return Image.new("RGB", (map.width, map.height), (level,) * 3)


def drawn(map: PanopticMap, **options) -> np.ndarray:
    return np.asarray(draw(grey(map), map, **options)).astype(int)


def test_segments_are_blended_with_their_classes_colour():
    pixels = drawn(halves(Segment(70_000, 0), Segment(3, 1)), **BARE)
    assert pixels.shape == (20, 40, 3)
    assert np.abs(pixels[10, 5] - (150, 70, 70)).max() <= 1  # half of 100, half of red
    assert np.abs(pixels[10, 35] - (70, 70, 150)).max() <= 1
    faint = drawn(halves(Segment(70_000, 0), Segment(3, 1)), opacity=0.25, **BARE)
    assert np.abs(faint[10, 5] - (125, 85, 85)).max() <= 1


def test_instances_of_a_thing_differ_and_pieces_of_stuff_do_not():
    things = drawn(halves(Segment(1, 0), Segment(2, 0)), **BARE)
    assert np.abs(things[10, 5] - things[10, 35]).max() > 15
    stuff = drawn(halves(Segment(1, 1), Segment(2, 1)), **BARE)
    assert (stuff[10, 5] == stuff[10, 35]).all()


def test_letters_are_as_high_as_is_asked():
    def plate(**options) -> int:
        pixels = drawn(halves(Segment(1, 1), Segment(2, 1), 300, 900), legend=False, **options)
        rows = (pixels == DARK).all(axis=2).sum(axis=1) > 20  # the plate of the name
        return int(rows.sum())

    assert 20 < plate() < 30  # 18 pixels, and the font's own air
    assert plate(letters=60) == pytest.approx(plate() * 60 / 18, rel=0.15)


def test_no_thing_is_drawn_as_a_shade_of_another():
    """Of COCO's palette a truck is what the second car is: cars go from (0, 0, 142) down to (0, 0, 88)."""
    coco = LabelSpace.coco()
    car, truck, sky = (coco.index(name) for name in ("car", "truck", "sky-other-merged"))
    assert coco[truck].color == (0, 0, 70)
    assert class_color(coco, car) == coco[car].color
    assert class_color(coco, sky) == coco[sky].color
    assert max(class_color(coco, truck)[:2]) > 60  # no blue
    mine = LabelSpace([*coco, Category("crane", isthing=True, color=(0, 0, 140))])
    assert class_color(mine, len(coco)) == (0, 0, 140)  # the person's stays, COCO's car gives way
    assert class_color(mine, car) != (0, 0, 142)


def test_void_is_hatched():
    pixels = drawn(halves(Segment(1, 0)), **BARE)
    void = pixels[:, 25:].mean(axis=2).round()
    assert sorted(np.unique(void)) == pytest.approx([63, 163], abs=2)
    assert 0.35 < (void > 100).mean() < 0.65
    assert len(np.unique(pixels[:, :18].reshape(-1, 3), axis=0)) == 1


def border(left: str, right: str, height: int = 60) -> np.ndarray:
    """The two columns [H, 2, 3] at the border between two sources."""
    return drawn(halves(Segment(1, 0, source=left), Segment(2, 1, source=right), height), **BARE)[:, 19:21]


def dark(pixels: np.ndarray) -> np.ndarray:
    return (pixels == DARK).all(axis=-1)


def test_lines_tell_who_drew_what():
    model = border("model", "model")
    assert dark(model[:, 0]).all()
    assert not dark(model[:, 1]).any()  # one pixel
    auto = border("auto", "auto")
    assert 0.3 < dark(auto[:, 0]).mean() < 0.7
    assert not dark(auto[:, 1]).any()
    for left, right, inner in (("custom", "auto", 0), ("auto", "custom", 1), ("model", "custom", 1)):
        pixels = border(left, right)
        assert (pixels[:, inner] == WHITE).all()  # on the side of what the person marked
        assert dark(pixels[:, 1 - inner]).all()


def test_horizontal_borders_and_the_pictures_edge():
    ids = np.ones((20, 30), dtype=np.int32)
    ids[10:] = 2
    pixels = drawn(PanopticMap(ids, [Segment(1, 0, source="model"), Segment(2, 1, source="model")], SPACE), **BARE)
    assert np.flatnonzero(dark(pixels).any(axis=1)).tolist() == [9]
    assert dark(pixels[9]).all()


def test_lines_and_letters_grow_with_the_photo():
    big = halves(Segment(1, 0, source="model"), Segment(2, 1, source="model"), 4, 4000)
    assert dark(drawn(big, **BARE)).all(axis=0).sum() == 4
    small = halves(Segment(1, 0, source="model"), Segment(2, 1, source="model"), 300, 300)
    large = halves(Segment(1, 0, source="model"), Segment(2, 1, source="model"), 1500, 1500)
    heights = [draw(grey(map), map).height - map.height for map in (small, large)]
    assert heights[1] > 2 * heights[0] > 20


def test_names_stand_on_their_segments():
    map = halves(Segment(1, 0), Segment(2, 1), 200, 400)
    pixels, without = drawn(map, legend=False), drawn(map, **BARE)
    rows, columns = np.nonzero((pixels != without).any(axis=2))
    left = columns < 200
    for side in (left, ~left):
        assert 15 < np.ptp(columns[side]) < 120
        assert 8 < np.ptp(rows[side]) < 30
    assert (pixels[rows, columns] == WHITE).all(axis=1).any()


def test_a_segment_without_room_for_its_name_has_its_number():
    ids = np.ones((200, 300), dtype=np.int32)
    ids[40:160, 40:56] = 2
    space = LabelSpace([Category("reinforcement", isthing=True), SPACE[1]])
    map = PanopticMap(ids, [Segment(1, 1), Segment(2, 0)], space)
    changed = (drawn(map, legend=False) != drawn(map, **BARE)).any(axis=2)
    there = np.nonzero(changed[40:160, :100])[1]
    assert 5 < np.ptp(there) < 16  # its name would be 80 wide
    assert there.min() > 35
    speck = ids.copy()
    speck[speck == 2] = 1
    speck[100:103, 100:103] = 2
    map = PanopticMap(speck, [Segment(1, 1), Segment(2, 0)], SPACE)
    changed = (drawn(map, legend=False) != drawn(map, **BARE)).any(axis=2)
    assert not changed[98:105, 98:105].any()  # a label would hide it


def test_the_legend_stands_below_and_lists_what_is_there():
    both = halves(Segment(1, 0), Segment(2, 1), 100, 300)
    pixels = drawn(both)
    below = pixels[100:]
    assert (pixels[:100] == drawn(both, legend=False)).all()
    for color in (RED, BLUE):
        assert (below == color).all(axis=2).sum() > 50
    one = drawn(halves(Segment(1, 0), Segment(2, 0), 100, 300))[100:]
    assert not (one == BLUE).all(axis=2).any()


def test_the_legend_tells_sources_apart_only_where_there_are_some():
    def legend_height(left: str, right: str) -> int:
        map = halves(Segment(1, 0, source=left), Segment(2, 1, source=right), 300, 100)  # one column
        return draw(grey(map), map).height - 300

    assert legend_height("custom", "custom") == legend_height("model", "model")
    assert legend_height("custom", "auto") > legend_height("auto", "auto") > legend_height("model", "model")


def test_a_photo_of_another_size_is_refused():
    with pytest.raises(ImageError, match="the upright photo is 41×20, its map 40×20"):
        draw(Image.new("RGB", (41, 20)), halves(Segment(1, 0)))


def test_more_segments_than_bytes_can_count():
    ids = np.arange(1, 40 * 50 + 1).reshape(40, 50).repeat(4, 0).repeat(4, 1)
    map = PanopticMap(ids, [Segment(int(n), int(n) % 2) for n in range(1, 2001)], SPACE)
    pixels = drawn(map, **BARE)
    assert pixels.shape == (160, 200, 3)
    ids = ids.copy()
    ids[:80] = 0
    half = drawn(PanopticMap(ids, map.segments[1000:], SPACE), **BARE)
    assert sorted(np.unique(half[:79].mean(axis=2).round())) == pytest.approx([63, 163], abs=2)


NAMES = st.text(min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(1, 60))
def test_any_name_and_any_size_can_be_drawn(data, height, width):
    names = data.draw(st.lists(NAMES, min_size=3, max_size=3, unique=True))
    space = LabelSpace(Category(name, isthing=bool(place % 2)) for place, name in enumerate(names))
    seed = data.draw(st.integers(0, 99))
    ids = np.random.default_rng(seed).integers(0, 4, (height, width)).repeat(5, 0).repeat(9, 1)
    there = [n for n in (1, 2, 3) if (ids == n).any()]
    map = PanopticMap(ids, [Segment(n, n - 1, source=("custom", "auto", "model")[n - 1]) for n in there], space)
    picture = draw(grey(map), map)
    assert picture.width == map.width
    assert picture.height >= map.height
    assert picture == draw(grey(map), map)  # the same again


def test_real_photos(shared_data):
    root = shared_data / "panopticapi_sample" / "sample_data"
    listed = json.loads((root / "panoptic_examples.json").read_text())
    categories = json.loads((root.parent / "panoptic_coco_categories.json").read_text())
    space = LabelSpace.from_coco(categories)
    labels = {category["id"]: label for label, category in enumerate(categories)}
    for annotation in listed["annotations"]:
        with Image.open(root / "panoptic_examples" / annotation["file_name"]) as png:
            ids = rgb_to_ids(np.asarray(png))
        map = PanopticMap(
            ids, [Segment(s["id"], labels[s["category_id"]]) for s in annotation["segments_info"]], space
        )
        photo = root / "input_images" / annotation["file_name"].replace("png", "jpg")
        picture = draw(photo, map)
        assert picture.width == map.width
        pixels = np.asarray(draw(photo, map, **BARE)).astype(int)
        with Image.open(photo) as image:
            before = np.asarray(image.convert("RGB")).astype(int)
        grass = next(s for s in map.segments if space[s.label].name == "grass-merged")
        inner = map.mask(grass.id) & ~dark(pixels) & ~(pixels == WHITE).all(axis=2)
        expected = (before[inner] + space[grass.label].color) / 2
        assert np.abs(pixels[inner] - expected).max() <= 1
