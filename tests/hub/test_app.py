"""What the app says and gives of a photo, without a browser; `tests/browser/test_app.py` has one."""

from __future__ import annotations

import io
import sys
import zipfile

import numpy as np
import pytest
from made import save_photo
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.errors import HfDetrPanopticError, ImageError
from hf_detr_panoptic.hub import app_view
from hf_detr_panoptic.hub.app import build_app
from hf_detr_panoptic.hub.app_view import AppModel, legend_html, look_at, open_photo, problem_html, segment_html

SPACE = LabelSpace([Category("sky", False, (1, 2, 3)), Category("<i>pipe</i>", True, (250, 0, 9))])


class Segmented:
    """Sky on the left half; a pipe of 10 × 4 pixels in the lower right corner from a score of 0.8 down."""

    def __init__(self, photo: Image.Image) -> None:
        self.size = photo.size

    def map(self, threshold: float) -> PanopticMap:
        width, height = self.size
        ids = np.zeros((height, width), dtype=np.int32)
        ids[:, : width // 2] = 5
        segments = [Segment(5, 0, 0.912, "model")]
        if threshold < 0.8:
            ids[-4:, -10:] = 9
            segments.append(Segment(9, 1, 0.8, "model"))
        return PanopticMap(ids, segments, SPACE)


MODEL = AppModel("m", SPACE, Segmented, threshold=0.5, floor=0.3)


@pytest.fixture
def opened(tmp_path):
    return open_photo(MODEL, save_photo(tmp_path / "Übersicht 1.png", (40, 20)))


def test_what_is_told_of_a_segment(opened):
    look, _ = look_at(opened, 0.5)
    told = segment_html(look, look.segment_at((39, 19)))
    for words in (
        "&lt;i&gt;pipe&lt;/i&gt;",
        "rgb(250, 0, 9)",
        "thing",
        "0.80",
        "40 pixels, 5.0%",
        "10 × 4 at (30, 16)",
    ):
        assert words in told
    assert "<i>pipe" not in told
    sky = segment_html(look, look.segment_at((0, 0)))
    for words in (">sky<", "stuff", "0.91", "400 pixels, 50.0%", "20 × 20 at (0, 0)"):
        assert words in sky
    void = segment_html(look, look.segment_at((39, 0)))
    assert "360 pixels, 45.0%" in void


def test_a_place_outside_belongs_to_nobody(opened):
    look, _ = look_at(opened, 0.5)
    assert [look.segment_at(point) for point in [(-1, 0), (40, 19), (39, 20), (0, -1)]] == [0, 0, 0, 0]


def test_the_legend_counts(opened):
    look, _ = look_at(opened, 0.5)
    assert "2 segments of 2 classes, 45.0% void" in legend_html(look)
    assert "&lt;i&gt;pipe&lt;/i&gt;" in legend_html(look)
    assert "1 segment of 1 class, 50.0% void" in legend_html(look_at(opened, 0.8)[0])


def test_the_cut_out_is_the_photo_and_its_alpha_the_mask(opened):
    look, _ = look_at(opened, 0.5)
    cut = np.asarray(look.cut_out(9))
    assert np.array_equal(cut[..., :3], np.asarray(opened.shown))
    mask = np.zeros((20, 40), dtype=bool)
    mask[16:, 30:] = True
    assert np.array_equal(cut[..., 3] == 255, mask)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_the_zip_reads_back_as_the_map(opened, tmp_path, threshold):
    _, packed = look_at(opened, threshold)
    zipfile.ZipFile(io.BytesIO(packed)).extractall(tmp_path / "zip")
    (record,) = read_split(tmp_path / "zip", "val")
    expected = opened.segmented.map(threshold)
    assert np.array_equal(record.map().ids, expected.ids)
    assert record.map() == expected
    assert record.original_file == "Übersicht 1.png"
    assert record.photo.read_bytes() == (tmp_path / "Übersicht 1.png").read_bytes()


def test_a_photo_that_is_turned_and_large(tmp_path, monkeypatch):
    """Shown upright and small, counted and downloaded whole."""
    monkeypatch.setattr(app_view, "SHOWN_SIDE", 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: 40 × 20 becomes 20 × 40
    opened = open_photo(MODEL, save_photo(tmp_path / "a.jpg", (40, 20), exif=exif, quality=95))
    look, packed = look_at(opened, 0.5)
    assert look.picture().size == opened.shown.size == (10, 20)
    assert look.areas == {5: 400, 9: 40}
    assert look.segment_at((9, 19)) == 9
    assert "10 × 4 at (10, 36)" in segment_html(look, 9)
    zipfile.ZipFile(io.BytesIO(packed)).extractall(tmp_path / "zip")
    (record,) = read_split(tmp_path / "zip", "val")
    assert record.map().ids.shape == (40, 20)
    with Image.open(record.photo) as stored:
        assert stored.size == (20, 40)


@pytest.mark.parametrize("content", [b"", b"no photo", b"\x89PNG\r\n\x1a\n" + b"0" * 60])
def test_a_bad_photo_is_told_by_its_name_alone(tmp_path, content):
    path = tmp_path / "<b>torn.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_photo(MODEL, path)
    told = problem_html(caught.value)
    assert "&lt;b&gt;torn.png: " in told
    assert str(tmp_path) not in told


def test_too_large_a_photo_is_refused_before_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(app_view, "MAX_PIXELS", 799)
    with pytest.raises(ImageError, match="800 pixels, 799 are allowed"):
        open_photo(MODEL, save_photo(tmp_path / "a.png", (40, 20)))


def test_without_gradio_the_answer_is_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(HfDetrPanopticError, match=r"hf-detr-panoptic\[app\]"):
        build_app(MODEL, title="t")
