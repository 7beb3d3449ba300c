from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made import write_dataset
from PIL import Image

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.cli import main


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    space = LabelSpace([Category("pipe", True)])
    map = PanopticMap(np.ones((30, 30), dtype=np.int32), [Segment(1, 0)], space)
    return write_dataset(tmp_path / "set", {"train": [map], "val": [map]})


def test_a_right_dataset_ends_with_0(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(dataset)]) == 0
    out = capsys.readouterr().out
    assert "train: 1 photo, 1 segment, 0.0% void" in out
    assert "nothing to report: JSON, PNG and photos agree" in out
    assert "next: hf-detr-panoptic train" in out


def test_an_error_ends_with_1_and_the_report_is_written(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dataset / "images/p0.png").unlink()
    assert main(["check", str(dataset), "--json", str(tmp_path / "out" / "report.json")]) == 1
    assert "error photo-missing (1)" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["ok"] is False


def test_a_warning_does_not(dataset: Path) -> None:
    Image.new("RGB", (9, 9)).save(dataset / "images/stranger.png")
    assert main(["check", str(dataset)]) == 0


def test_no_dataset_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "no COCO panoptic JSON is here" in capsys.readouterr().err
