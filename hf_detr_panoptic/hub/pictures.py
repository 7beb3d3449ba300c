"""A run's pictures for its card: photos that the widget can be tried on, and truth beside prediction."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..dataset.photos import encode_photo, shrunk
from ..errors import HubError
from ..files import write_bytes, write_json
from ..panoptic_map import PanopticMap
from ..pictures.draw import draw
from ..pictures.panels import panels
from ..training.run_folder import read_record

if TYPE_CHECKING:
    from ..dataset.batches import Row
    from ..recipe import Recipe

FOLDER = "pictures"
_LIST = "pictures.json"
_SIDE = 640
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class CardPicture:
    """photo: as it is; prediction: drawn on it; panel: photo, truth where it is known and prediction side by side."""

    photo: Path | None
    prediction: Path | None
    panel: Path


@dataclass(frozen=True)
class CardPictures:
    """split, threshold: None where nobody noted them."""

    split: str | None
    threshold: float | None
    pictures: tuple[CardPicture, ...]

    @classmethod
    def read(cls, run: Path) -> CardPictures:
        """Those that `write_pictures` made; others that lie in the folder are panels of unknown origin."""
        folder = run / FOLDER
        if not (folder / _LIST).is_file():
            paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
            return cls(None, None, tuple(CardPicture(None, None, _inside(path, run)) for path in paths))
        record = read_record(folder / _LIST)
        try:
            listed = tuple(
                CardPicture(*(_inside(folder / entry[key], run) for key in ("photo", "prediction", "panel")))
                for entry in record["pictures"]
            )
            return cls(str(record["split"]), float(record["threshold"]), listed)
        except (KeyError, TypeError, ValueError) as error:
            raise HubError(
                f"is damaged ({error!r})", where=str(folder / _LIST), fix=f"Remove {FOLDER}/: it is drawn again."
            ) from error


def draw_card_pictures(run: Path, recipe: Recipe, count: int) -> CardPictures:
    """`count` photos into the run's pictures/, where the card finds them; those of an earlier call are replaced."""
    from accelerate import PartialState

    from ..model.modeling import DetrForPanopticSegmentation
    from ..training.train import splits_of

    if count < 1:
        raise HubError(f"{count} pictures cannot be drawn", where="--pictures", fix="Give 1 or more.")
    source = str(recipe.prepared_folder or recipe.data)
    if recipe.prepared_folder is not None and not recipe.prepared_folder.is_dir():
        raise HubError("the dataset of the run is gone", where=source, fix="Bring it back, or push without pictures.")
    splits = splits_of(recipe.changed(data=source))
    rows, split = telling_rows(splits.val, count), "train" if splits.on_train else "validation"
    model: Any = DetrForPanopticSegmentation.from_pretrained(run / "final")
    model = model.to(PartialState().device).eval()
    return write_pictures(run, _shown(model, rows), split=split, threshold=model.settings.threshold)


def telling_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows that show most classes: each in turn the one with most that no earlier one has."""
    left = [(row, {segment.label for segment in row.segments}) for row in rows]
    seen: set[int] = set()
    chosen: list[Row] = []
    while left and len(chosen) < count:
        best = max(range(len(left)), key=lambda index: (len(left[index][1] - seen), len(left[index][1]), -index))
        row, labels = left.pop(best)
        chosen.append(row)
        seen |= labels
    return chosen


def _shown(model: Any, rows: Sequence[Row]) -> Iterator[tuple[Image.Image, PanopticMap, PanopticMap]]:
    from ..images import open_image

    for row in rows:
        photo = open_image(row.photo)
        yield photo, row.map(), model.segment(photo)[0]


def write_pictures(
    run: Path,
    shown: Iterable[tuple[Image.Image, PanopticMap | None, PanopticMap]],
    *,
    split: str,
    threshold: float,
) -> CardPictures:
    """Photo, truth and prediction each → files of at most 640 pixels a side, numbered: no name of a photo gets out."""
    folder = run / FOLDER
    if folder.is_dir() and not (folder / _LIST).is_file() and any(folder.iterdir()):
        raise HubError("holds other pictures", where=str(folder), fix="Move them away: they would be replaced.")
    shutil.rmtree(folder, ignore_errors=True)
    entries: list[dict[str, Any]] = []
    for number, (photo, truth, prediction) in enumerate(shown, start=1):
        small, seen = shrunk(photo, prediction, _SIDE)
        drawn = draw(small, seen)
        side_by_side, titles = [small, drawn], ["photo", f"prediction, scores above {threshold:g}"]
        if truth is not None:
            side_by_side.insert(1, draw(small, shrunk(photo, truth, _SIDE)[1]))
            titles.insert(1, f"truth ({split})")
        pictures = {"photo": small, "prediction": drawn, "panel": panels(side_by_side, titles)}
        names = {"photo": f"{number}.jpg"} | {key: f"{number}-{key}.jpg" for key in ("prediction", "panel")}
        for key, picture in pictures.items():
            write_bytes(folder / names[key], encode_photo(picture))
        entries.append(names)
    record = {"split": split, "threshold": threshold, "pictures": entries}
    write_json(folder / _LIST, record)
    return CardPictures.read(run)


def _inside(path: Path, run: Path) -> Path:
    """The file, which no link may have put there from elsewhere."""
    if not path.is_file():
        raise HubError("is missing", where=str(path), fix=f"Remove {FOLDER}/: it is drawn again.")
    if not path.resolve().is_relative_to(run.resolve()):
        raise HubError("lies outside of the run", where=str(path), fix="Put the file itself there.")
    return path
