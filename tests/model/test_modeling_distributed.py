"""The whole model on two processes learns what it learns on one with the same images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "distributed_model.py"
STAGES = ["detection", "mask_head", "finetune"]
CASES = ["uneven", "rank without targets"]


def results_of(launcher, out):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, *launcher, str(SCRIPT), str(out)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(one process, two processes); a hang would end in the time limit."""
    folder = tmp_path_factory.mktemp("runs")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return results_of([], folder / "one.pt"), results_of(launcher, folder / "two.pt")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_one_process(runs, stage, case):
    one, two = (run[f"{stage}, {case}"] for run in runs)
    assert one["loss"] > 0
    assert two["loss"].item() == pytest.approx(one["loss"].item(), rel=1e-9)
    assert two["gradients"].keys() == one["gradients"].keys()
    largest = max(gradient.norm() for gradient in one["gradients"].values())
    assert largest > 1e-4
    for name, gradient in one["gradients"].items():
        assert (two["gradients"][name] - gradient).norm() < 1e-8 * largest, name
