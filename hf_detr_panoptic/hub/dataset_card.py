"""The dataset's page on the Hub: what is in it, whose work that is, and how to load it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..labels import LabelSpace
from . import usage
from .front_matter import checked_license, with_front_matter
from .markdown import code, table, text
from .repository import check_name
from .run_facts import read_mapping

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
_SOURCES = {"custom": "marked by people", "auto": "added by the labeler", "model": "predicted by a model"}


@dataclass(frozen=True)
class _Contents:
    """photos: split → how many; segments: (split, label, source) → how many; told: prepare.json."""

    space: LabelSpace
    photos: Mapping[str, int]
    segments: Counter[tuple[str, int, str]]
    told: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> _Contents:
        from ..dataset.rows import load_panoptic

        loaded = load_panoptic(folder)
        segments = Counter[tuple[str, int, str]]()
        for split, rows in loaded.items():
            for row in rows.select_columns(["segments"]):
                segments.update((str(split), segment["label"], segment["source"]) for segment in row["segments"])
        photos = {str(split): len(rows) for split, rows in loaded.items()}
        return cls(loaded.label_space, photos, segments, read_mapping(folder / "prepare.json") or {})

    def count(self, *, split: str | None = None, label: int | None = None, source: str | None = None) -> int:
        wanted = (split, label, source)
        return sum(
            number
            for key, number in self.segments.items()
            if all(want is None or want == have for want, have in zip(wanted, key, strict=True))
        )


def dataset_card(folder: Path, repository: str, *, license: str | None) -> str:
    """README.md of a dataset that is pushed as Parquet. `folder` is what `load_panoptic` reads."""
    check_name(repository)
    contents = _Contents.read(folder)
    body = "\n".join(_page(contents, repository, license))
    return with_front_matter(_front_matter(contents, repository, checked_license(license)), body).decode()


def _front_matter(contents: _Contents, repository: str, license: str | None) -> Any:
    from huggingface_hub import DatasetCardData

    total = sum(contents.photos.values())
    files = [{"split": split, "path": f"data/{split}-*"} for split in contents.photos]
    return DatasetCardData(
        license=license,
        pretty_name=repository.split("/")[-1],
        task_categories=["image-segmentation"],
        size_categories=[_SIZES[min(max(len(str(total)) - 3, 0), len(_SIZES) - 1)]],
        tags=["panoptic-segmentation", "coco-panoptic", "hf-detr-panoptic"],
        configs=[{"config_name": "default", "data_files": files}],
    )


def _page(contents: _Contents, repository: str, license: str | None) -> list[str]:
    space = contents.space
    photos = ", ".join(f"{count} in {code(split)}" for split, count in contents.photos.items())
    things, stuff = len(space.thing_labels), len(space.stuff_labels)
    return [
        f"# {text(repository.split('/')[-1])}",
        "",
        f"Panoptic segmentation of photos: {photos}. The pixels of a photo belong to one segment each, or to none "
        f"(void). Kinds of things: {things}; of stuff: {stuff}.",
        "",
        "## How to load it",
        "",
        *usage.dataset_usage(repository, next(iter(contents.photos))),
        "",
        "## What a row holds",
        "",
        *_features(),
        "",
        "## What is in it",
        "",
        *_classes(contents),
        "",
        "## Where the segments come from",
        "",
        *_sources(contents),
        "",
        "## Licence",
        "",
        f"{text(license)}." if license else "None is stated. Ask the owner before you use it.",
        "",
    ]


def _features() -> list[str]:
    rows = [
        ("`image`", "the photo as it was prepared, without what its file said beside the picture"),
        ("`image_id`", "its id"),
        ("`file_name`", "its name"),
        ("`panoptic`", "the bytes of a PNG: each pixel's segment, as R + 256 · G + 65536 · B; 0 is void"),
        ("`segments`", "a list of `id` (in the PNG), `label` (a class), `score`, `source` and `iscrowd`"),
    ]
    return [
        *table(["column", "what"], rows),
        "",
        "`label_space.json` beside the data says which classes are things, and their colours. Areas and boxes are "
        "not stored: they follow from the pixels.",
    ]


def _classes(contents: _Contents) -> list[str]:
    splits = list(contents.photos)
    present = [source for source in _SOURCES if contents.count(source=source)]
    numbers = [*(f"in {split}" for split in splits), *(_SOURCES[source] for source in present)]
    rows = []
    for label, category in enumerate(contents.space):
        counts = [contents.count(split=split, label=label) for split in splits]
        counts += [contents.count(label=label, source=source) for source in present]
        rows.append([text(category.name), "thing" if category.isthing else "stuff", *counts])
    return ["Segments:", "", *table(["class", "kind", *numbers], rows, numbers)]


def _sources(contents: _Contents) -> list[str]:
    settings = contents.told.get("settings") or {}
    custom, auto = contents.count(source="custom"), contents.count(source="auto")
    lines = [f"- `custom`: people marked {custom} segments."] if custom else []
    if auto:
        name, threshold = settings.get("labeler"), settings.get("threshold")
        whose = code(name) if isinstance(name, str) else "a pretrained model whose name is not recorded"
        line = f"- `auto`: {whose} added {auto} segments"
        line += f", those that it was surer of than {threshold:g}" if isinstance(threshold, int | float) else ""
        fingerprint = (contents.told.get("labeler") or {}).get("fingerprint")
        line += f" (weights and settings {code(fingerprint)})" if fingerprint else ""
        line += ". Nobody checked them. Each has its `score`."
        lines += [line, *_merging(settings)]
    if predicted := contents.count(source="model"):
        lines.append(f"- `model`: a model predicted {predicted} segments. Nobody checked them.")
    lines += ["", *_shares(contents.told)]
    if auto:
        lines += ["Quality that is measured on `auto` segments is agreement with the labeler, not quality."]
    return lines


def _merging(settings: Mapping[str, Any]) -> list[str]:
    """How marks and the labeler's answers became one map."""
    if not settings:
        return []
    leakage, least = settings.get("leakage"), settings.get("min_area")
    lines = ["- Where both say something, people are right."]
    if isinstance(leakage, int | float):
        lines.append(f"- An `auto` thing with {leakage:.0%} or more of its pixels under marks was left out.")
    if isinstance(least, int):
        lines.append(f"- Pieces of fewer than {least} pixels that a mark cut off became void.")
    return lines


def _shares(told: Mapping[str, Any]) -> list[str]:
    pixels = (told.get("counts") or {}).get("pixels") or {}
    total = sum(pixels.values())
    if not total:
        return []
    custom, auto = pixels.get("custom", 0) / total, pixels.get("auto", 0) / total
    return [f"Of all pixels {custom:.1%} are `custom`, {auto:.1%} `auto` and {1 - custom - auto:.1%} void.", ""]
