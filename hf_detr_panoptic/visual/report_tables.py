"""The tables of a report: classes, findings, copies, confusion, advice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .report_charts import bar, swatch
from .report_html import Content, Html, join, tag
from .report_values import Advice, DatasetClass, Mixed, Pair, Remark, RunClass, Score, Skipped

NOTHING = "–"
_MATRIX = 24  # classes; more, and nobody finds a cell


class Cell(NamedTuple):
    """What a table shows, and what it is sorted by ("": last)."""

    content: Content
    value: object = ""


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    text: Sequence[int] = (),
    measured: Sequence[int] = (),
) -> Html:
    """Sorted by any column; `text`: the columns of words, which stand to the left; `measured`: those with bars."""
    top = [
        tag(
            "th",
            tag("button", head, type="button", class_="sort") if head else None,
            scope="col",
            class_="text" if place in text else "measured" if place in measured else None,
        )
        for place, head in enumerate(heads)
    ]
    lines = []
    for row in rows:
        first, *rest = row
        cells = [
            tag("td", cell.content, data_value=cell.value, class_="text" if place in text else None)
            for place, cell in enumerate(rest, start=1)
        ]
        lines.append(tag("tr", tag("td", first.content, data_value=first.value), cells))
    return _wide(tag("table", tag("thead", tag("tr", top)), tag("tbody", lines), aria_label=caption), caption)


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def dataset_classes(classes: Sequence[DatasetClass], parts: Sequence[str]) -> Html:
    """Segments by source, pixels, photos by split, and how much of each class is validated on."""
    held = [part for part in parts if part != "train"]
    heads = ["class", "kind", "by hand", "by the labeler", "pixels", *(f"{part} photos" for part in parts)]
    shared = bool(held) and "train" in parts
    heads += [f"in {' and '.join(held)}"] if shared else []
    rows = []
    largest = max((row.share for row in classes), default=0) or 1
    for place, row in enumerate(classes):
        photos = [row.photos.get(part, 0) for part in parts]
        cells = [
            _class_name(row.name, row.color, place),
            _kind(row.isthing),
            _count(row.custom),
            _count(row.auto),
            Cell(bar(row.share / largest, f"{row.share:.1%}"), row.share),
            *(_count(number) for number in photos),
        ]
        if shared:
            everything = sum(photos)
            share = (everything - row.photos.get("train", 0)) / everything if everything else None
            odd = "" if share is None or 0.05 <= share <= 0.6 else "odd"
            cells.append(Cell(bar(share, NOTHING if share is None else f"{share:.0%}", odd), _value(share)))
        rows.append(cells)
    note = "By hand, by the labeler: segments. Pixels: share of all that are known."
    note += f" {heads[-1].capitalize()}: share of the class's photos." if shared else ""
    shown = table(heads, rows, "Classes of the dataset", text=(1,), measured=(4, 5 + len(parts)))
    return join(tag("p", note, class_="quiet"), shown)


def run_classes(classes: Sequence[RunClass], with_precision: bool) -> Html:
    """PQ with its parts, counts and bars. Classes that neither side has are counted, not listed."""
    there = [row for row in classes if row.pq is not None]
    with_photos = any(row.train_photos is not None for row in there)
    heads = ["class", "kind", "PQ", "SQ", "RQ", "found", "missed", "invented"]
    heads += ["box AP", "mask AP"] if with_precision else []
    heads += ["train photos"] if with_photos else []
    rows = []
    for place, row in enumerate(classes):
        if row.pq is None:
            continue
        cells = [
            _class_name(row.name, row.color, place),
            _kind(row.isthing),
            *(Cell(bar(value, percent(value)), _value(value)) for value in (row.pq, row.sq, row.rq)),
            *(_count(number) for number in (row.found, row.missed, row.invented)),
        ]
        if with_precision:
            cells += [Cell(percent(value), _value(value)) for value in (row.box_ap, row.mask_ap)]
        if with_photos:
            cells.append(Cell(NOTHING) if row.train_photos is None else _count(row.train_photos))
        rows.append(cells)
    rows.sort(key=lambda cells: float(str(cells[2].value or 0)))
    absent = len(classes) - len(there)
    rest = tag("p", f"{absent} more are on neither side: nothing to measure.", class_="quiet") if absent else None
    figures = "PQ, SQ, RQ and AP" if with_precision else "PQ, SQ and RQ"
    note = f"The weakest first. {figures} in percent; found, missed and invented are segments."
    shown = table(heads, rows, "Quality of each class", text=(1,), measured=(2, 3, 4))
    return join(tag("p", note, class_="quiet"), shown, rest)


def scores(heads: Sequence[str], rows: Sequence[Score]) -> Html:
    """All, things, stuff …: three figures and over how many classes."""
    lines = [
        [Cell(row.name, row.name), *(Cell(percent(value), _value(value)) for value in row.values), _count(row.n)]
        for row in rows
    ]
    return table(["", *heads, "classes"], lines, heads[0])


def confusion(mixed: Mixed) -> Html:
    """Rows are the truth. Of many classes those that are mixed up most."""
    labels = range(len(mixed.names))
    trouble = {
        label: sum(mixed.matched[label][other] + mixed.matched[other][label] for other in labels if other != label)
        for label in labels
    }
    seen = [
        label
        for label in labels
        if sum(mixed.matched[label]) + mixed.missed[label] + mixed.invented[label] + trouble[label]
    ]
    if not seen:
        return tag("p", "No segment on either side.", class_="quiet")
    kept = sorted(sorted(seen, key=lambda label: -trouble[label])[:_MATRIX])
    head = tag(
        "tr",
        tag("th", "true ↓  predicted →", scope="col"),
        [tag("th", mixed.names[label], scope="col") for label in kept],
        tag("th", "missed", scope="col"),
    )
    lines = []
    for true in kept:
        whole = sum(mixed.matched[true]) + mixed.missed[true] or 1
        cells = [_matrix_cell(mixed.matched[true][found], whole, true == found) for found in kept]
        lines.append(
            tag("tr", tag("th", mixed.names[true], scope="row"), cells, _matrix_cell(mixed.missed[true], whole))
        )
    invented = [_matrix_cell(mixed.invented[label], sum(mixed.invented) or 1) for label in kept]
    lines.append(tag("tr", tag("th", "invented", scope="row"), invented, tag("td")))
    matrix = tag("table", tag("thead", head), tag("tbody", lines), class_="matrix", aria_label="Confusion of classes")
    left_out = len(seen) - len(kept)
    rest = tag("p", f"{left_out} classes that are mixed up least are left out.", class_="quiet") if left_out else None
    return join(_wide(matrix, "Confusion of classes"), rest)


def remarks(listed: Sequence[Remark]) -> Html:
    """Errors and warnings, with the first places."""
    items = []
    for remark in listed:
        head = tag(
            "summary",
            tag("span", remark.level, class_=f"level {remark.level}"),
            f" · {remark.what} ({remark.count:,}). {remark.fix}",
        )
        more = remark.count - len(remark.examples)
        lines = [tag("li", example) for example in remark.examples]
        lines += [tag("li", f"… and {more:,} more", class_="quiet")] if more > 0 and lines else []
        items.append(tag("details", head, tag("ul", lines)))
    return join(items)


def pairs(listed: Sequence[Pair], total: int) -> Html:
    """Photos that are there twice; across splits first: those flatter every figure."""
    rows = [
        [
            *map(_words, (pair.first, pair.first_part, pair.second, pair.second_part)),
            Cell("the same file" if pair.exact else f"{pair.bits} of 256 bits apart", pair.bits),
            Cell(tag("b", "yes", class_="error"), "yes") if pair.first_part != pair.second_part else Cell("no", "no"),
        ]
        for pair in listed
    ]
    heads = ["photo", "split", "and photo", "split", "how alike", "leak"]
    cut = tag("p", f"The first {len(listed)} of {total:,}.", class_="quiet") if total > len(listed) else None
    return join(table(heads, rows, "Copies", text=(1, 2, 3, 4, 5)), cut)


def skipped(listed: Sequence[Skipped], total: int) -> Html:
    """What is not in the dataset."""
    rows = [[*map(_words, (row.photo, row.what, row.fix))] for row in listed]
    cut = tag("p", f"The first {len(listed)} of {total:,}; skipped.csv has all.", class_="quiet")
    return tag(
        "div",
        table(["photo", "why", "what to do"], rows, "Skipped", text=(1, 2)),
        cut if total > len(listed) else None,
        class_="prose",
    )


def pairs_of(listed: Sequence[tuple[str, str]], caption: str) -> Html:
    """Two columns of words."""
    lines = [tag("tr", tag("td", name), tag("td", value, class_="text")) for name, value in listed]
    return _wide(tag("table", tag("tbody", lines), class_="pairs", aria_label=caption), caption)


def advice(listed: Sequence[Advice]) -> Html:
    """Steps, the most useful first."""
    items = [tag("li", each.text, _command(each.command) if each.command else None) for each in listed]
    return tag("ol", items, class_="advice")


def _command(line: str) -> Html:
    """Word by word, so that a narrow page breaks the line between them and never after a hyphen."""
    first, *rest = line.split(" ")
    return tag("code", tag("span", first), [[" ", tag("span", word)] for word in rest])


def _wide(content: Html, caption: str) -> Html:
    """Wider than a phone: it scrolls by itself, with keys too."""
    return tag("div", content, class_="wide", tabindex=0, role="region", aria_label=caption)


def _class_name(name: str, color: tuple[int, int, int], label: int) -> Cell:
    link = tag("a", tag("bdi", name), href="#photos", data_choose=label, title="show its photos")
    return Cell(tag("span", swatch(color), link, class_="named"), name)


def _words(text: str) -> Cell:
    return Cell(tag("bdi", text), text)


def _kind(isthing: bool) -> Cell:
    word = "thing" if isthing else "stuff"
    return Cell(word, word)


def _count(number: int) -> Cell:
    return Cell(f"{number:,}", number)


def _value(fraction: float | None) -> object:
    return "" if fraction is None else round(fraction, 6)


def _matrix_cell(count: int, whole: int, hit: bool = False) -> Html:
    if not count:
        return tag("td", "·", class_="nil")
    return tag("td", f"{count:,}", class_="hit" if hit else "slip", style=f"--share:{count / whole:.3f}")
