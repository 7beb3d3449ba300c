"""What listens to a stage: signals that end it resumably, patience, the progress line, the table of results."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import torch
from transformers import TrainerCallback

from ..evaluation.table import percent

if TYPE_CHECKING:
    from ..data.batches import Row
    from ..panoptic_map import PanopticMap


class Tracker(Protocol):
    """What takes figures by name, and photos with the model's maps of them, at a step of the whole run."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...
    def show(self, title: str, found: Sequence[tuple[Row, PanopticMap]], step: int) -> None: ...


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
        told = self.interruption.signal or 0
        if args.world_size > 1:
            answer = torch.tensor(told, device=args.device)
            torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
            told = int(answer)
        if told:
            self.stopped = told
            # An evaluation that is due at this step decides about the best checkpoint: it is made, and then saved.
            control.should_save = control.should_training_stop = True


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
        left = _duration(seconds * (state.max_steps - state.global_step))
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
        found = self.few_maps() if state.is_world_process_zero else ()
        if found:
            self.tracker.show(f"{self.stage}/validation", found, self.steps_before + state.global_step)

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
    "box_ap",
    "box_ap50",
    "box_ap75",
    "box_ap_things",
    "box_ap_stuff",
    "pq",
    "sq",
    "rq",
)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV, atomically."""
    present = {name for row in rows for name in row}
    columns = [name for name in _COLUMNS if name in present] + sorted(present.difference(_COLUMNS))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _figure(value) for name, value in row.items()} for row in rows)
    partial.replace(path)


def _figure(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _title(name: str) -> str:
    words = name.removeprefix("eval_").split("_")
    return " ".join(word.upper() if word[:2] in ("pq", "sq", "rq", "ap") else word for word in words)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


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
