"""How good is the model now? Photos at their own size, never padded; each one is reduced to counters where it is seen.

Every process measures its share; what it found travels as whole numbers and boxes, and an image counts once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from ..dataset.batches import Row
from ..errors import DatasetError, HfDetrPanopticError
from ..evaluation.average_precision import AveragePrecision, Objects
from ..evaluation.panoptic_quality import PanopticQuality, image_counts
from ..images import open_image
from ..model.detector import detect
from ..model.modeling import DetrForPanopticSegmentation
from ..model.segment import segment_batch
from ..panoptic_map import PanopticMap
from ..preprocess import as_pixels

ImageId = int | str
_BATCHES_AHEAD = 3


class Loaded(NamedTuple):
    """A batch of photos of equal size after resizing. pixel_values: float [B, 3, h, w]; sizes: the photos' own."""

    image_ids: tuple[ImageId, ...]
    pixel_values: Tensor
    sizes: list[tuple[int, int]]
    truths: tuple[PanopticMap, ...]


def panoptic_quality(
    model: DetrForPanopticSegmentation, rows: Sequence[Row], batch_size: int, precision: str = "fp32"
) -> dict[str, Any]:
    """What `PanopticQuality.compute` gives, over all photos, the same on every process."""
    space = model.label_space

    def measure(batch: Loaded) -> list[Any]:
        maps = segment_batch(model, batch.pixel_values, batch.sizes, model.settings, precision=precision)
        return [image_counts(found, truth, space) for found, truth in zip(maps, batch.truths, strict=True)]

    quality = PanopticQuality(space)
    for counts in _measured(model, rows, batch_size, measure).values():
        quality.add(counts)
    return quality.compute()


def box_precision(
    model: DetrForPanopticSegmentation, rows: Sequence[Row], batch_size: int, precision: str = "fp32"
) -> dict[str, Any]:
    """Box AP of the detector, what `AveragePrecision.compute` calls `box`; its masks are not asked for."""

    def measure(batch: Loaded) -> list[Any]:
        found = detections(model, batch.pixel_values, batch.sizes, precision)
        truths = (Objects.of(truth, masks=False) for truth in batch.truths)
        return list(zip(found, truths, strict=True))

    average = AveragePrecision(model.label_space)
    average.add(_measured(model, rows, batch_size, measure))
    box: dict[str, Any] = average.compute()["box"]
    return box


@torch.no_grad()
def detections(
    model: DetrForPanopticSegmentation, pixel_values: Tensor, sizes: Sequence[tuple[int, int]], precision: str = "fp32"
) -> list[Objects]:
    """Every query's likeliest class with its probability and its box in pixels, as COCO's detection protocol wants."""
    dtype = torch.bfloat16 if precision == "bf16" else model.dtype
    pixels = pixel_values.to(model.device, dtype, memory_format=torch.channels_last)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = detect(model.detr, pixels, backbone=model._fast.backbone(model, dtype))
    columns = torch.tensor(model.label_space.columns, device=pixels.device)
    scores, labels = found.logits.float().softmax(-1)[..., columns].max(-1)
    centres, extents = found.boxes.float().split(2, -1)
    scale = torch.tensor([(width, height) for height, width in sizes], device=pixels.device)[:, None]
    boxes = torch.cat([(centres - extents / 2) * scale, extents * scale], -1)
    return [
        Objects(labels=own.cpu().numpy(), boxes=box.cpu().numpy(), scores=score.cpu().numpy())
        for own, box, score in zip(labels, boxes, scores, strict=True)
    ]


def plan_batches(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Photos of equal size together, so that none is padded.

    Planned from the whole list before processes share it: what else is in a batch moves a logit in its last bits.
    """
    by_size: dict[Any, list[Row]] = {}
    for place, row in enumerate(rows):
        by_size.setdefault(getattr(row, "size", None) or place, []).append(row)
    return [same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)]


def _measured(
    model: DetrForPanopticSegmentation,
    rows: Sequence[Row],
    batch_size: int,
    measure: Callable[[Loaded], list[Any]],
) -> Mapping[ImageId, Any]:
    """What `measure` makes of each photo, by image id, from all processes."""
    if not rows:
        raise DatasetError("there is no photo to evaluate on", fix="Give the dataset a split called val.")
    state = PartialState()
    batches = plan_batches(rows, batch_size)[state.process_index :: state.num_processes]
    found: dict[ImageId, Any] = {}
    error: Exception | None = None
    training = model.training
    model.eval()
    try:
        for batch in _read_ahead(model, batches):
            found.update(zip(batch.image_ids, measure(batch), strict=True))
    except Exception as failure:
        if state.num_processes == 1:
            raise
        # Told to all: a process that dies alone leaves the others waiting in the gather.
        error = failure if isinstance(failure, HfDetrPanopticError) else RuntimeError(repr(failure))
    finally:
        model.train(training)
    shares = gather_object([(found, error)])
    for _, reported in shares:
        if reported is not None:
            raise reported
    together: dict[ImageId, Any] = {}
    for share, _ in shares:
        together.update(share)
    # In the order of the list, so that sums and ties come out alike however the photos were shared out.
    return {row.image_id: together[row.image_id] for row in rows}


def _read_ahead(model: DetrForPanopticSegmentation, batches: Sequence[Sequence[Row]]) -> Iterator[Loaded]:
    """Photos are opened and resized in threads while the model works on those before."""

    def load(batch: Sequence[Row]) -> Loaded:
        pixels = [as_pixels(open_image(row.photo)) for row in batch]
        values = [model.preprocess(photo) for photo in pixels]
        return Loaded(
            tuple(row.image_id for row in batch),
            torch.stack(values),
            [(int(photo.shape[-2]), int(photo.shape[-1])) for photo in pixels],
            tuple(row.map() for row in batch),
        )

    with ThreadPoolExecutor(max_workers=2) as readers:
        coming = iter(batches)
        waiting: deque[Future[Loaded]] = deque(readers.submit(load, batch) for batch in islice(coming, _BATCHES_AHEAD))
        while waiting:
            ready = waiting.popleft().result()
            following = next(coming, None)
            if following is not None:
                waiting.append(readers.submit(load, following))
            yield ready


def eval_metrics(mode: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation that a Trainer logs and chooses the best checkpoint by; nothing found is 0."""
    if mode == "boxes":
        figures = {"box_ap": result["all"]["ap"], "box_ap50": result["all"]["ap50"], "box_ap75": result["all"]["ap75"]}
        figures |= {"box_ap_things": result["things"]["ap"], "box_ap_stuff": result["stuff"]["ap"]}
    else:
        figures = {key: result[key] for key in ("pq", "sq", "rq")}
        figures |= {"pq_things": result["things"]["pq"], "pq_stuff": result["stuff"]["pq"]}
    whole = next(iter(figures))
    return {
        f"eval_{name}": value if value is not None and math.isfinite(value) else 0.0
        for name, value in figures.items()
        if value is not None or name == whole
    }
