"""What people read on a model's page: the text below the front matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import usage
from .markdown import code, table, text
from .pictures import FOLDER, Pictures
from .run_facts import RunFacts, StageFacts

AGREEMENT = "agreement with the labeler"

_DOES = {
    "detection": "classes and boxes; the mask head neither runs nor learns",
    "mask_head": "the mask head, on top of the frozen rest",
    "finetune": "everything, at a lower rate",
}


def model_page(
    facts: RunFacts, repository: str, license: str | None, data: str | None, pictures: Pictures
) -> list[str]:
    return [
        f"# {text(repository.split('/')[-1])}",
        "",
        *_introduction(facts),
        "",
        *_quality(facts),
        "## How to use it",
        "",
        *usage.model_usage(repository, facts.settings),
        "",
        *_pictures(pictures),
        "## What it segments",
        "",
        *_classes(facts),
        "",
        "## How it was trained",
        "",
        *_training(facts, data),
        "",
        "## Limits",
        "",
        *_limits(facts),
        "",
        "## How to do it again",
        "",
        *_again(facts, data),
        "",
        "## Licence",
        "",
        f"{text(license)}." if license else "None is stated. Ask the owner before you use it.",
    ]


def _introduction(facts: RunFacts) -> list[str]:
    things, stuff = len(facts.space.thing_labels), len(facts.space.stuff_labels)
    auto = sum(category.source == "auto" for category in facts.space)
    if not auto:
        whose = "People marked all of them."
    elif auto == len(facts.space):
        whose = "A pretrained model labelled all of them; people marked none."
    else:
        whose = f"People marked {len(facts.space) - auto} of them, a pretrained model labelled the other {auto}."
    return [
        "Panoptic segmentation of photos with DETR: pixels get a class, and each object a mask of its own. It knows "
        f"{_plural(things, 'kind')} of things and {_plural(stuff, 'kind')} of stuff. {whose}"
    ]


def _quality(facts: RunFacts) -> list[str]:
    result = facts.result
    if result.get("pq") is None:
        return ["Its quality is not recorded.", ""]
    alone = is_agreement(result)
    photos = facts.data.photos.get("val") or facts.data.photos.get("validation")
    where = f"{_plural(photos, 'photo')} of the split validation" if photos else "the split validation"
    head = f"PQ, {AGREEMENT}" if alone else "PQ"
    groups = [("all", result), *((name, result.get(name) or {}) for name in ("things", "stuff"))]
    sources = result.get("sources") or {}
    if len(sources) > 1:
        names = {"custom": "on what people marked", "auto": AGREEMENT, "model": "on what a model predicted"}
        groups += [(names[key], group) for key, group in sources.items() if key in names]
    rows = [
        [name, *(percent(group.get(key)) for key in ("pq", "sq", "rq")), group.get("n", "")] for name, group in groups
    ]
    lines = [
        f"Measured on {where}, in percent:",
        "",
        *table(["", head, "SQ", "RQ", "classes"], rows, [head, "SQ", "RQ", "classes"]),
    ]
    averages = [
        [f"{kind} AP", *(percent((result[kind].get(group) or {}).get("ap")) for group in ("all", "things", "stuff"))]
        for kind in ("box", "mask")
        if result.get(kind)
    ]
    if averages:
        lines += ["", *table(["", "all", "things", "stuff"], averages, ["all", "things", "stuff"])]
    return [*lines, ""]


def _pictures(pictures: Pictures) -> list[str]:
    if not pictures.pictures:
        return []
    shown = [
        f"![Photo {number}, from left to right: the photo, its truth where it is known, the prediction]"
        f"({FOLDER}/{picture.panel.name})"
        for number, picture in enumerate(pictures.pictures, start=1)
    ]
    return ["## Pictures", "", pictures.caption, "", "\n\n".join(shown), ""]


def _classes(facts: RunFacts) -> list[str]:
    counted = bool(facts.data.photos)
    measured = {row.get("name"): row for row in facts.result.get("per_class") or ()}
    counts = [split for split in ("train", "val") if split in facts.data.photos]
    head = ["class", "kind", "labelled by", *(f"segments in {split}" for split in counts), "PQ"]
    rows = []
    for category in facts.space:
        row = [text(category.name), "thing" if category.isthing else "stuff", _whose(category.source)]
        row += [str(facts.data.count(split, category.name)) for split in counts]
        rows.append([*row, percent((measured.get(category.name) or {}).get("pq"))])
    lines = table(head, rows, [name for name in head if name.startswith("segments") or name == "PQ"])
    note = "– stands where neither truth nor prediction has the class."
    if any(category.source == "auto" for category in facts.space):
        note += f" On classes that the labeler added, PQ is {AGREEMENT}, not quality."
    return [*lines, "", note if counted else f"{note} How many segments there were is not recorded."]


def _training(facts: RunFacts, data: str | None) -> list[str]:
    base = (
        f"[{facts.base_model}](https://huggingface.co/{facts.base_model})"
        if facts.base_model
        else "a local checkpoint"
    )
    photos = facts.data.photos
    learnt = f"{_plural(photos['train'], 'photo')}" if photos.get("train") else "photos"
    where = f" of [{data}](https://huggingface.co/datasets/{data})" if data else ""
    lines = [f"It began as {base} and learnt from {learnt}{where} in {_plural(len(facts.stages), 'stage')}."]
    if facts.stages:
        head = ["stage", "trains", "epochs", "steps", "learning rate", "batch", "best", "time", "memory"]
        lines += [
            "",
            *table(head, [_stage_row(stage) for stage in facts.stages], ["epochs", "steps", "time", "memory"]),
        ]
        lines += ["", "The batch is that of one process. `best` is the measure that chose the checkpoint, in percent."]
    environment = facts.environment
    if environment:
        machine = text(environment.get("device", "unknown"))
        processes = environment.get("processes") or 1
        versions = ", ".join(
            f"{name.replace('_', '-')} {text(environment[name])}"
            for name in ("hf_detr_panoptic", "transformers", "torch", "timm", "accelerate", "python")
            if environment.get(name)
        )
        times = f"{processes} × " if processes > 1 else ""
        lines += ["", f"Hardware: {times}{machine}. Versions: {versions}."]
        if environment.get("earlier"):
            lines.append(
                "Parts of it ran elsewhere before: "
                + ", ".join(text(entry.get("device", "unknown")) for entry in environment["earlier"])
                + "."
            )
    else:
        lines += ["", "Hardware and versions are not recorded."]
    return lines


def _stage_row(stage: StageFacts) -> list[str]:
    settings, marker = stage.settings, stage.marker
    rate = _number(settings.get("learning_rate"))
    if settings.get("backbone_learning_rate") is not None:
        rate += f", backbone {_number(settings['backbone_learning_rate'])}"
    batch = str(settings.get("per_device_train_batch_size") or "–")
    if (settings.get("gradient_accumulation_steps") or 1) > 1:
        batch += f" × {settings['gradient_accumulation_steps']}"
    best = "–"
    if marker.get("best") is not None:
        best = f"{code(marker.get('metric'))} {percent(marker['best'])}"
        best += "" if marker.get("best_epoch") is None else f" at epoch {_number(marker['best_epoch'])}"
    memory = marker.get("peak_memory_mb")
    return [
        code(stage.name), _DOES[stage.name], _number(settings.get("num_train_epochs")), _number(marker.get("steps")),
        rate, batch, best, duration(stage.seconds), "–" if memory is None else f"{memory / 1000:.1f} GB",
    ]  # fmt: skip


def _limits(facts: RunFacts) -> list[str]:
    labeler, threshold = facts.data.labeler, facts.data.labeler_threshold
    auto = [category.name for category in facts.space if category.source == "auto"]
    lines = []
    if auto:
        teacher = code(labeler) if labeler else "a pretrained model whose name is not recorded"
        sure = f", where it was surer than {threshold:g}" if threshold is not None else ""
        lines += [
            f"- Nobody checked {_plural(len(auto), 'class', 'classes')}: {teacher} labelled them{sure}. The model "
            f"repeats its mistakes, and PQ on them is {AGREEMENT}: how often the two say the same.",
        ]
    untrained = [
        text(category.name)
        for category in facts.space
        if facts.data.photos.get("train") and not facts.data.count("train", category.name)
    ]
    if untrained:
        lines.append(f"- It had no example of: {', '.join(untrained)}.")
    few = [
        f"{text(category.name)} ({count})"
        for category in facts.space
        if 0 < (count := facts.data.count("train", category.name)) < 20
    ]
    if few:
        lines.append(f"- It had fewer than 20 examples of: {', '.join(few)}.")
    void = "stay void (0)" if facts.settings.get("fill", "void") == "void" else "go to the best of them all the same"
    lines += [
        f"- Pixels that no mask claims {void}. A query counts above a score of {facts.threshold:g}.",
        "- It finds at most as many segments as it has queries, and its masks have one cell for 4 × 4 pixels of the "
        "photo that it sees.",
        "- It was measured on photos like those that it learnt from. On others (other seasons, cameras or places) it "
        "may be worse: look before you rely on it.",
    ]
    return lines


def _again(facts: RunFacts, data: str | None) -> list[str]:
    seed = facts.recipe.get("seed")
    lines = [
        "`recipe.yaml` in this repository holds every setting"
        + (f"; its one seed is {seed}." if seed is not None else "."),
        "",
        "```bash",
        f'pip install "{usage.PACKAGE}"',
        "hf-detr-panoptic train recipe.yaml" + (f" --data {data}" if data else ""),
        "```",
    ]
    missing = [] if data else ["`data` to a dataset of yours in COCO panoptic format"]
    if not facts.base_model:
        missing.append("`model` to a DETR checkpoint of yours, because this run's was a local one")
    if missing:
        lines += ["", f"Set {' and '.join(missing)} in it first."]
    return lines


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_agreement(result: Mapping[str, Any]) -> bool:
    return set(result.get("sources") or ()) == {"auto"}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else "–"


def _plural(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def _whose(source: str) -> str:
    return "people" if source == "custom" else "a model"
