"""Which photos to mark next: a list, a page that says why, and a zip for CVAT."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..dataset.coco_panoptic import PanopticSplit, Record, read_dataset
from ..dataset.copies import Fingerprint, fingerprint
from ..dataset.photos import shrunk
from ..errors import DatasetError, HfDetrPanopticError, RecipeError, clear_errors, did_you_mean
from ..files import read_json, write_text
from ..images import open_image
from ..labeling.autolabels import AutoLabels
from ..labeling.choose import Apart, Choice, Points, at_random, grid_shares, highest, most_typical, normalised
from ..labeling.review import export_review, known_name
from ..labeling.split import groups_of, ties
from ..lock import locked
from ..panoptic_map import PanopticMap
from ..parallel import progress_bar, read_ahead
from ..pictures.draw import draw
from ..text import and_more, count_of, percent
from .pages import templates
from .thumbnails import Thumbnails
from .values import PhotoCard

if TYPE_CHECKING:
    from ..model.modeling import DetrForPanopticSegmentation

WAYS = ("typical", "random", "disagreement")
SUSPECTED = 0.1  # a segment of the person's that the model is less sure of is no suspicion


@dataclass(frozen=True)
class Proposal:
    """A photo to mark, and why."""

    record: Record
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Suspicion:
    """What marking a photo may settle. differ: share of the pixels that labeler and model know as another of the
    labeler's classes; suspected: the person's classes that the model is unsure of, with how sure it is; score."""

    score: float
    differ: float
    suspected: tuple[tuple[str, float], ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        told = [f"suspected: {name} ({percent(sure)} % sure)" for name, sure in self.suspected[:4]]
        if self.differ >= 0.01:
            told.append(f"labeler and model differ on {percent(self.differ)} % of the pixels that both know")
        return tuple(told) or ("nothing is suspected here: the others say even less",)


def suspicion(model: PanopticMap, labeler: PanopticMap, sure: float, weights: Mapping[str, float]) -> Suspicion:
    """Of a photo that nobody has marked. Both maps in one label space; the model's from a threshold of `SUSPECTED`.

    A class of the person's that the model gives a score of s counts 4 s (1 − s), by how rare it is (`weights`): most
    where it could be either. Several add up as independent chances do. What the model is surer of than `sure`, and
    both know as one of the labeler's classes, is compared pixel by pixel.
    """
    custom = model.space.custom_labels
    suspected = sorted(
        ((model.space[s.label].name, s.score) for s in model.segments if s.label in custom),
        key=lambda pair: -pair[1] * (1 - pair[1]),
    )
    left = 1.0
    for name, score in suspected:
        left *= 1 - min(weights.get(name, 1.0), 1.0) * 4 * score * (1 - score)
    sides = []
    for panoptic, least in ((model, sure), (labeler, 0.0)):
        labels = np.full(int(panoptic.ids.max()) + 1, -1)
        for segment in panoptic.segments:
            if segment.label not in custom and segment.score >= least:
                labels[segment.id] = segment.label
        sides.append(labels[panoptic.ids])
    both = (sides[0] >= 0) & (sides[1] >= 0)
    differ = float((sides[0] != sides[1])[both].mean()) if both.any() else 0.0
    return Suspicion(1 - left + differ, differ, tuple(suspected))


def rarity(records: Sequence[Record]) -> dict[str, float]:
    """Class of the person's → 1 for the rarest, less for what is marked on more photos: √ of the photos' ratio."""
    if not records:
        return {}
    space = records[0].space
    photos = Counter(
        name for r in records for name in {space[s.label].name for s in r.segments if s.source == "custom"}
    )
    counts = {space[label].name: photos[space[label].name] for label in space.custom_labels}
    least = min(counts.values(), default=0)
    return {name: float(np.sqrt((1 + least) / (1 + count))) for name, count in counts.items()}


def propose(
    dataset: Mapping[str, PanopticSplit],
    count: int,
    by: str = "typical",
    *,
    model: DetrForPanopticSegmentation | None = None,
    seed: int = 0,
    pattern: str | None = None,
    answers: AutoLabels | None = None,
    progress: bool = False,
) -> list[Proposal]:
    """The `count` photos to mark next, the most useful first.

    Candidates are the photos that are incomplete for one of the person's classes; before anything is marked, all.
    """
    records = [record for split in dataset.values() for record in split if not record.mixed]
    marked = any(record.incomplete or any(s.source == "custom" for s in record.segments) for record in records)
    known = [not record.incomplete and marked for record in records]
    if all(known):
        raise DatasetError(
            "nobody needs to look at any photo: all are complete",
            fix="Photos that no annotation file lists are left out by `prepare`: --unannotated learn takes them in.",
        )
    prints: list[Fingerprint] = list(
        progress_bar(
            read_ahead(lambda record: fingerprint(record.photo), records),
            total=len(records),
            what="looking at the photos",
            show=progress,
        )
    )
    apart = _apart(records, prints, known, pattern)
    if by == "random":
        return [Proposal(records[c.place], ("drawn at random",)) for c in at_random(known, count, apart, seed)]
    points = _points(records, prints, answers)
    if by == "typical":
        chosen = most_typical(points, known, count, apart, seed)
        return [Proposal(records[choice.place], (_typical(choice, sum(known)),)) for choice in chosen]
    if model is None:
        raise RecipeError("disagreement is with a model's maps", fix="Give --run, or --by typical.")
    weights = rarity([record for record, its in zip(records, known, strict=True) if its])
    free = [place for place, its in enumerate(known) if not its]
    found = {
        place: _suspicion(model, records[place], weights)
        for place in progress_bar(free, total=len(free), what="asking the model", show=progress)
    }
    scores = [found[place].score if place in found else 0.0 for place in range(len(records))]
    chosen = highest(scores, points, known, count, apart, seed)
    return [Proposal(records[choice.place], found[choice.place].reasons) for choice in chosen]


def _suspicion(model: DetrForPanopticSegmentation, record: Record, weights: Mapping[str, float]) -> Suspicion:
    (seen,) = model.segment(record.photo, threshold=min(SUSPECTED, model.settings.threshold))
    fate = {name: name if name in record.space.names else None for name in seen.space.names}
    return suspicion(seen.relabelled(record.space, fate), record.map(), model.settings.threshold, weights)


def _typical(choice: Choice, known: int) -> str:
    alike = count_of(choice.cluster_size, "photo")
    if choice.cluster_size == 1:
        return "like no other photo"
    if choice.known:
        return f"typical of {alike}, {choice.known} of them marked"
    return f"typical of {alike}" + (", none of them marked" if known else "")


def _apart(
    records: Sequence[Record], prints: Sequence[Fingerprint], known: Sequence[bool], pattern: str | None
) -> Apart:
    names = [record.file_name for record in records]
    originals = {record.file_name: known_name(record) for record in records}
    copies = groups_of(names, list(ties(names, prints, None)))
    home = {name: group for group, members in enumerate(copies) for name in members}
    sites: dict[str, Any] = dict(home)
    if pattern is not None:
        by_original = {originals[name]: name for name in names}
        tied = list(ties(list(by_original), [None] * len(by_original), pattern))
        for site in groups_of(list(by_original), tied):
            if len(site) > 1:
                sites |= dict.fromkeys((by_original[name] for name in site), site[0])
    used = [place for place, its in enumerate(known) if its]
    return Apart([home[name] for name in names], [sites[name] for name in names], used)


def _points(records: Sequence[Record], prints: Sequence[Fingerprint], answers: AutoLabels | None) -> Points:
    """What the labeler said of each photo; where it offers nothing, which classes are where."""
    if answers is not None:
        offered = [answers.features(entry.digest) for entry in prints]
        there = [features for features in offered if features is not None]
        # A photo that was written anew has other bytes than the one that was labelled: a few may be like the average.
        if len(there) > len(records) / 2 and len({len(features) for features in there}) == 1:
            mean = np.mean(there, axis=0)
            return normalised([mean if features is None else features for features in offered])
    return normalised(list(read_ahead(lambda record: grid_shares(record.map()), records)))


def next_page(name: str, by: str, proposals: Sequence[Proposal]) -> str:
    """One HTML file that asks for no network."""
    sizes = Thumbnails(2 * len(proposals))
    cards = []
    for proposal in proposals:
        record = proposal.record
        small, panoptic = shrunk(open_image(record.photo), record.map(), sizes.side)
        thumbnails = (
            sizes.encode("photo", small),
            sizes.encode("what is known", draw(small, panoptic, opacity=0.45, legend=False)),
        )
        labels = tuple(sorted({segment.label for segment in panoptic.segments}))
        cards.append(PhotoCard(known_name(record), "", thumbnails, labels, proposal.reasons))
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    names = proposals[0].record.space.names if proposals else ()
    page = templates(__package__).get_template("next_photos.html.j2")
    return page.render(name=name, by=by, cards=cards, names=names, style=style, version=__version__).lstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="what prepare wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for list, page and zip")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="photos (%(default)s)")
    parser.add_argument("--run", metavar="RUN_OR_MODEL", help="the last run: where it and the labeler disagree")
    parser.add_argument(
        "--by", metavar="|".join(WAYS), help="how they are chosen (disagreement with --run, else typical)"
    )
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")


def main(args: argparse.Namespace) -> int:
    """Which photos to mark next? A list, a page that says why, and a zip for CVAT with photos, labels, auto-labels.

      hf-detr-panoptic next data/site --count 20 --out next/1
      hf-detr-panoptic next data/site --run runs/site --count 20 --out next/2

    Asked are the photos that nobody may have looked at. Before there is a model: the typical ones, one of each kind
    of photo. With a run: where labeler and model disagree, and where the model suspects one of your classes without
    being sure, rare classes first. Near copies are never proposed twice, sites (group_pattern) as late as can be.
    """
    import sys

    by = args.by or ("disagreement" if args.run else "typical")
    if by not in WAYS:
        raise RecipeError(f"--by cannot be {by!r}", fix=did_you_mean(by, WAYS))
    if args.count < 1:
        raise RecipeError(f"--count is {args.count}", fix="Give 1 or more.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise DatasetError("there is something already", where=str(args.out), fix="Give --out a new folder.")
    dataset = read_dataset(args.dataset)
    proposals = propose(
        dataset,
        args.count,
        by,
        model=_model(args.run) if by == "disagreement" and args.run else None,
        seed=args.seed,
        pattern=_pattern(args.dataset),
        answers=_answers(args.dataset),
        progress=sys.stderr.isatty(),
    )
    records = [proposal.record for proposal in proposals]
    with clear_errors(args.out), locked(args.out):
        export_review(records, args.out / "next.zip", photos=True)
        write_text(args.out / "next.txt", "".join(f"{known_name(record)}\n" for record in records))
        write_text(args.out / "next.html", next_page(args.dataset.resolve().name, by, proposals))
    data, out = shlex.quote(str(args.dataset)), shlex.quote(str(args.out))
    print(f"{count_of(len(records), 'photo')}, {by}: {and_more(map(known_name, records), 5)}")
    if len(records) < args.count:
        print(f"{args.count} were asked for: the rest are complete, or like others")
    print(f"look at them: {args.out / 'next.html'}")
    print(f"next: mark your classes on the photos of {out}/next.txt, and run prepare again with all your marks")
    print(
        f"or: import {out}/next.zip into a CVAT project (COCO Panoptic 1.0), correct it, and "
        f"hf-detr-panoptic import-review {data} CORRECTED.zip --out NEW"
    )
    return 0


def _model(run: str) -> DetrForPanopticSegmentation:
    from accelerate import PartialState

    from ..labeling.relabel import model_in
    from ..model.modeling import DetrForPanopticSegmentation

    home = model_in(Path(run)) if Path(run).is_dir() else None
    loaded: Any = DetrForPanopticSegmentation.from_pretrained(home or run)
    model: DetrForPanopticSegmentation = loaded.to(PartialState().device).eval()
    return model


def _pattern(dataset: Path) -> str | None:
    """The group_pattern that prepare was given."""
    path = dataset / "prepare.json"
    record = read_json(path, DatasetError) if path.is_file() else {}
    settings = record.get("settings") if isinstance(record, dict) else None
    pattern = settings.get("group_pattern") if isinstance(settings, dict) else None
    return pattern if isinstance(pattern, str) else None


def _answers(dataset: Path) -> AutoLabels | None:
    try:
        return AutoLabels.in_folder(dataset / "autolabels")
    except HfDetrPanopticError:  # another's dataset, or answers of several labelers: the maps will do
        return None
