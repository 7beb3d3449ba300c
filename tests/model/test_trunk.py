"""The folded trunk against the trunk it was folded from."""

import copy

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import DetrConfig, ResNetConfig, TimmBackboneConfig
from transformers.models.detr.modeling_detr import DetrConvEncoder, DetrFrozenBatchNorm2d

from hf_detr_panoptic.model.detector import folded_trunk

NORMS = (DetrFrozenBatchNorm2d, FrozenBatchNormAct2d)
TINY_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 2, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
# Norms that hold the activation, as timm freezes them.
WITH_ACTIVATIONS = TimmBackboneConfig(
    backbone="test_efficientnet", out_indices=[1, 2, 3, 4], freeze_batch_norm_2d=True
)
CONFIGS = {
    "timm activations": lambda: DetrConfig(backbone_config=WITH_ACTIVATIONS),
    "timm": lambda: DetrConfig(backbone="test_resnet"),
    "timm dilated": lambda: DetrConfig(backbone="test_resnet", dilation=True),
    "hf bottleneck": lambda: DetrConfig(backbone_config=ResNetConfig(**TINY_RESNET)),
    "hf basic": lambda: DetrConfig(backbone_config=ResNetConfig(layer_type="basic", **TINY_RESNET)),
}


def lived_in(backbone: nn.Module) -> nn.Module:
    """Norms as after training: fresh ones hold zeros and ones, and folding those shows nothing."""
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, NORMS):
            module.weight.normal_(0.5, 0.3, generator=generator)
            module.bias.normal_(0, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return backbone


@pytest.fixture(params=CONFIGS)
def backbone(request):
    torch.manual_seed(0)
    return lived_in(DetrConvEncoder(CONFIGS[request.param]())).eval()


def maps(backbone, pixels):
    with torch.no_grad():
        return [feature for feature, _ in backbone(pixels, torch.ones(pixels.shape[0], *pixels.shape[-2:]))]


def norms(backbone):
    return [module for module in backbone.modules() if isinstance(module, NORMS)]


@pytest.mark.parametrize("size", [(64, 96), (71, 101)])
def test_same_maps_without_any_norm(backbone, size):
    pixels = torch.randn(2, 3, *size)
    folded = folded_trunk(backbone)
    assert norms(backbone)
    assert not norms(folded)
    for map_, expected in zip(maps(folded, pixels), maps(backbone, pixels), strict=True):
        torch.testing.assert_close(map_, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_masks_stay_the_same(backbone):
    pixels, mask = torch.randn(1, 3, 64, 96), torch.ones(1, 64, 96)
    mask[:, :, 50:] = 0
    for (_, folded), (_, expected) in zip(folded_trunk(backbone)(pixels, mask), backbone(pixels, mask), strict=True):
        assert torch.equal(folded, expected)


def test_exact_in_float64(backbone):
    backbone, pixels = backbone.double(), torch.randn(1, 3, 65, 65, dtype=torch.float64)
    for map_, expected in zip(maps(folded_trunk(backbone), pixels), maps(backbone, pixels), strict=True):
        torch.testing.assert_close(map_, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def test_the_original_is_left_alone(backbone):
    before = copy.deepcopy(backbone.state_dict())
    grads = [parameter.requires_grad for parameter in backbone.parameters()]
    backbone.train()
    folded = folded_trunk(backbone)
    assert backbone.training
    assert not folded.training
    assert [parameter.requires_grad for parameter in backbone.parameters()] == grads
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(module._forward_hooks for module in [*backbone.modules(), *folded.modules()])


def test_another_dtype_and_layout(backbone):
    pixels = torch.randn(1, 3, 64, 64)
    folded = folded_trunk(backbone, dtype=torch.bfloat16, channels_last=False)
    for map_, expected in zip(maps(folded, pixels.bfloat16()), maps(backbone, pixels), strict=True):
        assert map_.dtype == torch.bfloat16
        assert map_.is_contiguous()
        # Eight bits of mantissa through some twenty layers.
        assert (map_.float() - expected).abs().max() < 0.1 * expected.abs().max()
    first = maps(folded_trunk(backbone), pixels)[0]
    assert first.is_contiguous(memory_format=torch.channels_last)


class Awkward(nn.Module):
    """A trunk with one pair that folds and four that must not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3), DetrFrozenBatchNorm2d(8)
        self.used_twice, self.used_twice_norm = nn.Conv2d(8, 8, 1), DetrFrozenBatchNorm2d(8)
        self.tapped, self.tapped_norm = nn.Conv2d(8, 8, 1), DetrFrozenBatchNorm2d(8)
        self.changed, self.changed_norm = nn.Conv2d(8, 8, 1), DetrFrozenBatchNorm2d(8)
        self.alone_norm = DetrFrozenBatchNorm2d(8)

    def forward(self, pixels):
        x = self.first_norm(self.first(pixels))
        x = self.used_twice_norm(self.used_twice(self.used_twice(x)))
        tapped = self.tapped(x)
        x = self.tapped_norm(tapped) + tapped
        x = self.changed_norm(self.changed(x).relu_())
        return {"feature_maps": [self.alone_norm(x.relu())]}


class Maps(dict):
    feature_maps = property(lambda self: self["feature_maps"])


def test_a_pair_that_does_not_fold_is_left():
    torch.manual_seed(0)
    backbone = DetrConvEncoder(CONFIGS["timm"]())
    backbone.model = Awkward()
    backbone.model.register_forward_hook(lambda _module, _inputs, output: Maps(output))
    lived_in(backbone)
    pixels = torch.randn(1, 3, 32, 32)
    folded = folded_trunk(backbone)
    kept = [name for name, module in folded.model.named_children() if isinstance(module, DetrFrozenBatchNorm2d)]
    assert kept == ["used_twice_norm", "tapped_norm", "changed_norm", "alone_norm"]
    torch.testing.assert_close(maps(folded, pixels)[0], maps(backbone, pixels)[0], rtol=0, atol=1e-5)


class NeverCastOnItsWay(TorchFunctionMode):
    """An Apple GPU has no float64, and `tensor.to("cpu", torch.float64)` was zeros there (pytorch#197715)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        if func.__name__ == "to" and any(isinstance(value, torch.device) for value in given):
            assert len({torch.float64, args[0].dtype} & set(given)) <= (args[0].dtype in given)
        return func(*args, **(kwargs or {}))


def test_no_weight_is_cast_on_its_way_between_devices():
    backbone = lived_in(DetrConvEncoder(CONFIGS["timm"]()))
    with pytest.raises(AssertionError), NeverCastOnItsWay():
        copy.deepcopy(backbone).to("cpu", torch.float64)
    with NeverCastOnItsWay():
        folded_trunk(backbone, dtype=torch.bfloat16)


def test_hooks_of_a_model_on_several_devices_stay_with_it():
    """accelerate's, of `device_map`: in the copy they would send each layer's input to where the layer was."""
    pixels = torch.randn(1, 3, 64, 64)
    backbone = lived_in(DetrConvEncoder(CONFIGS["timm"]())).eval()
    expected = maps(folded_trunk(backbone), pixels)
    add_hook_to_module(backbone, AlignDevicesHook(execution_device="cpu", io_same_device=True), append=True)
    for layer in [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]:
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu"), append=True)
    folded = folded_trunk(backbone)
    assert not [name for name, module in folded.named_modules() if hasattr(module, "_hf_hook")]
    assert hasattr(backbone, "_hf_hook")
    assert not norms(folded)
    for map_, other in zip(maps(folded, pixels), expected, strict=True):
        assert torch.equal(map_, other)
