"""A fresh transformer on a pretrained backbone: its maps are timm's own, before and after stock has loaded it."""

import json
import pickle

import pytest
import timm
import torch
from made import SPACE
from safetensors.torch import save_file
from transformers import DetrForSegmentation, DetrImageProcessor

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model.from_backbone import from_backbone, load_backbone
from hf_detr_panoptic.settings import FromBackbone

pytestmark = pytest.mark.bits

SMALL = {"width": 32, "layers": 1, "queries": 9}


def pretrained(name):
    """timm's classifier, with weights that are not those it is drawn with."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim == 1:
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_maps_are_timms_and_stock_gives_the_same(name, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(pretrained(name).state_dict(), weights)
    model, words = from_backbone(FromBackbone(backbone=name, weights=weights, **SMALL), SPACE)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    known = pretrained(name).state_dict()
    with torch.no_grad():
        # What the ends of the levels give in the classifier itself.
        whole = timm.create_model(name)
        whole.load_state_dict(known)
        ends = [info["module"] for info in whole.feature_info]
        expected = {}
        for end in ends:
            whole.get_submodule(end).register_forward_hook(lambda _, i, out, end=end: expected.update({end: out}))
        whole.eval()(x)
        maps = [feature for feature, _ in model.eval().detr.model.backbone(x, torch.ones(1, 64, 96))]
        assert [feature.shape[-2:] for feature in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        for feature, end in zip(maps, ends[-4:], strict=True):
            size = expected[end].abs().max().item()
            torch.testing.assert_close(feature, expected[end], rtol=0, atol=1e-5 * size)
        model.save_pretrained(tmp_path / "saved")
        stock = DetrForSegmentation.from_pretrained(tmp_path / "saved").eval()
        torch.testing.assert_close(stock(x).logits, model(x).logits, rtol=0, atol=1e-5)
    data = timm.data.resolve_model_data_config(whole)
    processor = DetrImageProcessor.from_pretrained(tmp_path / "saved")
    assert tuple(processor.image_mean) == data["mean"]
    assert tuple(processor.image_std) == data["std"]
    assert stock.config.num_queries == 9
    assert [stock.config.id2label[label] for label in range(4)] == list(SPACE.names)
    assert str(weights) in words
    assert "without its classifier" in words
    assert "11.7 box AP" in words


def test_the_same_seed_draws_the_same_weights(tmp_path):
    save_file(pretrained("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    start = FromBackbone(backbone="test_resnet", weights=tmp_path / "weights.safetensors", **SMALL)
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(from_backbone(start, SPACE)[0].state_dict())
    assert all(torch.equal(tensor, made[1][key]) for key, tensor in made[0].items())
    # As the paper's code draws them: N(0, 1), and xavier, whose deviation is √(2 / (in + out)).
    assert made[0]["detr.model.query_position_embeddings.weight"].std().item() == pytest.approx(1, abs=0.1)
    drawn = made[0]["detr.model.encoder.layers.0.mlp.fc1.weight"]
    assert drawn.std().item() == pytest.approx((2 / (32 + 256)) ** 0.5, rel=0.05)


def test_a_folder_with_weights_says_how_photos_were_prepared(tmp_path):
    save_file(pretrained("test_resnet").state_dict(), tmp_path / "model.safetensors")
    said = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    for cfg, mean, std in [
        (said, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        (said | {"std": ["a", "b", "c"]}, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5)),
        ("nonsense", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # timm's own for this one
    ]:
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
        backbone = load_backbone(FromBackbone(backbone="test_resnet", weights=tmp_path))
        assert (backbone.mean, backbone.std) == (mean, std)


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("code in a file of weights has run",))


def without(state, key):
    return {name: tensor for name, tensor in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: without(state, "layer1.0.conv1.weight"), "1 tensor missing: layer1.0.conv1.weight"),
        (lambda state: state | {"neck.weight": torch.ones(1)}, "1 tensor unknown: neck.weight"),
        (
            lambda state: state | {"layer1.0.conv1.weight": torch.ones(2, 2, 3, 3)},
            r"1 tensor of another size: layer1.0.conv1.weight \[2, 2, 3, 3\], not",
        ),
        (lambda state: state | {"evil": Exploit()}, "the weights cannot be read"),
        (lambda state: {name: tensor * torch.nan for name, tensor in state.items()}, "of weights with NaN"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, said):
    path = tmp_path / "weights.pth"
    torch.save(change(pretrained("test_resnet").state_dict()), path, pickle_module=pickle)
    with pytest.raises(ModelError, match=said):
        load_backbone(FromBackbone(backbone="test_resnet", weights=path))


def test_a_classifier_of_other_classes_is_left_aside(tmp_path):
    state = pretrained("test_resnet").state_dict() | {"fc.weight": torch.ones(7, 5), "fc.bias": torch.ones(7)}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    backbone = load_backbone(FromBackbone(backbone="test_resnet", weights=tmp_path / "weights.pth"))
    assert backbone.said.endswith("weights.pth, without its classifier (fc.bias, fc.weight)")


def test_what_is_no_backbone_is_told(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no backbone 'resnet5'. Did you mean 'resnet50'"):
        load_backbone(FromBackbone(backbone="resnet5"))
    with pytest.raises(ModelError, match="makes photos 16 times smaller, and DETR's mask head needs 4, 8, 16 and 32"):
        load_backbone(FromBackbone(backbone="test_vit"))
    with pytest.raises(ModelError, match="there is no file of weights"):
        load_backbone(FromBackbone(backbone="test_resnet", weights=tmp_path))
    monkeypatch.setattr("hf_detr_panoptic.model.checkpoints._hub_answers", lambda: False)
    with pytest.raises(ModelError, match=r"cannot be reached, and 'timm/test_resnet.r160_in1k'.*give `weights:`"):
        load_backbone(FromBackbone(backbone="test_resnet"))
