"""What to do next, as the figures say it. Plain rules, each with the number that it rests on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..dataset.validation import ON_TRAIN
from ..text import and_more, count_of
from .values import Advice, DatasetClass, Pair, Part, Remark, RunClass, Score, StageReport

FEW_PHOTOS = 10  # of a class in train: fewer, and what is learned is those photos
FEW_TO_MEASURE = 5  # in val
FEW_TO_VALIDATE = 30
MUCH_VOID = 0.3
OFTEN = (3, 0.15)  # times, and share of a class's segments


def dataset_advice(
    folder: str,
    classes: Sequence[DatasetClass],
    parts: Mapping[str, Part],
    remarks: Sequence[Remark],
    pairs: Sequence[Pair],
    prepared: bool,
) -> Iterator[Advice]:
    """Before training; the most useful first. `folder`: the dataset as it is typed."""
    folder = shlex.quote(folder)
    errors = sum(remark.count for remark in remarks if remark.level == "error")
    if errors:
        yield Advice(
            f"Mend the {count_of(errors, 'error')} first: training would stop at some, and learn from the others.",
            f"hf-detr-panoptic check {folder}",
        )
    leaks = sum(pair.leak for pair in pairs)
    if leaks:
        yield Advice(
            f"{count_of(leaks, 'photo')} in two splits. Quality would be flattered: share the photos out again, like "
            "ones together.",
            f"hf-detr-panoptic split {folder}",
        )
    if "train" in parts and not errors and "val" not in parts:
        yield Advice("There is nothing to validate on.", f"hf-detr-panoptic split {folder}")
    used = [row for row in classes if row.custom + row.auto]
    marked = any(row.custom for row in used)
    mine = [
        (row.name, row.photos.get("train", 0), row.photos.get("val", 0)) for row in used if row.custom or not marked
    ]
    few = sorted(((name, train) for name, train, _ in mine if train < FEW_PHOTOS), key=lambda pair: pair[1])
    if few and "train" in parts:
        some = and_more((f"{name} ({train})" for name, train in few), 6)
        yield Advice(f"Mark more photos of what is rare. Fewer than {FEW_PHOTOS} to learn from: {some}.")
    unseen = [name for name, train, val in mine if train and not val]
    if unseen and "val" in parts and parts["val"].photos:
        yield Advice(f"No validation photo shows {and_more(unseen, 6)}: their quality cannot be measured.")
    void = sum(part.void for part in parts.values())
    whole = sum(part.custom + part.auto + part.void for part in parts.values()) or 1
    if void / whole > MUCH_VOID:
        how = " A lower --threshold of prepare keeps more; nothing has to be labelled again." if prepared else ""
        yield Advice(f"{void / whole:.0%} of all pixels are void, and nothing is learned from them.{how}")
    yield Advice(
        "Look at the first photos below. What the labeler got wrong can be corrected in CVAT:",
        f"hf-detr-panoptic export-review {folder} review.zip",
    )
    if "train" in parts and "val" in parts and not errors:
        yield Advice("Train:", f"hf-detr-panoptic train construction --data {folder}")


def run_advice(
    folder: str,
    data: str | None,
    agreement: bool,
    scores: Sequence[Score],
    classes: Sequence[RunClass],
    stages: Sequence[StageReport],
    mix_ups: Iterable[tuple[str, str, int]],
    val_photos: int | None,
    finished: bool,
) -> Iterator[Advice]:
    """After training; the most useful first. `folder`: the run as it is typed."""
    run = shlex.quote(folder)
    if not finished:
        yield Advice(
            "The run is not finished; the same command resumes it:", f"hf-detr-panoptic train {run}/recipe.yaml"
        )
    if agreement:
        yield Advice(
            "The truth of the validation photos is the labeler's own: the figures say how much the model agrees with "
            "it. Mark validation photos by hand to know more."
        )
    yield from _on_classes(row for row in classes if row.pq is not None and (row.custom or agreement))
    yield from _on_mix_ups(classes, mix_ups)
    yield from _on_balance(classes, scores)
    for stage in stages:
        yield from _on_stage(stage)
    if val_photos == 0:
        yield Advice(
            f"Every figure is {ON_TRAIN}, and says nothing about others. Mark more photos, and run "
            "prepare and train again: then some are held out."
        )
    elif val_photos is not None and val_photos < FEW_TO_VALIDATE:
        yield Advice(f"{count_of(val_photos, 'validation photo')}: differences of a few points mean nothing yet.")
    if finished:
        yield Advice("See it on new photos:", f"hf-detr-panoptic predict {run}/final PHOTOS --out predictions")
        if data is not None:
            yield Advice(
                "Measure box and mask AP on all validation photos, to the last decimal:",
                f"hf-detr-panoptic evaluate --model {run}/final --data {shlex.quote(data)}",
            )


def _on_classes(classes: Iterable[RunClass]) -> Iterator[Advice]:
    measured = [(row, row.pq or 0, row.train_photos) for row in classes]
    rare = {
        row.name: f"{row.name} ({count_of(photos, 'photo')}, PQ {100 * pq:.0f})"
        for row, pq, photos in measured
        if photos is not None and photos < FEW_PHOTOS and pq < 0.5
    }
    if rare:
        yield Advice(f"Mark more photos of what is rare and weak: {and_more(rare.values(), 6)}.")
    blind = [
        f"{row.name} ({row.missed} missed)"
        for row, _, _ in measured
        if not row.found and row.missed and row.name not in rare
    ]
    if blind:
        yield Advice(
            f"Never found: {and_more(blind, 6)}. Are the marks right? Is it large enough to be seen at the size of "
            "training?"
        )
    unsure = [
        f"{row.name} ({row.found + row.missed})"
        for row, _, _ in measured
        if 0 < row.found + row.missed < FEW_TO_MEASURE
    ]
    if unsure:
        yield Advice(f"Hardly measured, with fewer than {FEW_TO_MEASURE} segments to find: {and_more(unsure, 6)}.")


def _on_mix_ups(classes: Sequence[RunClass], mix_ups: Iterable[tuple[str, str, int]]) -> Iterator[Advice]:
    whole = {row.name: row.found + row.missed for row in classes}
    often = [
        f"{true} for {predicted} ({count} of {max(count, whole.get(true, 0))})"
        for true, predicted, count in mix_ups
        if count >= OFTEN[0] and count >= OFTEN[1] * whole.get(true, 0)
    ]
    if often:
        yield Advice(
            f"Often taken for another: {and_more(often, 6)}. Compare their marks; if people cannot tell them apart, "
            "merge the classes."
        )


def _on_balance(classes: Sequence[RunClass], scores: Sequence[Score]) -> Iterator[Advice]:
    missed, invented, found = (sum(getattr(row, key) for row in classes) for key in ("missed", "invented", "found"))
    if missed > 3 * max(invented, 1) and missed > 0.3 * (found + missed):
        yield Advice(
            f"{missed:,} segments are missed and {invented:,} invented: a lower threshold finds more. It is "
            "postprocess.threshold in the recipe, and --threshold of predict."
        )
    if invented > 3 * max(missed, 1) and invented > 0.3 * (found + invented):
        yield Advice(f"{invented:,} segments are invented and {missed:,} missed: a higher threshold is more careful.")
    _, segmentation, recognition = next((row.values for row in scores if row.name == "all"), (None, None, None))
    if segmentation is not None and recognition is not None and segmentation < 0.7 and recognition > 0.6:
        yield Advice(
            f"What is found is cut badly (SQ {100 * segmentation:.0f}): train the mask head longer, or on larger "
            "photos (size.shortest_edge)."
        )


def _on_stage(stage: StageReport) -> Iterator[Advice]:
    curve = next((curve.points for curve in stage.quality if curve.points), ())
    if not stage.finished or stage.best_epoch is None or len(curve) < 3:
        return
    if stage.best_epoch >= curve[-1][0]:
        yield Advice(
            f"{stage.name} was best at its last epoch: it may learn more with more of them "
            f"(stages.{stage.name}.num_train_epochs)."
        )
    elif stage.best is not None and stage.last is not None and stage.last < 0.9 * stage.best:
        yield Advice(
            f"{stage.name} was best at epoch {stage.best_epoch:g} and worse after: fewer epochs would do, or more "
            "photos. The best one was kept."
        )
