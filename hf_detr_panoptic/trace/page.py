"""The trace of a photo as one HTML file without a network, and its tables as text."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HfDetrPanopticError, ModelError

if TYPE_CHECKING:
    from ..model.modeling import DetrForPanopticSegmentation
    from .pictures import Section, Table
    from .trace import Trace

MARK = "<!-- made by hf-detr-panoptic trace -->"
_PAGE = "trace.html"


def trace_photo(
    model: DetrForPanopticSegmentation,
    photo: str | Path,
    out: Path,
    *,
    segments: Sequence[str] | None = None,
    threshold: float | None = None,
) -> Trace:
    """One photo's trace, with its page and pictures in `out`."""
    from ..errors import clear_errors
    from ..files import write_bytes, write_text
    from ..images import open_image
    from ..preprocess import as_pixels
    from .pictures import story
    from .trace import trace

    settings = model.settings if threshold is None else model.settings.changed(threshold=threshold)
    check_out(out, Path(photo))
    opened = open_image(photo)
    pixels = model.preprocess(as_pixels(opened))
    traced = trace(model, pixels[None], photo_sizes=[(opened.height, opened.width)], settings=settings)
    sections = story(traced, opened, segments)
    about = (
        f"A photo of {opened.width}×{opened.height} pixels, and a model of {model.config.num_queries} queries and "
        f"{len(model.label_space)} classes. All shapes and maps were seen by hooks on the forward of stock "
        "transformers' DetrForSegmentation."
    )
    page = html_page(f"{Path(photo).name} in seven moves", about, sections)
    with clear_errors(out):
        write_text(out / _PAGE, page)
        for section in sections:
            for picture in section.pictures:
                write_bytes(out / picture.name, picture.png)
    return traced


def load_model(name: str | Path, stuff: Iterable[str] | None = None) -> DetrForPanopticSegmentation:
    """A checkpoint whose mask head was trained; a detection checkpoint has none to look into."""
    from accelerate import PartialState

    from ..model.modeling import DetrForPanopticSegmentation
    from ..parallel import guard_processes

    if guard_processes() > 1:
        raise HfDetrPanopticError("trace runs in one process", fix="Start it without a launcher.")
    loaded: Any = DetrForPanopticSegmentation.from_pretrained(name, stuff=stuff, output_loading_info=True)
    model, info = loaded
    if any(str(key).startswith("mask_head.") for key in info["missing_keys"]):
        raise ModelError(
            "is a detection checkpoint: it has no mask head to trace",
            where=str(name),
            fix="Give a panoptic one, such as facebook/detr-resnet-50-panoptic or what `train` made of this one.",
        )
    traceable: DetrForPanopticSegmentation = model.to(PartialState().device).eval()
    return traceable


def check_out(out: Path, photo: Path) -> None:
    """Only what an earlier trace left is replaced, and never the photo."""
    if out.exists() and not out.is_dir():
        raise HfDetrPanopticError("is a file, not a folder", where=str(out), fix="Give another --out.")
    taken = sorted(path for path in out.glob("trace*") if path.name == _PAGE or path.suffix == ".png")
    if any(path.resolve() == photo.resolve() for path in taken):
        raise HfDetrPanopticError("the photo lies where a picture goes", where=str(photo), fix="Give another --out.")
    page = out / _PAGE
    if taken and not (page.is_file() and MARK.encode() in page.read_bytes()[:200]):
        raise HfDetrPanopticError(
            "is there already, and no trace of ours", where=str(taken[0]), fix="Give another --out."
        )


def html_page(title: str, about: str, sections: Sequence[Section]) -> str:
    """One file that needs no other. Whatever a name holds comes out as text."""
    from ..report.pages import templates

    template = templates(__package__).get_template("page.html.j2")
    return template.render(mark=MARK, title=title, about=about, sections=sections)


def text_table(table: Table) -> str:
    """The table in columns, for a terminal."""
    rows = [table.header, *table.rows]
    rows = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(table: Table) -> str:
    """The table for a page of documentation."""
    rows = [[cell.replace("|", "\\|") for cell in map(_printable, row)] for row in table.rows]
    rows = [
        [f"`{cell}`" if column in table.shapes and cell else cell for column, cell in enumerate(row)] for row in rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table.header, ["---"] * len(table.header), *rows])


def _printable(text: str) -> str:
    """On one line, without what could move a terminal's cursor."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a DETR panoptic checkpoint, a folder or on the Hub")
    parser.add_argument("photo", metavar="PHOTO", help="one photo")
    parser.add_argument("--out", default="trace", metavar="DIR", help="where the page goes (%(default)s)")
    parser.add_argument(
        "--segments", nargs="+", metavar="S", help="which to follow, by number in the map or by class (a few large)"
    )
    parser.add_argument("--threshold", type=float, help="a query counts above this score (what the model remembers)")
    parser.add_argument("--stuff", metavar="A,B", help="the model's stuff classes, if its configuration does not say")


def main(args: argparse.Namespace) -> int:
    """The seven moves of DETR panoptic on one photo with one model: a table of true shapes, and pictures.

      hf-detr-panoptic trace runs/site/final photo.jpg
      hf-detr-panoptic trace facebook/detr-resnet-50-panoptic photo.jpg --out trace --segments 3 person

    --out then holds trace.html, which needs no other file and no network, and its pictures as PNG. Shapes and maps
    come from hooks on stock transformers' own forward with all queries. docs/how-detr-panoptic-works.md explains the
    moves.
    """
    from .pictures import difference_in_words, shape_table

    stuff = None if args.stuff is None else [name.strip() for name in args.stuff.split(",") if name.strip()]
    out = Path(args.out)
    check_out(out, Path(args.photo))
    model = load_model(args.model, stuff)
    trace = trace_photo(model, args.photo, out, segments=args.segments, threshold=args.threshold)
    print(text_table(shape_table(trace)))
    if trace.difference is not None:
        print(f"\nsegment computes the kept masks only. {difference_in_words(trace)}")
    print(f"next: open {out / _PAGE}")
    return 0
