"""Any part of a file may be anything: what comes back is marks or one family of errors, never a crash."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_detr_panoptic.annotations.read import read_annotations
from hf_detr_panoptic.errors import AnnotationError

INSTANCES = {
    "images": [{"id": 5, "file_name": "a.png", "width": 8, "height": 6}],
    "categories": [{"id": 7, "name": "pipe"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 7, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 4]]},
        {"id": 2, "image_id": 5, "category_id": 7, "segmentation": {"size": [6, 8], "counts": [40, 8]}},
        {"id": 3, "image_id": 5, "category_id": 7, "bbox": [1, 1, 2, 2], "attributes": {"rotation": 5.0}},
    ],
}
PANOPTIC = INSTANCES | {
    "annotations": [
        {"image_id": 5, "file_name": "../a.png", "segments_info": [{"id": 1, "category_id": 7, "iscrowd": 0}]},
        {"image_id": 5, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 7, "iscrowd": 0}]},
    ]
}
LABELME = {
    "imagePath": "a.png",
    "imageWidth": 8,
    "imageHeight": 6,
    "shapes": [
        {"label": "pipe", "points": [[1, 1], [5, 1], [5, 4]], "shape_type": "polygon", "group_id": 1},
        {"label": "pipe", "points": [[1, 1], [5, 4]], "shape_type": "circle", "group_id": 1},
        {"label": "pipe", "points": [[1, 1], [5, 4]], "shape_type": "mask", "mask": "iVBORw0KGgo="},
    ],
}
CVAT = """<annotations><version>1.1</version><image id="4" name="a.png" width="8" height="6">
<polygon label="pipe" points="1,1;5,1;5,4" z_order="1" group_id="2"/><box label="b" xtl="1" ytl="1" xbr="3" ybr="3"/>
<mask label="pipe" rle="0, 1, 3, 2" left="1" top="2" width="3" height="2" group_id="2"/>
<ellipse label="pipe" cx="4" cy="3" rx="3" ry="1" rotation="9"/></image>
<track id="0" label="pipe"><box frame="0" outside="0" xtl="1" ytl="1" xbr="3" ybr="3"/></track></annotations>"""

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([0, -1, 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """The paths to all parts of a value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def read(name, text):
    with TemporaryDirectory() as folder:
        Image.new("RGB", (8, 6)).save(Path(folder, "a.png"))
        Path(folder, name).write_text(text, encoding="utf-8", errors="surrogatepass")
        for images in (folder, None):
            rows = []
            try:
                rows += read_annotations(Path(folder, name), images).skipped
            except AnnotationError as error:
                rows.append(error)
            assert all(row.where and row.what for row in rows)


@pytest.mark.parametrize("file", [INSTANCES, PANOPTIC, LABELME], ids=["instances", "panoptic", "labelme"])
@settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
@given(data=st.data())
def test_any_part_of_a_json_may_be_anything(file, data):
    changed = copy.deepcopy(file)
    *parents, last = data.draw(st.sampled_from([path for path in places(changed) if path]))
    parent = changed
    for key in parents:
        parent = parent[key]
    if data.draw(st.booleans()):
        parent[last] = data.draw(anything)
    else:
        del parent[last]
    read("marks.json", json.dumps(changed))


@settings(deadline=None)
@given(st.integers(0, len(CVAT)), st.integers(0, 12), st.text(st.characters(codec="utf-8"), max_size=6))
def test_any_part_of_an_xml_may_be_anything(place, length, text):
    read("marks.xml", CVAT[:place] + text + CVAT[place + length :])
