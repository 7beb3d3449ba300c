"""How good is a model, or a folder of predictions? PQ, SQ and RQ; for a model also AP and what it mixes up.

  hf-detr-panoptic evaluate --model runs/site/final --data dataset
  hf-detr-panoptic evaluate --model facebook/detr-resnet-50-panoptic --data coco --protocol paper
  hf-detr-panoptic evaluate --predictions predictions.json --truth annotations/panoptic_val.json

The last takes panopticapi's own options too. Under torchrun or accelerate launch several processes share the images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import HfDetrPanopticError
from .segment_flags import add_segment_flags, loaded_model, segment_settings, stuff_names

PAPER = "paper"


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
    from ..evaluation.table import format_table, write_per_class

    predictions, truth = _side(args, "predictions", "pred"), _side(args, "truth", "gt")
    chosen = {"--model": args.model, "--data": args.data, "--predictions": predictions, "--truth": truth}
    given = {name for name, value in chosen.items() if value is not None}
    if predictions and truth and len(given) == 2:
        from ..evaluation.folders import Side, evaluate_folders

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
    print(format_table(result))
    if result.get("mix_ups"):
        print("\ntaken for another class:")
        for true, predicted, count in result["mix_ups"]:
            print(f"  {true} → {predicted}: {count}")
    print(f"\n{result['images']} images")
    if args.json:
        _write_json(Path(args.json), result)
    if args.per_class:
        write_per_class(result, args.per_class)
    return 0


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
) -> dict[str, Any]:
    """A model's quality on a dataset: what `PanopticQuality.compute` gives, with box and mask AP and the confusions.

    `model`: a checkpoint's folder or name, or a loaded `DetrForPanopticSegmentation`. `data`: a folder in COCO
    panoptic format, or a split that was read from one. Classes meet by name, in the data's own label space: what the
    model knows beyond it becomes void. What is not given comes from what the model remembers, or the `protocol`.

    In several processes each image is segmented by one of them and every process returns the same result. Batches
    are planned from the whole list, so that the number of processes does not touch the pixels.
    """
    from ..dataset.coco_panoptic import PanopticSplit, read_split
    from .measuring import Measured, measure
    from .processes import guard_processes

    guard_processes()
    chosen: dict[str, Any] = {"threshold": threshold, "mask_threshold": mask_threshold, "min_area": min_area}
    chosen |= {"fill": fill, "duplicate": duplicate}
    settings: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    if protocol == PAPER:
        # DETR drops segments of 4 pixels and fewer, ours of fewer than min_area.
        settings = {"threshold": 0.85, "min_area": 5, "fill": "argmax", "duplicate": 1.0} | settings
    elif protocol is not None:
        raise HfDetrPanopticError(f"there is no protocol {protocol!r}", fix=f"The only one is '{PAPER}'.")
    records = data if isinstance(data, PanopticSplit) else read_split(data, split, photos)
    loaded = loaded_model(model, stuff)
    before = loaded.preprocess
    if protocol == PAPER:
        loaded.image_processor = _paper_sizes(before)
    try:
        measured: Measured = measure(
            loaded,
            records.records[:limit],
            records.space,
            {**settings, "precision": precision},
            batch_size,
            _progress if progress else None,
        )
    finally:
        loaded.image_processor = before
    return {**measured.compute(), "settings": {**loaded.settings.to_dict(), **settings, "protocol": protocol}}


def _paper_sizes(preprocess: Any) -> Any:
    from dataclasses import replace

    return replace(preprocess, shortest_edge=800, longest_edge=1333, exact_size=None, fit_within=None)


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
    from tqdm import tqdm

    quiet = os.environ.get("RANK", "0") != "0" or not sys.stderr.isatty()
    yield from tqdm(images, total=total, unit="image", disable=quiet)


def _write_json(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
