"""Weights from one job to another: class rows into a new label space, detection to panoptic and back."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.detr.modeling_detr import DetrForObjectDetection, DetrForSegmentation

from ..errors import ModelError
from ..labels import LabelSpace

logger = logging.getLogger(__name__)

# Attention is spread over heads × height × width, so it enters the mask head about a thousand times weaker than the
# features beside it, and a new head hardly notices it: it learns boxes of texture, not objects. A hundred times larger
# weights on those channels made a small new head learn; a trained head has found its own scale and is left alone.
ATTENTION_SCALE = 100.0

# How a detection checkpoint's keys are called inside a panoptic model, for `from_pretrained(key_mapping=…)`.
DETECTION_KEYS = {r"^(model|class_labels_classifier|bbox_predictor)\.": r"detr.\1."}


@dataclass(frozen=True)
class Carried:
    """What became of the classes: names whose rows were kept, names that are new, names that are gone."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def __str__(self) -> str:
        classes = "1 class" if len(self.kept) == 1 else f"{len(self.kept)} classes"
        text = f"carried {classes}, {len(self.new)} new{': ' if self.new else ''}{', '.join(self.new)}"
        return f"{text}; {len(self.gone)} left behind" if self.gone else text


@torch.no_grad()
def carry_classes(model: DetrForSegmentation, source: LabelSpace, target: LabelSpace) -> Carried:
    """Replace the class head by one for `target`, and write `target` into the configuration.

    Rows of names that stay, and the no-object row, are copied bit by bit. A new class starts as the mean of the
    source's rows of its kind (all things, or all stuff): for every query its logit is the average one, so it never
    takes more of the probability than the average class did, and it already tells objects from background.
    """
    detr = model.detr
    old: nn.Linear = detr.class_labels_classifier
    if max(source.columns) >= old.out_features - 1:
        raise ModelError(
            f"the label space reads class column {max(source.columns)}, the checkpoint has {old.out_features - 1}",
            fix="Hand over the label space of the checkpoint itself.",
        )
    if target.columns != tuple(range(len(target))):
        target = LabelSpace(target.categories)
    kept = [name for name in target.names if name in source.names]
    weight, bias = (
        torch.stack([*(_row(rows, name, source, target) for name in target.names), rows[-1]])
        for rows in (old.weight, old.bias)
    )
    new = nn.Linear(old.in_features, len(target) + 1, device=old.weight.device, dtype=old.weight.dtype)
    new.weight.copy_(weight)
    new.bias.copy_(bias)
    new.requires_grad_(old.weight.requires_grad)
    new.train(old.training)
    detr.class_labels_classifier = new
    _write_labels(model, target)
    carried = Carried(
        kept=tuple(kept),
        new=tuple(name for name in target.names if name not in source.names),
        gone=tuple(name for name in source.names if name not in target.names),
    )
    logger.info("%s", carried)
    return carried


@torch.no_grad()
def strengthen_attention(model: DetrForSegmentation, factor: float = ATTENTION_SCALE) -> None:
    """Scale what a *fresh* mask head makes of its attention channels: see `ATTENTION_SCALE`."""
    model.mask_head.conv1.conv.weight[:, -model.config.encoder_attention_heads :] *= factor


def to_detector(model: DetrForSegmentation) -> DetrForObjectDetection:
    """The detector alone, a copy: its `save_pretrained` writes a checkpoint for `DetrForObjectDetection`."""
    detector: DetrForObjectDetection = deepcopy(model.detr)
    detector.config = deepcopy(model.config)
    return detector


def _row(rows: Tensor, name: str, source: LabelSpace, target: LabelSpace) -> Tensor:
    """A class's weights [d] or bias []: its own, or for a new one the mean of its kind."""
    if name in source.names:
        return rows[source.columns[source.index(name)]]
    isthing = target[target.index(name)].isthing
    alike = [column for column, other in zip(source.columns, source, strict=True) if other.isthing == isthing]
    return rows[alike or list(source.columns)].float().mean(0).to(rows.dtype)


def _write_labels(model: DetrForSegmentation, space: LabelSpace) -> None:
    fields = space.to_config()
    remembered = getattr(model.config, "hf_detr_panoptic", None) or {}
    fields["hf_detr_panoptic"] = {**remembered, **fields["hf_detr_panoptic"]}
    for key, value in fields.items():
        setattr(model.config, key, value)
