"""`evaluate`: a model on a dataset, alone and shared, and panopticapi's own way of asking."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import TWO_PROCESSES, run_python, tiny_model, write_dataset
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, PanopticQuality, Segment, evaluate_model
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.errors import DatasetError, HfDetrPanopticError, LabelError
from hf_detr_panoptic.evaluation import evaluate
from hf_detr_panoptic.evaluation.evaluate import measure
from hf_detr_panoptic.evaluation.quality import AveragePrecision
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation

pytestmark = pytest.mark.bits

SPACE = LabelSpace([Category("pipe", isthing=True), Category("sky", isthing=False), Category("rust", isthing=True)])
SIZES = [(40, 56), (40, 56), (48, 40), (40, 56), (48, 40)]  # height, width: an odd number, two sizes
LOOSE = {"threshold": 0.2, "fill": "argmax", "min_area": 0}  # random weights find something


def truth_of(place: int) -> PanopticMap:
    ids = np.full(SIZES[place], 1, dtype=np.int32)
    ids[10:20, 4 : 20 + place] = 2
    ids[30:, :10] = 3
    ids[:4] = 0
    sources = ["custom", "custom", "auto"]
    return PanopticMap(ids, [Segment(i + 1, label, source=sources[i]) for i, label in enumerate((1, 0, 2))], SPACE)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", {"val": [truth_of(index) for index in range(len(SIZES))]})


@pytest.fixture(scope="module")
def model() -> DetrForPanopticSegmentation:
    made = tiny_model(SPACE, seed=3).eval()
    with torch.no_grad():  # queries that disagree: random ones all say the same
        made.detr.class_labels_classifier.weight.mul_(8)
        made.detr.model.query_position_embeddings.weight.mul_(4)
    return made


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


# --- a model that says the truth: names and kinds


class Truthful:
    """A model that returns the truth in a label space of its own."""

    training, settings = False, None

    def __init__(self, space: LabelSpace, names: dict[str, str | None] | None = None, stripes: bool = False) -> None:
        self.label_space, self.names, self.stripes = space, names, stripes
        self.batches: list[int] = []

    def eval(self):
        return self

    def train(self, mode=True):
        return self

    def preprocess(self, pixels):
        return pixels

    def maps(self, batch):
        self.batches.append(len(batch.rows))
        truths = [truth_of(row.image_id - 1).relabelled(self.label_space, self.names) for row in batch.rows]
        return [self._in_stripes(truth) if self.stripes else truth for truth in truths]

    def _in_stripes(self, truth):
        ids = truth.ids.copy()
        ids[:, ::2][ids[:, ::2] == 1] = 99
        extra = Segment(99, truth.segment(1).label, score=0.5)
        return PanopticMap(ids, [*truth.segments, extra], self.label_space)


@pytest.fixture
def records(dataset, monkeypatch):
    monkeypatch.setattr(evaluate, "_maps", lambda model, settings, precision: model.maps)
    return read_split(dataset, "val").records


def test_classes_meet_by_name(records):
    wider = LabelSpace([Category("cat", isthing=True), SPACE[2], SPACE[1], SPACE[0]])
    model = Truthful(wider)
    result = measure(model, records, SPACE, None, batch_size=2).compute()
    assert (result["pq"], result["images"]) == (1.0, 5)
    assert result["box"]["things"]["ap"] == pytest.approx(1.0)
    assert result["sources"]["auto"]["pq"] == 1.0
    assert sorted(model.batches) == [1, 2, 2]  # equal sizes together: three of one, two of the other


def test_a_class_that_the_data_has_not_becomes_void(records):
    cats = LabelSpace([Category("cat", isthing=True), SPACE[0], SPACE[1]])
    result = measure(Truthful(cats, {"rust": "cat"}), records, SPACE, None, batch_size=2).compute()
    assert [row["pq"] for row in result["per_class"]] == [1.0, 1.0, 0.0]
    assert result["confusion"]["missed"] == [0, 0, 5]
    assert result["confusion"]["invented"] == [0, 0, 0]


def test_no_common_class_is_an_error(records):
    with pytest.raises(LabelError, match=r"no class of the data, pipe, sky, rust, is among the model's: cat"):
        measure(Truthful(LabelSpace([Category("cat", isthing=True)])), records, SPACE, None, batch_size=2)


def test_stuff_that_the_model_takes_for_things_is_one_segment(records):
    skies = LabelSpace([SPACE[0], Category("sky", isthing=True), SPACE[2]])
    result = measure(Truthful(skies, stripes=True), records, SPACE, None, batch_size=2).compute()
    assert result["stuff"]["pq"] == 1.0


def test_processes_share_the_images(records, monkeypatch):
    seen = []
    for rank in range(3):
        state = SimpleNamespace(process_index=rank, num_processes=3)
        monkeypatch.setattr("accelerate.PartialState", lambda state=state: state)
        # What the others would send is not here: the whole list of photos cannot be put together.
        monkeypatch.setattr(evaluate, "results_of_all", lambda work: seen.extend(work()) or [])
        with pytest.raises(KeyError):
            measure(Truthful(SPACE), records, SPACE, None, batch_size=1)
    assert sorted(seen) == [1, 2, 3, 4, 5]


def test_mix_ups_are_told(records):
    swapped = Truthful(SPACE, {"pipe": "rust", "rust": "pipe"})
    result = measure(swapped, records, SPACE, None, batch_size=2).compute()
    assert result["mix_ups"] == [("pipe", "rust", 5), ("rust", "pipe", 5)]


# --- a real model


@pytest.mark.parametrize("tiles", [{}, {"tile": 32, "overlap": 8}], ids=["whole", "in tiles"])
def test_a_model_is_measured_as_by_hand(model, dataset, tiles):
    result = evaluate_model(model, dataset, batch_size=1, **LOOSE, **tiles)
    quality = PanopticQuality(SPACE)
    for place in range(len(SIZES)):
        photo = Image.open(dataset / "images" / f"p{place}.png")
        (prediction,) = model.segment(photo, batch_size=1, **LOOSE, **tiles)
        quality.update(prediction, truth_of(place))
    expected = quality.compute()
    assert {key: result[key] for key in expected} == expected
    assert sum(row["tp"] + row["fp"] for row in result["per_class"]) > 5
    assert model.preprocess.shortest_edge == 64


def test_a_photo_is_measured_without_its_incomplete_classes(model, dataset):
    path = dataset / "annotations/panoptic_val.json"
    content = json.loads(path.read_text())
    told = {1: ["pipe", "rust"], 3: ["sky"]}
    for place, names in told.items():
        content["images"][place]["incomplete"] = names
    path.write_text(json.dumps(content))
    result = evaluate_model(model, dataset, batch_size=1, **LOOSE)
    quality, precision = PanopticQuality(SPACE), AveragePrecision(SPACE)
    for place in range(len(SIZES)):
        (prediction,) = model.segment(Image.open(dataset / "images" / f"p{place}.png"), batch_size=1, **LOOSE)
        quality.update(prediction, truth_of(place), incomplete=told.get(place, []))
        precision.update(place, prediction, truth_of(place), told.get(place, []))
    expected = {**quality.compute(), **precision.compute()}
    assert {key: result[key] for key in expected} == expected
    assert [row["tp"] + row["fn"] for row in result["per_class"] if row["name"] != "sky"] == [4, 4]


def test_the_papers_protocol(model, dataset, monkeypatch):
    seen = {}

    def segment_batch(model, pixel_values, sizes, settings, precision):
        edges = (model.preprocess.shortest_edge, model.preprocess.longest_edge)
        seen.update(settings.to_dict(), precision=precision, edges=edges)
        return [PanopticMap(np.zeros(size, dtype=np.int32), [], SPACE) for size in sizes]

    monkeypatch.setattr("hf_detr_panoptic.model.segment.segment_batch", segment_batch)
    result = evaluate_model(model, dataset, protocol="paper", limit=3)
    assert seen == {
        "threshold": 0.85, "fill": "argmax", "min_area": 5, "duplicate": 1.0, "mask_threshold": 0.5,
        "precision": "fp32", "edges": (800, 1333),
    }  # fmt: skip
    assert model.preprocess.shortest_edge == 64
    assert (result["images"], result["pq"], result["settings"]["protocol"]) == (3, 0.0, "paper")
    with pytest.raises(HfDetrPanopticError, match="no protocol 'papers'"):
        evaluate_model(model, dataset, protocol="papers")
    with pytest.raises(DatasetError, match="no split called 'test'"):
        evaluate_model(model, dataset, split="test")
    with pytest.raises(DatasetError, match="no photo to evaluate"):
        evaluate_model(model, dataset, limit=0)


EVALUATE = (*TWO_PROCESSES, "-m", "hf_detr_panoptic.cli", "evaluate")


def test_two_processes_equal_one(checkpoint, dataset, tmp_path, one_thread):
    wanted = ["--model", checkpoint, "--data", dataset, "--threshold", 0.2, "--fill", "argmax", "--min-area", 0]
    done = run_python(*EVALUATE, *wanted, "--batch-size", 2, "--json", tmp_path / "two.json")
    assert done.stdout.count("5 images") == 1  # said once, whatever the number of processes
    alone = evaluate_model(checkpoint, dataset, batch_size=2, **LOOSE)
    assert json.loads((tmp_path / "two.json").read_text()) == json.loads(json.dumps(alone))
    assert alone["images"] == 5
    assert sum(row["tp"] + row["fp"] for row in alone["per_class"]) > 5


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(checkpoint, dataset):
    (dataset / "images" / "p4.png").write_bytes(b"torn")
    done = run_python(*EVALUATE, "--model", checkpoint, "--data", dataset, "--batch-size", 2, fails=True)
    assert done.stderr.count("hf-detr-panoptic evaluate:") == 2
    assert "p4.png" in done.stderr


# --- the command


def test_folders_as_panopticapi_asks(dataset, tmp_path, capsys):
    truth = dataset / "annotations" / "panoptic_val.json"
    theirs = [
        "--gt_json_file",
        str(truth),
        "--pred_json_file",
        str(truth),
        "--pred_folder",
        str(truth.with_suffix("")),
    ]
    csv = tmp_path / "classes.csv"
    assert main(["evaluate", *theirs, "--json", str(tmp_path / "out" / "q.json"), "--per-class", str(csv)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "panoptic quality"
    assert "5 images" in said
    assert json.loads((tmp_path / "out" / "q.json").read_text())["pq"] == 1.0
    assert len(csv.read_text().splitlines()) == 4
    assert main(["evaluate", "--truth", str(truth), "--predictions", str(truth), str(truth.with_suffix(""))]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "given: nothing. Give --model and --data, or --predictions and --truth"),
        (["--model", "m"], "given: --model. Give"),
        (["--model", "m", "--data", "d", "--truth", "t"], "given: --data, --model, --truth."),
        (["--truth", "t", "--gt_json_file", "t", "--predictions", "p"], "the same thing twice"),
        (["--truth", "a", "b", "c", "--predictions", "p"], "--truth takes a JSON and a folder, not 3 paths"),
        (["--gt_folder", "g", "--predictions", "p"], "--gt_folder needs --gt_json_file"),
        (["--truth", "gone.json", "--predictions", "p"], "gone.json: the JSON cannot be read"),
        (["--model", "gone/", "--data", "gone"], "gone: there is no such folder"),
    ],
)
def test_wrong_words_are_answered(arguments, message, capsys):
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err
