"""What a run learns from and is measured on, and what of it would spoil the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..data.batches import Row
from ..errors import DatasetError, RecipeError
from ..labels import LabelSpace
from .stage_recipe import StageRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Both parts, in one label space."""

    train: Sequence[Row]
    val: Sequence[Row]
    space: LabelSpace

    @property
    def by_name(self) -> dict[str, Sequence[Row]]:
        return {"train": self.train, "val": self.val}


def check_splits(splits: Splits, stages: Iterable[StageRecipe]) -> None:
    """What would spoil a run of these stages later, said before it begins."""
    for name, rows in splits.by_name.items():
        if not len(rows):
            raise DatasetError(f"the split {name} is empty", fix="Split the dataset: hf-detr-panoptic split.")
    seen = {name: [segment.label for row in rows for segment in row.segments] for name, rows in splits.by_name.items()}
    for name, labels in seen.items():
        if not labels:
            raise DatasetError(
                f"no photo of the split {name} has a segment", fix="`hf-detr-panoptic check` shows what is in it."
            )
    for stage in stages:
        _check_metric(stage, splits)
    learnt = set(seen["train"])
    absent = [category.name for label, category in enumerate(splits.space) if label not in learnt]
    if absent:
        logger.warning(
            "%d of %d classes have no segment to learn from: %s", len(absent), len(splits.space), _some(absent)
        )


def _check_metric(stage: StageRecipe, splits: Splits) -> None:
    """Things or stuff alone can be measured only where there are some; crowds do not count."""
    whole, _, group = str(stage.training_arguments["metric_for_best_model"]).rpartition("_")
    if group in ("things", "stuff"):
        present = {splits.space[s.label].isthing for row in splits.val for s in row.segments if not s.crowd}
        if (group == "things") not in present:
            raise RecipeError(
                f"the best checkpoint shall be found by its {group}, and the split val has none",
                where=f"stages.{stage.name}.metric_for_best_model",
                fix=f"Write `{whole.removeprefix('eval_')}`.",
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
