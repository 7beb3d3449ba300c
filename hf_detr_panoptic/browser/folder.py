"""What lies in a folder that `export` wrote, and what is said of it in several places."""

from __future__ import annotations

DETECTOR, MASKS, ONE_GRAPH = "detector.onnx", "masks.onnx", "onnx/model.onnx"
RECORD = "export.json"
FORMAT = 1

INSTALL = 'Type: pip install "hf-detr-panoptic[export]".'

# How the maps of transformers.js differ from ours; it stands on cards, too.
DIFFERS = (
    "Its maps are its own: it resizes photos without antialiasing and enlarges small ones, leaves stuff of one class "
    "in pieces, and gives every pixel to some mask."
)
