"""`hf-detr-panoptic`: parses, then calls the room. Nothing heavy is imported before the command is known."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import inspect
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn, TextIO

from . import __version__
from .errors import HfDetrPanopticError, did_you_mean

# command → (where its work is done, its line in --help). A file with several commands names this one behind a colon:
# `overlay_arguments` and `overlay_main` instead of `add_arguments` and `main`.
COMMANDS = {
    "demo": ("demo.demo", "the whole road on a synthetic site, offline, in minutes"),
    "prepare": ("road:prepare", "photos and marks to a finished dataset: labeled, merged, split, written"),
    "autolabel": ("labeling.labeler", "only the labeling; several machines can share it"),
    "overlay": ("labeling.prepare", "only the merging: marks over auto-labels that are there, no model"),
    "split": ("labeling.split", "share photos out to train and val: like photos together, every class on both sides"),
    "next": ("report.next_photos", "which photos to mark next: a list, a page with the reasons, a zip for CVAT"),
    "relabel": ("labeling.relabel", "classes of a finished dataset or model renamed, joined, dropped; weights follow"),
    "check": ("dataset.check", "what is wrong with a dataset, and what is in it?"),
    "train": ("road:train", "a dataset to a model, in three stages, from one recipe"),
    "export-review": ("labeling.review:export", "a dataset to CVAT, for a person to correct"),
    "import-review": ("labeling.review:import", "what was corrected in CVAT, into a new dataset"),
    "evaluate": ("evaluation.evaluate", "how good is a model, or a folder of predictions? PQ, AP, mix-ups"),
    "calibrate": (
        "evaluation.calibrate",
        "a model shifted so that the thresholds of plain clients show your classes",
    ),
    "report": ("report.report", "a dataset or a run as one HTML file: tables, curves, photos, the worst first"),
    "export": ("browser.export", "a model as ONNX, verified: for machines without torch, and for the browser"),
    "predict": ("predict", "a model on photos: overlays, COCO panoptic files, masks"),
    "trace": ("trace.page", "how a model sees one photo: DETR's seven moves, with true shapes and pictures"),
    "app": ("app", "a model in the browser: a photo in, its segments out, with a threshold slider"),
    "push": (
        "hub.push",
        "a finished run to the Hub: stages to branches, final model to main; data, metric, demo",
    ),
    "recipe": ("recipe_to_edit", "a recipe with every key, its default and its meaning, to be edited"),
    "doctor": ("doctor", "is this machine ready? Versions, device, processes, Hub, disk"),
}
# Words that are no flag of these are keys of the recipe, which the command checks.
TAKE_A_RECIPE = {"demo", "train"}


class Parser(argparse.ArgumentParser):
    """argparse that answers a wrong flag or choice with the closest right one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            see = f"see {self.prog} --help."
            hint = did_you_mean(flag, known, see.capitalize()) if flag.startswith("-") else f"Quote it, or {see}"
            self.error(f"{'unknown flag' if flag.startswith('-') else 'unexpected'} {flag}. {hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def home_of(command: str) -> tuple[ModuleType, str, str]:
    """The file that does a command's work, and what it calls the command's `add_arguments` and `main`."""
    module, _, name = COMMANDS[command][0].partition(":")
    home = importlib.import_module(f".{module}", __package__)
    return (home, f"{name}_arguments", f"{name}_main") if name else (home, "add_arguments", "main")


class _Stream:
    """Standard output or error. Once nobody reads it, what is said goes nowhere: the work is worth more than words.

    `hf-detr-panoptic evaluate … --json figures.json | head` still writes its figures. What it has no letters for, such
    as half a surrogate pair in a stranger's class, is escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self._whoever_listens():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._whoever_listens():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _whoever_listens(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what is buffered, too, and what other libraries print
            os.close(nowhere)


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            if stream is not None:  # pythonw has none
                stack.callback(setattr, sys, name, stream)
                wrapped: Any = _Stream(stream)
                setattr(sys, name, wrapped)
                stack.callback(wrapped.flush)
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: wrong usage or input, 130: interrupted)."""
    try:
        with _speaking():
            return _main(argv)
    finally:
        # Registered last, run first: the rest of Python's end, a tenth of a second with torch, no longer listens.
        atexit.unregister(_deaf)
        atexit.register(_deaf)


def _deaf() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _main(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"hf-detr-panoptic {__version__}")
        return 0
    command = words[0]
    if command not in COMMANDS:
        kind = "flag" if command.startswith("-") else "command"
        known = ["--help", "--version"] if kind == "flag" else list(COMMANDS)
        print(f"hf-detr-panoptic: unknown {kind} {command}. {did_you_mean(command, known)}", file=sys.stderr)
        return 2
    home, add_arguments, main_of_it = home_of(command)
    run = getattr(home, main_of_it)
    parser = Parser(prog=f"hf-detr-panoptic {command}", description=inspect.getdoc(run) or home.__doc__)
    getattr(home, add_arguments)(parser)
    if command in TAKE_A_RECIPE:
        args, overrides = parser.parse_known_args(words[1:])
        args.overrides = overrides
    else:
        args = parser.parse_args(words[1:])
    try:
        status: int = run(args)
        if "torch" in sys.modules:  # otherwise there are no other processes
            from .parallel import end_processes

            end_processes()
        return status
    except HfDetrPanopticError as error:
        print(f"hf-detr-panoptic {command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read this has gone, as `head` does
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fix = "Check path, permissions and disk."
        print(
            f"hf-detr-panoptic {command}: {where}the system refuses ({error.strerror or error}). {fix}",
            file=sys.stderr,
        )
        return 2
    except RuntimeError as error:
        from .watch import lost_process

        if (lost := lost_process(error)) is None:
            raise
        print(f"hf-detr-panoptic {command}: {lost}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hf-detr-panoptic {command}: interrupted", file=sys.stderr)
        return 130


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {line}" for command, (_, line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-detr-panoptic COMMAND [--help] …",
            "",
            "From photos and a few hand-drawn masks to a panoptic DETR on the Hugging Face Hub.",
            "",
            *lines,
            "",
            "  --version  print the version",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
