"""Marks meet their photos: sizes, links, disputes, strictness."""

from __future__ import annotations

import pytest
from PIL import Image

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

RECTANGLE = {"segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]}


def the_problem(path, folder, **options):
    result = read_annotations(path, folder, **options)
    assert result.photos == ()
    (row,) = result.skipped
    assert row.photo == "a.jpg"
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path, folder, strict=True, **options)
    assert caught.value.what == row.what
    return row


def test_marks_drawn_on_a_photo_that_lies_on_its_side(photo, coco):
    exif = Image.Exif()
    exif[0x0112] = 6
    row = the_problem(coco(RECTANGLE), photo("a.jpg", 8, 6, exif=exif))
    assert row.where == "marks.json, image 5"
    assert row.what.startswith("the marks were drawn on 8×6, the photo a.jpg is 6×8 when upright")


def test_a_resized_photo_is_named_and_scaled_on_demand(photo, coco, rows):
    path, folder = coco(RECTANGLE), photo("a.jpg", 16, 12)
    assert "rescale=True" in the_problem(path, folder).fix
    (marked,) = read_annotations(path, folder, rescale=True).photos
    assert (marked.width, marked.height, marked.marks[0].box) == (16, 12, (2, 2, 8, 6))


def test_the_sides_of_a_resized_photo_are_rounded(photo, coco):
    # 1000×667 from 1024×683: the exact height would be 666.99.
    images = [{"id": 5, "file_name": "a.jpg", "width": 1024, "height": 683}]
    folder = photo("a.jpg", 1000, 667)
    assert len(read_annotations(coco(RECTANGLE, images=images), folder, rescale=True).photos) == 1


def test_another_photo_is_never_scaled(photo, coco):
    row = the_problem(coco(RECTANGLE), photo("a.jpg", 20, 12), rescale=True)
    assert row.what == "the marks were drawn on 8×6, the photo a.jpg is 20×12"


def test_a_photo_that_cannot_be_opened(photo, coco):
    folder = photo("a.jpg")
    (folder / "a.jpg").write_bytes(b"not a photo")
    assert "a.jpg" in the_problem(coco(RECTANGLE), folder).where


def test_a_photo_that_is_a_link_out_of_the_folder(photo, coco, tmp_path):
    folder = photo("b.jpg")
    Image.new("RGB", (8, 6)).save(tmp_path / "secret.jpg")
    (folder / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    result = read_annotations(coco(RECTANGLE), folder)
    assert result.photos == ()
    assert [row.what for row in result.skipped] == ["the photo a.jpg is a link that leads out of the photo folder"]


def test_two_names_in_one_file_cannot_mean_one_photo(photo, coco):
    images = [{"id": i, "file_name": f"{i}/a.jpg", "width": 8, "height": 6} for i in (5, 6)]
    assert "both seem to mean the photo a.jpg" in the_problem(coco(RECTANGLE, images=images), photo("a.jpg")).what


def test_the_surer_name_has_the_photo(photo, coco):
    images = [{"id": i, "file_name": n, "width": 8, "height": 6} for i, n in ((6, "x/a.png"), (5, "a.jpg"))]
    result = read_annotations(coco(RECTANGLE, images=images), photo("a.jpg"))
    assert len(result.photos[0].marks) == 1
    assert [u.name for u in result.unmatched] == ["x/a.png"]


def test_a_name_that_fits_several_photos_is_listed_with_them(photo, coco):
    photo("x/a.jpg")
    result = read_annotations(coco(RECTANGLE), photo("y/a.jpg"))
    assert [u.why for u in result.unmatched] == ["could be any of 2 photos: x/a.jpg, y/a.jpg"]


def test_every_problem_of_a_photo_is_listed(photo, coco):
    result = read_annotations(coco(RECTANGLE, {"bbox": [0]}, {"segmentation": [[0, 0, 1, 0]]}), photo("a.jpg"))
    assert [row.where[-2:] for row in result.skipped] == ["12", "13"]
    assert result.description == "COCO instances: 0 photos, 0 marks of 0 classes, 1 photo set aside"


def test_a_format_or_path_that_is_not_known(photo, coco, tmp_path):
    with pytest.raises(AnnotationError, match="Did you mean 'coco'"):
        read_annotations(coco(), photo("a.jpg"), format="cocco")
    with pytest.raises(AnnotationError, match="no such file"):
        read_annotations(tmp_path / "no.json", photo("a.jpg"))
    with pytest.raises(AnnotationError, match="Did you mean 'whole'"):
        read_annotations(coco(), photo("a.jpg"), instances="hole")
    with pytest.raises(AnnotationError, match="of the format 'labelme'"):
        read_annotations(coco(), photo("a.jpg"), format="labelme")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="no annotations found, nor mask images"):
        read_annotations(tmp_path / "empty", photo("a.jpg"))


def test_a_name_too_long_for_any_file_is_listed(photo, coco):
    images = [{"id": 5, "file_name": "a" * 5000, "width": 8, "height": 6}]
    assert [u.why for u in read_annotations(coco(images=images), photo("a.jpg")).unmatched] == ["no such photo"]
