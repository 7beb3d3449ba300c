"""A few validation photos for the card of a model: as they are, with their truth, and with what the model sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import HubError

if TYPE_CHECKING:
    from PIL import Image

    from ...dataset.batches import Row
    from ...hub.pictures import Pictures
    from ...panoptic_map import PanopticMap
    from ...recipe import Recipe


def draw_card_pictures(run: Path, recipe: Recipe, count: int) -> Pictures:
    """`count` photos into the run's pictures/, where the card finds them; those of an earlier call are replaced."""
    from accelerate import PartialState

    from ...hub.pictures import write_pictures
    from ...model.modeling import DetrForPanopticSegmentation
    from ...training.train import splits_of

    if count < 1:
        raise HubError(f"{count} pictures cannot be drawn", where="--pictures", fix="Give 1 or more.")
    source = str(recipe.prepared_folder or recipe.data)
    if recipe.prepared_folder is not None and not recipe.prepared_folder.is_dir():
        raise HubError("the dataset of the run is gone", where=source, fix="Bring it back, or push without pictures.")
    rows = telling_rows(splits_of(recipe.changed(data=source)).val, count)
    model = DetrForPanopticSegmentation.from_pretrained(run / "final").to(PartialState().device).eval()
    return write_pictures(run, _shown(model, rows), split="validation", threshold=model.settings.threshold)


def telling_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows that show most classes: each in turn the one with most that no earlier one has."""
    left = [(row, {segment.label for segment in row.segments}) for row in rows]
    seen: set[int] = set()
    chosen: list[Row] = []
    while left and len(chosen) < count:
        place = max(range(len(left)), key=lambda number: (len(left[number][1] - seen), len(left[number][1]), -number))
        row, labels = left.pop(place)
        chosen.append(row)
        seen |= labels
    return chosen


def _shown(model: Any, rows: Sequence[Row]) -> Iterator[tuple[Image.Image, PanopticMap, PanopticMap]]:
    from ...images import open_image

    for row in rows:
        photo = open_image(row.photo)
        yield photo, row.map(), model.segment(photo)[0]
