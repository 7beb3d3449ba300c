from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hf_detr_panoptic.dataset import copies
from hf_detr_panoptic.dataset.copies import NEAR, Fingerprint, Groups, fingerprint, near_pairs, nearest_across
from hf_detr_panoptic.errors import ImageError
from hf_detr_panoptic.images import open_image


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


few_bits = st.lists(st.integers(0, 255), max_size=60).map(
    lambda places: sum(1 << place for place in set(places)).to_bytes(32)
)
several = st.lists(few_bits, max_size=2).map(b"".join)
entries = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.none() | few_bits, several, several), max_size=10)


def prints_of(listed: list[tuple[str, bytes | None, bytes, bytes]]) -> list[Fingerprint]:
    """Equal files have equal bits; a photo without contrast has none at all."""
    seen: dict[str, Fingerprint] = {}
    made = [Fingerprint(d, bits, *((turned, cropped) if bits else ())) for d, bits, turned, cropped in listed]
    return [seen.setdefault(entry.digest, entry) for entry in made]


def apart(one: bytes | None, other: bytes | None) -> list[int]:
    """Bits that differ, of each hash with each, counted one by one."""
    rows, columns = ([b[k : k + 32] for k in range(0, len(b or b""), 32)] for b in (one or b"", other or b""))
    return [sum((a ^ b).bit_count() for a, b in zip(x, y, strict=True)) for x in rows for y in columns]


def slowly(prints: list[Fingerprint], threshold: int) -> dict[tuple[int, int], tuple[int, int, bool]]:
    """All pairs: the distance as they are seen and in any way (999: far), and whether they are one file."""
    firsts = {entry.digest: place for place, entry in reversed(list(enumerate(prints)))}
    found = {}
    for i, j in combinations(range(len(prints)), 2):
        one, other = prints[i], prints[j]
        if one.digest == other.digest:
            if firsts[one.digest] == i:
                found[i, j] = 0, 0, True
        elif i == firsts[one.digest] and j == firsts[other.digest]:
            seen = min(apart(one.bits, other.bits), default=999)
            ways = apart(one.turned[:32] + one.cropped, other.turned)
            ways += apart(one.turned, other.turned[:32] + other.cropped)
            if min([seen, *ways]) <= threshold:
                found[i, j] = seen, min([seen, *ways]), False
    return found


@settings(max_examples=50)
@given(entries, st.integers(0, 256))
def test_pairs_are_those_of_counting_bits_one_by_one(listed, threshold: int) -> None:
    prints = prints_of(listed)
    expected = {pair: distance for pair, (_, distance, _) in slowly(prints, threshold).items()}
    assert {(i, j): distance for i, j, distance in near_pairs(prints, threshold)} == expected
    groups, linked = Groups(range(len(prints))), Groups(range(len(prints)))
    for i, j in expected:
        groups.join(i, j)
    for i, j, _ in near_pairs(prints, threshold, links=True):
        assert linked.join(i, j)  # not one more than it takes
    assert sorted(map(sorted, linked.all())) == sorted(map(sorted, groups.all()))


@settings(max_examples=50)
@given(entries, st.lists(st.sampled_from(["train", "val", "test"]), min_size=10, max_size=10), st.integers(0, 256))
def test_the_nearest_on_another_side_is_that_of_counting(listed, sides: list[str], threshold: int) -> None:
    prints = prints_of(listed)
    pairs = slowly(prints, threshold)
    result = {(i, j): distance for i, j, distance in nearest_across(prints, sides[: len(prints)], threshold)}
    exact = {pair for pair, (_, _, same) in pairs.items() if same}
    across = {(i, j): pairs[i, j] for i, j in pairs if sides[i] != sides[j] and (i, j) not in exact}
    assert {pair for pair, distance in result.items() if pair in exact and distance == 0} == exact
    least: dict[int, int] = {}
    for photo in range(len(prints)):
        mine = [distances for pair, distances in across.items() if photo in pair]
        as_seen = [seen for seen, _, _ in mine if seen <= threshold]
        if mine:
            least[photo] = min(as_seen or [any_way for _, any_way, _ in mine])
    near = {pair: distance for pair, distance in result.items() if pair not in exact}
    assert near.keys() <= across.keys()
    for pair, distance in near.items():
        assert distance in across[pair][:2]
        assert any(least[photo] == distance for photo in pair)  # it is there for the sake of one of the two
    for photo, distance in least.items():
        assert distance in [bits for pair, bits in near.items() if photo in pair]


def alike(number: int) -> list[Fingerprint]:
    """A fixed camera's: 24 of 256 bits apart at most, however they are turned."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, (3, 256))
    prints = []
    for name in range(number):
        bits = base.copy()
        for row in bits:
            row[rng.choice(256, 12, replace=False)] ^= 1
        seen, turned, cropped = (np.packbits(row).tobytes() for row in bits)
        prints.append(Fingerprint(str(name), seen, turned, cropped))
    return prints


def test_of_a_fixed_camera_there_are_as_many_pairs_as_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 photos have half a million pairs, of which nobody reads a thousandth."""
    prints = alike(1000)
    compared: list[int] = []
    blocks = copies._blocks

    def counted(*args, **options):
        for found in blocks(*args, **options):
            compared.append(found[0].size)
            yield found

    monkeypatch.setattr(copies, "_blocks", counted)
    assert len(list(near_pairs(prints, links=True))) == 999
    assert sum(compared) == 0  # they were one group before anything was compared with everything
    pairs = list(nearest_across(prints, ["train"] * 800 + ["val"] * 200))
    assert {photo for i, j, _ in pairs for photo in (i, j)} == set(range(1000))
    assert len(pairs) <= 1000
    assert sum(compared) == 1000


def test_a_camera_whose_photos_drift_is_joined_without_a_look_at_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 26 of 256 bits are other than on the first photo: of two photos, about every fifth pair is near."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 256)
    rows = [np.packbits(base ^ (rng.random(256) < 0.1)).tobytes() for _ in range(600)]
    prints = [Fingerprint(str(number), row, row) for number, row in enumerate(rows)]
    near = [(i, j) for i, j, _ in near_pairs(prints)]
    assert len(near) > 20_000
    looked_at: list[int] = []
    passes = copies._passes

    def counted(*args):
        for found in passes(*args):
            looked_at.append(found[0].size)
            yield found

    monkeypatch.setattr(copies, "_passes", counted)
    groups, linked = Groups(range(600)), Groups(range(600))
    assert sum(groups.join(i, j) for i, j in near) == sum(
        linked.join(i, j) for i, j, _ in near_pairs(prints, links=True)
    )
    assert linked.all() == groups.all()
    assert sum(looked_at) < 6000


TRANSFORMED = {
    "mirrored": lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda photo: photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by 90": lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
    "turned by 180": lambda photo: photo.transpose(Image.Transpose.ROTATE_180),
    "turned by 270": lambda photo: photo.transpose(Image.Transpose.ROTATE_270),
    "transposed": lambda photo: photo.transpose(Image.Transpose.TRANSPOSE),
    "5 % off each side": lambda photo: cut(photo, 0.05, 0.05, 0.05, 0.05),
    "5 % off the left": lambda photo: cut(photo, 0.05, 0, 0, 0),
    "5 % off below": lambda photo: cut(photo, 0, 0, 0, 0.05),
    "5 % off two sides": lambda photo: cut(photo, 0, 0.05, 0.05, 0),
    "cut and mirrored": lambda photo: cut(photo, 0.05, 0.05, 0.05, 0.05).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "white frame": lambda photo: ImageOps.expand(photo, 40, "white"),
    "black frame, turned": lambda photo: ImageOps.expand(photo, 40, "black").transpose(Image.Transpose.ROTATE_90),
    "black bars": lambda photo: ImageOps.expand(photo, (0, 40), "black"),
}


def cut(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = photo.size
    return photo.crop((round(w * left), round(h * top), w - round(w * right), h - round(h * bottom)))


def cloudy(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Shapes of many sizes, the sky bright, as photos have them."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.normal(size=(n, n)).astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
        for n in (3, 9, 27)
    ]
    grey = 128 + 35 * sum(layers) + np.linspace(60, -60, size[1])[:, None]
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("change", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_what_augmentation_makes_of_a_photo_is_the_photo(change) -> None:
    photos = [cloudy(seed) for seed in range(6)]
    prints = [fingerprint(jpeg(photo)) for photo in photos] + [fingerprint(jpeg(change(photo))) for photo in photos]
    assert [(i, j) for i, j, _ in near_pairs(prints)] == [(k, k + 6) for k in range(6)]
    assert [(i, j) for i, j, _ in nearest_across(prints, ["train"] * 6 + ["val"] * 6)] == [
        (k, k + 6) for k in range(6)
    ]


def test_all_eight_ways_of_storing_a_photo_have_one_in_common() -> None:
    """Without compression exactly: no bit is decided by rounding, equal neighbours included."""
    grey = np.asarray(cloudy(3, (160, 160)).convert("L")) // 16 * 16  # flat here and there
    stored = [np.rot90(side, turns) for side in (grey, grey[:, ::-1]) for turns in range(4)]
    prints = [fingerprint(Image.fromarray(np.ascontiguousarray(pixels))) for pixels in stored]
    assert len({entry.turned[:32] for entry in prints}) == 1


def test_a_drawing_on_empty_paper_is_like_another_only_as_it_stands() -> None:
    """Its cells are nearly all alike: turned and cropped it would be like every other."""
    paper = Image.new("RGB", (300, 300), "white")
    paper.paste("black", (40, 40, 90, 150))
    found = fingerprint(paper)
    assert found.bits is not None
    assert found.turned == found.cropped == b""


def test_no_two_street_photos_are_joined_that_are_not_of_one_place(shared_data: Path) -> None:
    paths = sorted((shared_data / "labelme_facade" / "images").glob("*.jpg"))[::6]
    prints = [fingerprint(path) for path in paths]
    assert len(prints) > 150
    upright = [Fingerprint(entry.digest, entry.bits) for entry in prints]
    joined = ({(i, j) for i, j, _ in near_pairs(entries, NEAR + 10)} for entries in (prints, upright))
    assert next(joined) == next(joined)
    changes = [TRANSFORMED[name] for name in ("turned by 90", "5 % off two sides", "white frame")]
    found = [
        len(list(near_pairs([own, fingerprint(jpeg(change(open_image(path))))])))
        for path, own in zip(paths[::8], prints[::8], strict=True)
        for change in changes
    ]
    assert len(found) == 60
    assert sum(found) >= 54  # a few have too much empty sky


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
