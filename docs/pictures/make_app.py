"""Make app.png: the app in a real browser, a synthetic photo chosen and a segment clicked.

Run it: python docs/pictures/make_app.py [MODEL]      (the demo's teacher; needs Chromium and the extra `dev`)
"""

import io
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scenes
from hf_detr_panoptic.hub.app import build_app, serve
from hf_detr_panoptic.steps.app import app_model

TARGET = Path(__file__).with_name("app.png")
COLOURS = 224  # of a palette: a quarter of the bytes, and no visible loss


def photograph(address: str) -> bytes:
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator("#examples img").nth(1).click()
        page.wait_for_function("document.querySelector('#picture img')?.naturalWidth > 0")
        box = page.locator("#picture img").bounding_box()
        page.locator("#picture img").click(position={"x": box["width"] * 0.25, "y": box["height"] * 0.6})
        page.wait_for_selector("#facts .segment")
        page.wait_for_function("document.querySelector('#cut img')?.naturalWidth > 0")
        taken = page.screenshot(full_page=True, animations="disabled")
        browser.close()
    return taken


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        model = app_model(sys.argv[1] if sys.argv[1:] else teacher_folder())
        if not sys.argv[1:]:
            model = replace(model, name="the demo's teacher")
        examples = [Path(scratch) / f"site_{place}.png" for place in range(3)]
        for path, made in zip(examples, scenes(3, seed=7, size=(768, 576), custom=False), strict=True):
            made.photo.save(path)
        app = build_app(model, title="A construction site, every pixel", examples=examples)
        taken = photograph(serve(app))
        app.close()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        TARGET, optimize=True
    )
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
