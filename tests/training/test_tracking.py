"""Figures and pictures of a run in TensorBoard, read back from its event files."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_detr_panoptic.errors import RecipeError
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.panoptic_map import PanopticMap, Segment
from hf_detr_panoptic.pictures.draw import draw
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.training.callbacks import Trackers, trackers_of, tracking, truth_beside_prediction

SPACE = LabelSpace([Category("pipe", True), Category("sky", False)])


def row(folder: Path, name: str, height: int, width: int) -> Any:
    photo = Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8))
    photo.save(folder / name)
    ids = np.ones((height, width), dtype=np.int32)
    ids[: height // 2] = 2
    truth = PanopticMap(ids, [Segment(1, 0), Segment(2, 1)], SPACE)
    return SimpleNamespace(photo=folder / name, map=lambda: truth)


def nothing(height: int, width: int) -> PanopticMap:
    return PanopticMap(np.zeros((height, width), dtype=np.int32), [], SPACE)


def events(output: Path) -> EventAccumulator:
    return EventAccumulator(str(output / "tensorboard")).Reload()


def test_figures_and_a_picture_in_one_run(tmp_path: Path) -> None:
    found = [(row(tmp_path, "a.png", 40, 60), nothing(40, 60))]
    for step in (3, 7):  # the second time as after a resume
        with tracking(["tensorboard"], tmp_path / "run") as trackers:
            assert trackers is not None
            trackers.log({"finetune/pq/steel beam": step / 10}, step)
            trackers.show("finetune/validation", found, step)
    told = events(tmp_path / "run")
    assert [(e.step, round(e.value, 3)) for e in told.Scalars("finetune/pq/steel beam")] == [(3, 0.3), (7, 0.7)]
    pictures = told.Images("finetune/validation")
    assert [picture.step for picture in pictures] == [3, 7]
    assert Image.open(io.BytesIO(pictures[0].encoded_image_string)).size == truth_beside_prediction(found).size


def test_truth_is_left_of_the_prediction(tmp_path: Path) -> None:
    """Two rows; the photo of 1200 pixels is shown smaller."""
    rows = [row(tmp_path, "a.png", 40, 60), row(tmp_path, "b.png", 300, 1200)]
    picture = np.asarray(truth_beside_prediction([(rows[0], nothing(40, 60)), (rows[1], nothing(300, 1200))]))
    truth, prediction = (np.asarray(draw(open_image(rows[0].photo), m)) for m in (rows[0].map(), nothing(40, 60)))
    assert 2 * 480 < picture.shape[1] < 2 * 600

    def column_of(part: np.ndarray) -> int:
        """Where a drawing lies, pixel for pixel."""
        windows = sliding_window_view(picture, part.shape)[:, :, 0]
        corner = (windows[..., 0, 0, :] == part[0, 0]).all(-1)
        return next(x for y, x in np.argwhere(corner) if np.array_equal(windows[y, x], part))

    assert column_of(truth) < 480 < column_of(prediction)


def test_one_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trackers = Trackers(["tensorboard"], tmp_path)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("nobody there")

    trackers._trackers["tensorboard"].log = fails
    for step in range(3):
        trackers.log({"loss": 1.0}, step)
    assert caplog.text.count("tensorboard failed in log (nobody there)") == 1


def test_other_processes_track_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with tracking(["tensorboard"], tmp_path / "run") as trackers:
        assert trackers is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("report_to", "answer"),
    [("tensorbord", "Did you mean 'tensorboard'"), ("clearml", "clearml is not installed"), ("none", None)],
)
def test_names_are_checked(report_to: str, answer: str | None) -> None:
    recipe = Recipe.from_dict({"data": "user/set", "stages": {"finetune": {"report_to": report_to}}})
    if answer is None:
        assert trackers_of(recipe) == []
    else:
        with pytest.raises(RecipeError, match=answer):
            trackers_of(recipe)
