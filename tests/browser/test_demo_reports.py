"""The reports that a demo in small really leaves, of its dataset and of its run, as a browser shows them."""

from __future__ import annotations

import pytest

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.demo.scenes import CUSTOM

SMALL = ["--photos", "8", "--held-out", "2", "--size", "128x96", "--processes", "1"]
QUICK = ["--max_steps", "2", "--eval_strategy", "no", "--per_device_train_batch_size", "2"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "demo"
    assert main(["demo", "--out", str(folder), *SMALL, *QUICK]) == 0
    return folder


@pytest.mark.parametrize(("of", "photos"), [("data", 8), ("run", 2)])
def test_every_class_and_every_photo_is_shown(open_page, screenshot, demo, of, photos):
    page = open_page(demo / of / "report.html")
    for name in CUSTOM.names:
        assert name in page.inner_text("body")
    page.evaluate("for (const one of document.images) { one.loading = 'eager'; one.scrollIntoView(); }")
    page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.locator("img").count() >= photos
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    screenshot(page, f"demo-{of}")
