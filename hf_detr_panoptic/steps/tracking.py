"""Where a run's figures and pictures go beside the screen: one run for all stages, in whatever `report_to` names."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, did_you_mean
from ..panoptic_map import PanopticMap

if TYPE_CHECKING:
    from PIL import Image

    from ..data.batches import Row
    from ..training.arguments import Recipe

logger = logging.getLogger(__name__)

PICTURE_SIDE = 480
RUN_ID = "tracking.json"


def trackers_of(recipe: Recipe) -> list[str]:
    """The names that the stages' `report_to` has; raises for one that is unknown or not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    wanted = [stage.training_arguments.get("report_to") or "none" for stage in recipe.stages.to_run]
    each = [name for entry in wanted for name in ([entry] if isinstance(entry, str) else entry)]
    names = [name for name in dict.fromkeys(each) if name != "none"]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise RecipeError(
                f"report_to knows no {name!r}", where="stages", fix=did_you_mean(name, [*LOGGER_TYPE_TO_CLASS, "none"])
            )
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"report_to: {name} is not installed", fix=f"Run `pip install {name}`.")
    return names


@contextlib.contextmanager
def tracking(names: Sequence[str], output: str | Path) -> Iterator[Trackers | None]:
    """Trackers for the length of the block; None without any, and on every process but the first."""
    if not names or os.environ.get("RANK", "0") != "0":
        yield None
        return
    trackers = Trackers(names, Path(output))
    try:
        yield trackers
    finally:
        trackers.finish()


class Trackers:
    """Figures and pictures to several trackers. One that fails is left out: training goes on without it."""

    def __init__(self, names: Sequence[str], output: Path) -> None:
        self._trackers = {name: _started(name, output) for name in names}

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name, at a step of the whole run."""
        self._each("log", lambda name, tracker: tracker.log(dict(figures), step=step))

    def show(self, title: str, found: Sequence[tuple[Row, PanopticMap]], step: int) -> None:
        """Truth and prediction of a few photos, side by side."""
        picture = grid(found)
        self._each("log_images", lambda name, tracker: _log_picture(name, tracker, title, picture, step))

    def finish(self) -> None:
        self._each("finish", lambda name, tracker: tracker.finish())

    def _each(self, what: str, work: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(name, tracker)
            except Exception as error:
                logger.warning("%s failed in %s (%s): the run goes on without it", name, what, error)
                del self._trackers[name]


def grid(found: Sequence[tuple[Row, PanopticMap]]) -> Image.Image:
    """A row a photo: the truth, and what the model makes of it."""
    from ..data.stored_photos import shrunk
    from ..images import open_image
    from ..visual.draw import draw
    from ..visual.panels import panels

    pictures = []
    for row, prediction in found:
        photo = open_image(row.photo)
        pictures += [draw(*shrunk(photo, map, PICTURE_SIDE)) for map in (row.map(), prediction)]
    return panels(pictures, ["truth", "prediction"] + [""] * (len(pictures) - 2), columns=2)


def _started(name: str, output: Path) -> Any:
    """A tracker at work. What lies on this disk lies in the run's folder, and a resumed run goes on in it."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind: Any = LOGGER_TYPE_TO_CLASS[name]
    title, options = output.name, {}
    if name == "tensorboard":
        title, options = "tensorboard", {"logging_dir": str(output)}
    elif kind.requires_logging_directory:
        options = {"logging_dir": str(output)}
    elif name == "wandb":
        options = {"id": _run_id(output), "resume": "allow", "dir": str(output)}
    elif name == "trackio":
        options = {"name": f"{title}-{_run_id(output)}", "resume": "allow"}
    try:
        tracker = kind(title, **options)
        if hasattr(tracker, "start"):  # older ones begin as they are made
            tracker.start()
    except Exception as error:
        raise RecipeError(
            f"report_to: {name} does not start ({error})", fix=f"Set {name} up, or write `report_to: none`."
        ) from error
    return tracker


def _run_id(output: Path) -> str:
    """What the run is called in a tracker that must find it again; made once, kept in its folder."""
    from ..training.checkpoints import write_json

    path = output / RUN_ID
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def _log_picture(name: str, tracker: Any, title: str, picture: Image.Image, step: int) -> None:
    import numpy as np

    if name == "tensorboard":
        tracker.log_images({title: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
    elif name == "trackio":  # accelerate sends no pictures there
        import trackio

        tracker.log({title: trackio.Image(picture)}, step=step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({title: [picture]}, step=step)
