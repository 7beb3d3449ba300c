"""Mask2Former and EoMT, tiny and random, as labelers."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from made import COCO_NAMES, noise, tiny_eomt, tiny_mask2former
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_detr_panoptic.errors import LabelError, ModelError
from hf_detr_panoptic.labels import Category, LabelSpace
from hf_detr_panoptic.model import universal as other_labelers
from hf_detr_panoptic.model.postprocess import Kept
from hf_detr_panoptic.model.universal import UniversalLabeler, merge_masks

pytestmark = pytest.mark.bits

ALL_THINGS = ["person", "car", "dog", "cat"]


MODELS = pytest.mark.parametrize("make", [tiny_mask2former, tiny_eomt])


def photo(seed=0):
    return noise(seed, (100, 70))


@pytest.fixture
def lenient(monkeypatch):
    """Masks of random weights lie over each other: none would win four fifths of itself."""
    monkeypatch.setattr(other_labelers, "OVERLAP", 0.0)


@MODELS
def test_maps_at_the_photos_own_size(make, lenient):
    labeler = UniversalLabeler(*make())
    assert labeler.label_space.names == tuple(COCO_NAMES)
    assert [c.isthing for c in labeler.label_space] == [True, True, False, False]
    maps = labeler.segment([photo(seed=1), photo(seed=2)], threshold=0.3)
    assert [(map.width, map.height) for map in maps] == [(100, 70)] * 2
    assert all(map.segments for map in maps)
    for map in maps:
        stuff = [segment.label for segment in map.segments if segment.label in map.space.stuff_labels]
        assert len(stuff) == len(set(stuff))
        assert {segment.source for segment in map.segments} == {"model"}
    assert labeler.segment([photo(seed=1), photo(seed=2)], threshold=0.3) == maps
    assert labeler.segment([], threshold=0.3) == []


@pytest.mark.parametrize(("overlap", "least"), [(0.0, 12), (0.3, 4), (0.8, 1)])
def test_eomt_agrees_with_its_own_processor_where_nothing_is_fused(monkeypatch, overlap, least):
    """Stock is right for things alone: same pixels, same labels, same scores."""
    monkeypatch.setattr(other_labelers, "OVERLAP", overlap)
    model, processor = tiny_eomt(ALL_THINGS)
    images = [photo(seed=seed) for seed in range(4)]
    found = UniversalLabeler(model, processor).segment(images, threshold=0.3)
    inputs = processor(images=images, return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=inputs["pixel_values"])
    told = processor.post_process_panoptic_segmentation(
        outputs, [(70, 100)] * 4, threshold=0.3, overlap_mask_area_threshold=overlap
    )
    assert sum(len(map.segments) for map in found) >= least
    for map, stock in zip(found, told, strict=True):
        assert np.array_equal(map.ids, np.asarray(stock["segmentation"]).astype(int) + 1)
        assert [(s.id, s.label) for s in map.segments] == [
            (s["id"] + 1, s["label_id"]) for s in stock["segments_info"]
        ]
        assert [s.score for s in map.segments] == pytest.approx([s["score"] for s in stock["segments_info"]], abs=1e-6)


def test_padding_is_cut_off():
    """A photo twice as wide as high lies in the upper half of EoMT's square; the lower half is not in its map."""
    space = LabelSpace([Category("a", True), Category("b", True)])
    logits = torch.full((2, 16, 16), -5.0)
    logits[0, :4] = 5  # the upper half of the photo
    logits[1, 4:] = 5  # its lower half, and the padding
    map = merge_masks(Kept(torch.arange(2), (0, 1), (0.9, 0.8)), logits, space, (32, 64), (64, 64), (32, 64))
    assert map.areas() == {1: 16 * 64, 2: 16 * 64}


def test_merging_by_hand():
    """Four masks on 1×10 cells. 3 lies under 1 and wins less than four fifths of itself; 4 is stuff like 2."""
    space = LabelSpace([Category("thing", True), Category("stuff", False)])
    logits = torch.full((4, 1, 10), -9.0)
    logits[0, 0, :4] = 9
    logits[1, 0, 6:8] = 9
    logits[2, 0, 2:6] = 9
    logits[3, 0, 9] = 9
    kept = Kept(torch.arange(4), (0, 1, 0, 1), (0.9, 0.6, 0.8, 0.9))
    map = merge_masks(kept, logits, space, (1, 10), (1, 10), (1, 10))
    assert map.ids.tolist() == [[1, 1, 1, 1, 0, 0, 2, 2, 0, 2]]
    assert [(s.id, s.label, round(s.score, 6)) for s in map.segments] == [(1, 0, 0.9), (2, 1, 0.7)]


def test_nothing_found_is_an_empty_map():
    labeler = UniversalLabeler(*tiny_eomt())
    (map,) = labeler.segment([photo()], threshold=1.0)
    assert (map.segments, map.void_area) == ((), 7000)


@MODELS
def test_from_a_folder(make, tmp_path, lenient):
    model, processor = make()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = UniversalLabeler.from_pretrained(tmp_path)
    direct = UniversalLabeler(model, processor)
    assert loaded.segment([photo()], 0.3) == direct.segment([photo()], 0.3)
    assert loaded.fingerprint == direct.fingerprint


@pytest.mark.parametrize("make", [tiny_mask2former, tiny_eomt])
def test_weights_that_are_missing_or_no_numbers_are_refused(make, tmp_path):
    """transformers fills in random ones and warns: a whole night of labels would be noise."""
    model, processor = make()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name, tensor = next((name, tensor) for name, tensor in weights.items() if "class_predictor" in name)
    save_file(weights | {name: tensor * float("nan")}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="with NaN"):
        UniversalLabeler.from_pretrained(tmp_path)
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"1 weight of .* and would be random: {re.escape(name)}"):
        UniversalLabeler.from_pretrained(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="can load"):
        UniversalLabeler.from_pretrained(tmp_path)


def test_a_rate_that_is_none_is_refused_before_the_first_photo(tmp_path):
    model, processor = tiny_mask2former()
    model.config.backbone_config.hidden_dropout_prob = 0.5
    model.config.backbone_config.drop_path_rate = 7
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="config.json says drop_path_rate: 7"):
        UniversalLabeler.from_pretrained(tmp_path)


def test_code_beside_the_weights_never_runs_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    names = {"AutoConfig": "evil.Config", "AutoModelForUniversalSegmentation": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="can load"):
        UniversalLabeler.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_fingerprint_changes_with_what_decides_the_maps():
    model, processor = tiny_eomt()
    first = UniversalLabeler(model, processor).fingerprint
    assert UniversalLabeler(model, processor).fingerprint == first
    assert UniversalLabeler(model, processor, precision="bf16").fingerprint != first
    assert UniversalLabeler(model, processor, stuff=["car"]).fingerprint != first
    processor.image_mean = [0.1, 0.2, 0.3]
    assert UniversalLabeler(model, processor).fingerprint != first
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    processor.image_mean = [0.485, 0.456, 0.406]
    assert UniversalLabeler(model, processor).fingerprint != first


def test_what_is_no_labeler(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="no panoptic model that transformers can load"):
        UniversalLabeler.from_pretrained(tmp_path)
    model, processor = tiny_eomt()
    processor.do_split_image = True
    with pytest.raises(ModelError, match="cuts photos into pieces"):
        UniversalLabeler(model, processor)
    with pytest.raises(LabelError, match="does not say whether gizmo are things or stuff"):
        UniversalLabeler(*tiny_eomt(["person", "gizmo"]))


@pytest.mark.slow
@MODELS
def test_real_photos(make, shared_data, lenient):
    labeler = UniversalLabeler(*make())
    for path in sorted(shared_data.glob("*/**/images/*.jpg"))[:12]:
        (map,) = labeler.segment([path], threshold=0.3)
        with Image.open(path) as image:
            assert (map.width, map.height) == image.size
