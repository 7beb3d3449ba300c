"""Where the demo's teacher lies: a small DETR that knows the site, but for the person's classes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import ModelError


def teacher_folder() -> Path:
    """The folder that `from_pretrained` takes, in a wheel as in a checkout."""
    folder = Path(str(files("hf_detr_panoptic"))) / "demo" / "teacher"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            "the demo's teacher is not there",
            where=str(folder),
            fix="Install hf-detr-panoptic again, or name one: --teacher DIR.",
        )
    return folder
