"""How good is the model? The one loop, for a Trainer, the command and a report.

Photos at their own size, never padded; each is reduced to counters where it is seen. Several processes share the
photos; what they found travels as whole numbers and boxes, and an image counts once.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DatasetError, HfDetrPanopticError, LabelError
from ..files import write_json
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..parallel import progress_bar, read_ahead, results_of_all
from ..text import and_more, count_of
from ..watch import watched
from .incomplete import left_out
from .metric.counting import Counts
from .quality import (
    AveragePrecision,
    Confusion,
    Confusions,
    ImageId,
    Objects,
    PanopticQuality,
    Progress,
    Side,
    evaluate_folders,
    image_confusions,
    image_counts,
    objects_left_out,
    overlaps_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..dataset.batches import Row
    from ..model.modeling import DetrForPanopticSegmentation
    from ..settings import Postprocess

logger = logging.getLogger(__name__)

PAPER = "paper"
_BATCHES_AHEAD = 3


# --- the loop


class LoadedBatch(NamedTuple):
    """Photos of equal size after resizing. pixel_values: float [B, 3, h, w]; sizes: the photos' own."""

    rows: Sequence[Row]
    pixel_values: Tensor
    sizes: list[tuple[int, int]]
    truths: list[PanopticMap]


Find = Callable[[LoadedBatch], Sequence[Any]]
"""What the model says of each photo of a batch: its map, or its boxes."""


def plan_batches(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Photos of equal size together, so that none is padded.

    Planned from the whole list before processes share it: what else is in a batch moves a logit in its last bits.
    """
    by_size: dict[Any, list[Row]] = {}
    for index, row in enumerate(rows):
        by_size.setdefault(getattr(row, "size", None) or index, []).append(row)
    return [same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)]


def _each(
    model: DetrForPanopticSegmentation, batches: Sequence[Sequence[Row]], find: Find, whole: bool = False
) -> Iterator[tuple[Row, Any, PanopticMap]]:
    """(row, what `find` says, truth), photo by photo. The model trains on afterwards if it did before."""
    training = model.training
    model.eval()
    try:
        for batch in _read_ahead(model, batches, whole):
            yield from zip(batch.rows, find(batch), batch.truths, strict=True)
    finally:
        model.train(training)


def _measured(
    model: DetrForPanopticSegmentation,
    rows: Sequence[Row],
    batch_size: int,
    find: Find,
    reduce: Callable[[Any, PanopticMap, tuple[str, ...]], Any],
    progress: Progress | None = None,
    whole: bool = False,
) -> Mapping[ImageId, Any]:
    """What `reduce` makes of each photo's find, truth and incomplete classes, by image id, from all processes.

    `whole`: see `_load`."""
    from accelerate import PartialState

    if not rows:
        raise DatasetError("there is no photo to evaluate on", fix="Is this the right split? Training asks for val.")
    state = PartialState()
    batches = plan_batches(rows, batch_size)[state.process_index :: state.num_processes]

    def measure_mine() -> dict[ImageId, Any]:
        photos: Iterable[Any] = _each(model, batches, find, whole)
        photos = progress(photos, sum(map(len, batches))) if progress else photos
        return {row.image_id: reduce(answer, truth, row.incomplete) for row, answer, truth in photos}

    together: dict[ImageId, Any] = {}
    for share in results_of_all(measure_mine):
        together.update(share)
    # In the order of the list, so that sums and ties come out alike however the photos were shared out.
    return {row.image_id: together[row.image_id] for row in rows}


def _read_ahead(
    model: DetrForPanopticSegmentation, batches: Sequence[Sequence[Row]], whole: bool
) -> Iterator[LoadedBatch]:
    """Photos are opened and resized in threads while the model works on those before."""
    return read_ahead(partial(_load, model, whole), batches, threads=2, ahead=1 if whole else _BATCHES_AHEAD)


def _load(model: DetrForPanopticSegmentation, whole: bool, rows: Sequence[Row]) -> LoadedBatch:
    """`whole`: the photos themselves, bytes [B, 3, H, W], in place of what the model sees at once."""
    import torch

    from ..preprocess import as_pixels

    photos = [as_pixels(open_image(row.photo)) for row in rows]
    sizes = [(int(photo.shape[-2]), int(photo.shape[-1])) for photo in photos]
    truths = [row.map() for row in rows]
    for row, size, truth in zip(rows, sizes, truths, strict=True):
        if size != (truth.height, truth.width):
            raise DatasetError(
                f"the photo is {size[1]}×{size[0]}, its map {truth.width}×{truth.height}",
                where=row.where,
                fix="Scale marks and photo together; `hf-detr-panoptic check` finds all such photos.",
            )
    values = photos if whole else [model.preprocess(photo) for photo in photos]
    return LoadedBatch(rows, torch.stack(values), sizes, truths)


def _maps(model: DetrForPanopticSegmentation, settings: Postprocess, precision: str) -> Find:
    from ..model.segment import segment_batch

    return lambda batch: segment_batch(model, batch.pixel_values, batch.sizes, settings, precision=precision)


def detections(
    model: DetrForPanopticSegmentation, pixel_values: Tensor, sizes: Sequence[tuple[int, int]], precision: str = "fp32"
) -> list[Objects]:
    """Every query's likeliest class with its probability and its box in pixels, as COCO's detection protocol wants."""
    import torch

    with torch.no_grad():
        detection = model._fast.detection(model, pixel_values, precision)
    columns = torch.tensor(model.label_space.columns).to(model.device, non_blocking=True)
    scores, labels = detection.logits.float().softmax(-1)[..., columns].max(-1)
    centres, extents = detection.boxes.float().split(2, -1)
    scale = torch.tensor([(width, height) for height, width in sizes]).to(model.device, non_blocking=True)[:, None]
    boxes = torch.cat([(centres - extents / 2) * scale, extents * scale], -1)
    fetched = torch.cat([boxes, scores[..., None], labels[..., None].to(boxes.dtype)], -1).cpu()  # one wait
    boxes, scores, labels = fetched[..., :4], fetched[..., 4], fetched[..., 5].long()
    each = zip(labels, boxes, scores, strict=True)
    return [Objects(labels=own.numpy(), boxes=box.numpy(), scores=score.numpy()) for own, box, score in each]


# --- what a Trainer asks


def panoptic_quality(
    model: DetrForPanopticSegmentation, rows: Sequence[Row], batch_size: int, precision: str = "fp32"
) -> dict[str, Any]:
    """What `PanopticQuality.compute` gives, over all photos, the same on every process."""
    space = model.label_space

    def reduce(prediction: PanopticMap, truth: PanopticMap, incomplete: tuple[str, ...]) -> Counts:
        return image_counts(*left_out(prediction, truth, incomplete), space)

    quality = PanopticQuality(space)
    for counts in _measured(model, rows, batch_size, _maps(model, model.settings, precision), reduce).values():
        quality.add(counts)
    return quality.compute()


def box_precision(
    model: DetrForPanopticSegmentation, rows: Sequence[Row], batch_size: int, precision: str = "fp32"
) -> dict[str, Any]:
    """Box AP of the detector, what `AveragePrecision.compute` calls `box`; its masks are not asked for."""

    def find(batch: LoadedBatch) -> list[Objects]:
        return detections(model, batch.pixel_values, batch.sizes, precision)

    def reduce(found: Objects, truth: PanopticMap, incomplete: tuple[str, ...]) -> tuple[Objects, Objects]:
        sides = found, Objects.of(truth, masks=False)
        return objects_left_out(*sides, {truth.space.index(name) for name in incomplete}) if incomplete else sides

    average = AveragePrecision(model.label_space)
    average.add(_measured(model, rows, batch_size, find, reduce))
    box: dict[str, Any] = average.compute()["box"]
    return box


def eval_metrics(mode: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an evaluation that a Trainer logs and chooses the best checkpoint by; nothing found is 0."""
    if mode == "boxes":
        whole, key, all_classes = "box_ap", "ap", result["all"]
        figures = {"box_ap": all_classes["ap"], "box_ap50": all_classes["ap50"], "box_ap75": all_classes["ap75"]}
    else:
        whole, key, all_classes = "pq", "pq", result
        figures = {name: result[name] for name in ("pq", "sq", "rq")}
    figures |= {f"{whole}_{group}": result[group][key] for group in ("things", "stuff")}
    yours = (result.get("yours") or {}).get(key)
    if yours is not None:
        mean = (yours + (all_classes[key] or 0.0)) / 2
        figures = {f"{whole}_yours": yours, f"{whole}_yours_and_all": mean, **figures}
    return {
        f"eval_{name}": value if value is not None and math.isfinite(value) else 0.0
        for name, value in figures.items()
        if value is not None or name == whole
    }


# --- what the command and a report ask


class ImageMeasure(NamedTuple):
    """What is left of an image once it is measured."""

    counts: Counts
    confusions: Confusions
    objects: tuple[Objects, Objects]


class Measured:
    """Measures by image id, so that an image counts once however often it comes."""

    def __init__(self, space: LabelSpace, images: Mapping[ImageId, ImageMeasure] | None = None) -> None:
        self.space = space
        self.images = dict(images or {})

    def add(
        self, image_id: ImageId, prediction: PanopticMap, truth: PanopticMap, incomplete: Collection[str] = ()
    ) -> None:
        self.images[image_id] = measure_image(prediction, truth, self.space, incomplete)

    def compute(self) -> dict[str, Any]:
        """PQ with its groups, `box` and `mask` AP, `confusion`, the worst `mix_ups`, and the number of `images`."""
        quality, confusion = PanopticQuality(self.space), Confusion(self.space)
        precision = AveragePrecision(self.space)
        for image_id, measure in self.images.items():
            quality.add(measure.counts)
            confusion.add(measure.confusions)
            precision.add({image_id: measure.objects})
        return {
            **quality.compute(),
            **precision.compute(),
            "confusion": confusion.compute(),
            "mix_ups": confusion.worst(),
            "images": len(self.images),
        }


def measure_image(
    prediction: PanopticMap, truth: PanopticMap, space: LabelSpace, incomplete: Collection[str] = ()
) -> ImageMeasure:
    """All that is counted on one image, without the classes that nobody may have looked for on it."""
    prediction, truth = left_out(prediction, truth, incomplete)
    pairs = overlaps_of(prediction, truth)
    return ImageMeasure(
        image_counts(prediction, truth, space, pairs=pairs),
        image_confusions(prediction, truth, pairs),
        (Objects.of(prediction), Objects.of(truth)),
    )


def measure(
    model: DetrForPanopticSegmentation,
    rows: Sequence[Row],
    space: LabelSpace,
    settings: Postprocess,
    batch_size: int,
    precision: str = "fp32",
    progress: Progress | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> Measured:
    """All rows, measured by whichever processes there are; every process returns the same."""
    translate = _translation(model.label_space, space)

    def reduce(found: PanopticMap, truth: PanopticMap, incomplete: tuple[str, ...]) -> ImageMeasure:
        return measure_image(translate(found), truth, space, incomplete)

    if tile is None:
        return Measured(space, _measured(model, rows, batch_size, _maps(model, settings, precision), reduce, progress))
    from ..model.segment import segment

    def find(photos: LoadedBatch) -> list[PanopticMap]:
        return segment(
            model,
            photos.pixel_values,
            settings,
            precision=precision,
            batch_size=batch_size,
            tile=tile,
            overlap=overlap,
        )

    return Measured(space, _measured(model, rows, 1, find, reduce, progress, whole=True))


def segmented(
    model: DetrForPanopticSegmentation, rows: Sequence[Row], space: LabelSpace, batch_size: int
) -> Iterator[tuple[Row, PanopticMap, PanopticMap]]:
    """(row, truth, prediction in the data's space) of each image, in this process alone."""
    translate = _translation(model.label_space, space)
    for row, prediction, truth in _each(model, plan_batches(rows, batch_size), _maps(model, model.settings, "fp32")):
        yield row, truth, translate(prediction)


def _translation(known: LabelSpace, space: LabelSpace) -> Callable[[PanopticMap], PanopticMap]:
    """Brings the model's maps into the data's space; where the two disagree on a kind, stuff is fused again."""
    names = _names(known, space)
    kinds_differ = any(name and _kind(known, old) != _kind(space, name) for old, name in names.items())

    def translate(prediction: PanopticMap) -> PanopticMap:
        relabelled = prediction.relabelled(space, names)
        return relabelled.fused_stuff() if kinds_differ else relabelled

    return translate


def _names(known: LabelSpace, wanted: LabelSpace) -> dict[str, str | None]:
    """What each class of the model is called in the data; None where the data has no such class."""
    names = {name: name if name in wanted.names else None for name in known.names}
    shared = [name for name in names.values() if name]
    if not shared:
        raise LabelError(
            f"no class of the data, {and_more(wanted.names, 5)}, is among the model's: {and_more(known.names, 5)}",
            fix="Classes meet by name: rename those of the data, or take a model that was trained on them.",
        )
    if len(shared) < len(wanted):
        unknown = [name for name in wanted.names if name not in known.names]
        logger.warning(
            "%d of %d classes are unknown to the model: %s", len(unknown), len(wanted), and_more(unknown, 5)
        )
    return names


def _kind(space: LabelSpace, name: str) -> bool:
    return space[space.index(name)].isthing


def evaluate_model(
    model: Any,
    data: Any,
    *,
    split: str = "val",
    photos: str | Path | None = None,
    protocol: str | None = None,
    threshold: float | None = None,
    mask_threshold: float | None = None,
    min_area: int | None = None,
    fill: str | None = None,
    duplicate: float | None = None,
    stuff: Iterable[str] | None = None,
    batch_size: int = 4,
    precision: str = "fp32",
    limit: int | None = None,
    progress: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
) -> dict[str, Any]:
    """A model's quality on a dataset: what `PanopticQuality.compute` gives, with box and mask AP and the confusions.

    `model`: a checkpoint's folder or name, or a loaded `DetrForPanopticSegmentation`. `data`: a folder in COCO
    panoptic format, or a split that was read from one. Where its val is empty, and it says that train stands in
    for it, that is measured on, and the result says so. Classes meet by name, in the data's own label space: what the
    model knows beyond it becomes void. What is not given comes from what the model remembers, or the `protocol`.

    In several processes each image is segmented by one of them and every process returns the same result. Batches
    are planned from the whole list, so that the number of processes does not touch the pixels. `tile`, `overlap`: as
    in `segment`.
    """
    from ..dataset.coco_panoptic import PanopticSplit, read_split
    from ..dataset.validation import learnt_and_known, validates_on_train
    from ..parallel import guard_processes
    from .table import MEASURED_ON

    guard_processes()
    chosen: dict[str, Any] = {"threshold": threshold, "mask_threshold": mask_threshold, "min_area": min_area}
    chosen |= {"fill": fill, "duplicate": duplicate}
    given: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    if protocol == PAPER:
        # DETR drops segments of 4 pixels and fewer, ours of fewer than min_area.
        given = {"threshold": 0.85, "min_area": 5, "fill": "argmax", "duplicate": 1.0} | given
    elif protocol is not None:
        raise HfDetrPanopticError(f"there is no protocol {protocol!r}", fix=f"The only one is '{PAPER}'.")
    read = data if isinstance(data, PanopticSplit) else read_split(data, split, photos)
    records, on_train = read.records, False
    if not records and read.name == "val" and validates_on_train(read.files.root):
        records, on_train = tuple(learnt_and_known(read_split(data, "train", photos).records)), True
    loaded = loaded_model(model, stuff)
    settings = loaded.settings.changed(**given)
    before = loaded.preprocess
    if protocol == PAPER:
        loaded.preprocess = replace(before, shortest_edge=800, longest_edge=1333, exact_size=None, fit_within=None)
    try:
        with watched():
            measured = measure(
                loaded,
                records[:limit],
                read.space,
                settings,
                batch_size,
                precision,
                _progress if progress else None,
                tile,
                overlap,
            )
    finally:
        loaded.preprocess = before
    remark = {MEASURED_ON: "train"} if on_train else {}
    return {**measured.compute(), **remark, "settings": {**settings.to_dict(), "protocol": protocol}}


def loaded_model(model: Any, stuff: Iterable[str] | None) -> Any:
    """A checkpoint by its folder or name, on the device at hand; what is loaded already stays as it is."""
    if not isinstance(model, str | os.PathLike):
        return model
    from accelerate import PartialState

    from ..model.modeling import DetrForPanopticSegmentation

    return DetrForPanopticSegmentation.from_pretrained(model, stuff=stuff).to(PartialState().device).eval()


# --- the command


def add_segment_flags(parser: argparse._ActionsContainer) -> None:
    """What `segment_settings` and `stuff_names` read."""
    from ..recipe import add_flags
    from ..settings import Postprocess

    add_flags(parser, Postprocess, Postprocess.model_fields, "what the model remembers; {} at first")
    parser.add_argument("--stuff", metavar="A,B", help="the model's stuff classes, if its configuration does not say")
    parser.add_argument("--batch-size", type=int, default=4, help="photos of one size at a time (%(default)s)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="(%(default)s)")


def add_tile_flags(parser: argparse._ActionsContainer) -> None:
    """What `tile_settings` reads."""
    from ..recipe import add_flags
    from ..settings import Tiles

    add_flags(parser, Tiles, Tiles.model_fields)


def tile_settings(args: argparse.Namespace) -> dict[str, Any]:
    """How large photos are cut, checked."""
    from ..settings import Tiles

    return Tiles(tile=args.tile, overlap=args.overlap).to_dict()


def segment_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `model.segment` is told, checked; the model remembers the rest."""
    from ..settings import Postprocess

    given = {name: getattr(args, name) for name in (*Postprocess.model_fields, "precision")}
    return {name: value for name, value in given.items() if value is not None}


def stuff_names(args: argparse.Namespace) -> list[str] | None:
    """--stuff, as a list."""
    return None if args.stuff is None else [name.strip() for name in args.stuff.split(",") if name.strip()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("a model on a dataset")
    model.add_argument("--model", metavar="DIR_OR_NAME", help="a DETR panoptic checkpoint, a folder or on the Hub")
    model.add_argument("--data", metavar="DIR", help="a dataset in COCO panoptic format")
    model.add_argument("--split", default="val", help="which part of it (%(default)s)")
    model.add_argument("--photos", metavar="DIR", help="where the photos are, if not in the dataset's folder")
    model.add_argument(
        "--protocol", choices=[PAPER], help="the paper's settings instead of the model's own: .85, argmax, 800/1333"
    )
    add_segment_flags(model)
    add_tile_flags(model)
    model.add_argument("--limit", type=int, metavar="N", help="the first N images only")

    folders = parser.add_argument_group("predictions in a folder")
    folders.add_argument(
        "--predictions", nargs="+", metavar=("JSON", "DIR"), help="a panoptic JSON, and the folder of its PNG files"
    )
    folders.add_argument("--truth", nargs="+", metavar=("JSON", "DIR"), help="the same for the truth")
    for option in ("--gt_json_file", "--pred_json_file", "--gt_folder", "--pred_folder"):
        folders.add_argument(option, metavar="PATH", help="as in panopticapi")
    folders.add_argument("--json-areas", action="store_true", help="trust the truth's areas, as panopticapi does")
    folders.add_argument("--workers", type=int, metavar="N", help="processes (one a core if there are many images)")

    out = parser.add_argument_group("what is written")
    out.add_argument("--json", metavar="FILE", help="everything measured, as fractions")
    out.add_argument("--per-class", metavar="FILE", help="a CSV with a line for each class")


def main(args: argparse.Namespace) -> int:
    """How good is a model, or a folder of predictions? PQ, SQ and RQ; for a model also AP and what it mixes up.

      hf-detr-panoptic evaluate --model runs/site/final --data dataset
      hf-detr-panoptic evaluate --model facebook/detr-resnet-50-panoptic --data coco --protocol paper
      hf-detr-panoptic evaluate --predictions predictions.json --truth annotations/panoptic_val.json

    The last takes panopticapi's own options too. Under torchrun or accelerate launch several processes share the
    images.
    """
    from .table import format_table, write_per_class

    predictions, truth = _side(args, "predictions", "pred"), _side(args, "truth", "gt")
    chosen = {"--model": args.model, "--data": args.data, "--predictions": predictions, "--truth": truth}
    given = {name for name, value in chosen.items() if value is not None}
    if predictions and truth and len(given) == 2:
        result = evaluate_folders(
            Side.at(*predictions), Side.at(*truth), args.json_areas, workers=args.workers, progress=_progress
        )
    elif given == {"--model", "--data"}:
        result = evaluate_model(
            args.model,
            args.data,
            split=args.split,
            photos=args.photos,
            protocol=args.protocol,
            **segment_settings(args),
            **tile_settings(args),
            stuff=stuff_names(args),
            batch_size=args.batch_size,
            limit=args.limit,
            progress=True,
        )
    else:
        raise HfDetrPanopticError(
            f"given: {', '.join(sorted(given)) or 'nothing'}",
            fix="Give --model and --data, or --predictions and --truth.",
        )
    if os.environ.get("RANK", "0") != "0":
        return 0
    if args.json:  # first: whoever reads what is printed may have gone
        write_json(args.json, result, indent=2)
    if args.per_class:
        write_per_class(result, args.per_class)
    print(format_table(result))
    if result.get("mix_ups"):
        print("\ntaken for another class:")
        for true, predicted, count in result["mix_ups"]:
            print(f"  {true} → {predicted}: {count}")
    print(f"\n{count_of(result['images'], 'image')}")
    return 0


def _side(args: argparse.Namespace, name: str, prefix: str) -> list[str] | None:
    """JSON and folder under their new name or under panopticapi's."""
    given = getattr(args, name)
    json_file, folder = getattr(args, f"{prefix}_json_file"), getattr(args, f"{prefix}_folder")
    if given and (json_file or folder):
        raise HfDetrPanopticError(f"--{name} and --{prefix}_… say the same thing twice", fix="Give one of them.")
    if given and len(given) > 2:
        raise HfDetrPanopticError(f"--{name} takes a JSON and a folder, not {len(given)} paths")
    if folder and not json_file:
        raise HfDetrPanopticError(f"--{prefix}_folder needs --{prefix}_json_file")
    return given or ([json_file, *([folder] if folder else [])] if json_file else None)


def _progress(images: Iterable[Any], total: int) -> Iterator[Any]:
    quiet = os.environ.get("RANK", "0") != "0" or not sys.stderr.isatty()
    yield from progress_bar(images, total=total, unit="image", show=not quiet)
