"""What the report of a run needs, collected: curves, figures, and a few validation photos segmented once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..dataset.photos import shrunk
from ..dataset.validation import ON_TRAIN
from ..errors import HfDetrPanopticError
from ..evaluation.evaluate import Measured, segmented
from ..evaluation.incomplete import left_out
from ..evaluation.quality import PanopticQuality, SegmentMatching, image_counts, match_segments, overlaps_of
from ..evaluation.table import MEASURED_ON, headline, only_agreement, precision_groups, quality_groups
from ..files import shown_path, without_paths
from ..images import open_image
from ..labels import LabelSpace, default_color
from ..panoptic_map import PanopticMap
from ..parallel import progress_bar
from ..pictures.draw import class_color, draw
from ..pictures.panels import difference
from .advice import run_advice
from .thumbnails import Thumbnails, letters_on
from .values import ConfusionTable, Curve, PhotoCard, RunClass, RunPage, Score, StageReport

if TYPE_CHECKING:
    from ..dataset.batches import Row
    from ..recipe import Recipe
    from ..training.run_folder import Run
    from ..training.sampling import Splits

_LOSSES = {"loss": "all", "loss_ce": "class", "loss_bbox": "box", "loss_giou": "GIoU", "loss_mask": "mask",
           "loss_dice": "dice"}  # fmt: skip
_QUALITY = {"box_ap": "box AP", "box_ap_yours": "box AP, your classes", "pq": "PQ", "pq_yours": "PQ, your classes"}
_QUALITY |= {"sq": "SQ", "rq": "RQ"}


@dataclass
class _Validation:
    """Validation photos that were segmented once more: how good, and what they look like, the worst first."""

    result: Mapping[str, Any] = field(default_factory=dict)
    cards: list[PhotoCard] = field(default_factory=list)
    of: int = 0


def run_page(folder: Path, data: str | None, limit: int, progress: bool = False) -> RunPage:
    """A run's page, also of one that is not finished, or whose dataset is elsewhere: then it says so."""
    from ..training.run_folder import Run

    run = Run(folder)
    recipe = run.recipe.changed(output=str(folder))
    source = data or (recipe.data if isinstance(recipe.data, str) else str(recipe.prepared_folder))
    notes: list[str] = []
    final = folder / "final"
    splits = _splits(recipe, source, notes, insist=data is not None)
    result = run.result
    validation = _Validation()
    if result and "per_class" not in result:
        notes.append("The run has learned to detect, and its masks mean nothing yet: no photo is shown.")
    elif splits is not None and run.is_finished:
        validation = _segment(final, splits, limit, progress)
        result = result or validation.result
    stages = [_stage(run, name) for name in _stage_names(folder)]
    if not run.is_finished:
        notes.append("The run is not finished: there is no model in final/ yet.")
    if run.metrics.get("refit"):
        notes.append(
            "The model in final/ was trained once more on all photos: it has learnt from those that it is shown on "
            "here. The figures are those of the training before."
        )
    scores, classes = _scores(result), _classes(result, validation, splits)
    quality = headline(result)
    kind = "photos of train" if splits is not None and splits.on_train else "validation photos"
    shown = len(validation.cards)
    return RunPage(
        name=folder.resolve().name,
        quality_name=quality,
        scores=scores,
        precision=_precision(validation.result or result, run.metrics),
        classes=classes,
        stages=stages,
        mixed=_mixed(validation.result),
        cards=validation.cards,
        measured=_measured(validation, splits, result),
        pictured=f"{shown} of {validation.of:,} {kind}, spread evenly over all." if shown < validation.of else "",
        environment=_environment(run.environment),
        settings=_recipe_text(run.plain),
        advice=list(
            run_advice(
                shown_path(folder),
                shown_path(source) if splits is not None else None,
                only_agreement(result),
                scores,
                classes,
                stages,
                validation.result.get("mix_ups", ()),
                None if splits is None else 0 if splits.on_train else len(splits.val),
                run.is_finished,
            )
        ),
        notes=notes,
        version=__version__,
    )


def _splits(recipe: Recipe, source: str, notes: list[str], insist: bool) -> Splits | None:
    """The run's dataset, if it is at hand; nothing is prepared or downloaded for a report."""
    from ..training.train import splits_of

    if not insist and not Path(source).is_dir():
        notes.append(f"The dataset {shown_path(source)} is not here, so no photo is shown: give it with --data.")
        return None
    try:
        return splits_of(recipe.changed(data=source))
    except HfDetrPanopticError as error:
        if insist:
            raise
        notes.append(f"The dataset cannot be read, so no photo is shown: {error.what}")
        return None


def _segment(final: Path, splits: Splits, limit: int, progress: bool) -> _Validation:
    from accelerate import PartialState

    from ..model.modeling import DetrForPanopticSegmentation

    count = min(limit, len(splits.val))
    if not count:
        return _Validation(of=len(splits.val))
    indices = np.unique(np.linspace(0, len(splits.val) - 1, count).round().astype(int)).tolist()
    rows = [splits.val[index] for index in indices]
    model = DetrForPanopticSegmentation.from_pretrained(final).to(PartialState().device).eval()  # type: ignore[arg-type]
    sizes = Thumbnails(4 * len(rows))
    measured = Measured(splits.space)
    pages: list[tuple[float, PhotoCard]] = []
    done = segmented(model, rows, splits.space, batch_size=4)
    for row, truth, prediction in progress_bar(done, total=len(rows), what="segmenting", show=progress):
        measured.add(row.image_id, prediction, truth, row.incomplete)
        pages.append(_card(row, truth, prediction, sizes))
    pages.sort(key=lambda page: page[0])
    remark = {MEASURED_ON: "train"} if splits.on_train else {}
    return _Validation(measured.compute() | remark, [card for _, card in pages], len(splits.val))


def _card(row: Row, truth: PanopticMap, prediction: PanopticMap, sizes: Thumbnails) -> tuple[float, PhotoCard]:
    """The photo's own PQ, 2 where there is nothing to measure, and its card."""
    sides = left_out(prediction, truth, row.incomplete)
    pairs = overlaps_of(*sides)
    quality = PanopticQuality(truth.space).add(image_counts(*sides, truth.space, pairs=pairs)).compute()
    matching = match_segments(*sides, pairs)
    unasked = {segment.id for segment in prediction.segments} - {segment.id for segment in sides[0].segments}
    matching = matching._replace(excused=matching.excused | unasked)
    photo = open_image(row.photo)
    small, small_truth = shrunk(photo, truth, sizes.side)
    _, small_prediction = shrunk(photo, prediction, sizes.side)
    letters = letters_on(small)
    faults = difference(small, small_truth, small_prediction, matching.matched, matching.excused, letters)
    pictures = (
        sizes.encode("photo", small),
        sizes.encode("truth", draw(small, small_truth, opacity=0.45, legend=False, letters=letters)),
        sizes.encode("prediction", draw(small, small_prediction, opacity=0.45, legend=False, letters=letters)),
        sizes.encode("difference", faults),
    )
    reasons = _faults(matching, truth, prediction)
    pq = quality["pq"]
    labels = sorted({segment.label for side in (truth, prediction) for segment in side.segments})
    card = PhotoCard(
        title=getattr(row, "original_file", None) or getattr(row, "file_name", None) or row.where,
        part="",
        thumbnails=pictures,
        labels=tuple(labels),
        reasons=tuple(f"{kind}: {', '.join(names)}" for kind, names in reasons.items()),
        kinds=tuple(reasons),
        figure="nothing to measure" if pq is None else f"PQ {100 * pq:.1f}",
    )
    return (2.0 if pq is None else pq), card


def _faults(matching: SegmentMatching, truth: PanopticMap, prediction: PanopticMap) -> dict[str, list[str]]:
    """What the difference shows, in words."""

    def named(side: PanopticMap, ids: set[int]) -> list[str]:
        counts = Counter(side.space[side.segment(segment_id).label].name for segment_id in ids)
        return [f"{name} × {count}" if count > 1 else name for name, count in sorted(counts.items())]

    wrong: Counter[str] = Counter()
    for true_id, predicted_id in matching.matched.items():
        true_label, predicted_label = truth.segment(true_id).label, prediction.segment(predicted_id).label
        if true_label != predicted_label:
            wrong[f"{truth.space[true_label].name} seen as {prediction.space[predicted_label].name}"] += 1
    faults = {
        "missed": named(truth, matching.missed),
        "invented": named(prediction, matching.invented),
        "wrong class": [f"{text} × {count}" if count > 1 else text for text, count in sorted(wrong.items())],
    }
    return {kind: names for kind, names in faults.items() if names}


def _scores(result: Mapping[str, Any]) -> list[Score]:
    if result.get("pq") is None:
        return []
    return [Score(name, (group["pq"], group["sq"], group["rq"]), group["n"]) for name, group in quality_groups(result)]


def _precision(result: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, list[Score]]:
    """Box and mask AP; of a run that has only learned to detect, what its last stage measured."""
    detection = (metrics.get("stages") or {}).get("detection") or {}
    tables = {kind: result.get(kind) or (detection.get("box") if kind == "box" else None) for kind in ("box", "mask")}
    return {
        kind: [
            Score(name, (group["ap"], group["ap50"], group["ap75"]), group["n"])
            for name, group in precision_groups(table)
        ]
        for kind, table in tables.items()
        if table
    }


def _classes(result: Mapping[str, Any], validation: _Validation, splits: Splits | None) -> list[RunClass]:
    rows: Sequence[Mapping[str, Any]] = result.get("per_class") or ()
    space = splits.space if splits is not None else None
    photos, marked = (None, None) if splits is None else (_photos(splits.train), _marked(splits.val))
    precision: dict[str, dict[str, float | None]] = {
        kind: {row["name"]: row["ap"] for row in (validation.result.get(kind) or {}).get("per_class", ())}
        for kind in ("box", "mask")
    }
    return [
        RunClass(
            name=row["name"],
            isthing=row["isthing"],
            color=_color(space, row["name"], row["label"]),
            custom=marked is None or row["name"] in marked,
            pq=row["pq"],
            sq=row["sq"],
            rq=row["rq"],
            found=row["tp"],
            invented=row["fp"],
            missed=row["fn"],
            box_ap=precision["box"].get(row["name"]),
            mask_ap=precision["mask"].get(row["name"]),
            train_photos=None if photos is None else photos[row["name"]],
        )
        for row in rows
    ]


def _color(space: LabelSpace | None, name: str, label: int) -> tuple[int, int, int]:
    return class_color(space, space.index(name)) if space is not None and name in space.names else default_color(label)


def _photos(rows: Sequence[Row]) -> Counter[str]:
    """Class → photos that show it."""
    counts: Counter[str] = Counter()
    for row in rows:
        space: LabelSpace = row.space  # type: ignore[attr-defined]
        counts.update({space[segment.label].name for segment in row.segments})
    return counts


def _marked(rows: Sequence[Row]) -> set[str]:
    """Classes that a person marked on at least one photo."""
    return {
        row.space[segment.label].name  # type: ignore[attr-defined]
        for row in rows
        for segment in row.segments
        if segment.source == "custom"
    }


def _mixed(result: Mapping[str, Any]) -> ConfusionTable | None:
    return ConfusionTable(**result["confusion"]) if result.get("confusion") else None


def _measured(validation: _Validation, splits: Splits | None, result: Mapping[str, Any]) -> str:
    if splits is None:
        return "As the run measured it at its end; the dataset was not at hand."
    count = len(validation.cards)
    if splits.on_train:
        return f"{ON_TRAIN[0].upper()}{ON_TRAIN[1:]} ({len(splits.val):,}): there is no photo of validation."
    if count == validation.of:
        return f"On all {validation.of:,} validation photos."
    if result is validation.result:
        return f"On {count:,} of {validation.of:,} validation photos."
    if not count:
        return f"PQ on all {len(splits.val):,} validation photos."
    return f"PQ on all {validation.of:,} validation photos; AP and what is taken for what on {count:,} of them."


def _stage_names(folder: Path) -> list[str]:
    from ..stage_settings import STAGES
    from ..training.run_folder import stage_folder

    return [stage for stage in STAGES if stage_folder(folder, stage).is_dir()]


def _stage(run: Run, name: str) -> StageReport:
    from ..training.run_folder import stage_folder

    rows = [row for row in run.rows if row.get("stage") == name]
    rows = rows or _logged(stage_folder(run.folder, name))
    end = run.stages.get(name)
    metric = (end.metric if end else None) or ("box_ap" if name == "detection" else "pq")
    values = [(_number(row, metric), _number(row, "epoch")) for row in rows]
    known = [(value, epoch) for value, epoch in values if value is not None and epoch is not None]
    best = max(known, default=(None, None))
    return StageReport(
        name=name,
        metric=metric,
        best=end.best if end else best[0],
        best_epoch=end.best_epoch if end else best[1],
        last=(end.at_its_end if end.last is None else end.last) if end else (known[-1][0] if known else None),
        steps=end.steps if end else int(max((_number(row, "step") or 0 for row in rows), default=0)),
        losses=_curves(rows, _LOSSES),
        quality=_curves(rows, _QUALITY),
        finished=end is not None,
        seconds=getattr(end, "seconds", None),
        memory_mb=getattr(end, "peak_memory_mb", None),
    )


def _logged(folder: Path) -> list[dict[str, str]]:
    """The losses of a stage that was not evaluated on its way, from its last checkpoint."""
    from ..training.checkpoints import last_complete
    from ..training.run_folder import read_record

    checkpoint = last_complete(folder)
    history = None if checkpoint is None else read_record(checkpoint / "trainer_state.json").get("log_history")
    return [{key: str(value) for key, value in row.items()} for row in history or () if "loss" in row]


def _curves(rows: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> list[Curve]:
    curves = []
    for column, name in names.items():
        points = [(_number(row, "epoch"), _number(row, column)) for row in rows]
        known = tuple((x, y) for x, y in points if x is not None and y is not None)
        if known:
            curves.append(Curve(name, known))
    return curves


def _number(row: Mapping[str, str], column: str) -> float | None:
    try:
        return float(row.get(column) or "")
    except ValueError:
        return None


def _environment(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [(name, str(value)) for name, value in record.items() if not isinstance(value, list | dict)]
    if record.get("earlier"):
        lines.append(("begun on", ", ".join(str(each.get("device")) for each in record["earlier"])))
    return lines


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(without_paths(recipe), sort_keys=False, allow_unicode=True)
