"""Checkpoints in and out: stock transformers writes them and must read ours."""

import json
import logging
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation, DetrImageProcessor, pipeline

from hf_detr_panoptic.errors import HfDetrPanopticError, LabelError, ModelError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model import checkpoints as loading
from hf_detr_panoptic.model.checkpoints import ATTENTION_SCALE
from hf_detr_panoptic.model.criterion import losses_of, write_losses
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Losses, Postprocess

pytestmark = pytest.mark.bits

load = DetrForPanopticSegmentation.from_pretrained


def keys_of(folder):
    return set(load_file(folder / "model.safetensors"))


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.fixture(params=["timm", "dilated", "hf"])
def stock(request, stock_model):
    return stock_model(request.param)


# --- in


def test_a_stock_panoptic_checkpoint_with_its_old_keys(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    assert any(".lay1." in key for key in keys_of(tmp_path))
    assert_same_weights(load(tmp_path), stock)


def test_a_backbone_is_not_taken_for_a_checkpoint():
    with pytest.raises(ModelError, match=r"'resnet50' is a backbone, not a DETR.*`model: {backbone: resnet50}`"):
        load("resnet50")


def test_a_checkpoint_with_new_keys(stock, tmp_path):
    stock.save_pretrained(tmp_path, save_original_format=False)
    assert any(".conv1.conv." in key for key in keys_of(tmp_path))
    assert_same_weights(load(tmp_path), stock)


def test_a_detection_checkpoint_gets_a_fresh_mask_head(tiny_config, tmp_path, caplog):
    torch.manual_seed(0)
    detector = DetrForObjectDetection(tiny_config())
    detector.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        model = load(tmp_path)
    assert "the mask head starts fresh" in caplog.text
    assert_same_weights(model.detr, detector)
    weight = model.mask_head.conv1.conv.weight
    attention, features = weight[:, -8:].std().item(), weight[:, :-8].std().item()
    assert attention / features == pytest.approx(ATTENTION_SCALE, rel=0.1)


def test_a_detection_checkpoint_comes_out_as_a_panoptic_one(tiny_config, stock_model, tmp_path):
    DetrForObjectDetection(tiny_config()).save_pretrained(tmp_path / "detection")
    load(tmp_path / "detection").save_pretrained(tmp_path / "ours")
    stock_model().save_pretrained(tmp_path / "stock")
    assert keys_of(tmp_path / "ours") == keys_of(tmp_path / "stock")


@pytest.mark.parametrize("wanted", [None, torch.float16, torch.bfloat16, "auto"])
def test_half_precision_is_widened_unless_asked_for(stock_model, tmp_path, wanted):
    stock_model().half().save_pretrained(tmp_path)
    model = load(tmp_path, **({} if wanted is None else {"dtype": wanted}))
    expected = {None: torch.float32, "auto": torch.float16}.get(wanted, wanted)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_configuration_fields_by_name_and_frozen_parts(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path)
    model = load(tmp_path, dropout=0.25, auxiliary_loss=True)
    assert model.config.dropout == 0.25
    assert model.detr.model.encoder.layers[0].dropout == 0.25
    assert model.auxiliary_loss
    assert not any(p.requires_grad for name, p in model.named_parameters() if "backbone.model.layer1" in name)
    assert all(p.requires_grad for name, p in model.named_parameters() if "backbone.model.layer2" in name)
    assert not model.training


def test_loose_timm_keys_of_older_configurations_ask_no_network(stock_model, tmp_path, monkeypatch):
    stock = stock_model("dilated")
    stock.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["backbone_config"]
    config |= {
        "backbone": "test_resnet",
        "backbone_kwargs": {"in_chans": 3, "out_indices": [1, 2, 3, 4]},
        "use_timm_backbone": True,
        "use_pretrained_backbone": True,
        "dilation": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert_same_weights(load(tmp_path), stock)


def test_the_tutorials_way_to_other_classes(stock_model, tmp_path):
    """`id2label`, or `num_labels`, with `ignore_mismatched_sizes`: rows of names that the checkpoint knows stay."""
    stock = stock_model()
    stock.save_pretrained(tmp_path)
    known = next(name for name in stock.config.id2label.values())
    names = {0: "something new", 1: known}
    model = load(
        tmp_path, id2label=names, label2id={"something new": 0, known: 1}, stuff=[], ignore_mismatched_sizes=True
    )
    assert model.config.id2label == names
    assert torch.equal(model.detr.class_labels_classifier.weight[1], stock.detr.class_labels_classifier.weight[0])
    assert model.detr.class_labels_classifier.out_features == 3
    two = load(tmp_path, num_labels=2)
    assert two.config.num_labels == 2
    assert two.detr.class_labels_classifier.out_features == 3
    same = load(tmp_path, id2label={label: f"class {label}" for label in stock.config.id2label})
    assert same.config.id2label[0] == "class 0"
    assert_same_weights(same, stock)
    with pytest.raises(ModelError, match="of another size"):
        load(tmp_path, num_queries=3)
    assert load(tmp_path, num_queries=3, ignore_mismatched_sizes=True).config.num_queries == 3
    with pytest.raises(TypeError, match="unexpected keyword"):
        load(tmp_path, drop_out=0.1)


def test_coefficients_and_auxiliary_loss_that_were_asked_for(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path / "stock")
    model = load(tmp_path / "stock", auxiliary_loss=True)
    write_losses(Losses(mask=2.0), model.config)
    model.save_pretrained(tmp_path / "ours")
    again = load(tmp_path / "ours", mask_loss_coefficient=50)
    assert (losses_of(again.config).mask, losses_of(again.config).bbox) == (50, Losses().bbox)
    assert again.auxiliary_loss
    assert not load(tmp_path / "ours", auxiliary_loss=False).auxiliary_loss
    assert not DetrConfig.from_pretrained(tmp_path / "ours").auxiliary_loss  # stock would be another network


# --- errors


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", lambda whole: whole[: len(whole) // 2]),
        ("model.safetensors", lambda whole: b"\xff" * 64 + whole[64:]),
        ("model.safetensors", lambda whole: b""),
        ("config.json", lambda whole: whole[: len(whole) // 2]),
        ("config.json", lambda whole: b"[]"),
        ("config.json", lambda whole: whole.replace(b'"d_model": ', b'"d_model": "x", "_": ')),
        ("config.json", lambda whole: whole.replace(b'"id2label": {', b'"id2label": {"a": "b", ')),
        *(
            ("config.json", lambda whole, rate=rate: whole.replace(b'"dropout": 0.0', b'"dropout": ' + rate))
            for rate in (b"2147483648", b'"x"', b"NaN")
        ),
        ("preprocessor_config.json", lambda whole: b"{"),
        ("preprocessor_config.json", lambda whole: b'{"size": "large", "image_mean": 3}'),
    ],
)
def test_a_damaged_folder_is_one_error(stock_model, tmp_path, file, content):
    stock_model().save_pretrained(tmp_path)
    DetrImageProcessor().save_pretrained(tmp_path)
    whole = (tmp_path / file).read_bytes()
    assert content(whole) != whole
    (tmp_path / file).write_bytes(content(whole))
    with pytest.raises(HfDetrPanopticError) as error:
        load(tmp_path)
    assert error.value.where
    assert error.value.fix


def test_weights_that_are_not_numbers_are_refused(stock_model, tmp_path):
    stock = stock_model()
    stock.mask_head.conv2.conv.weight.data[0, 0, 0, 0] = float("nan")
    stock.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"1 tensor of weights with NaN or infinity: mask_head\.conv2"):
        load(tmp_path)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("detr.class_labels_classifier.bias"), "1 missing: detr.class_labels_classifier.bias"),
        (lambda w: w.pop("mask_head.lay1.weight"), "mask_head.conv1.conv.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (
            lambda w: w.update({"detr.class_labels_classifier.bias": torch.zeros(9)}),
            "class_labels_classifier.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(stock_model, tmp_path, change, message):
    stock_model().save_pretrained(tmp_path)
    edit_weights(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_counters_of_batches_are_no_weights(stock_model, tmp_path):
    stock = stock_model()
    stock.save_pretrained(tmp_path)
    name = "detr.model.backbone.conv_encoder.model.layer2.0.bn1.num_batches_tracked"
    edit_weights(tmp_path, lambda w: w.update({name: torch.tensor(3)}))
    assert_same_weights(load(tmp_path), stock)


def test_another_model_family_is_refused(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "conditional_detr"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="conditional_detr, not a DETR"):
        load(tmp_path)


def test_a_folder_without_configuration_and_a_path_that_is_none(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(ModelError, match="is not a folder"):
        load(tmp_path / "nowhere")


def test_offline_a_name_of_the_hub_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(ModelError, match="hf download facebook/detr-resnet-50-panoptic"):
        load("facebook/detr-resnet-50-panoptic", cache_dir=tmp_path)


def test_without_a_network_nobody_retries(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading.socket, "create_connection", refuse)
    with pytest.raises(ModelError, match="cannot be reached"):
        load("facebook/detr-resnet-50-panoptic", cache_dir=tmp_path)


def test_a_name_that_the_hub_does_not_know(monkeypatch):
    def unknown(*_, **__):  # the words of transformers
        raise OSError("nobody/nothing is not a local folder and is not a valid model identifier\nIf this is private")

    monkeypatch.setattr(loading, "_hub_answers", lambda: True)
    monkeypatch.setattr(loading, "cached_file", unknown)
    with pytest.raises(ModelError, match=r"cannot be found .*model identifier\)\. Check the name") as caught:
        load("nobody/nothing")
    assert caught.value.where == "nobody/nothing"


def test_kinds_that_nobody_knows_are_asked_for(stock_model, tmp_path):
    stock = stock_model(space=None, id2label={0: "pipe", 1: "mud"})
    stock.save_pretrained(tmp_path)
    with pytest.raises(LabelError, match="pipe, mud are things or stuff"):
        load(tmp_path, label_space=LabelSpace([Category("pipe", True)]))
    model = load(tmp_path, stuff=["mud"])
    assert [category.isthing for category in model.label_space] == [True, False]
    model.save_pretrained(tmp_path / "known")
    assert load(tmp_path / "known").label_space == model.label_space


# --- out


def test_plain_transformers_loads_what_we_save(stock, tmp_path, pixels):
    stock.save_pretrained(tmp_path / "stock")
    load(tmp_path / "stock", auxiliary_loss=True).save_pretrained(tmp_path / "ours")
    again, info = DetrForSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert {name: len(found) for name, found in info.items()} == dict.fromkeys(info, 0)
    assert again.config.architectures == ["DetrForSegmentation"]
    assert keys_of(tmp_path / "ours") == keys_of(tmp_path / "stock")
    with torch.no_grad():
        expected, found = stock(pixels(1, 3, 97, 64)), again(pixels(1, 3, 97, 64))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.pred_masks, expected.pred_masks)


def test_a_model_made_from_a_configuration_saves_old_keys_too(tiny_config, stock_model, tmp_path):
    DetrForPanopticSegmentation(tiny_config()).save_pretrained(tmp_path / "ours")
    stock_model().save_pretrained(tmp_path / "stock")
    assert keys_of(tmp_path / "ours") == keys_of(tmp_path / "stock")


def test_a_saved_model_remembers(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path / "stock")
    space = LabelSpace([Category("mud", False, (1, 2, 3), "custom", "ground"), Category("pipe", True)])
    model = load(tmp_path / "stock", label_space=space, image_processor=Preprocess(shortest_edge=64, longest_edge=99))
    model.settings = Postprocess(threshold=0.6, mask_threshold=0.4, min_area=9, fill="argmax")
    model.save_pretrained(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.label_space == space
    assert again.label_space[0] == space[0]
    assert again.settings == model.settings
    assert again.preprocess == model.preprocess
    assert again.fingerprint == model.fingerprint
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["label_ids_to_fuse"] == [0]
    assert config["hf_detr_panoptic"]["format"] == 1
    # Plain transformers keeps what it does not know.
    DetrForSegmentation.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "through")
    assert load(tmp_path / "through").settings == model.settings


def test_a_checkpoint_with_holes_keeps_its_columns_and_its_settings(stock_model, tmp_path):
    holes = {0: "N/A", 1: "person", 2: "LABEL_2", 3: "cat", 4: "sky-other-merged"}
    stock_model(space=None, id2label=holes).save_pretrained(tmp_path / "stock")
    model = load(tmp_path / "stock")
    assert model.label_space.names == ("person", "cat", "sky-other-merged")
    assert model.label_space.columns == (1, 3, 4)
    model.settings = Postprocess(min_area=30)
    model.save_pretrained(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.label_space.columns == (1, 3, 4)
    assert again.settings.min_area == 30
    assert again.config.label_ids_to_fuse == [4]


def test_a_stock_image_processor_lies_beside_the_weights(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path / "stock")
    DetrImageProcessor(size={"shortest_edge": 50, "longest_edge": 90}, image_std=[0.5, 0.5, 0.5]).save_pretrained(
        tmp_path / "stock"
    )
    model = load(tmp_path / "stock")
    assert model.preprocess.shortest_edge == 50
    model.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "DetrImageProcessor"
    processor = DetrImageProcessor.from_pretrained(tmp_path / "ours")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    assert torch.equal(processor(photo, return_tensors="pt")["pixel_values"][0], model.preprocess(photo))


def test_the_pipeline_takes_it(stock_model, tmp_path):
    stock_model().save_pretrained(tmp_path / "stock")
    model = load(tmp_path / "stock", image_processor=Preprocess(shortest_edge=64, longest_edge=99))
    model.save_pretrained(tmp_path / "ours")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    found = pipeline("image-segmentation", model=str(tmp_path / "ours"))(photo, threshold=0.0)
    assert {segment["label"] for segment in found} <= set(model.label_space.names)
    assert all(segment["mask"].size == photo.size for segment in found)


def test_saving_does_not_push(tiny_config, tmp_path):
    with pytest.raises(ModelError, match="push_to_hub"):
        DetrForPanopticSegmentation(tiny_config()).save_pretrained(tmp_path, push_to_hub=True)


def test_a_configuration_of_coco_alone_is_enough(tiny_config):
    model = DetrForPanopticSegmentation(DetrConfig(**tiny_config().to_dict()), LabelSpace.coco())
    assert model.detr.class_labels_classifier.out_features == 134
    assert model.label_space == LabelSpace.coco()


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "all_proxy"])
def test_the_hub_is_reached_through_the_proxy_that_is_named(monkeypatch, name):
    for each in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(loading, "_SECONDS_FOR_A_HANDSHAKE", 5)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        assert loading._hub_answers()
