"""Files of every kind are made here; what they must look like is written out by hand."""

import ast
import io
import os
import struct
import subprocess
import sys
import threading
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from hf_detr_panoptic.annotations.shapes import mask_colors, mask_values
from hf_detr_panoptic.dataset.coco_panoptic import read_ids
from hf_detr_panoptic.dataset.copies import fingerprint
from hf_detr_panoptic.dataset.photos import same_bytes
from hf_detr_panoptic.errors import HfDetrPanopticError, ImageError
from hf_detr_panoptic.evaluation.metric.annotations import words_of_png
from hf_detr_panoptic.hub.handler import read_photo
from hf_detr_panoptic.images import exif_of, image_size, list_images, needs_reencoding, open_image, pixels_of
from hf_detr_panoptic.labeling.inputs import photo_bytes

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
BLACK, YELLOW, CYAN, PINK = (0, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255)
# Two rows of three: no turn and no mirroring leaves it as it is.
UPRIGHT = [[RED, GREEN, BLUE], [WHITE, BLACK, YELLOW]]
# How a camera that was held so stores the same scene (EXIF 2.3, tag 0x0112: where row 0 and column 0 of the file lie).
STORED = {
    1: UPRIGHT,
    2: [[BLUE, GREEN, RED], [YELLOW, BLACK, WHITE]],  # row 0 top, column 0 right
    3: [[YELLOW, BLACK, WHITE], [BLUE, GREEN, RED]],  # bottom, right
    4: [[WHITE, BLACK, YELLOW], [RED, GREEN, BLUE]],  # bottom, left
    5: [[RED, WHITE], [GREEN, BLACK], [BLUE, YELLOW]],  # left, top
    6: [[BLUE, YELLOW], [GREEN, BLACK], [RED, WHITE]],  # right, top
    7: [[YELLOW, BLUE], [BLACK, GREEN], [WHITE, RED]],  # right, bottom
    8: [[WHITE, RED], [BLACK, GREEN], [YELLOW, BLUE]],  # left, bottom
}


def picture(rows):
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def rows(image):
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def encoded(image, file_format, **settings):
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- upright


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_turns_the_photo_upright(orientation, file_format):
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(picture(STORED[orientation]), file_format, exif=exif(orientation), **lossless)
    upright = open_image(data)
    assert rows(upright) == UPRIGHT
    assert upright.info == {}, "a leftover orientation would turn the photo a second time"
    assert dict(upright.getexif()) == {}
    assert image_size(data) == (3, 2)
    assert needs_reencoding(data) == (orientation != 1 or file_format == "TIFF")


@pytest.mark.parametrize("orientation", STORED)
def test_exif_turns_a_jpeg_upright(orientation):
    # 16 pixels a colour, so that JPEG's blocks do not run into each other
    stored = picture(STORED[orientation])
    large = stored.resize((stored.width * 16, stored.height * 16), Image.Resampling.NEAREST)
    data = encoded(large, "JPEG", quality=95, exif=exif(orientation))
    upright = np.asarray(open_image(data))[8::16, 8::16].astype(int)
    assert np.abs(upright - np.array(UPRIGHT)).max() <= 8
    assert image_size(data) == (48, 32)
    assert needs_reencoding(data) == (orientation != 1)


def test_an_exif_block_behind_the_pixels_counts_too():
    png = encoded(picture(STORED[6]), "PNG")
    late = png[:-12] + chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0")) + png[-12:]
    assert rows(open_image(late)) == UPRIGHT
    assert image_size(late) == (3, 2)
    assert needs_reencoding(late)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_a_senseless_orientation_is_none(orientation):
    data = encoded(picture(UPRIGHT), "PNG", exif=exif(orientation))
    assert rows(open_image(data)) == UPRIGHT
    assert not needs_reencoding(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on the damaged block
def test_a_damaged_exif_block_does_not_damage_the_photo():
    for block in (b"Exif\0\0II*\0\xff\xff\xff\xff\x00", b"Exif\0\0 this is no TIFF"):
        data = encoded(picture(UPRIGHT), "PNG", exif=block)
        assert rows(open_image(data)) == UPRIGHT
        assert image_size(data) == (3, 2)


def test_an_image_in_memory_is_turned_too_and_not_changed():
    image = Image.open(io.BytesIO(encoded(picture(STORED[6]), "PNG", exif=exif(6))))
    assert rows(open_image(image)) == UPRIGHT
    assert image.size == (2, 3)
    plain = picture(UPRIGHT)
    copy = open_image(plain)
    copy.putpixel((0, 0), PINK)
    assert plain.getpixel((0, 0)) == RED
    animated = Image.open(io.BytesIO(MODES["animated PNG"][0]))
    assert rows(open_image(animated)) == [[RED, RED]]
    animated.seek(1)
    assert animated.convert("RGB").getpixel((0, 0)) == BLUE


def test_size_and_the_need_for_reencoding_are_told_without_decoding(monkeypatch):
    # the pixels are cut off: whoever decoded them would raise
    data = encoded(Image.effect_noise((640, 480), 50).convert("RGB"), "PNG", exif=exif(8))[:2000]
    assert image_size(data) == (480, 640)
    assert needs_reencoding(data)
    plain = encoded(Image.effect_noise((640, 480), 50).convert("RGB"), "PNG")[:2000]
    assert image_size(plain) == (640, 480)
    assert not needs_reencoding(plain)
    with pytest.raises(ImageError, match="damaged"):
        open_image(plain)
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.format))
    for file_format in ("PNG", "JPEG", "TIFF", "WEBP"):
        data = encoded(picture(STORED[8]), file_format, exif=exif(8))
        assert image_size(data) == (3, 2)
        assert needs_reencoding(data)
        image_size(encoded(picture(UPRIGHT), file_format))
    assert decoded == []


# --- modes


def palette_image(transparency=None):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    return encoded(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def grey16(values, dtype="<u2"):
    return Image.fromarray(np.array([values], dtype=dtype))


MODES = {
    "1": (encoded(Image.fromarray(np.array([[True, False]])), "PNG"), [WHITE, BLACK]),
    "L": (encoded(Image.fromarray(np.array([[7, 200]], dtype=np.uint8)), "PNG"), [(7, 7, 7), (200, 200, 200)]),
    "L, one grey transparent": (
        encoded(Image.fromarray(np.array([[7, 200]], dtype=np.uint8)), "PNG", transparency=7),
        [WHITE, (200, 200, 200)],
    ),
    "LA": (
        encoded(Image.fromarray(np.array([[[9, 255], [9, 0]]], dtype=np.uint8), "LA"), "PNG"),
        [(9, 9, 9), WHITE],
    ),
    "RGBA": (
        encoded(Image.fromarray(np.array([[[*RED, 255], [12, 34, 56, 0], [*BLACK, 51]]], dtype=np.uint8)), "PNG"),
        [RED, WHITE, (204, 204, 204)],  # black at 51/255 = a fifth, on white: 255 · 4/5
    ),
    "RGB, one colour transparent": (
        encoded(picture([[RED, GREEN]]), "PNG", transparency=GREEN),
        [RED, WHITE],
    ),
    "P": (palette_image(), [RED, GREEN]),
    "P, one entry transparent": (palette_image(transparency=1), [RED, WHITE]),
    "P, an alpha for each entry": (palette_image(transparency=bytes([0, 255])), [WHITE, GREEN]),
    "CMYK TIFF": (
        encoded(Image.fromarray(np.array([[[0, 255, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8), "CMYK"), "TIFF"),
        [RED, BLACK],
    ),
    "I;16 PNG": (encoded(grey16([0, 257, 32896, 65535]), "PNG"), [BLACK, (1,) * 3, (128,) * 3, WHITE]),
    "I;16 TIFF": (encoded(grey16([0, 128, 129, 65535]), "TIFF"), [BLACK, BLACK, (1,) * 3, WHITE]),
    "I;16B TIFF": (encoded(grey16([0, 257, 65535], ">u2"), "TIFF"), [BLACK, (1,) * 3, WHITE]),
    "I, as if 16 bits": (encoded(grey16([0, 257, 65535], "<i4"), "TIFF"), [BLACK, (1,) * 3, WHITE]),
    "I, more": (encoded(grey16([-1000, 0, 255_000 - 1000], "<i4"), "TIFF"), [BLACK, (1,) * 3, WHITE]),
    "F from 0 to 1": (encoded(grey16([0.0, 0.2, np.nan], "<f4"), "TIFF"), [BLACK, (51,) * 3, BLACK]),
    "F from 0 to 255": (encoded(grey16([0.0, 50.6, 255.0], "<f4"), "TIFF"), [BLACK, (51,) * 3, WHITE]),
    "F, heights": (encoded(grey16([-100.0, 0.0, 400.0], "<f4"), "TIFF"), [BLACK, (51,) * 3, WHITE]),
    "F, all the same": (encoded(grey16([300.0, 300.0], "<f4"), "TIFF"), [BLACK, BLACK]),
    "animated GIF": (
        encoded(picture([[RED, RED]]), "GIF", save_all=True, append_images=[picture([[BLUE, BLUE]])]),
        [RED, RED],
    ),
    "animated PNG": (
        encoded(picture([[RED, RED]]), "PNG", save_all=True, append_images=[picture([[BLUE, BLUE]])]),
        [RED, RED],
    ),
    "several pages": (
        encoded(picture([[RED, RED]]), "TIFF", save_all=True, append_images=[picture([[BLUE, BLUE]])]),
        [RED, RED],
    ),
}


@pytest.mark.parametrize("kind", MODES)
def test_every_mode_becomes_rgb(kind):
    data, expected = MODES[kind]
    assert rows(open_image(data)) == [expected]
    assert needs_reencoding(data)


def test_other_colour_spaces():
    assert rows(open_image(picture([[BLACK, WHITE]]).convert("YCbCr"))) == [[BLACK, WHITE]]
    assert rows(open_image(picture([[BLACK, RED]]).convert("HSV"))) == [[BLACK, RED]]
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], dtype=np.uint8), "LA")
    assert rows(open_image(grey.convert("La"))) == [[(9, 9, 9), WHITE]]


def test_sixteen_bits_of_colour_lose_the_lower_eight():
    pixels = struct.pack(">B6H", 0, 0xFF80, 0, 0x8000, 0x0180, 0xFFFF, 0)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    assert rows(open_image(png)) == [[(255, 0, 128), (1, 255, 0)]]


def test_a_cmyk_jpeg_is_no_negative():
    ink = np.zeros((16, 32, 4), dtype=np.uint8)
    ink[:, :16] = (0, 255, 255, 0)  # magenta and yellow make red; the rest is bare paper
    data = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    image = open_image(data)
    assert np.abs(np.array(image.getpixel((8, 8))) - RED).max() <= 3
    assert np.abs(np.array(image.getpixel((24, 8))) - WHITE).max() <= 3
    assert needs_reencoding(data)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_plain_photos_are_kept_as_they_are(file_format):
    assert not needs_reencoding(encoded(picture(UPRIGHT), file_format))


def test_a_photo_of_two_pictures_counts_as_a_jpeg():
    data = encoded(picture(UPRIGHT), "MPO", save_all=True, append_images=[picture(UPRIGHT)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert not needs_reencoding(data)
    assert open_image(data).size == (3, 2)


def test_the_colour_profile_is_kept_where_it_still_means_something():
    assert open_image(encoded(picture(UPRIGHT), "PNG", icc_profile=b"P3")).info == {"icc_profile": b"P3"}
    cmyk = encoded(Image.new("CMYK", (2, 2)), "TIFF", icc_profile=b"Coated")
    assert open_image(cmyk).info == {}


# --- HEIC


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heic_without_its_extra_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_0001.jpg"  # phones rename them
    path.write_bytes(HEIC)
    with pytest.raises(ImageError) as error:
        open_image(path)
    assert str(error.value) == (
        f'{path}: HEIC photos need one more package. Type: pip install "hf-detr-panoptic[heic]".'
    )


def test_an_avif_that_begins_like_a_heic_is_left_to_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError) as error:
        open_image(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(64))
    assert "heic" not in str(error.value)


def test_heic_with_its_extra_is_opened_by_it(monkeypatch):
    def from_file(file):
        assert file.read() == HEIC
        return picture(UPRIGHT)

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(HeifImageFile=from_file))
    before = list(Image.ID)
    assert rows(open_image(HEIC)) == UPRIGHT
    assert image_size(HEIC) == (3, 2)
    assert needs_reencoding(HEIC)
    assert before == Image.ID


# --- what is no photo


def test_whatever_the_name(tmp_path):
    for name in ["with space.png", "Fußgänger.png", "工地.png", "🏗️.png", "sub/folder/a.png", "'quoted' \"name\".png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(UPRIGHT).save(path)
        assert rows(open_image(path)) == UPRIGHT
        assert rows(open_image(str(path))) == UPRIGHT
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        assert rows(open_image(file)) == UPRIGHT
        assert not file.closed


def test_a_stream_that_cannot_seek():
    read, write = os.pipe()
    os.write(write, encoded(picture(UPRIGHT), "PNG"))
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert rows(open_image(stream)) == UPRIGHT


def test_errors_name_the_file_on_one_line(tmp_path):
    with pytest.raises(ImageError) as error:
        open_image(tmp_path / "two\nlines.png")
    assert "\n" not in str(error.value)
    assert "two\\nlines.png" in str(error.value)


def test_a_missing_photo_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "wheel_loader_1.JPG").touch()
    (tmp_path / "crane.jpg").touch()
    with pytest.raises(ImageError, match=r"wheel_loader_1.jpeg: does not exist. Did you mean 'wheel_loader_1.JPG'\?"):
        open_image(tmp_path / "wheel_loader_1.jpeg")
    with pytest.raises(ImageError, match=r"Did you mean 'crane.jpg'\?"):
        image_size(tmp_path / "crnae.jpg")
    with pytest.raises(ImageError, match="nor does its folder"):
        open_image(tmp_path / "nowhere" / "a.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="Its folder is empty"):
        open_image(tmp_path / "empty" / "a.jpg")
    with pytest.raises(ImageError, match="Download"):
        open_image("https://example.org/photo.jpg")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<html><body>404</body></html>", "is not a photo"),
        (b"\x89PNG\r\n\x1a\n", "is not a photo|damaged"),
        (b"\xff\xd8\xff\xe0", "is not a photo|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a drawing"),
    ],
)
def test_what_is_no_photo_is_refused(tmp_path, content, says):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for verb in (open_image, image_size, needs_reencoding):
        with pytest.raises(ImageError, match=says) as error:
            verb(path)
        assert error.value.where == str(path)
        assert error.value.fix


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "read",
    [
        open_image,
        image_size,
        exif_of,
        fingerprint,
        read_ids,
        lambda path: mask_values(path.read_bytes(), "a mask"),
        lambda path: mask_colors(path.read_bytes(), "a mask"),
        lambda path: words_of_png(path.read_bytes()),
        lambda path: read_photo(path.read_bytes()),
    ],
)
def test_postscript_called_png_starts_no_program(tmp_path, monkeypatch, read):
    """Pillow gives PostScript to Ghostscript, by what is in the file and not by its name."""
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    path = tmp_path / "0.png"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises((HfDetrPanopticError, OSError, ValueError)):
        read(path)


def test_nobody_opens_an_image_in_any_format_there_is():
    calls = []
    for file in sorted((Path(__file__).parents[1] / "hf_detr_panoptic").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                calls.append(file.name)
                assert "formats" in [keyword.arg for keyword in node.keywords], f"{file}, line {node.lineno}"
    # The metric and the handler travel alone.
    assert sorted(calls) == ["annotations.py", "handler.py", "images.py"]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_photo_cut_off_anywhere_is_refused(tmp_path, file_format):
    whole = encoded(Image.effect_noise((64, 48), 50).convert("RGB"), file_format)
    path = tmp_path / "cut.bin"
    for part in (0.02, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ImageError, match=r"cut\.bin"):
            open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged TIFF tags
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_damaged_bytes_give_a_photo_or_a_clear_error(file_format):
    whole = encoded(Image.effect_noise((32, 24), 50).convert("RGB"), file_format)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 600), 8):
            data[place] = rng.integers(256)
        for verb in (open_image, image_size, needs_reencoding):
            try:
                verb(bytes(data))
            except ImageError:
                refused += 1
    assert refused


def test_folders_and_locked_files(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be opened"):
        open_image("x" * 5000)
    with pytest.raises(ImageError, match="int is not a photo"):
        open_image(7)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is no regular file"):
        open_image(tmp_path / "pipe.jpg")


# --- too large


def bomb(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_photo_too_large_is_refused_before_it_is_decoded():
    with pytest.raises(ImageError, match=r"more pixels than Pillow opens.*MAX_IMAGE_PIXELS"):
        open_image(bomb(60_000, 60_000))
    with pytest.raises(ImageError, match="3×2 is 6 pixels, 5 are allowed.*max_pixels"):
        open_image(encoded(picture(UPRIGHT), "PNG"), max_pixels=5)
    with pytest.raises(ImageError, match="6 pixels, 5 are allowed"):
        open_image(picture(UPRIGHT), max_pixels=5)
    assert open_image(encoded(picture(UPRIGHT), "PNG"), max_pixels=6).size == (3, 2)


def test_pillows_warning_turned_into_an_error_is_ours_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="more pixels"):
            image_size(bomb(10_000, 10_000))


def test_pillows_global_settings_stay_as_they_were():
    code = """
import PIL.Image, PIL.ImageFile
before = PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, list(PIL.Image.ID)
import hf_detr_panoptic.images
assert before == (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES, list(PIL.Image.ID))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_threads_open_many_photos():
    kinds = {name: MODES[name] for name in ("P", "RGBA", "I;16 PNG", "animated GIF", "CMYK TIFF")}
    wrong = []

    def work():
        for _ in range(20):
            wrong.extend(name for name, (data, expected) in kinds.items() if rows(open_image(data)) != [expected])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- folders


def test_photos_of_a_folder(tmp_path):
    for name in ["b.JPG", "a.png", "sub/c.jpeg", "Sub2/d.webp", "sub/deep/e.HEIC", "á.tif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in [".hidden.jpg", "._a.png", ".thumbs/t.jpg", "__MACOSX/a.png", "notes.txt", "coco.json", "noname"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["Sub2/d.webp", "a.png", "b.JPG", "sub/c.jpeg", "sub/deep/e.HEIC", "á.tif"]
    assert list_images(str(tmp_path)) == list_images(tmp_path)


def test_a_hidden_folder_that_was_asked_for_is_read(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.jpg").touch()
    assert list_images(tmp_path / ".cache") == [tmp_path / ".cache" / "a.jpg"]


def test_links_out_of_the_folder_are_left_out_and_said_so(tmp_path, caplog):
    photos, elsewhere = tmp_path / "photos", tmp_path / "private"
    photos.mkdir()
    elsewhere.mkdir()
    (photos / "a.jpg").touch()
    (elsewhere / "secret.jpg").touch()
    (photos / "inside.jpg").symlink_to("a.jpg")
    (photos / "outside.jpg").symlink_to(elsewhere / "secret.jpg")
    (photos / "broken.jpg").symlink_to("gone.jpg")
    (photos / "linked").symlink_to(elsewhere, target_is_directory=True)
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    assert [path.name for path in list_images(photos)] == ["a.jpg", "inside.jpg"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"2 links in {photos} lead out of it or nowhere")
    linked_root = tmp_path / "link to photos"
    linked_root.symlink_to(photos, target_is_directory=True)
    assert [path.name for path in list_images(linked_root)] == ["a.jpg", "inside.jpg"]


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"Did you mean 'photos'\?"):
        list_images(tmp_path / "photso")
    with pytest.raises(ImageError, match="is a file, not a folder"):
        list_images(tmp_path / "a.jpg")


# --- real files


def test_every_real_photo_opens(shared_data):
    paths = list_images(shared_data)
    assert len(paths) > 80
    copied = 0
    for path in paths:
        photo = open_image(path)
        assert photo.size == image_size(path), path
        if not needs_reencoding(path):
            copied += 1
            assert np.array_equal(np.asarray(photo), np.asarray(Image.open(path))), path
    assert copied > 40


def test_a_photo_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    Image.new("RGB", (8, 6)).save(path)
    with path.open("r+b") as file:
        file.truncate(3 * 1024**3)  # sparse: it takes no room on the disk; WebP is read whole before it is looked at
    with pytest.raises(ImageError, match="has more than 2,147,483,648 bytes"):
        open_image(path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    """Sparse: it takes no room on the disk."""
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"\xff\xd8\xff")
    os.truncate(photo, 5 * 10**9)
    with pytest.raises(ImageError, match=r"is a file of 5\.0 GB"):
        fingerprint(photo)
    with pytest.raises(ImageError, match=r"is a file of 5\.0 GB"):
        photo_bytes(tmp_path, "a.jpg")
    with pytest.raises(ImageError, match=r"is a file of 5\.0 GB"):
        same_bytes(photo, "digest")


def test_a_large_photo_is_in_memory_once(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "copy", lambda _: pytest.fail("a second copy"))
        photo = open_image(tmp_path / "large.png")
        assert open_image(photo, copied=False) is photo
    assert type(photo) is Image.Image
    np.testing.assert_array_equal(np.asarray(photo), pixels)
    assert open_image(photo) is not photo
    monkeypatch.setattr("hf_detr_panoptic.images._BAND", 210)  # 3 rows of 70
    monkeypatch.setattr(Image.Image, "tobytes", at_most(210 * 3))
    np.testing.assert_array_equal(pixels_of(photo), pixels)


def at_most(size):
    whole = Image.Image.tobytes

    def tobytes(image, *args, **options):
        content = whole(image, *args, **options)
        assert len(content) <= size
        return content

    return tobytes
