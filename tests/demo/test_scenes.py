from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from hf_detr_panoptic import LabelSpace
from hf_detr_panoptic.demo.scenes import CUSTOM, MIN_SHARE, SITE, TEACHER, Scene, scene, scenes


def content(made: Scene) -> tuple[object, ...]:
    return made.photo.tobytes(), made.truth.ids.tobytes(), made.truth.segments


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    """200 scenes of one seed, small."""
    return list(scenes(200, seed=7, size=(160, 128)))


def names_of(made: Scene) -> list[str]:
    return [made.truth.space[segment.label].name for segment in made.truth.segments]


def test_the_same_seed_and_index_give_the_same_bytes_in_any_order():
    forwards = [content(scene(3, index)) for index in range(4)]
    backwards = [content(scene(3, index)) for index in reversed(range(4))]
    assert forwards == backwards[::-1]
    assert [content(made) for made in scenes(2, seed=3, start=2)] == forwards[2:]


def test_another_seed_or_index_is_another_scene():
    made = {content(scene(seed, index))[0] for seed in (0, 1) for index in (0, 1)}
    assert len(made) == 4


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(1)
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()
    first = content(scene(0, 0))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before
    np.random.seed(2)
    random.seed(2)
    assert content(scene(0, 0)) == first


def test_every_pixel_is_labelled_and_every_segment_large_enough(many):
    for made in many:
        assert made.truth.void_area == 0
        assert min(made.truth.areas().values()) >= MIN_SHARE * 160 * 128
        assert made.truth.space == SITE


def test_stuff_is_one_segment_a_class(many):
    for made in many:
        stuff = [segment.label for segment in made.truth.segments if segment.label in SITE.stuff_labels]
        assert len(stuff) == len(set(stuff))


def test_every_class_occurs_neither_rarely_nor_always(many):
    photos = Counter(name for made in many for name in set(names_of(made)))
    assert set(photos) == set(SITE.names)
    for name in SITE.names:
        low, high = (0.1, 0.75) if SITE[SITE.index(name)].isthing else (0.1, 1.0)
        assert low <= photos[name] / len(many) <= high, (name, photos[name])
    things = [sum(made.truth.space[s.label].isthing for s in made.truth.segments) for made in many]
    assert 3 <= np.mean(things) <= 9


def test_what_the_person_marks_is_custom_and_the_rest_is_not(many):
    for made in many:
        for segment in made.truth.segments:
            name = made.truth.space[segment.label].name
            assert (segment.source == "custom") == (name in CUSTOM.names)
            assert (name in CUSTOM.names) != (name in TEACHER.names)


@pytest.mark.parametrize("size", [(160, 128), (256, 192), (640, 480), (101, 77)])
def test_photo_and_truth_have_the_size_asked_for(size):
    made = scene(0, 5, size)
    assert made.photo.size == size
    assert made.photo.mode == "RGB"
    assert (made.truth.width, made.truth.height) == size


def test_a_scene_shows_the_same_things_at_every_size():
    for index in range(6):
        small, large = scene(2, index, (160, 120)), scene(2, index, (640, 480))
        enlarged = np.asarray(small.truth.ids).repeat(4, 0).repeat(4, 1)
        labels = [np.zeros(made.truth.ids.max() + 1, int) for made in (small, large)]
        for made, table in zip((small, large), labels, strict=True):
            for segment in made.truth.segments:
                table[segment.id] = segment.label
        same = labels[0][enlarged] == labels[1][large.truth.ids]
        assert same.mean() > 0.95


def test_without_custom_the_place_is_the_same_and_nothing_of_the_persons_is_there():
    removed = 0
    for index in range(12):
        full, plain = scene(4, index), scene(4, index, custom=False)
        assert plain.truth.space == TEACHER
        assert not set(names_of(plain)) & set(CUSTOM.names)
        assert plain.truth.void_area == 0
        custom = {s.id for s in full.truth.segments if s.source == "custom"}
        hidden = np.isin(full.truth.ids, list(custom))
        removed += hidden.any()
        tables = []
        for made in (full, plain):
            table = np.zeros(made.truth.ids.max() + 1, int)
            for segment in made.truth.segments:
                table[segment.id] = segment.label
            tables.append(table[made.truth.ids])
        # Elsewhere nothing moves, but for what the custom things had hidden almost whole.
        assert (tables[0] == tables[1])[~hidden].mean() > 0.97
    assert removed >= 6


def test_the_teachers_labels_are_the_same_in_both_spaces():
    assert [SITE.index(name) for name in TEACHER.names] == list(range(len(TEACHER)))
    assert SITE.names == TEACHER.names + CUSTOM.names


def test_names_and_kinds_are_cocos_where_coco_has_them():
    coco = LabelSpace.coco()
    strangers = {category.name for category in TEACHER if category.name not in coco.names}
    assert strangers == {"traffic cone", "ladder"}
    for category in TEACHER:
        if category.name not in strangers:
            assert category.isthing == coco[coco.index(category.name)].isthing


def test_borders_of_the_truth_lie_on_edges_of_the_photo():
    """Where the truth changes, the photo changes: more than where the same borders are moved by a few pixels."""
    on, off = [], []
    for made in scenes(30, seed=11):
        grey = np.asarray(made.photo.convert("L").filter(ImageFilter.MedianFilter(3)), float)
        steps = np.abs(np.diff(grey, axis=1))
        things = np.isin(made.truth.ids, [s.id for s in made.truth.segments if s.label not in SITE.stuff_labels])
        border = np.diff(np.where(things, made.truth.ids, 0), axis=1) != 0
        on.append(steps[border].mean())
        off.extend(steps[np.roll(border, shift, axis=1)].mean() for shift in (-4, 4))
    assert np.mean(on) > 2 * np.mean(off)


def test_photos_differ_in_light():
    """Neither all dark nor all bright, and none burnt out."""
    means = [np.asarray(made.photo.convert("L")).mean() for made in scenes(40, seed=1, size=(160, 128))]
    assert 60 < np.median(means) < 190
    assert np.std(means) > 8
    assert all(35 < mean < 225 and math.isfinite(mean) for mean in means)


def test_photos_are_plain_pillow_images(tmp_path):
    scene(0, 0).photo.save(tmp_path / "photo.png")
    assert Image.open(tmp_path / "photo.png").size == (256, 192)
