from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_detr_panoptic.dataset.copies import NEAR, Fingerprint, Groups, fingerprint, near_pairs
from hf_detr_panoptic.errors import ImageError
from hf_detr_panoptic.images import open_image


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


few_bits = st.lists(st.integers(0, 255), max_size=90).map(
    lambda places: sum(1 << place for place in set(places)).to_bytes(32)
)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | few_bits), max_size=12), st.integers(0, 256))
def test_pairs_are_those_of_counting_bits_one_by_one(entries: list[tuple[str, bytes | None]], threshold: int) -> None:
    seen: dict[str, bytes | None] = {}
    prints = [Fingerprint(digest, seen.setdefault(digest, bits)) for digest, bits in entries]
    expected = {}
    firsts = {entry.digest: place for place, entry in reversed(list(enumerate(prints)))}
    for i, j in combinations(range(len(prints)), 2):
        one, other = prints[i], prints[j]
        if one.digest == other.digest:
            if firsts[one.digest] == i:
                expected[i, j] = 0
        elif i == firsts[one.digest] and j == firsts[other.digest] and one.bits is not None and other.bits is not None:
            distance = sum((a ^ b).bit_count() for a, b in zip(one.bits, other.bits, strict=True))
            if distance <= threshold:
                expected[i, j] = distance
    assert {(i, j): distance for i, j, distance in near_pairs(prints, threshold)} == expected


def test_real_photos_and_what_people_do_to_them(shared_data: Path) -> None:
    paths = sorted((shared_data / "tsai_construction" / "images").glob("*.jpg"))
    photos = [open_image(path) for path in paths]
    prints = [fingerprint(path) for path in paths]
    assert len(prints) > 20
    assert list(near_pairs(prints)) == []  # 25 photos of 25 places
    for photo, own in zip(photos, prints, strict=True):
        small = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BILINEAR)
        w, h = photo.size
        cropped = photo.crop((w // 100, h // 100, w - w // 100, h - h // 100))
        for changed in (jpeg(photo, 40), jpeg(small, 60), jpeg(cropped)):
            assert own.distance(fingerprint(changed)) <= NEAR


def test_a_turned_photo_is_the_upright_one(shared_data: Path) -> None:
    photo = open_image(shared_data / "panopticapi_sample/sample_data/input_images/000000142238.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg(photo.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert fingerprint(turned).distance(fingerprint(jpeg(photo))) <= 5


def test_blank_photos_are_like_nothing_but_their_copies() -> None:
    white, grey = (fingerprint(jpeg(Image.new("RGB", (90, 90), colour))) for colour in ("white", "grey"))
    assert white.bits is None
    assert white.distance(grey) is None
    assert list(near_pairs([white, grey, white])) == [(0, 2, 0)]


def test_a_photo_cut_off_is_an_error(tmp_path: Path) -> None:
    content = jpeg(Image.effect_noise((300, 300), 90).convert("RGB"))
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"a\.jpg"):
        fingerprint(tmp_path / "a.jpg")


def test_groups_join_what_is_joined() -> None:
    groups = Groups("abcdef")
    assert groups.join("a", "c")
    assert groups.join("f", "c")
    assert not groups.join("a", "f")
    assert groups.all() == [["a", "c", "f"], ["b"], ["d"], ["e"]]


def test_links_join_the_same_groups_with_the_fewest_pairs():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, (5, 256))
    prints = []
    for number in range(60):
        bits = base[number % 5].copy()
        bits[rng.choice(256, 12, replace=False)] ^= 1  # 24 apart at most, and chance is 128
        prints.append(Fingerprint(str(number), np.packbits(bits).tobytes()))
    links = list(near_pairs(prints, links=True))
    assert len(links) == 60 - 5
    groups = Groups(range(60))
    for i, j, distance in links:
        assert groups.join(i, j)
        assert distance == prints[i].distance(prints[j])
    assert sorted(groups.all()) == [list(range(first, 60, 5)) for first in range(5)]
