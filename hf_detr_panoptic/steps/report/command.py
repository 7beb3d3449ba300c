"""Look at a dataset before training, or at a run after it: one HTML file that needs no network and prints well.

  hf-detr-panoptic report data/site
  hf-detr-panoptic report runs/site
  hf-detr-panoptic report runs/site --data data/site --limit 500

Of a dataset: classes, splits, who knows the pixels, copies and leaks, and the photos, the most suspicious first. Of a
run: curves, quality by class, what is taken for what, and truth | prediction | difference, the worst first.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ...errors import DatasetError, HfDetrPanopticError

logger = logging.getLogger(__name__)

NAME = "report.html"
DATASET_PHOTOS, RUN_PHOTOS = 2000, 200
AT_THE_END = 48  # photos that `train` segments once more: seconds, after hours
IN_PASSING = 300  # photos of a dataset that `prepare` has just written: of more, the report would take minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a dataset in COCO panoptic format, or a run")
    parser.add_argument("--data", metavar="DATASET", help="of a run: the dataset (what its recipe says)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="of a dataset: its photos, if not in the folder")
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"photos to show: the most suspicious of a dataset ({DATASET_PHOTOS}), or spread over a run's "
        f"validation photos, each segmented once more ({RUN_PHOTOS})",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"(FOLDER/{NAME})")


def main(args: argparse.Namespace) -> int:
    from ..refusals import clear_errors

    if args.limit is not None and args.limit < 0:
        raise HfDetrPanopticError(f"--limit is {args.limit}", fix="Give 0 or more.")
    out: Path = args.out or args.folder / NAME
    if out.is_dir():
        raise HfDetrPanopticError("is a folder", where=str(out), fix="Give --out a file's name.")
    with clear_errors(out):
        written = write_report(
            args.folder, out, data=args.data, photos=args.photos, limit=args.limit, progress=sys.stderr.isatty()
        )
    size = written.stat().st_size / 1e6
    print(f"{written}: {size:.1f} MB, open it in a browser")
    return 0


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    data: str | None = None,
    photos: str | Path | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> Path:
    """The report of a dataset or a run, into `out`, or into the folder as report.html; returns the file."""
    from ...dataset.photos import write_atomically

    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise HfDetrPanopticError(what, where=str(folder), fix="Give a dataset's or a run's.")
    if is_run(folder):
        if photos is not None:
            raise HfDetrPanopticError("--photos belongs to a dataset, and this is a run", where=str(folder))
        from ...visual.report import run_report
        from .run import run_page

        text = run_report(run_page(folder, data, RUN_PHOTOS if limit is None else limit, progress))
    else:
        if data is not None:
            raise HfDetrPanopticError(
                "--data belongs to a run, and here is no recipe.yaml",
                where=str(folder),
                fix=_meant(folder) or "Is this the run's folder?",
            )
        from ...visual.report import dataset_report
        from .dataset import dataset_page

        try:
            page = dataset_page(folder, photos, DATASET_PHOTOS if limit is None else limit, progress)
        except DatasetError as error:
            if _is_dataset(folder):
                raise
            what = "is neither a dataset nor a run: no COCO panoptic JSON is here, and no recipe.yaml"
            raise HfDetrPanopticError(what, where=str(folder), fix=_meant(folder) or error.fix) from error
        text = dataset_report(page)
    target = Path(out) if out is not None else folder / NAME
    write_atomically(target, text.encode("utf-8"))
    return target


def is_run(folder: Path) -> bool:
    """A folder that `train` wrote."""
    return (folder / "recipe.yaml").is_file()


def _is_dataset(folder: Path) -> bool:
    """A folder with a list in COCO panoptic format, whatever is wrong with it."""
    from ...dataset.coco_panoptic import find_splits

    try:
        return bool(find_splits(folder))
    except (DatasetError, OSError):
        return False


def _meant(folder: Path) -> str | None:
    """A sentence about the run, or the dataset as `prepare` writes it, right above or below a folder that is none."""
    whole = folder.resolve()
    near = [whole.parent, *sorted(path for path in whole.iterdir() if path.is_dir())]
    found = [path for path in near if is_run(path) or ((path / "annotations").is_dir() and _is_dataset(path))]
    return f"Did you mean {found[0]}?" if found else None


def after_training(run: str | Path) -> str:
    """Of a run that has just ended, with a few photos: the line that says where to look."""
    return _in_passing(Path(run), AT_THE_END)


def after_preparing(dataset: str | Path, photos: int) -> str:
    """Of a dataset that was just written, if that takes seconds: the line that says where to look."""
    if photos > IN_PASSING:
        return f"look at it: hf-detr-panoptic report {dataset}"
    return _in_passing(Path(dataset), photos)


def _in_passing(folder: Path, limit: int) -> str:
    """What took hours is not lost because its report is."""
    try:
        return f"look at it: {write_report(folder, limit=limit, progress=sys.stderr.isatty())}"
    except Exception as error:
        logger.warning("no report was written: %s", error)
        return f"look at it: hf-detr-panoptic report {folder}"
