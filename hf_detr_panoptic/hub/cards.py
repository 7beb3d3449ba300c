"""The pages on the Hub of a model, its stages, a dataset and the metric: facts here, words in the templates."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..browser.folder import DIFFERS
from ..dataset.card import PACKAGE, Contents, Markdown, dataset_card, render
from ..dataset.photos import bare_photo
from ..errors import HfDetrPanopticError, HubError
from ..evaluation.table import AGREEMENT, YOURS, figures_of, only_agreement, precision_groups, quality_groups
from ..settings import FromBackbone, Prepare
from ..text import count_of, duration, percent
from ..training.run_folder import Run, read_prepared
from .pictures import FOLDER, CardPictures
from .repository import check_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

PIPELINE_THRESHOLD = 0.9  # transformers.pipelines.image_segmentation, under test

_HANDLER = Path(__file__).with_name("handler.py")


def checked_license(license: str | None) -> str | None:
    """The licence as the Hub writes it; whether it is one that it knows, it says when the card arrives."""
    if license is not None and not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", license):
        raise HubError(
            f"{license!r} is not how the Hub writes a licence",
            where="license",
            fix="Write an id such as apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0 or other.",
        )
    return license


def model_card_files(
    folder: Path, repository: str, *, license: str | None, data_repository: str | None, onnx: bool = False
) -> dict[str, bytes | Path]:
    """What stands in the repository beside the model: README.md, its pictures, what the endpoint handler needs.

    Path in the repository → content. `folder` is a finished run's; `data_repository` is the dataset's name on the
    Hub, if it is there; `onnx`: whether onnx/model.onnx is.
    """
    for name in filter(None, (repository, data_repository)):
        check_name(name)
    run, pictures = Run(folder), CardPictures.read(folder)
    data = data_repository or public_name(run.recipe.data)
    files: dict[str, bytes | Path] = {
        "README.md": _model_card(run, repository, checked_license(license), data, pictures, onnx).encode()
    }
    for picture in pictures.pictures:
        for path in (picture.photo, picture.prediction, picture.panel):
            if path is not None:
                files[f"{FOLDER}/{path.name}"] = _bare(path)
    # Inference Endpoints install this for handler.py; transformers is there already.
    return files | {"requirements.txt": b"timm\n"}


def stage_card(stage: str, repository: str, license: str | None) -> bytes:
    """The README of a stage's branch."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(library_name="transformers", pipeline_tag="image-segmentation", license=license)
    names = {"stage": Markdown(stage), "repository": Markdown(repository)}
    return render(ModelCard, data, __package__, "stage_card.md.j2", **names).encode()


def published_dataset_card(folder: Path, repository: str, *, license: str | None) -> bytes:
    """README.md of a dataset that is pushed as Parquet. `folder` is what `load_panoptic` reads."""
    check_name(repository)
    contents, license = Contents.read(folder, read_prepared(folder)), checked_license(license)
    return dataset_card(contents, repository.split("/")[1], repository=repository, license=license).encode()


def metric_card(name: str) -> str:
    """README.md of the metric; `name` is what `evaluate.load` takes."""
    from huggingface_hub import SpaceCard, SpaceCardData

    data = SpaceCardData(
        title="Panoptic quality",
        sdk="static",
        tags=["evaluate", "metric"],
        description="PQ, SQ and RQ by the rules of panopticapi, from COCO panoptic PNG files",
    )
    return render(SpaceCard, data, __package__, "metric_card.md.j2", name=Markdown(name))


def public_name(name: Any) -> str | None:
    """The name if it is one of the Hub's, None if it is a folder here or no name at all."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        return None
    if Path(name).exists() or ("/" in name and Path(name.split("/")[0]).is_dir()):
        return None
    return name


def handler_source() -> str:
    """handler.py, as it stands in the model's repository."""
    return _HANDLER.read_text(encoding="utf-8")


def _panoptic_source() -> str:
    """The function of handler.py that turns a photo into a map, for the card: one text, so that they cannot differ."""
    source = handler_source()
    (function,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "panoptic"
    )
    first = min(decorator.lineno for decorator in function.decorator_list)
    return "\n".join(source.splitlines()[first - 1 : function.end_lineno])


def _model_card(
    run: Run, repository: str, license: str | None, data: str | None, pictures: CardPictures, onnx: bool
) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    name, base, backbone = repository.split("/")[1], public_name(run.recipe.model), None
    if isinstance(run.recipe.model, FromBackbone):
        from ..model.from_backbone import hub_name

        backbone = run.recipe.model.backbone
        base = None if run.recipe.model.weights else hub_name(backbone)
    results = _eval_results(run.result, data)
    widget = [
        {
            "src": f"{FOLDER}/{picture.photo.name}",
            "example_title": f"Photo {number}",
            "output": {"url": f"{FOLDER}/{picture.prediction.name}"},
        }
        for number, picture in enumerate(pictures.pictures, start=1)
        if picture.photo and picture.prediction
    ]
    meta = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-segmentation",
        base_model=base,
        datasets=[data] if data else None,
        tags=["panoptic-segmentation", "detr", "hf-detr-panoptic"],
        widget=widget or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    settings, contents = run.config.get("hf_detr_panoptic") or {}, _learnt_from(run)
    trained = {name: contents.count("train", name) for name in run.space.names}
    return render(
        ModelCard,
        meta,
        __package__,
        "model_card.md.j2",
        run=run,
        contents=contents,
        untrained=[name for name, count in trained.items() if not count and contents.photos.get("train")],
        few={name: count for name, count in trained.items() if 0 < count < 20},
        figures={row.get("name"): row.get("pq") for row in run.result.get("per_class") or ()},
        stages=run.recipe.to_dict()["stages"],
        settings=settings,
        threshold=float(settings.get("threshold", 0.85)),
        groups=quality_groups(run.result),
        precision_groups=precision_groups,
        agreement=AGREEMENT,
        only_agreement=only_agreement(run.result),
        figures_of=figures_of(run.result),
        pictures=pictures,
        picture_folder=FOLDER,
        name=name,
        repository=Markdown(repository),
        base=base and Markdown(base),
        backbone=backbone and Markdown(backbone),
        data=data and Markdown(data),
        license=license,
        graph_differs=Markdown(DIFFERS) if onnx else None,
        pipeline_threshold=PIPELINE_THRESHOLD,
        panoptic_source=Markdown(_panoptic_source()),
        package=Markdown(PACKAGE),
        number=_number,
        percent=partial(percent, unknown="–"),
        plural=count_of,
        duration=lambda seconds: "–" if seconds is None else duration(seconds),
    )


def _bare(picture: Path) -> bytes | Path:
    """Ours say nothing beside the picture; one that somebody else put there may say where it was taken."""
    bare = bare_photo(picture.read_bytes(), str(picture))
    return bare.content if bare.said_more else picture


def _eval_results(result: Mapping[str, Any], data: str | None) -> list[EvalResult]:
    """The model-index: percentages, as papers print them."""
    from huggingface_hub import EvalResult

    suffix, learnt = f" ({AGREEMENT})" if only_agreement(result) else "", figures_of(result)
    figures: list[tuple[str, str, Any]] = [("pq_yours", f"PQ on {YOURS}", (result.get("yours") or {}).get("pq"))]
    figures += [(key, f"{key.upper()}{suffix}", result.get(key)) for key in ("pq", "sq", "rq")]
    for group in ("things", "stuff"):
        figures.append((f"pq_{group}", f"PQ, {group}{suffix}", (result.get(group) or {}).get("pq")))
    sources = result.get("sources") or {}
    if len(sources) > 1:
        figures.append(("pq_auto", f"PQ, {AGREEMENT}", (sources.get("auto") or {}).get("pq")))
    for kind in ("box", "mask"):
        groups = result.get(kind) or {}
        figures.append((f"{kind}_ap_yours", f"{kind} AP on {YOURS}", (groups.get("yours") or {}).get("ap")))
        figures.append((f"{kind}_ap", f"{kind} AP", (groups.get("all") or {}).get("ap")))
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Panoptic segmentation",
            dataset_type=data or "coco-panoptic",
            dataset_name=data or ("the run's own photos" if learnt else "the run's own validation photos"),
            dataset_split="train" if learnt else "validation",
            metric_type=kind,
            metric_name=f"{name}, {learnt}" if learnt else name,
            metric_value=round(100 * float(value), 2),
        )
        for kind, name, value in figures
        if value is not None
    ]


def _learnt_from(run: Run) -> Contents:
    """What training noted; what it did not, from the dataset's folder where that is still there."""
    data = run.recipe.data
    given: dict[str, Any] = {}
    if isinstance(data, Prepare):
        folder = Path(data.out) if data.out else run.folder / "data"
        given = {"labeler": public_name(data.labeler), "threshold": data.threshold}
    else:
        folder = Path(data)
    prepared = read_prepared(folder) if folder.is_dir() else {}
    given |= {key: value for key, value in (prepared.get("settings") or {}).items() if value is not None}
    photos, segments = run.learnt_from
    if not photos and folder.is_dir():
        photos, segments = _counted(folder)
    return Contents(run.space, photos, segments, {"settings": given})


def _counted(folder: Path) -> tuple[dict[str, int], dict[tuple[str, str, str], int]]:
    from ..dataset.coco_panoptic import read_dataset

    try:
        splits = read_dataset(folder)
    except HfDetrPanopticError:  # Parquet, or a dataset that only `check` can make sense of
        return {}, {}
    segments = Counter(
        (name, split.space[segment.label].name, segment.source)
        for name, split in splits.items()
        for record in split
        for segment in record.segments
    )
    return {name: len(split) for name, split in splits.items()}, segments


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
