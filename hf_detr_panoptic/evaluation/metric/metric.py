"""Panoptic quality for `evaluate`: PNG bytes and `segments_info` on each side, the rules of panopticapi."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .annotations import count_pair
from .counting import SOURCES, Counts, add, summarise

DESCRIPTION = """
Panoptic quality (PQ = SQ × RQ) of Kirillov et al., equal to panopticapi's numbers on the same pixels: a predicted
segment matches a true one of its class when their IoU is strictly above 0.5; the truth's void and crowds are forgiven.
"""

INPUTS = """
Args:
    predictions: one dict an image: `png`, the bytes of a COCO panoptic id PNG (id = R + 256·G + 256²·B, 0 is void),
        and `segments_info`, a list of {"id", "category_id"}.
    references: the same for the truth; `iscrowd`, `area` and `source` ("custom" or "auto") are read where given.
    categories: COCO's list of {"id", "name", "isthing"}; `source` "custom" says which classes people marked.
    json_areas: take the truth's areas from `segments_info` as panopticapi does, stale or not, instead of the pixels.
Returns:
    pq, sq, rq and n (classes averaged) as fractions, the same in `things` and `stuff`, `per_class` with tp, fp and fn
    (`label` is the category's id), `sources`, and `yours`, of the classes that people marked, if there are any. What
    has nothing to average is None.
Examples:
    >>> quality = evaluate.load("metric")
    >>> side = {"png": open("000000142238.png", "rb").read(), "segments_info": [{"id": 7, "category_id": 1}]}
    >>> quality.compute(predictions=[side], references=[side], categories=[{"id": 1, "name": "pipe", "isthing": 1}])
"""

CITATION = """
@inproceedings{kirillov2019panoptic,
  title     = {Panoptic Segmentation},
  author    = {Kirillov, Alexander and He, Kaiming and Girshick, Ross and Rother, Carsten and Doll{\\'a}r, Piotr},
  booktitle = {CVPR},
  year      = {2019}
}
"""


class PanopticQuality(evaluate.Metric):
    """Streaming through `add` and `add_batch`, or all at once through `compute`."""

    def _info(self) -> evaluate.MetricInfo:
        segment = {
            "id": datasets.Value("int32"),
            "category_id": datasets.Value("int64"),
            "iscrowd": datasets.Value("bool"),
            "area": datasets.Value("float64"),
            "source": datasets.Value("string"),
        }
        side = {"png": datasets.Value("binary"), "segments_info": [segment]}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": side, "references": side}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **unknown: Any) -> None:
        """Stores some images' predictions and references."""
        super().add_batch(
            predictions=_stored("predictions", predictions), references=_stored("references", references), **unknown
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **unknown: Any) -> None:
        """Stores one image's prediction and reference."""
        self.add_batch(predictions=[prediction], references=[reference], **unknown)

    def _compute(
        self, *, predictions: Any, references: Any, categories: Any = None, json_areas: bool = False
    ) -> dict[str, Any]:
        if not categories:
            raise ValueError('hand over categories=[{"id": 1, "name": "pipe", "isthing": 1}, …]')
        names = {entry["id"]: entry["name"] for entry in categories}
        things = [entry["id"] for entry in categories if entry.get("isthing", 1)]
        if len(names) != len(categories):
            raise ValueError("an id occurs twice in categories")
        total: Counts = {}
        for index, (guess, truth) in enumerate(zip(predictions, references, strict=True)):
            try:
                counts = count_pair(
                    truth["png"], truth["segments_info"], guess["png"], guess["segments_info"], names, json_areas
                )
            except ValueError as error:
                raise ValueError(f"image {index}: {error}") from None
            add(total, counts)
        yours = [entry["id"] for entry in categories if entry.get("source") == SOURCES[0]]
        return summarise(total, names, things, yours)


def _stored(side: str, images: Any) -> list[dict[str, Any]]:
    """COCO's entries without what the metric does not read, such as the box; what is not given is null."""
    stored = []
    for index, image in enumerate(images or []):
        if not isinstance(image, dict) or not {"png", "segments_info"} <= image.keys():
            raise ValueError(f'{side}[{index}] is not {{"png": bytes, "segments_info": [...]}}')
        wanted = ("id", "category_id", "iscrowd", "area", "source")
        info = [{key: entry.get(key) for key in wanted} for entry in image["segments_info"]]
        stored.append({"png": image["png"], "segments_info": info})
    return stored
