"""What a visitor of the app sees of one photo: the overlay, its legend, a segment, the file to download."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ..dataset.photos import resized_map, stored_names
from ..dataset.writer import DatasetWriter
from ..errors import HfDetrPanopticError
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import Box, PanopticMap, Segment
from ..pictures.draw import class_color, draw

SHOWN_SIDE = 1280  # pixels of a picture's longer side in the browser; the download has all of them
MAX_PIXELS = 60_000_000
SPLIT = "val"  # what the photo of a downloaded dataset is called
_FAINT = 56  # of 255: how much is left of what is not the chosen segment

Point = tuple[int, int]


class Segmented(Protocol):
    """One photo that went through a model."""

    def map(self, threshold: float) -> PanopticMap:
        """Its map at any threshold from the model's floor on, without the model."""


@dataclass(frozen=True)
class AppModel:
    """What the app knows of a model. `floor` is the lowest threshold that its slider offers."""

    name: str
    space: LabelSpace
    segment: Callable[[Image.Image], Segmented]
    threshold: float
    floor: float


@dataclass(frozen=True, eq=False)
class Opened:
    """A photo that went through the model: `file` as it came, `shown` as large as a browser needs it."""

    name: str
    file: bytes
    shown: Image.Image
    segmented: Segmented


@dataclass(frozen=True, eq=False)
class Look:
    """An opened photo at one threshold. `map` is that of the shown picture; all the rest is of the photo itself."""

    opened: Opened
    map: PanopticMap
    size: tuple[int, int]
    segments: tuple[Segment, ...]
    areas: dict[int, int]
    boxes: dict[int, Box]
    void_area: int

    def picture(self) -> Image.Image:
        """The photo with its segments; the legend is text beside it, which a phone can show at a readable size."""
        return draw(self.opened.shown, self.map, legend=False)

    def segment_at(self, point: Point) -> int:
        """The id under (x, y) of the shown picture, 0 for void and for a place outside."""
        x, y = point
        return int(self.map.ids[y, x]) if 0 <= x < self.map.width and 0 <= y < self.map.height else 0

    def cut_out(self, segment_id: int) -> Image.Image:
        """The shown photo with one segment opaque and all else faint: alpha is 255 exactly where its mask is."""
        cut = self.opened.shown.convert("RGB")
        alpha = np.where(self.map.mask(segment_id), np.uint8(255), np.uint8(_FAINT))
        cut.putalpha(Image.fromarray(alpha))
        return cut


def open_photo(model: AppModel, path: Path) -> Opened:
    """The photo through the model. What is wrong with it is told by its own name, not by where the server keeps it."""
    file = path.read_bytes()
    try:
        photo = open_image(file, max_pixels=MAX_PIXELS)
    except HfDetrPanopticError as error:
        raise type(error)(error.what, where=path.name, fix=error.fix) from error
    segmented = model.segment(photo)
    shrink = min(1.0, SHOWN_SIDE / max(photo.size))
    width, height = (max(1, round(side * shrink)) for side in photo.size)
    shown = photo if shrink == 1.0 else photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return Opened(path.name, file, shown, segmented)


def look_at(opened: Opened, threshold: float) -> tuple[Look, bytes]:
    """The photo's map at a threshold as it is shown, and as the zip to download."""
    map = opened.segmented.map(threshold)
    shown = map if opened.shown.size == (map.width, map.height) else resized_map(map, opened.shown.size)
    look = Look(opened, shown, (map.width, map.height), map.segments, map.areas(), map.boxes(), map.void_area)
    return look, panoptic_zip(opened, map)


def panoptic_zip(opened: Opened, map: PanopticMap) -> bytes:
    """A dataset of one photo in COCO panoptic format, zipped: `check` and `evaluate` read the folder it unpacks to."""
    stream = io.BytesIO()
    name = stored_names([opened.name])[opened.name]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "photo"
        source.write_bytes(opened.file)
        folder = Path(scratch) / "dataset"
        with DatasetWriter(folder, map.space, description=f"predicted for {opened.name}") as writer:
            writer.add(SPLIT, name, source, map, original=opened.name)
        with zipfile.ZipFile(stream, "w") as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                packed = path.suffix == ".json"
                inside = path.relative_to(folder).as_posix()
                archive.write(path, inside, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return stream.getvalue()


def legend_html(look: Look) -> str:
    """Every class that is there, by its number in the picture, and how much is void."""
    counts: dict[int, int] = {}
    for segment in look.segments:
        counts[segment.label] = counts.get(segment.label, 0) + 1
    space = look.map.space
    chips = [
        _chip(_css(class_color(space, label)), f"{label + 1}", space[label].name, count)
        for label, count in sorted(counts.items())
    ]
    if look.void_area:
        chips.append(_chip("repeating-linear-gradient(135deg,#3c3c40 0 3px,#bebec4 3px 6px)", "", "void", 1))
    void = look.void_area / (look.size[0] * look.size[1])
    said = f"{_count(len(look.areas), 'segment')} of {_count(len(counts), 'class', 'classes')}, {void:.1%} void"
    if not look.areas:
        said = "No segment passes this threshold. Move the slider to the left."
    return f'<p class="said">{said}</p><div class="chips">{"".join(chips)}</div>'


def segment_html(look: Look, segment_id: int) -> str:
    """Class, score, area and box of a segment, or what void is."""
    pixels = look.size[0] * look.size[1]
    if not segment_id:
        share = f"{look.void_area:,} pixels, {look.void_area / pixels:.1%} of the photo"
        return _facts("#8a8a90", "void", {"what": "no segment claims this place", "area": share})
    segment = look.map.segment(segment_id)
    category = look.map.space[segment.label]
    area = look.areas[segment_id]
    x, y, width, height = look.boxes[segment_id]
    facts = {
        "kind": "thing" if category.isthing else "stuff",
        "score": f"{segment.score:.2f}",
        "area": f"{area:,} pixels, {area / pixels:.1%} of the photo",
        "box": f"{width} × {height} at ({x}, {y})",
    }
    return _facts(_css(class_color(look.map.space, segment.label)), category.name, facts)


def problem_html(error: HfDetrPanopticError) -> str:
    """One clear sentence, whatever the file was called."""
    return f'<p class="problem" role="alert">{escape(str(error))}</p>'


def _chip(background: str, number: str, name: str, count: int) -> str:
    times = f" <small>× {count}</small>" if count > 1 else ""
    bold = f"<b>{number}</b> " if number else ""
    return f'<span class="chip"><i style="background:{background}"></i>{bold}{escape(name)}{times}</span>'


def _facts(background: str, title: str, facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    head = f'<h3><i style="background:{background}"></i>{escape(title)}</h3>'
    return f'<div class="segment">{head}<dl>{rows}</dl></div>'


def _css(color: tuple[int, int, int]) -> str:
    return "rgb({}, {}, {})".format(*color)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
