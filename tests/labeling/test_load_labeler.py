from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import DetrConfig, DetrForObjectDetection

from hf_detr_panoptic import DetrForPanopticSegmentation, LabelSpace
from hf_detr_panoptic.errors import ModelError
from hf_detr_panoptic.labeling.labeler import DetrLabeler, labeler_space, load_labeler
from hf_detr_panoptic.model.checkpoints import read_config


def test_a_folder_and_its_model_are_one_labeler(tiny_labeler: Path) -> None:
    from_folder = load_labeler(str(tiny_labeler))
    model = DetrForPanopticSegmentation.from_pretrained(tiny_labeler).eval()
    in_memory = load_labeler(model)
    assert isinstance(from_folder, DetrLabeler)
    assert from_folder.fingerprint == in_memory.fingerprint == model.fingerprint
    photos = [Image.effect_noise((90, 60), 80).convert("RGB") for _ in range(5)]
    assert from_folder.segment(photos, threshold=0.5) == in_memory.segment(photos, threshold=0.5)
    assert from_folder.preprocess.output_size(100, 200) == model.preprocess.output_size(100, 200)


def test_a_call_is_one_batch(tiny_labeler: Path) -> None:
    """Also of more photos than `segment` takes at a time by itself: batches are the labeler's to plan."""
    labeler = load_labeler(tiny_labeler)
    sizes = []
    labeler.model.detr.class_labels_classifier.register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    labeler.segment([Image.new("RGB", (90, 60))] * 6, threshold=0.5)
    assert sizes == [6]


def test_precision_is_part_of_the_fingerprint(tiny_labeler: Path) -> None:
    assert load_labeler(tiny_labeler).fingerprint != load_labeler(tiny_labeler, precision="bf16").fingerprint


def test_what_segments_already_is_taken_as_it_is() -> None:
    class Mine:
        label_space = LabelSpace.coco()

    mine = Mine()
    assert load_labeler(mine) is mine
    assert labeler_space(mine) == LabelSpace.coco()
    assert labeler_space(object()) is None


def test_the_classes_need_no_weights(tiny_labeler: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_labeler / "config.json").read_bytes())
    assert labeler_space(tmp_path) == LabelSpace.coco()
    assert labeler_space("facebook/detr-resnet-50-panoptic") == LabelSpace.coco()  # offline


def test_a_detection_checkpoint_is_no_labeler(tmp_path: Path, tiny_labeler: Path) -> None:
    """Its mask head would be random, and a night would go by before anybody looked."""
    config = DetrConfig.from_pretrained(tiny_labeler)
    torch.manual_seed(0)
    DetrForObjectDetection(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="detection checkpoint: it knows boxes, and no masks"):
        load_labeler(tmp_path)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no config\.json"):
        load_labeler(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="no panoptic model that transformers can load"):
        load_labeler(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ' + "[" * 100_000)
    for load in (load_labeler, lambda folder: read_config(folder, {}, {})):
        with pytest.raises(ModelError, match="the checkpoint cannot be loaded"):
            load(tmp_path)
