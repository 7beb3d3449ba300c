"""`hf-detr-panoptic`: parses, then calls a step. Nothing heavy is imported before the command is known."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, cast

from . import __version__
from .errors import HfDetrPanopticError, did_you_mean

# command → (module in `steps`, or of the package where it begins with a dot; its line in --help)
COMMANDS = {
    "demo": ("demo.command", "the whole road on a synthetic site, offline, in minutes"),
    "prepare": ("prepare.command", "photos and marks to a finished dataset: labeled, merged, split, written"),
    "autolabel": ("autolabel", "only the labeling; several machines can share it"),
    "overlay": ("overlay", "only the merging: marks over auto-labels that are there, no model"),
    "split": ("split", "share photos out to train and val: like photos together, every class on both sides"),
    "check": ("check", "what is wrong with a dataset, and what is in it?"),
    "train": ("train", "a dataset to a model, in three stages, from one recipe"),
    "export-review": ("export_review", "a dataset to CVAT, for a person to correct"),
    "import-review": ("import_review", "what was corrected in CVAT, into a new dataset"),
    "evaluate": ("evaluate", "how good is a model, or a folder of predictions? PQ, AP, mix-ups"),
    "report": ("report.command", "a dataset or a run as one HTML file: tables, curves, photos, the worst first"),
    "predict": ("predict.command", "a model on photos: overlays, COCO panoptic files, masks"),
    "trace": ("trace.command", "how a model sees one photo: DETR's seven moves, with true shapes and pictures"),
    "app": (".app", "a model in the browser: a photo in, its segments out, with a threshold slider"),
    "push": (
        ".hub.push",
        "a finished run to the Hub: stages to branches, final model to main; data, metric, demo",
    ),
    "doctor": ("doctor", "is this machine ready? Versions, device, processes, Hub, disk"),
}


class Step(Protocol):
    """What a module in `steps` offers the command line."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def main(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """argparse that answers a wrong flag or choice with the closest right one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            hint = did_you_mean(flag, known) if flag.startswith("-") else f"Quote it, or see {self.prog} --help."
            self.error(f"{'unknown flag' if flag.startswith('-') else 'unexpected'} {flag}. {hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: wrong usage or input, 130: interrupted)."""
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
    module = COMMANDS[command][0]
    step = cast(Step, importlib.import_module(module if module[0] == "." else f".steps.{module}", __package__))
    parser = Parser(prog=f"hf-detr-panoptic {command}", description=inspect.getdoc(step.main) or step.__doc__)
    step.add_arguments(parser)
    if getattr(step, "OVERRIDES", False):  # its flags are also a recipe's keys, which the step checks
        args, overrides = parser.parse_known_args(words[1:])
        args.overrides = overrides
    else:
        args = parser.parse_args(words[1:])
    try:
        status = step.main(args)
        if "torch" in sys.modules:  # otherwise there are no other processes
            from .steps.processes import end_processes

            end_processes()
        return status
    except HfDetrPanopticError as error:
        print(f"hf-detr-panoptic {command}: {error}", file=sys.stderr)
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
