"""A model on photos: overlays to look at, COCO panoptic files to work with, masks if wanted.

  hf-detr-panoptic predict runs/site/final photos/ --out predictions
  hf-detr-panoptic predict runs/site/final a.jpg b.jpg --out predictions --masks class
  hf-detr-panoptic predict runs/site/final data/site/images --truth data/site --out predictions

Photos may be files or folders. --out then holds predictions.png (photo | truth where known | prediction), overlays/,
predictions.json with predictions/*.png in COCO panoptic format, and masks/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ...errors import HfDetrPanopticError
from ...images import open_image
from ..segment_flags import add_segment_flags, loaded_model, segment_settings, stuff_names

if TYPE_CHECKING:
    from ...panoptic_map import PanopticMap
    from .inputs import FoundPhoto
    from .outputs import PredictionFolder

_SHOWN = 50  # problems, at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a DETR panoptic checkpoint, a folder or on the Hub")
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="files, or folders with all that is in them")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the predictions that --out holds")
    parser.add_argument("--truth", metavar="DATASET", help="a COCO panoptic dataset; photos are found in it by name")
    parser.add_argument(
        "--masks", choices=["segment", "class"], help="also a black and white PNG a segment or a class"
    )
    add_segment_flags(parser)


def main(args: argparse.Namespace) -> int:
    from ..refusals import clear_errors
    from .outputs import PredictionFolder

    folder = PredictionFolder(Path(args.out), args.masks, args.overwrite)
    with clear_errors(folder.path):
        problems = predict(
            args.model,
            args.photos,
            folder,
            truth=args.truth,
            stuff=stuff_names(args),
            settings=segment_settings(args),
            batch_size=args.batch_size,
            progress=sys.stderr.isatty(),
        )
    print(folder.summary())
    if problems:
        print(f"{len(problems)} not predicted:")
        print("\n".join(f"  {problem}" for problem in problems[:_SHOWN]))
        if len(problems) > _SHOWN:
            print(f"  and {len(problems) - _SHOWN} more")
    if not folder.predicted:
        return 1
    how_good = f"hf-detr-panoptic evaluate --model {args.model} --data {args.truth or 'DATASET'}"
    print(f"next: look at {folder.path / 'predictions.png'}, then {how_good}")
    return 0


def predict(
    model: str | Path | Any,
    photos: Sequence[str | Path],
    folder: PredictionFolder,
    *,
    truth: str | Path | None = None,
    stuff: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = 4,
    progress: bool = False,
) -> list[HfDetrPanopticError]:
    """Every photo's map into the folder; returns what is wrong with the photos that could not be predicted.

    `model`: a checkpoint's folder or name, or a loaded labeler. The next photos are opened while the model works.
    """
    from tqdm import tqdm

    from ...model.postprocess import PostprocessSettings
    from ..processes import guard_processes
    from .inputs import find_photos, find_truth

    if guard_processes() > 1:
        raise HfDetrPanopticError("predict runs in one process", fix="Start it without a launcher.")
    if batch_size < 1:
        raise HfDetrPanopticError(f"batch_size is {batch_size}", fix="Give 1 or more.")
    # Raises before earlier predictions are removed; the model has this same check, but photo by photo.
    PostprocessSettings(**{name: value for name, value in (settings or {}).items() if name != "precision"})
    found, problems = find_photos(photos, besides=folder.path)
    known = find_truth(truth)
    loaded = loaded_model(model, stuff)
    chunks = [found[start : start + batch_size] for start in range(0, len(found), batch_size)]
    bar = tqdm(total=len(found), desc="predicting", unit="photo", disable=not progress)
    with folder.writing(loaded.label_space, known, found), ThreadPoolExecutor(max_workers=1) as reader, bar:
        coming = [reader.submit(_opened, chunk) for chunk in chunks[:1]]
        for place, chunk in enumerate(chunks):
            pictures = coming.pop().result()
            coming += [reader.submit(_opened, following) for following in chunks[place + 1 : place + 2]]
            readable = [(name, picture) for name, picture in pictures if isinstance(picture, Image.Image)]
            problems += [error for _, error in pictures if isinstance(error, HfDetrPanopticError)]
            for name, picture, map in _segmented(loaded, readable, settings or {}, batch_size, problems):
                folder.add(name, picture, map)
            bar.update(len(chunk))
    return problems


def _opened(photos: Sequence[FoundPhoto]) -> list[tuple[str, Image.Image | HfDetrPanopticError]]:
    opened: list[tuple[str, Image.Image | HfDetrPanopticError]] = []
    for photo in photos:
        try:
            opened.append((photo.name, open_image(photo.path)))
        except HfDetrPanopticError as error:
            opened.append((photo.name, error))
    return opened


def _segmented(
    model: Any,
    pictures: Sequence[tuple[str, Image.Image]],
    settings: Mapping[str, Any],
    batch_size: int,
    problems: list[HfDetrPanopticError],
) -> Iterator[tuple[str, Image.Image, PanopticMap]]:
    """What the model makes of the photos; if it refuses them together, of each alone."""
    try:
        maps = model.segment([picture for _, picture in pictures], **settings, batch_size=batch_size)
        yield from ((name, picture, map) for (name, picture), map in zip(pictures, maps, strict=True))
        return
    except HfDetrPanopticError as error:
        if len(pictures) == 1:
            problems.append(type(error)(error.what, where=pictures[0][0], fix=error.fix))
            return
    for one in pictures:
        yield from _segmented(model, [one], settings, batch_size, problems)
