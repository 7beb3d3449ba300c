"""Small photos and files to read marks from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.read import Mark


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """photo("a.jpg") writes a grey photo of 8×6 into the photo folder, and returns that folder."""

    def write(name: str, width: int = 8, height: int = 6, **options: Any) -> Path:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "grey").save(path, **options)
        return tmp_path / "photos"

    return write


@pytest.fixture
def coco(tmp_path: Path) -> Callable[..., Path]:
    """coco(annotation, …) writes a COCO file about `a.jpg`, 8×6, with the classes pipe (7) and wall (3)."""

    def write(*annotations: dict[str, Any], name: str = "marks.json", **changes: Any) -> Path:
        data = {
            "images": [{"id": 5, "file_name": "a.jpg", "width": 8, "height": 6}],
            "categories": [{"id": 7, "name": "pipe"}, {"id": 3, "name": "wall"}],
            "annotations": [
                {"id": number, "image_id": 5, "category_id": 7} | entry
                for number, entry in enumerate(annotations, start=11)
            ],
        } | changes
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
        return path

    return write


@pytest.fixture
def rows() -> Callable[[Mark], list[str]]:
    """A mark's pixels as one string a row, "#" inside."""

    def draw(mark: Mark) -> list[str]:
        assert mark.rle is not None
        return ["".join("#" if value else "." for value in row) for row in coco_mask.decode(mark.rle)]

    return draw


@pytest.fixture
def save_mask() -> Callable[..., Path]:
    """save_mask(path, values) writes an image of the values."""

    def write(path: Path, values: Any, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path, **options)
        return path

    return write
