"""`trace`: what lies in the folder, what is followed, and what it refuses."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import save_photo
from PIL import Image
from transformers import DetrConfig, DetrForObjectDetection

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.errors import HfDetrPanopticError, LabelError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.preprocess import as_pixels
from hf_detr_panoptic.trace.page import trace_photo
from hf_detr_panoptic.trace.pictures import chosen_queries
from hf_detr_panoptic.trace.trace import trace

PICTURES = ["attention", "boxes", "growth", "levels", "map", "masks", "scores", "self-attention"]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save_photo(tmp_path / "a \"photo\" '<b>' 😀.png")


@pytest.fixture
def model(tiny_labeler: Path) -> DetrForPanopticSegmentation:
    return DetrForPanopticSegmentation.from_pretrained(tiny_labeler).eval()


def test_the_command(tiny_labeler, photo, tmp_path, capsys):
    before, out = photo.read_bytes(), tmp_path / "out"
    words = ["trace", str(tiny_labeler), str(photo), "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    # The photo becomes 64 × 85 pixels.
    for line in (
        r"1 +Res2 +\(32, 16, 22\) +4×4 +detr\.model\.backbone, level 0 ",
        r"2 +memory +\(32, 2, 3\) +32×32 +bbox_attention, 2nd input ",
        r"3 +box embeddings +\(12, 32\) +detr\.model\.decoder ",
        r"4 +attention +\(12, 8, 2, 3\) +32×32 +bbox_attention ",
        r"6 +masks +\(12, 16, 22\) +4×4 +pred_masks ",
        r"7 +map +\(72, 96\) +postprocess ",
    ):
        assert re.search(f"^{line}", said, flags=re.MULTILINE), line
    assert said.splitlines()[-1] == f"next: open {out / 'trace.html'}"
    assert sorted(path.name for path in out.iterdir()) == sorted([*(f"trace-{n}.png" for n in PICTURES), "trace.html"])
    for name in PICTURES:
        with Image.open(out / f"trace-{name}.png") as picture:
            assert min(picture.size) > 90
    page = (out / "trace.html").read_text()
    assert page.count("data:image/png;base64,") == len(PICTURES)
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # no other file, no network
    assert photo.read_bytes() == before

    assert main([*words, "--threshold", "1"]) == 0  # again, in the same folder; nothing passes
    assert "No query passed" in (out / "trace.html").read_text()


def test_names_of_classes_are_text(model, photo, tmp_path):
    space = LabelSpace([Category(HOSTILE, True), Category("a\nb", False)])
    model.carry_classes(space)
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[-1] = -99
        model.detr.class_labels_classifier.bias[0] = 9
    trace_photo(model, photo, tmp_path / "out")
    page = (tmp_path / "out" / "trace.html").read_text()
    assert "<script" not in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page


def test_segments_are_chosen_by_number_or_class(model, photo):
    opened = Image.open(photo)
    (image,) = trace(model, model.preprocess(as_pixels(opened))[None]).images
    space = LabelSpace([Category("pipe", True), Category("sky", False), Category("7", True)])
    labels = {1: 0, 2: 1, 3: 0, 4: 0, 5: 0, 6: 2}  # four pipes, the sky, and a class that is called like a number
    ids = np.repeat(np.arange(7), [3, 4, 5, 6, 7, 8, 1])[None]
    map = PanopticMap(ids, [Segment(number, label) for number, label in labels.items()], space)
    image = replace(image, map=map, queries=(9, 2, 8, 0, 1, 5))
    assert chosen_queries(image, ["3"]) == [8]
    assert chosen_queries(image, ["sky", "pipe", "3"]) == [2, 9, 8, 0, 1]  # each once
    assert chosen_queries(image, ["7"]) == [5]
    assert chosen_queries(image, None) == [1, 2, 5, 0]  # thing and stuff by turns, each class first once
    with pytest.raises(LabelError, match="no segment 'pip'. Did you mean 'pipe'"):
        chosen_queries(image, ["pip"])
    nothing = replace(image, map=PanopticMap(ids * 0, [], space), queries=(), scores=np.array([0.1, 0.3, 0.2]))
    assert chosen_queries(nothing, None) == [1, 2, 0]  # the surest


def test_where_nothing_passed(model, photo, tmp_path):
    model.settings = model.settings.changed(threshold=1.0)
    with pytest.raises(LabelError, match="try a lower --threshold"):
        trace_photo(model, photo, tmp_path / "out", segments=["person"])
    assert not (tmp_path / "out").exists()


def test_a_detection_checkpoint_has_nothing_to_trace(tiny_labeler, photo, tmp_path, capsys):
    torch.manual_seed(0)
    DetrForObjectDetection(DetrConfig.from_pretrained(tiny_labeler)).save_pretrained(tmp_path / "boxes")
    assert main(["trace", str(tmp_path / "boxes"), str(photo), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "boxes: is a detection checkpoint" in said
    assert not (tmp_path / "out").exists()


def test_what_is_not_ours_is_left_alone(model, photo, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "trace.html").write_text("my own page")
    with pytest.raises(HfDetrPanopticError, match=r"trace\.html: is there already, and no trace of ours"):
        trace_photo(model, photo, out)
    assert (out / "trace.html").read_text() == "my own page"
    (out / "trace.html").unlink()
    trace_photo(model, photo, out)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(HfDetrPanopticError, match="the photo lies where a picture goes"):
        trace_photo(model, out / "trace-map.png", out)
    with pytest.raises(HfDetrPanopticError, match="is a file, not a folder"):
        trace_photo(model, photo, photo)


def test_a_photo_that_is_none(tiny_labeler, tmp_path, capsys):
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    assert main(["trace", str(tiny_labeler), str(tmp_path / "torn.jpg"), "--out", str(tmp_path / "out")]) == 2
    assert "torn.jpg: is not a photo" in capsys.readouterr().err


# --- docs/how-detr-panoptic-works.md


@pytest.fixture
def maker(root):
    spec = importlib.util.spec_from_file_location("make_trace", root / "docs" / "pictures" / "make_trace.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_of_the_page(maker, tiny_labeler, tmp_path):
    made = maker.pictures(str(tiny_labeler), tmp_path)
    shown = re.findall(r"\(pictures/(trace-[\w-]+\.png)\)", maker.PAGE.read_text())
    assert sorted(shown) == sorted(path.name for path in made)
    for name in shown:
        assert (maker.HERE / name).stat().st_size <= 250_000


@pytest.mark.slow
def test_the_table_of_the_page(maker):
    """Two photos of 873×1060 through a random ResNet-50: the students' table, its slips corrected."""
    table = maker.table()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    seen = {row[1]: row[2] for row in rows[2:]}
    assert seen["Res2"] == "(256, 219, 265)"
    assert seen["Res3"] == "(512, 110, 133)"
    assert seen["Res4"] == "(1024, 55, 67)"
    assert seen["Res5"] == "(2048, 28, 34)"
    assert seen["projected"] == seen["memory"] == "(256, 28, 34)"
    assert seen["object queries"] == seen["box embeddings"] == "(100, 256)"
    assert seen["attention"] == "(100, 8, 28, 34)"
    assert seen["input"] == "(100, 264, 28, 34)"
    assert seen["masks"] == "(100, 219, 265)"
    assert {row[4].split(",")[0] for row in rows[2:]} == {"(2", "(200"}
    page = maker.PAGE.read_text(encoding="utf-8")
    assert page.split(maker.BEGIN)[1].split(maker.END)[0].strip() == table
