"""The page of a run that has just ended: written in passing where all that it takes is at hand."""

from __future__ import annotations

import logging
import shlex
from importlib.util import find_spec
from pathlib import Path

from .export import export
from .page import write_page
from .web_runtime import at_hand

logger = logging.getLogger(__name__)

PAGE = "page"  # in the run's folder


def after_run(run: str | Path) -> str:
    """The line that says where the page is, or how to get one. Never raises, and asks no network."""
    folder = Path(run)
    typed = f"hf-detr-panoptic export {shlex.quote(str(folder))} --out {shlex.quote(str(folder / PAGE))}"
    line = "the model in any browser: "
    if at_hand() is None or any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        return line + typed
    try:
        export(folder / "final", folder / PAGE)
        return line + str(write_page(folder / PAGE, title=folder.name))
    except Exception as error:  # what took hours is not lost because its page is
        logger.warning("no page was written: %s", error)
        return line + typed
