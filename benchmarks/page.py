"""The page of an exported model in Chromium, without a network, against `segment`: pixels that differ, and time.

    python benchmarks/page.py EXPORTED [MODEL] [--photos 20] [--size 1024x768 ...]

EXPORTED is what `export` wrote, with its page: model.html is opened from its file; an index.html is served by this
script, with the headers that threads need. MODEL is the demo's teacher without one. Photos are synthetic scenes of
several sizes, each turned by another of the eight values of EXIF, in JPEG. Maps are those of the page's download.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import re
import shutil
import statistics
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from measure import duration, machine, print_table, speedup
from PIL import Image
from playwright.sync_api import sync_playwright

import hf_detr_panoptic
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.browser.runtime import OnnxModel
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.demo.scenes import scene

TEACHER = Path(hf_detr_panoptic.__file__).parent / "demo" / "teacher"
SIZES = ((256, 192), (1024, 768), (400, 300), (97, 211), (640, 480))
ALLOWED = 0.001  # of the pixels of any photo
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
MINUTES = 15 * 60_000  # a random R50, on a machine where others are at work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `export` wrote")
    parser.add_argument("model", nargs="?", default=str(TEACHER))
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--size", action="append", help="width x height of the photos; may be repeated")
    parser.add_argument("--threshold", type=float, help="as the slider gives it; else the model's own")
    args = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in args.size or []] or SIZES
    torch.set_num_threads(1)
    print(machine(("torch", "onnxruntime", "playwright")))
    model, exported = DetrForPanopticSegmentation.from_pretrained(args.model), OnnxModel.from_folder(args.folder)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        scratch = Path(name)
        photos = []
        for index in range(args.photos):
            exif = Image.Exif()
            exif[0x0112] = index % 8 + 1
            photos.append(scratch / f"{index}.jpg")
            scene(11, index, sizes[index % len(sizes)]).photo.save(photos[-1], exif=exif, quality=95)
        program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", NOWHERE])
        page, setting_up, ready = _opened(browser, args.folder)
        if args.threshold is not None:
            page.locator("#threshold").fill(str(args.threshold))
        threshold = float(page.locator("#threshold").input_value())
        print(f"Chromium {browser.version}: {ready.rstrip('.')}, {setting_up:.1f} s after it was asked for")
        for each in (model, exported):  # the first photo of any of them takes longer than the second
            each.segment(photos[0])
        _looked_at(page, photos[0])
        shares, from_exported, pixels, segments = [], 0, 0, 0
        seconds: dict[str, list[float]] = {"torch": [], "onnxruntime": [], "page": []}
        for photo in photos:
            seconds["page"].append(_looked_at(page, photo))
            found = _taken_home(page, scratch / f"{photo.stem}_unpacked")
            for side, each in (("onnxruntime", exported), ("torch", model)):  # what the last one says is expected
                started = time.perf_counter()
                (wanted,) = each.segment(photo, threshold=threshold)
                seconds[side].append(time.perf_counter() - started)
                if side == "onnxruntime":
                    from_exported += int((found.ids != wanted.ids).sum())
            different = int((found.ids != wanted.ids).sum())
            shares.append(different / wanted.ids.size)
            pixels, segments = pixels + different, segments + len(wanted.segments)
        browser.close()
    over = sum(share > ALLOWED for share in shares)
    print(
        f"{len(photos)} photos, {segments} segments: {pixels} pixels differ from torch's, at most {max(shares):.1e} "
        f"of a photo, {statistics.median(shares):.1e} of the middle one, more than {ALLOWED:g} on {over} photos; "
        f"{from_exported} pixels differ from onnxruntime's"
    )
    rows = []
    for index, size in enumerate(sizes):
        of_size = {side: each[index :: len(sizes)] for side, each in seconds.items()}
        if not of_size["page"]:
            continue
        times = [duration(of_size[side]) for side in ("torch", "onnxruntime", "page")]
        rows.append(["{}×{}".format(*size), *times, speedup(of_size["page"], of_size["torch"])])
    print_table(["a photo of", "torch, one thread", "onnxruntime, one thread", "page", "page to torch"], rows)
    names = ("model.html", "index.html", "*.onnx", "*.wasm*", "*.mjs*")
    for path in sorted({path for pattern in names for path in args.folder.glob(pattern)}):
        content = path.read_bytes()
        print(f"{path.name}: {len(content) / 1e6:.2f} MB, {len(gzip.compress(content, 6)) / 1e6:.2f} MB gzipped")
    return 0 if max(shares) <= ALLOWED else 1


class _Isolating(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


def _opened(browser: Any, folder: Path) -> tuple[Any, float, str]:
    """The page, ready; how long that took, and what it says then. Whatever it complains of ends the script."""
    alone = folder / "model.html"
    address = alone.resolve().as_uri()
    if not alone.exists():
        handler = functools.partial(_Isolating, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html"
    context = browser.new_context(accept_downloads=True)
    context.set_offline(alone.exists())
    context.set_default_timeout(MINUTES)
    page = context.new_page()
    page.on("pageerror", lambda error: print(f"the page complains: {error}"))
    started = time.perf_counter()
    page.goto(address)
    return page, *reversed((_said(page, "Ready"), time.perf_counter() - started))


def _said(page: Any, text: str) -> str:
    page.wait_for_selector(f"#status:has-text('{text}'), #problem:visible")
    said: str = page.inner_text("#status")
    if text not in said:
        raise SystemExit(page.inner_text("#problem"))
    return said


def _looked_at(page: Any, photo: Path) -> float:
    """Seconds, as the page tells them: from the file's bytes to logits and masks; choosing pixels comes after."""
    page.set_input_files("#file", photo)
    return float(re.findall(r"([\d.]+) s\.", _said(page, f"{photo.name}: "))[-1])


def _taken_home(page: Any, folder: Path) -> Any:
    with page.expect_download() as download:
        page.click("#save-archive")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(folder)
    (record,) = read_split(folder, "val")
    return record.map()


if __name__ == "__main__":
    raise SystemExit(main())
