"""Pushed by the command, loaded by name in a fresh process with an empty cache: every way gives the same."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer
from made import HOSTILE as SPACE
from made import noise, scene, write_data, write_run
from transformers import pipeline

from hf_detr_panoptic import DetrForPanopticSegmentation, PanopticQuality
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.hub.cards import PIPELINE_THRESHOLD

pytestmark = pytest.mark.slow  # two fresh processes that import everything

# What somebody else does: told as one program, so that everything is imported once.
ELSEWHERE = """
import contextlib, hashlib, io, json, os, re, sys
import numpy as np
import torch
from pathlib import Path

torch.set_num_threads(1)
os.chdir(sys.argv[1])
told = {}

from huggingface_hub import DatasetCard, ModelCard

card = ModelCard.load("anna/site")
card.validate()
data_card = DatasetCard.load("anna/site-photos")
data_card.validate()

from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, DetrForSegmentation, pipeline
from transformers.image_utils import load_image
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.model.postprocess import choose_queries, postprocess

ours = DetrForPanopticSegmentation.from_pretrained("anna/site")
segmenter = pipeline("image-segmentation", "anna/site")
ways = {
    "ours": ours,
    "plain": DetrForSegmentation.from_pretrained("anna/site"),
    "auto": AutoModelForUniversalSegmentation.from_pretrained("anna/site"),
    "pipeline": segmenter.model,
}
told["classes"] = {way: type(model).__name__ for way, model in ways.items()}
photo = load_image("photo.jpg")
inputs = AutoImageProcessor.from_pretrained("anna/site")(images=photo, return_tensors="pt")
numbers = {"pixels": inputs["pixel_values"], "segment": ours.segment("photo.jpg")[0].ids}
for way, model in ways.items():
    with torch.no_grad():
        found = model.eval()(**inputs)
    numbers |= {f"{way} {key}": found[key] for key in ("logits", "pred_boxes", "pred_masks")}
    (kept,) = choose_queries(found.logits, ours.label_space, ours.settings.threshold)
    size = (photo.height, photo.width)
    map = postprocess(kept, found.pred_masks[0, kept.queries], ours.label_space, size, ours.settings)
    numbers[f"{way} ids"] = map.ids
told["pipeline"] = [[segment["label"], segment["score"]] for segment in segmenter("photo.jpg")]

told["said"] = []
for page in (card, data_card):
    for block in re.findall(r"```python\\n(.*?)```", page.text, re.DOTALL):
        world = {}
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(block, "card", "exec"), world)
        told["said"].append(said.getvalue())
        if "DetrForSegmentation" in block:
            numbers["card"] = world["ids"]
            told["segments"] = world["segments"]

from datasets import Image, load_dataset
from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.rows import rows_of

digest = lambda content: hashlib.sha256(content).hexdigest()
listed = lambda segment: [segment.id, segment.label, segment.score, segment.source]
loaded = load_panoptic("anna/site-photos")
space = loaded.label_space
told["space"] = [[c.name, c.isthing, c.source] for c in space]
told["rows"] = {
    split: [
        [digest(row.photo), digest(row.map().ids.tobytes()), [listed(s) for s in row.segments]]
        for row in rows_of(rows, space)
    ]
    for split, rows in loaded.items()
}
told["plain rows"] = {
    split: [
        [digest(row["image"]["bytes"]), digest(row["panoptic"]["bytes"]), row["segments"]]
        for row in rows.cast_column("image", Image(decode=False)).cast_column("panoptic", Image(decode=False))
    ]
    for split, rows in load_dataset("anna/site-photos").items()
}

import evaluate

metric = evaluate.load("anna/panoptic-quality")
sides = json.loads(Path("sides.json").read_text())
for side in (*sides["predictions"], *sides["references"]):
    side["png"] = bytes.fromhex(side["png"])
told["quality"] = metric.compute(**sides)
np.savez("numbers.npz", **{name: np.asarray(values) for name, values in numbers.items()})
Path("told.json").write_text(json.dumps(told))
"""


def side(map: Any) -> dict[str, Any]:
    from hf_detr_panoptic.dataset.writer import encode_map

    encoded = encode_map(map)
    return {"png": encoded.png.hex(), "segments_info": encoded.segments}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("both")


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return write_run(home / "run", write_data(home / "data"), model=True)


@pytest.fixture(scope="module")
def elsewhere(home: Path, run: Path) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """What the other process was told, and its numbers."""
    there = home / "elsewhere"
    there.mkdir()
    noise().save(there / "photo.jpg", quality=95)
    truth, guess = scene(), scene().without([2])
    sides = {"predictions": [side(guess)], "references": [side(truth)], "categories": SPACE.to_coco()}
    (there / "sides.json").write_text(json.dumps(sides))
    with HubServer() as hub:
        names = ["--data", str(home / "data"), "anna/site-photos", "--metric", "anna/panoptic-quality"]
        pushed = hub.cli(
            "push", run, "anna/site", *names, "--license", "mit", "--final-only", home=home / "one",
            HF_DATASETS_CACHE=str(home / "one" / "datasets"),
        )  # fmt: skip
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        done = hub.python(ELSEWHERE, there, home=home / "two", OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr[-3000:]
    with np.load(there / "numbers.npz") as numbers:
        yield json.loads((there / "told.json").read_text()), dict(numbers)


Elsewhere = tuple[dict[str, Any], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def local(home: Path, run: Path, elsewhere: Elsewhere, one_thread: None) -> tuple[Any, Any, Any]:
    """The model of the run's own folder: what it says of the same pixels, and its map of the photo."""
    model = DetrForPanopticSegmentation.from_pretrained(run / "final").eval()
    with torch.no_grad():
        found = model(pixel_values=torch.from_numpy(elsewhere[1]["pixels"]))
    return model, found, model.segment(home / "elsewhere" / "photo.jpg")[0]


def test_every_way_loads_the_whole_model(elsewhere: Elsewhere, local: tuple[Any, Any, Any]) -> None:
    told, numbers = elsewhere
    assert told["classes"] == {
        "ours": "DetrForPanopticSegmentation",
        "plain": "DetrForSegmentation",
        "auto": "DetrForSegmentation",
        "pipeline": "DetrForSegmentation",
    }
    for way in told["classes"]:
        for key in ("logits", "pred_boxes", "pred_masks"):
            expected = local[1][key].numpy()
            assert numbers[f"{way} {key}"].shape == expected.shape
            assert np.abs(numbers[f"{way} {key}"] - expected).max() <= 1e-5 * np.abs(expected).max(), (way, key)


def test_every_way_gives_the_same_ids(elsewhere: Elsewhere, local: tuple[Any, Any, Any]) -> None:
    told, numbers = elsewhere
    assert len(local[2].segments) > 3
    assert np.array_equal(numbers["segment"], local[2].ids)
    for way in told["classes"]:
        assert np.array_equal(numbers[f"{way} ids"], local[2].ids), way


def test_the_code_on_the_card_gives_the_same_map(elsewhere: Elsewhere, local: tuple[Any, Any, Any]) -> None:
    """The pipeline does not: it is why the code is there."""
    told, numbers = elsewhere
    model, _, map = local
    assert np.array_equal(numbers["card"], map.ids)
    assert [segment["label"] for segment in told["segments"]] == [SPACE[s.label].name for s in map.segments]
    lines = told["said"][0].split("pixels\n")
    assert len(lines) == len(map.segments) + 1
    assert [label for label, _ in told["pipeline"]] != [SPACE[s.label].name for s in map.segments]
    assert model.settings.threshold < PIPELINE_THRESHOLD
    assert all(score > PIPELINE_THRESHOLD for _, score in told["pipeline"])


def test_the_other_blocks_of_the_cards_ran(elsewhere: Elsewhere, home: Path) -> None:
    told, _ = elsewhere
    assert len(told["said"]) == 4
    assert (home / "elsewhere" / "overlay.png").is_file()
    assert "pipe 960 pixels, custom" in told["said"][2]  # 32 × 30
    assert told["said"][3].startswith("{1: 960, 2: 640, 3: 5312} {1: (0, 40, 30, 32)")


def test_the_dataset_comes_back_whole(elsewhere: Elsewhere, home: Path) -> None:
    """Every photo to the byte, every pixel, every segment."""
    from hashlib import sha256

    told, _ = elsewhere
    splits = read_dataset(home / "data")
    assert told["space"] == [[category.name, category.isthing, category.source] for category in SPACE]
    for ours, theirs in (("train", "train"), ("val", "validation")):
        records = list(splits[ours])
        expected = [
            [
                sha256(record.photo.read_bytes()).hexdigest(),
                sha256(record.map().ids.tobytes()).hexdigest(),
                [[s.id, s.label, s.score, s.source] for s in record.segments],
            ]
            for record in records
        ]
        assert told["rows"][theirs] == expected
        plain = told["plain rows"][theirs]
        assert [row[:2] for row in plain] == [
            [sha256(record.photo.read_bytes()).hexdigest(), sha256(record.png.read_bytes()).hexdigest()]
            for record in records
        ]
        assert [[[s["id"], s["label"], s["score"], s["source"]] for s in row[2]] for row in plain] == [
            row[2] for row in expected
        ]


def test_the_metric_counts_as_the_package_does(elsewhere: Elsewhere) -> None:
    told, _ = elsewhere
    expected = PanopticQuality(SPACE).update(scene().without([2]), scene()).compute()
    assert told["quality"]["pq"] == expected["pq"]
    assert told["quality"]["things"] == expected["things"]
    assert expected["things"]["pq"] == pytest.approx(2 / 3)  # one pipe found, one missed: 1 / (1 + ½)


def test_what_the_card_says_of_the_pipeline(run: Path, elsewhere: Elsewhere) -> None:
    """Its own threshold, stuff listed twice, and a lone query that takes the whole photo."""
    import inspect
    from types import SimpleNamespace

    segmenter = pipeline("image-segmentation", str(run / "final"))
    threshold = inspect.signature(segmenter.postprocess).parameters["threshold"].default
    assert threshold == PIPELINE_THRESHOLD
    logits = torch.full((1, 2, 5), -9.0)
    logits[:, :, 2] = 9.0  # both queries say sky
    masks = torch.full((1, 2, 4, 4), -9.0)
    masks[:, 0, :, :2], masks[:, 1, :, 2:] = 9.0, 9.0

    class Outputs(SimpleNamespace):
        def __getitem__(self, key: str) -> Any:
            return getattr(self, key)

    both = segmenter.postprocess(Outputs(logits=logits, pred_masks=masks, target_size=[(4, 4)]))
    assert [segment["label"] for segment in both] == [SPACE.names[2]] * 2
    alone = segmenter.postprocess(Outputs(logits=logits[:, :1], pred_masks=masks[:, :1] - 1.0, target_size=[(4, 4)]))
    assert [np.asarray(segment["mask"]).min() for segment in alone] == [255]


def test_nothing_of_this_machine_is_on_the_cards(elsewhere: Elsewhere, home: Path) -> None:
    cached = [path for path in (home / "two").rglob("README.md") if path.is_file()]
    assert len(cached) >= 2
    for path in cached:
        text = path.read_text(encoding="utf-8")
        assert str(home) not in text
        assert not re.search(rf"/home/\w|{re.escape(os.sep)}tmp{re.escape(os.sep)}", text)
