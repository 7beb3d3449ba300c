"""examples/widget.py: a photo posted to endpoints on this machine, and the answer drawn; offline, as all tests are."""

from __future__ import annotations

import importlib.util
import json
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from made import HOSTILE as SPACE
from made import noise, speaking_model
from PIL import Image
from transformers import pipeline

from hf_detr_panoptic.errors import HfDetrPanopticError


@pytest.fixture(scope="module")
def widget(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("widget_example", root / "examples" / "widget.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widget") / "model"
    speaking_model().save_pretrained(folder)
    return folder


def test_a_photo_there_and_back(
    widget: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = noise(3)
    photo.save(tmp_path / "photo.png")
    assert widget.main([str(model), str(tmp_path / "photo.png"), "--out", str(tmp_path / "out.png")]) == 0
    said = capsys.readouterr().out.splitlines()
    (map,) = speaking_model().segment(photo)
    handler = said[said.index(f"handler: {len(map.segments)} segments") + 1 : -1]
    assert [line.rsplit(",", 1)[0] for line in handler] == [
        f"  {SPACE[s.label].name} {s.score:.2f}" for s in map.segments
    ]
    stock = pipeline("image-segmentation", model=str(model))(photo)
    assert said[0] == f"pipeline: {len(stock)} segments"
    with Image.open(tmp_path / "out.png") as out:
        assert out.width > 3 * photo.width


def test_what_comes_back_is_what_the_pipeline_says(
    widget: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which does not know this machine
    noise().save(tmp_path / "photo.png")
    mask = Image.new("L", (96, 72))
    mask.paste(255, (0, 0, 48, 72))
    asked: list[dict[str, Any]] = []

    def answer(data: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(data)
        return [{"label": "sky <b>", "score": 0.97, "mask": widget._png(mask)}]

    with widget.serving({"model": answer}) as address:
        (segment,) = widget.post(f"{address}/model", tmp_path / "photo.png")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        (same,) = InferenceClient(model=f"{address}/model").image_segmentation(tmp_path / "photo.png")
    assert (same.label, same.score) == (segment.label, segment.score)  # the Hub's own client understands it too
    assert (segment.label, segment.score) == ("sky <b>", 0.97)
    assert np.array_equal(np.asarray(segment.mask), np.asarray(mask))
    assert asked[0]["parameters"] == {}
    drawn = np.asarray(widget.picture(noise(), [segment])).astype(int)
    before = np.asarray(noise()).astype(int)
    assert np.array_equal(drawn[:72, 48:], before[:, 48:])
    color = np.array(widget.default_color(0))
    assert np.abs(drawn[:72, :48] - (0.4 * before[:, :48] + 0.6 * color)).max() <= 0.51
    assert drawn.shape[0] > 72  # and below the list of what it is


def test_refusals(widget: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(data: dict[str, Any]) -> list[dict[str, Any]]:
        raise ValueError("threshold is 2: give a number from 0 to 1")

    noise().save(tmp_path / "photo.png")
    with widget.serving({"model": refuse}) as address:
        with pytest.raises(HfDetrPanopticError, match=r"photo\.png: the endpoint refuses the photo: threshold is 2"):
            widget.post(f"{address}/model", tmp_path / "photo.png")
        for path, body, status in (("/other", b"x", 404), ("/model", b"", 413), ("/model", b"{", 400)):
            request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == status
            assert "error" in json.load(refused.value)
    assert widget.main(["nowhere", str(tmp_path / "absent.png")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert widget.main(["anna/no-such-model", str(tmp_path / "photo.png")]) == 1
    assert "error: anna/no-such-model: the model cannot be loaded (" in capsys.readouterr().err
