"""How a model and a dataset are used, in code that runs as it stands on the card."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = "hf-detr-panoptic @ git+https://github.com/hf-detr-panoptic/hf-detr-panoptic"

PIPELINE_THRESHOLD = 0.9  # transformers.pipelines.image_segmentation, under test

_HANDLER = Path(__file__).with_name("handler.py")


def handler_source() -> str:
    """handler.py, as it stands in the model's repository."""
    return _HANDLER.read_text(encoding="utf-8")


def panoptic_source() -> str:
    """The function of handler.py that turns a photo into a map, for the card: one text, so that they cannot differ."""
    source = handler_source()
    (function,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "panoptic"
    )
    first = min(decorator.lineno for decorator in function.decorator_list)
    return "\n".join(source.splitlines()[first - 1 : function.end_lineno])


def model_usage(repository: str, settings: Mapping[str, Any]) -> list[str]:
    """With plain transformers, with this package, and what the pipeline does instead."""
    threshold = float(settings.get("threshold", 0.85))
    return f'''```bash
pip install transformers timm
```

With plain transformers. The function makes one map of the photo: every thing by itself, stuff of one class together.

```python
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import AutoImageProcessor, DetrForSegmentation
from transformers.image_utils import load_image


{panoptic_source()}


model = DetrForSegmentation.from_pretrained("{repository}").eval()
processor = AutoImageProcessor.from_pretrained("{repository}")
ids, segments = panoptic(load_image("photo.jpg"), model, processor)
for segment in segments:
    print(segment["label"], round(segment["score"], 2), int((ids == segment["id"]).sum()), "pixels")
```

The same function answers in `handler.py`, for Inference Endpoints.

With hf_detr_panoptic it is shorter, faster, and takes photos of any size together:

```bash
pip install "{PACKAGE}"
```

```python
from hf_detr_panoptic import DetrForPanopticSegmentation, draw

model = DetrForPanopticSegmentation.from_pretrained("{repository}")
(scene,) = model.segment("photo.jpg")
draw("photo.jpg", scene).save("overlay.png")
```

### What the pipeline and the widget show

`pipeline("image-segmentation", "{repository}")` loads the same weights and makes other maps of them:

- it leaves out what scores {PIPELINE_THRESHOLD:g} or less; this model was measured at {threshold:g}
  (`threshold={threshold:g}` may be given);
- it does not put stuff together: a sky that two queries found is listed twice;
- it gives every pixel to some mask, also where none of them claims it, and leaves out masks that lose half of what
  they claim to others.

`processor.post_process_panoptic_segmentation` does the same, and does not cut off padding: give it one photo at a
time. The functions above do neither.'''.splitlines()


def dataset_usage(repository: str, split: str) -> list[str]:
    """With plain datasets, and with this package; `split` is one that is there."""
    return f'''```bash
pip install datasets pillow
```

```python
import io

import numpy as np
from datasets import load_dataset
from PIL import Image

data = load_dataset("{repository}")
row = data["{split}"][0]
ids = np.array(Image.open(io.BytesIO(row["panoptic"])), dtype=np.int64) @ [1, 256, 65536]  # [height, width]
names = data["{split}"].features["segments"].feature["label"].names
for segment in row["segments"]:
    print(names[segment["label"]], int((ids == segment["id"]).sum()), "pixels,", segment["source"])
```

With hf_detr_panoptic a row is a photo with its map, which knows areas, boxes and masks:

```bash
pip install "{PACKAGE}"
```

```python
from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.dataset.rows import rows_of

data = load_panoptic("{repository}")
scene = rows_of(data["{split}"], data.label_space)[0].map()
print(scene.areas(), scene.boxes())
```'''.splitlines()
