"""Names in annotations and the photos that they mean."""

from __future__ import annotations

import pytest

from hf_detr_panoptic.annotations.pages import PhotoIndex, clean_name
from hf_detr_panoptic.errors import AnnotationError


@pytest.mark.parametrize(
    ("photos", "name", "photo"),
    [
        (["a/x.jpg", "b/x.jpg"], "b/x.jpg", "b/x.jpg"),
        (["a/x.jpg", "b/y.jpg"], "y.jpg", "b/y.jpg"),
        (["a/x.jpg"], "train/x.jpg", "a/x.jpg"),
        (["a/x.jpg", "b/x.jpg"], "x.jpg", None),
        (["a/x.JPG"], "x.png", "a/x.JPG"),
        (["a/x.jpg"], "x", "a/x.jpg"),
        (["a/x.v2.jpg"], "x.v2", "a/x.v2.jpg"),
        (["a/x.jpg", "b/x.png"], "x.png", "b/x.png"),
        (["a/x.jpg", "b/x.png"], "a/x.png", "a/x.jpg"),
        (["a/X.JPG"], "a/x.jpg", "a/X.JPG"),
        (["Photo.jpeg"], "PHOTO.png", "Photo.jpeg"),
        (["x.jpg", "X.jpg"], "X.jpg", "X.jpg"),
        (["x.jpg", "X.jpg"], "X.png", "X.jpg"),
        (["xx.jpg", "Xx.jpg"], "xX.jpg", None),
        (["u\u0308ber.jpg"], "\u00fcber.jpg", "u\u0308ber.jpg"),
        (["\u00fcber.jpg"], "u\u0308ber.png", "\u00fcber.jpg"),
        (["x.jpg"], "y.jpg", None),
    ],
)
def test_a_name_finds_its_photo(photos, name, photo):
    match = PhotoIndex(photos).find(name)
    assert (match and match.photo) == photo


def test_two_unicode_forms_of_one_name_are_told_apart():
    photos = ["u\u0308.jpg", "\u00fc.jpg"]
    for photo in photos:
        match = PhotoIndex(photos).find(photo)
        assert match is None or match.photo == photo


def test_a_surer_match_has_a_smaller_rung():
    index = PhotoIndex(["a/x.jpg"])
    names = ["a/x.jpg", "a/x.png", "b/x.jpg", "b/x.png", "b/X.PNG"]
    rungs = [match.rung for name in names if (match := index.find(name))]
    assert rungs == sorted(set(rungs))
    assert len(rungs) == len(names)


def test_a_folder_that_has_photos_is_searched_instead_of_the_rest():
    index = PhotoIndex(["pipe/images/img_1.jpg", "wall/images/img_1.jpg", "wall/images/img_2.jpg"])
    assert index.find("img_1.jpg", near=["pipe"]).photo == "pipe/images/img_1.jpg"
    assert index.find("img_2.jpg", near=["pipe"]) is None
    assert index.find("img_2.jpg", near=["no such folder"]).photo == "wall/images/img_2.jpg"
    assert index.find("wall/images/img_2.jpg", near=["pipe"]) is None


def test_what_is_ambiguous_is_named():
    assert PhotoIndex(["a/x.jpg", "b/X.png"]).among("x.gif") == ("a/x.jpg", "b/X.png")


@pytest.mark.parametrize(
    ("name", "clean"), [("a\\b.jpg", "a/b.jpg"), ("./a//b.jpg", "a/b.jpg"), ("a..b/c...jpg", "a..b/c...jpg")]
)
def test_names_of_other_systems_are_understood(name, clean):
    assert clean_name(name, "marks.json") == clean


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/a.jpg", "\\\\server\\a.jpg", "c:/a.jpg", "a\0.jpg", " ", 3]
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(AnnotationError, match=r"marks\.json"):
        clean_name(name, "marks.json")
