"""The photo as the page prepares it, byte for byte as `Preprocess`."""

from __future__ import annotations

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

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
import { withoutTurn } from "./photo.js";
const run = (files) => files.map((file) => {
  const { orientation, bytes } = withoutTurn(file);
  return { orientation, bytes };
});
"""


def test_which_way_up_a_photo_is(node):
    """A photo that has lost its turn opens everywhere as it lies; the turn itself is that of Pillow's transpose."""
    lying = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    expected, files = [], []
    for kind in ("JPEG", "PNG", "WEBP"):
        for orientation in (None, *range(1, 9)):
            exif = Image.Exif()
            if orientation:
                exif[0x010E], exif[0x0112] = "a site", orientation
            stream = io.BytesIO()
            lying.save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
            files.append(stream.getvalue())
            expected.append(orientation or 1)
    whole = len(files)
    files += [b"", b"\xff\xd8", b"nothing of the kind, but long enough", files[5][:40]]
    told = node(ORIENTATION, [np.frombuffer(file, np.uint8) for file in files])
    assert [answer["orientation"] for answer in told] == [*expected, 1, 1, 1, 1]
    for file, orientation, answer in zip(files[:whole], expected, told, strict=False):
        bare = answer["bytes"].tobytes()
        assert (bare == file) is (orientation == 1)
        with Image.open(io.BytesIO(file)) as before, Image.open(io.BytesIO(bare)) as after:
            assert np.array_equal(np.asarray(after), np.asarray(before))
            assert after.getexif().get(0x0112, 1) == 1


def test_the_turn_is_that_of_exif(node):
    lying = np.arange(600).reshape(20, 30)
    for orientation, answer in enumerate(node(TURNS, list(range(1, 9))), start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.fromarray(lying.astype(np.int32)).save(stream, "TIFF", exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(stream)))
        height, width = upright.shape
        a, b, c, d, e, f = answer[height > width]
        y, x = np.mgrid[:20, :30] + 0.5
        turned = np.zeros_like(upright)
        turned[np.floor(b * x + d * y + f).astype(int), np.floor(a * x + c * y + e).astype(int)] = lying
        assert np.array_equal(turned, upright), orientation


TURNS = """
import { turnOf } from "./photo.js";
const run = (orientations) => orientations.map((one) => [turnOf(one, 30, 20), turnOf(one, 20, 30)]);
"""
