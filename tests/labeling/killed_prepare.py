"""Prepare a dataset undisturbed, then once more, killed again and again; fails unless every byte agrees.

    PYTHONPATH=tests OMP_NUM_THREADS=1 python tests/labeling/killed_prepare.py FOLDER --kills 20 --photos 60

The work is forked off a process that has imported everything, so that the random moments fall into the work.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from made import save_site, save_tiny_labeler, tree

from hf_detr_panoptic.road import prepare


def forked(folder: Path, out: Path, photos: str = "photos") -> int:
    process = os.fork()
    if process:
        return process
    try:
        marks = folder / "marks.json"
        prepare(folder / photos, out, marks, labeler=str(folder / "labeler"), seed=1, max_size=90)
    except BaseException as error:
        print(f"failed: {error!r}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def state(out: Path, photos: int) -> str:
    """Where a kill caught the work."""
    if not out.exists():
        return "before anything was written"
    answers = len(list(out.glob("autolabels/*/*.png")))
    written = len(list(out.glob("annotations/panoptic_*/*.png")))
    if (out / "annotations/.incomplete").exists():
        return f"while writing ({written} maps)"
    if (out / "annotations/.earlier.json").exists():
        return "between the dataset and its papers"
    return f"while labeling ({answers} answers)" if answers < photos else "before the writing or after all"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--grown", action="store_true", help="the dataset is there, of half of the photos")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    setup = os.fork()  # this process itself must start no thread: what a fork copies while one holds a lock hangs
    if not setup:
        save_site(args.folder, args.photos)
        save_tiny_labeler(args.folder / "labeler")
        os._exit(0)
    assert os.waitpid(setup, 0)[1] == 0
    before = tree(args.folder / "photos")

    if args.grown:
        (args.folder / "half/photos").mkdir(parents=True)
        for path in sorted((args.folder / "photos").iterdir())[::2]:
            shutil.copy2(path, args.folder / "half/photos")

    def begun(round_: str) -> Path:
        """A new dataset; of half the photos already, where it is to grow."""
        out = args.folder / round_ / "site"
        if args.grown:
            assert os.waitpid(forked(args.folder, out, "half/photos"), 0)[1] == 0
        return out

    undisturbed = begun("undisturbed")
    begin = time.perf_counter()
    assert os.waitpid(forked(args.folder, undisturbed), 0)[1] == 0
    whole = time.perf_counter() - begin

    rng = random.Random(args.seed)
    kills = 0
    round_ = 0
    while kills < args.kills:
        # One dataset takes two kills; then another is begun, so that they fall everywhere, not at the end alone.
        out = begun(f"killed-{round_}")
        finished = False
        for _ in range(min(2, args.kills - kills)):
            process = forked(args.folder, out)
            ended = os.pidfd_open(process)
            finished = bool(select.select([ended], [], [], rng.uniform(0, whole))[0])
            os.close(ended)
            if not finished:
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            if finished:
                break
            kills += 1
            print(f"kill {kills}: {state(out, args.photos)}")
        if not finished:
            assert os.waitpid(forked(args.folder, out), 0)[1] == 0
        wanted, found = tree(undisturbed), tree(out)
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        assert not differing, f"round {round_}: {len(differing)} files differ: {differing[:5]}"
        round_ += 1
    assert tree(args.folder / "photos") == before, "the photos were changed"
    print(f"{kills} kills in {round_} datasets of {args.photos} photos ({whole:.1f} s each): every byte agrees")


if __name__ == "__main__":
    main()
