"""What becomes of the class head's rows. Expected rows are the source's own, or their mean worked out here."""

import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import noise

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model.checkpoints import Carried, carry_classes, strengthen_attention
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.preprocess import Preprocess

pytestmark = pytest.mark.bits

THING, STUFF = True, False
TARGET = LabelSpace(
    [Category("sky", STUFF), Category("helmet", THING), Category("pipe", THING), Category("gravel", STUFF)]
)


def model_of(tiny_config, **changes):
    torch.manual_seed(1)
    model = DetrForPanopticSegmentation(tiny_config(**changes))
    torch.nn.init.normal_(model.detr.class_labels_classifier.weight)
    torch.nn.init.normal_(model.detr.class_labels_classifier.bias)
    return model


def rows_of(model):
    head = model.detr.class_labels_classifier
    return torch.cat([head.weight, head.bias[:, None]], 1).detach().clone()


def test_rows_of_known_names_and_of_no_object_are_carried_bit_by_bit(tiny_config, space, caplog):
    model = model_of(tiny_config)
    before = rows_of(model)  # pipe, crane, sky, mud, no object
    with caplog.at_level(logging.INFO):
        text = model.carry_classes(TARGET)
    after = rows_of(model)
    assert after.shape == (5, 33)
    assert torch.equal(after[0], before[2])
    assert torch.equal(after[2], before[0])
    assert torch.equal(after[4], before[4])
    torch.testing.assert_close(after[1], (before[0] + before[1]) / 2)  # a new thing: the mean of the things
    torch.testing.assert_close(after[3], (before[2] + before[3]) / 2)
    assert text == "carried 2 classes, 2 new: helmet, gravel; 2 left behind"
    assert text in caplog.text


def test_the_configuration_follows(tiny_config, pixels):
    model = model_of(tiny_config)
    model.settings = model.settings
    model.carry_classes(TARGET)
    assert model.label_space == TARGET
    assert model.config.num_labels == 4
    assert model.detr.config.id2label == {0: "sky", 1: "helmet", 2: "pipe", 3: "gravel"}
    assert model.config.label_ids_to_fuse == [0, 3]
    assert model.config.hf_detr_panoptic["threshold"] == 0.85
    assert model(pixels(1, 3, 64, 64)).logits.shape == (1, 9, 5)


def test_rows_come_out_of_a_checkpoint_with_holes(tiny_config):
    names = {column: f"LABEL_{column}" for column in range(250)} | {1: "person", 184: "sky-other-merged", 200: "cat"}
    model = model_of(tiny_config, space=None, id2label=names)
    before = rows_of(model)
    target = LabelSpace([Category("cat", THING), Category("helmet", THING), Category("sky-other-merged", STUFF)])
    model.carry_classes(target)
    after = rows_of(model)
    assert torch.equal(after[0], before[200])
    assert torch.equal(after[2], before[184])
    assert torch.equal(after[3], before[250])
    torch.testing.assert_close(after[1], (before[1] + before[200]) / 2)  # holes are nobody's kin


def test_coco_onto_its_own_250_columns(tiny_config):
    coco = LabelSpace.coco()
    names = dict(enumerate(["N/A"] * 250)) | {column + 7: name for column, name in enumerate(coco.names)}
    model = model_of(tiny_config, space=None, id2label=names)
    before = rows_of(model)
    assert model.carry_classes(coco) == "carried 133 classes, 0 new"
    assert torch.equal(rows_of(model), before[[*range(7, 140), 250]])
    assert model.label_space.columns == tuple(range(133))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 5))
def test_a_new_class_never_takes_more_than_the_average_of_its_kind(seed, scale):
    head = torch.nn.Linear(8, 6)
    model = SimpleNamespace(detr=SimpleNamespace(class_labels_classifier=head), config=SimpleNamespace())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(torch.randn(6, 8, generator=generator) * scale)
        head.bias.copy_(torch.randn(6, generator=generator) * scale)
    source = LabelSpace([*(Category(name, THING) for name in "abc"), *(Category(name, STUFF) for name in "xy")])
    target = LabelSpace([*source, Category("new thing", THING), Category("new stuff", STUFF)])
    carry_classes(model, source, target)
    states = torch.randn(50, 8, generator=generator)
    claims = model.detr.class_labels_classifier(states).double().softmax(-1)
    assert (claims[:, 5] <= claims[:, :3].mean(1) * (1 + 1e-5)).all()
    assert (claims[:, 6] <= claims[:, 3:5].mean(1) * (1 + 1e-5)).all()


def test_with_no_kin_the_mean_of_all(tiny_config):
    space = LabelSpace([Category("pipe", THING), Category("crane", THING)])
    model = model_of(tiny_config, space=space)
    before = rows_of(model)
    model.carry_classes(LabelSpace([Category("fog", STUFF)]))
    torch.testing.assert_close(rows_of(model)[0], before[:2].mean(0))


def test_half_precision_training_flags_and_devices_stay(tiny_config):
    model = model_of(tiny_config).to(torch.bfloat16)
    model.freeze("heads")
    model.carry_classes(TARGET)
    head = model.detr.class_labels_classifier
    assert head.weight.dtype == torch.bfloat16
    assert not head.weight.requires_grad


def test_spaces_that_do_not_fit(tiny_config):
    model = model_of(tiny_config)
    with pytest.raises(ModelError, match="class column 132, the checkpoint has 4"):
        model.carry_classes(TARGET, source=LabelSpace.coco())
    with pytest.raises(ModelError, match="empty"):
        model.carry_classes(LabelSpace([]))


def test_words():
    assert str(Carried(("a",), (), ())) == "carried 1 class, 0 new"
    assert str(Carried((), ("x", "y"), ("a",))) == "carried 0 classes, 2 new: x, y; 1 left behind"


def test_only_the_attention_channels_are_strengthened(tiny_config):
    model = model_of(tiny_config)
    before = model.mask_head.conv1.conv.weight.detach().clone()
    strengthen_attention(model, 7.0)
    after = model.mask_head.conv1.conv.weight
    assert torch.equal(after[:, :32], before[:, :32])
    assert torch.equal(after[:, 32:], before[:, 32:] * 7)
    assert after.shape[1] == 40


def test_what_was_renamed_or_joined_is_not_forgotten(tiny_config):
    """pipe is called hose now, and pipe is the person's own; sky and mud became one, crane stayed."""
    model = model_of(tiny_config)
    before = rows_of(model)  # pipe, crane, sky, mud, no object
    target = LabelSpace(Category(name, name != "ground") for name in ("hose", "crane", "ground", "pipe"))
    origins = {"hose": ["pipe"], "ground": ["sky", "mud"], "elsewhere": ["crane"]}
    text = model.carry_classes(target, origins={name: origins[name] for name in ("hose", "ground")})
    after = rows_of(model)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    torch.testing.assert_close(after[2], before[2] + before[3] - (before[0] + before[1]) / 2)  # less the average other
    torch.testing.assert_close(after[3], (before[0] + before[1]) / 2)  # new: the mean of the things
    assert torch.equal(after[4], before[4])
    assert text == "carried 3 classes, 1 new: pipe"


def test_a_joined_class_is_as_probable_as_its_members_were_on_photos_that_it_sees(tiny_config):
    """Against the sum of the members' own probabilities, on a photo like those that it was fitted on."""
    model = model_of(tiny_config)
    model.image_processor = Preprocess(shortest_edge=64, longest_edge=96)
    inputs = model.image_processor(images=noise(99), return_tensors="pt")
    target = LabelSpace([Category("pipe", THING), Category("crane", THING), Category("ground", STUFF)])
    with torch.no_grad():
        before = model.eval()(**inputs).logits.softmax(-1)[0]
        model.carry_classes(target, origins={"ground": ["sky", "mud"]}, photos=[noise(seed) for seed in range(8)])
        after = model(**inputs).logits.softmax(-1)[0]
    joined = torch.stack([before[:, 0], before[:, 1], before[:, 2] + before[:, 3], before[:, 4]], 1)
    torch.testing.assert_close(after, joined, atol=0.02, rtol=0)
