"""The whole road on a synthetic site, part by part, gone on with where it was killed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HfDetrPanopticError, ModelError, RecipeError
from ..files import write_json
from ..lock import LOCK, locked
from ..parallel import by_first
from ..text import count_of

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..training.run_folder import StageEnd
    from .photos import Place


def teacher_folder() -> Path:
    """The folder that `from_pretrained` takes, in a wheel as in a checkout."""
    folder = Path(str(files("hf_detr_panoptic"))) / "demo" / "teacher"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            "the demo's teacher is not there",
            where=str(folder),
            fix="Install hf-detr-panoptic again, or name one: --teacher DIR.",
        )
    return folder


_STATE = "demo.json"


class Parts:
    """What is done of the demo, with seconds and figures; `demo.json` remembers it.

    Of several processes all have the same parts and figures, and the first one speaks and writes.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, dict(settings)
        self.done: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any]) -> Parts:
        """Begin, or go on; raises where the folder is somebody else's, or of other settings."""
        parts = cls(folder, settings)
        parts.done = by_first(parts._begun)
        return parts

    def _begun(self) -> dict[str, dict[str, Any]]:
        """What is done already."""
        state = self.folder / _STATE
        if not state.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or self._holds_anything()):
                raise HfDetrPanopticError(
                    "is there, and is no demo", where=str(self.folder), fix="Give another --out."
                )
            self._write()
            return {}
        try:
            content = json.loads(state.read_bytes())
            before: dict[str, Any] = content["settings"]
            done: dict[str, dict[str, Any]] = content["parts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HfDetrPanopticError(f"cannot be read ({error})", where=str(state), fix=_AFRESH) from error
        now = json.loads(json.dumps(self.settings))
        changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
        if changed:
            raise HfDetrPanopticError(
                f"the demo there has other settings: {', '.join(changed)}", where=str(self.folder), fix=_AFRESH
            )
        return done

    def _holds_anything(self) -> bool:
        return any(path.name != LOCK for path in self.folder.iterdir())

    def run(self, name: str, work: Callable[[], dict[str, Any]], *, together: bool = False) -> None:
        """One part, unless it is done; its figures are kept. The first process does it, or all of them `together`."""
        title = f"── {_TITLES[name]} "
        if name in self.done:
            _say(f"{title}(done before)")
            return
        _say(title + "─" * max(0, 78 - len(title)))
        began = time.perf_counter()
        if together:  # what fails in one ends it, and its launcher ends the others
            shared = work()
            figures = by_first(lambda: shared)
        else:
            figures = by_first(work)
        self.done[name] = {"seconds": round(time.perf_counter() - began, 1), "figures": figures}
        by_first(self._write)
        _say(f"{self.done[name]['seconds']:.0f} s\n")

    def figures(self, name: str) -> dict[str, Any]:
        figures: dict[str, Any] = self.done[name]["figures"]
        return figures

    def finish(self) -> dict[str, Any]:
        """figures.json: no seconds in it, so that the same seed gives the same bytes."""
        figures = {name: part["figures"] for name, part in self.done.items()}
        by_first(lambda: write_json(self.folder / "figures.json", {"settings": self.settings, **figures}))
        return figures

    def _write(self) -> None:
        write_json(self.folder / _STATE, {"settings": self.settings, "parts": self.done})


_AFRESH = "Give another --out, or take that folder away."
_TITLES = {
    "photos": "1  photos of a site, your marks on some classes",
    "labels": "2  the teacher labels the rest, your marks go on top",
    "merged": "3  how right are the merged labels?",
    "training": "4  three stages",
    "held-out": "5  how good is the model, on photos that nobody learnt from?",
    "pictures": "6  pictures and reports",
}


def _say(line: str) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(line, flush=True)


THREADS = 2  # of torch in each process; a fixed number, because figures change with it in their last digits
PROCESSES = 2  # that train


@dataclass(frozen=True)
class DemoSettings:
    """What decides a demo, beside the recipe. size: width and height of the photos; teacher: None for the shipped."""

    out: Path = Path("demo")
    photos: int = 600
    held_out: int = 60
    seed: int = 0
    size: tuple[int, int] = (256, 192)
    teacher: Path | None = None
    recipe: str = "demo"
    processes: int = PROCESSES

    def __post_init__(self) -> None:
        for what, number, least in (
            ("photos", self.photos, 5),
            ("held-out", self.held_out, 1),
            ("seed", self.seed, 0),
            ("processes", self.processes, 1),
            ("size", min(self.size), 32),
        ):
            if number < least:
                raise RecipeError(f"{what} is {number}", fix=f"Give {least} or more.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = DemoSettings()
    parser.add_argument("--out", type=Path, default=defaults.out, metavar="DIR", help="a new folder (%(default)s)")
    parser.add_argument("--photos", type=int, default=defaults.photos, help="that the person has (%(default)s)")
    parser.add_argument(
        "--held-out", type=int, default=defaults.held_out, metavar="N", help="photos to measure on (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of everything (%(default)s)")
    parser.add_argument("--size", default="256x192", metavar="WxH", help="of the photos (%(default)s)")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="a model of your own instead of the shipped one")
    parser.add_argument("--recipe", default=defaults.recipe, help="a YAML file instead of our demo.yaml")
    parser.add_argument(
        "--processes", type=int, default=defaults.processes, metavar="N", help="that train together (%(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """The whole road on a synthetic construction site, offline and on a CPU: photos, labels, three stages, figures.

      hf-detr-panoptic demo
      hf-detr-panoptic demo --out /tmp/demo --photos 100 --seed 1

    A small teacher that comes with the package stands in for COCO's DETR. Since every pixel's truth is known, the
    figures at the end mean something. Run again, it goes on where it was killed. Any key of the recipe demo.yaml is a
    flag. Under torchrun or accelerate launch the processes that it started label, train and measure together.
    """
    from ..parallel import launched
    from ..training.stages import Interrupted

    settings = DemoSettings(
        out=args.out,
        photos=args.photos,
        held_out=args.held_out,
        seed=args.seed,
        size=_size(args.size),
        teacher=args.teacher,
        recipe=args.recipe,
        processes=args.processes,
    )
    if launched() == 1:  # one GPU is plenty, and one process may not see several
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    try:
        demo(settings, args.overrides, progress=sys.stderr.isatty())
    except Interrupted as end:
        if os.environ.get("RANK", "0") == "0":
            print(f"\n{end}", file=sys.stderr)
        return 128 + end.number
    return 0


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise RecipeError(f"--size cannot be {text!r}", fix="Write 256x192.")
    return int(width), int(height)


def demo(settings: DemoSettings, overrides: Sequence[str] = (), *, progress: bool = False) -> dict[str, Any]:
    """All of it; returns the figures, which are also in `figures.json`. `overrides`: flags of the recipe.

    Where a launcher has started several processes, all of them call this, and train in place of those that are asked
    for.
    """
    from datetime import timedelta

    from ..parallel import by_first, guard_processes, launched
    from .photos import Place

    if launched() > 1:
        settings = replace(settings, processes=launched())
    place = Place(settings.out)
    recipe = demo_recipe(settings, place, overrides)
    about = what_decides(settings, recipe)
    guard_processes(timedelta(days=7))  # all wait while one takes photos or draws
    with locked(settings.out):
        parts = Parts.of(settings.out, about)
        by_first(lambda: copy_teacher(settings, place))
        settle()
        parts.run("photos", lambda: take_photos(settings, place, progress))
        parts.run("labels", lambda: make_dataset(recipe, progress), together=True)
        parts.run("merged", lambda: compare_merged(recipe, place))
        parts.run("training", lambda: learn(recipe, place, settings.processes), together=True)
        parts.run("held-out", lambda: measure(place.run / "final", place.held_out), together=True)
        parts.run("pictures", lambda: look(recipe, place))
        figures = parts.finish()
        by_first(lambda: print(conclusion(place, parts)))
        return figures


def demo_recipe(settings: DemoSettings, place: Place, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe, with the demo's own places in it."""
    from ..recipe import Recipe
    from ..settings import Prepare

    recipe = Recipe.load(settings.recipe, overrides)
    if not isinstance(recipe.data, Prepare):
        raise RecipeError("`data` names no photos and marks", where=settings.recipe, fix="Begin with our demo.yaml.")
    data = recipe.data.changed(
        images=place.photos, annotations=place.marks, labeler=str(place.teacher), out=place.data
    )
    return recipe.changed(data=data, model=str(place.teacher), output=str(place.run), seed=settings.seed)


def what_decides(settings: DemoSettings, recipe: Recipe) -> dict[str, Any]:
    """What the demo's folder remembers: with other settings it is not gone on with."""
    from .. import __version__

    data = {key: value for key, value in recipe.to_dict()["data"].items() if key not in _PLACES}
    return {
        "version": __version__,
        "photos": settings.photos,
        "held_out": settings.held_out,
        "seed": settings.seed,
        "size": list(settings.size),
        "processes": settings.processes,
        "teacher": hashlib.sha256((teacher_of(settings) / "model.safetensors").read_bytes()).hexdigest()[:16],
        **{f"data.{key}": value for key, value in data.items()},
    }


_PLACES = ("images", "annotations", "labeler", "out")


# --- the parts


def teacher_of(settings: DemoSettings) -> Path:
    """The folder of the teacher that is asked for, or of the shipped one."""
    folder = settings.teacher or teacher_folder()
    if not (folder / "model.safetensors").is_file():
        raise HfDetrPanopticError("there is no model.safetensors", where=str(folder), fix="Check --teacher.")
    return folder


def copy_teacher(settings: DemoSettings, place: Place) -> None:
    """Into the demo's folder, where the recipe finds it."""
    if not place.teacher.is_dir():
        part = place.folder / ".teacher.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(teacher_of(settings), part)
        part.replace(place.teacher)


def take_photos(settings: DemoSettings, place: Place, progress: bool) -> dict[str, Any]:
    from .photos import make_photos

    marks = make_photos(place, settings.photos, settings.held_out, settings.seed, settings.size, progress)
    print(f"{count_of(settings.photos, 'photo')} in {place.photos}, {settings.held_out} held out")
    print(f"marked: {', '.join(f'{count} × {name}' for name, count in marks.items())}, in {place.marks}")
    return {"photos": settings.photos, "held_out": settings.held_out, "marks": dict(marks)}


def make_dataset(recipe: Recipe, progress: bool) -> dict[str, Any]:
    """Autolabel, overlay, boxes, 80/20: what `prepare` does."""
    from ..labeling.prepare import prepare_dataset

    prepared = prepare_dataset(recipe.prepare, progress=progress)
    if prepared is None:
        return {}  # another process has written it
    print(prepared.tally)
    return {"photos": dict(sorted(prepared.tally.photos.items())), "pixels": prepared.tally.shares}


def compare_merged(recipe: Recipe, place: Place) -> dict[str, Any]:
    from .figures import PASTED, RULED, labelled_photos, merged_quality, mergings

    ways = {name: way for name, way in mergings(recipe.prepare.rules).items() if name in (RULED, PASTED)}
    quality = merged_quality(labelled_photos(place), ways)
    print(table("PQ of the merged labels against the truth", quality))
    return quality


def learn(recipe: Recipe, place: Place, processes: int) -> dict[str, Any]:
    """The three stages; best figure of each, by the metric that chose it."""
    ends = trained(recipe.changed(data=str(place.data)), processes)
    return {end.name: {"metric": end.metric, "best": end.best, "last": end.last} for end in ends}


def trained(recipe: Recipe, processes: int) -> list[StageEnd]:
    """The recipe run in the processes that a launcher has started, or, without a GPU, in several that share threads.

    Where several cannot be, one takes their batches together. What came out is said by whoever trains.
    """
    import torch

    from ..parallel import can_talk, launched
    from ..training.run_folder import finished
    from ..training.train import check_run, launch_command, run_recipe, summary

    if launched() > 1:
        processes = 1  # they are all here already
    if processes > 1 and (torch.accelerator.is_available() or not can_talk()):
        print(f"one process takes the batches of {processes}", flush=True)
        recipe, processes = _together(recipe, processes), 1
    if processes == 1:
        check_run(recipe)
        ends = run_recipe(recipe)
        if ends:
            _say("\n" + summary(ends, recipe).partition("\n\n")[0])
        return ends
    written = Path(recipe.output).with_suffix(".yaml")
    recipe.save(written, header=f"By hand: hf-detr-panoptic train {written.as_posix()}")
    threads = {"OMP_NUM_THREADS": str(max(1, THREADS // processes))}
    done = subprocess.run(launch_command(processes, [str(written)]), env=os.environ | threads, check=False)
    ends = [end for stage in recipe.stages.to_run if (end := finished(recipe.output, stage.name)) is not None]
    whole = len(ends) == len(recipe.stages.to_run) and (Path(recipe.output) / "final" / "config.json").is_file()
    if done.returncode and not whole:  # a process that has done its work may still abort while torch takes it apart
        raise HfDetrPanopticError(
            f"training ended with {done.returncode}", where=recipe.output, fix="The same command resumes."
        )
    return ends


def _together(recipe: Recipe, processes: int) -> Recipe:
    """The same steps in one process."""
    size = "per_device_train_batch_size"
    stages = {s.name: s.with_arguments(**{size: s.training_arguments[size] * processes}) for s in recipe.stages}
    return recipe.changed(stages=recipe.stages.changed(**stages))


def measure(model: Path, held_out: Path) -> dict[str, Any]:
    """PQ by groups, box and mask AP on the held-out truth."""
    from accelerate import PartialState

    from ..evaluation.evaluate import evaluate_model
    from ..text import percent
    from .figures import GROUPS, by_groups

    result = evaluate_model(model, held_out, batch_size=8)
    per_class = {row["name"]: row["pq"] for row in result["per_class"]}
    ap = {kind: result[kind]["all"]["ap"] for kind in ("box", "mask")}
    groups = by_groups(result)
    if PartialState().is_main_process:
        print(table(f"PQ on {result['images']} held-out photos", {"": groups}))
        for group, names in GROUPS.items():
            print(f"{group}: {', '.join(f'{name} {percent(per_class[name])}' for name in names)}")
        print(f"box AP {percent(ap['box'])}, mask AP {percent(ap['mask'])}")
    return {"pq": groups, "ap": ap, "per_class": per_class, "images": result["images"]}


def look(recipe: Recipe, place: Place) -> dict[str, Any]:
    """Pictures, the reports of data and run, and whether plain transformers loads the model."""
    from ..browser.run_page import after_run
    from ..model.modeling import DetrForPanopticSegmentation
    from ..report.report import write_report
    from .figures import draw_pictures

    final = place.run / "final"
    model = DetrForPanopticSegmentation.from_pretrained(final).eval()
    for path in draw_pictures(place, recipe.prepare.rules, model):
        print(path)
    for folder, photos in ((place.data, 60), (place.run, 24)):
        print(write_report(folder, limit=photos))
    print(after_run(place.run))
    labels = found_by_pipeline(final, next(iter(sorted((place.held_out / "images").iterdir()))))
    print(f'pipeline("image-segmentation", "{final}") finds {len(labels)} segments on the first held-out photo')
    return {"pipeline": labels}


def found_by_pipeline(model: Path, photo: Path) -> list[str]:
    """The labels that plain transformers finds on a photo."""
    from transformers import pipeline

    from ..model.checkpoints import quiet_transformers

    with quiet_transformers():  # it would say that it fuses no stuff, which is so
        segments = pipeline("image-segmentation", model=str(model))(str(photo))
    return sorted(segment["label"] for segment in segments)


# --- what is said


def table(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """Percent, a line a row, a column a group."""
    from ..text import percent

    groups = list(next(iter(rows.values())))
    wide = max(len(name) for name in (*rows, title))
    lines = [f"{title:<{wide}}  " + "  ".join(groups)]
    for name, row in rows.items():
        lines.append(f"{name:<{wide}}  " + "  ".join(f"{percent(row[group]):>{len(group)}}" for group in groups))
    return "\n".join(lines)


def conclusion(place: Place, parts: Parts) -> str:
    """The figures in one table, what took how long, and what to type next."""
    from ..browser.run_page import PAGE
    from .figures import PASTED, RULED

    merged = parts.figures("merged")
    rows = {
        "labels, the marks only pasted on": merged[PASTED],
        "labels, merged by the rules": merged[RULED],
        "the model, on held-out photos": parts.figures("held-out")["pq"],
    }
    seconds = {name: part["seconds"] for name, part in parts.done.items()}
    spent = ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items())
    page = place.run / PAGE / "model.html"
    return "\n".join(
        [
            table("PQ against the truth", rows),
            "",
            f"{sum(seconds.values()) / 60:.1f} minutes, in seconds: {spent}",
            f"Look at     {place.pictures / 'strip.png'}",
            f"            {place.pictures / 'held-out.png'}",
            f"            {place.data / 'report.html'}",
            f"            {place.run / 'report.html'}",
            *([f"            {page}"] if page.exists() else []),
            f"The model   {place.run / 'final'}",
            f"The data    {place.data}",
            "",
            "With photos of your own, and CVAT's export of what you marked on them:",
            "  hf-detr-panoptic prepare --images photos/ --annotations export.zip --out data/site",
            "  hf-detr-panoptic check data/site",
            "  hf-detr-panoptic train construction --data data/site",
            "  hf-detr-panoptic evaluate --model runs/construction/final --data data/site",
        ]
    )


# --- small things


def settle() -> None:
    """Threads, and no bars of transformers' own between our lines."""
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
