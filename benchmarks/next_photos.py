"""Which photos are worth marking? The demo's site with 20 and 40 marked photos, chosen in three ways.

    python benchmarks/next_photos.py --folder /tmp/next --results next.jsonl
    python benchmarks/next_photos.py --seeds 0 --photos 24 --held-out 2 --budgets 4,6 --scale 0.01    # minutes

    random         drawn
    typical        the most typical of each cluster (`hf-detr-panoptic next --by typical`)
    disagreement   the first budget as typical; then where the run before and the labeler disagree

All photos are on the disk; what is chosen is marked whole, and the others stay incomplete for the person's classes. A
budget goes on from the photos of the one before; its model starts from the teacher, and trains as many steps whatever
was chosen. A seed decides photos, choice and training. Each run that ends is a line in the results, and is not run
again. Flags of the recipe may follow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo_ablation import GROUPS, Results, cell, in_steps, key_of, scaled
from measure import machine, print_table

from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.dataset.coco_panoptic import read_dataset
from hf_detr_panoptic.demo.demo import (
    DemoSettings,
    copy_teacher,
    demo_recipe,
    measure,
    settle,
    take_photos,
    trained,
)
from hf_detr_panoptic.demo.photos import Place
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.labeling.prepare import prepare_dataset
from hf_detr_panoptic.labeling.review import known_name
from hf_detr_panoptic.report.next_photos import WAYS, propose
from hf_detr_panoptic.settings import Prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--by", default=",".join(WAYS), metavar="A,B", help="(%(default)s)")
    parser.add_argument("--budgets", default="20,40", metavar="N,N", help="marked photos (%(default)s)")
    parser.add_argument("--seeds", default="0,1", metavar="N,N", help="(%(default)s)")
    parser.add_argument("--photos", type=int, default=DemoSettings.photos, help="(%(default)s)")
    parser.add_argument("--held-out", type=int, default=DemoSettings.held_out, help="(%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of every stage (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the runs are left; a temporary one otherwise")
    parser.add_argument(
        "--results", type=Path, default=Path("next_photos.jsonl"), metavar="FILE", help="(%(default)s)"
    )
    given, flags = parser.parse_known_args()
    budgets = sorted(map(int, given.budgets.split(",")))
    settle()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in map(int, given.seeds.split(",")):
            out = (given.folder or Path(scratch)) / f"seed-{seed}"
            settings = DemoSettings(out=out, photos=given.photos, held_out=given.held_out, seed=seed)
            site = Site(settings, flags, given.scale, given.results)
            for by in given.by.split(","):
                site.run(by, budgets)
    lines = [line for line in site.results.of(site.key) if line["kind"] == "next"]
    rows = []
    for variant in dict.fromkeys(line["variant"] for line in lines):
        runs = [line for line in lines if line["variant"] == variant]
        marks = sum(run["marks"] for run in runs) / len(runs)
        cells = [cell([run["pq"][group] for run in runs]) for group in GROUPS]
        rows.append([variant, len(runs), f"{marks:.0f}", *cells])
    print()
    print_table(["PQ on held-out photos", "seeds", "marks", *GROUPS], rows)


class Site:
    """One seed's photos, and the marks that a person would draw on each."""

    def __init__(self, settings: DemoSettings, flags: Sequence[str], scale: float, results: Path) -> None:
        self.settings, self.flags, self.scale = settings, tuple(flags), scale
        self.place = Place(settings.out)
        self.results, self.key = Results(results), key_of(settings, flags, scale)
        if not (self.place.folder / "taken").is_file():
            copy_teacher(settings, self.place)
            take_photos(settings, self.place, progress=False)
            (self.place.folder / "taken").touch()
        with zipfile.ZipFile(self.place.marks) as archive:
            self.marks = json.loads(archive.read("annotations/instances_default.json"))

    def run(self, by: str, budgets: Sequence[int]) -> None:
        done = {line["variant"] for line in self.results.of(self.key) if line["seed"] == self.settings.seed}
        if all(f"{by}, {budget}" in done for budget in budgets):
            return
        marked: list[str] = []
        model: Path | None = None
        for budget in budgets:
            folder = self.place.folder / by / str(budget)
            now = by if by != "disagreement" or model is not None else "typical"
            marked += self._chosen(folder.parent, now, budget - len(marked), marked, model)
            data = self._prepared(folder, marked)
            model = self._trained(folder, data)
            if f"{by}, {budget}" not in done:
                figures = measure(model, self.place.held_out)
                line = {"kind": "next", "variant": f"{by}, {budget}", "seed": self.settings.seed, **self.key}
                marks = len(self._annotations(marked))
                self.results.add({**line, "marks": marks, "pq": figures["pq"], "ap": figures["ap"]})

    def _chosen(self, folder: Path, by: str, count: int, marked: list[str], model: Path | None) -> list[str]:
        """Names of photos that are not marked yet."""
        data = self._prepared(folder / f"before-{len(marked)}", marked)
        loaded: Any = DetrForPanopticSegmentation.from_pretrained(model).eval() if model else None
        answers = AutoLabels.in_folder(data / "autolabels")
        words: dict[str, Any] = {"model": loaded, "seed": self.settings.seed, "answers": answers}
        return [known_name(proposal.record) for proposal in propose(read_dataset(data), count, by, **words)]

    def _prepared(self, folder: Path, marked: Sequence[str]) -> Path:
        """The dataset of all photos, with these marked."""
        data = folder / "data"
        if not (data / "prepare.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            recipe = demo_recipe(self.settings, self.place, self.flags)
            assert isinstance(recipe.data, Prepare)
            words: dict[str, Any] = {"out": data, "looked_at": "marked", "unannotated": "learn", "annotations": None}
            if marked:
                content = {**self.marks, "annotations": self._annotations(marked)}
                (folder / "marks.json").write_text(json.dumps(content))
                (folder / "marked.txt").write_text("\n".join(marked))
                words |= {"annotations": folder / "marks.json", "looked_at": folder / "marked.txt"}
            shared = self.place.folder / "autolabels"  # labelled once
            shared.mkdir(exist_ok=True)
            data.mkdir(parents=True, exist_ok=True)
            if not (data / "autolabels").exists():
                (data / "autolabels").symlink_to(shared.resolve(), target_is_directory=True)
            prepare_dataset(recipe.data.changed(seed=self.settings.seed, **words))
        return data

    def _annotations(self, marked: Sequence[str]) -> list[dict[str, Any]]:
        ids = {image["id"] for image in self.marks["images"] if image["file_name"] in set(marked)}
        return [entry for entry in self.marks["annotations"] if entry["image_id"] in ids]

    def _trained(self, folder: Path, data: Path) -> Path:
        """As many steps as an epoch of all photos, marked or not, makes in the demo."""
        recipe = demo_recipe(self.settings, self.place, self.flags)
        batches = {s.name: s.training_arguments["per_device_train_batch_size"] for s in recipe.stages}
        steps = {name: -(-4 * self.settings.photos // (5 * size)) for name, size in batches.items()}
        recipe = scaled(in_steps(recipe, steps), self.scale)
        recipe = recipe.changed(data=str(data), output=str(folder / "run"))
        trained(recipe, self.settings.processes)
        return folder / "run" / "final"


if __name__ == "__main__":
    main()
