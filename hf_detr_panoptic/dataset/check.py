"""What is wrong with a COCO panoptic dataset, anybody's, and what is in it."""

from __future__ import annotations

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ..images import UPRIGHT, image_size, list_images, orientation_of
from ..labels import Category, LabelSpace
from ..panoptic_map import PanopticMap, Segment
from ..parallel import progress_bar, read_ahead
from ..recipe import Recipe
from ..text import and_more, count_of
from .coco_panoptic import PanopticSplit, Record, find_splits, lists_of, load_json, parse_split, read_ids
from .copies import Fingerprint, fingerprint, nearest_across, of_photo
from .faults import KINDS, FaultError
from .surroundings import always_on_one, around
from .upright import turn_of
from .validation import ON_TRAIN, validates_on_train

_EXAMPLES = 5
_ROWS = 60


@dataclass
class Finding:
    """One kind of disagreement: how often, and the first few places."""

    kind: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        shown = [f"{where}: {detail}" if where else detail for where, detail in self.examples[:3]]
        more = [f"… and {self.count - len(shown)} more"] if self.count > len(shown) else []
        return "\n".join(
            [f"{kind.level} {self.kind} ({self.count}): {kind.what}. {kind.fix}", *indented(shown + more)]
        )


@dataclass
class SplitStatistics:
    """images: photos listed; incomplete: those of them that are so for some class; segments, pixels, in_images: label
    → count; void: pixels that nobody knows; marks, small, vanishing: label → the person's segments, those of them that
    are small where the model sees the photo, and those of these that it cannot see at all."""

    images: int = 0
    incomplete: int = 0
    void: int = 0
    segments: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    in_images: Counter[int] = field(default_factory=Counter)
    marks: Counter[int] = field(default_factory=Counter)
    small: Counter[int] = field(default_factory=Counter)
    vanishing: Counter[int] = field(default_factory=Counter)


@dataclass
class Report:
    """The findings by kind and the statistics by split. `ok` says whether there is no error; warnings do not count.

    prints: the fingerprint of each photo that can be read; size: shortest and longest side at which the model will see
    a photo; shrunk: whether it will see some smaller than they are.
    """

    folder: str
    space: LabelSpace | None = None
    findings: dict[str, Finding] = field(default_factory=dict)
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    prints: dict[Path, Fingerprint] = field(default_factory=dict)
    size: tuple[int, int] = (800, 1333)
    shrunk: bool = False

    def small_marks(self) -> list[tuple[str, int, int, int]]:
        """Class, the person's marks, those small where the model sees them, those that vanish; the worst first."""
        totals = [Counter[int](), Counter[int](), Counter[int]()]
        for split in self.splits.values():
            for total, own in zip(totals, (split.marks, split.small, split.vanishing), strict=True):
                total.update(own)
        marks, small, vanishing = totals
        shares = [(-vanishing[label] / marks[label], -small[label] / marks[label], label) for label in +small]
        names = self.space.names if self.space is not None else ()
        return [(names[label], marks[label], small[label], vanishing[label]) for *_, label in sorted(shares)]

    def _small_lines(self) -> list[str]:
        rows = [row for row in self.small_marks() if row[3] or row[2] >= _MANY_SMALL * row[1]]
        if not rows:
            return []
        shortest, longest = self.size
        cell = f"under one mask cell of {MASK_STRIDE}×{MASK_STRIDE} pixels"
        lines = [f"small where photos are seen at {shortest}/{longest}, of what you marked:"]
        lines += [
            f"  {name}: {gone} of {count} vanish ({gone / count:.0%}), {cell}; "
            f"{small / count:.0%} are under {SMALL}×{SMALL}"
            for name, count, small, gone in rows[:_SMALL_ROWS]
        ]
        lines += [f"  … and {len(rows) - _SMALL_ROWS} more classes"] if len(rows) > _SMALL_ROWS else []
        tile = shortest if self.shrunk else max(shortest // 2, 1)
        return [*lines, f"  tiles show them larger: hf-detr-panoptic prepare … --tile {tile}"]

    def tell(self, kind: str, where: str, detail: str) -> None:
        finding = self.findings.setdefault(kind, Finding(kind))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append((where, detail))

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings.values())

    def of_level(self, level: str) -> list[Finding]:
        return [self.findings[kind] for kind in KINDS if kind in self.findings and KINDS[kind].level == level]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; the same for the same dataset."""
        return {
            "folder": self.folder,
            "ok": self.ok,
            "findings": [
                {
                    "kind": finding.kind,
                    "level": finding.level,
                    "what": KINDS[finding.kind].what,
                    "fix": KINDS[finding.kind].fix,
                    "count": finding.count,
                    "examples": [{"where": where, "detail": detail} for where, detail in finding.examples],
                }
                for level in ("error", "warning")
                for finding in self.of_level(level)
            ],
            "splits": {
                name: {
                    "images": split.images,
                    **({"incomplete": split.incomplete} if split.incomplete else {}),
                    "segments": split.segments.total(),
                    "pixels": split.pixels.total(),
                    "void": split.void,
                }
                for name, split in self.splits.items()
            },
            "classes": [
                {
                    "name": category.name,
                    "isthing": category.isthing,
                    **{
                        name: {
                            "images": split.in_images[label],
                            "segments": split.segments[label],
                            "pixels": split.pixels[label],
                        }
                        for name, split in self.splits.items()
                    },
                }
                for label, category in enumerate(self.space or ())
            ],
            "small": [
                {"name": name, "marks": marks, "small": small, "vanishing": gone}
                for name, marks, small, gone in self.small_marks()
            ],
        }

    def __str__(self) -> str:
        lines = [self.folder]
        for name, split in self.splits.items():
            everything = split.pixels.total() + split.void
            void = f", {split.void / everything:.1%} void" if everything else ""
            segments = count_of(split.segments.total(), "segment")
            unseen = f" ({split.incomplete} that nobody may have looked at)" if split.incomplete else ""
            lines.append(f"{name}: {count_of(split.images, 'photo')}{unseen}, {segments}{void}")
        lines += ["", *self._class_table()]
        lines += ["", *small] if (small := self._small_lines()) else []
        errors, warnings = self.of_level("error"), self.of_level("warning")
        lines += ["", *(str(finding) for finding in errors + warnings)]
        counts = [
            f"{count_of(sum(f.count for f in group), noun)} of {count_of(len(group), 'kind')}"
            for noun, group in (("error", errors), ("warning", warnings))
            if group
        ]
        lines.append(" and ".join(counts) if counts else "nothing to report: JSON, PNG and photos agree")
        return "\n".join(lines)

    def _class_table(self) -> list[str]:
        """Photos, segments and share of the pixels of each class, by split; the most frequent first."""
        used = Counter[int]()
        for split in self.splits.values():
            used.update(split.segments)
        if self.space is None or not used:
            return []
        width = max(len(self.space[label].name) for label in used)
        columns = "".join(f"{name + ' photos':>15}{'segments':>10}{'pixels':>8}" for name in self.splits)
        lines = [f"{'class':<{width}}  kind {columns}"]
        for label, _ in used.most_common(_ROWS):
            category = self.space[label]
            cells = "".join(
                f"{split.in_images[label]:>15}{split.segments[label]:>10}"
                f"{split.pixels[label] / max(1, split.pixels.total()):>8.1%}"
                for split in self.splits.values()
            )
            lines.append(f"{category.name:<{width}}  {'thing' if category.isthing else 'stuff'}{cells}")
        if len(used) > _ROWS:
            lines.append(f"… and {len(used) - _ROWS} more classes: see the JSON report")
        return lines


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


TINY = 64  # pixels: an area of 8 × 8
SMALL = 8  # pixels a side, where the model sees the photo: four cells
_SMALL_ROWS = 10
_MANY_SMALL = 0.1  # of a class's marks: fewer are no reason to cut photos up
MASK_STRIDE = 4  # DETR's mask head has one cell for 4 × 4 pixels of the processed photo
MOSTLY_VOID = 0.5
IMBALANCE = 100  # times as many segments

# (image, segment) → category, mask and box, as an instances JSON has them
_Instances = Mapping[tuple[Any, Any], tuple[Any, ...]]
_ONE_CLASS = LabelSpace([Category("any", isthing=True)])


def check_dataset(
    folder: str | Path,
    photos: str | Path | None = None,
    size: tuple[int, int] = (800, 1333),
    workers: int | None = None,
    progress: bool = False,
) -> Report:
    """Compare JSON, PNG and photo of every image and count what is there. Nothing is changed.

    `photos`: where the photos are, if the folder does not hold them. `size`: shortest and longest side at which the
    model will see a photo, to tell which segments vanish there.
    """
    listed = find_splits(Path(folder), Path(photos) if photos else None)
    report = Report(Path(folder).resolve().name, size=size)
    splits = {name: split for name, files in listed.items() if (split := parse_split(files, report.tell)) is not None}
    for split in splits.values():
        report.space = report.space or split.space
        if split.space != report.space:
            report.tell("categories-differ", split.files.json.name, f"not those of {next(iter(splits))}")
    seen: dict[str, list[_Checked]] = {}
    for name, split in splits.items():
        instances = _instances(split, report)
        looked_at = read_ahead(partial(_look, size=size, instances=instances), split.records, threads=workers)
        seen[name] = list(progress_bar(looked_at, total=len(split), what=f"checking {name}", show=progress))
        report.splits[name] = _count(seen[name], report)
        report.prints |= {image.photo: image.print for image in seen[name] if image.photo and image.print}
    _extra_files(splits, seen, report)
    _across(seen, report)
    _classes(report)
    val = report.splits.get("val")
    if val is not None and not val.images and not validates_on_train(folder):
        report.tell("val-empty", "", f"0 of {count_of(sum(len(split) for split in splits.values()), 'photo')}")
    _habits([found for images in seen.values() for image in images for found in image.around], report)
    return report


@dataclass
class _Checked:
    """What one image showed."""

    record: Record
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    photo: Path | None = None
    print: Fingerprint | None = None
    areas: dict[int, int] = field(default_factory=dict)  # of the listed segments
    scale: float = 1.0  # from the photo's sides to those that the model sees
    void: int = 0
    around: list[tuple[int, Counter[int]]] = field(default_factory=list)  # of the person's things

    def tell(self, kind: str, detail: str, segment: int | None = None) -> None:
        where = self.record.where if segment is None else f"{self.record.where}, segment {segment}"
        self.findings.append((kind, where, detail))


def _look(record: Record, size: tuple[int, int], instances: _Instances | None) -> _Checked:
    seen = _Checked(record)
    photo_size = _look_at_photo(seen)
    try:
        ids = read_ids(record.png)
    except FaultError as error:
        seen.tell(error.kind, error.detail)
        return seen
    if photo_size is not None:
        photo_size = _size_beside(seen, ids, photo_size)
    sizes = {"JSON": record.size, "PNG": (int(ids.shape[0]), int(ids.shape[1])), "photo": photo_size}
    known = {name: f"{name} {value[1]}×{value[0]}" for name, value in sizes.items() if value is not None}
    if len({value for value in sizes.values() if value is not None}) > 1:
        seen.tell("size", ", ".join(known.values()))
    _compare(seen, ids, instances)
    _remark(seen, ids.shape, size)
    return seen


def _look_at_photo(seen: _Checked) -> tuple[int, int] | None:
    """(height, width) of the upright photo, decoded to its end."""
    try:
        seen.photo = seen.record.photo
        width, height = image_size(seen.photo)
        seen.print = of_photo(seen.record.file_name, fingerprint(seen.photo))
    except FaultError as error:
        seen.tell(error.kind, error.detail)
        return None
    except ImageError as error:
        seen.tell("photo-unreadable", f"{seen.record.file_name}: {error.what}")
        return None
    return height, width


def _size_beside(seen: _Checked, ids: npt.NDArray[np.int32], size: tuple[int, int]) -> tuple[int, int]:
    """The photo's size as its map lies: that of the file's pixels, where EXIF turns both."""
    orientation = orientation_of(seen.photo) if seen.photo else 1
    if orientation not in UPRIGHT:
        return size
    turn = turn_of(ids, seen.photo)
    lies = "as the photo is seen" if turn is None else "as the pixels of its file do, and is turned with them"
    seen.tell("photo-rotated", f"{seen.record.file_name}, orientation {orientation}: its map lies {lies}")
    return size if turn is None or orientation < 5 else size[::-1]


def _compare(seen: _Checked, ids: npt.NDArray[np.int32], instances: _Instances | None) -> None:
    flat = ids.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    there = np.unique(np.append(flat[edges], flat[-1])).tolist()
    pixels = PanopticMap(ids, [Segment(segment_id, 0) for segment_id in there if segment_id], _ONE_CLASS)
    areas, boxes = pixels.areas(), pixels.boxes()
    seen.void = pixels.void_area
    seen.around = around(ids, seen.record.segments, boxes, seen.record.space.thing_labels)
    listed = {entry["id"]: entry for entry in seen.record.entries}
    for segment_id in areas.keys() - listed.keys():
        seen.tell("id-unlisted", f"{areas[segment_id]} px", segment_id)
    for segment_id, entry in listed.items():
        if segment_id not in areas:
            seen.tell("id-absent", f"the JSON says {entry.get('area')} px", segment_id)
            continue
        seen.areas[segment_id] = areas[segment_id]
        if entry.get("area") != areas[segment_id]:
            seen.tell("area-stale", f"the JSON says {entry.get('area')}, the PNG {areas[segment_id]} px", segment_id)
        box = list(boxes[segment_id])
        if "bbox" in entry and entry["bbox"] != box:
            seen.tell("box-stale", f"the JSON says {entry['bbox']}, the PNG {box}", segment_id)
    if instances is not None:
        rles = pixels.rles()
        for segment_id in sorted(seen.areas):
            there_too = instances.get((seen.record.image_id, segment_id))
            wanted = (listed[segment_id]["category_id"], _text(rles[segment_id]["counts"]), list(boxes[segment_id]))
            if there_too is None:
                seen.tell("instances-stale", "missing in the instances JSON", segment_id)
            elif there_too != wanted:
                parts = zip(("category", "mask", "box"), there_too, wanted, strict=True)
                wrong = [part for part, is_, should in parts if is_ != should]
                seen.tell("instances-stale", f"another {' and '.join(wrong)} there", segment_id)


def _remark(seen: _Checked, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """What is odd, though nothing disagrees."""
    record = seen.record
    if record.incomplete and record.files.split != "train":
        seen.tell("incomplete-measured", f"{record.file_name}: {and_more(record.incomplete, 5)}")
    if not record.entries:
        seen.tell("empty", record.file_name)
    elif seen.void > MOSTLY_VOID * shape[0] * shape[1]:
        seen.tell("mostly-void", f"{seen.void / (shape[0] * shape[1]):.0%} of {record.file_name}")
    kinds = Counter(segment.label for segment in record.segments if not segment.crowd)
    for label in sorted(record.space.stuff_labels & kinds.keys()):
        if kinds[label] > 1:
            seen.tell("stuff-twice", f"{kinds[label]} × {record.space[label].name}")
    scale = seen.scale = min(size[0] / min(shape), size[1] / max(shape))
    for segment_id, area in seen.areas.items():
        if area * scale**2 < MASK_STRIDE**2:
            seen.tell("vanishing", f"{area} px", segment_id)
        elif area < TINY:
            seen.tell("tiny", f"{area} px", segment_id)


def _instances(split: PanopticSplit, report: Report) -> dict[tuple[Any, Any], tuple[Any, ...]] | None:
    """(image, segment) → category, mask and box of our own instances JSON; others' list other things."""
    path = split.files.instances
    if not split.ours:
        return None
    if not path.is_file():
        report.tell("instances-stale", path.name, "the file is missing")
        return None
    try:
        (annotations,) = lists_of(load_json(path), path.name, "annotations")
    except FaultError as error:
        report.tell(error.kind, path.name, error.detail)
        return None
    instances: dict[tuple[Any, Any], tuple[Any, ...]] = {}
    listed = {(record.image_id, entry["id"]) for record in split for entry in record.entries}
    for index, entry in enumerate(annotations):
        try:
            key = (entry["image_id"], entry["segment_id"])
            instances[key] = (entry["category_id"], entry["segmentation"]["counts"], entry["bbox"])
            if key not in listed:
                report.tell(
                    "instances-stale", f"{path.name}, annotation {entry.get('id')}", "not in the panoptic JSON"
                )
        except (TypeError, KeyError) as error:
            report.tell("instances-stale", f"{path.name}, annotations[{index}]", f"malformed ({error})")
    return instances


def _count(seen: Iterable[_Checked], report: Report) -> SplitStatistics:
    statistics = SplitStatistics()
    for image in seen:
        statistics.images += 1
        statistics.incomplete += bool(image.record.incomplete)
        statistics.void += image.void
        labels = {segment.id: segment.label for segment in image.record.segments}
        report.shrunk |= image.scale < 1
        for segment in image.record.segments:
            if segment.source == "custom" and (area := image.areas.get(segment.id)) and not segment.crowd:
                pixels = area * image.scale**2
                statistics.marks[segment.label] += 1
                statistics.small[segment.label] += pixels < SMALL**2
                statistics.vanishing[segment.label] += pixels < MASK_STRIDE**2
        for segment_id, area in image.areas.items():
            statistics.segments[labels[segment_id]] += 1
            statistics.pixels[labels[segment_id]] += area
        statistics.in_images.update({labels[segment_id] for segment_id in image.areas})
        for finding in image.findings:
            report.tell(*finding)
    return statistics


def _extra_files(splits: Mapping[str, PanopticSplit], seen: Mapping[str, list[_Checked]], report: Report) -> None:
    photos = {image.photo for images in seen.values() for image in images if image.photo}
    for split in splits.values():
        listed = {split.files.find_png(record.png_name) for record in split}
        if split.files.pngs.is_dir():
            for path in sorted(set(split.files.pngs.rglob("*.png")) - listed - photos):  # type: ignore[operator]
                report.tell("png-extra", split.files.pngs.name, path.name)
    pngs = {split.files.pngs for split in splits.values()}
    homes = {split.files.photo_home for split in splits.values()}
    for home in sorted(home for home in homes if home and not any(folder.is_relative_to(home) for folder in pngs)):
        for path in list_images(home):
            if path not in photos:
                report.tell("photo-extra", home.name, path.relative_to(home).as_posix())


def _across(seen: Mapping[str, list[_Checked]], report: Report) -> None:
    """The same image in two splits, by id and by looks."""
    first: dict[int | str, str] = {}
    for name, images in seen.items():
        for image in images:
            other = first.setdefault(image.record.image_id, name)
            if other != name:
                report.tell("id-across", f"image {image.record.image_id}", f"in {other} and {name}")
    known = [(name, image, image.print) for name, images in seen.items() for image in images if image.print]
    for i, j, distance in nearest_across([entry for _, _, entry in known], [name for name, _, _ in known]):
        (one, left, _), (other, right, _) = known[i], known[j]
        detail = f"{left.record.file_name} ({one}) and {right.record.file_name} ({other})"
        if known[i][2].digest == known[j][2].digest:
            report.tell("copy-across" if one != other else "copy-within", "", detail)
        else:
            turned = "" if known[i][2].distance(known[j][2]) == distance else ", once turned or cropped"
            report.tell("near-copy-across", "", f"{detail}, {distance} of 256 bits apart{turned}")


def _classes(report: Report) -> None:
    train, others = report.splits.get("train"), [s for name, s in report.splits.items() if name != "train"]
    val = report.splits.get("val")
    total = Counter[int]()
    for split in report.splits.values():
        total.update(split.segments)
    for label, category in enumerate(report.space or ()):
        if not total[label]:
            report.tell("class-unused", "", category.name)
        elif train and not train.segments[label] and any(split.segments[label] for split in others):
            report.tell("class-untrained", "", category.name)
        elif train and val and val.images and train.segments[label] and not val.segments[label]:
            report.tell("class-unmeasured", "", category.name)
    ranked = total.most_common()
    if report.space and ranked and ranked[0][1] >= IMBALANCE * ranked[-1][1]:
        often, rare = ranked[0], ranked[-1]
        detail = f"{often[1]} × {report.space[often[0]].name}, {rare[1]} × {report.space[rare[0]].name}"
        report.tell("imbalance", "", detail)


def _habits(found: Iterable[tuple[int, Counter[int]]], report: Report) -> None:
    """What augmentation should know of the classes."""
    if report.space is None:
        return
    pixels = sum((split.pixels for split in report.splits.values()), Counter[int]())
    for name, below, share in always_on_one(found, pixels, report.space):
        report.tell("one-background", "", f"{share:.0%} of what is around {name} is {below}")
    for one, other in sided(report.space.names):
        report.tell("left-and-right", "", f"{one}, {other}")


_SIDES = {"left": "right", "l": "r", "port": "starboard"}
_WORDS = re.compile(r"[a-z]+|[0-9]+")


def sided(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ by a side alone."""
    known = {tuple(_WORDS.findall(name.lower())): name for name in names}
    pairs = []
    for words, name in known.items():
        other = known.get(tuple(_SIDES.get(word, word) for word in words))
        if other not in (None, name):
            pairs.append((name, str(other)))
    return pairs


def _text(counts: str | bytes) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", type=Path, help="a folder in COCO's or Cityscapes' panoptic layout, anybody's")
    parser.add_argument("--photos", type=Path, help="where the photos are, if not in the folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report here")
    parser.add_argument(
        "--shortest-edge", type=int, default=800, help="size at which segments may vanish (%(default)s)"
    )
    parser.add_argument("--longest-edge", type=int, default=1333, help="and its limit (%(default)s)")
    parser.add_argument(
        "--recipe", metavar="FILE_OR_NAME", help="the recipe that will learn from it: the size at which it sees photos"
    )
    parser.add_argument("--workers", type=int, help="threads (default: one a core, 8 at most)")


def main(args: argparse.Namespace) -> int:
    """Say what is wrong with a COCO panoptic dataset, and what is in it. Exit status 1 if anything is an error."""
    import sys

    from ..files import write_json

    size = (args.shortest_edge, args.longest_edge)
    if args.recipe is not None:
        own = Recipe.load(args.recipe).size
        size = (own.shortest_edge or size[0], own.longest_edge or size[1])
    report = check_dataset(
        args.dataset,
        args.photos,
        size=size,
        workers=args.workers,
        progress=sys.stderr.isatty(),
    )
    print(report)
    if args.json:
        write_json(args.json, report.to_dict(), ascii_only=False)
        print(f"the whole report: {args.json}")
    folder, val = shlex.quote(str(args.dataset)), report.splits.get("val")
    if report.ok and "train" in report.splits:
        if val is not None and not val.images:
            print(f"val is empty, so the model will be measured {ON_TRAIN}, as prepare.json says")
        print(f"next: hf-detr-panoptic {f'split {folder}' if val is None else f'train RECIPE --data {folder}'}")
    return 0 if report.ok else 1
