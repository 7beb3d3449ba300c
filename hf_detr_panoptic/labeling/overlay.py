"""The person's marks on top of the labeler's map: every pixel ends up theirs, the labeler's, or void."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..annotations.marks import is_void_name
from ..errors import AnnotationError, LabelError, RecipeError, did_you_mean
from ..labels import LabelSpace
from ..panoptic_map import Box, PanopticMap, Segment, bands, looked_up
from ..settings import OverlayRules

if TYPE_CHECKING:
    from ..annotations.marks import Mark


Crop = tuple[slice, slice]


@dataclass(frozen=True)
class MarkPixels:
    """The `index`-th mark of a photo as pixels: bool [h, w], the part of the photo that `crop` cuts out.

    `by`: "outline" as drawn, "refined" to a segment of the labeler, the "rectangle" itself, or "skipped".
    """

    mark: Mark
    index: int
    crop: Crop
    mask: npt.NDArray[np.bool_]
    area: int
    by: str


def shapes_of(auto: PanopticMap, marks: Sequence[Mark], boxes: str, box_fit: float) -> list[MarkPixels]:
    """The shape of each mark, in the order of the marks. A void rectangle means all of itself: it is never refined."""
    rectangles = [index for index, mark in enumerate(marks) if mark.rle is None and not mark.void]
    fitting = best_fits(auto, {index: marks[index].box for index in rectangles}, box_fit) if boxes == "refine" else {}
    shapes = []
    for index, mark in enumerate(marks):
        if mark.rle is not None:
            crop, mask, by = *_outline(mark, auto), "outline"
        else:
            crop = _rectangle(mark, auto)
            mask, by = np.ones((crop[0].stop - crop[0].start, crop[1].stop - crop[1].start), dtype=bool), "rectangle"
            if boxes == "skip" and not mark.void:
                mask, by = np.zeros_like(mask), "skipped"
            elif index in fitting:
                mask, by = auto.ids[crop] == fitting[index], "refined"
        shapes.append(MarkPixels(mark, index, crop, mask, int(np.count_nonzero(mask)), by))
    return shapes


def best_fits(
    auto: PanopticMap, rectangles: dict[int, tuple[float, float, float, float]], minimum: float
) -> dict[int, int]:
    """index of a rectangle → id of the auto segment whose tight box has the largest IoU with it, at least `minimum`.

    Each segment goes to one rectangle, the best pair first. The labeler's score does not matter here: the person
    vouches for the object.
    """
    if not rectangles or not auto.segments:
        return {}
    tight = auto.boxes()
    crowds = {segment.id for segment in auto.segments if segment.crowd}
    pairs = [
        (-box_iou(box, tight[segment_id]), index, segment_id)
        for index, box in rectangles.items()
        for segment_id in tight
        if segment_id not in crowds
    ]
    fits: dict[int, int] = {}
    for loss, index, segment_id in sorted(pairs):
        if -loss >= max(minimum, 1e-9) and index not in fits and segment_id not in fits.values():
            fits[index] = segment_id
    return fits


def painting_order(shapes: Sequence[MarkPixels], priority: Sequence[str], collisions: str) -> list[MarkPixels]:
    """From the bottom to the top: by `priority`, then by the layers that the person gave, then the smaller (unless
    `collisions` is "file"), then file order."""

    def height(shape: MarkPixels) -> tuple[float, ...]:
        return -rank(shape, priority), shape.mark.layer, -shape.area if collisions != "file" else 0, shape.index

    return sorted(shapes, key=height)


def rank(shape: MarkPixels, priority: Sequence[str]) -> int:
    """0 for the first name of the priority list; names that it does not have lie below all that it has."""
    return priority.index(shape.mark.name) if shape.mark.name in priority else len(priority)


def box_iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Of two (x, y, width, height)."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0


def _outline(mark: Mark, auto: PanopticMap) -> tuple[Crop, npt.NDArray[np.bool_]]:
    from pycocotools import mask as coco_mask

    assert mark.rle is not None
    height, width = (int(side) for side in mark.rle["size"])
    if (height, width) != auto.ids.shape:
        raise AnnotationError(
            f"the mark was drawn on {width}×{height} pixels, the photo has {auto.width}×{auto.height}",
            where=mark.where,
            fix="Scale the annotations to the photo, or give the photo that was annotated.",
        )
    x, y, w, h = (int(side) for side in coco_mask.toBbox(mark.rle))
    crop = slice(y, y + h), slice(x, x + w)
    return crop, coco_mask.decode(mark.rle)[crop].astype(bool)


def _rectangle(mark: Mark, auto: PanopticMap) -> Crop:
    """The pixels whose centre lies in the box; an empty crop where the box is beside the photo."""
    x, y, w, h = mark.box
    left, right = (int(np.clip(np.ceil(edge - 0.5), 0, auto.width)) for edge in (x, x + w))
    top, bottom = (int(np.clip(np.ceil(edge - 0.5), 0, auto.height)) for edge in (y, y + h))
    return slice(top, max(top, bottom)), slice(left, max(left, right))


# Where a pixel can end up: with the person, with the labeler, or void for one of these reasons.
FATES = ("custom", "auto", "void mark", "leakage", "fragment", "low score", "no class", "unlabelled")


@dataclass(frozen=True)
class Dropped:
    """A mark or an auto segment of which nothing is in the result.

    reason: of a mark "empty" (no pixel in the photo), "skipped" (a rectangle) or "hidden"; of an auto segment
    "covered", "leakage", "fragment", "low score" or "no class". pixels: its own, before anything lay on it.
    by: the marks that it lies under.
    """

    reason: str
    name: str
    where: str
    pixels: int
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overlay:
    """The merged map, and what happened.

    pixels: where every pixel ended up, one count for each of `FATES`: together height × width.
    taken: (name of the mark on top, name of what it took them from, "void" included) → pixels.
    boxes: how many rectangles were "refined", stayed a "rectangle" or were "skipped".
    """

    map: PanopticMap
    pixels: dict[str, int]
    taken: dict[tuple[str, str], int]
    dropped: tuple[Dropped, ...]
    boxes: dict[str, int]


def overlay(
    auto: PanopticMap,
    marks: Sequence[Mark],
    space: LabelSpace,
    names: Mapping[str, str | None] | None = None,
    rules: OverlayRules | None = None,
) -> Overlay:
    """Lay the marks of one photo over the labeler's map of it, in the label space `space`; ids become 1, 2, 3, …

    `auto` comes in the labeler's own space, since the rules ask what the *labeler* took for a thing; `names` (from
    `LabelSpace.mapping`) says what becomes of its classes after that.
    """
    rules = rules or OverlayRules()
    _check_names(rules, space)
    labels = [None if mark.void else _label(mark, space) for mark in marks]
    targets = [_target(auto, segment, space, names) for segment in auto.segments]

    shapes = shapes_of(auto, marks, rules.boxes, rules.box_fit)
    owner, taken = _painted(auto, shapes, rules)
    column_of = np.zeros(int(auto.ids.max()) + 1, dtype=np.int32)
    column_of[[segment.id for segment in auto.segments]] = np.arange(1, len(auto.segments) + 1)
    under = _under(auto, owner, column_of, len(marks))
    for mark, segment, pixels in _entries(under):
        below = "void" if segment == 0 else auto.space[auto.segments[segment - 1].label].name
        taken[marks[mark - 1].name, below] += pixels
    verdicts = _verdicts(auto, owner, under, targets, rules)

    visible = under.sum(axis=1)[1:].tolist()
    members = [
        _Member(labels[index], 1.0, "custom", mark.crowd, visible[index]) for index, mark in enumerate(marks)
    ] + [
        _Member(target, segment.score, "auto", segment.crowd, verdict.left if verdict.stays else 0)
        for segment, target, verdict in zip(auto.segments, targets, verdicts, strict=True)
    ]
    segments, numbers = _numbered(members, space)
    ids = looked_up(np.append(0, numbers[len(marks) :]).astype(np.int32)[column_of], auto.ids)
    for verdict in verdicts:
        if verdict.cut is not None:
            ids.reshape(-1)[verdict.cut] = 0
    of_mark = np.append(0, numbers[: len(marks)]).astype(np.int32)
    for band, covered in _covered(owner):
        ids[band][covered] = of_mark[owner[band][covered]]
    ids.flags.writeable = False  # nobody else has it: the map need not copy it
    return Overlay(
        PanopticMap(ids, segments, space),
        pixels=_fates(visible, labels, verdicts, unlabelled=auto.void_area - int(under[:, 0].sum())),
        taken=dict(taken),
        dropped=(
            *_dropped_marks(shapes, visible, owner, marks),
            *_dropped_segments(auto, marks, under, verdicts),
        ),
        boxes={by: sum(shape.by == by for shape in shapes) for by in ("refined", "rectangle", "skipped")},
    )


@dataclass(frozen=True)
class _Verdict:
    """What becomes of one auto segment: `fate` of the `left` pixels that no mark covers, but for those in `cut`.

    cut: flat indices of the pixels that become void though the segment stays, for the reason `cut_for`.
    """

    fate: str
    left: int
    cut: npt.NDArray[np.int64] | None = None
    cut_for: str = "fragment"

    @property
    def stays(self) -> bool:
        return self.fate == "auto"


@dataclass(frozen=True)
class _Member:
    """Something that may become a segment of the result: not without a label, nor without a pixel."""

    label: int | None
    score: float
    source: str
    crowd: bool
    pixels: int


def _check_names(rules: OverlayRules, space: LabelSpace) -> None:
    for name in rules.priority:
        if name not in space.names and not is_void_name(name):
            raise RecipeError(f"priority: no class is called {name!r}", fix=did_you_mean(name, space.names))


def _label(mark: Mark, space: LabelSpace) -> int:
    if mark.name not in space.names:
        raise LabelError(
            f"the label space has no class '{mark.name}'", where=mark.where, fix=did_you_mean(mark.name, space.names)
        )
    return space.index(mark.name)


def _target(
    auto: PanopticMap, segment: Segment, space: LabelSpace, names: Mapping[str, str | None] | None
) -> int | None:
    """The label of an auto segment in the new space; None where its class is dropped."""
    old = auto.space[segment.label].name
    new = old if names is None else names.get(old, old)
    if new is not None and new not in space.names:
        raise LabelError(
            f"the labeler's class '{old}' becomes '{new}', which the label space does not have",
            fix=did_you_mean(new, space.names) + " Or drop it, so that it becomes void.",
        )
    return None if new is None else space.index(new)


def _painted(
    auto: PanopticMap, shapes: Sequence[MarkPixels], rules: OverlayRules
) -> tuple[npt.NDArray[np.int32], Counter[tuple[str, str]]]:
    """int32 [H, W], 0 or 1 + the index of the mark on top, and what the marks took from each other."""
    owner = np.zeros(auto.ids.shape, dtype=np.int32)
    taken: Counter[tuple[str, str]] = Counter()
    for shape in painting_order(shapes, rules.priority, rules.collisions):
        region = owner[shape.crop]
        for below, pixels in enumerate(np.bincount(region[shape.mask]).tolist()):
            if below == 0 or pixels == 0:
                continue
            other = shapes[below - 1]
            undecided = rank(shape, rules.priority) == rank(other, rules.priority)
            undecided = undecided and shape.mark.layer == other.mark.layer
            if rules.collisions == "fail" and undecided and pixels >= rules.min_area:
                raise AnnotationError(
                    f"'{shape.mark.name}' overlaps '{other.mark.name}' ({other.mark.where}) in {pixels} pixels",
                    where=shape.mark.where,
                    fix="Mend the outlines, list the names under priority, or set collisions: smaller.",
                )
            taken[shape.mark.name, other.mark.name] += pixels
        region[shape.mask] = shape.index + 1
    return owner, taken


def _under(
    auto: PanopticMap,
    owner: npt.NDArray[np.int32],
    column_of: npt.NDArray[np.int32],
    marks: int,
) -> npt.NDArray[np.int64]:
    """int64 [marks + 1, segments + 1]: pixels of each auto segment under each mark; 0 is no mark, and auto's void."""
    columns = len(auto.segments) + 1
    counts = np.zeros((marks + 1) * columns, dtype=np.int64)
    for band, covered in _covered(owner):
        pairs = owner[band][covered].astype(np.int64) * columns + column_of[auto.ids[band][covered]]
        counts += np.bincount(pairs, minlength=len(counts))
    return counts.reshape(marks + 1, columns)


def _covered(owner: npt.NDArray[np.int32]) -> Iterator[tuple[slice, npt.NDArray[np.bool_]]]:
    """The bands that have a mark, and their pixels that do."""
    for band in bands(len(owner)):
        covered = owner[band] != 0
        if covered.any():
            yield band, covered


def _entries(under: npt.NDArray[np.int64]) -> Iterable[tuple[int, int, int]]:
    rows, columns = np.nonzero(under)
    return zip(rows.tolist(), columns.tolist(), under[rows, columns].tolist(), strict=True)


def _verdicts(
    auto: PanopticMap,
    owner: npt.NDArray[np.int32],
    under: npt.NDArray[np.int64],
    targets: Sequence[int | None],
    rules: OverlayRules,
) -> list[_Verdict]:
    areas, boxes = auto.areas(), auto.boxes()
    lost = under.sum(axis=0)[1:].tolist()
    verdicts = []
    for segment, target, gone in zip(auto.segments, targets, lost, strict=True):
        category, box, area = auto.space[segment.label], boxes[segment.id], areas[segment.id]
        left = area - gone
        if target is None:
            verdict = _Verdict("no class", left)
        elif segment.score < rules.threshold:
            verdict = _Verdict("low score", left)
        elif left == 0:
            verdict = _Verdict("covered", 0)
        elif category.isthing and rules.leakage is not None and gone >= rules.leakage * area:
            verdict = _Verdict("leakage", left)
        elif gone and category.isthing:
            verdict = _without(left, _cut_off(auto, segment, box, owner, rules.min_area), "fragment")
        elif gone and left < rules.min_area:
            verdict = _Verdict("fragment", left)
        else:
            verdict = _Verdict("auto", left)
        verdicts.append(verdict)
    return verdicts


def _without(left: int, cut: npt.NDArray[np.int64], reason: str) -> _Verdict:
    """The segment without these pixels, or no segment if that is all there is left."""
    return _Verdict(reason, left) if len(cut) == left else _Verdict("auto", left - len(cut), cut, reason)


def _cut_off(
    auto: PanopticMap, segment: Segment, box: Box, owner: npt.NDArray[np.int32], min_area: int
) -> npt.NDArray[np.int64]:
    """Flat indices of the pieces below `min_area` that the marks cut off; pieces that were small before stay."""
    from scipy import ndimage

    crop = _crop(box)
    body, marked = auto.ids[crop] == segment.id, owner[crop] > 0
    pieces, count = ndimage.label(body & ~marked)
    small = np.bincount(pieces.reshape(-1), minlength=count + 1) < min_area
    small[0] = False
    if not small.any():
        return np.empty(0, dtype=np.int64)
    rows, columns = np.nonzero(small[pieces])
    taken = np.pad(body & marked, 1)
    beside = np.any([taken[rows + up, columns + left] for up, left in ((0, 1), (2, 1), (1, 0), (1, 2))], axis=0)
    touched = np.zeros(count + 1, dtype=bool)
    touched[pieces[rows, columns][beside]] = True
    cut = touched[pieces[rows, columns]]
    return _flat(auto, crop, rows[cut], columns[cut])


def _crop(box: Box, margin: int = 0) -> Crop:
    x, y, w, h = box
    return slice(max(y - margin, 0), y + h + margin), slice(max(x - margin, 0), x + w + margin)


def _flat(
    auto: PanopticMap, crop: Crop, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    return (rows + crop[0].start) * auto.width + columns + crop[1].start


def _numbered(members: Sequence[_Member], space: LabelSpace) -> tuple[list[Segment], list[int]]:
    """The segments of the result, and the id of each member in it, 0 for none. Stuff of one class shares one."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, member in enumerate(members):
        if member.label is not None and member.pixels:
            fuse = member.label in space.stuff_labels and not member.crowd
            groups.setdefault(("stuff", member.label) if fuse else ("alone", index), []).append(index)
    numbers = [0] * len(members)
    segments = []
    for number, group in enumerate(groups.values(), start=1):
        parts = [members[index] for index in group]
        pixels = sum(part.pixels for part in parts)
        first = parts[0]  # marks come first: what the person marked of a class makes the whole custom
        score = sum(part.score * part.pixels for part in parts) / pixels if len(parts) > 1 else first.score
        assert first.label is not None
        segments.append(Segment(number, first.label, min(score, 1.0), first.source, first.crowd))
        for index in group:
            numbers[index] = number
    return segments, numbers


def _fates(
    visible: Sequence[int], labels: Sequence[int | None], verdicts: Sequence[_Verdict], unlabelled: int
) -> dict[str, int]:
    pixels = dict.fromkeys(FATES, 0) | {"unlabelled": unlabelled}
    for count, label in zip(visible, labels, strict=True):
        pixels["void mark" if label is None else "custom"] += count
    for verdict in verdicts:
        if verdict.left:
            pixels[verdict.fate] += verdict.left
        if verdict.cut is not None:
            pixels[verdict.cut_for] += len(verdict.cut)
    return pixels


def _dropped_marks(
    shapes: Sequence[MarkPixels], visible: Sequence[int], owner: npt.NDArray[np.int32], marks: Sequence[Mark]
) -> Iterable[Dropped]:
    for shape in shapes:
        if visible[shape.index]:
            continue
        above = Counter((owner[shape.crop][shape.mask] - 1).tolist())
        reason = "skipped" if shape.by == "skipped" else "hidden" if shape.area else "empty"
        by = tuple(dict.fromkeys(marks[index].name for index, _ in above.most_common()))
        yield Dropped(reason, shape.mark.name, shape.mark.where, shape.area, by)


def _dropped_segments(
    auto: PanopticMap, marks: Sequence[Mark], under: npt.NDArray[np.int64], verdicts: Sequence[_Verdict]
) -> Iterable[Dropped]:
    areas = auto.areas()
    for index, (segment, verdict) in enumerate(zip(auto.segments, verdicts, strict=True), start=1):
        if verdict.stays:
            continue
        lying = [row for row in np.argsort(-under[:, index], kind="stable").tolist() if under[row, index]]
        by = tuple(dict.fromkeys(marks[row - 1].name for row in lying))
        name = auto.space[segment.label].name
        yield Dropped(verdict.fate, name, f"auto segment {segment.id}", areas[segment.id], by)
