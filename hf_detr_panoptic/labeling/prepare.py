"""From inputs and auto-labels to a dataset: merged, shared out, written, and said in a summary."""

from __future__ import annotations

import argparse
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataset.card import MARKER, Contents, dataset_card
from ..dataset.coco_panoptic import Record, read_dataset
from ..dataset.copies import Fingerprint, Groups, fingerprint, near_pairs
from ..dataset.photos import same_bytes, sampled, shrunk, shrunk_size, stored_names
from ..dataset.writer import DatasetWriter, EncodedMap, encode_map
from ..errors import AnnotationError, DatasetError, ImageError, clear_errors, did_you_mean
from ..files import write_csv, write_json, write_text
from ..images import open_image
from ..labels import LabelSpace
from ..lock import locked
from ..panoptic_map import PanopticMap
from ..parallel import default_threads, progress_bar, read_ahead
from ..recipe import add_prepare_flags, prepare_settings
from ..settings import Prepare
from ..text import are, count_of, first_lines
from ..tiles import photo_of
from ..watch import watched
from .inputs import Earlier, Inputs, Photo, Problem, as_files, label_space, read_inputs
from .overlay import Overlay, overlay
from .split import Split, split

if TYPE_CHECKING:
    import datasets
    from PIL import Image

    from ..annotations.marks import Mark
    from .autolabels import AutoLabels
    from .labeler import LabelledPhotos
    from .split import SplitReport


def mixed(
    records: Iterable[Record],
    space: LabelSpace,
    names: Mapping[str, str | None] | None = None,
    folder: str = "mix",
    min_known: float = 0.5,
) -> Iterator[tuple[str, Record, PanopticMap]]:
    """A name that none of ours has, the record, and its map in our space: what we have no class for becomes void.

    `names` renames theirs to ours first. A photo of which less than `min_known` is left would teach little but void:
    it is passed over.
    """
    unknown = sorted({name for name in (names or {}).values() if name is not None and name not in space.names})
    if unknown:
        raise DatasetError(f"mix: no category is called {unknown[0]!r}", fix=did_you_mean(unknown[0], space.names))
    for record in records:
        theirs = record.map()
        fate = {old: (names or {}).get(old, old) for old in record.space.names}
        fate = {old: new if new in space.names else None for old, new in fate.items()}
        ours = theirs.relabelled(space, fate).fused_stuff()
        if ours.segments and 1 - ours.void_area / ours.ids.size >= min_known:
            yield f"{folder}/{record.file_name}", record, ours


def unasked_of(record: Record, custom: Sequence[str], names: Mapping[str, str | None] | None = None) -> list[str]:
    """The person's classes that nobody looked for on a foreign photo: its dataset has no category of them, or says so
    itself. `names` renames theirs to ours first."""
    known, unasked = (
        {(names or {}).get(name, name) for name in told} for told in (record.space.names, record.incomplete)
    )
    return [name for name in custom if name in unasked or name not in known]


@dataclass
class Tally:
    """photos: part → photos; segments: (class, source) → segments; pixels: by fate, see `overlay.FATES`;
    dropped: (reason, "mark" or "auto") → how many; boxes: what became of rectangles."""

    space: LabelSpace
    photos: Counter[str] = field(default_factory=Counter)
    segments: Counter[tuple[str, str]] = field(default_factory=Counter)
    area: Counter[tuple[str, str]] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    incomplete: int = 0

    def add(self, part: str, merged: Overlay, encoded: EncodedMap, incomplete: bool = False) -> None:
        self.photos[part] += 1
        self.incomplete += incomplete
        self.pixels.update(merged.pixels)
        self.boxes.update(merged.boxes)
        for drop in merged.dropped:
            self.dropped[drop.reason, "auto" if drop.where.startswith("auto segment ") else "mark"] += 1
        for segment in encoded.segments:
            key = self.space[segment["category_id"] - 1].name, segment["source"]
            self.segments[key] += 1
            self.area[key] += segment["area"]

    def to_dict(self) -> dict[str, Any]:
        used = [name for name in self.space.names if self.segments[name, "custom"] or self.segments[name, "auto"]]
        return {
            "photos": dict(sorted(self.photos.items())),
            "mixed": self.mixed,
            **({"incomplete": self.incomplete} if self.incomplete else {}),
            "segments": {
                name: {
                    source: self.segments[name, source] for source in ("custom", "auto") if self.segments[name, source]
                }
                for name in used
            },
            "pixels": {fate: count for fate, count in self.pixels.items() if count},
            "dropped": {f"{whose}: {reason}": n for (reason, whose), n in sorted(self.dropped.items())},
            "rectangles": {by: count for by, count in sorted(self.boxes.items()) if count},
        }

    @property
    def shares(self) -> dict[str, float]:
        """Of all pixels: custom, auto and void."""
        total = max(sum(self.pixels.values()), 1)
        custom, auto = self.pixels["custom"], self.pixels["auto"]
        return {"custom": custom / total, "auto": auto / total, "void": (total - custom - auto) / total}

    def __str__(self) -> str:
        photos = ", ".join(f"{part} {count}" for part, count in sorted(self.photos.items(), key=_part))
        lines = [f"{count_of(sum(self.photos.values()), 'photo')}: {photos}"]
        if self.mixed:
            lines.append(f"and {count_of(self.mixed, 'photo')} of another dataset, in train")
        lines.append("pixels: " + ", ".join(f"{share:.1%} {whose}" for whose, share in self.shares.items()))
        void = {fate: n for fate, n in self.pixels.items() if fate not in ("custom", "auto") and n}
        if void:
            whole = sum(void.values())
            causes = ", ".join(
                f"{fate} {n / whole:.0%}" for fate, n in sorted(void.items(), key=lambda item: -item[1])
            )
            lines.append(f"void because of: {causes}")
        names = [name for name in self.space.names if self.segments[name, "custom"] or self.segments[name, "auto"]]
        names.sort(key=lambda name: (-self.segments[name, "custom"], -self.segments[name, "auto"], name))
        width = max([len(name) for name in names[:_MOST_CLASSES]] + [5])
        lines.append(f"{'class':<{width}}  {'custom':>7} {'auto':>7} {'pixels':>7}")
        total = max(sum(self.pixels.values()), 1)
        for name in names[:_MOST_CLASSES]:
            pixels = self.area[name, "custom"] + self.area[name, "auto"]
            counts = f"{self.segments[name, 'custom']:>7} {self.segments[name, 'auto']:>7}"
            lines.append(f"{name:<{width}}  {counts} {pixels / total:>7.1%}")
        if len(names) > _MOST_CLASSES:
            lines.append(f"… and {len(names) - _MOST} more classes")
        if self.dropped:
            reasons = ", ".join(f"{n} {reason} ({whose})" for (reason, whose), n in sorted(self.dropped.items()))
            lines.append(f"segments that are not in the result: {reasons}")
        if any(self.boxes.values()):
            lines.append("rectangles: " + ", ".join(f"{n} {by}" for by, n in sorted(self.boxes.items()) if n))
        return "\n".join(lines)


_MOST_CLASSES = 25


def _part(item: tuple[str, int]) -> int:
    return ("train", "val", "test").index(item[0])


_MOST = 10  # lines of each kind


@dataclass(frozen=True)
class Prepared:
    """A finished dataset, and what came of every photo. As text: the summary."""

    settings: Prepare
    inputs: Inputs
    answers: AutoLabels
    space: LabelSpace
    photos: Sequence[Photo]
    problems: Sequence[Problem]
    split: SplitReport | None
    tally: Tally

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The rows of skipped.csv: everything that is not in the dataset, and why."""
        from .inputs import Problem

        rows = list(self.problems)
        if self.settings.unannotated == "skip" and self.settings.annotations is not None:
            fix = "Mark it, or learn from it what the labeler sees: --unannotated learn (auto, if you looked at it)."
            rows += [Problem(name, "no annotation", fix) for name in self.inputs.unannotated]
        return [{"photo": row.photo, "what": row.what, "fix": row.fix or "", "where": row.where or ""} for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """prepare.json: no times and no absolute paths, so that the same inputs give the same bytes."""
        digest = hashlib.sha256("\n".join(f"{photo.name}\0{photo.digest}" for photo in self.photos).encode())
        return {
            "format": 1,
            "settings": plain_settings(self.settings),
            "labeler": self.answers.settings,
            "inputs": {
                "photos": len(self.photos),
                "photos_fingerprint": digest.hexdigest()[:16],
                "annotations_fingerprint": self.inputs.digest,
            },
            "counts": {
                **self.tally.to_dict(),
                "skipped": dict(sorted(Counter(row["what"] for row in self.skipped).items())),
            },
        }

    def __str__(self) -> str:
        lines = [str(self.tally)]
        if self.split is not None:
            lines += ["", "split: " + str(self.split)]
        lines += remarks_on(self.settings, self.inputs, self.answers.space)
        skipped = self.skipped
        if skipped:
            reasons = Counter(row["what"].split(" (")[0][:80] for row in skipped)
            what = count_of(len(skipped), "photo or mark", "photos or marks")
            lines += ["", f"{what} {are(len(skipped))} not in the dataset; skipped.csv lists them:"]
            lines += [f"  {count} × {reason}" for reason, count in reasons.most_common(_MOST)]
        folder = shlex.quote(str(self.settings.folder))
        lines += ["", f"next: hf-detr-panoptic check {folder}"]
        lines += [f"then: hf-detr-panoptic train RECIPE --data {folder}"]
        return "\n".join(lines)


def write_papers(prepared: Prepared) -> None:
    """skipped.csv, prepare.json and README.md. A README that a person made their own stays."""
    out = prepared.settings.folder
    write_csv(out / "skipped.csv", ["photo", "what", "fix", "where"], prepared.skipped, newline="\n")
    card = out / "README.md"
    record = prepared.to_dict()
    if not card.is_file() or MARKER in card.read_text(encoding="utf-8", errors="replace"):
        segments = {("", *key): count for key, count in prepared.tally.segments.items()}
        incomplete = prepared.tally.incomplete
        contents = Contents(prepared.space, record["counts"]["photos"], segments, record, incomplete)
        write_text(card, dataset_card(contents, out.resolve().name))
    write_json(out / "prepare.json", record, ascii_only=False)


def plain_settings(settings: Prepare) -> dict[str, Any]:
    """As a YAML of them would say, but for where things lie on this machine."""
    said = settings.to_dict() | {"labeler": public_name(settings.labeler), "seed": settings.seed or 0}
    del said["out"]
    for name in ("images", "annotations", "mix"):
        said[name] = said[name] and Path(said[name]).name
    if isinstance(settings.values, Path):
        said["values"] = settings.values.name
    if isinstance(settings.looked_at, Path):
        said["looked_at"] = settings.looked_at.name
    elif settings.looked_at == "marked":
        del said["looked_at"]  # a dataset without such photos has the bytes that it had before there was the word
    return said


def remarks_on(settings: Prepare, inputs: Inputs, labeler: LabelSpace) -> list[str]:
    """What the person should decide on: names that two classes carry, photos that nobody may have looked at, classes
    that are marked on some of the others only."""
    from .schemes import namesakes, partly_marked
    from .tiling import whole_photos

    decided = {*settings.rename, *settings.drop}
    same = [str(entry) for entry in namesakes(inputs.custom, labeler) if entry.labeler not in decided]
    looked_at = [photo for name, photo in inputs.marked.items() if name not in inputs.incomplete]
    partly = [str(entry) for entry in partly_marked(whole_photos(looked_at))]
    lines: list[str] = []
    for remarks in (same, _unseen(inputs), partly):
        if remarks:
            lines += ["", *first_lines(remarks, _MOST, "more of this kind")]
    return lines


def _unseen(inputs: Inputs) -> list[str]:
    """One sentence on the photos that are incomplete, with the way to overrule."""
    if not (count := len(inputs.incomplete)):
        return []
    carry, it, they = ("carries", "it", "it is") if count == 1 else ("carry", "them", "they are")
    return [
        f"{count} of {len(inputs.names)} photos {carry} no mark of yours, and nobody may have looked at {it} yet: "
        f"{they} learnt from without a word on your classes, and never validation (--looked-at all if you did look, "
        "or a file with the names of those you looked at)"
    ]


def public_name(labeler: Any) -> str:
    """A name of the Hub as it is, a folder's own name, or the kind of a model in memory."""
    if isinstance(labeler, Path) or (isinstance(labeler, str) and Path(labeler).exists()):
        return Path(labeler).resolve().name
    return labeler if isinstance(labeler, str) else type(labeler).__name__


_AHEAD = 8  # merged photos that wait to be written


def prepare_dataset(
    settings: Prepare,
    progress: bool = False,
    dataset: datasets.Dataset | datasets.DatasetDict | None = None,
) -> Prepared | None:
    """All of it; a `dataset` takes the place of the settings' `images`.

    In several processes all of them label, and the first one writes and alone returns something.
    """
    from accelerate import PartialState

    from .labeler import label_photos

    with clear_errors(settings.folder), locked(settings.folder):
        settings = as_files(settings, dataset)
        with watched():
            labelled = label_photos(settings, progress)
            prepared = write(settings, labelled, progress) if labelled is not None else None
            PartialState().wait_for_everyone()  # whoever leaves early takes the connection down
        return prepared


def write(settings: Prepare, labelled: LabelledPhotos, progress: bool = False, splitting: bool = True) -> Prepared:
    """Merge, split and write; `splitting` off puts what is new into train."""
    inputs, photos, answers = labelled.inputs, labelled.photos, labelled.answers
    if not photos:
        raise DatasetError(
            "no photo can be used",
            where=str(settings.images),
            fix=str(labelled.problems[0]) if labelled.problems else None,
        )
    orders, space = label_space(settings, answers.space, inputs.custom)
    names, rules = orders.mapping(answers.space), settings.rules
    earlier = Earlier.of(settings.folder)
    lost = below_a_pixel(settings, inputs, photos)
    divided = split_photos(settings, inputs, photos, earlier.shared_out, lost) if splitting else None
    before = dict.fromkeys((photo.name for photo in photos), "train")
    before |= carried(before, earlier.shared_out)
    parts = divided.assignment if divided else before | dict.fromkeys(inputs.incomplete, "train")
    beside = set(divided.report.beside) if divided else set()
    photos = [photo for photo in photos if photo.name not in beside]
    foreign, measured_too = _unlike(_foreign(settings), photos, parts)
    folder = _free_folder([photo.name for photo in photos])
    every = [*(photo.name for photo in photos), *(f"{folder}/{record.file_name}" for record in foreign)]
    stored, ids = stored_names(every, earlier.stored), _ids(every, earlier.ids)
    problems = [*inputs.problems, *labelled.problems, *lost_marks(settings, lost)]
    problems += [
        Problem(name, "nobody may have looked at it, and it is like a photo of val", _BESIDE) for name in beside
    ]
    problems += [
        Problem(f"{folder}/{record.file_name}", _MEASURED, "Nothing: it would flatter the figures.")
        for record in measured_too
    ]
    tally = Tally(space)

    def merge(photo: Photo) -> tuple[Path | Image.Image, Overlay, EncodedMap] | Problem:
        """The photo's path, or itself where it was shrunk; the overlay; its map as the files hold it."""
        marked = inputs.marked.get(photo.name)
        try:
            merged = overlay(answers.read(photo.digest), marked.marks if marked else (), space, names, rules)
        except AnnotationError as error:
            if settings.strict:
                raise
            return Problem(photo.name, error.what, error.fix, error.where)
        source: Path | Image.Image = inputs.folder / photo.name
        small = merged.map
        if settings.max_size and max(photo.size) > settings.max_size:
            try:
                content = same_bytes(inputs.folder / photo.name, photo.digest)
            except ImageError as error:
                return Problem(photo.name, error.what, error.fix)
            source, small = shrunk(open_image(content), merged.map, settings.max_size)
        return source, merged, encode_map(small)

    earlier.remember(settings.folder)
    coming = read_ahead(merge, photos, threads=min(4, default_threads()), ahead=_AHEAD)
    pairs = progress_bar(zip(photos, coming, strict=True), total=len(photos), what="writing", show=progress)
    with DatasetWriter(settings.folder, space, _DESCRIPTION) as writer:
        for photo, outcome in pairs:
            if isinstance(outcome, Problem):
                problems.append(outcome)
                continue
            source, merged, encoded = outcome
            part = parts[photo.name]
            incomplete = photo.name in inputs.incomplete
            try:
                writer.add(
                    part,
                    stored[photo.name],
                    source,
                    encoded,
                    image_id=ids[photo.name],
                    original=photo.name,
                    incomplete=inputs.custom if incomplete else (),
                    digest=photo.digest if isinstance(source, Path) else None,
                )
            except ImageError as error:  # changed, or gone, since it was labelled
                if settings.strict:
                    raise
                problems.append(Problem(photo.name, error.what, error.fix))
                continue
            tally.add(part, merged, encoded, incomplete)
        for name, record, panoptic in mixed(foreign, space, names, folder):
            unasked = unasked_of(record, inputs.custom, names)
            writer.add(
                "train", stored[name], record.photo, panoptic, image_id=ids[name], incomplete=unasked, mixed=True
            )
            tally.mixed += 1
            tally.incomplete += bool(unasked)
    prepared = Prepared(settings, inputs, answers, space, photos, problems, divided.report if divided else None, tally)
    write_papers(prepared)
    answers.sweep()
    Earlier.forget(settings.folder)
    return prepared


_BESIDE = "Mark it, or say that you looked at it: --looked-at."
_DESCRIPTION = "Photos with what a person marked on them; a pretrained model labelled the rest."


def split_photos(
    settings: Prepare,
    inputs: Inputs,
    photos: list[Photo],
    previous: Mapping[str, str],
    lost: Mapping[str, Sequence[Mark]] | None = None,
) -> Split:
    """Who is in train, val and test; a photo that was assigned before stays. `lost`: see `below_a_pixel`."""
    classes: dict[str, set[str]] = {photo.name: set() for photo in photos}
    for name in classes.keys() & inputs.marked.keys():
        gone = {id(mark) for mark in (lost or {}).get(name, ())}
        classes[name] = {mark.name for mark in inputs.marked[name].marks if not mark.void and id(mark) not in gone}
    return split(
        classes,
        settings.validation,
        seed=settings.seed or 0,
        previous=carried(classes, previous),
        test=settings.test,
        pattern=settings.group_pattern,
        prints=_prints(inputs, photos),
        incomplete=inputs.incomplete,
    )


def carried(names: Iterable[str], previous: Mapping[str, str]) -> dict[str, str]:
    """The parts of those that had one: a photo's own, also where it is cut otherwise by now."""
    known = {photo_of(name) or name: part for name, part in previous.items()}
    return {name: known[photo] for name in names if (photo := photo_of(name) or name) in known}


def _prints(inputs: Inputs, photos: Sequence[Photo]) -> dict[str, Fingerprint]:
    """What each photo looks like; of a photo in tiles one stands for all, which are tied by their names."""
    firsts = {photo_of(photo.name) or photo.name: photo for photo in reversed(photos)}
    return {photo.name: inputs.prints.get(photo.name, photo.fingerprint) for photo in firsts.values()}


def below_a_pixel(settings: Prepare, inputs: Inputs, photos: Sequence[Photo]) -> dict[str, list[Mark]]:
    """Photo → the marks on it of which --max-size leaves nothing."""
    from pycocotools import mask as coco_mask

    lost: dict[str, list[Mark]] = {}
    for photo in photos:
        if not settings.max_size or max(photo.size) <= settings.max_size or photo.name not in inputs.marked:
            continue
        rows, columns = map(sampled, photo.size, shrunk_size(photo.size, settings.max_size))
        for mark in inputs.marked[photo.name].marks:
            if mark.rle is not None:
                left = bool(coco_mask.decode(mark.rle)[np.ix_(rows, columns)].any())
            else:
                x, y, width, height = mark.box
                inside = ((y <= rows + 0.5) & (rows + 0.5 < y + height)).any()
                left = bool(inside and ((x <= columns + 0.5) & (columns + 0.5 < x + width)).any())
            if not left:
                lost.setdefault(photo.name, []).append(mark)
    return lost


def lost_marks(settings: Prepare, lost: Mapping[str, Sequence[Mark]]) -> list[Problem]:
    what = f"is smaller than a pixel at max_size {settings.max_size}, and not in the dataset"
    fix = "Give a larger --max-size, or none."
    return [
        Problem(name, f"a mark of '{mark.name}' {what}", fix, mark.where)
        for name, marks in lost.items()
        for mark in marks
    ]


def _foreign(settings: Prepare) -> tuple[Record, ...]:
    """The records of the dataset that is mixed in: its own validation photos stay out, where it has any."""
    if settings.mix is None:
        return ()
    if settings.mix.resolve() == settings.folder.resolve():
        raise DatasetError("a dataset cannot be mixed into itself", where=str(settings.mix))
    dataset = read_dataset(settings.mix)
    return dataset["train"].records if "train" in dataset else tuple(r for part in dataset.values() for r in part)


def _unlike(
    foreign: Sequence[Record], photos: Sequence[Photo], parts: Mapping[str, str]
) -> tuple[list[Record], list[Record]]:
    """The foreign photos that are unlike every photo that is measured on, and the others."""
    measured = [photo.fingerprint for photo in photos if parts[photo.name] != "train"]
    if not foreign or not measured:
        return list(foreign), []
    prints = [*measured, *read_ahead(lambda record: fingerprint(record.photo), foreign)]
    groups = Groups(range(len(prints)))
    for i, j, _ in near_pairs(prints):
        groups.join(i, j)
    known = {groups.find(number) for number in range(len(measured))}
    alike = [groups.find(len(measured) + number) in known for number in range(len(foreign))]
    return (
        [record for record, twin in zip(foreign, alike, strict=True) if not twin],
        [record for record, twin in zip(foreign, alike, strict=True) if twin],
    )


_MEASURED = "a photo to be mixed in is like one of val or test"


def _free_folder(names: list[str]) -> str:
    folder = "mix"
    while any(name.startswith(f"{folder}/") for name in names):
        folder += "_"
    return folder


def _ids(names: list[str], earlier: Mapping[str, int]) -> dict[str, int]:
    """Image ids: augmentation goes by them, so that a photo keeps its own."""
    ids = {name: earlier[name] for name in names if name in earlier}
    free = max(earlier.values(), default=0) + 1
    for name in names:
        if name not in ids:
            ids[name], free = free, free + 1
    return ids


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prepare_flags(
        parser,
        without=(
            "labeler",
            "labeler_stuff",
            "batch_size",
            "precision",
            "threads",
            "validation",
            "test",
            "seed",
            "group_pattern",
        ),
    )
    parser.add_argument(
        "--autolabels", type=Path, metavar="DIR", help="where the auto-labels are (the autolabels folder of --out)"
    )


def main(args: argparse.Namespace) -> int:
    """Only the merging: marks over auto-labels that are there, written as a dataset. No model is loaded.

      hf-detr-panoptic overlay --images photos/ --annotations export.zip --out data/site --threshold 0.9

    Photos that the dataset has keep their side of the split; new ones go to train, for `split` to share out.
    """
    from .autolabels import AutoLabels
    from .inputs import Problem, as_files, survey
    from .labeler import LabelledPhotos, raise_first
    from .tiling import cut_up

    settings = prepare_settings(args)
    with clear_errors(settings.folder), locked(settings.folder):
        settings = as_files(settings)
        inputs = cut_up(settings, read_inputs(settings), progress=True)
        answers = AutoLabels.in_folder(args.autolabels or settings.folder / "autolabels")
        photos, problems = survey(inputs.folder, inputs.names, progress=True)
        there = [photo for photo in photos if answers.has(photo.digest)]
        lacking = [photo for photo in photos if not answers.has(photo.digest)]
        if not there:
            raise DatasetError(
                f"none of the {len(photos)} photos has an auto-label", where=str(answers.folder), fix=_LABEL_FIRST
            )
        problems += [Problem(photo.name, "no auto-label", _LABEL_FIRST) for photo in lacking]
        if settings.strict:
            raise_first(problems)
        print(write(settings, LabelledPhotos(inputs, there, problems, answers), progress=True, splitting=False))
    return 0


_LABEL_FIRST = "Run hf-detr-panoptic autolabel with these photos."
