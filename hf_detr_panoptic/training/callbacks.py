"""What listens to a stage: signals, patience, the progress line, results, the machine and its cost, trackers."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from .. import __version__
from ..errors import RecipeError, did_you_mean
from ..files import read_json, write_csv, write_json
from ..panoptic_map import PanopticMap
from ..text import clock, percent
from .run_folder import Stamps, check_unchanged

if TYPE_CHECKING:
    from PIL import Image

    from ..dataset.batches import Row
    from ..recipe import Recipe


class Tracker(Protocol):
    """What takes figures by name, and photos with the model's maps of them, at a step of the whole run."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...
    def show(self, title: str, predictions: Sequence[tuple[Row, PanopticMap]], step: int) -> None: ...


class Interruption:
    """A signal that asked the run to end. The first ends it after the step at hand; Ctrl-C twice ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Catches SIGTERM and Ctrl-C; handlers belong to the main thread, elsewhere nothing is caught."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        # torch's launcher hands Ctrl-C on to processes that the terminal has told already: there, twice is once.
        if self.signal == number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        self.signal = number
        if os.environ.get("RANK", "0") == "0":
            print("\nending after this step, with a checkpoint (Ctrl-C again: at once, without)", file=sys.stderr)


class StopOnSignal(TrainerCallback):
    """Saves and stops once any process was told to: all must, in the same step, or they would wait for each other."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self.stopped: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = self.interruption.signal or 0
        if args.world_size > 1:
            answer = torch.tensor(number, device=args.device)
            torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
            number = int(answer)
        if number:
            self.stopped = number
            # An evaluation that is due at this step decides about the best checkpoint: it is made, and then saved.
            control.should_save = control.should_training_stop = True


class Unchanged(TrainerCallback):
    """Looks whether the dataset is still what the stage began with, at each evaluation and in the end."""

    def __init__(self, stamps: Stamps) -> None:
        self.stamps = stamps

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check_unchanged(self.stamps)

    on_train_end = on_evaluate


class Patience(TrainerCallback):
    """Ends a stage after so many evaluations without a better one. Read from the log, which a resume brings back."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.is_over(args, state.log_history):
            control.should_training_stop = True

    def is_over(self, args: Any, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether so many evaluations came after the best one."""
        name = "eval_" + str(args.metric_for_best_model).removeprefix("eval_")
        values = [entry[name] if args.greater_is_better else -entry[name] for entry in history if name in entry]
        return bool(values) and len(values) - 1 - values.index(max(values)) >= self.evaluations


class ProgressLine(TrainerCallback):
    """One line that says where the run is, and a row of figures at each evaluation."""

    def __init__(self, stage: str, images_per_step: int, out: TextIO | None = None) -> None:
        self.stage = stage
        self.images_per_step = images_per_step
        self.out = out or sys.stdout
        self._since: tuple[float, int] | None = None
        self._open = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._pace_anew(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            figures = "  ".join(
                f"{_title(name)} {percent(value)}"
                for name, value in (metrics or {}).items()
                if name.startswith("eval_")
            )
            self._say(f"{self.stage}  epoch {state.epoch or 0:g}/{state.num_train_epochs:g}  {figures}", stays=True)
        self._pace_anew(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._pace_anew(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}) or self._since is None:
            return
        began, at = self._since
        seconds = (time.perf_counter() - began) / max(state.global_step - at, 1)
        parts = " ".join(f"{name[5:]} {value:.3g}" for name, value in logs.items() if name.startswith("loss_"))
        left = clock(seconds * (state.max_steps - state.global_step))
        where = f"epoch {state.epoch:.2f}/{state.num_train_epochs:g}  step {state.global_step}/{state.max_steps}"
        pace = f"{self.images_per_step / seconds:.1f} images/s  {left} left  {peak_memory(args.device):.1f} GB"
        self._say(f"{self.stage}  {where}  loss {logs['loss']:.3g} ({parts})  {pace}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._open:
            print(file=self.out)

    def _pace_anew(self, state: Any) -> None:
        """What evaluating and saving take is no part of the pace."""
        self._since = (time.perf_counter(), state.global_step)

    def _say(self, text: str, stays: bool = False) -> None:
        """On a terminal the line is written over; elsewhere each is a line of a log."""
        if self.out.isatty():
            print(f"\r\x1b[K{text}", end="\n" if stays else "", file=self.out, flush=True)
            self._open = not stays
        else:
            print(text, file=self.out, flush=True)


class Results(TrainerCallback):
    """results.csv: a row an evaluation, of all stages. Written anew each time, so that a resume repeats no row."""

    def __init__(self, path: Path, stage: str, earlier: Sequence[Mapping[str, Any]]) -> None:
        self.path = path
        self.stage = stage
        self.earlier = list(earlier)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_rows(self.path, [*self.earlier, *self.rows(state.log_history)])

    def rows(self, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One row for each evaluation of a log, with the losses that were logged last before it."""
        rows = []
        losses: dict[str, Any] = {}
        for entry in history:
            if "loss" in entry:
                losses = {name: value for name, value in entry.items() if name.startswith("loss")}
            elif any(name.startswith("eval_") for name in entry):
                figures = {name[5:]: value for name, value in entry.items() if name.startswith("eval_")}
                rows.append({"stage": self.stage, "epoch": entry["epoch"], "step": entry["step"], **losses, **figures})
        return rows


class Tracking(TrainerCallback):
    """One run in the tracker: stages are prefixes, and the step goes on from stage to stage.

    per_class: asked after each evaluation for rows with `name` and `pq` or `ap`; few_maps: then asked for photos with
    their maps, on the main process alone.
    """

    def __init__(
        self,
        tracker: Tracker,
        stage: str,
        steps_before: int,
        per_class: Callable[[], Sequence[Mapping[str, Any]]],
        few_maps: Callable[[], Sequence[tuple[Row, PanopticMap]]],
    ) -> None:
        self.tracker = tracker
        self.stage = stage
        self.steps_before = steps_before
        self.per_class = per_class
        self.few_maps = few_maps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._send(state, {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        figures = {
            f"{kind}/{row['name']}": row[kind]
            for row in self.per_class()
            for kind in ("pq", "ap")
            if row.get(kind) is not None
        }
        self._send(state, figures)
        predictions = self.few_maps() if state.is_world_process_zero else ()
        if predictions:
            self.tracker.show(f"{self.stage}/validation", predictions, self.steps_before + state.global_step)

    def _send(self, state: Any, figures: Mapping[str, float]) -> None:
        if state.is_world_process_zero and figures:
            named = {f"{self.stage}/{name}": value for name, value in figures.items()}
            self.tracker.log(named, self.steps_before + state.global_step)


# A resumed log has its names in another order.
_COLUMNS = (
    "stage",
    "epoch",
    "step",
    "loss",
    "loss_ce",
    "loss_bbox",
    "loss_giou",
    "loss_mask",
    "loss_dice",
    "box_ap_yours",
    "box_ap_yours_and_all",
    "box_ap",
    "box_ap50",
    "box_ap75",
    "box_ap_things",
    "box_ap_stuff",
    "pq_yours",
    "pq_yours_and_all",
    "pq",
    "sq",
    "rq",
)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV, atomically."""
    present = {name for row in rows for name in row}
    columns = [name for name in _COLUMNS if name in present] + sorted(present.difference(_COLUMNS))
    write_csv(path, columns, ({name: _figure(value) for name, value in row.items()} for row in rows))


def _figure(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _title(name: str) -> str:
    words = name.removeprefix("eval_").split("_")
    return " ".join(word.upper() if word[:2] in ("pq", "sq", "rq", "ap") else word for word in words)


def peak_memory(device: torch.device) -> float:
    """GB: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


ENVIRONMENT = "environment.json"

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware. No names of hosts or people, and no paths: it is published with the model."""
    return {
        "hf_detr_panoptic": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in _PACKAGES},
        "device": device_name(device),
        "processes": PartialState().num_processes,
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """What people call it, such as "NVIDIA H200"; of a CPU the model, where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return f"CPU ({models[0]})" if models and models[0] else "CPU"


def write_environment(output: str | Path, device: torch.device) -> None:
    """environment.json: what the run runs on now; where it began elsewhere, that is kept under "earlier"."""
    path = Path(output) / ENVIRONMENT
    now = environment(device)
    before = read_json(path) if path.is_file() else {}
    earlier = before.pop("earlier", [])
    if before and before != now:
        earlier = [*earlier, before]
    write_json(path, now | ({"earlier": earlier} if earlier else {}), indent=2, durable=True)


class Cost:
    """Seconds and memory of a stage, over all the times that it was resumed; what a kill has undone is not counted.

    before: what `so_far` said when the checkpoint was saved that the stage is resumed from.
    """

    def __init__(self, device: torch.device, before: Mapping[str, Any]) -> None:
        self._device = device
        self._seconds_before = float(before.get("seconds") or 0.0)
        self._peak_before = float(before.get("peak_memory_mb") or 0.0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._began = time.perf_counter()

    def so_far(self) -> dict[str, float | None]:
        """`seconds`, and `peak_memory_mb` of the process that took most; every process calls this alike.

        Memory is the GPU's. On a CPU it is the most that the process ever took, earlier stages included.
        """
        seconds = self._seconds_before + time.perf_counter() - self._began
        peaks = [self._peak_before, *gather_object([peak_memory(self._device) * 1000])]
        peak = max(peak for peak in peaks if not math.isnan(peak))
        return {"seconds": round(seconds, 1), "peak_memory_mb": round(peak) or None}


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

    def show(self, title: str, predictions: Sequence[tuple[Row, PanopticMap]], step: int) -> None:
        """Truth and prediction of a few photos, side by side."""
        picture = truth_beside_prediction(predictions)
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


def truth_beside_prediction(predictions: Sequence[tuple[Row, PanopticMap]]) -> Image.Image:
    """A row a photo: the truth, and what the model makes of it."""
    from ..dataset.photos import shrunk
    from ..images import open_image
    from ..pictures.draw import draw
    from ..pictures.panels import panels

    pictures = []
    for row, prediction in predictions:
        photo = open_image(row.photo)
        pictures += [draw(*shrunk(photo, panoptic, PICTURE_SIDE)) for panoptic in (row.map(), prediction)]
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
    from ..files import read_json, write_json

    path = output / RUN_ID
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)}, indent=2, durable=True)
    return str(read_json(path)["id"])


def _log_picture(name: str, tracker: Any, title: str, picture: Image.Image, step: int) -> None:
    import numpy as np

    if name == "tensorboard":
        tracker.log_images({title: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
    elif name == "trackio":  # accelerate sends no pictures there
        import trackio

        tracker.log({title: trackio.Image(picture)}, step=step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({title: [picture]}, step=step)
