"""One file to look at: a dataset before training, a run after it. It asks for no network, and prints well."""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import DatasetError, HfDetrPanopticError, clear_errors
from ..evaluation.table import YOURS
from ..stage_settings import YOURS_AND_ALL
from ..text import duration, percent
from .charts import Chart, line_chart
from .pages import NOTHING, base64, templates
from .values import DatasetPage, PhotoCard, RunPage, StageReport

logger = logging.getLogger(__name__)

NAME = "report.html"
DATASET_PHOTOS, RUN_PHOTOS = 2000, 200
AT_THE_END = 48  # photos that `train` segments once more: seconds, after hours
IN_PASSING = 300  # photos of a dataset that `prepare` has just written: of more, the report would take minutes
AT_ONCE = 12  # cards whose pictures are there without a script, and on paper

# What each fault of `difference` means, and its pattern on a square of 16.
_FAULTS = {
    "missed": ("in the truth, and not seen", "M0 16 16 0M-4 4 4-4M12 20 20 12"),
    "invented": ("seen, and not in the truth", "M4 4h4v4h-4zM12 12h4v4h-4z"),
    "wrong class": ("seen as something else", "M0 0 16 16M16 0 0 16"),
    "outline differs": ("seen, but where it ends is disputed", "M0 4H16M0 12H16"),
}


def dataset_report(dataset: DatasetPage) -> str:
    """The page of a dataset."""
    parts, remarks = dataset.parts, dataset.remarks
    tiles = [
        (sum(part.photos for part in parts.values()), "photos"),
        (sum(part.segments for part in parts.values()), "segments"),
        (sum(row.custom + row.auto > 0 for row in dataset.classes), "classes in use"),
        *((part.photos, f"photos in {name}") for name, part in parts.items()),
        (sum(remark.count for remark in remarks if remark.level == "error"), "errors"),
        (sum(remark.count for remark in remarks if remark.level == "warning"), "warnings"),
        (sum(pair.leak for pair in dataset.pairs), "leaks between splits"),
    ]
    counted = [(f"{number:,}", what) for number, what in tiles]
    return _html(dataset, of_run=False, kind="dataset, COCO panoptic", tiles=counted)


def run_report(run: RunPage) -> str:
    """The page of a training run."""
    from ..pictures.panels import FAULTS

    yours = sum(row.name == YOURS for row in run.scores)
    shown = [(row.values[0], f"PQ, {row.name}") for row in run.scores[: yours + 3]]
    for kind, rows in run.precision.items():
        shown += [(row.values[0], f"{kind} AP, {YOURS}") for row in rows if row.name == YOURS]
        shown += [(row.values[0], f"{kind} AP") for row in rows if row.name != YOURS][:1]
    measures, figures = _one_table(run)
    tiles = [(NOTHING if value is None else f"{percent(value)}%", what) for value, what in shown]
    spent = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if spent:
        tiles.append((duration(sum(spent)), "of training"))
    measured = [(label, row) for label, row in enumerate(run.classes) if row.pq is not None]
    return _html(
        run,
        of_run=True,
        kind="training run",
        tiles=tiles,
        measures=measures,
        figures=figures,
        ranked=sorted(measured, key=lambda pair: pair[1].pq or 0),
        stages=[(stage, ", ".join(_facts(stage)), _charts(stage)) for stage in run.stages],
        faults=[(name, color, *_FAULTS[name]) for name, color, _ in FAULTS.values()],
    )


def _one_table(run: RunPage) -> tuple[list[str], list[tuple[str, list[float | None], int]]]:
    """The measures, and of each group of classes its name, its figures and how many classes it has."""
    parts = [(("PQ", "SQ", "RQ"), run.scores)] if run.scores else []
    parts += [((f"{kind} AP", f"{kind} AP50", f"{kind} AP75"), rows) for kind, rows in run.precision.items()]
    lines = []
    for name in dict.fromkeys(row.name for _, rows in parts for row in rows):
        found = [next((row for row in rows if row.name == name), None) for _, rows in parts]
        values = [value for row in found for value in (row.values if row else (None, None, None))]
        lines.append((name, values, next(row.n for row in found if row)))
    return [measure for measures, _ in parts for measure in measures], lines


def _html(page: DatasetPage | RunPage, **values: Any) -> str:
    here = resources.files(__package__)
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    later = [each for card in page.cards[AT_ONCE:] for each in card.thumbnails]
    template = templates(__package__).get_template("report.html.j2")
    html = template.render(
        page=page,
        at_once=AT_ONCE,
        choices=list(_choices(page.cards, [row.name for row in page.classes])),
        store="\n".join(f"{each.kind};base64,{base64(each.content)}" for each in later),
        style=style,
        script=script,
        digest=hashlib.sha256(script.encode()).digest(),
        **values,
    )
    return html.lstrip()


def _choices(
    cards: Sequence[PhotoCard], names: Sequence[str]
) -> Iterator[tuple[str, str, list[tuple[object, str, int]]]]:
    """By what a photo can be chosen: key, title and options (value, text, photos), where there is a choice."""
    used = Counter(label for card in cards for label in set(card.labels))
    parts = Counter(card.part for card in cards)
    kinds = Counter(kind for card in cards for kind in set(card.kinds))
    if len(used) > 1:
        listed = sorted(used, key=lambda label: names[label].casefold())
        yield "class", "Class", [(label, names[label], used[label]) for label in listed]
    if len(parts) > 1:
        yield "part", "Split", [(name, name, count) for name, count in parts.items()]
    if kinds:
        yield "kind", "Reason", [(name, name, count) for name, count in kinds.most_common()]


_MEASURES = {"box_ap": "box AP", "box_ap_yours": "box AP of your classes", "pq_yours": "PQ of your classes"}
_MEASURES |= {
    f"{whole}{YOURS_AND_ALL}": f"mean {name} of your classes and all"
    for whole, name in (("box_ap", "box AP"), ("pq", "PQ"))
}


def _facts(stage: StageReport) -> Iterator[str]:
    name = _MEASURES.get(stage.metric, stage.metric.upper())
    if stage.best is not None:
        yield f"best {name} {percent(stage.best)}" + (
            "" if stage.best_epoch is None else f" at epoch {stage.best_epoch:g}"
        )
        yield f"last {percent(stage.last, NOTHING)}"
    elif stage.last is not None:
        yield f"{name} {percent(stage.last, NOTHING)} at its end"
    yield f"{stage.steps:,} steps"
    if stage.seconds is not None:
        yield duration(stage.seconds)
    if stage.memory_mb is not None:
        yield f"{stage.memory_mb / 1000:.1f} GB at most"


def _charts(stage: StageReport) -> list[Chart]:
    curves = [
        ("quality", stage.quality, True),
        ("loss", stage.losses[:1], False),
        ("parts of the loss, before their weights", stage.losses[1:], False),
    ]
    return [line_chart(title, listed, percent, stage.best_epoch) for title, listed, percent in curves if listed]


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
    from ..files import write_text

    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise HfDetrPanopticError(what, where=str(folder), fix="Give a dataset's or a run's.")
    if is_run(folder):
        if photos is not None:
            raise HfDetrPanopticError("--photos belongs to a dataset, and this is a run", where=str(folder))
        from .run import run_page

        text = run_report(run_page(folder, data, RUN_PHOTOS if limit is None else limit, progress))
    else:
        if data is not None:
            raise HfDetrPanopticError(
                "--data belongs to a run, and here is no recipe.yaml",
                where=str(folder),
                fix=_meant(folder) or "Is this the run's folder?",
            )
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
    write_text(target, text)
    return target


def is_run(folder: Path) -> bool:
    """A folder that `train` wrote."""
    return (folder / "recipe.yaml").is_file()


def _is_dataset(folder: Path) -> bool:
    """A folder with a list in COCO panoptic format, whatever is wrong with it."""
    from ..dataset.coco_panoptic import find_splits

    try:
        return bool(find_splits(folder))
    except (DatasetError, OSError):
        return False


def _meant(folder: Path) -> str | None:
    """A sentence about the run, or the dataset as `prepare` writes it, right above or below a folder that is none."""
    whole = folder.resolve()
    near = [whole.parent, *sorted(path for path in whole.iterdir() if path.is_dir())]
    meant = [path for path in near if is_run(path) or ((path / "annotations").is_dir() and _is_dataset(path))]
    return f"Did you mean {meant[0]}?" if meant else None


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
    """Look at a dataset before training, or at a run after it: one HTML file that needs no network and prints well.

      hf-detr-panoptic report data/site
      hf-detr-panoptic report runs/site
      hf-detr-panoptic report runs/site --data data/site --limit 500

    Of a dataset: classes, splits, who knows the pixels, copies and leaks, and the photos, the most suspicious first.
    Of a run: curves, quality by class, what is taken for what, and truth | prediction | difference, the worst first.
    """
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
