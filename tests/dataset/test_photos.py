from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import inside
from hf_detr_panoptic.dataset.photos import shrunk, stem_key, store_photo, stored_names
from hf_detr_panoptic.errors import DatasetError


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a.jpg", "a.jpg"),
        ("site 1/IMG (1).JPG", "site_1/IMG_(1).JPG"),
        ("Straßen/Rohr ü.png", "Strassen/Rohr_u.png"),
        ("写真.jpg", "_.jpg"),
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\photos\\a.jpg", "C_/photos/a.jpg"),
        ("con.jpg", "_con.jpg"),
        ("-rf.jpg", "_-rf.jpg"),
        (".hidden.jpg", "hidden.jpg"),
        ("\ud800.jpg", "_.jpg"),  # half a pair: JSON can say it, no disk can
    ],
)
def test_stored_names_are_plain(name: str, stored: str) -> None:
    assert stored_names([name]) == {name: stored}


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=12))
def test_stored_names_are_unique_ascii_inside_and_whatever_the_order(names: list[str]) -> None:
    given_out = stored_names(names)
    assert given_out == stored_names(reversed(names))
    assert given_out.keys() == set(names)
    assert all(stored.isascii() and stored.isprintable() and inside(stored) for stored in given_out.values())
    assert len({stem_key(stored) for stored in given_out.values()}) == len(names)


def test_names_that_differ_in_case_or_suffix_are_kept_apart() -> None:
    given_out = stored_names(["a.jpg", "A.jpg", "a.png"])
    assert given_out["A.jpg"] == "A.jpg"
    assert len({stored.rpartition(".")[0].casefold() for stored in given_out.values()}) == 3


def test_names_given_out_before_stay() -> None:
    before = stored_names(["ü.jpg"])
    assert stored_names(["u.jpg", "ü.jpg"], before)["ü.jpg"] == "u.jpg"
    assert stored_names(["u.jpg", "ü.jpg"], before)["u.jpg"] != "u.jpg"


def test_shrinking_scales_photo_and_map_together(space, small_map) -> None:
    photo, map = shrunk(Image.new("RGB", (60, 40)), small_map, 30)
    assert photo.size == (map.width, map.height) == (30, 20)
    # Centres lie on odd rows and columns: of rows 20–34 the seven from 21 to 33, of columns 5–24 the ten from 5 to 23.
    assert map.areas() == {1: 70, 70_000: 70, 300: 300}
    assert shrunk(Image.new("RGB", (60, 40)), small_map, 60)[1] is small_map


def test_shrinking_never_mixes_ids_and_drops_what_vanishes(space) -> None:
    ids = np.full((100, 100), 7, dtype=np.int32)
    ids[0, 0] = 9
    _, map = shrunk(Image.new("RGB", (100, 100)), PanopticMap(ids, [Segment(7, 0), Segment(9, 1)], space), 10)
    assert map.areas() == {7: 100}


def test_a_map_of_another_size_is_refused(small_map, tmp_path) -> None:
    with pytest.raises(DatasetError, match="50×40, its map 60×40"):
        shrunk(Image.new("RGB", (50, 40)), small_map, 30)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="50×40, its map 60×40"):
        store_photo(tmp_path / "a.png", tmp_path / "b.png", (40, 60))


def test_an_equal_file_is_not_copied_again(tmp_path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    target = store_photo(tmp_path / "a.png", tmp_path / "out" / "a.png", (4, 5))
    inode = target.stat().st_ino
    store_photo(tmp_path / "a.png", target, (4, 5))
    assert target.stat().st_ino == inode
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    store_photo(tmp_path / "a.png", target, (4, 5))
    assert target.read_bytes() == (tmp_path / "a.png").read_bytes()
