"""The app as a visitor has it: upload, look, move the slider, click, download; two at a time, and on a phone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from made import save_photo
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, draw
from hf_detr_panoptic.app import AppModel, build_app, serve
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.model.postprocess import Kept, KeptMasks
from hf_detr_panoptic.settings import Postprocess

SPACE = LabelSpace(
    [Category("sky", False, (80, 140, 220)), Category("pipe", True, (220, 120, 20)), Category("<b>rust</b>", True)]
)
WIDTH, HEIGHT = 330, 240


class Model:
    """Sees sky above, a pipe on the left and, less surely, one on the right; counts its photos."""

    def __init__(self) -> None:
        self.photos: list[tuple[int, int]] = []

    def segment(self, photo: Image.Image) -> KeptMasks:
        self.photos.append(photo.size)
        width, height = photo.size
        masks = torch.full((3, height, width), -8.0)
        masks[0, : height // 2] = 8
        masks[1, height // 2 :, : width // 3] = 8
        masks[2, height // 2 :, -(width // 3) :] = 8
        kept = Kept(torch.arange(3), (0, 1, 1), (0.95, 0.9, 0.6))
        return KeptMasks(kept, masks, SPACE, (height, width), Postprocess(), floor=0.3)


def expected(threshold: float, width: int = WIDTH, height: int = HEIGHT) -> PanopticMap:
    ids = np.zeros((height, width), dtype=np.int32)
    ids[: height // 2] = 1
    ids[height // 2 :, : width // 3] = 2
    segments = [Segment(1, 0, 0.95, "model"), Segment(2, 1, 0.9, "model")]
    if threshold < 0.6:
        ids[height // 2 :, -(width // 3) :] = 3
        segments.append(Segment(3, 1, 0.6, "model"))
    return PanopticMap(ids, segments, SPACE)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(address, model) of one app that all tests of this file share, as visitors share it."""
    model = Model()
    examples = [save_photo(tmp_path_factory.mktemp("examples") / "example.png", (120, 90), seed=9)]
    told = AppModel("user/pipes", SPACE, model.segment, threshold=0.5, floor=0.3)
    app = build_app(told, title="Pipes & <sky>", examples=examples)
    yield serve(app), model
    app.close()


def upload(page, path: Path) -> None:
    page.set_input_files("#photo input[type=file]", path)


def said(page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#legend').innerText.includes(text)", arg=text)


def picture(page, where: str) -> Image.Image:
    page.wait_for_function("where => document.querySelector(where)?.naturalWidth > 0", arg=f"{where} img")
    return Image.open(io.BytesIO(page.request.get(page.get_attribute(f"{where} img", "src")).body()))


def click(page, x: float, y: float) -> None:
    """At a place of the picture, as fractions of its sides."""
    picture(page, "#picture")
    box = page.locator("#picture img").bounding_box()
    page.locator("#picture img").click(position={"x": x * box["width"], "y": y * box["height"]})


def test_upload_look_slide_click_download(open_page, site, screenshot, tmp_path):
    address, model = site
    before = len(model.photos)
    page = open_page(address)
    path = save_photo(tmp_path / "my site.png", (WIDTH, HEIGHT))
    upload(page, path)

    said(page, "3 segments of 2 classes, 16.7% void")
    assert page.title() == page.inner_text("h1") == "Pipes & <sky>"
    chips = page.locator("#legend .chip").all_inner_texts()
    assert [" ".join(chip.split()) for chip in chips] == ["1 sky", "2 pipe × 2", "void"]
    overlay = picture(page, "#picture")
    drawn = draw(path, expected(0.5), legend=False)
    assert overlay.size == drawn.size == (WIDTH, HEIGHT)
    assert np.abs(np.asarray(overlay, dtype=int) - np.asarray(drawn)).mean() < 3  # JPEG
    assert np.abs(np.asarray(overlay, dtype=int) - np.asarray(Image.open(path))).mean() > 20

    page.locator("#threshold input[type=range]").fill("0.7")
    said(page, "2 segments of 2 classes, 33.3% void")
    click(page, 0.1, 0.9)
    page.wait_for_selector("#facts h3:has-text('pipe')")
    facts = page.locator("#facts dd").all_inner_texts()
    area = HEIGHT // 2 * (WIDTH // 3)
    assert facts == ["thing", "0.90", f"{area:,} pixels, 16.7% of the photo", "110 × 120 at (0, 120)"]
    assert np.array_equal(np.asarray(picture(page, "#cut"))[..., 3] == 255, expected(0.7).ids == 2)

    screenshot(page, "app")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "my site_panoptic.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path / "unpacked")
    (record,) = read_split(tmp_path / "unpacked", "val")
    assert record.map() == expected(0.7)
    assert record.photo.read_bytes() == path.read_bytes()
    assert record.original_file == "my site.png"
    assert model.photos[before:] == [(WIDTH, HEIGHT)]  # the model saw the photo once


def test_what_was_clicked_is_told_anew_when_the_slider_moves(open_page, site, tmp_path):
    address, _ = site
    page = open_page(address)
    upload(page, save_photo(tmp_path / "photo.png", (WIDTH, HEIGHT)))
    said(page, "3 segments")
    click(page, 0.9, 0.9)
    page.wait_for_selector("#facts h3:has-text('pipe')")
    assert "0.60" in page.inner_text("#facts")
    page.locator("#threshold input[type=range]").fill("0.65")
    page.wait_for_selector("#facts h3:has-text('void')")
    assert "26,400 pixels, 33.3% of the photo" in page.inner_text("#facts")
    page.wait_for_selector("#cut", state="hidden")
    page.locator("#threshold input[type=range]").fill("0.98")
    said(page, "No segment passes this threshold.")


def test_a_bad_photo_is_answered_and_the_next_one_is_welcome(open_page, site, screenshot, tmp_path):
    address, model = site
    before = len(model.photos)
    page = open_page(address)
    upload(page, save_photo(tmp_path / "good.png", (WIDTH, HEIGHT)))
    said(page, "3 segments")
    bad = tmp_path / "torn.jpg"
    bad.write_text("not a photo at all")
    page.click("#photo button[aria-label='Clear']")
    page.wait_for_selector("#picture", state="hidden")
    other = save_photo(tmp_path / "other.png", (WIDTH, HEIGHT), seed=5)
    upload(page, other.rename(tmp_path / ".png"))  # a name that gradio takes for no image's
    said(page, "3 segments")
    page.click("#photo button[aria-label='Clear']")
    page.wait_for_selector("#picture", state="hidden")
    upload(page, bad)
    page.wait_for_selector("#legend .problem")
    told = page.inner_text("#legend")
    assert told.startswith("torn.jpg: is not a photo")
    assert "Save it as JPEG or PNG" in told
    assert page.locator("#picture").is_hidden()
    assert page.locator("#download").is_disabled()
    assert "Traceback" not in page.inner_text("body")
    screenshot(page, "app_bad_photo")
    page.locator("#examples img").click()
    said(page, "3 segments")
    assert model.photos[before:] == [(WIDTH, HEIGHT), (WIDTH, HEIGHT), (120, 90)]


def test_two_visitors_do_not_see_each_other(open_page, site, tmp_path):
    address, _ = site
    first, second = open_page(address), open_page(address)
    upload(first, save_photo(tmp_path / "first.png", (WIDTH, HEIGHT)))
    upload(second, save_photo(tmp_path / "second.png", (200, 300), seed=3))
    said(first, "3 segments")
    said(second, "3 segments")
    second.locator("#threshold input[type=range]").fill("0.8")
    said(second, "2 segments")
    click(first, 0.9, 0.9)
    first.wait_for_selector("#facts h3:has-text('pipe')")
    assert f"{120 * 110:,} pixels" in first.inner_text("#facts")
    click(second, 0.1, 0.9)
    second.wait_for_selector("#facts h3:has-text('pipe')")
    assert f"{150 * 66:,} pixels" in second.inner_text("#facts")
    assert picture(first, "#picture").size == (WIDTH, HEIGHT)
    assert picture(second, "#picture").size == (200, 300)
    said(first, "3 segments")


def test_on_a_phone(open_page, site, screenshot, tmp_path):
    address, _ = site
    page = open_page(address, width=400, height=800)
    upload(page, save_photo(tmp_path / "photo.png", (WIDTH, HEIGHT)))
    said(page, "3 segments")
    click(page, 0.1, 0.9)
    page.wait_for_selector("#facts h3:has-text('pipe')")
    picture(page, "#cut")
    assert page.evaluate("document.documentElement.scrollWidth") == 400  # nothing to push sideways
    order = [
        page.locator(where).bounding_box()["y"] for where in ("#photo", "#picture", "#threshold", "#facts", "#cut")
    ]
    assert order == sorted(order)
    assert all(page.locator(where).bounding_box()["width"] > 300 for where in ("#picture", "#facts", "#cut"))
    screenshot(page, "app_phone")
