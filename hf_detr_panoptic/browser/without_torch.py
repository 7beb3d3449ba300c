"""A photo's panoptic map from an exported model, without torch: numpy, Pillow and onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def panoptic(photo: Image.Image, folder: str) -> tuple[Any, list[dict[str, Any]]]:
    """int [height, width], 0 where nobody is, and the segments: number, class and score."""
    files = ("config.json", "preprocessor_config.json", "export.json")
    config, processor, export = (json.loads(Path(folder, name).read_text("utf-8")) for name in files)
    graphs = [onnxruntime.InferenceSession(Path(folder, name)) for name in ("detector.onnx", "masks.onnx")]
    detector, masks_of = graphs
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    small, large = sorted(photo.size)
    edge = min(processor["size"]["shortest_edge"], processor["size"]["longest_edge"] * small / large)
    sides = {small: round(edge), large: int(edge * large / small)} if round(edge) != small else {}
    resized = photo.resize([sides.get(side, side) for side in photo.size], Image.Resampling.BILINEAR)
    pixels = (np.asarray(resized) / 255 - processor["image_mean"]) / processor["image_std"]
    values = detector.run(None, {"pixel_values": pixels.astype(np.float32).transpose(2, 0, 1)[None]})
    found = dict(zip([each.name for each in detector.get_outputs()], values, strict=True))

    odds = np.exp(found["logits"][0] - found["logits"][0].max(-1, keepdims=True))
    scores, columns = (odds / odds.sum(-1, keepdims=True)).max(-1), odds.argmax(-1)
    classes, settings = {each["column"]: each for each in export["classes"]}, config["hf_detr_panoptic"]
    sure = [q for q, column in enumerate(columns) if column in classes and scores[q] > settings["threshold"]]
    if not sure:  # the second graph wants at least one
        return np.zeros(photo.size[::-1], np.int64), []
    shared = {each.name: found[each.name] for each in masks_of.get_inputs() if each.name != "states"}
    masks = masks_of.run(None, {"states": found["states"][:, sure], **shared})[0][0]
    enlarged = [Image.fromarray(mask).resize(photo.size, Image.Resampling.BILINEAR) for mask in masks]
    whole = np.stack([np.asarray(mask) for mask in enlarged])
    claimed = whole.max(0) > np.log(settings["mask_threshold"] / (1 - settings["mask_threshold"]))
    first = {columns[q]: n for n, q in reversed(list(enumerate(sure, 1))) if not classes[columns[q]]["isthing"]}
    numbers = np.array([first.get(columns[q], n) for n, q in enumerate(sure, 1)])  # stuff of a class is one segment
    ids = np.where(claimed, numbers[whole.argmax(0)], 0)
    names = [(n, classes[columns[q]]["name"], float(scores[q])) for n, q in enumerate(sure, 1)]
    return ids, [{"id": n, "label": name, "score": score} for n, name, score in names if (ids == n).any()]
