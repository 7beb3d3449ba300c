"""`next`: what is proposed and why, and two rounds of marking walked with it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made import HOSTILE, noise, scene, tree

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.report.next_photos import Proposal, next_page, propose, rarity, suspicion

PIPE, CRANE, SKY, MUD = range(4)  # the first two are the person's


def halves(*segments: Segment) -> PanopticMap:
    """Two segments side by side on 4 × 8."""
    ids = np.zeros((4, 8), dtype=np.int32)
    for place, segment in enumerate(segments):
        ids[:, 4 * place : 4 * place + 4] = segment.id
    return PanopticMap(ids, list(segments), HOSTILE)


def test_what_a_photo_may_settle_by_hand() -> None:
    labeler = halves(Segment(1, SKY, 0.9), Segment(2, MUD, 0.9))
    seen = suspicion(halves(Segment(1, SKY, 0.9), Segment(2, SKY, 0.8)), labeler, 0.6, {})
    assert (seen.score, seen.differ, seen.suspected) == (0.5, 0.5, ())
    assert seen.reasons == ("labeler and model differ on 50.0 % of the pixels that both know",)
    unsure = suspicion(halves(Segment(1, SKY, 0.9), Segment(2, SKY, 0.5)), labeler, 0.6, {})
    assert unsure.differ == 0  # below the threshold the model knows nothing there
    suspected = suspicion(halves(Segment(1, PIPE, 0.25), Segment(2, MUD, 0.8)), labeler, 0.6, {"pipe": 0.5})
    assert suspected.score == pytest.approx(0.5 * 4 * 0.25 * 0.75)
    assert suspected.reasons == ("suspected: pipe (25.0 % sure)",)
    two = suspicion(halves(Segment(1, PIPE, 0.5), Segment(2, CRANE, 0.9)), labeler, 0.6, {"pipe": 0.5})
    assert two.score == pytest.approx(1 - (1 - 0.5) * (1 - 4 * 0.09))
    assert two.suspected[0][0] == "pipe"  # the least sure first
    assert suspicion(labeler, labeler, 0.6, {}).reasons == ("nothing is suspected here: the others say even less",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine photos that nobody looked at, two of them the same in all but size; one with pipes that somebody did."""
    names = [category.name for category in HOSTILE if category.source == "custom"]
    sky = PanopticMap(np.ones((72, 96), np.int32), [Segment(1, SKY, 0.9, "auto")], HOSTILE)
    with DatasetWriter(tmp_path / "set", HOSTILE) as writer:
        writer.add("train", "known.png", noise(50), scene())
        for index in range(8):
            writer.add("train", f"p{index}.png", noise(index), sky, original=f"photo {index}.png", incomplete=names)
        twin = noise(0).resize((192, 144))
        large = PanopticMap(np.ones((144, 192), np.int32), [Segment(1, SKY, 0.9, "auto")], HOSTILE)
        writer.add("train", "twin.png", twin, large, incomplete=names)
    return tmp_path / "set"


def test_the_rarest_counts_most(data: Path) -> None:
    records = list(read_dataset(data)["train"])
    weights = rarity([record for record in records if not record.incomplete])
    assert weights["pipe"] == pytest.approx(np.sqrt(1 / 2))  # on one photo, the other on none
    assert max(weights.values()) == 1
    assert rarity([]) == {}


@pytest.mark.parametrize("by", ["typical", "random"])
def test_a_photo_and_its_copy_are_not_both_proposed(data: Path, by: str) -> None:
    dataset = read_dataset(data)
    proposals = propose(dataset, 99, by, seed=2)
    names = {proposal.record.file_name for proposal in proposals}
    assert len(proposals) == 8
    assert len(names & {"p0.png", "twin.png"}) == 1
    assert "known.png" not in names


def test_the_list_the_page_and_the_zip(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(data)
    out = tmp_path / "next"
    assert main(["next", str(data), "--count", "3", "--out", str(out)]) == 0
    assert tree(data) == before
    said = capsys.readouterr().out
    assert "3 photos, typical" in said
    names = (out / "next.txt").read_text().splitlines()
    assert len(names) == 3
    page = (out / "next.html").read_text()
    assert all(name in page for name in names)
    assert page.count("<img ") == 6
    assert "<script" not in page
    with zipfile.ZipFile(out / "next.zip") as archive:
        photos = [name.removeprefix("images/") for name in archive.namelist() if name.startswith("images/")]
        assert photos == names
        stored = {record.original_file or record.file_name: record.photo for record in read_dataset(data)["train"]}
        assert archive.read(f"images/{names[0]}") == stored[names[0]].read_bytes()
        assert [label["name"] for label in json.loads(archive.read("labels.json"))] == list(HOSTILE.names)
    read = read_annotations(out / "next.zip", None)
    assert {photo.photo for photo in read.photos} == set(names)
    assert main(["next", str(data), "--out", str(out)]) == 2
    assert "there is something already" in capsys.readouterr().err


def test_a_hostile_name_is_text_on_the_page(data: Path) -> None:
    record = read_dataset(data)["train"][0]
    page = next_page("<script>alert(1)</script>", "typical", [Proposal(record, ("because of <b>",))])
    assert "<script>alert" not in page
    assert "because of &lt;b&gt;" in page
    assert "crane &lt;script&gt;" not in page  # no crane is on it


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--by", "typicl"], "Did you mean 'typical'"),
        (["--count", "0"], "--count is 0"),
        (["--by", "disagreement"], "Give --run"),
    ],
)
def test_what_cannot_be(
    data: Path, tmp_path: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["next", str(data), *words, "--out", str(tmp_path / "next")]) == 2
    assert answer in capsys.readouterr().err


def test_where_all_is_known_nobody_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DatasetWriter(tmp_path / "set", HOSTILE) as writer:
        writer.add("train", "known.png", noise(50), scene())
    assert main(["next", str(tmp_path / "set"), "--out", str(tmp_path / "next")]) == 2
    assert "--unannotated learn" in capsys.readouterr().err


def save_marks(folder: Path, marked: set[str]) -> Path:
    """All photos are listed; a pipe is on each of those that are marked."""
    names = sorted(path.name for path in (folder / "photos").iterdir())
    images = [{"id": n, "file_name": name, "width": 96, "height": 72} for n, name in enumerate(names, start=1)]
    box = [8, 20, 60, 20, 60, 60, 8, 60]
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": [box], "bbox": [], "iscrowd": 0}
        for n, name in enumerate(names, start=1)
        if name in marked
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "pipe"}]}
    (folder / "marks.json").write_text(json.dumps(content))
    return folder / "marks.json"


@pytest.mark.slow
def test_two_rounds(tiny_labeler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """next → marks → prepare again → train from the last run: nobody changes sides, what is untouched stays."""
    (tmp_path / "photos").mkdir()
    for index in range(14):
        noise(index).save(tmp_path / "photos" / f"p{index:02}.png")
    data = tmp_path / "data"
    marks = save_marks(tmp_path, {f"p{index:02}.png" for index in range(4)})
    prepare = ["prepare", "--images", tmp_path / "photos", "--annotations", marks, "--labeler", tiny_labeler]
    words = [*map(str, prepare), "--out", str(data), "--threshold", "0.5", "--unannotated", "learn"]
    marked = {f"p{index:02}.png" for index in range(4)}
    model, measured = tiny_labeler, set[str]()
    for number in (1, 2):
        assert main(words) == 0
        sides = {record.file_name: name for name, split in read_dataset(data).items() for record in split}
        assert measured <= {name for name, side in sides.items() if side == "val"}
        measured = {name for name, side in sides.items() if side == "val"}
        assert measured
        answers = AutoLabels.in_folder(data / "autolabels")
        assert all(answers.features(path.stem) is not None for path in answers.folder.glob("*.png"))
        run = tmp_path / f"run{number}"
        stage = {"num_train_epochs": 1, "use_cpu": True, "dataloader_num_workers": 0}
        recipe = {"model": str(model), "data": str(data), "output": str(run)}
        recipe |= {"augmentation": {"crop": 0, "short_sides": []}}
        recipe["stages"] = {"finetune": stage, "mask_head": {"skip": True}, "detection": {"skip": True}}
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["train", str(tmp_path / "site.yaml")]) == 0
        model = run / "final"
        before = tree(data / "annotations")
        out = tmp_path / f"next{number}"
        assert main(["next", str(data), "--run", str(run), "--count", "3", "--out", str(out)]) == 0
        proposed = set((out / "next.txt").read_text().split())
        assert len(proposed) == 3
        assert not proposed & marked
        marked |= proposed
        save_marks(tmp_path, marked)
    assert "disagreement" in capsys.readouterr().out
    assert main(words) == 0
    after = {Path(name).name: content for name, content in tree(data / "annotations").items() if name.endswith(".png")}
    for name, content in before.items():
        if name.endswith(".png") and Path(name).name not in proposed:
            assert after[Path(name).name] == content
    assert set(json.loads((tmp_path / "run2/metrics.json").read_text())["stages"]) == {"finetune"}
