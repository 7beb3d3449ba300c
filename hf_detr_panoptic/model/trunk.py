"""The backbone for inference: frozen batch norm folded into the convolutions that feed it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers.models.detr.modeling_detr import DetrConvEncoder, DetrFrozenBatchNorm2d

# Folding reorders a few products: in float64 the maps agree to about 1e-14 of their largest value.
_SAME = 1e-9


@dataclass(frozen=True)
class _Pair:
    """A convolution and the frozen norm that takes its output, by their names in the trunk."""

    conv: str
    norm: str


@torch.no_grad()
def folded_trunk(
    backbone: DetrConvEncoder, *, dtype: torch.dtype | None = None, channels_last: bool = True
) -> DetrConvEncoder:
    """A copy of `backbone` that gives the same maps with fewer passes; the original keeps its weights and keys.

    For inference: the copy is in eval mode, takes no gradient and does not follow later changes of the original.
    A norm is folded only where a probe image shows, in float64, that the maps stay the same. With `dtype` the copy
    expects its pixels in that type; nothing else about a call changes.
    """
    parameter = next(backbone.parameters())
    trunk = deepcopy(backbone).eval().requires_grad_(False).to("cpu", torch.float64)
    first = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))
    probe = torch.randn(1, first.in_channels, 65, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _fold_where_same(trunk, _pairs(trunk, probe), probe, _maps(trunk, probe))
    trunk = trunk.to(parameter.device, dtype or parameter.dtype)
    return trunk.to(memory_format=torch.channels_last) if channels_last else trunk


def _pairs(trunk: DetrConvEncoder, probe: Tensor) -> list[_Pair]:
    """Every frozen norm whose input is, untouched, the output of a convolution, both called once."""
    made: dict[int, tuple[str, Tensor, int]] = {}
    pairs: list[_Pair] = []
    calls: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = (name, output, output._version)
            elif (maker := made.get(id(inputs[0]))) and maker[2] == inputs[0]._version:
                pairs.append(_Pair(maker[0], name))

        return module.register_forward_hook(seen)

    watched = [
        watch(name, module)
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Conv2d | DetrFrozenBatchNorm2d)
    ]
    _maps(trunk, probe)
    for handle in watched:
        handle.remove()
    fed = [pair.conv for pair in pairs]
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == fed.count(pair.conv) == 1]


def _fold_where_same(trunk: DetrConvEncoder, pairs: list[_Pair], probe: Tensor, maps: list[Tensor]) -> None:
    """Fold the pairs that leave the probe's maps as they were: all at once, else by halves."""
    if not pairs:
        return
    before = [(trunk.get_submodule(pair.conv), trunk.get_submodule(pair.norm)) for pair in pairs]
    for pair in pairs:
        _fold(trunk, pair)
    both = zip(_maps(trunk, probe), maps, strict=True)
    if all((now - then).abs().max() <= _SAME * then.abs().max() for now, then in both):
        return
    for pair, (conv, norm) in zip(pairs, before, strict=True):
        trunk.set_submodule(pair.conv, conv)
        trunk.set_submodule(pair.norm, norm)
    if len(pairs) > 1:
        middle = len(pairs) // 2
        _fold_where_same(trunk, pairs[:middle], probe, maps)
        _fold_where_same(trunk, pairs[middle:], probe, maps)


def _fold(trunk: DetrConvEncoder, pair: _Pair) -> None:
    conv = deepcopy(cast(nn.Conv2d, trunk.get_submodule(pair.conv)))
    norm = trunk.get_submodule(pair.norm)
    # Scale and shift as the norm itself applies them, whatever its epsilon: they are its response to 1 and to 0.
    shape = (1, conv.out_channels, 1, 1)
    shift = norm(torch.zeros(shape, dtype=torch.float64)).flatten()
    scale = norm(torch.ones(shape, dtype=torch.float64)).flatten() - shift
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias
    conv.bias = nn.Parameter(bias * scale + shift, requires_grad=False)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    trunk.set_submodule(pair.conv, conv)
    trunk.set_submodule(pair.norm, nn.Identity())


def _maps(trunk: DetrConvEncoder, probe: Tensor) -> list[Tensor]:
    return [feature for feature, _ in trunk(probe, torch.ones(probe.shape[0], *probe.shape[-2:]))]
