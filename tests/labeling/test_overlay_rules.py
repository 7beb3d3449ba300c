"""Each rule of the overlay earns its place: the experiment of benchmarks/overlay_rules.py on a few of its scenes."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from hf_detr_panoptic import PanopticMap, Segment
from hf_detr_panoptic.settings import OverlayRules


@pytest.fixture(scope="module")
def experiment(root) -> ModuleType:
    spec = importlib.util.spec_from_file_location("overlay_rules_experiment", root / "benchmarks" / "overlay_rules.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def drawn(experiment) -> list:
    return list(experiment.scenes(12, seed=1))


def test_scenes_are_a_function_of_the_seed(experiment, drawn):
    again = next(iter(experiment.scenes(1, seed=1)))
    assert again.truth == drawn[0].truth
    assert again.auto == drawn[0].auto
    assert again.marks == drawn[0].marks
    assert next(iter(experiment.scenes(1, seed=2))).truth != again.truth


@pytest.mark.parametrize(
    "variant",
    ["leakage off", "low confidence kept", "fragments kept", "marks in file order", "rectangles as they are"],
)
def test_each_rule_takes_lies_out_of_the_merged_maps(experiment, drawn, variant):
    with_it = experiment.outcome(drawn, OverlayRules())
    without = experiment.outcome(drawn, OverlayRules(**experiment.VARIANTS[variant]))
    assert with_it.pq_as_truth > without.pq_as_truth
    assert with_it.wrong < without.wrong


def test_void_is_better_than_a_guess(experiment, drawn):
    kept = experiment.outcome(drawn, OverlayRules())
    for guess in (experiment.nearest_for_void, experiment.first_stuff_for_void):
        filled = experiment.outcome(drawn, OverlayRules(), guess)
        assert filled.void == 0
        assert filled.pq_as_truth < kept.pq_as_truth
        assert filled.wrong > kept.wrong


def test_rules_together_are_better_than_pasting_also_as_an_answer(experiment, drawn):
    assert experiment.outcome(drawn, OverlayRules()).pq > experiment.outcome(drawn, experiment.PLAIN).pq


def test_what_a_guess_makes_of_void(experiment):
    label = experiment.SPACE.index("truck")
    partial = PanopticMap(np.array([[1, 0, 0, 0]], dtype=np.int32), [Segment(1, label)], experiment.SPACE)
    assert experiment.nearest_for_void(partial).areas() == {1: 4}
    filled = experiment.first_stuff_for_void(partial)
    assert filled.areas() == {1: 1, 2: 3}
    assert filled.space[filled.segment(2).label].name == "sky-other-merged"
