"""One small world, made once: photos, marks, a dataset, models, a run, and every command that works on them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from forked import in_a_fork, start
from made import SHAPES, recipe_of, save_site, save_tiny_labeler, tiny_model, tree, write_data, write_run, write_shapes
from stand_in import StandIn

EPOCH = 1_700_000_000_000_000_000  # when every input was last changed


@dataclass(frozen=True)
class Command:
    """`words` with the world's paths in them; what it makes lies in `out`."""

    name: str
    words: tuple[object, ...]
    begin: Path | None = None  # what lies in `out` before it starts
    differs: str = r"(?!)"  # files that hold times: a regular expression
    photos: Path | None = None  # one of these may change while it works
    ranks: bool = False  # several processes may share it
    faults: tuple[str, ...] = ()  # only these; what it makes is then not in `out`

    def same(self, found: dict[str, bytes]) -> dict[str, bytes]:
        return {name: content for name, content in found.items() if not re.search(self.differs, name)}


class World:
    """Everything below `root`, readable alone but for `out`, where commands write."""

    def __init__(self, root: Path, hub: StandIn | None = None) -> None:
        self.root, self.out, self.hub = root, root / "out", hub
        self.inputs = root / "in"
        self.site, self.labeler, self.model = (self.inputs / name for name in ("site", "labeler", "model"))
        self.shapes, self.data, self.run = (self.inputs / name for name in ("shapes", "data", "run"))
        self.recipe, self.recipe_with_workers = self.inputs / "recipe.yaml", self.inputs / "recipe2.yaml"

    def make(self) -> None:
        in_a_fork(self._make)
        for words in (
            [*self._prepare("prepare"), "--out", self.data],
            ["predict", self.model, self.shapes / "images", "--out", self.inputs / "predictions"],
            ["export-review", self.data, self.inputs / "review.zip"],
        ):
            ended = start(words, self.root / "log" / "made").wait()
            assert ended.code == 0, ended
        for path in self.inputs.rglob("*"):
            if path.is_file():
                os.utime(path, ns=(EPOCH, EPOCH))

    def _make(self) -> None:
        save_site(self.site, 8)
        save_tiny_labeler(self.labeler)
        write_shapes(self.shapes)
        tiny_model(SHAPES, dropout=0.1).save_pretrained(self.model)
        write_run(self.run, write_data(self.inputs / "run-data"), model=True)
        for path, workers in ((self.recipe, 0), (self.recipe_with_workers, 1)):
            every = {"dataloader_num_workers": workers, "num_train_epochs": 1}
            recipe_of(self.shapes, self.model, self.out, every=every).save(path)
        prepare = {"images": str(self.site / "photos"), "annotations": str(self.site / "marks.json")}
        (self.inputs / "prepare.yaml").write_text(yaml.safe_dump({**prepare, "labeler": str(self.labeler)}))

    def _prepare(self, command: str) -> tuple[object, ...]:
        words = command, "--images", self.site / "photos", "--annotations", self.site / "marks.json"
        return *words, "--labeler", self.labeler, "--max-size", 90, "--seed", 1

    def commands(self) -> list[Command]:
        out, photos, data, shapes, model = self.out, self.site / "photos", self.data, self.shapes, self.model
        # Seconds and pictures of seconds; the optimizer's file holds no weights, and a checkpoint is thrown away.
        timed = r"complete\.json|environment\.json|report\.html|tfevents|training_args|checkpoint-|trainer_state"
        marks = "--images", photos, "--annotations", self.site / "marks.json"
        overlay = "overlay", *marks, "--autolabels", data / "autolabels", "--max-size", 90, "--out", out
        shape = shapes / "images"
        known = "--model", model, "--data", shapes
        folders = (
            "--predictions",
            self.inputs / "predictions/predictions.json",
            self.inputs / "predictions/predictions",
        )
        truth = "--truth", shapes / "annotations/panoptic_val.json", shapes / "annotations/panoptic_val"
        figures = "--json", out / "e.json", "--per-class", out / "e.csv"
        push = "push", self.run, "anna/site", "--final-only", "--data", self.inputs / "run-data", "anna/photos"
        pushed = Command("push", push, faults=("killed", "asked to end", "nobody listens"))
        return [
            Command("prepare", (*self._prepare("prepare"), "--out", out), photos=photos, ranks=True),
            Command("autolabel", (*self._prepare("autolabel"), "--out", out), photos=photos, ranks=True),
            Command("overlay", overlay, photos=photos),
            Command("split in place", ("split", out, "--fraction", 0.4, "--seed", 3), begin=shapes),
            Command("split", ("split", shapes, "--fraction", 0.4, "--seed", 3, "--out", out)),
            Command("check", ("check", data, "--json", out / "check.json")),
            Command("train", ("train", self.recipe), differs=timed, ranks=True),
            Command("train with workers", ("train", self.recipe_with_workers), differs=timed),
            Command("export-review", ("export-review", data, out / "review.zip")),
            Command("import-review", ("import-review", data, self.inputs / "review.zip", "--out", out)),
            Command("evaluate", ("evaluate", *known, *figures), photos=shape, ranks=True),
            Command("evaluate folders", ("evaluate", *folders, *truth, "--workers", 2, "--json", out / "e.json")),
            Command("calibrate", ("calibrate", *known, "--out", out)),
            Command("report of data", ("report", data, "--out", out / "report.html")),
            Command("report of a run", ("report", self.run, "--out", out / "report.html")),
            Command("predict", ("predict", model, shape, "--masks", "class", "--out", out), photos=shape),
            Command("trace", ("trace", model, next(iter(sorted(shape.rglob("*.png")))), "--out", out)),
            Command("recipe", ("recipe", "laptop", "--out", out / "mine.yaml")),
            *([pushed] if self.hub else []),
        ]

    def clear(self, command: Command) -> None:
        """`out` as it is before the command, or nothing at all. On a mounted disk the folder itself stays."""
        empty(self.out)
        if self.hub and command.name == "push":
            self.hub.clear()
        if command.begin:
            shutil.copytree(command.begin, self.out, dirs_exist_ok=True)

    def result(self, command: Command) -> dict[str, bytes]:
        if self.hub and command.name == "push":
            return self.hub.files()
        return command.same(tree(self.out)) if self.out.is_dir() else {}


def empty(folder: Path) -> None:
    if folder.is_mount():
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def differing(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Callable[[], None]]:
    """What is called puts the folder's content of now into the folder of then, which may be another disk."""
    with tempfile.TemporaryDirectory() as scratch:
        aside = Path(scratch) / "aside"
        if folder.is_dir():
            shutil.copytree(folder, aside)
            empty(folder)
        yield lambda: shutil.copytree(aside, folder, dirs_exist_ok=True) and None if aside.is_dir() else None
