"""A model in the browser: a photo in, its segments out, each one told by a click.

  hf-detr-panoptic app runs/site/final
  hf-detr-panoptic app user/model photos/ --title "My site"

PHOTO are the examples that a visitor can click, files or folders; without any, three synthetic photos. The threshold
slider works on masks that were kept: no new inference. Needs gradio: pip install "hf-detr-panoptic[app]".
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..hub.app_view import AppModel
    from ..model.modeling import DetrForPanopticSegmentation

FLOOR = 0.3
"""The lowest threshold that the slider offers: what scores less is noise, and would be kept in memory."""

_SCENES = 3
_SEED = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a DETR panoptic checkpoint, a folder or on the Hub")
    parser.add_argument("photos", metavar="PHOTO", nargs="*", help="examples to click: files, or folders")
    parser.add_argument("--title", default="Panoptic segmentation", help="above the page (%(default)s)")
    parser.add_argument("--port", type=int, help="where to listen (the first free one from 7860 on)")
    parser.add_argument("--stuff", metavar="A,B", help="the model's stuff classes, if its configuration does not say")


def main(args: argparse.Namespace) -> int:
    from ..hub.app import build_app, serve
    from ..images import image_size
    from ..predict import find_photos

    stuff = None if args.stuff is None else [name.strip() for name in args.stuff.split(",") if name.strip()]
    with tempfile.TemporaryDirectory() as scratch:
        given: Sequence[str | Path] = args.photos or [save_example_photos(Path(scratch))]
        examples, problems = find_photos(given)
        if problems:
            raise problems[0]
        for photo in examples:
            image_size(photo.path)  # a visitor should not be the first to see that it is no photo
        app = build_app(app_model(args.model, stuff), title=args.title, examples=[photo.path for photo in examples])
        print(f"{serve(app, args.port)}  (Ctrl-C ends it)", flush=True)
        app.block_thread()
    return 0


def app_model(model: str | Path | DetrForPanopticSegmentation, stuff: Iterable[str] | None = None) -> AppModel:
    """What the app needs of a checkpoint's folder or name, or of a loaded model."""
    from accelerate import PartialState

    from ..hub.app_view import AppModel
    from ..model.modeling import DetrForPanopticSegmentation
    from ..model.segment import keep_masks

    name = "" if isinstance(model, DetrForPanopticSegmentation) else str(model)
    loaded: Any = model
    if name:
        loaded = DetrForPanopticSegmentation.from_pretrained(name, stuff=stuff).to(PartialState().device)
    loaded.eval()
    threshold = loaded.settings.threshold
    floor = min(FLOOR, threshold)
    return AppModel(
        name=_shown_name(name) or type(loaded).__name__,
        space=loaded.label_space,
        segment=lambda photo: keep_masks(loaded, photo, floor),
        threshold=threshold,
        floor=floor,
    )


def save_example_photos(folder: Path) -> Path:
    """Synthetic photos of a site, for whoever has none at hand."""
    from ..dataset.photos import write_atomically

    for name, photo in example_photos().items():
        write_atomically(folder / name, photo)
    return folder


def example_photos() -> dict[str, bytes]:
    """The same by file name."""
    from ..dataset.photos import encode_photo
    from ..demo.scenes import scenes

    made = scenes(_SCENES, _SEED, size=(768, 576))
    return {f"site_{place}.jpg": encode_photo(scene.photo) for place, scene in enumerate(made, start=1)}


def _shown_name(model: str) -> str:
    """A name of the Hub as it is; of a folder its end, for visitors need not know where it lies."""
    return "/".join(Path(model).resolve().parts[-2:]) if Path(model).exists() else model
