"""Make report-dataset.png and report-run.png from a finished demo: its two reports in a real browser.

Run it: hf-detr-panoptic demo --out demo && python docs/pictures/make_reports.py demo
(needs Chromium and the extra `dev`)
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTH = 1280  # pixels
COLOURS = 224  # of a palette: a quarter of the bytes, and no visible loss
# The demo's folder, the sections left out, and the photo after which the picture ends.
REPORTS = {
    "dataset": ("data", [], 6),
    "run": ("run", ["quality", "confusion", "stages"], 4),
}


def photograph(page: Page, report: Path, without: list[str], last: int) -> Image.Image:
    """The page from its top to the row of its `last` photo."""
    page.goto(report.resolve().as_uri())
    for section in without:
        page.locator(f"#{section}").evaluate("section => section.remove()")
    bottom = page.evaluate(f"document.querySelector('#photo-{last}').getBoundingClientRect().bottom")
    page.set_viewport_size({"width": WIDTH, "height": int(bottom) + 16})
    page.wait_for_function("[...document.querySelectorAll('img[src]')].every(image => image.naturalWidth > 0)")
    return Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


if __name__ == "__main__":
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        for name, (folder, without, last) in REPORTS.items():
            picture = photograph(page, demo / folder / "report.html", without, last)
            target = HERE / f"report-{name}.png"
            # Few pixels are of a class's own colour, and Pillow's first choice of a palette turns them brown.
            small = picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
            small.save(target, optimize=True)
            print(f"{target.name}: {picture.width} × {picture.height}, {target.stat().st_size // 1000} kB")
        browser.close()
