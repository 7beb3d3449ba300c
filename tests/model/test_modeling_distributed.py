"""The whole model on two processes learns what it learns on one with the same images."""

from pathlib import Path

import pytest
from made import run_by_one_and_by_two

pytestmark = pytest.mark.bits

SCRIPT = Path(__file__).parent / "distributed_model.py"
STAGES = ["detection", "mask_head", "finetune"]
CASES = ["uneven", "rank without targets"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_by_one_and_by_two(SCRIPT, folder=tmp_path_factory.mktemp("runs"))


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
