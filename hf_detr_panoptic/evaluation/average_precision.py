"""Box and mask AP of things, and of all classes apart, through pycocotools: no files, no prints."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import LabelError, MapError
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap

ImageId = int | str


@dataclass(frozen=True)
class Objects:
    """The objects of one image, predicted or true, small enough to send from process to process.

    labels: int [N]; boxes: float [N, 4] as (x, y, width, height) in pixels; scores: float [N], of predictions;
    crowds: bool [N], of the truth; masks: N compressed RLEs, or None where there are only boxes.
    """

    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]
    masks: tuple[dict[str, Any], ...] | None

    def __init__(
        self,
        labels: npt.ArrayLike,
        boxes: npt.ArrayLike,
        scores: npt.ArrayLike | None = None,
        crowds: npt.ArrayLike | None = None,
        masks: Iterable[dict[str, Any]] | None = None,
    ) -> None:
        values = {
            "labels": np.asarray(labels, dtype=np.int64).reshape(-1),
            "boxes": np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        }
        count = len(values["labels"])
        values["scores"] = np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
        values["crowds"] = np.zeros(count, bool) if crowds is None else np.asarray(crowds, dtype=bool).reshape(-1)
        listed = None if masks is None else tuple(masks)
        lengths = {name: len(value) for name, value in values.items()} | (
            {} if listed is None else {"masks": len(listed)}
        )
        if len(set(lengths.values())) > 1:
            raise MapError(
                "the objects of an image do not line up: " + ", ".join(f"{n} {name}" for name, n in lengths.items())
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "masks", listed)

    @classmethod
    def of(cls, panoptic: PanopticMap, masks: bool = True) -> Objects:
        """Every segment of a map, stuff too."""
        boxes, rles = panoptic.boxes(), panoptic.rles() if masks else None
        segments = panoptic.segments
        return cls(
            labels=[segment.label for segment in segments],
            boxes=[boxes[segment.id] for segment in segments],
            scores=[segment.score for segment in segments],
            crowds=[segment.crowd for segment in segments],
            masks=None if rles is None else [rles[segment.id] for segment in segments],
        )


class AveragePrecision:
    """AP over images that are identified: one that comes again, in `update` or in `merge`, is not counted again."""

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.images: dict[ImageId, tuple[Objects, Objects]] = {}

    def update(
        self, image_id: ImageId, prediction: PanopticMap | Objects, truth: PanopticMap | Objects
    ) -> AveragePrecision:
        """Counts one image. A model without masks hands in `Objects(labels, boxes, scores)`."""
        return self.add({image_id: (self._objects(prediction), self._objects(truth))})

    def add(self, images: Mapping[ImageId, tuple[Objects, Objects]]) -> AveragePrecision:
        """Adds images that another process has seen."""
        for image_id, sides in images.items():
            self.images.setdefault(image_id, sides)
        return self

    def merge(self, other: AveragePrecision) -> AveragePrecision:
        """Adds what another counter of the same label space has seen."""
        if other.space != self.space:
            raise LabelError("the other counter has another label space")
        return self.add(other.images)

    def compute(self) -> dict[str, Any]:
        """`box` and `mask`, each with `things`, `stuff` and `all`: ap, ap50, ap75 as fractions, n classes averaged,

        and `per_class`. None where the truth has no such object; `mask` is None if any image came without masks.
        """
        with_masks = all(side.masks is not None for sides in self.images.values() for side in sides)
        return {"box": self._quality("bbox"), "mask": self._quality("segm") if with_masks else None}

    def _objects(self, side: PanopticMap | Objects) -> Objects:
        if isinstance(side, PanopticMap):
            if side.space != self.space:
                raise LabelError("a map of another label space", fix="Bring it over with PanopticMap.relabelled.")
            return Objects.of(side)
        if side.labels.size and not 0 <= side.labels.min() <= side.labels.max() < len(self.space):
            raise LabelError(
                f"labels run from {side.labels.min()} to {side.labels.max()}, the space has {len(self.space)}"
            )
        return side

    def _quality(self, kind: str) -> dict[str, Any]:
        precision = self._precision(kind)  # [T, R, K]
        rows = []
        for label, category in enumerate(self.space):
            of_class = precision[:, :, label]
            row = {"label": label, "name": category.name, "isthing": category.isthing}
            rows.append({**row, **_averaged(of_class[:, :, None])})
        things, stuff = (sorted(labels) for labels in (self.space.thing_labels, self.space.stuff_labels))
        return {
            "things": _averaged(precision[:, :, things]),
            "stuff": _averaged(precision[:, :, stuff]),
            "all": _averaged(precision),
            "per_class": rows,
        }

    def _precision(self, kind: str) -> npt.NDArray[np.float64]:
        """float [thresholds, recalls, classes], -1 where the truth has no object of the class."""
        from pycocotools.cocoeval import COCOeval

        # Numbers first, then names, each in order: scores may tie, and then the order of the images decides.
        ordered = sorted(self.images, key=lambda image_id: (isinstance(image_id, str), image_id))
        truths, predictions = (
            _Annotations(
                [self.images[image_id][side] for image_id in ordered], masks=kind == "segm", labels=len(self.space)
            )
            for side in (1, 0)
        )
        run = COCOeval(truths, predictions, kind)
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.params.maxDets = run.params.maxDets[-1:]
        if not ordered or not len(self.space):
            return -np.ones((len(run.params.iouThrs), len(run.params.recThrs), len(self.space)))
        with contextlib.redirect_stdout(io.StringIO()):
            run.evaluate()
            run.accumulate()
        return run.eval["precision"][:, :, :, 0, 0]


class _Annotations:
    """As much of pycocotools' COCO as its evaluation asks for. Ids begin at 1: it takes 0 for no match."""

    def __init__(self, images: Sequence[Objects], masks: bool, labels: int) -> None:
        self.images, self.labels = range(len(images)), range(labels)
        self.annotations: list[dict[str, Any]] = []
        for image, objects in enumerate(images):
            for place, label in enumerate(objects.labels.tolist()):
                box = objects.boxes[place].tolist()
                entry = {
                    "id": len(self.annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": float(objects.scores[place]),
                    "iscrowd": int(objects.crowds[place]),
                }
                if masks and objects.masks is not None:
                    entry["segmentation"] = objects.masks[place]
                self.annotations.append(entry)

    def getImgIds(self) -> list[int]:  # noqa: N802
        return list(self.images)

    def getCatIds(self) -> list[int]:  # noqa: N802
        return list(self.labels)

    def getAnnIds(self, **_: Any) -> range:  # noqa: N802
        return range(len(self.annotations))

    def loadAnns(self, places: Iterable[int]) -> list[dict[str, Any]]:  # noqa: N802
        return [self.annotations[place] for place in places]

    def annToRLE(self, annotation: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return annotation["segmentation"]


def _averaged(precision: npt.NDArray[np.float64]) -> dict[str, Any]:
    """float [T, R, K] → the means over what is there; thresholds are 0.5, 0.55, … 0.95."""

    def mean(values: npt.NDArray[np.float64]) -> float | None:
        known = values[values > -1]
        return float(known.mean()) if known.size else None

    present = int((precision > -1).any(axis=(0, 1)).sum()) if precision.size else 0
    return {"ap": mean(precision), "ap50": mean(precision[0]), "ap75": mean(precision[5]), "n": present}
