"""Which model labels: DETR through `segment`, any other panoptic model of transformers through its own processor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LabelError, ModelError
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from .prepare.settings import DEFAULT_LABELER

if TYPE_CHECKING:
    import torch

    from ..labeling.labeler import Labeler
    from ..model.modeling import DetrForPanopticSegmentation
    from ..preprocess import Preprocess


class DetrLabeler:
    """A DETR with the settings that a night of labeling needs; photos of a call go through the model together."""

    def __init__(self, model: DetrForPanopticSegmentation, precision: str = "fp32") -> None:
        self.model = model
        self.precision = precision
        self._space = model.label_space
        self._fingerprint = model.fingerprint if precision == "fp32" else f"{model.fingerprint}-{precision}"

    @property
    def label_space(self) -> LabelSpace:
        return self._space

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def preprocess(self) -> Preprocess:
        return self.model.preprocess

    @property
    def device(self) -> torch.device:
        return self.model.device

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        return self.model.segment(
            images, threshold=threshold, precision=self.precision, batch_size=max(1, len(images))
        )


def load_labeler(
    labeler: Any = DEFAULT_LABELER, stuff: Iterable[str] | None = None, precision: str = "fp32", device: Any = None
) -> Labeler:
    """A labeler from a checkpoint's folder or name, or from a model; what is a labeler already comes back as it is.

    `stuff` names its stuff classes where neither its configuration nor COCO can say.
    """
    from ..model.modeling import DetrForPanopticSegmentation

    if isinstance(labeler, DetrForPanopticSegmentation):
        return DetrLabeler(labeler, precision)
    if not isinstance(labeler, str | os.PathLike):
        return labeler  # type: ignore[no-any-return]
    family = _config_of(labeler).get("model_type")
    try:
        if family == "detr":
            loaded: Any = DetrForPanopticSegmentation.from_pretrained(labeler, stuff=stuff, output_loading_info=True)
            model, info = loaded
            if any(str(key).startswith("mask_head.") for key in info["missing_keys"]):
                raise ModelError(
                    "is a detection checkpoint: it knows boxes, and no masks",
                    where=str(labeler),
                    fix=f"Use {DEFAULT_LABELER}.",
                )
            return DetrLabeler(model.to(device or "cpu").eval(), precision)
        from ..model.other_labelers import UniversalLabeler

        return UniversalLabeler.from_pretrained(labeler, stuff=stuff, precision=precision, device=device)
    except LabelError as error:
        raise _which_are_stuff(error, str(labeler)) from error


def labeler_space(labeler: Any, stuff: Iterable[str] | None = None) -> LabelSpace | None:
    """The classes of a labeler by its configuration alone, no weights; None where that cannot be had."""
    if not isinstance(labeler, str | os.PathLike):
        space = getattr(labeler, "label_space", None)
        return space if isinstance(space, LabelSpace) else None
    try:
        fields = _config_of(labeler)
    except ModelError:
        if Path(labeler).exists() or str(labeler) != DEFAULT_LABELER:
            raise
        return LabelSpace.coco()  # known by heart: a dry run needs no network
    try:
        return LabelSpace.from_config(fields, stuff=stuff)
    except LabelError as error:
        raise _which_are_stuff(error, str(labeler)) from error


def _config_of(labeler: str | os.PathLike[str]) -> Mapping[str, Any]:
    from transformers import PreTrainedConfig
    from transformers.utils.hub import cached_file

    from ..model.loading import hub_arguments

    hub = hub_arguments(labeler, {})
    try:
        if cached_file(str(labeler), "config.json", _raise_exceptions_for_missing_entries=False, **hub) is None:
            raise ModelError("there is no config.json", where=str(labeler), fix="A labeler is a folder with one.")
        fields, _ = PreTrainedConfig.get_config_dict(str(labeler), **hub)
    except OSError as error:
        raise ModelError(
            f"the labeler cannot be found ({str(error).splitlines()[0]})",
            where=str(labeler),
            fix=f"Check the name; the default is {DEFAULT_LABELER}.",
        ) from error
    return fields


def _which_are_stuff(error: LabelError, where: str) -> LabelError:
    if "things or stuff" not in error.what:
        return error
    return LabelError(
        error.what, where=where, fix="Say which are stuff: --labeler-stuff sky,road (or '' if all are things)."
    )
