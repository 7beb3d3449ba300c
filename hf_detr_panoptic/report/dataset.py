"""What the report of a dataset needs, collected: findings, counts, suspicions, copies, thumbnails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..dataset.check import Report, check_dataset
from ..dataset.coco_panoptic import Record, find_splits, parse_split
from ..dataset.copies import Fingerprint, fingerprint, nearest_across, of_photo
from ..dataset.faults import KINDS
from ..dataset.photos import shrunk
from ..errors import DatasetError, HfDetrPanopticError
from ..files import content_of, leads_outside, parse_json, read_csv, shown_path, without_paths
from ..images import open_image
from ..labeling.autolabels import AutoLabels
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, shared_pixels
from ..parallel import progress_bar, read_ahead
from ..pictures.draw import class_color, draw
from ..text import count_of
from .advice import dataset_advice
from .thumbnails import Thumbnails, letters_on
from .values import (
    DatasetClass,
    DatasetPage,
    Pair,
    Part,
    PhotoCard,
    Remark,
    SkippedPhoto,
    Thumbnail,
)

_BOTH = 600  # photos; of more than these, the gallery shows the labels alone, larger
_ROWS = 500  # of a list
VOID, UNSURE, TINY, CONFLICT = 0.2, 0.9, 64, (0.1, 0.9)
SURE = 0.85  # the labeler's answers that can contradict a mark: it keeps others, down to a floor
_COPIES = ("copy-across", "copy-within", "near-copy-across")  # these have a section of their own


@dataclass(frozen=True)
class Reason:
    """points: 1 is as bad as a photo that nobody knows anything of."""

    kind: str
    points: float
    text: str


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
    seen = read_ahead(lambda pair: look(*pair), records)
    looked = list(progress_bar(seen, total=len(records), what="looking at the maps", show=progress))
    pairs = _pairs(looked)
    _tell_of_copies(looked, pairs)
    ranked = sorted(looked, key=lambda seen: (-seen.points, seen.part, seen.title))[:limit]
    sizes = Thumbnails(len(ranked) * (2 if len(ranked) <= _BOTH else 1))
    drawn = read_ahead(lambda seen: _card(seen, sizes, len(ranked) <= _BOTH), ranked)
    cards = list(progress_bar(drawn, total=len(ranked), what="drawing", show=progress))
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
        advice=list(dataset_advice(shown_path(folder), classes, parts, remarks, pairs, bool(answers))),
        notes=_notes(looked, cards, answers),
        version=__version__,
    )


def _look(prints: Mapping[Path, Fingerprint], answers: AutoLabels | None, part: str, record: Record) -> _Looked:
    seen = _Looked(record, part)
    try:
        seen.print = prints.get(record.photo) or of_photo(record.file_name, fingerprint(record.photo))
        panoptic = record.map()
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
    seen.reasons = suspicions(panoptic, answer)
    areas = panoptic.areas()
    for segment in panoptic.segments:
        source = "custom" if segment.source == "custom" else "auto"
        seen.counts[segment.label, source] += 1
        seen.pixels[source] += areas[segment.id]
    seen.pixels["void"] = panoptic.void_area
    return seen


def _card(seen: _Looked, sizes: Thumbnails, both: bool) -> PhotoCard:
    thumbnails: list[Thumbnail] = []
    reasons = sorted(seen.reasons, key=lambda reason: -reason.points)
    try:
        photo = open_image(seen.record.photo)
        small, panoptic = shrunk(photo, seen.record.map(), sizes.side)
        drawn = draw(small, panoptic, opacity=0.45, legend=False, letters=letters_on(small))
        thumbnails = [sizes.encode("labels", drawn)]
        if both:
            thumbnails.insert(0, sizes.encode("photo", small))
    except HfDetrPanopticError as error:
        if not any(reason.kind == "unreadable" for reason in reasons):
            reasons.insert(0, Reason("unreadable", 2.0, f"cannot be drawn: {error.what}"))
    return PhotoCard(
        title=seen.title,
        part=seen.part,
        thumbnails=tuple(thumbnails),
        labels=tuple(sorted({label for label, _ in seen.counts})),
        reasons=tuple(reason.text for reason in reasons),
        kinds=tuple(dict.fromkeys(reason.kind for reason in reasons)),
    )


def _pairs(looked: Sequence[_Looked]) -> list[Pair]:
    known = [(seen, seen.print) for seen in looked if seen.print is not None]
    pairs = []
    # Two nearly equal photos on one side are a series, which does no harm.
    for i, j, bits in nearest_across([mark for _, mark in known], [seen.part for seen, _ in known]):
        (one, left), (other, right) = known[i], known[j]
        exact = left.digest == right.digest
        pairs.append(Pair(one.title, one.part, other.title, other.part, exact, bits))
    return sorted(pairs, key=lambda pair: (not pair.leak, not pair.exact, pair.bits, pair.first))


def _tell_of_copies(looked: Sequence[_Looked], pairs: Iterable[Pair]) -> None:
    """One sentence of a kind on each photo: a fixed camera's are like thousands of others."""
    others: dict[tuple[str, str, str, bool], list[str]] = {}
    for pair in pairs:
        same = "the same photo as" if pair.exact else "nearly the same photo as"
        for me, mine, other, its in (
            (pair.first, pair.first_part, pair.second, pair.second_part),
            (pair.second, pair.second_part, pair.first, pair.first_part),
        ):
            text = f"{same} {other}" + (f", which is in {its}" if pair.leak else "")
            others.setdefault((mine, me, same, pair.leak), []).append(text)
    by_title = {(seen.part, seen.title): seen for seen in looked}
    for (mine, me, _, leak), texts in others.items():
        more = f" ({len(texts) - 1:,} more are like it)" if len(texts) > 1 else ""
        by_title[mine, me].reasons.append(Reason("copy", 0.8 if leak else 0.3, texts[0] + more))


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
    incomplete = sum(bool(seen.record.incomplete) for seen in looked)
    return Part(len(looked), segments, pixels["custom"], pixels["auto"], pixels["void"], incomplete)


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
        return AutoLabels.in_folder(folder / "autolabels")
    except DatasetError:
        return None


def _skipped(folder: Path) -> list[SkippedPhoto]:
    rows = read_csv(folder / "skipped.csv")
    return [SkippedPhoto(row.get("photo") or "", row.get("what") or "", row.get("fix") or "") for row in rows]


def _settings(folder: Path) -> list[tuple[str, str]]:
    """What prepare.json says: settings that were given, the labeler, what became void and why."""
    path = folder / "prepare.json"
    if leads_outside(path, folder):
        return []
    try:
        record = parse_json(content_of(path), errors="surrogateescape")
    except (OSError, ValueError):
        return []
    told = without_paths(record) if isinstance(record, dict) else {}
    settings, counts = (value if isinstance(value, dict) else {} for value in map(told.get, ("settings", "counts")))
    lines = [(str(key), _plain(value)) for key, value in settings.items() if value not in (None, [], {}, False)]
    for key in ("pixels", "dropped", "rectangles", "skipped"):
        pairs = counts[key].items() if isinstance(counts.get(key), dict) else ()
        numbers = [f"{name} {number:,}" for name, number in pairs if isinstance(number, int | float)]
        if numbers:
            lines.append((f"{key}, counted", ", ".join(numbers)))
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    return str(value)


def _notes(looked: Sequence[_Looked], cards: Sequence[PhotoCard], answers: AutoLabels | None) -> list[str]:
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


# --- suspicions


def suspicions(panoptic: PanopticMap, answer: PanopticMap | None = None) -> list[Reason]:
    """The worst first. `answer`: what the labeler said of the whole photo, before the marks lay over it."""
    reasons = [*_empty(panoptic), *_void(panoptic), *_unsure(panoptic), *_tiny(panoptic)]
    if answer is not None and answer.ids.shape == panoptic.ids.shape:
        reasons += [*_cut(panoptic, answer), *_contradicted(panoptic, answer)]
    return sorted(reasons, key=lambda reason: -reason.points)


def _empty(panoptic: PanopticMap) -> Iterator[Reason]:
    if not panoptic.segments:
        yield Reason("no segment", 1.0, "no segment at all")


def _void(panoptic: PanopticMap) -> Iterator[Reason]:
    share = panoptic.void_area / panoptic.ids.size
    if share > VOID and panoptic.segments:
        yield Reason("much void", share, f"{share:.0%} of the pixels are void")


def _unsure(panoptic: PanopticMap) -> Iterator[Reason]:
    """Each of the labeler's segments by its size and by how far it is from sure."""
    areas = panoptic.areas()
    unsure = sorted((s for s in panoptic.segments if s.source != "custom" and s.score < UNSURE), key=lambda s: s.score)
    if unsure:
        points = sum(2 * (1 - s.score) * (areas[s.id] / panoptic.ids.size) ** 0.5 for s in unsure)
        some = ", ".join(f"{panoptic.space[s.label].name} {s.score:.0%}" for s in unsure[:3])
        yield Reason(
            "low score", min(points, 1.0), f"the labeler is unsure of {count_of(len(unsure), 'segment')}: {some}"
        )


def _tiny(panoptic: PanopticMap) -> Iterator[Reason]:
    areas = panoptic.areas()
    tiny = sorted((s for s in panoptic.segments if areas[s.id] < TINY), key=lambda s: areas[s.id])
    if tiny:
        some = ", ".join(f"{panoptic.space[s.label].name} {areas[s.id]} px" for s in tiny[:3])
        yield Reason("tiny pieces", min(0.1 * len(tiny), 0.6), f"tiny: {count_of(len(tiny), 'segment')}: {some}")


def _cut(panoptic: PanopticMap, answer: PanopticMap) -> Iterator[Reason]:
    """A thing that the labeler is sure of, and that marks cover neither wholly nor hardly: whose border is wrong?"""
    custom = {segment.id for segment in panoptic.segments if segment.source == "custom"}
    areas, shared = answer.areas(), shared_pixels(panoptic, answer)
    for segment in answer.segments:
        if not answer.space[segment.label].isthing or segment.score < SURE:
            continue
        over = {mark: pixels for mark, pixels in shared.items() if mark[1] == segment.id and mark[0] in custom}
        covered = sum(over.values())
        share = covered / areas[segment.id]
        if CONFLICT[0] < share < CONFLICT[1]:
            points = min(4 * min(covered, areas[segment.id] - covered) / panoptic.ids.size, 1.0)
            marks = sorted({panoptic.space[panoptic.segment(mark).label].name for mark, _ in over})
            name = answer.space[segment.label].name
            sure = f"a {name} that the labeler is {segment.score:.0%} sure of"
            text = f"marks ({', '.join(marks)}) cover {share:.0%} of {sure}"
            yield Reason("marks against labeler", points, text)


def _contradicted(panoptic: PanopticMap, answer: PanopticMap) -> Iterator[Reason]:
    """A mark of a class that the labeler knows, most of which it is sure is another."""
    areas, shared = panoptic.areas(), shared_pixels(panoptic, answer)
    for mark in panoptic.segments:
        name = panoptic.space[mark.label].name
        if mark.source != "custom" or name not in answer.space.names:
            continue
        for (marked, answered), pixels in shared.items():
            if marked != mark.id or answered == 0 or 2 * pixels <= areas[mark.id]:
                continue
            other = answer.segment(answered)
            if answer.space[other.label].name != name and other.score >= SURE:
                text = f"marked {name}, and the labeler is {other.score:.0%} sure of {answer.space[other.label].name}"
                yield Reason("marks against labeler", min(2 * pixels / panoptic.ids.size, 1.0), text)
