"""Folders and archives that are not what they should be."""

from __future__ import annotations

import contextlib
import json
import zipfile

import pytest

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.annotations.sources import Folder, is_inside, open_source
from hf_detr_panoptic.errors import AnnotationError, HfDetrPanopticError

RECTANGLE = {"segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]}


def test_members_that_would_lie_outside_are_never_read(photo, coco, tmp_path):
    inner = coco(RECTANGLE)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(inner, "annotations/instances_default.json")
        archive.writestr("../evil.json", "{}")
    result = read_annotations(tmp_path / "export.zip", photo("a.jpg"))
    assert [row.where for row in result.skipped] == ["export.zip/../evil.json"]
    assert len(result.photos) == 1
    with pytest.raises(AnnotationError, match="outside the archive"):
        read_annotations(tmp_path / "export.zip", photo("a.jpg"), strict=True)
    assert not (tmp_path.parent / "evil.json").exists()


def test_a_bomb_is_not_unpacked(photo, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("marks.json", b" " * (65 * 1024**2))
    with pytest.raises(AnnotationError, match=r"bomb\.zip/marks\.json: .* would unpack to 68,157,440"):
        read_annotations(tmp_path / "bomb.zip", photo("a.jpg"))


def test_a_damaged_archive_is_refused(photo, coco, tmp_path):
    inner = coco(RECTANGLE)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(inner, "marks.json")
    data = bytearray((tmp_path / "export.zip").read_bytes())
    data[60] ^= 255
    (tmp_path / "export.zip").write_bytes(data)
    with pytest.raises(AnnotationError, match=r"export\.zip/marks\.json: this member cannot be unpacked"):
        read_annotations(tmp_path / "export.zip", photo("a.jpg"))
    (tmp_path / "export.zip").write_bytes(b"PK no archive")
    with pytest.raises(AnnotationError, match=r"export\.zip: the archive cannot be opened"):
        read_annotations(tmp_path / "export.zip", photo("a.jpg"))


def test_links_out_of_the_folder_are_not_followed(photo, coco, tmp_path):
    coco(RECTANGLE, name="marks/one.json")
    secret = coco(RECTANGLE, name="secret.json")
    (tmp_path / "marks" / "two.json").symlink_to(secret)
    result = read_annotations(tmp_path / "marks", photo("a.jpg"))
    assert len(result.photos[0].marks) == 1
    assert [(row.where, row.what) for row in result.skipped] == [
        ("marks/two.json", "this link leads out of the folder")
    ]
    assert not Folder(tmp_path / "marks").has("two.json")
    assert not Folder(tmp_path / "marks").has("../secret.json")
    with pytest.raises(AnnotationError, match="leads out"):
        Folder(tmp_path / "marks").read("two.json")


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotations><version>1.1</version><image name="&b;" width="8" height="6"/></annotations>"""
OUTSIDE = """<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations><version>1.1</version></annotations>"""


@pytest.mark.parametrize("text", [BOMB, OUTSIDE])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_is_refused(photo, tmp_path, text, encoding):
    (tmp_path / "marks.xml").write_text(text, encoding=encoding)
    with pytest.raises(AnnotationError, match=r"marks\.xml: the XML brings a document type"):
        read_annotations(tmp_path / "marks.xml", photo("a.jpg"))


@pytest.mark.parametrize("text", ["<annotations><version>", "", "<a/><b/>", "<annotations>&b;</annotations>"])
def test_broken_xml_is_refused(photo, tmp_path, text):
    (tmp_path / "marks.xml").write_text(text)
    with pytest.raises(AnnotationError, match=r"marks\.xml: this is not XML"):
        read_annotations(tmp_path / "marks.xml", photo("a.jpg"))


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.json", True),
        ("a/../b", False),
        ("/a", False),
        ("..\\a", False),
        ("C:a", False),
        ("", False),
        ("..a", True),
    ],
)
def test_names_stay_inside(name, inside):
    assert is_inside(name) is inside


def test_a_single_file_reads_its_neighbours_only_by_name(coco, tmp_path):
    path = coco()
    coco(name="other.json")
    source = open_source(path)
    assert source.names == ("marks.json",)
    assert source.has("other.json")
    assert not source.has("../marks.json")


def test_nothing_is_written(photo, coco, tmp_path):
    coco(RECTANGLE, name="marks/one.json")
    folder = photo("a.jpg")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    read_annotations(tmp_path / "marks", folder)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after


def test_hidden_copies_are_passed_over(photo, coco, tmp_path):
    inner = coco(RECTANGLE, name="marks/marks.json")
    coco(RECTANGLE, name="marks/.ipynb_checkpoints/marks-checkpoint.json")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(inner, "marks.json")
        archive.writestr("__MACOSX/._marks.json", b"\0\5\x16\7")
    for path in ("marks", "export.zip"):
        (marked,) = read_annotations(tmp_path / path, photo("a.jpg"), strict=True).photos
        assert len(marked.marks) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_our_error_wherever_it_is_hit(photo, tmp_path, method):
    """One byte in four of the file is another one, one after the other."""
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("marks.json", json.dumps({"images": [], "annotations": [], "categories": []}) * 3)
    whole = path.read_bytes()
    images = photo("a.jpg")
    for place in range(0, len(whole), 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with contextlib.suppress(HfDetrPanopticError):
            read_annotations(path, images)
