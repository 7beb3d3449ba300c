"""What trains, and how fast: the backbone apart from the rest, a rate that drops at a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

DROP = 0.1


def parameter_groups(model: nn.Module, weight_decay: float, backbone_learning_rate: float | None) -> list[Any]:
    """The parameters that train, the backbone's last; frozen ones are in no group. All decay, as in the paper."""
    rest: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    backbone: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    if backbone_learning_rate is not None:
        backbone["lr"] = backbone_learning_rate
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if "backbone" in name else rest)["params"].append(parameter)
    return [group for group in (rest, backbone) if group["params"]]


def dropping_rate(warmup_steps: int, drop_step: int | None) -> Callable[[int], float]:
    """The factor of the learning rates before each optimizer step: a linear rise, 1, and a tenth once dropped."""

    def factor(step: int) -> float:
        risen = min(1.0, (step + 1) / (warmup_steps + 1))
        return risen * (DROP if drop_step is not None and step >= drop_step else 1.0)

    return factor


def drop_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, drop_step: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler for `dropping_rate`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, dropping_rate(warmup_steps, drop_step))


def trainable_line(name: str, model: nn.Module) -> str:
    """ "mask_head: 1.33 M of 42.9 M trained"."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{name}: {_millions(trained)} of {_millions(sum(p.numel() for p in model.parameters()))} trained"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M"
