"""Runs that are killed and run again, each in a process of its own; the parent never computes, so it can fork.

    PYTHONPATH=tests python tests/training/killed_runs.py DATA MODEL FOLDER CHANGES MOMENT [MOMENT …]

CHANGES are JSON, for `recipe_of`. A moment is STAGE:WHAT:STEP. WHAT is `step` (after the optimizer step), or the file
in the middle of which saving the checkpoint of that step ends (`model`, `optimizer`, `state`, `marker`); `final`: the
stage's model.
FOLDER/undisturbed and FOLDER/<moment> are left behind.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from made import recipe_of
from transformers import TrainerState

from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.training import checkpoints, stages
from hf_detr_panoptic.training import trainer as trainer_module

FILES = {"model": "model.safetensors", "optimizer": "optimizer.pt", "state": "trainer_state.json"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def half_of(path):
    """What a kill in the middle of writing leaves."""
    path = Path(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    die()


def arrange(moment):
    """Die at the moment."""
    stage, what, step = moment.split(":")
    folder = {"detection": "1-detection", "mask_head": "2-mask_head", "finetune": "3-finetune"}[stage]
    checkpoint = f"{folder}/checkpoint-{step}"

    def after(owner, name, path_of, wanted):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            if str(path_of(*args)).endswith(wanted):
                half_of(path_of(*args))
            return result

        setattr(owner, name, wrapped)

    if what == "step":
        original = trainer_module._Steps.on_step_end

        def on_step_end(self, args, state, control, **kwargs):
            original(self, args, state, control, **kwargs)
            if self.trainer.stage.name == stage and state.global_step == int(step):
                die()

        trainer_module._Steps.on_step_end = on_step_end
    elif what == "optimizer":
        after(torch, "save", lambda _, path, *rest: path, f"{checkpoint}/optimizer.pt")
    elif what == "state":
        after(TrainerState, "save_to_json", lambda _, path: path, f"{checkpoint}/trainer_state.json")
    elif what == "marker":
        original_mark = checkpoints.mark_complete

        def mark_complete(path, **content):
            if str(path).endswith(checkpoint):
                die()
            original_mark(path, **content)

        checkpoints.mark_complete = mark_complete
    else:
        where = {"model": checkpoint, "final": folder}[what]
        model = trainer_module.DetrForPanopticSegmentation
        after(
            model, "save_pretrained", lambda _, path, *rest: Path(path) / FILES["model"], f"{where}/{FILES['model']}"
        )


def in_a_process(work):
    """How it ended: 0, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(data, model, folder, changes, moments):
    def run(name):
        PartialState(cpu=True)
        torch.set_num_threads(1)
        read = read_dataset(data)
        splits = stages.Splits(read["train"], read["val"], read["train"].space)
        recipe = recipe_of(data, model, folder / name, **json.loads(changes))
        stages.run_stages(recipe, splits, say=lambda line: None)

    assert in_a_process(lambda: run("undisturbed")) == 0
    for moment in moments:
        name = moment.replace(":", "-")
        assert in_a_process(lambda moment=moment, name=name: (arrange(moment), run(name))) == -signal.SIGKILL, moment
        assert in_a_process(lambda name=name: run(name)) == 0, moment


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5:])
