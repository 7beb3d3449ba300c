"""Does each rule of the overlay earn its place? Merged maps against a known truth, one rule changed at a time.

    python benchmarks/overlay_rules.py [--scenes 200]

Truth is drawn, not labelled: bands of stuff, COCO things, and the person's own things in front. The labeler is played,
with the faults that the real one has: it sees the person's objects as trucks and trains with outlines of its own, or
only a part of one, or not at all; joins an object with its neighbour; adds objects that are not there, with little
confidence; misses some. The person marks their own classes only, with a hand that is 1 to 2 pixels off, now and then
with a rectangle. Columns:

    PQ          the merged map as an answer, against the truth: void is a miss
    PQ as truth the truth as an answer, against the merged map: void is excused, so what is left are lies. This is what
                training and evaluation feel
    wrong, void the share of the pixels with a wrong class, and without any

The second table has the mean IoU with the object of what could stand for a rectangle.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from measure import print_table
from pycocotools import mask as coco_mask
from scipy import ndimage

from hf_detr_panoptic import Category, LabelSpace, PanopticMap, Segment
from hf_detr_panoptic.annotations.marks import Mark
from hf_detr_panoptic.evaluation.panoptic_quality import PanopticQuality
from hf_detr_panoptic.labeling.overlay import OverlayRules, box_iou, overlay, shapes_of

HEIGHT, WIDTH = 480, 640
STUFF = ("sky-other-merged", "building-other-merged", "dirt-merged", "pavement-merged")
THINGS = ("truck", "person", "car", "train")
CUSTOM = ("loader", "pipe", "tank")
LABELER = LabelSpace(
    [*(Category(name, True, source="auto") for name in THINGS), *(Category(n, False, source="auto") for n in STUFF)]
)
SPACE = LABELER.merged(LabelSpace([Category(name, True) for name in CUSTOM]))
PLAIN = OverlayRules(threshold=0.0, leakage=None, min_area=0, collisions="file", boxes="rectangle")


@dataclass(frozen=True)
class Scene:
    """One drawn photo: what is there, what the labeler saw of it, and what the person marked on it.

    meant: bool [H, W], what each mark should have been.
    """

    truth: PanopticMap
    auto: PanopticMap
    marks: tuple[Mark, ...]
    meant: tuple[np.ndarray, ...]


def scenes(count: int, seed: int = 0) -> Iterator[Scene]:
    for number in range(count):
        yield scene(np.random.default_rng([seed, number]))


@dataclass(frozen=True)
class _Object:
    """`whole` is all of it, `visible` what nothing in front hides; bool [H, W]."""

    name: str
    whole: np.ndarray
    visible: np.ndarray


def scene(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> Scene:
    shape = height, width
    ground = _bands(rng, shape)
    drawn: list[tuple[str, np.ndarray]] = []
    for _ in range(rng.integers(1, 4)):
        drawn.append((str(rng.choice(THINGS[:3])), _blob(rng, shape, 14, 60)))
        if rng.random() < 0.3:  # the person's tank stands on a COCO truck, and the truck stays a truck
            drawn.append(("tank", _part(rng, drawn[-1][1], 0.4)))
    for _ in range(rng.integers(1, 3)):
        drawn.append(("loader", _blob(rng, shape, 30, 90)))
        if rng.random() < 0.5:  # a part with a class of its own
            drawn.append(("tank", _part(rng, drawn[-1][1], 0.35)))
    drawn.extend(("pipe", _bar(rng, shape)) for _ in range(rng.integers(0, 3)))
    truth = _stacked([(SPACE.index(name), 1.0, mask) for name, mask in ground + drawn], SPACE, 20)
    objects = [
        _Object(name, whole, truth.ids == number)
        for number, (name, whole) in enumerate(drawn, start=len(ground) + 1)
        if (truth.ids == number).any()
    ]
    auto = _played_labeler(rng, ground, objects, shape)
    marks, meant = zip(*_played_person(rng, objects), strict=True)
    return Scene(truth, auto, marks, meant)


def _played_labeler(
    rng: np.random.Generator,
    ground: Sequence[tuple[str, np.ndarray]],
    objects: Sequence[_Object],
    shape: tuple[int, int],
) -> PanopticMap:
    layers = [(LABELER.index(name), rng.uniform(0.86, 1.0), _frayed(rng, mask, 3)) for name, mask in ground]
    fates = [
        rng.choice(["right", "missed"], p=[0.9, 0.1])
        if one.name in LABELER.names
        else rng.choice(["misnamed", "part", "joined", "missed"], p=[0.5, 0.15, 0.15, 0.2])
        for one in objects
    ]
    missed = np.any([one.visible for one, fate in zip(objects, fates, strict=True) if fate == "missed"] or [False], 0)
    for place, (one, fate) in enumerate(zip(objects, fates, strict=True)):
        mask = one.visible | one.whole & missed  # what it misses it gives to whatever lies behind
        alias, sure = LABELER.index(str(rng.choice(["truck", "train"]))), rng.beta(6, 1)
        if fate == "right":
            layers.append((LABELER.index(one.name), sure, _frayed(rng, mask, 2)))
        elif fate == "misnamed":
            outline = ndimage.binary_dilation(_frayed(rng, mask, 4), iterations=int(rng.integers(1, 6)))
            layers.append((alias, sure, outline))
        elif fate == "part":
            layers.append((LABELER.index("car"), sure, _part(rng, mask, 0.6)))
        elif fate == "joined":
            layers.append((alias, sure, _frayed(rng, mask | objects[place - 1].visible, 4)))
    for _ in range(rng.integers(0, 3)):  # not there at all
        layers.append((int(rng.integers(len(THINGS))), rng.uniform(0.5, 0.9), _blob(rng, shape, 8, 40)))
    return _stacked(layers, LABELER, 5, source="auto")


def _played_person(rng: np.random.Generator, objects: Sequence[_Object]) -> Iterator[tuple[Mark, np.ndarray]]:
    for place in rng.permutation(len(objects)):
        one = objects[place]
        if one.name not in CUSTOM:
            continue
        # Who outlines a loader goes around the tank that is a part of it, and outlines the tank once more.
        parts = [other.visible for other in objects if other.name == "tank" and (other.whole & ~one.whole).sum() == 0]
        mask = np.logical_or.reduce([one.visible, *parts]) if one.name == "loader" else one.visible
        outline = _frayed(rng, mask, 1.5)
        if not outline.any():
            continue
        rle = coco_mask.encode(np.asfortranarray(outline.astype(np.uint8)))
        x, y, w, h = (float(side) for side in coco_mask.toBbox(rle))
        if rng.random() < 0.25:
            dx, dy, dw, dh = rng.normal(0.0, 2.0, 4).tolist()
            box = (x + dx, y + dy, max(w + dw, 1.0), max(h + dh, 1.0))
            yield Mark(one.name, None, box, False, f"mark {place}"), mask
        else:
            yield Mark(one.name, rle, (x, y, w, h), False, f"mark {place}"), mask


def _stacked(
    layers: Iterable[tuple[int, float, np.ndarray]], space: LabelSpace, min_area: int, source: str = "custom"
) -> PanopticMap:
    """Later layers in front; what shows less than `min_area` pixels is left out, to what lies behind it."""
    ids: np.ndarray | None = None
    segments = {}
    for number, (label, score, mask) in enumerate(layers, start=1):
        ids = np.zeros(mask.shape, dtype=np.int32) if ids is None else ids
        ids[mask] = number
        segments[number] = Segment(number, label, float(score), source)
    assert ids is not None
    for number, area in enumerate(np.bincount(ids.reshape(-1), minlength=len(segments) + 1).tolist()):
        if number and area < min_area:
            ids[ids == number] = 0
            del segments[number]
    return PanopticMap(ids, segments.values(), space).fused_stuff()


def _bands(rng: np.random.Generator, shape: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Sky, buildings and ground from top to bottom, waves between."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    edges = np.sort(rng.uniform(0.15, 0.85, 2)) * shape[0]
    waves = [edge + 12 * np.sin(x / rng.uniform(25, 90) + rng.uniform(0, 6)) for edge in edges]
    ground = str(rng.choice(STUFF[2:]))
    return [
        (STUFF[0], y < waves[0]),
        (STUFF[1], (y >= waves[0]) & (y < np.maximum(*waves))),
        (ground, y >= np.maximum(*waves)),
    ]


def _blob(rng: np.random.Generator, shape: tuple[int, int], least: float, most: float) -> np.ndarray:
    """A lobed outline with arms and bays, somewhere on the photo."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(0.1, 0.9, 2) * shape
    angle = np.arctan2(y - cy, x - cx)
    radius = rng.uniform(least, most) * (
        1 + sum(rng.uniform(0, 0.35) * np.sin(k * angle + rng.uniform(0, 6.28)) for k in range(2, 6))
    )
    stretch = rng.uniform(0.5, 1.0)
    return np.hypot((y - cy) / stretch, x - cx) < radius


def _bar(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A straight bar across whatever there is."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(0.2, 0.8, 2) * shape
    angle, length, thick = rng.uniform(0, 3.14), rng.uniform(50, 200), rng.uniform(4, 12)
    along = (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)
    across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    return (np.abs(along) < length) & (np.abs(across) < thick)


def _part(rng: np.random.Generator, mask: np.ndarray, size: float) -> np.ndarray:
    """What a circle around one of the mask's pixels cuts out; `size` is its radius over the root of the area."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return mask
    pick = rng.integers(len(rows))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return mask & (np.hypot(y - rows[pick], x - columns[pick]) < size * np.sqrt(len(rows)))


def _frayed(rng: np.random.Generator, mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask with its outline moved by about `pixels`, smoothly, as a hand or a coarse mask head does."""
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    noise = ndimage.gaussian_filter(rng.normal(size=(mask.shape[0] // 4, mask.shape[1] // 4)), 1)
    noise = ndimage.zoom(noise / noise.std() * pixels, 4, order=1)
    return distance + noise[: mask.shape[0], : mask.shape[1]] > 0


# --- measuring


@dataclass(frozen=True)
class Outcome:
    """What one set of rules makes of all scenes; fractions."""

    pq: float
    pq_as_truth: float
    wrong: float
    void: float


def outcome(
    drawn: Sequence[Scene], rules: OverlayRules, after: Callable[[PanopticMap], PanopticMap] = lambda merged: merged
) -> Outcome:
    """The rules on all scenes; `after` does something to each merged map before it is measured."""
    answer, as_truth = PanopticQuality(SPACE), PanopticQuality(SPACE)
    wrong = void = pixels = 0
    for one in drawn:
        merged = after(overlay(one.auto, one.marks, SPACE, rules=rules).map)
        answer.update(merged, one.truth)
        as_truth.update(one.truth, merged)
        ours, theirs = _labels(merged), _labels(one.truth)
        wrong += int(((ours != theirs) & (ours >= 0) & (theirs >= 0)).sum())
        void += merged.void_area
        pixels += merged.ids.size
    return Outcome(answer.compute()["pq"], as_truth.compute()["pq"], wrong / pixels, void / pixels)


def nearest_for_void(merged: PanopticMap) -> PanopticMap:
    """Void filled up with whatever is nearest."""
    places = ndimage.distance_transform_edt(merged.ids == 0, return_distances=False, return_indices=True)
    return PanopticMap(merged.ids[tuple(places)], merged.segments, SPACE)


def first_stuff_for_void(merged: PanopticMap) -> PanopticMap:
    """Void as the first stuff class: what comes of an id map in which 0 is a class."""
    if not merged.void_area:
        return merged
    ids = np.where(merged.ids == 0, len(merged.segments) + 1, merged.ids)
    first = Segment(len(merged.segments) + 1, min(SPACE.stuff_labels), source="auto")
    return PanopticMap(ids, [*merged.segments, first], SPACE).fused_stuff()


def rectangles(drawn: Sequence[Scene]) -> list[tuple[float, float, float, float]]:
    """Of each rectangle: its IoU with the tight box of the auto segment that fits best, and the mean IoU with the

    object of that segment, of its part inside the rectangle, and of the rectangle.
    """
    found = []
    for one in drawn:
        tight = one.auto.boxes()
        for mark, meant in zip(one.marks, one.meant, strict=True):
            if mark.rle is None:
                fit, segment_id = max((box_iou(mark.box, box), segment_id) for segment_id, box in tight.items())
                whole = one.auto.mask(segment_id)
                (plain,) = shapes_of(one.auto, [mark], "rectangle", 0.0)
                inside = np.zeros_like(whole)
                inside[plain.crop] = True
                found.append((fit, *(_iou(mask, meant) for mask in (whole, whole & inside, inside))))
    return found


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def _labels(panoptic_map: PanopticMap) -> np.ndarray:
    """int [H, W]: the label of each pixel, -1 for void."""
    lookup = np.full(int(panoptic_map.ids.max()) + 1, -1)
    for segment in panoptic_map.segments:
        lookup[segment.id] = segment.label
    return lookup[panoptic_map.ids]


VARIANTS: dict[str, dict[str, Any]] = {
    "all rules": {},
    "leakage off": {"leakage": None},
    "low confidence kept": {"threshold": 0.0},
    "fragments kept": {"min_area": 0},
    "marks in file order": {"collisions": "file"},
    "rectangles as they are": {"boxes": "rectangle"},
    "rectangles skipped": {"boxes": "skip"},
}
SWEEPS = {
    "leakage": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "min_area": (0, 16, 32, 64, 128, 256, 512),
    "box_fit": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "threshold": (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn = list(scenes(options.scenes, options.seed))
    print(f"{len(drawn)} scenes of {WIDTH}×{HEIGHT}, seed {options.seed}\n")
    header = ["rules", "PQ", "PQ as truth", "wrong", "void"]
    rows = [["nothing but pasting", *_cells(outcome(drawn, PLAIN))]]
    for name, change in VARIANTS.items():
        rows.append([name, *_cells(outcome(drawn, OverlayRules().changed(**change)))])
    for after in (nearest_for_void, first_stuff_for_void):
        rows.append([after.__name__.replace("_", " "), *_cells(outcome(drawn, OverlayRules(), after))])
    print_table(header, rows)
    print()
    print_table(["fit of the best segment", "rectangles", "segment", "segment in it", "rectangle"], _by_fit(drawn))
    for rule, values in SWEEPS.items():
        print()
        rows = [[value, *_cells(outcome(drawn, OverlayRules().changed(**{rule: value})))] for value in values]
        print_table([rule, *header[1:]], rows)


def _by_fit(drawn: Sequence[Scene]) -> list[list[object]]:
    found = np.array(rectangles(drawn))
    rows: list[list[object]] = []
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.8), (0.8, 1.01)):
        chosen = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        if len(chosen):
            rows.append(
                [f"{low:.1f} to {min(high, 1):.1f}", len(chosen), *(f"{x:.2f}" for x in chosen[:, 1:].mean(0))]
            )
    return rows


def _cells(found: Outcome) -> list[str]:
    return [f"{found.pq:.4f}", f"{found.pq_as_truth:.4f}", f"{found.wrong:.3%}", f"{found.void:.3%}"]


if __name__ == "__main__":
    main()
