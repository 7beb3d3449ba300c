"""The doctor's whole road against the stand-in Hub: the real checkpoint's name and keys, pushed and loaded back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from made import tiny_config
from transformers import DetrForSegmentation, DetrImageProcessor

if TYPE_CHECKING:
    from hub_server import HubServer

NAME = "facebook/detr-resnet-50-panoptic"


def save_like_the_real_one(folder: Path) -> None:
    """COCO's 250 columns with their holes, and the key names of 2020."""
    torch.manual_seed(0)
    stuff = {92: "banner", 200: "rug-merged"}
    names = {column: stuff.get(column, "N/A") for column in range(250)} | {1: "person", 3: "car", 184: "tree-merged"}
    config = tiny_config(None, id2label=names, label2id={name: column for column, name in names.items()})
    model = DetrForSegmentation(config)
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[1] += 9.0
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(folder)


@pytest.mark.slow
def test_the_real_doctor_pushes_and_loads_back(hub: HubServer, tmp_path: Path) -> None:
    save_like_the_real_one(tmp_path / "checkpoint")
    hub.add(NAME, {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()})
    done = hub.cli("doctor", "--real", "--steps", "2", "--push", "anna/trial", home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "✓ push             " in done.stdout
    assert "loaded back: every key found, logits 0.0e+00 apart" in done.stdout
    assert "model.safetensors" in hub.files("anna/trial")
    assert hub.leaks() == []
