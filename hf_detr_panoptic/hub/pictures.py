"""A run's pictures for its card: photos that the widget can be tried on, and truth beside prediction."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..dataset.photos import encode_photo, shrunk, write_atomically
from ..errors import HubError
from ..panoptic_map import PanopticMap
from ..pictures.draw import draw
from ..pictures.panels import panels
from .run_facts import read_mapping

FOLDER = "pictures"
_LIST = "pictures.json"
_SIDE = 640
_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Picture:
    """photo: as it is; prediction: drawn on it; panel: photo, truth where it is known and prediction side by side."""

    photo: Path | None
    prediction: Path | None
    panel: Path


@dataclass(frozen=True)
class Pictures:
    """split, threshold: None where nobody noted them."""

    split: str | None
    threshold: float | None
    pictures: tuple[Picture, ...]

    @property
    def caption(self) -> str:
        """Where the pictures come from."""
        split = f"Photos of the split {self.split}" if self.split else "The split of these photos is not recorded"
        if self.threshold is None:
            return f"{split}; the threshold of what is predicted is not recorded."
        return f"{split}; predicted are segments with a score above {self.threshold:g}."

    @classmethod
    def read(cls, run: Path) -> Pictures:
        """Those that `write_pictures` made; others that lie in the folder are panels of unknown origin."""
        folder = run / FOLDER
        told = read_mapping(folder / _LIST)
        if told is None:
            found = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
            return cls(None, None, tuple(Picture(None, None, _inside(path, run)) for path in found))
        try:
            listed = tuple(
                Picture(*(_inside(folder / entry[key], run) for key in ("photo", "prediction", "panel")))
                for entry in told["pictures"]
            )
            return cls(str(told["split"]), float(told["threshold"]), listed)
        except (KeyError, TypeError, ValueError) as error:
            raise HubError(
                f"is damaged ({error!r})", where=str(folder / _LIST), fix=f"Remove {FOLDER}/: it is drawn again."
            ) from error


def write_pictures(
    run: Path,
    shown: Iterable[tuple[Image.Image, PanopticMap | None, PanopticMap]],
    *,
    split: str,
    threshold: float,
) -> Pictures:
    """Photo, truth and prediction each → files of at most 640 pixels a side, numbered: no name of a photo gets out."""
    folder = run / FOLDER
    if folder.is_dir() and not (folder / _LIST).is_file() and any(folder.iterdir()):
        raise HubError("holds other pictures", where=str(folder), fix="Move them away: they would be replaced.")
    shutil.rmtree(folder, ignore_errors=True)
    entries: list[dict[str, Any]] = []
    for number, (photo, truth, prediction) in enumerate(shown, start=1):
        small, map = shrunk(photo, prediction, _SIDE)
        drawn = draw(small, map)
        side_by_side, titles = [small, drawn], ["photo", f"prediction, scores above {threshold:g}"]
        if truth is not None:
            side_by_side.insert(1, draw(small, shrunk(photo, truth, _SIDE)[1]))
            titles.insert(1, f"truth ({split})")
        pictures = {"photo": small, "prediction": drawn, "panel": panels(side_by_side, titles)}
        names = {"photo": f"{number}.jpg"} | {key: f"{number}-{key}.jpg" for key in ("prediction", "panel")}
        for key, picture in pictures.items():
            write_atomically(folder / names[key], encode_photo(picture))
        entries.append(names)
    told = {"split": split, "threshold": threshold, "pictures": entries}
    write_atomically(folder / _LIST, (json.dumps(told, indent=1) + "\n").encode())
    return Pictures.read(run)


def _inside(path: Path, run: Path) -> Path:
    """The file, which no link may have put there from elsewhere."""
    if not path.is_file():
        raise HubError("is missing", where=str(path), fix=f"Remove {FOLDER}/: it is drawn again.")
    if not path.resolve().is_relative_to(run.resolve()):
        raise HubError("lies outside of the run", where=str(path), fix="Put the file itself there.")
    return path
