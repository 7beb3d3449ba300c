"""The named parts of a DETR, whatever its backbone: what "freeze the stem and layer1" means.

No backbone's own names are read. A probe without content shows what each of its maps is computed from, and that is
what the parts are: layer1 ends with the first map, layer2 with the second, and the stem is what comes before layer1.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.models.detr.modeling_detr import DetrConvEncoder, DetrForSegmentation

from ..errors import ModelError, did_you_mean
from ..text import count_of

# The paper trains neither.
PAPER_FROZEN = ("stem", "layer1")

# The mask head takes three maps beside the one that enters the encoder.
MAPS = 4

_SIDE = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Backbone:
    """stages: "stem", "layer1", … → the names of modules (or parameters); shapes: of the maps of a square photo."""

    stages: dict[str, list[str]]
    shapes: list[list[int]]


_SEEN: WeakKeyDictionary[nn.Module, _Backbone] = WeakKeyDictionary()


def part_modules(model: DetrForSegmentation, part: str) -> list[nn.Module]:
    """The modules of one part; together "stem", "layer1", "layer2", … are the backbone."""
    backbone = model.detr.model.backbone
    whole = {
        "backbone": [backbone],
        "transformer": [child for child in model.detr.model.children() if child is not backbone],
        "heads": [model.detr.class_labels_classifier, model.detr.bbox_predictor],
        "detr": [model.detr],
        "mask_head": [model.mask_head, model.bbox_attention],
    }
    if part in whole:
        return whole[part]
    if part in PAPER_FROZEN or part.startswith("layer"):
        stages = backbone_stages(backbone)
        if part in stages:
            return [_module_of(backbone.model, name) for name in stages[part]]
        whole |= {name: [] for name in stages}
    raise ModelError(f"the model has no part called {part!r}", fix=did_you_mean(part, whole))


def backbone_stages(backbone: DetrConvEncoder) -> dict[str, list[str]]:
    """ "stem", "layer1", … → the names of their modules (or parameters) in the backbone."""
    return _looked_at(backbone).stages


def name_of(backbone: DetrConvEncoder) -> str:
    """What messages call it: timm's name, or its family."""
    config = backbone.config.backbone_config
    return str(getattr(config, "backbone", None) or config.model_type)


def check_maps(backbone: DetrConvEncoder) -> None:
    """Raise where DETR's mask head does not fit: fewer than four maps, or maps that are not [channels, h, w].

    A warning tells of what stock's way with norms has done to it.
    """
    config = backbone.config.backbone_config
    if config.model_type == "timm_backbone" and not getattr(config, "freeze_batch_norm_2d", False):
        warn_of_lost_activations(config.backbone)
    channels = list(backbone.intermediate_channel_sizes)
    if len(channels) < MAPS:
        raise ModelError(
            f"the backbone gives {count_of(len(channels), 'map')}, and DETR's mask head needs {MAPS}",
            where=name_of(backbone),
            fix="Name more of its levels in `out_indices` (or `out_features`), at best those of a 4th, an 8th, a 16th "
            "and a 32nd of the photo; or take another backbone.",
        )
    try:
        shapes = _looked_at(backbone).shapes
    except ModelError:
        return  # whoever freezes its parts is told
    fine = all(len(shape) == 3 and shape[0] == wide for shape, wide in zip(shapes, channels, strict=True))
    sides = [shape[-1] for shape in shapes]
    if not fine or sides != sorted(sides, reverse=True):
        raise ModelError(
            f"of {_SIDE}×{_SIDE} pixels the backbone makes maps {', '.join(map(str, shapes))}, and DETR takes "
            "[channels, height, width], from large to small",
            where=name_of(backbone),
            fix="Take another backbone; of Swin the one of transformers instead of timm's.",
        )


@functools.cache
def warn_of_lost_activations(name: str) -> None:
    """Of a backbone of timm whose norms hold its activations: stock's norms, put in their place, have none."""
    import timm

    try:
        with torch.device("meta"):
            norms = [module for module in timm.create_model(name).modules() if isinstance(module, nn.BatchNorm2d)]
    except Exception:  # one that looks at values while it is made
        return
    if any(not isinstance(getattr(norm, "act", nn.Identity()), nn.Identity) for norm in norms):
        logger.warning(
            "%s holds its activations in its norms, and transformers puts norms without any in their place: what it "
            "was pretrained for is lost. A new model keeps them: `freeze_batch_norm_2d: true` in its backbone_config.",
            name,
        )


def _looked_at(backbone: DetrConvEncoder) -> _Backbone:
    if backbone not in _SEEN:
        probed, maps = _probe(backbone)
        _SEEN[backbone] = _Backbone(_find_stages(probed, maps), [list(feature.shape[1:]) for feature in maps])
    return _SEEN[backbone]


def _module_of(backbone: nn.Module, name: str) -> nn.Module:
    try:
        return backbone.get_submodule(name)
    except AttributeError:  # a parameter of a module whose parts are of several stages: a position, a class token
        return nn.ParameterList([backbone.get_parameter(name)])


def _find_stages(probed: nn.Module, maps: Sequence[Tensor]) -> dict[str, list[str]]:
    # Maps at half the size and larger belong to the stem: ResNet's layer1 gives a quarter.
    first = next((place for place, feature in enumerate(maps) if 4 * feature.shape[-2] <= _SIDE), 0)
    level_of: dict[int, int] = {}
    seen: set[torch.autograd.graph.Node] = set()
    for place, feature in enumerate(maps):
        for parameter in _parameters_of(feature, seen):
            level_of.setdefault(id(parameter), max(place - first, 0))
    last = len(maps) - 1 - first
    levels: dict[str, set[int]] = {}  # of each module those of its parameters
    for name, parameter in probed.named_parameters():
        above = name
        while above:
            levels.setdefault(above, set()).add(level_of.get(id(parameter), last))
            above = above.rpartition(".")[0]
    stages: dict[str, list[str]] = {f"layer{level + 1}": [] for level in range(last + 1)}
    before = 0
    for name in _units(probed, levels):
        before = next(iter(levels.get(name, ())), before)
        stages[f"layer{before + 1}"].append(name)
    stem, layer1 = _without_stem(probed, stages["layer1"])
    return {"stem": stem, **stages, "layer1": layer1}


def _units(module: nn.Module, levels: Mapping[str, set[int]], path: str = "") -> Iterator[str]:
    """The outermost modules that are of one level, in order, and those in which there is nothing to learn."""
    if path and len(levels.get(path, ())) < 2:
        yield path
        return
    yield from (name for name, _ in module.named_parameters(path, recurse=False))
    for name, child in module.named_children():
        yield from _units(child, levels, f"{path}.{name}" if path else name)


def _without_stem(backbone: nn.Module, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """What leads to the first map, parted: layer1 is its last module with a matrix or kernel, the stem the rest."""
    heavy = [name for name in names if any(p.ndim > 1 for p in _module_of(backbone, name).parameters())]
    if len(heavy) == 1 and (children := list(_module_of(backbone, heavy[0]).named_children())):
        place = names.index(heavy[0])
        inside = [f"{heavy[0]}.{name}" for name, _ in children]
        return _without_stem(backbone, [*names[:place], *inside, *names[place + 1 :]])
    place = names.index(heavy[-1]) if len(heavy) > 1 else len(names)
    return list(names[:place]), list(names[place:])


def _parameters_of(feature: Tensor, seen: set[torch.autograd.graph.Node]) -> Iterator[Tensor]:
    """The parameters that a map is computed from, but for those behind nodes that were `seen` before."""
    nodes = [] if feature.grad_fn is None else [feature.grad_fn]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(parameter := getattr(node, "variable", None), Tensor):
            yield parameter
        nodes += [following for following, _ in node.next_functions if following is not None]


def _probe(backbone: DetrConvEncoder) -> tuple[nn.Module, list[Tensor]]:
    """A copy of the backbone's model that holds and computes nothing but sizes, and its maps with their graph."""
    model: nn.Module = backbone.model
    empty: dict[int, Tensor] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        kind = torch.float32 if tensor.is_floating_point() or isinstance(tensor, nn.Parameter) else tensor.dtype
        blank = torch.empty(tensor.shape, dtype=kind, device="meta")
        empty[id(tensor)] = nn.Parameter(blank) if isinstance(tensor, nn.Parameter) else blank
    channels = backbone.config.num_channels
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("meta"):
            probed = deepcopy(model, empty).eval()
            output: Any = probed(torch.zeros(1, channels, _SIDE, _SIDE))
            return probed, list(getattr(output, "feature_maps", output))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"stem and layer1 cannot be told in this backbone ({reason[:200]})",
            where=name_of(backbone),
            fix="They stay trainable: freeze nothing of it (`freeze: []`), or all of it (`freeze: [backbone]`).",
        ) from error
