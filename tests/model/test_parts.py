"""Named parts cover a model once, whatever the backbone."""

import made
import pytest
from transformers import DetrForSegmentation
from transformers.models.detr.modeling_detr import DetrConvEncoder

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.parts import backbone_stages, check_maps, part_modules

pytestmark = pytest.mark.bits


def names_in(model, part):
    inside = {id(p) for module in part_modules(model, part) for p in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


# By hand, from what timm and transformers say about their levels: what makes the map of a quarter of the photo's size
# is layer1, and whatever only leads there the stem.
STAGES = {
    "five levels": [["conv1", "bn1", "act1", "maxpool"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]],
    "efficientnet": [
        ["conv_stem", "bn1", "blocks.0"], ["blocks.1"], ["blocks.2"], ["blocks.3", "blocks.4"],
        ["blocks.5", "blocks.6"],
    ],
    "regnet": [["stem"], ["s1"], ["s2"], ["s3"], ["s4"]],
    "mobilenet, five levels": [
        ["conv_stem", "bn1", "act1"], ["blocks.0"], ["blocks.1"], ["blocks.2", "blocks.3"], ["blocks.4", "blocks.5"],
    ],
    "hf": [["embedder"], *([f"encoder.stages.{stage}"] for stage in range(4))],
}  # fmt: skip


@pytest.mark.parametrize("backbone", STAGES)
def test_stages_are_found_by_what_maps_are_made_of(tiny_config, backbone):
    trunk = DetrConvEncoder(tiny_config(backbone))
    expected = dict(zip(["stem", "layer1", "layer2", "layer3", "layer4"], STAGES[backbone], strict=True))
    assert backbone_stages(trunk) == expected


def test_a_stage_may_end_amid_a_module(tiny_config):
    """Swin halves its map at a layer's end, after the map was taken; and it norms all maps last."""
    stages = backbone_stages(DetrConvEncoder(tiny_config("swin")))
    assert [name.rpartition("embeddings")[1] for name in stages["stem"]] == ["embeddings"]
    assert [name.removeprefix("swin.") for name in stages["layer2"]] == [
        "encoder.layers.0.downsample", "encoder.layers.1.blocks", "hidden_states_norms.stage2",
    ]  # fmt: skip


@pytest.mark.parametrize("backbone", ["timm", "dilated", "hf", "mobilenet, five levels", "swin"])
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


# --- what DETR cannot stand on


def fields_of(**changes):
    return {**made.TIMM, **changes}


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        (fields_of(out_indices=[2, 3, 4]), "test_resnet: the backbone gives 3 maps, and DETR's mask head needs 4"),
        (fields_of(out_indices=[4]), "test_resnet: the backbone gives 1 map, and"),
    ],
)
def test_what_does_not_carry_a_mask_head_is_one_error(tiny_config, monkeypatch, backbone, said):
    monkeypatch.setitem(made.BACKBONES, "this", backbone)
    with pytest.raises(ModelError, match=said):
        DetrForPanopticSegmentation(tiny_config("this")).freeze("stem")


def test_maps_with_channels_last_are_one_error(tiny_config, monkeypatch):
    model = DetrForSegmentation(tiny_config())
    backbone = model.detr.model.backbone
    backbone.model.register_forward_hook(lambda _, inputs, maps: [feature.permute(0, 2, 3, 1) for feature in maps])
    with pytest.raises(ModelError, match=r"makes maps \[64, 64, \d+\]"):
        check_maps(backbone)


def test_where_no_stage_can_be_told_the_message_says_what_stays_trainable(tiny_config, caplog):
    """A backbone that looks at values: nothing can be known of it without them."""
    model = DetrForPanopticSegmentation(tiny_config())
    backbone = DetrConvEncoder(model.config)
    backbone.model.register_forward_pre_hook(lambda _, inputs: inputs[0].sum().item())
    model.detr.model.backbone = backbone
    before = model._frozen
    with pytest.raises(ModelError, match=r"test_resnet: stem and layer1 cannot be told .*They stay trainable"):
        model.freeze("layer1")
    assert model._frozen == before
    model.freeze("backbone")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_part_that_is_not_there_leaves_all_as_it_was(tiny_config):
    model = DetrForPanopticSegmentation(tiny_config())
    model.freeze("layer2")
    with pytest.raises(ModelError, match="no part called 'layer9'"):
        model.freeze("layer1", "layer9")
    model.train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == names_in(model, "layer2")
