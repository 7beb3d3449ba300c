"""What `prepare` says and leaves beside the data: dry run, summary, skipped.csv, prepare.json and the dataset card."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.stored_photos import write_atomically
from ...dataset.card import MARKER, Contents, dataset_card
from ...labels import LabelSpace
from .inputs import Inputs, label_space, mark_counts, read_inputs
from .settings import PrepareSettings

if TYPE_CHECKING:
    from ...labeling.autolabels import AutoLabels
    from ...labeling.photos import Photo, Problem
    from ...labeling.split import SplitReport
    from .tally import Tally

_MOST = 10  # lines of each kind


@dataclass(frozen=True)
class Prepared:
    """A finished dataset, and what came of every photo. As text: the summary."""

    settings: PrepareSettings
    inputs: Inputs
    answers: AutoLabels
    space: LabelSpace
    photos: Sequence[Photo]
    problems: Sequence[Problem]
    split: SplitReport | None
    tally: Tally

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The rows of skipped.csv: everything that is not in the dataset, and why."""
        from ...labeling.photos import Problem

        rows = list(self.problems)
        if self.settings.unannotated == "skip" and self.settings.annotations is not None:
            fix = "Mark it, or take it as the labeler sees it: --unannotated auto."
            rows += [Problem(name, "no annotation", fix) for name in self.inputs.unannotated]
        return [{"photo": row.photo, "what": row.what, "fix": row.fix or "", "where": row.where or ""} for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """prepare.json: no times and no absolute paths, so that the same inputs give the same bytes."""
        told = hashlib.sha256("\n".join(f"{photo.name}\0{photo.digest}" for photo in self.photos).encode())
        return {
            "format": 1,
            "settings": plain_settings(self.settings),
            "labeler": self.answers.settings,
            "inputs": {
                "photos": len(self.photos),
                "photos_fingerprint": told.hexdigest()[:16],
                "annotations_fingerprint": self.inputs.digest,
            },
            "counts": {
                **self.tally.to_dict(),
                "skipped": dict(sorted(Counter(row["what"] for row in self.skipped).items())),
            },
        }

    def __str__(self) -> str:
        lines = [str(self.tally)]
        if self.split is not None:
            lines += ["", "split: " + str(self.split)]
        lines += _remarks(self.settings, self.inputs, self.answers.space)
        skipped = self.skipped
        if skipped:
            reasons = Counter(row["what"].split(" (")[0][:80] for row in skipped)
            lines += ["", f"{len(skipped)} photos or marks are not in the dataset; skipped.csv lists them:"]
            lines += [f"  {count} × {reason}" for reason, count in reasons.most_common(_MOST)]
        lines += ["", f"next: hf-detr-panoptic check {self.settings.out}"]
        lines += [f"then: hf-detr-panoptic train RECIPE, with data: {self.settings.out}"]
        return "\n".join(lines)


def write_papers(prepared: Prepared) -> None:
    """skipped.csv, prepare.json and README.md. A README that a person made their own stays."""
    out = prepared.settings.out
    table = io.StringIO()
    rows = csv.DictWriter(table, ["photo", "what", "fix", "where"], lineterminator="\n")
    rows.writeheader()
    rows.writerows(prepared.skipped)
    write_atomically(out / "skipped.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    card = out / "README.md"
    record = prepared.to_dict()
    if not card.is_file() or MARKER in card.read_text(encoding="utf-8", errors="replace"):
        segments = {("", *key): count for key, count in prepared.tally.segments.items()}
        contents = Contents(prepared.space, record["counts"]["photos"], segments, record)
        write_atomically(card, dataset_card(contents, out.resolve().name).encode())
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / "prepare.json", text.encode("utf-8", "surrogateescape"))


def plain_settings(settings: PrepareSettings) -> dict[str, Any]:
    """As a YAML of them would say, but for where things lie on this machine."""
    plain: dict[str, Any] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if entry.name == "labeler":
            value = _public_name(value)
        elif entry.name == "out":
            continue
        elif isinstance(value, Path):
            value = value.name
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = {str(key): list(one) if isinstance(one, tuple) else one for key, one in value.items()}
        plain[entry.name] = value
    return plain


def dry_run(settings: PrepareSettings) -> str:
    """What would happen: photos, classes, sides, the first problems. Neither loads a model nor writes anything."""
    from ...labeling.photos import survey
    from ..labelers import labeler_space
    from .earlier import Earlier
    from .writing import share_out

    inputs = read_inputs(settings)
    earlier = Earlier.of(settings.out)
    photos, unreadable = survey(settings.images, inputs.names)
    labeler = labeler_space(settings.labeler, settings.labeler_stuff) or LabelSpace([])
    _, space = label_space(settings, labeler, inputs.custom)
    lines = [inputs.description, f"{len(photos)} photos would be labelled by {_public_name(settings.labeler)}"]
    if inputs.unannotated and settings.annotations is not None:
        fate = "taken as the labeler sees them" if settings.unannotated == "auto" else "left out (--unannotated auto)"
        lines.append(f"{len(inputs.unannotated)} photos without annotation, {inputs.unannotated[0]} first: {fate}")
    counts = mark_counts(inputs)
    lines.append(f"{len(space)} classes, {len(inputs.custom)} of them yours:")
    for name in inputs.custom:
        kind = "thing" if space[space.index(name)].isthing else "stuff"
        lines.append(f"  {name}: {kind}, {counts[name]} marks")
    if any(space[space.index(name)].isthing for name in inputs.custom):
        lines.append("  (--stuff A,B makes classes stuff: what has no instances, such as a road)")
    auto = [category for category in space if category.name not in inputs.custom]
    things = [category.name for category in auto if category.isthing]
    stuff = [category.name for category in auto if not category.isthing]
    lines += [f"  and of the labeler {len(things)} things: {_some(things)}"] if things else []
    lines += [f"  and of the labeler {len(stuff)} stuff: {_some(stuff)}"] if stuff else []
    if photos:
        lines += ["", "split: " + str(share_out(settings, inputs, photos, earlier.parts).report)]
    lines += _remarks(settings, inputs, labeler)
    problems = [*inputs.problems, *unreadable]
    if problems:
        lines += ["", f"{len(problems)} problems, the first:"]
        lines += [f"  {problem}" for problem in problems[:_MOST]]
    return "\n".join([*lines, "", "nothing was written; without --dry-run it will be"])


def _remarks(settings: PrepareSettings, inputs: Inputs, labeler: LabelSpace) -> list[str]:
    """What the person should decide on: names that two classes carry, classes that are marked on some photos only."""
    from ...labeling.schemes import namesakes, partly_marked

    decided = {*settings.rename, *settings.drop}
    same = [str(entry) for entry in namesakes(inputs.custom, labeler) if entry.labeler not in decided]
    partly = [str(entry) for entry in partly_marked(list(inputs.marked.values()))]
    lines: list[str] = []
    for remarks in (same, partly):
        if remarks:
            lines += ["", *remarks[:_MOST]]
            lines += [f"… and {len(remarks) - _MOST} more of this kind"] if len(remarks) > _MOST else []
    return lines


def _public_name(labeler: Any) -> str:
    """A name of the Hub as it is, a folder's own name, or the kind of a model in memory."""
    if isinstance(labeler, Path) or (isinstance(labeler, str) and Path(labeler).exists()):
        return Path(labeler).resolve().name
    return labeler if isinstance(labeler, str) else type(labeler).__name__


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
