"""The model's page on the Hub: what it segments, how well, how it was made, and how anybody uses it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..dataset.photos import bare_photo
from .front_matter import checked_license, with_front_matter
from .model_page import AGREEMENT, is_agreement, model_page
from .pictures import FOLDER, Pictures
from .repository import check_name
from .run_facts import RunFacts, public_name
from .usage import handler_source

__all__ = ["handler_source", "model_card_files"]

TAGS = ["panoptic-segmentation", "detr", "hf-detr-panoptic"]


def model_card_files(
    run: Path, repository: str, *, license: str | None, data_repository: str | None
) -> dict[str, bytes | Path]:
    """What stands in the repository beside the model: README.md, its pictures, what the endpoint handler needs.

    Path in the repository → content. `data_repository` is the dataset's name on the Hub, if it is there.
    """
    for name in filter(None, (repository, data_repository)):
        check_name(name)
    facts = RunFacts.read(run)
    data = data_repository or public_name(facts.recipe.get("data"))
    pictures = Pictures.read(run)
    meta = _front_matter(facts, repository, checked_license(license), data, pictures)
    body = "\n".join([*model_page(facts, repository, license, data, pictures), ""])
    files: dict[str, bytes | Path] = {"README.md": with_front_matter(meta, body)}
    for picture in pictures.pictures:
        for path in (picture.photo, picture.prediction, picture.panel):
            if path is not None:
                files[f"{FOLDER}/{path.name}"] = _bare(path)
    # Inference Endpoints install this for handler.py; transformers is there already.
    return files | {"requirements.txt": b"timm\n"}


def _bare(picture: Path) -> bytes | Path:
    """Ours say nothing beside the picture; one that somebody else put there may say where it was taken."""
    bare = bare_photo(picture.read_bytes(), str(picture))
    return bare.content if bare.said_more else picture


def _front_matter(facts: RunFacts, repository: str, license: str | None, data: str | None, pictures: Pictures) -> Any:
    from huggingface_hub import ModelCardData

    name = repository.split("/")[-1]
    results = _eval_results(facts, data)
    widget = [
        {
            "src": f"{FOLDER}/{picture.photo.name}",
            "example_title": f"Photo {number}",
            "output": {"url": f"{FOLDER}/{picture.prediction.name}"},
        }
        for number, picture in enumerate(pictures.pictures, start=1)
        if picture.photo and picture.prediction
    ]
    return ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=facts.base_model,
        datasets=[data] if data else None,
        tags=list(TAGS),
        widget=widget or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _eval_results(facts: RunFacts, data: str | None) -> list[Any]:
    """The model-index: percentages, as papers print them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Panoptic segmentation",
            dataset_type=data or "coco-panoptic",
            dataset_name=data or "the run's own validation photos",
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=round(100 * value, 2),
        )
        for kind, name, value in _figures(facts.result)
    ]


def _figures(result: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(metric, its name, fraction) of all that was measured."""
    suffix = f" ({AGREEMENT})" if is_agreement(result) else ""
    found: list[tuple[str, str, Any]] = [
        (key, f"{key.upper()}{suffix}", result.get(key)) for key in ("pq", "sq", "rq")
    ]
    for group in ("things", "stuff"):
        found.append((f"pq_{group}", f"PQ, {group}{suffix}", (result.get(group) or {}).get("pq")))
    sources = result.get("sources") or {}
    if len(sources) > 1:
        names = {"custom": "PQ on what people marked", "auto": f"PQ, {AGREEMENT}"}
        found += [(f"pq_{key}", name, (sources.get(key) or {}).get("pq")) for key, name in names.items()]
    for kind in ("box", "mask"):
        average = (result.get(kind) or {}).get("all") or {}
        found.append((f"{kind}_ap", f"{kind} AP", average.get("ap")))
    return [(kind, name, float(value)) for kind, name, value in found if value is not None]
