"""The `evaluate` module: loaded from its folder, offline, by a process that cannot import the package."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_detr_panoptic.errors import DatasetError
from hf_detr_panoptic.evaluation.metric.annotations import count_pair, words_of_png
from hf_detr_panoptic.evaluation.metric.counting import summarise
from hf_detr_panoptic.hub.push import METRIC, SIBLINGS, export_metric
from hf_detr_panoptic.panoptic_map import ids_to_rgb

STRANGER = """
import sys

sys.modules["hf_detr_panoptic"] = None  # whatever is installed: importing it raises
import json
import evaluate

folder, inputs = sys.argv[1:]
sides = json.load(open(inputs))
for side in sides["predictions"] + sides["references"]:
    side["png"] = open(side["png"], "rb").read()
metric = evaluate.load(folder)
for prediction, reference in zip(sides["predictions"], sides["references"]):
    metric.add(prediction=prediction, reference=reference)
streamed = metric.compute(categories=sides["categories"])
at_once = metric.compute(**sides)
stated = metric.compute(**sides, json_areas=True)
print(json.dumps([streamed, at_once, stated]))
"""

CATEGORIES = [{"id": 4, "name": "pipe", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]


def png(rows, mode="RGB"):
    image = Image.fromarray(ids_to_rgb(np.array(rows)))
    data = io.BytesIO()
    image.convert(mode).save(data, format="PNG")
    return data.getvalue()


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    """Two images on disk: 3 of 4 pixels of a pipe found, its area said to be 5, and a sky whole; ids above 255."""
    (tmp_path / "guess.png").write_bytes(png([[70000, 70000, 70000, 0], [9, 9, 9, 9]]))
    (tmp_path / "truth.png").write_bytes(png([[300, 300, 300, 300], [9, 9, 9, 9]]))
    guess = [{"id": 70000, "category_id": 4}, {"id": 9, "category_id": 9, "score": 0.9}]
    truth = [
        {"id": 300, "category_id": 4, "iscrowd": 0, "area": 5, "bbox": [0, 0, 4, 1]},
        {"id": 9, "category_id": 9, "iscrowd": 0, "area": 4, "bbox": [0, 1, 4, 1], "source": "auto"},
    ]
    inputs = {
        "predictions": [{"png": str(tmp_path / "guess.png"), "segments_info": guess}] * 2,
        "references": [{"png": str(tmp_path / "truth.png"), "segments_info": truth}] * 2,
        "categories": CATEGORIES,
    }
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    return tmp_path / "inputs.json"


@pytest.mark.parametrize("place", ["the package's folder", "an exported folder"])
def test_loads_offline_without_the_package(place, sides, tmp_path):
    folder = METRIC if place == "the package's folder" else export_metric(tmp_path / "panoptic-quality")
    (tmp_path / "elsewhere").mkdir()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    run = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(folder), str(sides)],
        cwd=tmp_path / "elsewhere",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    streamed, at_once, stated = json.loads(run.stdout.splitlines()[-1])
    assert streamed == at_once
    assert (streamed["pq"], streamed["things"]["pq"], streamed["stuff"]["pq"]) == (0.875, 0.75, 1.0)
    assert streamed["per_class"][0] | {"sq": 0.75, "tp": 2, "fp": 0, "fn": 0} == streamed["per_class"][0]
    assert streamed["sources"]["auto"]["pq"] == 1.0
    assert stated["things"]["sq"] == pytest.approx(0.6, abs=1e-15)


def test_the_export_holds_what_the_module_imports(tmp_path):
    folder = export_metric(tmp_path / "anything", name="someone/panoptic-quality")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["panoptic-quality.py", "README.md", *SIBLINGS])
    assert 'evaluate.load("someone/panoptic-quality")' in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be called 'counting'"):
        export_metric(tmp_path / "counting")


# --- what the files may get wrong: each a clear sentence


PIPE = [{"id": 1, "category_id": 4}]


def pair(truth=((1, 1),), prediction=((1, 1),), truth_info=PIPE, prediction_info=PIPE, **options):
    counts = count_pair(png(truth), truth_info, png(prediction), prediction_info, [4, 9], **options)
    return summarise(counts, {4: "pipe", 9: "sky"}, [4])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"prediction": [[1, 1, 1]]}, "the prediction is 3×1 pixels, the truth 2×1"),
        ({"prediction_info": [{"id": 1, "category_id": 5}]}, "the prediction: segment 1 is of category 5"),
        ({"truth_info": PIPE * 2}, "the truth: segment 1 is listed twice"),
        ({"prediction_info": []}, "the prediction: id 1 is in the pixels but not"),
        ({"prediction_info": [*PIPE, {"id": 2, "category_id": 4}]}, "segment 2 is in segments_info but has no pixel"),
        ({"truth_info": []}, "the truth: id 1 is in the pixels but not"),
        ({"truth_info": [{"id": 1, "category_id": "4"}]}, "category_id is '4', not a whole number"),
        ({"truth_info": [{**PIPE[0], "source": "me"}]}, "the source 'me'"),
        ({"json_areas": True}, "segment 1 states the area 0"),
        ({"json_areas": True, "truth_info": [{**PIPE[0], "area": 1.5}]}, "segment 1 states the area 1.5"),
    ],
)
def test_a_wrong_pair_is_named(case, message):
    with pytest.raises(ValueError, match=message):
        pair(**case)


def test_stated_areas_as_panopticapi_takes_them():
    assert pair(json_areas=True, truth_info=[{**PIPE[0], "area": 3.0}])["sq"] == pytest.approx(2 / 3, abs=1e-15)
    # A truth that contradicts its PNG: the absent segment is missed, the unlisted id belongs to nobody.
    contradicting = [{**PIPE[0], "area": 2}, {"id": 5, "category_id": 9, "area": 7}]
    result = pair(
        json_areas=True, truth=[[1, 1, 6]], prediction=[[1, 1, 2]], truth_info=contradicting,
        prediction_info=[*PIPE, {"id": 2, "category_id": 9}],
    )  # fmt: skip
    assert [(row["tp"], row["fp"], row["fn"]) for row in result["per_class"]] == [(1, 0, 0), (0, 1, 1)]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_png_that_lost_its_ids_is_named(mode):
    with pytest.raises(ValueError, match=f"this one is {mode}"):
        words_of_png(png([[1, 2]], mode))
    with pytest.raises(ValueError, match="the prediction: "):
        count_pair(png([[1, 1]]), PIPE, b"not a PNG", PIPE, [4])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_ids_of_a_png_use_all_three_bytes(mode):
    rows = [[0, 1, 255], [256, 65536, 256**3 - 1]]
    assert (words_of_png(png(rows, mode)) & 0xFFFFFF).tolist() == rows


def test_transparency_is_no_part_of_an_id():
    rgba = np.zeros((1, 4, 4), dtype=np.uint8)
    rgba[..., 0], rgba[..., 3] = 1, [[255, 0, 7, 255]]
    data = io.BytesIO()
    Image.fromarray(rgba).save(data, format="PNG")
    counts = count_pair(data.getvalue(), PIPE, png([[1, 1, 1, 1]]), PIPE, [4])
    assert summarise(counts, {4: "pipe"}, [4])["pq"] == 1.0
