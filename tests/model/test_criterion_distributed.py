"""Two processes with two micro-batches each learn what one process with the whole batch learns; stock does not."""

from pathlib import Path

import pytest
from made import run_by_one_and_by_two

pytestmark = pytest.mark.bits

SCRIPT = Path(__file__).parent / "distributed_step.py"
CASES = ["uneven", "rank without targets", "nobody has targets"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return run_by_one_and_by_two(SCRIPT, folder=tmp_path_factory.mktemp("runs"))


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
