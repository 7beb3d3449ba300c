"""The photo as the page prepares it, byte for byte as `Preprocess`."""

from __future__ import annotations

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from hf_detr_panoptic.preprocess import Preprocess

SIZES = [(48, 64), (64, 48), (240, 320), (37, 501), (1, 1), (1, 90), (96, 128), (200, 300), (31, 29)]
PREPROCESS = [
    Preprocess(96, 128),
    Preprocess(64, 90, resample=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
    Preprocess(exact_size=(50, 40)),
    Preprocess(exact_size=(33, 70), resample=0),
    Preprocess(shortest_edge=None, longest_edge=None, fit_within=(70, 60)),
    Preprocess(shortest_edge=None, longest_edge=None, rescale=1.0, mean=(0, 0, 0), std=(1, 1, 1)),
]

SCRIPT = """
import { normalized, outputSize, resized } from "./photo.js";
const run = ({ photos, preprocess }) => preprocess.map((each) => photos.map(({ size, pixels }) => {
  const [height, width] = size;
  const rows = (from, to) => pixels.subarray(from * width * 3, to * width * 3);
  const newSize = outputSize(height, width, each);
  const bytes = resized(rows, size, newSize, each.resample, 3);
  return { size: newSize, bytes, values: normalized(bytes, each) };
}));
"""


@pytest.mark.bits
def test_sizes_bytes_and_values_are_those_of_preprocess(node):
    photos = [np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    given = {
        "photos": [{"size": photo.shape[:2], "pixels": photo} for photo in photos],
        "preprocess": [asdict(each) for each in PREPROCESS],
    }
    # On a processor without AVX2 torch resizes bytes in floating point: a step apart at halves.
    bytewise = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for preprocess, answers in zip(PREPROCESS, node(SCRIPT, given), strict=True):
        for photo, told in zip(photos, answers, strict=True):
            pixels = preprocess.resize(torch.from_numpy(photo).permute(2, 0, 1))
            assert tuple(told["size"]) == tuple(pixels.shape[1:])
            bytes_told = told["bytes"].reshape(*told["size"], 3)
            apart = np.abs(bytes_told.astype(int) - pixels.permute(1, 2, 0).numpy())
            assert apart.max() <= (0 if bytewise or preprocess.resample == 3 else 1), (preprocess, photo.shape)
            if not apart.any():
                values = told["values"].reshape(pixels.shape)
                assert np.array_equal(values, preprocess.normalize(pixels).numpy())


ORIENTATION = """
import { orientationOf } from "./photo.js";
const run = (files) => files.map(orientationOf);
"""


def test_which_way_up_a_photo_is(node):
    expected, files = [], []
    for kind in ("JPEG", "PNG", "WEBP"):
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            stream = io.BytesIO()
            Image.new("RGB", (8, 6)).save(stream, kind, exif=exif)
            files.append(stream.getvalue())
            expected.append(orientation)
        stream = io.BytesIO()
        Image.new("RGB", (8, 6)).save(stream, kind)
        files.append(stream.getvalue())
        expected.append(1)
    files += [b"", b"\xff\xd8", b"nothing of the kind, but long enough", files[5][:40]]
    expected += [1, 1, 1, 1]
    assert node(ORIENTATION, [np.frombuffer(file, np.uint8) for file in files]) == expected
