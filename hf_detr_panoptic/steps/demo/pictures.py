"""The demo's pictures: what became of one photo on the road, and held-out photos beside their truth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...data.coco_panoptic import Record, read_split
from ...data.stored_photos import write_atomically
from ...demo.site import SITE
from ...images import open_image
from ...labeling.overlay_rules import OverlayRules
from ...panoptic_map import PanopticMap
from ...visual.draw import draw
from ...visual.panels import panels
from .data import Place
from .quality import labelled_photos, most_marked

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
    _save(grid(read_split(place.held_out, "val")[:GRID], model), tall)
    return [wide, tall]


def strip(photo: Image.Image, steps: Mapping[str, PanopticMap], model: Any) -> Image.Image:
    """The photo, what it was on each step of the road, and what the model that did not learn from it makes of it."""
    (predicted,) = model.segment([photo])
    shown = {"the photo": None, **steps, "prediction": predicted}
    return panels([_picture(photo, map) for map in shown.values()], list(shown))


def grid(records: Sequence[Record], model: Any) -> Image.Image:
    """Held-out photos: photo, truth, prediction."""
    pictures: list[Image.Image] = []
    for record in records:
        photo = open_image(record.photo)
        (predicted,) = model.segment([photo])
        pictures += [_picture(photo, map) for map in (None, record.map(), predicted)]
    titles = ["photo, never learnt from", "truth", "prediction"]
    return panels(pictures, titles + [""] * (len(pictures) - len(titles)), columns=3)


def _picture(photo: Image.Image, map: PanopticMap | None) -> Image.Image:
    """Large enough for names; classes in the same colours whoever made the map."""
    times = max(1, round(_SIDE / photo.width))
    large = photo.resize((photo.width * times, photo.height * times), Image.Resampling.BICUBIC)
    if map is None:
        return large
    same = map.relabelled(SITE)
    return draw(large, PanopticMap(same.ids.repeat(times, 0).repeat(times, 1), same.segments, SITE), legend=False)


def _save(picture: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    write_atomically(path, stream.getvalue())
