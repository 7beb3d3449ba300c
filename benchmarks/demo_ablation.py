"""What does each part of the road add? The demo's training with one thing changed at a time, on held-out truth.

    python benchmarks/demo_ablation.py --folder /tmp/ablation --results ablation.jsonl
    python benchmarks/demo_ablation.py --variants pipeline,ceiling --seeds 0 --photos 60 --scale 0.2

Photos, marks, teacher, labels, recipe and measure are those of `hf-detr-panoptic demo`; a seed decides all of them.
Each run that ends is a line in the results, and what is there for the same settings is not run again. Flags of the
recipe may follow; they hold in every variant. The table has the mean over the seeds, and the least and the most.

    pipeline      the demo as it is
    leakage       auto things under the marks stay, with the rim that they leave around them
    void          nothing may be void: low scores count, and what is left goes to the nearest segment
    two stages    no third stage, at a lower rate
    confident     the mask head learns on matched queries only where they are sure of the class
    focal, dice   the masks learn by one of the two losses alone
    fresh rows    the class head starts from random rows instead of those of the teacher's classes
    stock         DetrForSegmentation and Trainer: the same labels, rates and batches, as many minutes, in one stage
    ceiling       the same training on perfect labels

    python benchmarks/demo_ablation.py --marked 60 --seeds 0

With --marked N only the first N photos are marked, and nobody has looked at the others: the labeler's answer is all
that they have, and they are never in val. All variants train as many steps as all photos make in the recipe's epochs.

    all marked    all photos are, for comparison
    left out      the others are not learnt from
    as looked at  the others teach that nothing of the person's classes is on them
    partial       the others are incomplete for these classes: the loss asks nothing about them there
    things        beside partial: a thing that the labeler named there may be one of these classes, too
    + paste       marked things are pasted into half of the photos
    + half        half of each batch are marked photos
    + more        0.7 of each batch and of the pasting, and 1.5 times the steps
    + refit       as with `refit`: in train are all marked photos but one
    + most        0.7 of each batch and of the pasting, in as many steps as the others

Stock gets a fresh class head, as `ignore_mismatched_sizes` gives it, no augmentation, and a step count that fills the
minutes of the pipeline's run on this machine; its maps are made by our post-processing, which is kind to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import machine, print_table

from hf_detr_panoptic.demo.demo import (
    DemoSettings,
    copy_teacher,
    demo_recipe,
    make_dataset,
    measure,
    settle,
    take_photos,
    teacher_of,
    trained,
)
from hf_detr_panoptic.demo.figures import (
    LabelledScene,
    Merging,
    labelled_photos,
    merged_quality,
    mergings,
    without_void,
)
from hf_detr_panoptic.demo.photos import Place
from hf_detr_panoptic.demo.scenes import CUSTOM
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.recipe import Recipe
from hf_detr_panoptic.settings import OverlayRules
from hf_detr_panoptic.stage_settings import STAGES
from hf_detr_panoptic.text import percent
from hf_detr_panoptic.training.run_folder import StageEnd, stage_folder

Relabel = Callable[[LabelledScene, OverlayRules], PanopticMap]
GROUPS = ("all", "things", "stuff", "your classes", "the teacher's classes")


@dataclass(frozen=True)
class Variant:
    """What is changed: other labels, flags of the recipe, another start, or another trainer.

    after: the stage up to which nothing is changed, so that the pipeline's own is where this one starts.
    """

    labels: Relabel | None = None
    flags: tuple[str, ...] = ()
    after: str | None = None
    fresh_rows: bool = False
    stock: bool = False
    others: str = "marked"  # or left out, looked at, incomplete: photos beyond the first so many
    longer: float = 1.0
    refit: bool = False


VARIANTS = {
    "pipeline": Variant(),
    "leakage": Variant(lambda photo, rules: photo.merged(Merging(rules.changed(leakage=None)))),
    "void": Variant(lambda photo, rules: photo.merged(Merging(rules.changed(threshold=0.0), without_void))),
    "two stages": Variant(flags=("--stages.finetune.skip", "true"), after="mask_head"),
    "confident": Variant(flags=("--stages.mask_head.mask_queries", "confident"), after="detection"),
    "focal": Variant(flags=("--losses.dice", "0"), after="detection"),
    "dice": Variant(flags=("--losses.mask", "0"), after="detection"),
    "fresh rows": Variant(fresh_rows=True),
    "stock": Variant(stock=True),
    "ceiling": Variant(lambda photo, rules: photo.truth),
}

PASTE = ("--augmentation.paste", "0.5")
HALF = ("--marked_share", "0.5")
MORE = ("--augmentation.paste", "0.7", "--marked_share", "0.7")
THINGS = ("--losses.partial_things", "true")
MARKED_VARIANTS = {
    "all marked": Variant(),
    "left out": Variant(others="left out"),
    "left out + paste": Variant(others="left out", flags=PASTE),
    "as looked at": Variant(others="looked at"),
    "as looked at + paste": Variant(others="looked at", flags=PASTE),
    "partial": Variant(others="incomplete"),
    "partial + paste": Variant(others="incomplete", flags=PASTE),
    "as looked at + paste + half": Variant(others="looked at", flags=(*PASTE, *HALF)),
    "partial + paste + half": Variant(others="incomplete", flags=(*PASTE, *HALF)),
    "things + paste + half": Variant(others="incomplete", flags=(*PASTE, *HALF, *THINGS)),
    "partial + more": Variant(others="incomplete", flags=MORE, longer=1.5),
    "partial + most + refit": Variant(others="incomplete", flags=MORE, refit=True),
    "partial + more + refit": Variant(others="incomplete", flags=MORE, longer=1.5, refit=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--variants", metavar="A,B", help="(all)")
    parser.add_argument("--marked", type=int, metavar="N", help="only the first N photos are marked")
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N", help="(%(default)s)")
    parser.add_argument("--photos", type=int, default=DemoSettings.photos, help="(%(default)s)")
    parser.add_argument("--held-out", type=int, default=DemoSettings.held_out, help="(%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the epochs of every stage (%(default)s)")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="(the shipped one)")
    parser.add_argument("--recipe", default=DemoSettings.recipe, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the runs are left; a temporary one otherwise")
    parser.add_argument(
        "--results", type=Path, default=Path("demo_ablation.jsonl"), metavar="FILE", help="(%(default)s)"
    )
    given, flags = parser.parse_known_args()
    variants = VARIANTS if given.marked is None else MARKED_VARIANTS
    chosen = [name.strip() for name in given.variants.split(",")] if given.variants else list(variants)
    if unknown := [name for name in chosen if name not in variants]:
        parser.error(f"there is no variant {unknown[0]!r}; known: {', '.join(variants)}")
    if given.marked is not None and not 2 <= given.marked <= given.photos:
        parser.error(f"--marked cannot be {given.marked}: one is learnt from, one validated on, of {given.photos}")
    settle()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in map(int, given.seeds.split(",")):
            settings = DemoSettings(
                out=(given.folder or Path(scratch)) / f"seed-{seed}",
                photos=given.photos,
                held_out=given.held_out,
                seed=seed,
                teacher=given.teacher,
                recipe=given.recipe,
            )
            Site(settings, flags, given.scale, given.results, given.marked).run(chosen)
    told = Results(given.results).of(key_of(settings, flags, given.scale, given.marked))
    print()
    show("PQ of the model on held-out photos", [line for line in told if line["kind"] == "model"])
    if labels := [line for line in told if line["kind"] == "labels"]:
        print()
        show("PQ of the merged labels", labels)


def key_of(settings: DemoSettings, flags: Sequence[str], scale: float, marked: int | None = None) -> dict[str, Any]:
    """What must be the same for runs to stand in one table: everything but variant and seed."""
    recipe = demo_recipe(replace(settings, seed=0), Place(Path("demo")), flags).to_dict()
    return {
        "photos": settings.photos,
        "held_out": settings.held_out,
        "marked": marked,
        "scale": scale,
        "teacher": hashlib.sha256((teacher_of(settings) / "model.safetensors").read_bytes()).hexdigest()[:12],
        "recipe": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12],
    }


class Results:
    """One line a run, added as it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        found = [json.loads(line) for line in lines if line.strip()]
        same = [line for line in found if all(line.get(name) == value for name, value in key.items())]
        return list({(line["kind"], line["variant"], line["seed"]): line for line in same}.values())

    def add(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Site:
    """One seed's photos, labels and runs."""

    def __init__(
        self, settings: DemoSettings, flags: Sequence[str], scale: float, results: Path, marked: int | None = None
    ) -> None:
        self.settings, self.flags, self.scale, self.marked = settings, tuple(flags), scale, marked
        self.variants = VARIANTS if marked is None else MARKED_VARIANTS
        self.place = Place(settings.out)
        self.results, self.key = Results(results), key_of(settings, flags, scale, marked)

    def run(self, names: Sequence[str]) -> None:
        lines = [line for line in self.results.of(self.key) if line["seed"] == self.settings.seed]
        done = {line["variant"]: line for line in lines if line["kind"] == "model"}
        needed = any(self.variants[name].stock or self.variants[name].after for name in names if name not in done)
        if needed and not ("pipeline" in done and self._folder("pipeline").is_dir()):
            done.pop("pipeline", None)
            names = [*dict.fromkeys(["pipeline", *names])]  # it sets the minutes, and others go on from its stages
        if all(name in done for name in names):
            return
        self._prepare()
        if self.marked is None and not any(line["kind"] == "labels" for line in lines):
            rules = mergings(self._recipe().prepare.rules)
            for name, quality in merged_quality(labelled_photos(self.place), rules).items():
                self._add("labels", name, pq=quality)
        for name in sorted(names, key=list(self.variants).index):
            if name not in done:
                print(f"\n== {name}, seed {self.settings.seed}", flush=True)
                done[name] = self._train(name, self.variants[name], done)

    def _prepare(self) -> None:
        """As the demo does it, once a seed."""
        marker = self.place.folder / "prepared"
        if not marker.is_file():
            copy_teacher(self.settings, self.place)
            take_photos(self.settings, self.place, progress=False)
            make_dataset(self._recipe(), progress=False)
            marker.touch()

    def _recipe(self, more: Sequence[str] = ()) -> Recipe:
        return demo_recipe(self.settings, self.place, [*self.flags, *more])

    def _train(self, name: str, variant: Variant, done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        folder = self._folder(name)
        shutil.rmtree(folder, ignore_errors=True)  # what was cut off has no minutes
        recipe = self._recipe(variant.flags)
        if self.marked is not None:
            recipe = in_steps(recipe, self._steps_per_epoch(recipe))
        recipe = scaled(recipe, self.scale * variant.longer)
        data, start = self.place.data, self.place.teacher
        if variant.others != "marked":
            assert self.marked is not None
            data = partly_marked(self.place, self.marked, variant, recipe.prepare.rules, folder / "data")
        if variant.labels is not None:
            data = relabelled(self.place, variant.labels, recipe.prepare.rules, folder / "data")
        if variant.fresh_rows:
            start = with_fresh_rows(start, folder / "start", self.settings.seed)
        saved = 0.0
        if variant.after is not None:
            recipe, saved = gone_on(recipe, self._folder("pipeline") / "run", variant.after)
            start = Path(recipe.model)
        places = {"data": str(data), "model": str(start), "output": str(folder / "run")}
        recipe = recipe.model_copy(update=places)  # unchecked: perhaps no stage is left to run
        final = folder / "run" / "final"
        began = time.perf_counter()
        if variant.stock:
            train_stock(recipe, data, final, done["pipeline"]["seconds"])
        elif recipe.stages.to_run:
            trained(recipe, self.settings.processes)
        else:
            final = start
        seconds = saved + time.perf_counter() - began
        figures = measure(final, self.place.held_out)
        return self._add("model", name, pq=figures["pq"], ap=figures["ap"], seconds=round(seconds, 1))

    def _steps_per_epoch(self, recipe: Recipe) -> dict[str, int]:
        """Of each stage, with all photos marked."""
        from hf_detr_panoptic.dataset.coco_panoptic import read_split

        photos = len(read_split(self.place.data, "train"))
        batches = {stage.name: stage.training_arguments["per_device_train_batch_size"] for stage in recipe.stages}
        return {name: math.ceil(photos / (size * self.settings.processes)) for name, size in batches.items()}

    def _folder(self, name: str) -> Path:
        where = "variants" if self.marked is None else f"marked-{self.marked}"
        return self.place.folder / where / "-".join(name.replace("+", "").split())

    def _add(self, kind: str, variant: str, **figures: Any) -> dict[str, Any]:
        line = {"kind": kind, "variant": variant, "seed": self.settings.seed, **self.key, **figures}
        self.results.add(line)
        return line


def gone_on(recipe: Recipe, run: Path, last: str) -> tuple[Recipe, float]:
    """The recipe with the stages up to `last` taken from a run, and the seconds that they took there."""
    taken = [stage.name for stage in recipe.stages][: STAGES.index(last) + 1]
    stages = {name: getattr(recipe.stages, name).changed(skip=True) for name in taken}
    ends = [StageEnd.read(stage_folder(run, name)) for name in taken]
    left = recipe.model_copy(update={"model": str(ends[-1].folder), "stages": recipe.stages.changed(**stages)})
    return left, sum(end.seconds or 0 for end in ends)


def in_steps(recipe: Recipe, per_epoch: Mapping[str, int]) -> Recipe:
    """Every stage in as many steps as its epochs have where an epoch has so many."""
    changed = {}
    for stage in recipe.stages:
        arguments = dict(stage.training_arguments)
        epochs = arguments.pop("num_train_epochs", None)
        if epochs is not None:
            arguments["max_steps"] = round(epochs * per_epoch[stage.name])
            changed[stage.name] = stage.model_copy(update={"training_arguments": arguments})
    return recipe.changed(stages=recipe.stages.changed(**changed))


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Every stage in so many times the epochs."""
    changed = {}
    for stage in recipe.stages:
        arguments = stage.training_arguments
        counted = [name for name in ("max_steps", "eval_steps", "save_steps", "warmup_steps") if arguments.get(name)]
        changes: dict[str, Any] = {name: max(1, round(arguments[name] * scale)) for name in counted}
        if "num_train_epochs" in arguments:
            changes["num_train_epochs"] = arguments["num_train_epochs"] * scale
        changed[stage.name] = stage.with_arguments(**changes)
    return recipe.changed(stages=recipe.stages.changed(**changed)) if scale != 1 else recipe


def relabelled(place: Place, labels: Relabel, rules: OverlayRules, folder: Path) -> Path:
    """The prepared dataset with other maps: the same photos, sides and image ids."""
    from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
    from hf_detr_panoptic.dataset.writer import DatasetWriter

    splits = read_dataset(place.data)
    space = next(iter(splits.values())).space
    photos = {photo.name: photo for photo in labelled_photos(place)}
    with DatasetWriter(folder, space) as writer:
        for name, split in splits.items():
            for record in split:
                map = labels(photos[record.original_file or record.file_name], rules)
                names = {old: old if old in space.names else None for old in map.space.names}
                same = map.relabelled(space, names)
                writer.add(name, record.file_name, record.photo, same, image_id=int(record.image_id))
    return folder


def partly_marked(place: Place, marked: int, variant: Variant, rules: OverlayRules, folder: Path) -> Path:
    """The prepared dataset as if a person had marked the first photos alone; val has none of the others.

    To refit, val keeps the last one of them alone: a split must not be empty.
    """
    from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
    from hf_detr_panoptic.dataset.writer import DatasetWriter

    splits = read_dataset(place.data)
    space = next(iter(splits.values())).space
    sides = {record.original_file or record.file_name: (name, record) for name, of in splits.items() for record in of}
    photos = list(labelled_photos(place))
    seen = photos[:marked]
    if all(sides[photo.name][0] == "train" for photo in seen):
        sides[seen[-1].name] = ("val", sides[seen[-1].name][1])
    elif all(sides[photo.name][0] == "val" for photo in seen):
        sides[seen[0].name] = ("train", sides[seen[0].name][1])
    if variant.refit:
        sides |= {photo.name: ("train", sides[photo.name][1]) for photo in seen[:-1]}
        sides[seen[-1].name] = ("val", sides[seen[-1].name][1])
    yours = [name for name in CUSTOM.names if name in space.names]
    with DatasetWriter(folder, space) as writer:
        for photo in seen if variant.others == "left out" else photos:
            side, record = sides[photo.name]
            more: dict[str, Any] = {}
            if photo in seen:
                map = record.map()
            else:
                side, map = "train", photo.believed(rules)
                names = {old: old if old in space.names else None for old in map.space.names}
                map = map.relabelled(space, names)
                more = {"incomplete": yours} if variant.others == "incomplete" else {}
            writer.add(side, record.file_name, record.photo, map, image_id=int(record.image_id), **more)
    return folder


def with_fresh_rows(teacher: Path, folder: Path, seed: int) -> Path:
    """The teacher with a class head that was never trained."""
    import torch

    from hf_detr_panoptic import DetrForPanopticSegmentation

    model = DetrForPanopticSegmentation.from_pretrained(teacher)
    torch.manual_seed(seed)
    model.detr.class_labels_classifier.reset_parameters()
    model.save_pretrained(folder)
    return folder


# --- stock


def train_stock(recipe: Recipe, data: Path, final: Path, seconds: float) -> None:
    """What its documentation shows, for as long as the pipeline took."""
    from hf_detr_panoptic.dataset.coco_panoptic import read_split

    space = read_split(data, "train").space
    with tempfile.TemporaryDirectory() as scratch:
        timed = 6
        trial = stock_trainer(recipe, data, space, Path(scratch), timed)
        began = time.perf_counter()
        trial.train()
        steps = max(1, int(seconds / ((time.perf_counter() - began) / timed)))
        print(f"{steps} steps in {seconds:.0f} s", flush=True)
        trainer = stock_trainer(recipe, data, space, Path(scratch), steps)
        trainer.train()
    trainer.model.save_pretrained(final)
    trainer.processing_class.save_pretrained(final)


def stock_trainer(recipe: Recipe, data: Path, space: Any, output: Path, steps: int) -> Any:
    import torch
    from PIL import Image
    from transformers import (
        DetrConfig,
        DetrForSegmentation,
        DetrImageProcessor,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(recipe.seed)
    processor = DetrImageProcessor.from_pretrained(recipe.model)
    config = DetrConfig.from_pretrained(recipe.model)
    for name, value in space.to_config().items():
        remembered = getattr(config, name, None) if name == "hf_detr_panoptic" else None
        setattr(config, name, {**remembered, **value} if remembered else value)
    model = DetrForSegmentation.from_pretrained(
        recipe.model, config=config, ignore_mismatched_sizes=True, dtype=torch.float32
    )
    content = json.loads((data / "annotations/panoptic_train.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    targets = [entry for entry in content["annotations"] if entry["segments_info"]]  # stock fails on the others

    class Photos(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(targets)

        def __getitem__(self, place: int) -> Any:
            target = targets[place]
            segments = [{**entry, "category_id": entry["category_id"] - 1} for entry in target["segments_info"]]
            encoded = processor(
                images=Image.open(data / "images" / names[target["image_id"]]),
                annotations=[{**target, "segments_info": segments}],
                masks_path=data / "annotations/panoptic_train",
                return_tensors="pt",
            )
            return {"pixel_values": encoded["pixel_values"][0], "labels": encoded["labels"][0]}

    def collate(items: list[Any]) -> dict[str, Any]:
        photos = [item["pixel_values"] for item in items]
        height, width = (max(photo.shape[side] for photo in photos) for side in (1, 2))
        padded = [processor.pad(photo, (height, width)) for photo in photos]
        labels = [dict(item["labels"]) for item in items]
        pixels, mask = (torch.stack(part) for part in list(zip(*padded, strict=True))[:2])
        return {"pixel_values": pixels, "pixel_mask": mask, "labels": labels}

    stage = recipe.stages.detection
    kept = ("learning_rate", "weight_decay", "max_grad_norm", "per_device_train_batch_size", "warmup_steps")
    same = {name: stage.training_arguments[name] for name in kept if name in stage.training_arguments}
    args = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        lr_scheduler_type=stage.training_arguments.get("lr_scheduler_type", "linear"),
        dataloader_num_workers=0,
        remove_unused_columns=False,
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        seed=recipe.seed,
        **same,
    )
    trainer = Trainer(model, args, train_dataset=Photos(), data_collator=collate, processing_class=processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


# --- the table


def show(title: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Means over the seeds; in brackets the least and the most."""
    rows = []
    for name in dict.fromkeys(line["variant"] for line in lines):
        runs = [line for line in lines if line["variant"] == name]
        cells = [cell([run["pq"][group] for run in runs]) for group in GROUPS]
        minutes = [run["seconds"] / 60 for run in runs if "seconds" in run]
        rows.append([name, len(runs), *cells, f"{statistics.mean(minutes):.1f}" if minutes else ""])
    order = [*VARIANTS, *MARKED_VARIANTS, *(row[0] for row in rows)]
    rows.sort(key=lambda row: order.index(row[0]))
    print_table([title, "seeds", *GROUPS, "minutes"], rows)
    ours, best = (
        {run["seed"]: run["pq"]["all"] for run in lines if run["variant"] == name} for name in ("pipeline", "ceiling")
    )
    if both := sorted(ours.keys() & best.keys()):
        share = sum(ours[seed] for seed in both) / sum(best[seed] for seed in both)
        print(f"\nthe pipeline reaches {share:.3f} of the ceiling (seeds {', '.join(map(str, both))})")


def cell(values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return percent(present[0] if present else None)
    return f"{percent(statistics.mean(present))} ({percent(min(present))}–{percent(max(present))})"


if __name__ == "__main__":
    main()
