"""A run that is killed and run again ends with the weights and figures of one that nobody disturbed, bit for bit."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from made import run_python, write_half_marked
from safetensors.torch import load_file

pytestmark = pytest.mark.bits

SCRIPT = Path(__file__).parent / "killed_runs.py"
FOLDERS = ("1-detection", "2-mask_head", "3-finetune", "final")

# Everything on that draws: three epochs instead of two, evaluations and checkpoints after steps 8 and 12.
EVERYTHING = {
    "every": {"marked_share": 0.5, "min_steps": 10, "eval_every": 5, "ema": 0.9},
    "augmentation": {"short_sides": [56, 64], "longest": 96, "crop": 0.5, "paste": 0.8},
    "losses": {"partial_things": True},
}
QUICK = ["detection:optimizer:8", "finetune:step:10"]
# Four steps an epoch, two epochs: in the first epoch, before anything is saved; while saving; and after that.
THOROUGH = [
    "detection:step:2",
    "detection:model:4",
    "detection:step:7",
    "detection:final:8",
    "mask_head:step:5",
    "mask_head:optimizer:4",
    "mask_head:marker:8",
    "finetune:step:3",
    "finetune:state:8",
    "finetune:final:8",
]


def check_alike(found: Path, expected: Path) -> None:
    for name in FOLDERS:
        ours, theirs = (load_file(run / name / "model.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            assert torch.equal(ours[key], tensor), (found.name, name, key)
    for name in ("metrics.json", "results.csv", "per_class.csv"):
        assert (found / name).read_text() == (expected / name).read_text(), (found.name, name)


@pytest.fixture
def half_marked(shapes_folder: Path, tmp_path: Path) -> Path:
    return write_half_marked(shapes_folder, tmp_path / "half-marked")


def test_a_killed_run_ends_as_if_undisturbed(half_marked: Path, model_folder: Path, tmp_path: Path) -> None:
    run_python(SCRIPT, half_marked, model_folder, tmp_path, json.dumps(EVERYTHING), *QUICK)
    for moment in QUICK:
        check_alike(tmp_path / moment.replace(":", "-"), tmp_path / "undisturbed")
    # The test would pass if nothing were learnt: each stage must change what it trains.
    states = [
        load_file(folder / "model.safetensors")
        for folder in (model_folder, *(tmp_path / "undisturbed" / f for f in FOLDERS))
    ]
    for before, after in pairwise(states[:4]):
        assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_many_moments(shapes_folder: Path, model_folder: Path, tmp_path: Path, workers: int) -> None:
    moments = THOROUGH if workers == 0 else ["detection:step:6", "mask_head:optimizer:8", "finetune:step:5"]
    changes = {"every": {"dataloader_num_workers": workers}}
    run_python(SCRIPT, shapes_folder, model_folder, tmp_path, json.dumps(changes), *moments)
    for moment in moments:
        check_alike(tmp_path / moment.replace(":", "-"), tmp_path / "undisturbed")
        assert json.loads((tmp_path / moment.replace(":", "-") / "metrics.json").read_text())["stages"]
