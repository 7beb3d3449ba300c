"""The flags of every command that lets a model segment photos."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from ..recipe import add_flags
from ..settings import Postprocess


def add_segment_flags(parser: argparse._ActionsContainer) -> None:
    """What `segment_settings` and `stuff_names` read."""
    add_flags(parser, Postprocess, Postprocess.model_fields, "what the model remembers; {} at first")
    parser.add_argument("--stuff", metavar="A,B", help="the model's stuff classes, if its configuration does not say")
    parser.add_argument("--batch-size", type=int, default=4, help="photos of one size at a time (%(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(%(default)s)")


def segment_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `model.segment` is told, checked; the model remembers the rest."""
    given = {name: getattr(args, name) for name in (*Postprocess.model_fields, "precision")}
    return {name: value for name, value in given.items() if value is not None}


def stuff_names(args: argparse.Namespace) -> list[str] | None:
    """--stuff, as a list."""
    return None if args.stuff is None else [name.strip() for name in args.stuff.split(",") if name.strip()]


def loaded_model(model: Any, stuff: Iterable[str] | None) -> Any:
    """A checkpoint by its folder or name, on the device at hand; what is loaded already stays as it is."""
    if not isinstance(model, str | os.PathLike):
        return model
    from accelerate import PartialState

    from ..model.modeling import DetrForPanopticSegmentation

    return DetrForPanopticSegmentation.from_pretrained(model, stuff=stuff).to(PartialState().device).eval()
