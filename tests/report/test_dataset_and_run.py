"""`report`: a dataset and a run as a person has them, whole or broken."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made import save_tiny_labeler
from PIL import Image

from hf_detr_panoptic import evaluate_model
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.copies import Fingerprint, fingerprint
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.errors import HfDetrPanopticError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.report.dataset import dataset_page
from hf_detr_panoptic.report.run import run_page
from hf_detr_panoptic.training.run_folder import StageEnd

SPACE = LabelSpace(
    [Category("<script>alert(1)</script>", True), Category("sky", False, source="auto"), Category("pipe", True)]
)
NAMES = ["a\"b'c.png", "two\nlines.png", "🏗️ site.png", "<b>.png", "caf\udce9.png", "plain.png"]


def write(folder: Path, count: int = 6) -> Path:
    """Sky above a marked block; the fourth is half void, the fifth has a speck, the sixth is the first once more."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72)) for _ in range(count)]
    photos[5] = photos[0]
    with DatasetWriter(folder, SPACE) as writer:
        for place, photo in enumerate(photos):
            ids = np.full((72, 96), 1, dtype=np.int32)
            ids[40:, 10:60] = 2
            segments = [Segment(1, 1, 0.95, "auto"), Segment(2, 0 if place % 2 else 2)]
            if place == 3:
                ids[:36] = 0
            if place == 4:
                ids[5, 5:9] = 3
                segments.append(Segment(3, 2, 0.88, "auto"))
            part = "val" if place in (1, 5) else "train"
            writer.add(part, f"p{place}.png", photo, PanopticMap(ids, segments, SPACE), original=NAMES[place])
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report") / "set")


@pytest.fixture
def dataset(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "set"))


def test_a_dataset_by_numbers(dataset: Path) -> None:
    (dataset / "skipped.csv").write_text("photo,what,fix,where\nx.jpg,damaged,Copy it.,\n")
    page = dataset_page(dataset, None, 100)
    script, sky, pipe = page.classes
    assert (script.custom, script.auto, dict(script.photos)) == (3, 0, {"train": 1, "val": 2})
    assert (pipe.custom, pipe.auto) == (3, 1)
    assert (sky.custom, sky.auto) == (0, 6)
    # A block has 32 × 50 = 1,600 of 72 × 96 = 6,912 pixels.
    assert (page.parts["val"].custom, page.parts["val"].void) == (3200, 0)
    assert page.parts["train"].void == 36 * 96
    assert [(pair.first_part, pair.second_part, pair.exact) for pair in page.pairs] == [("train", "val", True)]
    assert [(row.photo, row.what) for row in page.skipped] == [("x.jpg", "damaged")]
    titles = [card.title for card in page.cards]
    assert set(titles) == set(NAMES)
    kinds = {card.title: card.kinds for card in page.cards}
    assert kinds[NAMES[0]] == kinds["plain.png"] == ("copy",)
    assert kinds["<b>.png"] == ("much void",)
    assert set(kinds[NAMES[4]]) == {"low score", "tiny pieces"}
    assert kinds[NAMES[1]] == kinds[NAMES[2]] == ()
    assert titles[-1] not in ("plain.png", NAMES[0], "<b>.png")
    assert any("in two splits" in advice.text for advice in page.advice)
    assert "copy" not in " ".join(remark.what for remark in page.remarks)  # they have their own section


def test_the_command_writes_one_file(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert main(["report", str(dataset)]) == 0
    assert re.search(r"report\.html: 0\.\d MB, open it in a browser", capsys.readouterr().out)
    assert {path: path.read_bytes() for path in before} == before
    text = (dataset / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "two\\nlines.png" in text
    assert "caf\\udce9.png" in text
    assert str(tmp_path) not in text
    assert main(["report", str(dataset), "--out", str(tmp_path / "deep/er.html")]) == 0
    assert (tmp_path / "deep/er.html").read_text(encoding="utf-8") == text  # no time, no chance


def test_only_the_most_suspicious_are_shown(dataset: Path) -> None:
    page = dataset_page(dataset, None, 2)
    assert {card.title for card in page.cards} == {NAMES[0], "plain.png"}
    assert sum(part.photos for part in page.parts.values()) == 6
    assert any("2 most suspicious of 6 photos" in note for note in page.notes)
    assert dataset_page(dataset, None, 0).cards == []


def test_what_check_decoded_is_not_decoded_again(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dataset / "images/p0.png").write_bytes(b"torn")
    asked: list[str] = []

    def asked_again(photo: Path) -> Fingerprint:
        asked.append(photo.name)
        return fingerprint(photo)

    monkeypatch.setattr("hf_detr_panoptic.report.dataset.fingerprint", asked_again)
    dataset_page(dataset, None, 0)
    assert asked == ["p0.png"]  # for the sentence that says why it cannot be read


def test_what_is_broken_is_shown(dataset: Path) -> None:
    (dataset / "images/p0.png").write_bytes(b"torn")
    (dataset / "annotations/panoptic_train/p2.png").unlink()
    page = dataset_page(dataset, None, 100)
    broken = {card.title: card for card in page.cards if "unreadable" in card.kinds}
    assert set(broken) == {NAMES[0], NAMES[2]}
    assert broken[NAMES[0]].thumbnails == ()
    assert [card.title for card in page.cards[:2]] == sorted(broken, key=str)
    levels = Counter(remark.level for remark in page.remarks)
    assert levels["error"] >= 2
    assert page.advice[0].text.startswith("Mend")


def test_what_a_strangers_prepare_json_says_is_shown_as_far_as_it_makes_sense(dataset: Path) -> None:
    def shown(**record: object) -> list[tuple[str, str]]:
        (dataset / "prepare.json").write_text(json.dumps(record))
        return list(dataset_page(dataset, None, 0).settings)

    pixels = {"custom": [1], "auto": 2000, "void": None}
    assert shown(settings={"seed": 3}, counts={"pixels": pixels, "dropped": 5, "skipped": {"x": {}}}) == [
        ("seed", "3"), ("pixels, counted", "auto 2,000")
    ]  # fmt: skip
    assert shown(settings=["seed"], counts={"pixels": {"custom": 7}}) == [("pixels, counted", "custom 7")]
    assert shown(settings={"seed": 3}, counts=[1]) == [("seed", "3")]


def test_a_prepare_json_that_is_a_link_to_another_place_is_not_shown(dataset: Path, tmp_path: Path) -> None:
    private = tmp_path / "private.json"
    private.write_text(json.dumps({"settings": {"seed": 3}}))
    (dataset / "prepare.json").unlink(missing_ok=True)
    (dataset / "prepare.json").symlink_to(private)
    assert dataset_page(dataset, None, 50).settings == []


def test_the_labelers_answers_are_compared(
    site: Path, tiny_labeler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "data"
    words = ["--images", str(site / "photos"), "--annotations", str(site / "marks.json")]
    assert main(["prepare", *words, "--labeler", str(tiny_labeler), "--out", str(out), "--threshold", "0.5"]) == 0
    assert f"look at it: {out / 'report.html'}" in capsys.readouterr().out
    page = dataset_page(out, None, 10)
    assert page.notes == ["Marks were compared with the labeler's raw answers on 6 of 6 photos."]
    settings = dict(page.settings)
    assert settings["labeler"] == tiny_labeler.name
    assert settings["threshold"] == "0.5"
    sorted((out / "autolabels").glob("*/*.png"))[0].write_bytes(b"torn")
    assert "on 5 of 6 photos" in dataset_page(out, None, 10).notes[0]


# --- a run


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    recipe = {"model": "facebook/detr-resnet-50", "data": str(dataset), "output": str(folder)}
    Recipe.from_dict(recipe).save(folder / "recipe.yaml")
    (folder / "1-detection").mkdir(parents=True)
    (folder / "3-finetune").mkdir()
    save_tiny_labeler(folder / "final", SPACE)
    with (folder / "results.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["stage", "epoch", "step", "loss", "loss_ce", "box_ap", "pq", "sq", "rq"])
        rows.writerow(["detection", 1, 10, 5.5, 2, 0.1, "", "", ""])
        rows.writerow(["detection", 2, 20, 4.5, 1.5, 0.3, "", "", ""])
        rows.writerow(["detection", 3, 30, 4.0, "nan?", 0.2, "", "", ""])
        rows.writerow(["finetune", 1, 7, 3.0, 1, "", 0.2, 0.7, 0.3])
    (folder / "environment.json").write_text(json.dumps({"torch": "2.15.0", "device": "CPU", "earlier": []}))
    return folder


def test_a_run_by_numbers(run: Path, dataset: Path) -> None:
    measured = evaluate_model(str(run / "final"), str(dataset))
    kept = ("pq", "sq", "rq", "n", "yours", "things", "stuff", "per_class", "sources")  # what training writes down
    (run / "metrics.json").write_text(json.dumps({"final": {key: measured[key] for key in kept}}))
    page = run_page(run, None, 50)
    names = ["your classes", "all", "things", "stuff", "agreement with the labeler"]
    assert [score.name for score in page.scores] == names
    assert page.scores[0].values == tuple(measured["yours"][key] for key in ("pq", "sq", "rq"))
    assert page.scores[1].values == (measured["pq"], measured["sq"], measured["rq"])
    assert [row.name for row in page.precision["mask"]] == names[:4]
    assert [row.values[0] for row in page.precision["mask"][:2]] == [
        measured["mask"]["yours"]["ap"],
        measured["mask"]["all"]["ap"],
    ]
    assert page.mixed is not None
    assert page.mixed.missed == measured["confusion"]["missed"]
    detection, finetune = page.stages
    assert (detection.best, detection.best_epoch, detection.last, detection.steps) == (0.3, 2.0, 0.2, 30)
    assert not detection.finished
    assert [curve.name for curve in finetune.quality] == ["PQ", "SQ", "RQ"]
    assert {curve.name: curve.points for curve in detection.losses}["class"] == ((1.0, 2.0), (2.0, 1.5))
    assert page.environment == [("torch", "2.15.0"), ("device", "CPU")]
    assert page.measured == "On all 2 validation photos."
    assert {card.title for card in page.cards} == {NAMES[1], "plain.png"}
    pictures = ["photo", "truth", "prediction", "difference"]
    assert [thumbnail.caption for thumbnail in page.cards[0].thumbnails] == pictures
    assert {row.name: row.train_photos for row in page.classes} == {SPACE[0].name: 1, "sky": 4, "pipe": 3}


def test_a_stage_that_was_evaluated_at_its_end_alone(run: Path) -> None:
    (run / "results.csv").unlink()
    for step in (60, 120):
        checkpoint = run / f"1-detection/checkpoint-{step}"
        checkpoint.mkdir()
        log = [{"epoch": at / 60, "step": at, "loss": 700 / at, "loss_ce": 0.5} for at in range(60, step + 1, 60)]
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": [*log, {"train_loss": 9.0}]}))
        (checkpoint / "complete.json").write_text("{}")
    group = {"ap": 0.25, "ap50": 0.5, "ap75": 0.1}
    box = {"all": group, "yours": group | {"ap": 0.75}, "things": group, "stuff": group}
    told = {"result": {"pq": None, "box": box}, "metric": "box_ap_yours_and_all", "best": None, "best_epoch": None}
    told |= {"last": None}
    StageEnd("detection", run / "1-detection", steps=120, trained="", rows=(), **told).mark()  # type: ignore[arg-type]
    shutil.rmtree(run / "final")
    detection, finetune = run_page(run, None, 0).stages
    assert (detection.best, detection.last, detection.steps) == (None, 0.5, 120)  # of yours 75 %, of all 25 %
    assert [(curve.name, len(curve.points)) for curve in detection.losses] == [("all", 2), ("class", 2)]
    assert detection.losses[0].points[1] == (2.0, 700 / 120)
    assert (finetune.last, finetune.losses, finetune.steps) == (None, [], 0)


def test_the_gallery_begins_with_the_worst(run: Path, dataset: Path) -> None:
    alone = []
    for place in (0, 1):
        split = read_split(dataset, "val")
        only = type(split)(split.files, split.space, split.records[place : place + 1])
        alone.append((evaluate_model(str(run / "final"), only)["pq"], split.records[place].original_file))
    page = run_page(run, None, 50)
    assert [card.title for card in page.cards] == [name for _, name in sorted(alone, key=lambda pair: pair[0])]
    assert page.cards[0].figure == f"PQ {100 * min(alone)[0]:.1f}"


def test_the_command_on_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--limit", "1"]) == 0
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 validation photos, spread evenly over all." in text
    assert "<script>alert" not in text
    assert str(tmp_path) not in text  # neither from the recipe nor from where it lies
    capsys.readouterr()
    assert main(["report", str(run), "--data", str(tmp_path / "gone")]) == 2
    assert "gone" in capsys.readouterr().err


def test_a_run_whose_dataset_is_elsewhere(run: Path, dataset: Path, tmp_path: Path) -> None:
    moved = dataset.rename(tmp_path / "moved")
    page = run_page(run, None, 50)
    assert page.cards == []
    assert any("--data" in note for note in page.notes)
    assert len(run_page(run, str(moved), 50).cards) == 2


def test_a_run_that_is_not_finished(run: Path) -> None:
    shutil.rmtree(run / "final")
    page = run_page(run, None, 50)
    assert page.cards == []
    assert page.advice[0].text.startswith("The run is not finished")
    assert len(page.stages) == 2


def test_a_run_that_only_detects(run: Path) -> None:
    boxes = {"ap": 0.3, "ap50": 0.5, "ap75": 0.2, "n": 2}
    box = {"all": boxes, "things": boxes, "stuff": boxes, "per_class": []}
    told = {"final": {"pq": None, "box": box}, "stages": {"detection": {"pq": None, "box": box}}}
    (run / "metrics.json").write_text(json.dumps(told))
    page = run_page(run, None, 50)
    assert page.cards == []
    assert page.scores == []
    assert page.precision["box"][0].values == (0.3, 0.5, 0.2)


def test_figures_that_are_none(run: Path) -> None:
    (run / "metrics.json").write_text('{"final": {"pq": 0.5, "things": 0.5}}')
    with pytest.raises(HfDetrPanopticError, match=r"metrics\.json: is damaged \(things is 0\.5\)"):
        run_page(run, None, 50)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["gone"], "gone: there is no such folder"),
        (["."], "no COCO panoptic JSON is here"),
        ([".", "--limit", "-1"], "--limit is -1"),
        ([".", "--data", "x"], "--data belongs to a run, and here is no recipe.yaml"),
        ([".", "--out", "."], "is a folder"),
    ],
)
def test_wrong_words_are_answered(
    words: list[str], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert answer in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["run/final"],
            "no COCO panoptic JSON is here, and no recipe.yaml. Did you mean {}/run?",
        ),
        (["run/final", "--data", "set"], "here is no recipe.yaml. Did you mean {}/run?"),
        (
            ["set/images"],
            "no COCO panoptic JSON is here, and no recipe.yaml. Did you mean {}/set?",
        ),
        (["."], "Did you mean {}/run?"),
        (["photo.jpg"], "photo.jpg: is a file, not a folder."),
    ],
)
def test_the_right_folder_is_named(
    words: list[str],
    answer: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run/final").mkdir(parents=True)
    (tmp_path / "run/recipe.yaml").write_text("data: set\n")
    (tmp_path / "photo.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    assert answer.format(tmp_path.resolve()) in capsys.readouterr().err
