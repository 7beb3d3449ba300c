"""What is published of a photo's file. Pillow makes the cameras' files and reads what is left."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from hf_detr_panoptic import PanopticMap, load_panoptic
from hf_detr_panoptic.dataset.photos import bare_photo
from hf_detr_panoptic.dataset.rows import write_parquet
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import ImageError

ORIENTATION, EXIF, GPS = 0x0112, 0x8769, 0x8825
OWNER, SERIAL, MAKER, ARTIST = 0xA430, 0xA431, 0x927C, 0x013B
SECRETS = (b"Anna Example", b"SN-4711", b"maker's own words", b"GPSLatitude", b"at the north gate")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf exif:GPSLatitude="47,30.5N"/></x:xmpmeta>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera_exif(orientation: int = 6) -> Image.Exif:
    """As a phone writes it: position, owner, serial number, maker's note."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[ARTIST] = "Anna Example"
    exif[EXIF] = {OWNER: "Anna Example", SERIAL: "SN-4711", MAKER: b"maker's own words"}
    exif[GPS] = {1: "N", 2: (47.0, 30.0, 30.0), 3: "E", 4: (8.0, 43.0, 12.0)}
    return exif


def picture(mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).convert(mode)


def encoded(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or picture()).save(stream, format, **options)
    return stream.getvalue()


def scans(jpeg: bytes) -> bytes:
    """Of a JPEG of one picture whose metadata holds no thumbnail: from the first scan to the picture's end."""
    return jpeg[jpeg.index(b"\xff\xda") : jpeg.rindex(b"\xff\xd9") + 2]


def chunks(data: bytes, place: int, head: str, padding: int, behind: int) -> dict[bytes, bytes]:
    found = {}
    while place < len(data):
        length, kind = struct.unpack_from(head, data, place)
        if head == "<4sI":
            length, kind = kind, length
        found[kind] = data[place + 8 : place + 8 + length]
        place += 8 + length + length % padding + behind
    return found


def assert_only_orientation_is_told(photo: bytes, orientation: int) -> None:
    with Image.open(io.BytesIO(photo)) as image:
        assert dict(image.getexif()) == ({ORIENTATION: orientation} if orientation != 1 else {})
        assert dict(image.getexif().get_ifd(GPS)) == dict(image.getexif().get_ifd(EXIF)) == {}
        assert image.info["icc_profile"] == PROFILE
    assert not [secret for secret in SECRETS if secret in photo]


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_keeps_its_picture_and_its_turn(orientation: int, progressive: bool) -> None:
    photo = encoded(
        "JPEG",
        exif=camera_exif(orientation),
        comment=b"at the north gate",
        icc_profile=PROFILE,
        progressive=progressive,
        quality=90,
    )
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    photo = photo[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + photo[2:]
    with Image.open(io.BytesIO(photo)) as before:
        assert before.getexif().get_ifd(GPS)[2] == (47.0, 30.0, 30.0)
        assert all(secret in photo for secret in SECRETS)
    bare = bare_photo(photo, "a.jpg")
    assert (bare.said_more, bare.said_where) == (True, True)
    assert_only_orientation_is_told(bare.content, orientation)
    assert scans(bare.content) == scans(photo)
    shown = [np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) for data in (photo, bare.content)]
    assert np.array_equal(*shown)
    assert bare_photo(bare.content, "a.jpg") == (bare.content, False, False)


def test_what_phones_append_to_a_jpeg_goes() -> None:
    """A short film with its own position; a second picture, as in an MPO, whose EXIF is its own."""
    plain = encoded("JPEG")
    film = plain + b"\0\0\0\x18ftypmp42" + b"\xa9xyz+47.50+008.72/"
    assert bare_photo(film, "a.jpg") == (plain, True, False)
    second = picture().rotate(180)
    pair = encoded("MPO", exif=camera_exif(3), save_all=True, append_images=[second])
    assert pair.count(b"SN-4711") >= 1
    bare = bare_photo(pair, "a.mpo")
    with Image.open(io.BytesIO(bare.content)) as image, Image.open(io.BytesIO(pair)) as before:
        assert (image.format, before.format) == ("JPEG", "MPO")
        assert dict(image.getexif()) == {ORIENTATION: 3}
        assert np.array_equal(np.asarray(image), np.asarray(before))
    assert len(bare.content) < len(pair) * 0.7


def test_a_cut_off_jpeg_and_odd_markers() -> None:
    """Fill bytes before a marker, restart markers in the scan, no end; a scan's marker within a comment."""
    assert bare_photo(encoded("JPEG", comment=b"\xff\xda\xff\xd9\xff"), "a.jpg").content == encoded("JPEG")
    photo = encoded("JPEG", exif=camera_exif(1), restart_marker_rows=1)
    head, scan = photo[: photo.index(b"\xff\xda")], scans(photo)
    assert b"\xff\xd1" in scan
    quantization = head.index(b"\xff\xdb")
    odd = head[:quantization] + b"\xff\xff\xff" + head[quantization:] + scan[: len(scan) // 2]
    bare = bare_photo(odd, "a.jpg").content
    assert bare.endswith(scan[: len(scan) // 2])
    assert b"Anna" not in bare
    with Image.open(io.BytesIO(bare)) as image:
        assert image.size == (80, 60)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_png_keeps_its_picture_and_its_turn(orientation: int) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "at the north gate")
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    photo = encoded("PNG", exif=camera_exif(orientation), pnginfo=texts, icc_profile=PROFILE)
    bare = bare_photo(photo + b"SN-4711, behind the end", "a.png")
    assert (bare.said_more, bare.said_where) == (True, True)
    assert_only_orientation_is_told(bare.content, orientation)
    before, after = (chunks(data, 8, ">I4s", 1, 4) for data in (photo, bare.content))
    assert after[b"IDAT"] == before[b"IDAT"]
    assert set(after) == {b"IHDR", b"iCCP", b"IDAT", b"IEND"} | ({b"eXIf"} if orientation != 1 else set())
    assert bare_photo(bare.content, "a.png") == (bare.content, False, False)


def test_a_png_whose_exif_stands_behind_the_pixels_keeps_its_turn() -> None:
    png = encoded("PNG")
    body = b"eXIf" + camera_exif(6).tobytes().removeprefix(b"Exif\0\0")
    late = png[:-12] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[-12:]
    bare = bare_photo(late, "a.png")
    assert bare.said_where
    with Image.open(io.BytesIO(bare.content)) as image:
        assert dict(image.getexif()) == {ORIENTATION: 6}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_keeps_its_picture_and_its_turn(orientation: int, lossless: bool) -> None:
    photo = encoded("WEBP", exif=camera_exif(orientation), xmp=XMP, icc_profile=PROFILE, lossless=lossless)
    bare = bare_photo(photo, "a.webp")
    assert (bare.said_more, bare.said_where) == (True, True)
    assert_only_orientation_is_told(bare.content, orientation)
    before, after = (chunks(data, 12, "<4sI", 2, 0) for data in (photo, bare.content))
    pixels = b"VP8L" if lossless else b"VP8 "
    assert after[pixels] == before[pixels]
    assert int.from_bytes(bare.content[4:8], "little") == len(bare.content) - 8
    assert after[b"VP8X"][0] == (0x28 if orientation != 1 else 0x20)  # ICC, EXIF
    assert bare_photo(bare.content, "a.webp") == (bare.content, False, False)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_that_says_nothing_more_stays_byte_for_byte(format: str) -> None:
    profile = {} if format == "BMP" else {"icc_profile": PROFILE}
    photo = encoded(format, **profile)
    assert bare_photo(photo, "a") == (photo, False, False)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    photo = encoded("JPEG", picture("CMYK"), exif=camera_exif(1))
    bare = bare_photo(photo, "a.jpg").content
    assert b"Adobe" in bare
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(photo))))


def test_a_rare_format_becomes_a_png_of_what_is_seen() -> None:
    exif = Image.Exif()
    exif.load(camera_exif(6).tobytes())  # Pillow's TIFF writer takes no nested blocks that were made in memory
    photo = encoded("TIFF", exif=exif)
    bare = bare_photo(photo, "a.tif")
    assert (bare.said_more, bare.said_where) == (True, True)
    with Image.open(io.BytesIO(bare.content)) as image:
        assert (image.format, dict(image.getexif())) == ("PNG", {})
        assert np.array_equal(np.asarray(image), np.asarray(picture().transpose(Image.Transpose.ROTATE_270)))


def damaged(block: str) -> bytes:
    if block == "pointer":  # to positions far behind the end; the orientation can still be read
        entries = struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFF00) + struct.pack("<HHII", GPS, 4, 1, 0x7FFFFFFF)
        turn = struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
        return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + turn + entries + b"\0\0\0\0"
    if block == "cut off":
        return camera_exif(6).tobytes()[:40]
    return b"Exif\0\0 this is no TIFF at all"


@pytest.mark.parametrize(("block", "orientation"), [("pointer", 6), ("cut off", None), ("words", 1)])
def test_damaged_exif_goes_and_leaves_the_turn_that_can_be_read(block: str, orientation: int | None) -> None:
    photo = encoded("JPEG", exif=damaged(block))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bare = bare_photo(photo, "a.jpg")
    assert bare.said_more
    assert scans(bare.content) == scans(photo)
    with Image.open(io.BytesIO(bare.content)) as image:
        told = dict(image.getexif())
    assert told in ({}, {ORIENTATION: 6}) if orientation is None else told.get(ORIENTATION, 1) == orientation


def test_what_is_no_photo_is_an_error_with_its_name() -> None:
    with pytest.raises(ImageError, match=r"site/a\.jpg: is not a photo"):
        bare_photo(b"words, and no photo", "site/a.jpg")


@pytest.fixture
def with_places(tmp_path: Path, small_map: PanopticMap) -> Path:
    """Two photos from a phone, one from nowhere; the phone was held upright, so they were copied."""
    (tmp_path / "photos").mkdir()
    with DatasetWriter(tmp_path / "set", small_map.space) as writer:
        for number, exif in enumerate((camera_exif(1), camera_exif(1), None)):
            path = tmp_path / "photos" / f"p{number}.jpg"
            path.write_bytes(encoded("JPEG", picture().resize((60, 40)), **({"exif": exif} if exif else {})))
            writer.add("val" if number == 1 else "train", path.name, path, small_map)
    return tmp_path / "set"


def test_no_place_in_the_parquet(with_places: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in (with_places / "images").iterdir()}
    assert b"SN-4711" in before["p0.jpg"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()}
    with caplog.at_level(logging.WARNING):
        written = write_parquet(load_panoptic(with_places), tmp_path / "hub")
    (said,) = [record.getMessage() for record in caplog.records if record.name.endswith("rows")]
    assert said.startswith("Of 3 photos 2 say more than their picture, 2 where they were taken")
    rows = [row for path in written for row in pq.read_table(path, columns=["image", "file_name"]).to_pylist()]
    assert sorted(row["file_name"] for row in rows) == ["p0.jpg", "p1.jpg", "p2.jpg"]
    for row in rows:
        photo = row["image"]["bytes"]
        assert not [secret for secret in SECRETS if secret in photo]
        assert scans(photo) == scans(before[row["file_name"]])
    assert {path.name: path.read_bytes() for path in (with_places / "images").iterdir()} == before
    again = write_parquet(load_panoptic(with_places), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]
