"""What is in this folder? Whatever a stranger has: named, counted, and the command to type."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.annotations.folder import contents_of
from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError, HfDetrPanopticError

REGION = {"shape_attributes": {"name": "polygon"}, "region_attributes": {"class": "pipe"}}
VIA = {"a.jpg99": {"filename": "a.jpg", "size": 99, "regions": [REGION, REGION], "file_attributes": {}}}
DATUMARO = {
    "info": {},
    "categories": {"label": {"labels": [{"name": "wall"}, {"name": "pipe"}]}},
    "items": [{"id": "a", "annotations": [{"type": "polygon", "label_id": 1}, {"type": "mask", "label_id": 1}]}],
}
SUPERVISELY = {"size": {"height": 6, "width": 8}, "objects": [{"classTitle": "pipe", "bitmap": {}}] * 2, "tags": []}
DARWIN = {"version": "2.0", "item": {"name": "a.jpg"}, "annotations": [{"name": "pipe", "polygon": {}}] * 2}
CITYSCAPES = {"imgHeight": 6, "imgWidth": 8, "objects": [{"label": "pipe", "polygon": []}] * 2}
STUDIO = [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": []}]}]
LABELBOX = [{"data_row": {"external_id": "a.jpg"}, "projects": {}}]
RESULTS = [{"image_id": 1, "category_id": 2, "score": 0.5, "bbox": [1, 1, 2, 2]}]


@pytest.fixture
def folder(tmp_path, photo):
    """folder({name: content}) writes files beside a photo of 8×6, `photos/a.jpg`, into tmp_path/export."""
    photo("a.jpg")

    def write(files):
        (tmp_path / "export").mkdir()
        for name, content in files.items():
            path = tmp_path / "export" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else _text(content).encode())
        return tmp_path / "export"

    return write


def _text(content):
    return content if isinstance(content, str) else json.dumps(content)


def png(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "what", "marks"),
    [
        ("via_region_data.json", VIA, "VIA's project", 2),
        ("via_project.json", {"_via_settings": {}, "_via_img_metadata": VIA}, "VIA's project", 2),
        ("via.csv", "filename,file_size,region_shape_attributes\n", "a CSV of VIA", 0),
        ("annotations/train.json", DATUMARO, "Datumaro's own JSON", 2),
        ("ds/ann/a.jpg.json", SUPERVISELY, "Supervisely's project", 2),
        ("meta.json", {"classes": [], "tags": [], "projectType": "images"}, "Supervisely's project", 0),
        ("a.json", DARWIN, "Darwin's JSON", 2),
        ("a_gtFine_polygons.json", CITYSCAPES, "the outlines of Cityscapes", 2),
        ("project-1.json", STUDIO, "Label Studio's own JSON", 0),
        ("export.ndjson", '{"data_row": {}}\n', "Labelbox's own export", 0),
        ("export.json", LABELBOX, "Labelbox's own export", 0),
        ("results.json", RESULTS, "a list of COCO results", 0),
        ("instances_txt/0000.txt", "0 1 1 6 8 abc", "a MOTS export", 0),
        ("instances/0000/a.png", png(np.full((6, 8), 1001, np.uint16)), "a MOTS export", 0),
    ],
)
def test_a_known_tool_is_named_and_never_called_broken(folder, tmp_path, name, content, what, marks):
    export = folder({name: content})
    for given in (export, export / name):
        if "MOTS" in what and given != export:
            continue  # one of many files
        with pytest.raises(AnnotationError) as caught:
            read_annotations(given, tmp_path / "photos")
        assert f"this is {what}" in caught.value.what
        assert caught.value.fix
    contents = contents_of(export)
    assert contents.format.startswith(what)
    assert contents.classes == ({"pipe": marks} if marks else {})
    assert "missing: marks that are read" in str(contents)


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 6}],
    "categories": [{"id": 1, "name": "pipe"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 4]]}],
}
CVAT = (
    '<annotations><version>1.1</version><image id="0" name="a.jpg" width="8" height="6">'
    '<polygon label="pipe" points="1,1;5,1;5,4"/></image></annotations>'
)
MASK = png(np.eye(6, 8, dtype=np.uint8))


@pytest.mark.parametrize(
    ("files", "what", "do"),
    [
        ({"readme.md": "hello"}, "no annotations found", "prepare --dry-run says what is there"),
        ({"marks.docx": b"PK\3\4 no archive"}, "no annotations found", "COCO JSON"),
        (
            {"masks/a_pipe.png": png(np.eye(5, 9, dtype=np.uint8))},
            "drawn on 9×5, the photo a.jpg is 8×6",
            "cropped one",
        ),
        ({"annotations/a.json": COCO, "b.xml": CVAT}, "two formats speak of a.jpg", "or say --format"),
        ({"SegmentationClass/a.png": MASK, "labelmap.txt": "a:1,1,1::", "a.json": COCO}, "two formats", "--format"),
        ({"export.zip": b"PK\3\4 and half of it"}, "the archive cannot be opened", "cut short"),
        ({"labels/a.txt": "0 0.5 0.5 0.2 0.2"}, "without a data.yaml or classes.txt", "--values 0=pipe"),
        ({"labels/a.txt": "7 0.5 0.5 0.2 0.2", "data.yaml": "names: [a]"}, "the class 7 has no name", "data.yaml"),
        ({"SegmentationClass/a.png": MASK}, "without a labelmap.txt", "--values 1=pipe"),
        ({"masks/a.png": png(np.full((6, 8, 3), (128, 0, 9), np.uint8))}, "which class", "--values 128,0,9=NAME"),
        ({"masks/b_pipe.png": MASK}, "its name fits no photo", ""),
        ({"a.json": COCO | {"images": []}}, "1 of 1 annotations belong to no image", "image_id"),
        ({"a.json": '{"images": [{"id": 1, "fi'}, "not JSON that can be read", "cut short"),
    ],
)
def test_a_folder_that_is_wrong_says_what_it_looks_like_and_what_to_do(folder, tmp_path, files, what, do):
    export = folder(files)
    try:
        result = read_annotations(export, tmp_path / "photos")
    except HfDetrPanopticError as error:
        said = str(error)
    else:
        assert not result.photos
        rows = [f"{row.what} {row.fix}" for row in result.skipped] + [row.why for row in result.unmatched]
        said = " ".join(rows)
    assert what in said
    assert do in said
    contents = contents_of(export, images=tmp_path / "photos")
    assert contents.missing
    assert contents.count == 1


def test_what_is_in_a_folder_that_can_be_read(folder, tmp_path):
    jpeg = (tmp_path / "photos/a.jpg").read_bytes()
    labels = {"data.yaml": "names: [pipe, wall]", "train/labels/a.txt": "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n"}
    export = folder(labels | {"train/images/a.jpg": jpeg, "valid/images/b.jpg": jpeg})
    contents = contents_of(export)
    assert str(contents).splitlines() == [
        f"in {export}: YOLO",
        "  photos: 2",
        "  classes: pipe 1, wall 1 (2 marks)",
        f"  to type: hf-detr-panoptic prepare --images {export} --annotations {export} --out data/site",
    ]
    photos = contents_of(tmp_path / "photos")
    assert (photos.format, photos.count, photos.marked) == ("photos, no marks", 1, False)


def test_an_archive_in_an_archive_is_read_one_level_deep(tmp_path, photo):
    def zipped(files):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return stream.getvalue()

    inner = zipped({"annotations/instances.json": json.dumps(COCO)})
    deeper = zipped({"too_deep.zip": inner, "../evil.json": "{}"})
    torn = zipped({"a.json": "{}"})[:40]
    (tmp_path / "export.zip").write_bytes(zipped({"task_1.zip": inner, "task_2.zip": deeper, "torn.zip": torn}))
    result = read_annotations(tmp_path / "export.zip", photo("a.jpg"))
    assert [mark.where for mark in result.photos[0].marks] == [
        "export.zip/task_1.zip/annotations/instances.json, annotation 1"
    ]
    assert sorted((row.where, row.what.split(" (")[0]) for row in result.skipped) == [
        ("export.zip/task_2.zip/../evil.json", "this member would lie outside the archive, and is not read"),
        ("export.zip/task_2.zip/too_deep.zip", "an archive two archives deep is not opened"),
        ("export.zip/torn.zip", "the archive cannot be opened"),
    ]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/task_1.zip").write_bytes(inner)
    assert len(read_annotations(tmp_path / "tasks", photo("a.jpg"), strict=True).photos) == 1


def test_an_archive_of_many_is_not_held_in_memory(tmp_path, photo, monkeypatch):
    monkeypatch.setattr("hf_detr_panoptic.annotations.sources.MOST_INNER", 1000)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.json", json.dumps(COCO) + " " * 2000)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("inner.zip", stream.getvalue())
        archive.writestr("marks.json", json.dumps(COCO))
    result = read_annotations(tmp_path / "export.zip", photo("a.jpg"))
    assert len(result.photos) == 1
    assert ["1,000 bytes of them" in row.what for row in result.skipped] == [True]


def test_cocos_of_roboflow_and_labelbox(tmp_path, photo):
    """Roboflow has photos beside the JSON and a group as category 0, Labelbox web addresses and ids as they come."""
    for split in ("train", "valid"):
        photo(f"{split}/a_jpg.rf.0.jpg")
        data = json.loads(json.dumps(COCO))
        data["images"][0] |= {"file_name": "a_jpg.rf.0.jpg", "license": 1, "extra": {"name": "a.jpg"}}
        data["categories"].insert(0, {"id": 0, "name": "pipes", "supercategory": "none"})
        (tmp_path / "photos" / split / "_annotations.coco.json").write_text(json.dumps(data))
    result = read_annotations(tmp_path / "photos", tmp_path / "photos", strict=True)
    assert [photo.photo for photo in result.photos] == ["train/a_jpg.rf.0.jpg", "valid/a_jpg.rf.0.jpg"]
    assert result.names == ("pipe",)
    data = json.loads(json.dumps(COCO))
    data["images"][0] |= {"id": "ckz1", "file_name": "https://storage.example/x%20y/b%20c.jpg?sig=1"}
    data["categories"] = [{"id": "ckz9", "name": "pipe"}]
    data["annotations"][0] |= {"image_id": "ckz1", "category_id": "ckz9"}
    (tmp_path / "labelbox.json").write_text(json.dumps(data))
    photo("b c.jpg")
    (marked,) = read_annotations(tmp_path / "labelbox.json", tmp_path / "photos", strict=True).photos
    assert (marked.photo, [mark.name for mark in marked.marks]) == ("b c.jpg", ["pipe"])
