"""What stock transformers gets wrong and we get right: the same check on both.

`stock_fails(check, …, match=…)` passes as long as stock fails the check in the way that is named. When one of these
fails, the defect was mended upstream, and our way around it may go.
"""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from made import SPACE
from safetensors.torch import save_file
from transformers import DetrForObjectDetection, DetrForSegmentation, DetrImageProcessor

from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.model import modeling
from hf_detr_panoptic.model.from_backbone import from_backbone
from hf_detr_panoptic.model.modeling import DetrForPanopticSegmentation
from hf_detr_panoptic.model.parts import warn_of_lost_activations
from hf_detr_panoptic.model.postprocess import choose_queries, postprocess
from hf_detr_panoptic.settings import FromBackbone, Postprocess

pytestmark = pytest.mark.bits

NOT_NOTICED = {"error": pytest.fail.Exception, "match": "DID NOT RAISE"}


def stock_fails(check, *arguments, match, error=AssertionError):
    with pytest.raises(error, match=match):
        check(*arguments)


def ours_of(stock):
    model = DetrForPanopticSegmentation(stock.config).eval()
    model.load_state_dict(stock.state_dict())
    return model


# --- loading and saving


def test_a_subclass_keeps_its_mask_head(stock_model, tmp_path):
    class Subclass(DetrForSegmentation):
        pass

    stock = stock_model()
    stock.save_pretrained(tmp_path)

    def check(cls):
        loaded = cls.from_pretrained(tmp_path)
        assert torch.equal(loaded.mask_head.conv1.conv.weight, stock.mask_head.conv1.conv.weight), "another mask head"

    stock_fails(check, Subclass, match="another mask head")
    check(DetrForPanopticSegmentation)


def test_a_detection_checkpoint_is_loaded(tiny_config, tmp_path):
    detector = DetrForObjectDetection(tiny_config())
    detector.save_pretrained(tmp_path)

    def check(cls):
        weight = cls.from_pretrained(tmp_path).detr.class_labels_classifier.weight
        assert torch.equal(weight, detector.class_labels_classifier.weight), "other classes"

    stock_fails(check, DetrForSegmentation, match="other classes")
    check(DetrForPanopticSegmentation)


def test_missing_weights_raise(stock_model, tmp_path):
    from safetensors.torch import load_file, save_file

    stock_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["mask_head.lay3.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    def check(cls):
        with pytest.raises(ModelError, match=r"fpn_stages\.0\.refine\.conv\.weight"):
            cls.from_pretrained(tmp_path)

    stock_fails(check, DetrForSegmentation, **NOT_NOTICED)
    check(DetrForPanopticSegmentation)


def test_training_is_in_float32(stock_model, tmp_path):
    stock_model().half().save_pretrained(tmp_path)

    def check(cls):
        assert cls.from_pretrained(tmp_path).dtype == torch.float32

    stock_fails(check, DetrForSegmentation, match="torch.float16 == torch.float32")
    check(DetrForPanopticSegmentation)


# --- what trains


def test_stem_and_layer1_are_frozen_as_in_the_paper(tiny_config):
    def check(cls, backbone):
        model = cls(tiny_config(backbone))
        trains = {name: p.requires_grad for name, p in model.detr.model.backbone.model.named_parameters()}
        first = ("conv1.", "layer1.", "embedder.", "encoder.stages.0.")
        expected = {name: not name.startswith(first) for name in trains}
        assert trains == expected, f"{sum(trains.values())} of {len(trains)} train"

    stock_fails(check, DetrForSegmentation, "hf", match="^0 of .* train")
    for backbone in ("timm", "hf"):
        check(DetrForPanopticSegmentation, backbone)


def test_a_backbone_keeps_its_activations(tmp_path, caplog):
    """Norms of timm that hold the activation are norms of torch: stock puts its own in their place."""
    path, name = tmp_path / "weights.safetensors", "test_efficientnet"
    save_file(timm.create_model(name).state_dict(), path)
    start = FromBackbone(backbone=name, weights=path, width=32, layers=1, queries=9)

    def check(model):
        backbone = model.detr.model.backbone.model
        timms = timm.create_model(name, features_only=True)
        kept, every = (sum(isinstance(m, torch.nn.SiLU) for m in part.modules()) for part in (backbone, timms))
        assert kept == every, f"{kept} of {every} activations"

    ours, _ = from_backbone(start, SPACE)
    config = copy.deepcopy(ours.config)
    config.backbone_config.freeze_batch_norm_2d = False
    stock_fails(lambda cls: check(cls(config)), DetrForSegmentation, match="of .* activations")
    check(ours)
    check(DetrForSegmentation(ours.config))
    warn_of_lost_activations.cache_clear()
    with caplog.at_level("WARNING"):
        DetrForPanopticSegmentation(config)
    assert "test_efficientnet holds its activations in its norms" in caplog.text


def test_auxiliary_losses_leave_the_forward_alone(stock_model, tiny_config, pixels):
    weights = stock_model().state_dict()

    def check(cls):
        logits = []
        for auxiliary in (False, True):
            model = cls(tiny_config(auxiliary_loss=auxiliary)).eval()
            model.load_state_dict(weights)
            with torch.no_grad():
                logits.append(model(pixels(1, 3, 64, 64)).logits)
        apart = (logits[0] - logits[1]).abs().max()
        assert apart == 0, f"apart by {apart:.2f}"

    stock_fails(check, DetrForSegmentation, match=r"apart by 1\.")
    check(DetrForPanopticSegmentation)


def test_frozen_parts_have_no_dropout(tiny_config, pixels):
    def check(model):
        model.train()
        x = pixels(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(model(x).logits, model(x).logits), "noise"

    stock = DetrForSegmentation(tiny_config(dropout=0.5))
    stock.detr.requires_grad_(False)
    ours = DetrForPanopticSegmentation(tiny_config(dropout=0.5))
    ours.freeze("detr")
    stock_fails(check, stock, match="noise")
    check(ours)


# --- losses


def test_a_segments_loss_does_not_depend_on_padding(stock_model, pixels, labels, with_masks):
    """The same image and logits, on its own canvas and on a larger one: padding is nobody's background."""
    stock = stock_model()

    def check(model, convert):
        x, targets = pixels(1, 3, 64, 64), labels([2], (64, 64))
        wide = torch.nn.functional.pad(x, (0, 64))
        mask = torch.zeros(1, 64, 128, dtype=torch.int64)
        mask[..., :64] = 1
        model.forward_masks = torch.linspace(-4, 4, 16)[None, None, :, None].expand(1, 9, 16, 32)  # alike for all
        alone = model(x, None, convert(targets), width=16)["loss_mask"]
        targets[0]["panoptic"] = torch.nn.functional.pad(targets[0]["panoptic"], (0, 64))  # as the processor pads
        found = model(wide, mask, convert(targets), width=32)["loss_mask"]
        assert found.item() == pytest.approx(alone.item(), rel=1e-4)

    stock_fails(check, _Losses(stock), with_masks, match=r"0\.600\d+ == 0\.480")
    check(_Losses(ours_of(stock)), lambda given: given)


def test_void_is_nobodys_background(stock_model, pixels, labels, with_masks):
    """Turning up a mask in void pixels costs nothing."""
    stock = stock_model()

    def check(model, convert):
        targets = labels([1], (64, 64))
        targets[0]["panoptic"][:, 32:] = 0
        model.forward_masks = torch.full((1, 9, 16, 16), -3.0)
        before = model(pixels(1, 3, 64, 64), None, convert(targets), width=16)["loss_mask"]
        model.forward_masks[..., 10:] = 3.0
        after = model(pixels(1, 3, 64, 64), None, convert(targets), width=16)["loss_mask"]
        assert after.item() == pytest.approx(before.item(), rel=1e-4)

    stock_fails(check, _Losses(stock), with_masks, match=r"1\.088\d+ == 0\.345")
    check(_Losses(ours_of(stock)), lambda given: given)


class _Losses:
    """A model whose masks are given, so that only the loss is looked at; ours then need no choosing of queries."""

    def __init__(self, model):
        self.model = model
        self.forward_masks = None

    def __call__(self, x, mask, labels, width):
        masks = self.forward_masks[..., :width]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.model.mask_head, "forward", lambda **_: masks.reshape(-1, 1, *masks.shape[-2:]))
            patch.setattr(modeling, "masks_for", lambda *given: masks[0, : len(given[3])])
            return self.model(x, mask, labels=labels).loss_dict


def test_a_one_based_label_is_an_error(stock_model, pixels, labels, with_masks):
    stock = stock_model()

    def check(model, convert):
        targets = labels([2], (64, 64))
        targets[0]["class_labels"] = torch.tensor([1, 4])  # four classes, counted from 1
        with pytest.raises(ModelError, match="1-based"):
            model(pixels(1, 3, 64, 64), labels=convert(targets))

    stock_fails(check, stock, with_masks, **NOT_NOTICED)
    check(ours_of(stock), lambda given: given)


def test_a_segment_without_pixels_is_named(stock_model, pixels, labels, with_masks):
    stock = stock_model()

    def check(model, convert):
        targets = labels([2], (64, 64))
        targets[0]["panoptic"][targets[0]["panoptic"] == 2] = 1
        with pytest.raises(ModelError, match="segment 2 is listed but has no pixel"):
            model(pixels(1, 3, 64, 64), labels=convert(targets))

    stock_fails(check, stock, with_masks, **NOT_NOTICED)
    check(ours_of(stock), lambda given: given)


def test_surplus_targets_are_counted(stock_model, pixels, labels, with_masks):
    stock = stock_model(num_queries=3)

    def check(model, convert):
        found = model(pixels(1, 3, 64, 64), labels=convert(labels([5], (64, 64))))
        assert found.loss_dict["surplus_targets"] == 2

    stock_fails(check, stock, with_masks, error=KeyError, match="surplus_targets")
    check(ours_of(stock), lambda given: given)


def test_training_runs_under_bf16(stock_model, pixels, labels, with_masks):
    stock = stock_model().to(torch.bfloat16)

    def check(model, convert):
        targets = convert(labels([2], (64, 64)))
        loss = model(pixels(1, 3, 64, 64).to(torch.bfloat16), labels=targets).loss
        assert math.isfinite(loss.item())

    stock_fails(check, stock, with_masks, error=RuntimeError, match=r"\Wcdist\W not implemented")  # on a CPU
    check(ours_of(stock).to(torch.bfloat16), lambda given: given)


# --- post-processing


def stock_map(logits, masks, size, valid=None):
    """(label, score) of each listed segment by id, and the id map, as stock makes them."""
    outputs = SimpleNamespace(logits=logits[None], pred_masks=masks[None])
    (found,) = DetrImageProcessor().post_process_panoptic_segmentation(
        outputs, threshold=0.5, overlap_mask_area_threshold=0.0, label_ids_to_fuse={2, 3}, target_sizes=[size]
    )
    return found["segmentation"].numpy(), [(s["id"], s["label_id"]) for s in found["segments_info"]]


def our_map(logits, masks, size, valid=None):
    (kept,) = choose_queries(logits[None], SPACE, 0.5)
    arguments = {} if valid is None else {"canvas_size": valid[0], "valid_size": valid[1]}
    found = postprocess(kept, masks[kept.queries], SPACE, size, Postprocess(min_area=0), **arguments)
    return found.ids, [(s.id, s.label) for s in found.segments]


def queries(*labels, probability=0.95):
    """Class logits of queries that are sure of these labels."""
    logits = torch.zeros(len(labels), len(SPACE) + 1)
    for place, label in enumerate(labels):
        logits[place, label] = math.log(probability * len(SPACE) / (1 - probability))
    return logits


def stripes(*widths):
    """One mask a stripe, side by side."""
    masks = torch.full((len(widths), 8, sum(widths)), -9.0)
    start = 0
    for place, width in enumerate(widths):
        masks[place, :, start : start + width] = 9.0
        start += width
    return masks


def test_an_id_is_of_one_segment_and_a_segment_listed_once():
    def check(post_process):
        # sky, pipe, sky, crane: the second sky joins the first.
        ids, listed = post_process(queries(2, 0, 2, 1), stripes(4, 4, 4, 4), (8, 16))
        assert [label for _, label in listed] == [2, 0, 1]
        assert len({segment for segment, _ in listed}) == len(listed)
        assert len(np.unique(ids)) == 3

    stock_fails(check, stock_map, match=r"\[2, 0, 2, 1\] == \[2, 0, 1\]")
    check(our_map)


def test_padding_is_cut_off():
    def check(post_process):
        # The photo is the left half of the canvas; 4 of its 8 columns are pipe.
        ids, _ = post_process(queries(0, 1), stripes(4, 12), (8, 8), ((32, 64), (32, 32)))
        assert (ids == ids[0, 0]).mean() == pytest.approx(0.5, abs=0.01)

    stock_fails(check, stock_map, match=r"0\.25\)? == 0\.5")
    check(our_map)


def test_a_lone_query_does_not_claim_every_pixel():
    def check(post_process):
        masks = stripes(4, 12)[:1]
        ids, listed = post_process(queries(0), masks, (8, 16))
        assert len(listed) == 1
        assert (ids == listed[0][0]).mean() == pytest.approx(0.25)

    stock_fails(check, stock_map, match=r"1\.0\)? == 0\.25")
    check(our_map)


def test_nothing_found_is_a_map_of_whole_numbers():
    def check(post_process):
        ids, listed = post_process(queries(0, probability=0.4), stripes(4), (8, 4))
        assert listed == []
        assert ids.dtype.kind in "iu"
        assert not ids.any()

    stock_fails(check, stock_map, match="'f' in 'iu'")
    check(our_map)


# --- without a network


def test_an_unknown_name_without_a_network_is_an_error_at_once(tmp_path, monkeypatch):
    """Stock tries again and again, and waits 27 seconds."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(ModelError, match="HF_ENDPOINT"):
        DetrForPanopticSegmentation.from_pretrained("facebook/detr-resnet-50-panoptic", cache_dir=tmp_path)
    assert sum(waits) < 10
