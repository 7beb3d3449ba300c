"""All three stages with a global batch of four photos, on as many processes as started this script.

    export PYTHONPATH=tests
    python tests/training/two_processes.py DATA MODEL OUT
    torchrun --standalone --nproc_per_node 2 tests/training/two_processes.py DATA MODEL OUT

Rank 0 writes OUT: what each stage logged, the gradients of its steps, its figures, the photos counted.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from made import recipe_of
from transformers import TrainerCallback

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.evaluation import evaluate
from hf_detr_panoptic.parallel import end_processes
from hf_detr_panoptic.training import stages


class Recorder(TrainerCallback):
    """The gradients of each step, as the optimizer gets them (before clipping they are only scaled)."""

    def __init__(self, into):
        self.into = into

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.into.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def main(data, model, out):
    state = PartialState(cpu=True)
    torch.set_num_threads(1)
    read = read_dataset(data)
    splits = stages.Splits(read["train"], read["val"], read["train"].space)
    recipe = recipe_of(
        data,
        model,
        out.with_suffix(".run"),
        every={
            "per_device_train_batch_size": 4 // state.num_processes,
            "max_grad_norm": 0.0,
            "marked_share": 0.5,
        },
        augmentation={"short_sides": [], "crop": 0.0, "paste": 0.8},
        losses={"partial_things": True},
        postprocess={"threshold": 0.0, "fill": "argmax"},
    )
    gradients, counted = {}, []

    measured = evaluate._measured

    def counting(*args):
        found = measured(*args)
        counted.append(list(found))
        return found

    evaluate._measured = counting
    trainer_of = stages._Stage.trainer

    def recorded(self, callbacks=()):
        return trainer_of(self, [*callbacks, Recorder(gradients.setdefault(self.stage.name, []))])

    stages._Stage.trainer = recorded
    ends = stages.run_stages(recipe, splits, say=lambda line: None)
    if state.is_main_process:
        results = {
            end.name: {"rows": end.rows, "result": end.result, "gradients": gradients[end.name]} for end in ends
        }
        torch.save({"stages": results, "counted": counted}, out)
    state.wait_for_everyone()
    end_processes()
    os._exit(0)  # DDP keeps gloo's threads, with which torch now and then aborts a Python that takes itself apart


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
