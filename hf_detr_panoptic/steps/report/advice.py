"""What to do next, as the figures say it. Plain rules, each with the number that it rests on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from ...text import and_more, count_of
from ...visual.report_values import Advice, DatasetClass, Pair, Part, Remark, RunClass, Score, StageReport

FEW_PHOTOS = 10  # of a class in train: fewer, and what is learned is those photos
FEW_TO_MEASURE = 5  # in val
MUCH_VOID = 0.3
OFTEN = (3, 0.15)  # times, and share of a class's segments


def dataset_advice(
    place: str,
    classes: Sequence[DatasetClass],
    parts: Mapping[str, Part],
    remarks: Sequence[Remark],
    pairs: Sequence[Pair],
    prepared: bool,
) -> list[Advice]:
    """Before training; the most useful first. `place`: the dataset as it is typed."""
    place = shlex.quote(place)
    listed = []
    errors = sum(remark.count for remark in remarks if remark.level == "error")
    if errors:
        listed.append(
            Advice(
                f"Mend the {count_of(errors, 'error')} first: training would stop at some, and learn from the others.",
                f"hf-detr-panoptic check {place}",
            )
        )
    leaks = sum(pair.first_part != pair.second_part for pair in pairs)
    if leaks:
        listed.append(
            Advice(
                f"{count_of(leaks, 'photo')} in two splits. Quality would be flattered: share the "
                "photos out again, like ones together.",
                f"hf-detr-panoptic split {place}",
            )
        )
    if "train" in parts and len(parts) == 1:
        listed.append(Advice("There is nothing to validate on.", f"hf-detr-panoptic split {place}"))
    used = [row for row in classes if row.custom + row.auto]
    marked = any(row.custom for row in used)
    mine = [row for row in used if row.custom or not marked]
    few = sorted(
        (row for row in mine if row.photos.get("train", 0) < FEW_PHOTOS), key=lambda r: r.photos.get("train", 0)
    )
    if few and "train" in parts:
        some = and_more((f"{row.name} ({row.photos.get('train', 0)})" for row in few), 6)
        listed.append(Advice(f"Mark more photos of what is rare. Fewer than {FEW_PHOTOS} to learn from: {some}."))
    unseen = [
        row.name for row in mine if "val" in parts and 0 == row.photos.get("val", 0) < row.photos.get("train", 0)
    ]
    if unseen:
        listed.append(Advice(f"No validation photo shows {and_more(unseen, 6)}: their quality cannot be measured."))
    void = sum(part.void for part in parts.values())
    whole = sum(part.custom + part.auto + part.void for part in parts.values()) or 1
    if void / whole > MUCH_VOID:
        how = " A lower --threshold of prepare keeps more; nothing has to be labelled again." if prepared else ""
        listed.append(Advice(f"{void / whole:.0%} of all pixels are void, and nothing is learned from them.{how}"))
    listed.append(
        Advice(
            "Look at the first photos below. What the labeler got wrong can be corrected in CVAT:",
            f"hf-detr-panoptic export-review {place} review.zip",
        )
    )
    if "train" in parts and "val" in parts and not errors:
        listed.append(Advice("Train:", f"hf-detr-panoptic train construction --data {place}"))
    return listed


def run_advice(
    place: str,
    data: str | None,
    agreement: bool,
    scores: Sequence[Score],
    classes: Sequence[RunClass],
    stages: Sequence[StageReport],
    mix_ups: Iterable[tuple[str, str, int]],
    val_photos: int | None,
    finished: bool,
) -> list[Advice]:
    """After training; the most useful first."""
    run = shlex.quote(place)
    listed = []
    if not finished:
        listed.append(
            Advice(
                "The run is not finished; the same command resumes it:", f"hf-detr-panoptic train {run}/recipe.yaml"
            )
        )
    if agreement:
        listed.append(
            Advice(
                "The truth of the validation photos is the labeler's own: the figures say how much the "
                "model agrees with it. Mark validation photos by hand to know more."
            )
        )
    listed += _on_classes(classes, agreement)
    listed += _on_mix_ups(classes, mix_ups)
    listed += _on_balance(classes, scores)
    listed += [advice for stage in stages for advice in _on_stage(stage)]
    if val_photos is not None and val_photos < 30:
        listed.append(
            Advice(f"{count_of(val_photos, 'validation photo')}: differences of a few points mean nothing yet.")
        )
    if finished:
        model = f"{run}/final"
        listed.append(Advice("See it on new photos:", f"hf-detr-panoptic predict {model} PHOTOS --out predictions"))
        if data is not None:
            listed.append(
                Advice(
                    "Measure box and mask AP on all validation photos, to the last decimal:",
                    f"hf-detr-panoptic evaluate --model {model} --data {shlex.quote(data)}",
                )
            )
    return listed


def _on_classes(classes: Sequence[RunClass], agreement: bool) -> list[Advice]:
    there = [row for row in classes if row.pq is not None and (row.custom or agreement)]
    listed = []
    rare = [
        row for row in there if row.train_photos is not None and row.train_photos < FEW_PHOTOS and (row.pq or 0) < 0.5
    ]
    if rare:
        some = and_more(
            [f"{row.name} ({count_of(row.train_photos or 0, 'photo')}, PQ {100 * (row.pq or 0):.0f})" for row in rare],
            6,
        )
        listed.append(Advice(f"Mark more photos of what is rare and weak: {some}."))
    blind = [row for row in there if not row.found and row.missed and row not in rare]
    if blind:
        some = and_more((f"{row.name} ({row.missed} missed)" for row in blind), 6)
        listed.append(
            Advice(f"Never found: {some}. Are the marks right? Is it large enough to be seen at the size of training?")
        )
    unsure = [row for row in there if 0 < row.found + row.missed < FEW_TO_MEASURE]
    if unsure:
        some = and_more((f"{row.name} ({row.found + row.missed})" for row in unsure), 6)
        listed.append(Advice(f"Hardly measured, with fewer than {FEW_TO_MEASURE} segments to find: {some}."))
    return listed


def _on_mix_ups(classes: Sequence[RunClass], mix_ups: Iterable[tuple[str, str, int]]) -> list[Advice]:
    whole = {row.name: row.found + row.missed for row in classes}
    often = [
        f"{true} for {predicted} ({count} of {max(count, whole.get(true, 0))})"
        for true, predicted, count in mix_ups
        if count >= OFTEN[0] and count >= OFTEN[1] * whole.get(true, 0)
    ]
    if not often:
        return []
    return [
        Advice(
            f"Often taken for another: {and_more(often, 6)}. Compare their marks; if people cannot tell them apart, "
            "merge the classes."
        )
    ]


def _on_balance(classes: Sequence[RunClass], scores: Sequence[Score]) -> list[Advice]:
    missed, invented, found = (sum(getattr(row, key) for row in classes) for key in ("missed", "invented", "found"))
    listed = []
    if missed > 3 * max(invented, 1) and missed > 0.3 * (found + missed):
        listed.append(
            Advice(
                f"{missed:,} segments are missed and {invented:,} invented: a lower threshold finds "
                "more, such as postprocess.threshold 0.7 in the recipe, or --threshold of predict."
            )
        )
    if invented > 3 * max(missed, 1) and invented > 0.3 * (found + invented):
        listed.append(
            Advice(f"{invented:,} segments are invented and {missed:,} missed: a higher threshold is more careful.")
        )
    _, segmentation, recognition = scores[0].values if scores else (None, None, None)
    if segmentation is not None and recognition is not None and segmentation < 0.7 and recognition > 0.6:
        listed.append(
            Advice(
                f"What is found is cut badly (SQ {100 * segmentation:.0f}): train the mask head longer, "
                "or on larger photos (size.shortest_edge)."
            )
        )
    return listed


def _on_stage(stage: StageReport) -> list[Advice]:
    curve = next((curve.points for curve in stage.quality if curve.points), ())
    if not stage.finished or stage.best_epoch is None or len(curve) < 3:
        return []
    last = curve[-1][0]
    if stage.best_epoch >= last:
        return [
            Advice(
                f"{stage.name} was best at its last epoch: it may learn more with more of them "
                f"(stages.{stage.name}.num_train_epochs)."
            )
        ]
    if stage.best is not None and stage.last is not None and stage.last < 0.9 * stage.best:
        return [
            Advice(
                f"{stage.name} was best at epoch {stage.best_epoch:g} and worse after: fewer epochs would do, "
                "or more photos. The best one was kept."
            )
        ]
    return []
