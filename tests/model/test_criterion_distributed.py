"""Two processes with two micro-batches each learn what one process with the whole batch learns; stock does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "distributed_step.py"
CASES = ["uneven", "rank without targets", "nobody has targets"]


def results_of(launcher, out):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    run = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(one process, two processes); a hang would end in the time limit."""
    folder = tmp_path_factory.mktemp("runs")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return results_of([], folder / "one.pt"), results_of(launcher, folder / "two.pt")


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_one_process(runs, case):
    one, two = (run[case] for run in runs)
    assert two["denominators"] == one["denominators"]
    for name, value in one["ours"]["losses"].items():
        if name.startswith("loss"):
            assert two["ours"]["losses"][name].item() == pytest.approx(value.item(), rel=1e-10, abs=1e-12), name
    scale = max(gradient.norm() for gradient in one["ours"]["gradients"])
    for found, expected in zip(two["ours"]["gradients"], one["ours"]["gradients"], strict=True):
        assert found.isfinite().all()
        assert (found - expected).norm() <= 1e-10 * scale


def test_only_the_class_loss_is_left_without_targets(runs):
    for run in runs:
        classes, _, *others = run["nobody has targets"]["ours"]["gradients"]
        assert classes.any()
        assert not any(gradient.any() for gradient in others)


def test_stock_differs(runs):
    """The defects that the above does without: N times too large, and a class loss that is another mean."""
    one, two = (run["uneven"]["stock"]["losses"] for run in runs)
    for name in ("loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        assert two[name].item() == pytest.approx(2 * one[name].item(), rel=1e-9)
    assert two["loss_ce"].item() != pytest.approx(one["loss_ce"].item(), rel=1e-3)
