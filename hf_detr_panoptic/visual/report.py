"""One file to look at: a dataset before training, a run after it. No network, no library, made of plain values."""

from __future__ import annotations

from collections.abc import Sequence

from ..pictures.panels import FAULTS
from . import report_tables as tables
from .report_charts import line_chart, stack
from .report_gallery import gallery, store
from .report_html import Html, join, lines, tag
from .report_page import Section, page
from .report_values import DatasetPage, Part, RunPage, StageReport

_ORDER = "The most suspicious first. Lines: what was marked by hand is white, what the labeler added dashed."
_PATTERNS = {
    "/": "M0 16 16 0M-4 4 4-4M12 20 20 12",
    ".": "M4 4h4v4h-4zM12 12h4v4h-4z",
    "x": "M0 0 16 16M16 0 0 16",
    "-": "M0 4H16M0 12H16",
}


def dataset_report(dataset: DatasetPage) -> str:
    """The page of a dataset."""
    parts = dataset.parts
    photos, segments = (sum(getattr(part, key) for part in parts.values()) for key in ("photos", "segments"))
    used = sum(1 for row in dataset.classes if row.custom + row.auto)
    errors, odd = (sum(r.count for r in dataset.remarks if r.level == level) for level in ("error", "warning"))
    leaks = sum(pair.first_part != pair.second_part for pair in dataset.pairs)
    tiles = [
        (f"{photos:,}", "photos"),
        (f"{segments:,}", "segments"),
        (f"{used:,}", "classes in use"),
        *((f"{part.photos:,}", f"photos in {name}") for name, part in parts.items()),
        (f"{errors:,}", "errors"),
        (f"{odd:,}", "warnings"),
        (f"{leaks:,}", "leaks between splits"),
    ]
    sections: list[Section] = [
        ("next", "What to do next", tables.advice(dataset.advice)),
        ("pixels", "Who knows the pixels", join([_shares(name, part) for name, part in parts.items()])),
        ("classes", "Classes", tables.dataset_classes(dataset.classes, list(parts))),
        ("photos", "Photos", gallery(dataset.cards, [row.name for row in dataset.classes], _ORDER)),
        ("copies", "Copies and leaks", _copies(dataset)),
        ("findings", "Errors and warnings", _findings(dataset)),
        ("skipped", "What was skipped", _skipped(dataset)),
    ]
    if dataset.settings:
        sections.append(("settings", "How it was made", tables.pairs_of(dataset.settings, "Settings")))
    sections = _with_notes(sections, dataset.notes)
    return page(dataset.name, "dataset, COCO panoptic", tiles, sections, store(dataset.cards), dataset.version)


def run_report(run: RunPage) -> str:
    """The page of a training run."""
    shown = [(row.values[0], f"PQ, {row.name}") for row in run.scores[:3]]
    shown += [(rows[0].values[0], f"{kind} AP") for kind, rows in run.precision.items() if rows]
    tiles = [(tables.NOTHING if value is None else f"{tables.percent(value)}%", what) for value, what in shown]
    spent = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if spent:
        tiles.append((duration(sum(spent)), "of training"))
    sections: list[Section] = [
        ("next", "What to do next", tables.advice(run.advice)),
        ("quality", run.quality_name[:1].upper() + run.quality_name[1:], _quality(run)),
        ("classes", "Classes", tables.run_classes(run.classes, bool(run.precision))),
    ]
    if run.mixed is not None:
        sections.append(("confusion", "What is taken for what", _confusion(run)))
    sections += [
        ("stages", "The stages", join([_stage(stage) for stage in run.stages])),
        ("photos", "Photos", _photos(run)),
        ("settings", "Settings, versions, cost", _settings(run)),
    ]
    sections = _with_notes(sections, run.notes)
    return page(run.name, "training run", tiles, sections, store(run.cards), run.version)


def duration(seconds: float) -> str:
    """As people say it: "2 h 05 min", "3 min 20 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _with_notes(sections: list[Section], notes: Sequence[str]) -> list[Section]:
    """What the reader has to know first."""
    anchor, title, content = sections[0]
    said = [tag("p", note, class_="quiet") for note in notes]
    return [(anchor, title, join(said, content)), *sections[1:]]


def _shares(name: str, part: Part) -> Html:
    whole = max(1, part.custom + part.auto + part.void)
    shares = [
        ("marked by hand", part.custom / whole, "custom"),
        ("added by the labeler", part.auto / whole, "auto"),
        ("void: nobody knows", part.void / whole, "void"),
    ]
    return join(tag("h3", f"{name}: {part.photos:,} photos, {part.segments:,} segments"), stack(shares))


def _copies(dataset: DatasetPage) -> Html:
    if not dataset.pairs:
        return tag("p", "No photo is there twice, nor nearly.")
    why = "A photo in two splits is a leak: the model is asked what it has learned by heart. Split again."
    return join(tag("p", why), tables.pairs(dataset.pairs, dataset.pairs_total))


def _findings(dataset: DatasetPage) -> Html:
    if not dataset.remarks:
        return tag("p", "Nothing: lists, maps and photos agree.")
    return tables.remarks(dataset.remarks)


def _skipped(dataset: DatasetPage) -> Html:
    if not dataset.skipped:
        return tag("p", "Nothing was skipped, as far as the folder tells.")
    return tables.skipped(dataset.skipped, dataset.skipped_total)


def _quality(run: RunPage) -> Html:
    parts = [tag("p", run.measured)] if run.measured else []
    parts.append(tables.scores(["PQ", "SQ", "RQ"], run.scores))
    parts.append(
        tag(
            "p",
            "In percent. RQ: how many segments are found and not invented; SQ: how well the outlines of the found "
            "ones fit. Of each class PQ = SQ × RQ; these are means over classes.",
            " The last rows have the classes with such truth; what was invented counts against the truth beneath it."
            if len(run.scores) > 3
            else None,
            class_="quiet",
        )
    )
    for kind, rows in run.precision.items():
        parts += [tag("h3", f"{kind} AP"), tables.scores(["AP", "AP50", "AP75"], rows)]
    return join(parts)


def _confusion(run: RunPage) -> Html:
    assert run.mixed is not None
    text = (
        "Segments whose outlines fit (IoU above 0.5), whatever their class. Blue on the diagonal is right; every "
        "other coloured cell is a class taken for another, missed or invented."
    )
    return join(tag("p", text), tables.confusion(run.mixed))


def _stage(stage: StageReport) -> Html:
    name = {"box_ap": "box AP"}.get(stage.metric, stage.metric.upper())
    facts = []
    if stage.best is not None:
        best = "" if stage.best_epoch is None else f" at epoch {stage.best_epoch:g}"
        facts += [f"best {name} {tables.percent(stage.best)}{best}", f"last {tables.percent(stage.last)}"]
    elif stage.last is not None:
        facts.append(f"{name} {tables.percent(stage.last)} at its end")
    facts.append(f"{stage.steps:,} steps")
    facts += [duration(stage.seconds)] if stage.seconds is not None else []
    facts += [f"{stage.memory_mb / 1000:.1f} GB at most"] if stage.memory_mb is not None else []
    curves = [
        ("quality", stage.quality, True),
        ("loss", stage.losses[:1], False),
        ("parts of the loss, before their weights", stage.losses[1:], False),
    ]
    charts = [
        line_chart(title, listed, percent, stage.best_epoch) for title, listed, percent in curves if listed
    ] or tag("p", "No curve was written down.", class_="quiet")
    return join(
        tag("h3", stage.name if stage.finished else f"{stage.name}, not finished"),
        tag("p", ", ".join(facts)),
        tag("div", charts, class_="charts"),
    )


def _photos(run: RunPage) -> Html:
    keys = [
        tag("span", _fault_key(kind), f" {name}: {meaning}")
        for (kind, (name, _, _)), meaning in zip(
            FAULTS.items(),
            (
                "in the truth, and not seen",
                "seen, and not in the truth",
                "seen as something else",
                "seen, but where it ends is disputed",
            ),
            strict=True,
        )
    ]
    legend = tag("p", keys, tag("span", "grey: right; dark: nobody knows"), class_="legend")
    names = [row.name for row in run.classes]
    shown = tag("p", run.pictured) if run.pictured else None
    return join(
        shown, legend if run.cards else None, gallery(run.cards, names, "The worst first, by the photo's own PQ.")
    )


def _fault_key(kind: int) -> Html:
    _, (red, green, blue), pattern = FAULTS[kind]
    color = f"rgb({red},{green},{blue})"
    box = tag("rect", width=26, height=16, fill=color, fill_opacity=0.5)
    lines = [
        tag("path", d=_PATTERNS[pattern], stroke=color, stroke_width=3, fill="none", transform=f"translate({x} 0)")
        for x in (0, 16)
    ]
    return tag("svg", box, lines, viewBox="0 0 26 16", class_="fault", aria_hidden="true")


def _settings(run: RunPage) -> Html:
    parts = [tables.pairs_of(run.environment, "Versions and hardware")] if run.environment else []
    if run.settings:
        parts.append(tag("details", tag("summary", "The recipe, whole"), tag("pre", lines(run.settings))))
    return join(parts) if parts else tag("p", "Nothing was written down.", class_="quiet")
