"""An exponential average of the weights that train: evaluated and saved in their stead, if a stage asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import ModelError

# Of a checkpoint: the weights that the optimizer works on, beside model.safetensors with the average.
RAW_WEIGHTS = "weights_in_training.safetensors"


class WeightAverage:
    """average ← decay · average + (1 − decay) · weights after each step; early on the decay is smaller.

    While few steps are behind it the average would be mostly the start: the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the average for weights."""
        raw = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        _copy(self.average, model)
        try:
            yield
        finally:
            _copy(raw, model)

    def settle(self, model: nn.Module) -> None:
        """For good."""
        _copy(self.average, model)

    def save_raw(self, model: nn.Module, folder: Path) -> None:
        """The weights in training, to a checkpoint whose model is the average."""
        save_file({name: p.detach().cpu().contiguous() for name, p in _trained(model)}, folder / RAW_WEIGHTS)

    def restore(self, model: nn.Module, folder: Path) -> None:
        """From a checkpoint whose model was just loaded: that is the average, and the raw weights lie beside it."""
        if not (folder / RAW_WEIGHTS).is_file():
            raise ModelError(
                "the checkpoint has no weights in training beside their average",
                where=str(folder),
                fix="It was made without `ema`: take the setting back to resume, or start the stage anew.",
            )
        self.average = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        _copy(load_file(folder / RAW_WEIGHTS), model)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _copy(weights: dict[str, Tensor], model: nn.Module) -> None:
    for name, parameter in _trained(model):
        parameter.copy_(weights[name])
