from __future__ import annotations

import pytest

from hf_detr_panoptic.labeling.split import groups_of, ties, variant_keys


def grouped(*names: str, pattern: str | None = None) -> list[list[str]]:
    return groups_of(names, list(ties(names, [None] * len(names), pattern)))


@pytest.mark.parametrize(
    "variant",
    [
        "a/img_01.png",
        "a/IMG_01.JPG",
        "a/img_01 (1).jpg",
        "a/img_01(12).jpg",
        "a/img_01_copy.jpg",
        "a/img_01 - Copy (2).jpg",
        "a/img_01 - Kopie.jpg",
        "a/img_01_resized.jpg",
        "a/img_01_800x600.jpg",
        "a/img_01@2x.png",
        "a/img_01~2.jpg",
        "a/img_01_flipped.jpg",
        "a/img_01_rot90.jpg",
        "a/img_01_jpg.rf.0f3a9c0d1e2b.jpg",
        "a/img_01_resized_copy.jpg",
    ],
)
def test_variants_of_one_name_stay_together(variant: str) -> None:
    assert grouped("a/img_01.jpg", variant) == [sorted(["a/img_01.jpg", variant])]


@pytest.mark.parametrize(
    "other",
    ["b/img_01.jpg", "a/img_02.jpg", "a/img_010.jpg", "a/img_01b.jpg", "a/photocopy.jpg", "a/copy.jpg"],
)
def test_other_photos_are_other_groups(other: str) -> None:
    assert len(grouped("a/img_01.jpg", other)) == 2


def test_bulk_renamed_photos_are_different_photos() -> None:
    assert len(grouped("site (1).jpg", "site (2).jpg", "site (3).jpg")) == 3
    assert len(grouped("site.jpg", "site (1).jpg", "site (2).jpg")) == 1


def test_exported_augmentations_have_one_key() -> None:
    assert len(set(variant_keys(["x_jpg.rf.00aa11bb22cc.jpg", "x_jpg.rf.99aa11bb22cc.jpg", "x.jpg"]))) == 1


def test_two_reasons_chain() -> None:
    names = ("s1_a.jpg", "s1_b.jpg", "s2_c.jpg", "s1_a_copy.png")
    assert grouped(*names, pattern=r"^(s\d)_") == [["s1_a.jpg", "s1_a_copy.png", "s1_b.jpg"], ["s2_c.jpg"]]
