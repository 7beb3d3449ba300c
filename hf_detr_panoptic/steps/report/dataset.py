"""What the report of a dataset needs, collected: findings, counts, suspicions, copies, thumbnails."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ... import __version__
from ...dataset.check import Report, check_dataset
from ...dataset.coco_panoptic import KINDS, Record, find_splits, parse_split
from ...dataset.copies import Fingerprint, fingerprint, near_pairs
from ...dataset.photos import shrunk
from ...errors import DatasetError, HfDetrPanopticError
from ...images import open_image
from ...labeling.autolabels import AutoLabels
from ...labels import LabelSpace
from ...pictures.draw import class_color, draw
from ...visual.report_values import Card, DatasetClass, DatasetPage, Pair, Part, Remark, Skipped, Thumbnail
from ...visual.thumbnails import Thumbnails
from .advice import dataset_advice
from .suspicion import Reason, suspicions
from .words import shown_path, without_paths

_BOTH = 600  # photos; of more than these, the gallery shows the labels alone, larger
_ROWS = 500  # of a list
_COPIES = ("copy-across", "copy-within", "near-copy-across")  # these have a section of their own

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Looked:
    """One photo of the dataset, looked at. counts: (label, source) → segments; pixels: source → pixels."""

    record: Record
    part: str
    reasons: list[Reason] = field(default_factory=list)
    print: Fingerprint | None = None
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    answered: bool = False

    @property
    def title(self) -> str:
        return self.record.original_file or self.record.file_name

    @property
    def points(self) -> float:
        return sum(reason.points for reason in self.reasons)


def dataset_page(folder: Path, photos: str | Path | None, limit: int, progress: bool = False) -> DatasetPage:
    """A dataset's page; what is broken in it is shown, not raised, unless nothing can be read at all."""
    report = check_dataset(folder, photos, progress=progress)
    found = find_splits(folder, Path(photos) if photos else None)
    splits = {name: parse_split(files, _ignore) for name, files in found.items()}
    records = [(name, record) for name, split in splits.items() if split is not None for record in split]
    if report.space is None:
        raise DatasetError("no list can be read", where=str(folder), fix="`hf-detr-panoptic check` says why.")
    answers = _answers(folder)
    look = partial(_look, report.prints, answers)
    looked = list(in_threads(lambda pair: look(*pair), records, "looking at the maps", progress))
    pairs = _pairs(looked)
    _tell_of_copies(looked, pairs)
    ranked = sorted(looked, key=lambda seen: (-seen.points, seen.part, seen.title))[:limit]
    sizes = Thumbnails(len(ranked) * (2 if len(ranked) <= _BOTH else 1))
    cards = list(in_threads(lambda seen: _card(seen, sizes, len(ranked) <= _BOTH), ranked, "drawing", progress))
    skipped = _skipped(folder)
    classes = _classes(report.space, looked, report)
    parts = {name: _part([seen for seen in looked if seen.part == name]) for name in splits}
    remarks = _remarks(report)
    return DatasetPage(
        name=folder.resolve().name,
        classes=classes,
        parts=parts,
        cards=cards,
        remarks=remarks,
        pairs=pairs[:_ROWS],
        pairs_total=len(pairs),
        skipped=skipped[:_ROWS],
        skipped_total=len(skipped),
        settings=_settings(folder),
        advice=dataset_advice(shown_path(folder), classes, parts, remarks, pairs, bool(answers)),
        notes=_notes(looked, cards, answers),
        version=__version__,
    )


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], what: str, progress: bool) -> Iterator[Result]:
    """In order, by a few threads, with a bar that says how long it takes; a bounded number waits in memory."""
    from tqdm import tqdm

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), desc=what, disable=not progress) as bar:
        coming = iter(items)
        waiting = [pool.submit(work, item) for item in islice(coming, 4 * workers)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(work, item) for item in islice(coming, 1)]
            bar.update()
            yield result


def _look(prints: Mapping[Path, Fingerprint], answers: AutoLabels | None, part: str, record: Record) -> _Looked:
    seen = _Looked(record, part)
    try:
        seen.print = prints.get(record.photo) or fingerprint(record.photo)
        map = record.map()
    except HfDetrPanopticError as error:
        seen.reasons.append(Reason("unreadable", 2.0, f"cannot be read: {error.what}"))
        return seen
    answer = None
    if answers is not None and answers.path(seen.print.digest).is_file():
        try:
            answer = answers.read(seen.print.digest)
        except HfDetrPanopticError:  # half written, or torn: as if it were not there
            answer = None
    seen.answered = answer is not None
    seen.reasons = suspicions(map, answer)
    areas = map.areas()
    for segment in map.segments:
        source = "custom" if segment.source == "custom" else "auto"
        seen.counts[segment.label, source] += 1
        seen.pixels[source] += areas[segment.id]
    seen.pixels["void"] = map.void_area
    return seen


def _card(seen: _Looked, sizes: Thumbnails, both: bool) -> Card:
    thumbnails: list[Thumbnail] = []
    reasons = sorted(seen.reasons, key=lambda reason: -reason.points)
    try:
        photo = open_image(seen.record.photo)
        small, map = shrunk(photo, seen.record.map(), sizes.side)
        thumbnails = [sizes.encode("labels", draw(small, map, opacity=0.45, legend=False))]
        if both:
            thumbnails.insert(0, sizes.encode("photo", small))
    except HfDetrPanopticError as error:
        if not any(reason.kind == "unreadable" for reason in reasons):
            reasons.insert(0, Reason("unreadable", 2.0, f"cannot be drawn: {error.what}"))
    return Card(
        title=seen.title,
        part=seen.part,
        thumbnails=tuple(thumbnails),
        labels=tuple(sorted({label for label, _ in seen.counts})),
        reasons=tuple(reason.text for reason in reasons),
        kinds=tuple(dict.fromkeys(reason.kind for reason in reasons)),
    )


def _pairs(looked: Sequence[_Looked]) -> list[Pair]:
    known = [(seen, seen.print) for seen in looked if seen.print is not None]
    found = []
    for i, j, bits in near_pairs([mark for _, mark in known]):
        (one, left), (other, right) = known[i], known[j]
        exact = left.digest == right.digest
        # Two nearly equal photos on one side are a series, which does no harm.
        if exact or one.part != other.part:
            found.append(Pair(one.title, one.part, other.title, other.part, exact, bits))
    return sorted(found, key=lambda pair: (pair.first_part == pair.second_part, not pair.exact, pair.bits, pair.first))


def _tell_of_copies(looked: Sequence[_Looked], pairs: Iterable[Pair]) -> None:
    by_place = {(seen.part, seen.title): seen for seen in looked}
    for pair in pairs:
        leak = pair.first_part != pair.second_part
        same = "the same photo as" if pair.exact else "nearly the same photo as"
        for me, mine, other, its in (
            (pair.first, pair.first_part, pair.second, pair.second_part),
            (pair.second, pair.second_part, pair.first, pair.first_part),
        ):
            text = f"{same} {other}" + (f", which is in {its}" if leak else "")
            by_place[mine, me].reasons.append(Reason("copy", 0.8 if leak else 0.3, text))


def _classes(space: LabelSpace, looked: Sequence[_Looked], report: Report) -> list[DatasetClass]:
    counts: Counter[tuple[int, str]] = Counter()
    for seen in looked:
        counts.update(seen.counts)
    pixels: Counter[int] = Counter()
    for split in report.splits.values():
        pixels.update(split.pixels)
    known = max(1, pixels.total())
    return [
        DatasetClass(
            name=category.name,
            isthing=category.isthing,
            color=class_color(space, label),
            custom=counts[label, "custom"],
            auto=counts[label, "auto"],
            share=pixels[label] / known,
            photos={name: split.in_images[label] for name, split in report.splits.items()},
        )
        for label, category in enumerate(space)
    ]


def _part(looked: Sequence[_Looked]) -> Part:
    pixels: Counter[str] = Counter()
    for seen in looked:
        pixels.update(seen.pixels)
    segments = sum(sum(seen.counts.values()) for seen in looked)
    return Part(len(looked), segments, pixels["custom"], pixels["auto"], pixels["void"])


def _remarks(report: Report) -> list[Remark]:
    listed = [finding for level in ("error", "warning") for finding in report.of_level(level)]
    return [
        Remark(
            finding.level,
            KINDS[finding.kind].what,
            KINDS[finding.kind].fix,
            finding.count,
            tuple(f"{where}: {detail}" if where else detail for where, detail in finding.examples),
        )
        for finding in listed
        if finding.kind not in _COPIES
    ]


def _answers(folder: Path) -> AutoLabels | None:
    try:
        return AutoLabels.found(folder / "autolabels")
    except DatasetError:
        return None


def _skipped(folder: Path) -> list[Skipped]:
    path = folder / "skipped.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Skipped(row.get("photo") or "", row.get("what") or "", row.get("fix") or "") for row in rows]


def _settings(folder: Path) -> list[tuple[str, str]]:
    """What prepare.json says: settings that were given, the labeler, what became void and why."""
    try:
        told = json.loads((folder / "prepare.json").read_text(encoding="utf-8", errors="surrogateescape"))
        settings: Mapping[str, Any] = without_paths(told["settings"])
        counts: Mapping[str, Any] = told["counts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    lines = [(str(key), _plain(value)) for key, value in settings.items() if value not in (None, [], {}, False)]
    for key in ("pixels", "dropped", "rectangles", "skipped"):
        if isinstance(counts.get(key), Mapping) and counts[key]:
            lines.append((f"{key}, counted", ", ".join(f"{name} {number:,}" for name, number in counts[key].items())))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    return str(value)


def _notes(looked: Sequence[_Looked], cards: Sequence[Card], answers: AutoLabels | None) -> list[str]:
    notes = []
    if len(cards) < len(looked):
        notes.append(
            f"The gallery shows the {len(cards):,} most suspicious of {len(looked):,} photos; figures are of all."
        )
    if answers is not None:
        count = sum(seen.answered for seen in looked)
        notes.append(f"Marks were compared with the labeler's raw answers on {count:,} of {len(looked):,} photos.")
    return notes


def _ignore(kind: str, where: str, detail: str) -> None:
    """What is wrong was told by `check_dataset` already."""
