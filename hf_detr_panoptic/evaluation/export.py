"""The `evaluate` module as a folder that works by itself: for the Hub, or for somebody else's machine."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DatasetError
from ..files import write_bytes, write_text

METRIC = Path(__file__).parent / "metric"
SIBLINGS = ("annotations.py", "counting.py")

README = """---
title: Panoptic quality
sdk: static
tags:
  - evaluate
  - metric
description: PQ, SQ and RQ by the rules of panopticapi, from COCO panoptic PNG files
---

# Panoptic quality

PQ = SQ × RQ of [Panoptic Segmentation](https://arxiv.org/abs/1801.00868), equal to panopticapi's numbers, fast, and
with a plain answer where there are no things or no stuff.

```python
import evaluate

quality = evaluate.load("{place}")
quality.add_batch(
    predictions=[{{"png": png_bytes, "segments_info": [{{"id": 7, "category_id": 1}}]}}],
    references=[{{"png": png_bytes, "segments_info": [{{"id": 7, "category_id": 1, "iscrowd": 0}}]}}],
)
quality.compute(categories=[{{"id": 1, "name": "pipe", "isthing": 1}}])
# {{"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 1, "things": {{...}}, "stuff": {{"pq": None, ...}}, "per_class": [...]}}
```

`print(quality.inputs_description)` says what goes in and what comes out. A segment is matched when its IoU is strictly
above 0.5; void (id 0) and crowds of the truth are forgiven; areas are counted from the pixels, or taken from
`segments_info` with `json_areas=True`.
"""


def export_metric(folder: str | Path, name: str | None = None) -> Path:
    """Writes the module into `folder`, which may exist; returns the folder.

    `name` is the repository's, "owner/name" or its last part: on the Hub evaluate looks for `name.py`, offline for a
    module called as its folder, which is the default.
    """
    target = Path(folder)
    stem = (name or target.resolve().name).rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_-]+", stem) or f"{stem}.py" in SIBLINGS:
        raise DatasetError(
            f"the metric cannot be called '{stem}': its module would not import",
            fix="Use letters, digits, - and _, and neither of annotations and counting.",
        )
    for source, written in [("metric.py", f"{stem}.py"), *((sibling, sibling) for sibling in SIBLINGS)]:
        write_bytes(target / written, (METRIC / source).read_bytes())
    write_text(target / "README.md", README.format(place=name or f"./{stem}"))
    return target
