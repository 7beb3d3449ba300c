"""`app`: the model behind the page is the one that `segment` runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

import pytest
from PIL import Image

from hf_detr_panoptic.cli import main
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.settings import Postprocess
from hf_detr_panoptic.steps.app import app_model, save_example_photos


def test_the_app_shows_what_segment_gives(tiny_labeler):
    model = DetrForPanopticSegmentation.from_pretrained(tiny_labeler).eval()
    model.settings = Postprocess(threshold=0.1, min_area=0, fill="argmax")
    told = app_model(model)
    assert (told.floor, told.threshold) == (0.1, 0.1)
    assert told.space == model.label_space
    photo = Image.new("RGB", (48, 32), (90, 120, 60))
    segmented = told.segment(photo)
    levels = (0.1, 0.3, 0.95)
    expected = [model.segment(photo, threshold=level)[0] for level in levels]
    assert len(expected[0].segments) > 1
    assert [segmented.map(level) for level in levels] == expected


def test_a_model_by_its_folder(tiny_labeler):
    told = app_model(tiny_labeler)
    assert told.name == f"{tiny_labeler.parent.name}/{tiny_labeler.name}"  # and not where it lies
    assert (told.floor, told.threshold) == (0.3, 0.85)


def test_there_are_photos_to_click(tmp_path):
    photos = sorted(save_example_photos(tmp_path / "new").iterdir())
    assert [Image.open(photo).size for photo in photos] == [(768, 576)] * 3


def test_a_photo_that_is_not_there(tiny_labeler, tmp_path, capsys):
    assert main(["app", str(tiny_labeler), str(tmp_path / "a.jpg")]) == 2
    assert "a.jpg" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_interrupted(tiny_labeler, tmp_path):
    Image.new("RGB", (48, 32), (90, 120, 60)).save(tmp_path / "a.png")
    words = [
        sys.executable,
        "-m",
        "hf_detr_panoptic.cli",
        "app",
        str(tiny_labeler),
        str(tmp_path),
        "--title",
        "Ours <3",
    ]
    # Whoever runs the tests in the background has made SIGINT ignored, and children inherit that.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **listening) as app:
        try:
            address = app.stdout.readline().split()[0]
            with urllib.request.urlopen(address) as page:
                assert "Ours " in page.read().decode()
        finally:
            app.send_signal(signal.SIGINT)
        assert app.wait(timeout=120) == 0
