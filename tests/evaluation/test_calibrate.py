"""Two scalars on the class head: shifted by just that, and chosen as a brute force over plain sums chooses."""

from __future__ import annotations

import errno
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made import tiny_model, tree, write_dataset
from PIL import Image

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Segment, evaluate_model
from hf_detr_panoptic.cli import main
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.demo.demo import teacher_folder
from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.evaluation.calibrate import calibrate, shift_logits
from hf_detr_panoptic.model import segment as segment_file

pytestmark = pytest.mark.bits

SPACE = LabelSpace(
    [
        Category("sky", isthing=False, source="auto"),
        Category("pipe", isthing=True),
        Category("car", isthing=True, source="auto"),
    ]
)
PIPE, NOTHING = 1, 3  # columns
YOURS = {"car": "custom", "truck": "custom"}


@pytest.fixture
def model() -> DetrForPanopticSegmentation:
    return tiny_model(SPACE, seed=3).eval()


def head_of(model: DetrForPanopticSegmentation) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_all_logits_are_shifted_by_just_that(model: DetrForPanopticSegmentation, tmp_path: Path) -> None:
    pixels = torch.rand(2, 3, 64, 64)
    before = head_of(model)
    with torch.no_grad():
        old = model(pixels)
        shift_logits(model, no_object=-1.25, yours=0.75)
        new = model(pixels)
    expected = torch.tensor([0.0, 0.75, 0.0, -1.25]).expand_as(old.logits)
    torch.testing.assert_close(new.logits - old.logits, expected, atol=1e-5, rtol=0)
    assert torch.equal(new.pred_boxes, old.pred_boxes)
    assert torch.equal(new.pred_masks, old.pred_masks)
    # Key for key the same, and nothing else is touched; a plain client gets the shifted logits.
    model.save_pretrained(tmp_path)
    after = DetrForPanopticSegmentation.from_pretrained(tmp_path).state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert before.keys() == after.keys()
    assert changed == ["detr.class_labels_classifier.bias"]


# --- photos on which everything is known: 4×4, the sky above, a pipe below left


def chance(logits: tuple[float, ...], shift: tuple[float, float] = (0.0, 0.0)) -> list[float]:
    """Softmax by its definition, with "no object" and the pipe shifted."""
    values = list(logits)
    values[NOTHING] += shift[0]
    values[PIPE] += shift[1]
    whole = sum(map(math.exp, values))
    return [math.exp(value) / whole for value in values]


SURE_SKY = (6.0, 0.0, 0.0, 0.0)  # 0.99 sky
SHY_PIPE = (0.0, 2.6, 0.0, 1.4)  # 0.69 pipe
NO_PIPE = (0.0, 0.6, 0.0, 1.8)  # 0.19 pipe: "no object" is likelier


def truth() -> PanopticMap:
    ids = np.ones((4, 4), dtype=np.int32)
    ids[2:, :2] = 2
    return PanopticMap(ids, [Segment(1, 0, source="auto"), Segment(2, PIPE)], SPACE)


def rows(count: int) -> list[Any]:
    photo = np.zeros((4, 4, 3), dtype=np.uint8)
    return [
        SimpleNamespace(image_id=index, where="", photo=Image.fromarray(photo), size=(4, 4), map=truth, incomplete=())
        for index in range(count)
    ]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three queries: the sky, a pipe that is there, one that is not (upper right). Masks are right by construction."""
    masks = torch.full((3, 4, 4), -9.0)
    masks[0] = 1.0
    masks[1, 2:, :2] = 9.0
    masks[2, :2, 2:] = 9.0

    def chosen_masks(model: Any, pixels: torch.Tensor, choose: Any, precision: str = "fp32") -> list[Any]:
        kept = choose(torch.tensor([[SURE_SKY, SHY_PIPE, NO_PIPE]] * len(pixels)))
        return [(each, masks[each.queries]) for each in kept]

    monkeypatch.setattr(segment_file, "chosen_masks", chosen_masks)
    monkeypatch.setattr("hf_detr_panoptic.evaluation.evaluate.open_image", lambda photo: photo)


def by_force(thresholds: tuple[float, ...]) -> tuple[float, float]:
    """Of the shifts under which both thresholds show the sky and the right pipe, and not the other, the likeliest:
    next to where 0.7 is brought to the thresholds' middle, in log-odds, and half of one is added to the pipe."""
    grid = itertools.product(np.arange(-4, 1.01, 0.5).tolist(), np.arange(-1, 3.01, 0.5).tolist())
    right = [
        shift
        for shift in grid
        if all(
            chance(SURE_SKY, shift)[0] > t and chance(SHY_PIPE, shift)[PIPE] > t >= chance(NO_PIPE, shift)[PIPE]
            for t in thresholds
        )
    ]
    middle = sum(math.log(t / (1 - t)) for t in thresholds) / len(thresholds)
    return min(right, key=lambda shift: (shift[0] - math.log(7 / 3) + middle) ** 2 + (shift[1] - 0.5) ** 2)


def test_the_choice_is_that_of_a_brute_force(model: DetrForPanopticSegmentation, played: None) -> None:
    model.settings = model.settings.changed(threshold=0.6, min_area=1)
    old = model.detr.class_labels_classifier.bias.clone()
    found = calibrate(model, rows(6), folds=3)
    assert (found.no_object, found.yours) == by_force((0.85, 0.9))
    assert (found.photos, found.folds, found.thresholds) == (6, 3, (0.85, 0.9))
    # Without the pipe the sky has 12 of 16 pixels right: IoU 12/16. With it, everything is right.
    assert found.before == (0.0, pytest.approx((0.75 + 0) / 2))
    assert found.in_fold == found.out_of_fold == found.best == (1.0, 1.0)
    assert 0.19 < found.best_threshold < 0.7
    moved = model.detr.class_labels_classifier.bias - old
    assert moved.tolist() == pytest.approx([0, found.yours, 0, found.no_object], abs=1e-6)
    assert model.settings.threshold == 0.85
    assert found.to_dict()["before"] == {"yours": 0.0, "all": 0.375}
    assert "calibrated: your classes 100.0, all 100.0" in "\n".join(found.lines())


def test_what_helps_only_where_it_was_chosen_is_left(model: DetrForPanopticSegmentation, played: None) -> None:
    """One photo: no other one can say whether a shift helps."""
    before = head_of(model)
    found = calibrate(model, rows(1))
    assert (found.no_object, found.yours, found.changes) == (0.0, 0.0, False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.lines()[-1].startswith("nothing is shifted")


def test_what_is_right_already_is_left(model: DetrForPanopticSegmentation, played: None) -> None:
    settings = model.settings
    found = calibrate(model, rows(4), thresholds=(0.3, 0.6))
    assert not found.changes
    assert found.before == found.best == (1.0, 1.0)
    assert model.settings == settings


def test_the_command(model: DetrForPanopticSegmentation, tmp_path: Path, capsys: Any) -> None:
    data, old, new = tmp_path / "data", tmp_path / "old", tmp_path / "new"
    write_dataset(data, {"val": [truth()] * 2})
    model.save_pretrained(old)
    words = ["calibrate", "--model", str(old), "--data", str(data), "--out"]
    assert main([*words, str(new)]) == 0
    said = capsys.readouterr().out
    assert "PQ at 0.85 and 0.9 on 2 photos: your classes" in said
    assert f"The model: {new}" in said
    assert DetrForPanopticSegmentation.from_pretrained(new).state_dict().keys() == model.state_dict().keys()
    assert main([*words, str(old)]) == 2
    assert "there is something already" in capsys.readouterr().err


def test_what_was_cut_short_is_made_again(
    model: DetrForPanopticSegmentation, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, old, new = tmp_path / "data", tmp_path / "old", tmp_path / "new"
    write_dataset(data, {"val": [truth()] * 2})
    model.save_pretrained(old)
    words = ["calibrate", "--model", str(old), "--data", str(data), "--out"]

    def full(self: object, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(type(model.image_processor), "save_pretrained", full)  # the last of its files
        assert main([*words, str(new)]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert main([*words, str(new)]) == 0
    assert main([*words, str(tmp_path / "other")]) == 0
    assert tree(new) == tree(tmp_path / "other")


# --- the real way: what it counts is what an evaluation counts


def test_its_figures_are_those_of_the_model_that_it_makes(tmp_path: Path) -> None:
    """The demo's teacher, made shy of two of its classes, which people shall have marked."""
    model = DetrForPanopticSegmentation.from_pretrained(teacher_folder())
    model.config.hf_detr_panoptic["sources"] = [YOURS.get(name, "auto") for name in model.label_space.names]
    model.save_pretrained(tmp_path / "teacher")
    model = DetrForPanopticSegmentation.from_pretrained(tmp_path / "teacher")
    shift_logits(model, no_object=1.5, yours=-1.5)
    model.save_pretrained(tmp_path / "shy")
    data = tmp_path / "data"
    with DatasetWriter(data, model.label_space) as writer:
        for place in range(3):
            made = scene(5, place, custom=False)
            writer.add("val", f"{place}.png", made.photo, made.truth.relabelled(model.label_space))

    def figures(folder: Path) -> list[float]:
        each = [evaluate_model(str(folder), str(data), threshold=threshold) for threshold in (0.85, 0.9)]
        return [sum(values) / 2 for values in zip(*((e["yours"]["pq"], e["pq"]) for e in each), strict=True)]

    found = calibrate(model, read_split(data, "val").records, batch_size=2)
    model.save_pretrained(tmp_path / "out")
    assert found.no_object < 0 < found.yours
    assert found.before == pytest.approx(figures(tmp_path / "shy"))
    assert found.in_fold == pytest.approx(figures(tmp_path / "out"))
    assert found.before.objective + 0.05 < found.out_of_fold.objective <= found.in_fold.objective + 0.02
