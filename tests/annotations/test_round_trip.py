"""What is read, written as COCO by hand, and read again, is the same."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image
from pycocotools import mask as coco_mask

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

WIDTH, HEIGHT = 13, 9
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name.strip())
coordinate = st.floats(-5, 20, allow_nan=False)
polygon = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7).map(
    lambda p: [v for xy in p for v in xy]
)
mask = numpy_strategies.arrays(np.bool_, (HEIGHT, WIDTH))
rectangle = st.tuples(st.floats(0, 12), st.floats(0, 8), st.floats(0.1, 9), st.floats(0.1, 9))


def uncompressed(pixels):
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    return np.diff(np.concatenate([[0] if flat[0] else [], [0], edges, [flat.size]])).astype(int).tolist()


def compressed(pixels):
    return coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()


shape = st.one_of(
    st.lists(polygon, min_size=1, max_size=3).map(lambda rings: {"segmentation": rings}),
    mask.map(lambda m: {"segmentation": {"size": [HEIGHT, WIDTH], "counts": uncompressed(m)}}),
    mask.map(lambda m: {"segmentation": {"size": [HEIGHT, WIDTH], "counts": compressed(m)}}),
    rectangle.map(lambda box: {"segmentation": [], "bbox": list(box)}),
)
entry = st.tuples(names, shape, st.booleans())


def read(entries):
    """[(class, shape, crowd)] by way of a file → marks; shapes that cover no pixel are left out of the file."""
    classes = list(dict.fromkeys(name for name, _, _ in entries))
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3 * place + 2, "name": name} for place, name in enumerate(classes)],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 3 * classes.index(name) + 2, "iscrowd": int(crowd)} | drawn
            for n, (name, drawn, crowd) in enumerate(entries)
        ],
    }
    with TemporaryDirectory() as folder:
        Image.new("RGB", (WIDTH, HEIGHT)).save(Path(folder, "a.png"))
        Path(folder, "marks.json").write_text(json.dumps(data))
        (photo,) = read_annotations(Path(folder, "marks.json"), folder, strict=True).photos
    return photo.marks


def written(mark):
    if mark.rle is None:
        drawn = {"segmentation": [], "bbox": list(mark.box)}
    else:
        drawn = {"segmentation": {"size": mark.rle["size"], "counts": mark.rle["counts"].decode()}}
    return mark.name, drawn, mark.crowd


@given(st.lists(entry, max_size=4))
def test_marks_survive_being_written_and_read(entries):
    try:
        marks = read(entries)
    except AnnotationError as error:
        assume(error.what not in ("it covers no pixel", "it lies wholly outside the photo"))
        raise
    again = read([written(mark) for mark in marks])
    assert [(m.name, m.rle, m.crowd) for m in again] == [(m.name, m.rle, m.crowd) for m in marks]
    for mark, copy in zip(marks, again, strict=True):
        np.testing.assert_allclose(copy.box, mark.box, atol=1e-12)


@given(mask, mask)
def test_overlapping_masks_stay_whole(first, second):
    assume(first.any() and second.any())
    entries = [
        ("a", {"segmentation": {"size": [HEIGHT, WIDTH], "counts": uncompressed(m)}}, False) for m in (first, second)
    ]
    for mark, pixels in zip(read(entries), (first, second), strict=True):
        assert np.array_equal(coco_mask.decode(mark.rle), pixels)
        rows, columns = np.nonzero(pixels)
        left, top = columns.min(), rows.min()
        assert mark.box == (left, top, columns.max() - left + 1, rows.max() - top + 1)
