"""The page of an exported model, opened from a file: photo in, segments out, slider, click, and what is taken home.

Its graphs are made by hand, so that what they answer is known: a class's mask is a colour of the photo.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment, draw
from hf_detr_panoptic.browser.page import one_file, served_files
from hf_detr_panoptic.browser.web_runtime import NoRuntimeError, WebRuntime, web_runtime
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.preprocess import Preprocess

onnx = pytest.importorskip("onnx", reason="the graphs of this test need onnx: pip install 'hf-detr-panoptic[export]'")

HOSTILE = "<img src=x onerror=alert(1)>\u202erust"
SPACE = LabelSpace(
    [Category("sky", False, (80, 140, 220)), Category("pipe", True, (220, 120, 20)), Category(HOSTILE, True)]
)
WIDTH, HEIGHT = 330, 240
SCORES = [(0, 0.95), (1, 0.9), (1, 0.6), (2, 0.2)]  # label and score of each query; "no object" has the fifth
COLORS = [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)]


def graphs() -> dict[str, bytes]:
    """A detector of constant answers, and masks that are how much a pixel has of a query's colour."""
    from onnx import TensorProto, helper, numpy_helper

    logits = np.full((1, 5, 4), -20, dtype=np.float32)
    for query, (label, score) in enumerate(SCORES):
        logits[0, query, label], logits[0, query, 3] = np.log(score), np.log(1 - score)
    logits[0, 4, 3] = 9
    # Above one half where the colour is the query's, far below where any other is.
    states = np.array([[(*(60 * np.array(c) - 30).tolist(), -30 * sum(c) + 15) for c in COLORS]], dtype=np.float32)
    image = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["B", 3, "H", "W"])
    colors = helper.make_tensor_value_info("shared_colors", TensorProto.FLOAT, ["B", 3, "H", "W"])
    known = {"logits": logits, "pred_boxes": np.full((1, 5, 4), 0.5, np.float32), "states": states}
    nodes = [helper.make_node("Identity", ["pixel_values"], ["shared_colors"])]
    nodes += [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(v)) for name, v in known.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, v.shape) for name, v in known.items()]
    detector = helper.make_graph(nodes, "detector", [image], [*outputs, colors])

    asked = helper.make_tensor_value_info("states", TensorProto.FLOAT, [1, "K", 4])
    answered = helper.make_tensor_value_info("pred_masks", TensorProto.FLOAT, [1, "K", "H", "W"])
    constants = {
        "one": np.ones(1, np.float32),
        "flat": np.array([1, 4, -1]),
        "first": np.zeros(1, np.int64),
        "second": np.ones(1, np.int64),
        "axis": np.ones(1, np.int64),
    }
    steps = [
        helper.make_node("Slice", ["shared_colors", "first", "second", "axis"], ["red"]),
        helper.make_node("Sub", ["red", "red"], ["nothing"]),
        helper.make_node("Add", ["nothing", "one"], ["ones"]),
        helper.make_node("Concat", ["shared_colors", "ones"], ["values"], axis=1),
        helper.make_node("Reshape", ["values", "flat"], ["line"]),
        helper.make_node("MatMul", ["states", "line"], ["masks"]),
        helper.make_node("Shape", ["shared_colors"], ["sides"], start=2),
        helper.make_node("Shape", ["states"], ["counts"], end=2),
        helper.make_node("Concat", ["counts", "sides"], ["shape"], axis=0),
        helper.make_node("Reshape", ["masks", "shape"], ["pred_masks"]),
    ]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    masks = helper.make_graph(steps, "masks", [asked, colors], [answered], held)
    opset = [helper.make_opsetid("", 18)]
    made = {"detector.onnx": detector, "masks.onnx": masks}
    return {
        name: helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
        for name, graph in made.items()
    }


def photo(path: Path, orientation: int = 1, **settings) -> Path:
    """Blue above, red below on the left, green on the right; black between them."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[: HEIGHT // 2, :, 2] = 255
    pixels[HEIGHT // 2 :, : WIDTH // 3, 0] = 255
    pixels[HEIGHT // 2 :, -(WIDTH // 3) :, 1] = 255
    lying = {1: 0, 6: 1, 3: 2, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(pixels, lying)).save(path, exif=exif, **settings)
    return path


def expected(threshold: float) -> PanopticMap:
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    ids[: HEIGHT // 2] = 1
    ids[HEIGHT // 2 :, : WIDTH // 3] = 2
    segments = [Segment(1, 0, 0.95, "model"), Segment(2, 1, 0.9, "model")]
    if threshold < 0.6:
        ids[HEIGHT // 2 :, -(WIDTH // 3) :] = 3
        segments.append(Segment(3, 1, 0.6, "model"))
    return PanopticMap(ids, segments, SPACE)


@pytest.fixture(scope="module")
def runtime() -> WebRuntime:
    """From the cache, or fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("HF_DETR_PANOPTIC_CACHE")
        try:
            return web_runtime(os.environ.get("RUNTIME_FILE"))
        except NoRuntimeError as error:
            pytest.skip(f"the page's runtime cannot be had: {error}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, runtime: WebRuntime) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name, content in graphs().items():
        (folder / name).write_bytes(content)
    config = SPACE.to_config()
    config["hf_detr_panoptic"] |= {"threshold": 0.5, "min_area": 4, "mask_threshold": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    fits = Preprocess(None, None, fit_within=(HEIGHT, WIDTH), mean=(0, 0, 0), std=(1, 1, 1))
    fits.to_image_processor().save_pretrained(folder)
    (folder / "model.html").write_bytes(one_file(folder, runtime, "Pipes & <sky>"))
    return folder


def opened(open_page, address, width: int = 1280, script: str = ""):
    page = open_page(width=width)
    page.context.set_offline(isinstance(address, Path))
    if script:
        page.add_init_script(script)
    page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
    return page


def said(page, text: str) -> None:
    page.wait_for_selector(f"#status:has-text({json.dumps(text)}), #problem:visible")
    assert text in page.inner_text("#status"), page.inner_text("#problem")


def problem(page, text: str) -> str:
    page.wait_for_selector(f"#problem:has-text({json.dumps(text)})")
    assert page.inner_text("#status") == ""
    return page.inner_text("#problem")


def saved(page, what: str) -> Path:
    with page.expect_download() as download:
        page.click(f"#save-{what}")
    return Path(download.value.path()), download.value.suggested_filename


def read_back(archive: Path, folder: Path):
    with zipfile.ZipFile(archive) as files:
        assert files.testzip() is None
        files.extractall(folder)
    (record,) = read_split(folder, "val")
    return record


def test_a_photo_is_looked_at_from_a_file_without_a_network(open_page, exported, complaints, screenshot, tmp_path):
    page = opened(open_page, exported / "model.html")
    said(page, "Ready.")
    assert page.title() == page.inner_text("h1") == "Pipes & <sky>"
    assert "3 classes: 2 things, 1 stuff" in page.inner_text("header")

    # What is no photo is answered, and the next one is welcome.
    (tmp_path / "torn.jpg").write_text("not a photo at all")
    page.set_input_files("#file", tmp_path / "torn.jpg")
    assert problem(page, "torn.jpg is no photo").endswith("Save it as JPEG or PNG.")
    (tmp_path / "empty.png").touch()
    page.set_input_files("#file", tmp_path / "empty.png")
    problem(page, "empty.png is empty.")
    Image.new("RGB", (1, 1), "blue").save(tmp_path / "one.png")
    page.set_input_files("#file", tmp_path / "one.png")
    said(page, "one.png: no segment passes")  # it has fewer pixels than min_area
    assert page.inner_text("#segments tbody").split() == ["void:", "nobody", "knows", "1", "100.0%"]
    assert page.locator("#problem").is_hidden()
    Image.new("RGB", (8000, 6000), "blue").save(tmp_path / "large.png", compress_level=1)
    page.set_input_files("#file", tmp_path / "large.png")
    said(page, "large.png: 1 segment of 1 class, 0.0% void")
    assert "48,000,000" in page.inner_text("#segments")

    # A class's name is text, wherever it comes from; a photo lies as EXIF says.
    path = photo(tmp_path / "my site <b>.png", orientation=6)
    page.set_input_files("#file", path)
    said(page, "my site <b>.png: 3 segments of 2 classes, 16.7% void")
    rows = [row.split() for row in page.locator("#segments tbody tr").all_inner_texts()]
    area = f"{HEIGHT // 2 * (WIDTH // 3):,}"
    assert rows[0] == ["sky", "1", "0.95", f"{HEIGHT // 2 * WIDTH:,}", "50.0%"]
    assert rows[1:3] == [["pipe", "2", "0.90", area, "16.7%"], ["pipe", "2", "0.60", area, "16.7%"]]
    assert rows[3] == ["void:", "nobody", "knows", area, "16.7%"]
    page.locator("#threshold").fill("0.3")
    said(page, "3 segments")

    # The slider asks the masks again, not the model; what was clicked is told anew.
    box = page.locator("#picture").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    page.wait_for_selector("#tip:has-text('pipe 0.60')")
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.9 * box["height"])
    assert page.locator("#facts dd").all_inner_texts() == [
        *("pipe", "thing", "0.60"),
        *(f"{area} pixels, 16.7% of the photo", "110 × 120 at (220, 120)"),
    ]
    page.locator("#threshold").fill("0.7")
    said(page, "2 segments of 2 classes, 33.3% void")
    page.wait_for_selector("#facts .name:has-text('void')")
    page.locator("#segments tbody button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#facts .name:has-text('pipe')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_selector("#facts .name:has-text('void')")
    assert page.locator("tr.here").count() == page.locator("[aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    page.mouse.move(0, 0)
    page.wait_for_selector("#facts .hint")

    # What is taken home is what is shown.
    archive, name = saved(page, "archive")
    assert name == "my_site_b_panoptic.zip"
    record = read_back(archive, tmp_path / "unpacked")
    assert record.map() == expected(0.7)
    assert record.original_file == path.name
    assert np.array_equal(np.asarray(Image.open(record.photo)), np.asarray(Image.open(photo(tmp_path / "up.png"))))
    assert [c.color for c in record.space][:2] == [c.color for c in SPACE][:2]
    page.locator("#threshold").fill("0.5")
    said(page, "3 segments")
    picture, name = saved(page, "picture")
    assert name == "my_site_b_segments.png"
    shown = np.asarray(Image.open(picture).convert("RGB"), dtype=int)
    drawn = np.asarray(draw(tmp_path / "up.png", expected(0.5), legend=False), dtype=int)
    assert (np.abs(shown - drawn).max(-1) > 2).mean() < 0.03  # the letters are another font's
    screenshot(page, "model_page")

    # A JPEG that lies upright goes into the archive byte for byte.
    plain = photo(tmp_path / "plain.jpg", quality=95)
    page.set_input_files("#file", plain)
    said(page, "plain.jpg: 3 segments")
    assert read_back(saved(page, "archive")[0], tmp_path / "plain").photo.read_bytes() == plain.read_bytes()

    # Nothing leaves, even if it were tried.
    assert complaints == []
    tried = "fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')"
    assert page.evaluate(tried) == "refused"
    assert len(complaints) == 2
    assert all("Content Security Policy" in told for told in complaints)
    complaints.clear()


def test_on_a_phone_in_the_dark(open_page, exported, screenshot, tmp_path):
    page = opened(open_page, exported / "model.html", width=390)
    page.emulate_media(color_scheme="dark")
    page.set_input_files("#camera", photo(tmp_path / "photo.png"))  # before the model is ready
    said(page, "photo.png: 3 segments of 2 classes")
    assert page.evaluate("document.documentElement.scrollWidth") == 390  # nothing to push sideways
    page.locator("#stage").tap(position={"x": 80, "y": 200})
    page.wait_for_selector("#facts .name:has-text('pipe')")
    order = [page.locator(where).bounding_box()["y"] for where in ("#picture", "#threshold", "#facts", "#segments")]
    assert order == sorted(order)
    assert page.locator("#picture").bounding_box()["width"] > 320
    screenshot(page, "model_page_phone")


def test_what_cannot_work_is_said(open_page, exported, runtime, tmp_path):
    old = opened(open_page, exported / "model.html", script="WebAssembly.validate = () => false")
    problem(old, "This browser is too old for the model.")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in exported.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "masks.onnx").write_bytes(b"\x08\x09" + b"\xff" * 200)
    (damaged / "model.html").write_bytes(one_file(damaged, runtime))
    torn = opened(open_page, damaged / "model.html")
    problem(torn, "The model is damaged: its masks cannot be read. Get it again.")


class _Isolating(http.server.SimpleHTTPRequestHandler):
    """As a Space with the headers that threads need."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(exported: Path, runtime: WebRuntime, tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "served"
    (home / "examples").mkdir(parents=True)
    example = photo(home / "examples" / "site 1.png").relative_to(home).as_posix()
    for name, content in served_files(exported, runtime, "Pipes", [example]).items():
        (home / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    handler = functools.partial(_Isolating, directory=str(home))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


def test_served_it_has_examples_and_two_threads(open_page, served):
    page = opened(open_page, served)
    said(page, "Ready, with 2 threads.")
    page.locator("#examples button").click()
    said(page, "site 1.png: 3 segments of 2 classes, 16.7% void")
