"""Photos to maps. The reference is the long way round: stock forward on each photo alone, then `postprocess`."""

import io
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrForSegmentation

from hf_detr_panoptic.errors import ImageError, ModelError, RecipeError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model import segment as module
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.postprocess import choose_queries, postprocess
from hf_detr_panoptic.panoptic_map import PanopticMap
from hf_detr_panoptic.preprocess import Preprocess
from hf_detr_panoptic.settings import Postprocess

pytestmark = pytest.mark.bits


@pytest.fixture
def model(stock_model):
    stock = stock_model(space=LabelSpace(Category(name, name != "sky") for name in ("pipe", "crane", "sky", "mud")))
    with torch.no_grad():
        stock.detr.class_labels_classifier.weight.mul_(3)  # queries differ in class,
        stock.detr.class_labels_classifier.bias.copy_(torch.tensor([0, 0, 0, 0, -5]))  # few find nothing,
        stock.mask_head.conv1.conv.weight[:, -8:].mul_(20)  # and their masks differ
        stock.mask_head.output_conv.weight.mul_(20)
    ours = DetrForPanopticSegmentation(stock.config).eval()
    ours.load_state_dict(stock.state_dict())
    ours.image_processor = Preprocess(shortest_edge=64, longest_edge=100)
    ours.settings = Postprocess(threshold=0.3, min_area=2)
    return ours


def photo(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@torch.no_grad()
def reference(model, image, settings):
    stock = DetrForSegmentation(model.config).eval()
    stock.load_state_dict(model.state_dict())
    found = stock(model.preprocess(image)[None])
    (kept,) = choose_queries(found.logits, model.label_space, settings.threshold)
    masks = found.pred_masks[0, kept.queries]
    panoptic = postprocess(kept, masks, model.label_space, (image.height, image.width), settings)
    assert len(panoptic.segments) > 2  # else the comparison says little
    return panoptic


def assert_alike(found, expected):
    assert isinstance(found, PanopticMap)
    assert found.ids.shape == expected.ids.shape
    assert (found.ids != expected.ids).mean() < 0.002  # rounding may turn a pixel on a border
    assert [(s.id, s.label) for s in found.segments] == [(s.id, s.label) for s in expected.segments]
    for one, other in zip(found.segments, expected.segments, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-3)
        assert one.source == "model"


def test_photos_of_many_sizes_come_back_in_order(model):
    photos = [photo(60, 80, 0), photo(90, 70, 1), photo(60, 80, 2), photo(64, 64, 3), photo(120, 160, 4)]
    found = model.segment(photos, batch_size=2)
    for one, image in zip(found, photos, strict=True):
        assert one.ids.shape == (image.height, image.width)
        assert_alike(one, reference(model, image, model.settings))
    assert len({one.ids.tobytes() for one in found}) == len(photos)


def test_nothing_is_padded(model, monkeypatch):
    batches = []
    real = module.segment_batch

    def seen(model, pixel_values, sizes, settings, **kwargs):
        batches.append((tuple(pixel_values.shape), sizes))
        return real(model, pixel_values, sizes, settings, **kwargs)

    monkeypatch.setattr(module, "segment_batch", seen)
    model.segment([photo(60, 80), photo(80, 60), photo(120, 160), photo(60, 80), photo(61, 80)], batch_size=2)
    # 60×80 and 120×160 become 64×85; 61×80 becomes 64×83.
    assert batches == [
        ((2, 3, 64, 85), [(60, 80), (120, 160)]),
        ((1, 3, 85, 64), [(80, 60)]),
        ((1, 3, 64, 85), [(60, 80)]),
        ((1, 3, 64, 83), [(61, 80)]),
    ]


def test_photos_do_not_wait_forever(model, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    opened = []
    photos = (opened.append(place) or photo(60, 60 + 5 * place, place) for place in range(8))
    batches = module._batches(model, photos, batch_size=2)
    assert next(batches)[0] == [0]
    assert opened == [0, 1, 2, 3]  # the rest is not even read yet
    assert sorted(place for places, *_ in batches for place in places) == list(range(1, 8))


def test_every_kind_of_photo(model, tmp_path):
    image = photo(60, 80)
    array = np.asarray(image)
    image.save(tmp_path / "photo.png")
    (expected,) = model.segment(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    file = tmp_path / "photo.png"
    stored = file.read_bytes()
    kinds = (array, tensor, file, str(file), stored, io.BytesIO(stored), [stored], [image], (x for x in [image]))
    for given in kinds:
        assert model.segment(given) == [expected]
    for one in model.segment(tensor[None].repeat(2, 1, 1, 1)):
        assert_alike(one, expected)
    assert model.segment(image.convert("RGBA")) == [expected]
    assert model.segment([]) == []


def test_a_real_photo(model, shared_data):
    path = shared_data / "transformers_fixtures" / "COCO" / "000000039769.png"
    (found,) = model.segment(path)
    assert found.ids.shape == (480, 640)
    assert len(found.segments) > 1
    assert_alike(found, reference(model, Image.open(path).convert("RGB"), model.settings))


@pytest.mark.parametrize(("given", "message"), [(3, "int is not a photo"), ([3], "int is not a photo")])
def test_what_is_no_photo(model, given, message):
    with pytest.raises((ModelError, ImageError), match=message):
        model.segment(given)


def test_arguments_override_what_the_model_remembers(model):
    image = photo(60, 80)
    assert model.segment(image, threshold=1.0)[0].segments == ()
    assert model.segment(image, fill="argmax")[0].void_area == 0
    assert model.segment(image, mask_threshold=1.0)[0].void_area == 60 * 80
    assert model.segment(image, min_area=60 * 80 + 1)[0].void_area == 60 * 80
    with pytest.raises(ModelError, match="'bf16'"):
        model.segment(image, precision="bf61")
    with pytest.raises(ModelError, match="batch_size"):
        model.segment(image, batch_size=0)


def test_bf16_comes_close(model):
    image = photo(60, 80)
    (exact,), (rough,) = model.segment(image), model.segment(image, precision="bf16")
    assert exact != rough
    # Many masks and classes of a random model are all but equal: which one wins is left open, that one does is not.
    assert ((exact.ids > 0) != (rough.ids > 0)).mean() < 0.05
    scores = [sorted(segment.score for segment in found.segments) for found in (exact, rough)]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)


def test_no_query_passes_and_no_mask_is_computed(model, monkeypatch):
    monkeypatch.setattr(module, "shared_mask_features", pytest.fail)
    assert model.segment(photo(60, 80), threshold=1.0)[0].void_area == 4800


# --- the folded copy


def test_a_changed_weight_is_seen(model):
    image = photo(60, 80)
    (before,) = model.segment(image)
    weight = model.detr.model.backbone.model.layer3[0].conv1.weight
    with torch.no_grad():
        weight.mul_(-1)
    (after,) = model.segment(image)
    assert after != before
    assert_alike(after, reference(model, image, model.settings))


@pytest.mark.parametrize("change", ["fused", "data"])
def test_a_change_that_raises_no_version_is_seen(model, change):
    weight = next(weight for weight in model.detr.model.backbone.parameters() if weight.ndim == 4)
    weight.requires_grad_(True)
    first = model._fast.backbone(model, torch.float32)
    version = weight._version
    if change == "fused":
        weight.grad = torch.ones_like(weight)
        torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    else:
        weight.data.mul_(1.5)
        assert weight._version == version
    again = model._fast.backbone(model, torch.float32)
    assert again is not first
    assert model._fast.backbone(model, torch.float32) is again


def test_inference_mode(model):
    image = photo(48, 64)
    (expected,) = model.segment([image], threshold=0.0)
    model._fast.clear()
    with torch.inference_mode():
        (found,) = model.segment([image], threshold=0.0)
        (of_a_copy,) = deepcopy(model).segment([image], threshold=0.0)  # its weights are inference tensors
    assert_alike(found, expected)
    assert_alike(of_a_copy, expected)
    assert_alike(*model.segment([image], threshold=0.0), expected)


def test_a_loaded_state_is_seen_and_an_unchanged_one_is_not_folded_again(model, monkeypatch):
    calls = []
    real = module.folded_trunk
    monkeypatch.setattr(module, "folded_trunk", lambda *a, **k: calls.append(1) or real(*a, **k))
    model.segment(photo(60, 80))
    model.segment(photo(60, 80, 1))
    assert len(calls) == 1
    model.load_state_dict(model.state_dict())
    model.segment(photo(60, 80))
    assert len(calls) == 2


def test_training_frees_the_copy_and_segment_gives_the_mode_back(model):
    keys = set(model.state_dict())
    model.segment(photo(60, 80))
    assert model._fast._made
    assert set(model.state_dict()) == keys
    assert not deepcopy(model)._fast._made
    assert not model.training
    model.train()
    assert not model._fast._made
    model.segment(photo(60, 80))
    assert model.training


def test_dropout_is_off_while_segmenting(tiny_config, model):
    config = deepcopy(model.config)
    config.dropout = 0.9
    noisy = DetrForPanopticSegmentation(config)
    noisy.load_state_dict(model.state_dict())
    noisy.image_processor = model.image_processor
    noisy.train()
    assert noisy.segment(photo(60, 80)) == model.segment(photo(60, 80))


# --- fingerprint


def test_the_fingerprint_is_of_all_that_decides(model):
    first = model.fingerprint
    assert first == deepcopy(model).fingerprint
    assert len(first) == 16
    seen = {first}
    model.settings = Postprocess(min_area=99)
    seen.add(model.fingerprint)
    model.image_processor = Preprocess(shortest_edge=70, longest_edge=100)
    seen.add(model.fingerprint)
    with torch.no_grad():
        model.bbox_attention.q_proj.bias[3] += 1e-6
    seen.add(model.fingerprint)
    assert len(seen) == 4


# --- masks kept for other thresholds


def assert_same_but_for_ties(found, expected, kept, threshold):
    """The number of queries changes how products are added up, on some processors: see `KeptMasks`."""
    masks = kept.mask_logits[np.array(kept.kept.scores, dtype=np.float32) > np.float32(threshold)]
    masks = torch.cat([masks, masks.new_full((2, *kept.mask_logits.shape[1:]), -1e9)])  # so that there are two
    values = torch.nn.functional.interpolate(masks[None], size=kept.photo_size, mode="bilinear")[0]
    limit = 0.0 if kept.settings.fill == "void" else -1e8  # 0 is the logit of the mask_threshold, 0.5
    first, second = values.topk(2, dim=0).values.numpy()
    tied = (first > limit) & (first - second < 2e-5) | (abs(first - limit) < 2e-5)
    assert tied.mean() < 0.01
    assert np.array_equal(found.ids[~tied], expected.ids[~tied])
    assert [(s.id, s.label, s.source) for s in found.segments] == [
        (s.id, s.label, s.source) for s in expected.segments
    ]
    assert [s.score for s in found.segments] == pytest.approx([s.score for s in expected.segments], abs=1e-3)


def test_kept_masks_give_the_map_of_every_threshold_without_the_model(model, monkeypatch):
    for seed, size in enumerate([(60, 80), (91, 70), (150, 200)]):
        image = photo(*size, seed)
        kept = module.keep_masks(model, image, floor=0.3)
        thresholds = [0.3, *sorted(kept.kept.scores), 1.0]
        expected = [model.segment(image, threshold=threshold)[0] for threshold in thresholds]
        assert len({one.ids.tobytes() for one in expected}) > 2
        with monkeypatch.context() as patch:
            for name in ("detect", "masks_for"):
                patch.setattr(module, name, pytest.fail)
            found = [kept.map(threshold) for threshold in thresholds]
        for one, other, threshold in zip(found, expected, thresholds, strict=True):
            assert_same_but_for_ties(one, other, kept, threshold)
        assert found[-1].segments == ()


def test_kept_masks_go_by_what_the_model_remembers(model):
    model.settings = Postprocess(threshold=0.5, fill="argmax", min_area=200)
    model.train()
    kept = module.keep_masks(model, np.asarray(photo(60, 80)), floor=0.2)
    assert model.training
    model.eval()
    (expected,) = model.segment(photo(60, 80))
    assert_same_but_for_ties(kept.map(0.5), expected, kept, 0.5)
    assert kept.map(0.5).void_area == 0


def test_a_threshold_below_the_floor_is_refused(model):
    kept = module.keep_masks(model, photo(60, 80), floor=0.5)
    with pytest.raises(ModelError, match=r"0\.4 is below 0\.5"):
        kept.map(0.4)
    with pytest.raises(RecipeError, match="at least 0 and at most 1"):
        kept.map(1.5)
    with pytest.raises(RecipeError, match="at least 0 and at most 1"):
        module.keep_masks(model, photo(60, 80), floor=-1)
