"""The trace of one scene in a real browser: every picture is there, nothing is asked of the network, it prints."""

from __future__ import annotations

from pathlib import Path

from made import tiny_model

from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess
from hf_detr_panoptic.steps.trace.command import trace_photo

HOSTILE = "<script>alert(1)</script>"


def traced_scene(folder: Path) -> Path:
    """A tiny random model, one of whose classes is called like a script, on a photo called like a tag."""
    model = tiny_model(LabelSpace([Category(HOSTILE, True), Category("sky", False)]), num_queries=12).eval()
    model.image_processor = Preprocess(shortest_edge=192, longest_edge=256)
    model.settings = Postprocess(threshold=0.2, fill="argmax")
    photo = folder / "<img src=x onerror=alert(1)> \"quoted\" 'too' 😀\nand a second line.png"
    scene(3, 0).photo.save(photo)
    trace_photo(model, photo, folder / "out")
    return folder / "out" / "trace.html"


def test_the_page_of_a_scene(open_page, screenshot, tmp_path):
    path = traced_scene(tmp_path)
    for width in (1280, 400):
        page = open_page(path, width=width)
        pictures = page.eval_on_selector_all("img", "all => all.map(one => [one.complete, one.naturalWidth])")
        assert len(pictures) == 8
        assert all(complete and wide > 90 for complete, wide in pictures)
        assert page.locator("h2").count() == 8
        assert page.inner_text("h1").startswith("<img src=x onerror=alert(1)> \"quoted\" 'too' 😀\\nand a second line")
        assert HOSTILE in page.inner_text("body")
        assert page.locator("script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll by themselves
        screenshot(page, f"trace-{width}", full_page=width > 500)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000
