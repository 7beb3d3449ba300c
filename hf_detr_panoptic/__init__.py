"""From photos and a few hand-drawn masks to a panoptic DETR on the Hugging Face Hub."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .dataset.rows import load_panoptic
    from .evaluation.panoptic_quality import PanopticQuality
    from .labels import Category, LabelSpace
    from .model.modeling import DetrForPanopticSegmentation
    from .panoptic_map import PanopticMap, Segment
    from .pictures.draw import draw
    from .recipe import Recipe
    from .road import prepare, train
    from .steps.evaluate import evaluate_model
    from .steps.push.command import push

# Imported at first use: `import hf_detr_panoptic` must not cost the seconds that torch and transformers take.
_HOMES = {
    "Category": ".labels",
    "DetrForPanopticSegmentation": ".model.modeling",
    "LabelSpace": ".labels",
    "PanopticMap": ".panoptic_map",
    "PanopticQuality": ".evaluation.panoptic_quality",
    "Recipe": ".recipe",
    "Segment": ".panoptic_map",
    "draw": ".pictures.draw",
    "evaluate_model": ".steps.evaluate",
    "load_panoptic": ".dataset.rows",
    "prepare": ".road",
    "push": ".steps.push.command",
    "train": ".road",
}

__all__ = [
    "Category",
    "DetrForPanopticSegmentation",
    "LabelSpace",
    "PanopticMap",
    "PanopticQuality",
    "Recipe",
    "Segment",
    "__version__",
    "draw",
    "evaluate_model",
    "load_panoptic",
    "prepare",
    "push",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
