"""The named parts of a DETR, whatever its backbone: what "freeze the stem and layer1" means."""

from __future__ import annotations

import re

from torch import nn
from transformers.models.detr.modeling_detr import DetrForSegmentation

from ..errors import ModelError, did_you_mean

# The paper trains neither.
PAPER_FROZEN = ("stem", "layer1")

# timm's ResNets say `layer1`, its newer nets `stages_0` or `stages.0`, Hugging Face's `encoder.stages.0`.
_STAGE = re.compile(r"(?:.*\.)?(?:layer(?P<one>\d+)|stages[._](?P<zero>\d+))")


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
    stages = _stages(backbone.model)
    if part == "stem" and stages:
        inside = {id(module) for modules in stages.values() for module in modules}
        return [
            child for child in backbone.model.children() if not any(id(module) in inside for module in child.modules())
        ]
    if part in stages:
        return stages[part]
    known = [*whole, *(["stem", *stages] if stages else [])]
    raise ModelError(f"the model has no part called {part!r}", fix=did_you_mean(part, known))


def _stages(backbone: nn.Module) -> dict[str, list[nn.Module]]:
    """ "layer1" → its module, and so on, of the outermost modules that are named like stages."""
    found: dict[str, list[nn.Module]] = {}
    taken: list[str] = []
    for name, module in backbone.named_modules():
        match = _STAGE.fullmatch(name)
        if match and not any(name.startswith(outer + ".") for outer in taken):
            taken.append(name)
            number = int(match["one"]) if match["one"] else int(match["zero"]) + 1
            found[f"layer{number}"] = [module]
    return found
