"""Classes changed afterwards, in a dataset and in a model: what a person sees is the same under other names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made import SPACE, noise, scene, tree

from hf_detr_panoptic import DetrForPanopticSegmentation, LabelSpace, PanopticMap, PanopticQuality, Segment
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import SITE, TEACHER
from hf_detr_panoptic.demo.scenes import scene as site_scene
from hf_detr_panoptic.labeling.relabel import relabel_model
from hf_detr_panoptic.labeling.schemes import origins
from hf_detr_panoptic.settings import ClassChanges


def changes(**words: object) -> ClassChanges:
    return ClassChanges.read(words)


def quality(predictions: list[PanopticMap], truths: list[PanopticMap]) -> float:
    """PQ in percent."""
    pq = PanopticQuality(truths[0].space)
    for prediction, truth in zip(predictions, truths, strict=True):
        pq.update(prediction, truth)
    return 100 * float(pq.compute()["pq"])


@pytest.fixture
def teacher() -> DetrForPanopticSegmentation:
    return DetrForPanopticSegmentation.from_pretrained(teacher_folder()).eval()


def test_a_renamed_class_keeps_its_maps_to_the_pixel(teacher: DetrForPanopticSegmentation) -> None:
    photos = [site_scene(5, index).photo for index in range(2)]
    before = teacher.segment(photos)
    space, words = relabel_model(teacher, changes(rename={"car": "vehicle", "truck": "lorry"}))
    assert words == "carried 12 classes, 0 new"
    assert [category.name for category in space][:3] == ["person", "vehicle", "lorry"]
    assert space[space.index("lorry")].color == TEACHER[TEACHER.index("truck")].color
    for old, new in zip(before, teacher.segment(photos), strict=True):
        assert np.array_equal(old.ids, new.ids)
        names = {"car": "vehicle", "truck": "lorry"}
        told = [names.get(TEACHER[segment.label].name, TEACHER[segment.label].name) for segment in old.segments]
        assert [space[segment.label].name for segment in new.segments] == told


@pytest.mark.slow
@pytest.mark.parametrize(
    "merge",
    [
        {"machine": ["car", "truck"]},
        {"ground": ["dirt-merged", "pavement-merged", "grass-merged"]},
        {"object": ["person", "car", "truck", "traffic cone", "ladder"]},
    ],
    ids=lambda merge: next(iter(merge)),
)
def test_a_joined_class_is_found_as_its_members_were(teacher: DetrForPanopticSegmentation, merge: dict) -> None:
    """PQ against the scenes' own truth, within two points; the mean of the rows loses four to ten."""
    scenes = [site_scene(3, index) for index in range(10)]
    before = teacher.segment([made.photo for made in scenes])
    space, _ = relabel_model(teacher, changes(merge=merge), [site_scene(9, index).photo for index in range(4)])
    after = teacher.segment([made.photo for made in scenes])
    names = {old: new for new, members in merge.items() for old in members}
    fate = {name: names.get(name, name) if name in TEACHER.names else None for name in SITE.names}
    truths = [made.truth.relabelled(space, fate).fused_stuff() for made in scenes]
    joined = [old.relabelled(space, names).fused_stuff() for old in before]
    assert quality(after, truths) == pytest.approx(quality(joined, truths), abs=2)
    assert quality(after, joined) > 95


def test_a_dropped_class_leaves_the_others_as_they_were(teacher: DetrForPanopticSegmentation) -> None:
    photos = [site_scene(5, index).photo for index in range(2)]
    before = teacher.segment(photos)
    space, _ = relabel_model(teacher, changes(drop=["truck"]))
    assert "truck" not in space.names
    left = [old.relabelled(space, {"truck": None}) for old in before]
    assert quality(teacher.segment(photos), left) > 98


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pipes before sky on both photos, and mud in a corner; nobody looked for mud and pipes on the second one."""
    ids = np.array(scene(SPACE).ids)
    ids[:6, :6] = 9
    whole = PanopticMap(ids, [*scene(SPACE).segments, Segment(9, 3, 0.5, "auto")], SPACE)
    with DatasetWriter(tmp_path / "set", SPACE) as writer:
        writer.add("val", "a.png", noise(0), whole, image_id=7, original="A photo.png")
        writer.add("train", "b.png", noise(1), whole, incomplete=["pipe", "mud"])
    record = {"settings": {"merge": {"mud": ["dirt", "clay"]}}, "counts": {"segments": {"pipe": {"custom": 4}}}}
    (tmp_path / "set" / "prepare.json").write_text(json.dumps(record))
    return tmp_path / "set"


def test_a_dataset(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(data)
    words = ["--rename", "pipe=tube", "--merge", "back=sky,mud", "--drop", "crane"]
    assert main(["relabel", str(data), *words, "--out", str(tmp_path / "new")]) == 0
    assert tree(data) == before
    new = read_dataset(tmp_path / "new")
    assert [(len(new[name]), new[name].space.names) for name in ("train", "val")] == [(1, ("tube", "back"))] * 2
    (known,) = new["val"]
    assert (known.image_id, known.original_file, known.photo.read_bytes()) == (
        7, "A photo.png", before["images/a.png"]
    )  # fmt: skip
    back = known.map()
    assert [back.space[segment.label].name for segment in back.segments] == ["tube", "tube", "back"]
    assert back.areas()[3] == 72 * 96 - 32 * 30 - 32 * 20  # sky and the corner of mud
    assert new["train"][0].incomplete == ("tube", "back")
    assert main(["check", str(tmp_path / "new")]) == 0
    capsys.readouterr()
    record = json.loads((tmp_path / "new" / "prepare.json").read_text())
    assert record["relabelled"] == [{"rename": {"pipe": "tube"}, "merge": {"back": ["sky", "mud"]}, "drop": ["crane"]}]
    assert record["counts"]["segments"] == {"tube": {"custom": 4}}
    coco = LabelSpace([*SPACE, *LabelSpace.coco().merged(LabelSpace([]), rename={"dirt-merged": "dirt"})])
    without_mud = LabelSpace(category for category in coco if category.name not in ("pipe", "mud"))
    assert origins(record["settings"], SPACE, ["pipe"], record["relabelled"]) == {
        "tube": ["pipe"], "back": ["sky", "mud"]
    }  # fmt: skip
    assert origins(record["settings"], without_mud, ["pipe"], record["relabelled"]) == {"back": ["sky", "dirt"]}


def test_what_a_strangers_prepare_json_says_besides_is_left(data: Path, tmp_path: Path) -> None:
    odd = {"sky": {"custom": 4, "auto": [1]}, "mud": {"custom": "x"}, "pipe": 5}
    (data / "prepare.json").write_text(json.dumps({"relabelled": 5, "counts": {"segments": odd}}))
    assert main(["relabel", str(data), "--merge", "ground=mud,sky", "--out", str(tmp_path / "new")]) == 0
    record = json.loads((tmp_path / "new" / "prepare.json").read_text())
    assert record["counts"]["segments"] == {"ground": {"custom": 4}}
    assert record["relabelled"] == [{"merge": {"ground": ["mud", "sky"]}}]


def test_a_model_by_the_command_is_one_that_loads(
    tiny_labeler: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rename", "person=worker", "--merge", "vehicle=car,truck", "--photos", str(data)]
    assert main(["relabel", str(tiny_labeler), *words, "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "no photo was at hand" not in said
    assert "relabel DATASET --rename person=worker --merge vehicle=car,truck --out NEW" in said
    old, new = (DetrForPanopticSegmentation.from_pretrained(path) for path in (tiny_labeler, tmp_path / "new"))
    heads = [model.detr.class_labels_classifier.weight for model in (old, new)]
    place = new.label_space.index("worker")
    assert torch.equal(heads[1][place], heads[0][old.label_space.index("person")])
    assert len(new.label_space) == len(old.label_space) - 1
    assert main(["relabel", str(tiny_labeler), *words[:2], "--out", str(tmp_path / "new")]) == 2
    assert "there is something already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "nothing is to be changed"),
        (["--rename", "pipes=tube"], "Did you mean 'pipe'"),
        (["--rename", "pipe=crane"], "Put both under merge: crane"),
        (["--merge", "x=pipe,sky"], "is a thing in one place and stuff in another"),
        (["--drop", "pipe,crane,sky,mud"], "no class is left"),
    ],
)
def test_what_cannot_be(
    data: Path, tmp_path: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["relabel", str(data), *words, "--out", str(tmp_path / "new")]) == 2
    assert answer in capsys.readouterr().err
