"""Named parts cover a model once, whatever the backbone."""

import pytest
from transformers import DetrForSegmentation

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.modeling import part_modules

pytestmark = pytest.mark.bits


def names_in(model, part):
    inside = {id(p) for module in part_modules(model, part) for p in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


@pytest.mark.parametrize("backbone", ["timm", "dilated", "hf"])
def test_the_parts_make_the_whole(tiny_config, backbone):
    model = DetrForSegmentation(tiny_config(backbone))
    parts = ["stem", "layer1", "layer2", "layer3", "layer4", "transformer", "heads", "mask_head"]
    found = [names_in(model, part) for part in parts]
    assert all(found)
    assert sum(map(len, found)) == len(set().union(*found)) == len(dict(model.named_parameters()))
    assert set().union(*found[:5]) == names_in(model, "backbone")
    assert set().union(*found[:7]) == names_in(model, "detr")
    assert all("query_position" not in name or name in found[5] for name in names_in(model, "detr"))


def test_a_slip_is_answered_with_the_nearest_part(tiny_config):
    with pytest.raises(ModelError, match="'layer1'"):
        part_modules(DetrForSegmentation(tiny_config()), "layer_1")
    with pytest.raises(ModelError, match="no part called 'layer9'"):
        part_modules(DetrForSegmentation(tiny_config()), "layer9")
