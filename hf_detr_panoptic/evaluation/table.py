"""Quality on paper: a table for the screen, a CSV of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..dataset.validation import ON_TRAIN
from ..files import write_csv
from ..text import count_of, percent

AGREEMENT = "agreement with the labeler"
MEASURED_ON = "measured_on"  # a result's key: "train" where the figures are of photos that were learnt from

YOURS = "your classes"
_AGAINST = {"auto": AGREEMENT, "model": "on what a model predicted"}

Row = Sequence[object]
Group = tuple[str, Mapping[str, Any]]


def headline(result: Mapping[str, Any]) -> str:
    """What the numbers may be called, and of what photos they are."""
    name = AGREEMENT if only_agreement(result) else "panoptic quality"
    return " ".join(filter(None, (name, figures_of(result))))


def only_agreement(result: Mapping[str, Any]) -> bool:
    """A truth that the labeler alone made measures agreement, not quality."""
    return set(result.get("sources", ())) == {"auto"}


def figures_of(result: Mapping[str, Any]) -> str:
    """A remark that belongs to each of its figures; nothing where they are of held-out photos."""
    return ON_TRAIN if result.get(MEASURED_ON) == "train" else ""


def quality_groups(result: Mapping[str, Any]) -> list[Group]:
    """What PQ is told of: the person's classes before all, and last what the truth of other models says."""
    sources = result.get("sources") or {}
    others = [(name, sources[source] or {}) for source, name in _AGAINST.items() if source in sources]
    return [*_whole_and_parts(result, result), *(others if len(sources) > 1 else [])]


def precision_groups(average: Mapping[str, Any]) -> list[Group]:
    """What box or mask AP is told of."""
    return _whole_and_parts(average, average.get("all") or {})


def _whole_and_parts(groups: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Group]:
    """The person's classes first, unless they are all that there is."""
    yours = groups.get("yours") or {}
    first = [(YOURS, yours)] if yours.get("n") and yours["n"] != whole.get("n") else []
    return [*first, ("all", whole), *((name, groups.get(name) or {}) for name in ("things", "stuff"))]


def format_table(result: Mapping[str, Any]) -> str:
    """What `PanopticQuality.compute` found, and AP where there is one, in percent; "n/a" where a group is empty.

    The person's classes stand first, among the groups and among the classes.
    """
    rows: list[Row] = [
        (name, *(percent(group[key]) for key in ("pq", "sq", "rq")), count_of(group["n"], "class"))
        for name, group in quality_groups(result)
    ]
    lines = [headline(result), *_aligned([("", "PQ", "SQ", "RQ", ""), *rows])]
    for kind in ("box", "mask"):
        if result.get(kind):
            rows = [
                (name, *(percent(group[key]) for key in ("ap", "ap50", "ap75")))
                for name, group in precision_groups(result[kind])
            ]
            lines += ["", *_aligned([(f"{kind} AP", "AP", "AP50", "AP75"), *rows])]
    rows = [
        (
            row["name"],
            *(percent(row[key]) for key in ("pq", "sq", "rq")),
            "thing" if row["isthing"] else "stuff",
            *(row[key] for key in ("tp", "fp", "fn")),
        )
        for row in _yours_first(result["per_class"])
        if row["pq"] is not None
    ]
    lines += ["", *_aligned([("class", "PQ", "SQ", "RQ", "kind", "found", "invented", "missed"), *rows])]
    absent = len(result["per_class"]) - len(rows)
    if absent:
        classes = count_of(absent, "class that occurs", "classes that occur")
        lines.append(f"and {classes} on neither side")
    return "\n".join(lines)


def per_class_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat dict a class, the person's first, AP included where there is one."""
    rows = [dict(row) for row in result["per_class"]]
    for kind in ("box", "mask"):
        if result.get(kind):
            for row, measured in zip(rows, result[kind]["per_class"], strict=True):
                row[f"{kind}_ap"] = measured["ap"]
    return _yours_first(rows)


def write_per_class(result: Mapping[str, Any], path: str | Path) -> None:
    """A CSV with one line a class; an empty cell where there is nothing to measure."""
    rows = per_class_rows(result)
    write_csv(path, list(rows[0]) if rows else ["label", "name"], rows)


def _yours_first(rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    return sorted(rows, key=lambda row: not row.get("yours"))


def _aligned(rows: Iterable[Row]) -> list[str]:
    """The first column to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]
