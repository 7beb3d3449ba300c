"""Quality on paper: a table for the screen, a CSV of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_csv
from ..text import count_of, percent

AGREEMENT = "agreement with the labeler"

Row = Sequence[object]


def headline(result: Mapping[str, Any]) -> str:
    """What the numbers may be called: a truth that the labeler alone made measures agreement, not quality."""
    return AGREEMENT if set(result.get("sources", ())) == {"auto"} else "panoptic quality"


def format_table(result: Mapping[str, Any]) -> str:
    """What `PanopticQuality.compute` found, and AP where there is one, in percent; "n/a" where a group is empty."""
    groups = [("all", result), ("things", result["things"]), ("stuff", result["stuff"])]
    names = {"custom": "on what the person marked", "auto": AGREEMENT, "model": "on what a model predicted"}
    if len(result["sources"]) > 1:
        groups += [(names[source], group) for source, group in result["sources"].items()]
    rows: list[Row] = [
        (name, *(percent(group[key]) for key in ("pq", "sq", "rq")), count_of(group["n"], "class"))
        for name, group in groups
    ]
    lines = [headline(result), *_aligned([("", "PQ", "SQ", "RQ", ""), *rows])]
    for kind in ("box", "mask"):
        if result.get(kind):
            rows = [
                (name, *(percent(result[kind][name][key]) for key in ("ap", "ap50", "ap75")))
                for name in ("things", "stuff", "all")
            ]
            lines += ["", *_aligned([(f"{kind} AP", "AP", "AP50", "AP75"), *rows])]
    rows = [
        (
            row["name"],
            *(percent(row[key]) for key in ("pq", "sq", "rq")),
            "thing" if row["isthing"] else "stuff",
            *(row[key] for key in ("tp", "fp", "fn")),
        )
        for row in result["per_class"]
        if row["pq"] is not None
    ]
    lines += ["", *_aligned([("class", "PQ", "SQ", "RQ", "kind", "found", "invented", "missed"), *rows])]
    absent = len(result["per_class"]) - len(rows)
    if absent:
        classes = count_of(absent, "class that occurs", "classes that occur")
        lines.append(f"and {classes} on neither side")
    return "\n".join(lines)


def per_class_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat dict a class, AP included where there is one."""
    rows = [dict(row) for row in result["per_class"]]
    for kind in ("box", "mask"):
        if result.get(kind):
            for row, measured in zip(rows, result[kind]["per_class"], strict=True):
                row[f"{kind}_ap"] = measured["ap"]
    return rows


def write_per_class(result: Mapping[str, Any], path: str | Path) -> None:
    """A CSV with one line a class; an empty cell where there is nothing to measure."""
    rows = per_class_rows(result)
    write_csv(path, list(rows[0]) if rows else ["label", "name"], rows)


def _aligned(rows: Iterable[Row]) -> list[str]:
    """The first column to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    ]
