"""How good the demo's labels and model are, by groups of classes; and its pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ..annotations.read import Mark, read_annotations
from ..dataset.coco_panoptic import Record, read_split
from ..evaluation.quality import PanopticQuality
from ..files import write_bytes
from ..images import open_image
from ..labeling.autolabels import AutoLabels
from ..labeling.inputs import survey
from ..labeling.overlay import overlay
from ..panoptic_map import PanopticMap
from ..pictures.draw import MODEL, Entry, class_color, draw, legend
from ..pictures.panels import panels
from ..settings import OverlayRules
from .photos import Place
from .scenes import CUSTOM, SITE, TEACHER

RULED, PASTED = "all rules", "only pasted, no void"
GROUPS = {"your classes": CUSTOM.names, "the teacher's classes": TEACHER.names}


def by_groups(result: Mapping[str, Any]) -> dict[str, float | None]:
    """PQ of all classes, things, stuff, the person's classes and the teacher's: means of what `per_class` says."""
    by_name = {row["name"]: row["pq"] for row in result["per_class"]}
    groups = {name: _mean(by_name.get(member) for member in members) for name, members in GROUPS.items()}
    return {"all": result["pq"], "things": result["things"]["pq"], "stuff": result["stuff"]["pq"], **groups}


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


# --- the merged labels, with the rules and without


@dataclass(frozen=True)
class Merging:
    """One way to merge: the rules, and what is done to each merged map after that."""

    rules: OverlayRules
    after: Callable[[PanopticMap], PanopticMap] | None = None


def mergings(rules: OverlayRules) -> dict[str, Merging]:
    """All rules, each of them off, and all of them off."""
    pasted = rules.only_pasting()
    return {
        RULED: Merging(rules),
        "leakage kept": Merging(rules.changed(leakage=None)),
        "low scores kept": Merging(rules.changed(threshold=0.0)),
        "fragments kept": Merging(rules.changed(min_area=0)),
        "no void: the nearest segment instead": Merging(rules, without_void),
        PASTED: Merging(pasted, without_void),
    }


def without_void(panoptic: PanopticMap) -> PanopticMap:
    """Each void pixel as the nearest one that is not."""
    if not panoptic.segments or not panoptic.void_area:
        return panoptic
    nearest = ndimage.distance_transform_edt(panoptic.ids == 0, return_distances=False, return_indices=True)
    return PanopticMap(panoptic.ids[tuple(nearest)], panoptic.segments, panoptic.space)


@dataclass(frozen=True)
class LabelledScene:
    """A photo with the labeler's answer, the person's marks and what is really there."""

    name: str
    auto: PanopticMap
    marks: Sequence[Mark]
    truth: PanopticMap

    def merged(self, merging: Merging) -> PanopticMap:
        merged = overlay(self.auto, self.marks, SITE, rules=merging.rules).map
        return merging.after(merged) if merging.after else merged

    def believed(self, rules: OverlayRules) -> PanopticMap:
        """What the rules believe of the labeler's answer where nobody marked anything."""
        return overlay(self.auto, (), SITE, rules=rules).map


def labelled_photos(place: Place, names: Sequence[str] | None = None) -> Iterator[LabelledScene]:
    """What `prepare` has left, photo by photo; no model is asked again."""
    answers = AutoLabels.in_folder(place.data / "autolabels")
    marks = {photo.photo: photo.marks for photo in read_annotations(place.marks, place.photos).photos}
    truths = {record.file_name: record for record in read_split(place.truth, "val")}
    photos, _ = survey(place.photos, list(truths) if names is None else names)
    for photo in photos:
        auto = answers.read(photo.digest)
        yield LabelledScene(photo.name, auto, marks.get(photo.name, ()), truths[photo.name].map())


def merged_quality(photos: Iterable[LabelledScene], ways: Mapping[str, Merging]) -> dict[str, dict[str, float | None]]:
    """`by_groups` PQ of the merged maps against the truth, for each way to merge. Void is a miss."""
    counters = {name: PanopticQuality(SITE) for name in ways}
    for photo in photos:
        for name, way in ways.items():
            counters[name].update(photo.merged(way), photo.truth)
    return {name: by_groups(counter.compute()) for name, counter in counters.items()}


def most_marked(photos: Iterable[LabelledScene]) -> LabelledScene:
    """The photo with the most different classes of the person's, then the most marks: it shows what they did."""
    return max(photos, key=lambda photo: (len({mark.name for mark in photo.marks}), len(photo.marks), photo.name))


GRID = 6  # held-out photos
_SIDE = 512  # pixels: names of classes find no room on less


def draw_pictures(place: Place, rules: OverlayRules, model: Any) -> list[Path]:
    """strip.png and held-out.png; `rules` are those of the merging, `model` is the trained one."""
    validated = read_split(place.data, "val")
    merged = {record.original_file or record.file_name: record for record in validated}
    shown = most_marked(labelled_photos(place, sorted(merged)))
    wide, tall = place.pictures / "strip.png", place.pictures / "held-out.png"
    steps = {"auto-labels": shown.believed(rules), "+ your marks": merged[shown.name].map()}
    _save(strip(open_image(place.photos / shown.name), steps, model), wide)
    _save(held_out_grid(read_split(place.held_out, "val")[:GRID], model), tall)
    return [wide, tall]


def strip(photo: Image.Image, steps: Mapping[str, PanopticMap], model: Any) -> Image.Image:
    """The photo, what it was on each step of the road, and what the model that did not learn from it makes of it."""
    (predicted,) = model.segment([photo])
    shown = {"the photo": None, **steps, "prediction": predicted}
    return panels([_picture(photo, panoptic) for panoptic in shown.values()], list(shown))


def held_out_grid(records: Sequence[Record], model: Any) -> Image.Image:
    """Held-out photos: photo, truth, prediction."""
    pictures: list[Image.Image] = []
    for record in records:
        photo = open_image(record.photo)
        (predicted,) = model.segment([photo])
        pictures += [_picture(photo, panoptic) for panoptic in (None, record.map(), predicted)]
    titles = ["photo, never learnt from", "truth", "prediction"]
    grid = panels(pictures, titles + [""] * (len(pictures) - len(titles)), columns=3)
    key = legend(
        [Entry(f"{label + 1}  {c.name}", class_color(SITE, label), MODEL) for label, c in enumerate(SITE)],
        True,
        grid.width,
        max(11, grid.width // 90),
    )
    return Image.fromarray(np.concatenate([np.asarray(grid), key]))


def _picture(photo: Image.Image, panoptic: PanopticMap | None) -> Image.Image:
    """Large enough for names; classes in the same colours whoever made the map."""
    times = max(1, round(_SIDE / photo.width))
    large = photo.resize((photo.width * times, photo.height * times), Image.Resampling.BICUBIC)
    if panoptic is None:
        return large
    same = panoptic.relabelled(SITE)
    return draw(large, PanopticMap(same.ids.repeat(times, 0).repeat(times, 1), same.segments, SITE), legend=False)


def _save(picture: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    write_bytes(path, stream.getvalue())
