"""COCO instances as COCO, CVAT and others write them. Pixels are counted by hand on photos of 8×6."""

from __future__ import annotations

import json
import zipfile

import pytest

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

# pycocotools fills the pixels from 1 up to but not including 5, and from 1 to 4.
RECTANGLE = [1, 1, 5, 1, 5, 4, 1, 4]
RECTANGLE_ROWS = ["........", ".####...", ".####...", ".####...", "........", "........"]


def test_reads_a_polygon(photo, coco, rows):
    result = read_annotations(coco({"segmentation": [RECTANGLE]}), photo("a.jpg"))
    (marked,) = result.photos
    (mark,) = marked.marks
    assert (marked.photo, marked.width, marked.height) == ("a.jpg", 8, 6)
    assert rows(mark) == RECTANGLE_ROWS
    assert (mark.name, mark.box, mark.crowd) == ("pipe", (1.0, 1.0, 4.0, 3.0), False)
    assert mark.where == "marks.json, annotation 11"
    assert (result.format, result.names, result.skipped, result.unmatched) == ("COCO instances", ("pipe",), (), ())
    assert result.description == "COCO instances: 1 photo, 1 mark of 1 class"


def test_parts_of_one_object_are_one_mark(photo, coco, rows):
    path = coco({"segmentation": [[0, 0, 2, 0, 2, 1, 0, 1], [6, 4, 8, 4, 8, 6, 6, 6]]})
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == ["##......", "........", "........", "........", "......##", "......##"]
    assert mark.box == (0.0, 0.0, 8.0, 6.0)


# Column by column on 8×6: 7 pixels outside, 2 inside (column 1, rows 1 and 2), and so on around a hole at (2, 2).
RING_COUNTS = [7, 3, 3, 1, 1, 1, 3, 3, 26]
RING_ROWS = ["........", ".###....", ".#.#....", ".###....", "........", "........"]


def test_reads_uncompressed_rle_with_a_hole(photo, coco, rows):
    path = coco({"segmentation": {"size": [6, 8], "counts": RING_COUNTS}})
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == RING_ROWS
    assert mark.box == (1.0, 1.0, 3.0, 3.0)


def test_reads_compressed_rle(photo, coco, rows):
    # By hand: 48 + value for 0 to 15, 64 + 48 … for more; from the fourth run on the difference to the last but one.
    # 7 3 3 | 1-3=-2 1-3=-2 1-1=0 3-1=2 3-1=2 26-3=23; negative: 5 bits with the sign bit 16; 23 needs two characters.
    text = "".join(map(chr, [48 + 7, 48 + 3, 48 + 3, 48 + 30, 48 + 30, 48, 48 + 2, 48 + 2, 48 + 32 + 23, 48]))
    path = coco({"segmentation": {"size": [6, 8], "counts": text}})
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(mark) == RING_ROWS


@pytest.mark.parametrize(
    ("attributes", "format", "crowd"),
    [({}, None, True), ({"attributes": {"occluded": False}}, None, False), ({}, "cvat", False), ({}, "coco", True)],
)
def test_iscrowd_is_cvats_word_for_an_encoding(photo, coco, attributes, format, crowd):
    entry = {"segmentation": {"size": [6, 8], "counts": RING_COUNTS}, "iscrowd": 1}
    result = read_annotations(coco(entry | attributes), photo("a.jpg"), format=format)
    assert result.photos[0].marks[0].crowd is crowd


@pytest.mark.parametrize("segmentation", [{"segmentation": []}, {"segmentation": [[]]}, {}])
def test_a_rectangle_has_no_pixels(photo, coco, segmentation):
    (mark,) = read_annotations(coco({"bbox": [1.5, 2, 3, 2.5]} | segmentation), photo("a.jpg")).photos[0].marks
    assert mark.rle is None
    assert mark.box == (1.5, 2.0, 3.0, 2.5)


def test_a_turned_rectangle_is_bounded(photo, coco):
    # 4×2 about (4, 3), turned by 90 degrees: 2×4 about (4, 3).
    path = coco({"segmentation": [], "bbox": [2, 2, 4, 2], "attributes": {"rotation": 90.0}})
    (mark,) = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert mark.box == pytest.approx((3, 1, 2, 4))


def test_what_lies_outside_is_cut(photo, coco, rows):
    path = coco({"segmentation": [[-3, -2, 2, -2, 2, 2, -3, 2]]}, {"bbox": [6, 4, 10, 10]})
    first, second = read_annotations(path, photo("a.jpg")).photos[0].marks
    assert rows(first) == ["##......", "##......", "........", "........", "........", "........"]
    assert second.box == (6.0, 4.0, 2.0, 2.0)


def test_a_photo_without_marks_is_read_too(photo, coco):
    assert read_annotations(coco(), photo("a.jpg")).photos[0].marks == ()


def test_names_come_in_order_of_appearance_without_void(photo, coco):
    path = coco(
        {"segmentation": [RECTANGLE], "category_id": 3},
        {"segmentation": [RECTANGLE], "category_id": 9},
        {"segmentation": [RECTANGLE]},
        categories=[{"id": 7, "name": " pi\u0308pe "}, {"id": 3, "name": "wall"}, {"id": 9, "name": "_Ignore_"}],
    )
    result = read_annotations(path, photo("a.jpg"))
    assert result.names == ("wall", "pïpe")
    assert [mark.void for mark in result.photos[0].marks] == [False, True, False]


def test_reads_the_zip_around_it(photo, coco, tmp_path):
    inner = coco({"segmentation": [RECTANGLE]})
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(inner, "annotations/instances_default.json")
    (mark,) = read_annotations(tmp_path / "export.zip", photo("a.jpg")).photos[0].marks
    assert mark.where == "export.zip/annotations/instances_default.json, annotation 11"


def test_one_folder_a_class_keeps_photos_of_one_name_apart(photo, coco, tmp_path):
    for name, suffix in (("pipe", "jpg"), ("wall", "png")):
        photo(f"{name}/images/img_1.{suffix}")
        coco(
            {"segmentation": [RECTANGLE]},
            name=f"photos/{name}/coco.json",
            # The JSON names a suffix that the file may not have, and a photo that only the other class has.
            images=[
                {"id": 5, "file_name": "img_1.jpg", "width": 8, "height": 6},
                {"id": 6, "file_name": "img_2.jpg", "width": 8, "height": 6},
            ],
            categories=[{"id": 7, "name": name}],
        )
    photo("wall/images/img_2.jpg")
    result = read_annotations(tmp_path / "photos", tmp_path / "photos")
    assert [(p.photo, [m.name for m in p.marks]) for p in result.photos] == [
        ("pipe/images/img_1.jpg", ["pipe"]),
        ("wall/images/img_1.png", ["wall"]),
        ("wall/images/img_2.jpg", []),
    ]
    assert [(u.name, u.where) for u in result.unmatched] == [("img_2.jpg", "photos/pipe/coco.json, image 6")]


def test_several_files_may_tell_of_one_photo(photo, coco, tmp_path):
    photo("a.jpg")
    for name in ("one", "two"):
        coco({"segmentation": [RECTANGLE]}, name=f"marks/{name}.json", categories=[{"id": 7, "name": name}])
    (marked,) = read_annotations(tmp_path / "marks", tmp_path / "photos").photos
    assert [mark.name for mark in marked.marks] == ["one", "two"]


def test_without_photos_the_file_tells_their_size(coco):
    result = read_annotations(coco({"segmentation": [RECTANGLE]}), None)
    assert (result.photos[0].photo, result.photos[0].width, result.photos[0].marks[0].box) == (
        "a.jpg",
        8,
        (1, 1, 4, 3),
    )


def test_photos_that_are_missing_are_listed(photo, coco):
    result = read_annotations(coco({"segmentation": [RECTANGLE]}), photo("b.jpg"))
    assert result.photos == ()
    assert [(u.name, u.why) for u in result.unmatched] == [("a.jpg", "no such photo")]


HOSTILE = {
    "a string for a number": ({"segmentation": [[1, 1, "5", 1, 5, 4]]}, "annotation 11", "'5'"),
    "a number that is none": ({"segmentation": [[1, 1, float("nan"), 1, 5, 4]]}, "annotation 11", "nan"),
    "a number beyond all photos": ({"segmentation": [[1, 1, 1e300, 1, 5, 4]]}, "annotation 11", "1e+300"),
    "a truth value": ({"segmentation": [[1, 1, True, 1, 5, 4]]}, "annotation 11", "True"),
    "an odd polygon": ({"segmentation": [[1, 1, 5, 1, 5]]}, "annotation 11", "x, y"),
    "a segmentation of another kind": ({"segmentation": "1,1,5,1"}, "annotation 11", "segmentation"),
    "two points": ({"segmentation": [[1, 1, 5, 4]]}, "annotation 11", "covers no pixel"),
    "no area": ({"segmentation": [[1, 1, 5, 1, 3, 1]]}, "annotation 11", "covers no pixel"),
    "elsewhere": ({"segmentation": [[20, 20, 25, 20, 25, 24]]}, "annotation 11", "wholly outside"),
    "a box elsewhere": ({"bbox": [20, 20, 5, 5]}, "annotation 11", "wholly outside"),
    "a flat box": ({"bbox": [2, 2, 0, 5]}, "annotation 11", "covers no pixel"),
    "a box of strings": ({"bbox": ["2", 2, 3, 5]}, "annotation 11", "'2'"),
    "nothing drawn": ({}, "annotation 11", "neither a segmentation nor a bbox"),
    "runs too short": ({"segmentation": {"size": [6, 8], "counts": [7, 3]}}, "annotation 11", "add up to 10"),
    "negative runs": ({"segmentation": {"size": [6, 8], "counts": [-1, 49]}}, "annotation 11", "counts"),
    "runs as strings": ({"segmentation": {"size": [6, 8], "counts": ["48"]}}, "annotation 11", "counts"),
    "a huge RLE": ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "annotation 11", "large"),
    "a damaged string": ({"segmentation": {"size": [6, 8], "counts": "~~~~"}}, "annotation 11", "damaged"),
    "an endless number": ({"segmentation": {"size": [6, 8], "counts": "o" * 99 + "0"}}, "annotation 11", "damaged"),
    "an RLE of another size": ({"segmentation": {"size": [8, 6], "counts": [40, 8]}}, "annotation 11", "RLE is 6×8"),
    "an unknown class": ({"segmentation": [RECTANGLE], "category_id": 99}, "annotation 11", "no category"),
    "a class as string": ({"segmentation": [RECTANGLE], "category_id": "7"}, "annotation 11", "no category"),
    "an id that is a list": ({"segmentation": [RECTANGLE], "id": [1]}, "annotation [1]", "the id"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_mark_that_cannot_be_read_sets_its_photo_aside(photo, coco, case):
    entry, where, what = HOSTILE[case]
    path, folder = coco(entry), photo("a.jpg")
    result = read_annotations(path, folder)
    (row,) = result.skipped
    assert result.photos == ()
    assert row.photo == "a.jpg"
    assert row.where == f"marks.json, {where}"
    assert what in row.what
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path, folder, strict=True)
    assert (caught.value.where, caught.value.what) == (row.where, row.what)


def test_an_id_that_stands_twice_sets_the_second_photo_aside(photo, coco):
    images = [{"id": i, "file_name": f"{n}.jpg", "width": 8, "height": 6} for i, n in ((5, "a"), (6, "b"))]
    photo("b.jpg")
    path = coco({"segmentation": [RECTANGLE]}, {"segmentation": [RECTANGLE], "id": 11, "image_id": 6}, images=images)
    result = read_annotations(path, photo("a.jpg"))
    assert [marked.photo for marked in result.photos] == ["a.jpg"]
    assert [(row.where, row.photo) for row in result.skipped] == [("marks.json, annotation 11", "b.jpg")]


def test_images_that_share_an_id_are_both_set_aside(photo, coco):
    images = [{"id": 5, "file_name": f"{name}.jpg", "width": 8, "height": 6} for name in "ab"]
    photo("b.jpg")
    result = read_annotations(coco({"segmentation": [RECTANGLE]}, images=images), photo("a.jpg"))
    assert result.photos == ()
    assert [row.photo for row in result.skipped] == ["a.jpg", "b.jpg"]


def test_a_mark_of_no_photo_is_listed(photo, coco):
    path = coco({"segmentation": [RECTANGLE], "image_id": 99}, {"segmentation": [RECTANGLE]})
    result = read_annotations(path, photo("a.jpg"))
    assert [(row.where, row.photo) for row in result.skipped] == [("marks.json, annotation 11", None)]


def test_most_marks_of_no_photo_are_an_error(photo, coco):
    marks = [{"segmentation": [RECTANGLE], "image_id": image_id} for image_id in ("5", "5", 5)]
    with pytest.raises(AnnotationError, match="2 of 3 annotations belong to no image: no image has the id '5'"):
        read_annotations(coco(*marks), photo("a.jpg"))


def test_whole_floats_are_ids(photo, coco):
    # As pandas writes a column of numbers once a cell of it was empty.
    image = {"id": 5.0, "file_name": "a.jpg", "width": 8.0, "height": 6.0}
    entry = {"id": 1.0, "image_id": 5.0, "category_id": 7.0, "segmentation": [RECTANGLE], "iscrowd": 0.0}
    for images in ([image], [image | {"id": 5}]):
        path = coco(entry, images=images, categories=[{"id": 7.0, "name": "pipe"}])
        (mark,) = read_annotations(path, photo("a.jpg"), strict=True).photos[0].marks
        assert (mark.name, mark.crowd) == ("pipe", False)
    half = read_annotations(coco(entry | {"category_id": 7.5}), photo("a.jpg"))
    assert [row.what for row in half.skipped] == ["no category has the id 7.5"]


@pytest.mark.parametrize(
    ("iscrowd", "crowd"), [("0", False), ("1", True), (0.0, False), (1.0, True), (None, False), (True, True)]
)
def test_iscrowd_is_read_however_it_is_written(photo, coco, iscrowd, crowd):
    path = coco({"segmentation": [RECTANGLE], "iscrowd": iscrowd})
    assert read_annotations(path, photo("a.jpg")).photos[0].marks[0].crowd is crowd


def test_an_iscrowd_that_says_neither_sets_the_photo_aside(photo, coco):
    (row,) = read_annotations(coco({"segmentation": [RECTANGLE], "iscrowd": "maybe"}), photo("a.jpg")).skipped
    assert (row.photo, row.what) == ("a.jpg", "iscrowd is 'maybe'")


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ({"width": "8"}, "not two counts of pixels"),
        ({"height": -6}, "not two counts of pixels"),
        ({"width": 7.5}, "not two counts of pixels"),
        ({"file_name": None}, "file_name is None"),
        ({"file_name": 7}, "file_name is 7"),
        ({"id": None}, "the id is None"),
        ({"file_name": "../a.jpg"}, "leads out of the photo folder"),
        ({"file_name": "x/../../a.jpg"}, "leads out of the photo folder"),
        ({"file_name": "/etc/a.jpg"}, "leads out of the photo folder"),
        ({"file_name": "C:\\photos\\a.jpg"}, "leads out of the photo folder"),
        ({"file_name": "..\\a.jpg"}, "leads out of the photo folder"),
    ],
)
def test_an_image_that_cannot_be_read_is_listed(photo, coco, image, what):
    path = coco(images=[{"id": 5, "file_name": "a.jpg", "width": 8, "height": 6} | image])
    result = read_annotations(path, photo("a.jpg"))
    (row,) = result.skipped
    assert result.photos == ()
    assert what in row.what
    assert row.where.startswith("marks.json, image")
    with pytest.raises(AnnotationError, match=r"marks\.json, image"):
        read_annotations(path, photo("a.jpg"), strict=True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"categories": None}, "'categories' is None"),
        ({"categories": [{"id": i, "name": str(i)} for i in range(100_000)]}, "100,000 categories"),
        ({"categories": [{"id": 7.5, "name": "pipe"}]}, "not a whole number"),
        ({"categories": [{"id": 7, "name": "pipe"}, {"id": 7, "name": "wall"}]}, "stands for 'pipe' already"),
        ({"categories": [{"id": 7, "name": ""}]}, "no name"),
        ({"categories": [{"id": 7, "name": "\ud800"}]}, "a character that no file can hold"),
        ({"categories": [{"id": 7}]}, "no name"),
        ({"categories": ["pipe"]}, "not an object"),
        ({"images": {"id": 5}}, "'images' is"),
        ({"annotations": [[]]}, "not an object"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(photo, coco, changes, what):
    with pytest.raises(AnnotationError, match=r"marks\.json") as caught:
        read_annotations(coco(**changes), photo("a.jpg"))
    assert what in caught.value.what


@pytest.mark.parametrize("text", ['{"images": [', "[" * 100_000, '{"images": [' + "9" * 5000 + "]}", "\xff\xfe"])
def test_a_file_that_is_no_json_is_refused(photo, tmp_path, text):
    (tmp_path / "marks.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"marks\.json: this is not JSON"):
        read_annotations(tmp_path / "marks.json", photo("a.jpg"))


def test_a_byte_order_mark_does_no_harm(photo, coco):
    path = coco({"segmentation": [RECTANGLE]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path, photo("a.jpg")).photos[0].marks) == 1


def test_ids_may_have_gaps_and_be_strings(photo, coco):
    path = coco({"segmentation": [RECTANGLE], "image_id": "x"}, images=[{"id": "x", "file_name": "a.jpg"}])
    assert read_annotations(path, photo("a.jpg")).photos[0].marks[0].name == "pipe"


def test_the_same_marks_stand_in_panoptic_and_instances(photo, tmp_path, coco, save_mask):
    folder = photo("a.jpg")
    coco({"segmentation": [RECTANGLE]}, name="set/instances_train.json")
    save_mask(tmp_path / "set/panoptic_train/a.png", [[[1, 0, 0]] * 8] * 6)
    panoptic = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 8, "height": 6}],
        "categories": [{"id": 7, "name": "pipe", "isthing": 1}],
        "annotations": [
            {"image_id": 5, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 7, "iscrowd": 0}]}
        ],
    }
    (tmp_path / "set/panoptic_train.json").write_text(json.dumps(panoptic))
    result = read_annotations(tmp_path / "set", folder)
    assert (result.format, len(result.photos[0].marks)) == ("COCO panoptic", 1)
    assert "tells the same" in result.skipped[0].what
