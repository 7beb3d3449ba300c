"""A trained model as ONNX, verified before it counts: graphs, settings, and a page that says what they are."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dataset.card import Markdown, render
from ..errors import ModelError, clear_errors, did_you_mean
from ..evaluation.evaluate import evaluate_model, loaded_model
from ..files import write_bytes, write_json, write_text
from ..labels import default_color
from ..lock import LOCK, locked
from ..text import count_of
from .folder import DETECTOR, DIFFERS, FORMAT, INSTALL, MASKS, ONE_GRAPH, RECORD
from .page import TITLE, page_or_how
from .web_runtime import VERSION

if TYPE_CHECKING:
    from ..model.modeling import DetrForPanopticSegmentation


PRECISIONS = ("fp16", "fp32", "int8")
_STORED = {
    "fp32": "Weights are float32.",
    "fp16": "Weights are stored in 16 bits; all arithmetic is float32.",
    "int8": "Weights are stored in 8 bits with a scale for each channel; all arithmetic is float32.",
}

MOST_PQ_LOST = 0.3  # in percent

LEFT_OUT = (
    "This leaves out what `segment` also does where a model remembers it: small segments (`min_area`) and doubles "
    "(`duplicate`) stay, and `fill` is void."
)


@dataclass(frozen=True)
class Exported:
    """What was written. figures: as in export.json; files: each graph, and its bytes."""

    folder: Path
    precision: str
    figures: dict[str, Any]
    files: dict[str, int]

    def __str__(self) -> str:
        worst = self.figures["two_graphs"]["masks"]
        sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.files.items() if name.endswith(".onnx"))
        pq = self.figures.get("pq")
        measured = f"; PQ {pq['exported']:.2f}, the model's {pq['model']:.2f}" if pq else ""
        return f"{self.folder}: {sizes}; masks within {worst:.1e} of their range in onnxruntime{measured}"


def export(
    model: str | Path | DetrForPanopticSegmentation,
    out: str | Path,
    *,
    precision: str = "fp16",
    one_graph: bool = False,
    data: Any = None,
    split: str = "val",
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """A model, its folder or a run's → the folder `out`: two graphs, settings, README.md; raises where they differ.

    `one_graph` adds transformers.js' graph; `data`, a dataset, what PQ the written graphs have on it.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"there is no precision {precision!r}", fix=did_you_mean(precision, PRECISIONS))
    if precision == "int8" and data is None:
        raise ModelError(
            "int8 changes maps, and only photos with truth say how much", fix="Give --data DATASET, or take fp16."
        )
    folder = Path(out)
    _check_free(folder)
    check_installed()
    from .verify import verified_graphs

    loaded = loaded_model(of_run(model), None)
    graphs, figures, sizes = verified_graphs(loaded, precision, one_graph=one_graph, say=say)
    if data is not None:
        figures["pq"] = _pq(loaded, graphs, data, split, say)
    with locked(folder, together=False), clear_errors(folder):
        _check_free(folder)
        _write(folder, loaded, graphs, precision, figures, sizes)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.onnx"))}
    return Exported(folder, precision, figures, files)


def of_run(model: Any) -> Any:
    """A run's folder stands for the model in its final/."""
    if isinstance(model, str | Path) and not (Path(model) / "config.json").exists():
        final = Path(model) / "final"
        if (final / "config.json").is_file():
            return final
    return model


def _pq(
    model: DetrForPanopticSegmentation, graphs: dict[str, bytes], data: Any, split: str, say: Callable[[str], None]
) -> dict[str, float]:
    """In percent. Raises where the graphs are worse than may be."""
    from ..dataset.coco_panoptic import PanopticSplit, read_split
    from .runtime import OnnxModel

    read = data if isinstance(data, PanopticSplit) else read_split(data, split)
    say(f"measuring both on {count_of(len(read.records), 'photo')}")
    exported = OnnxModel(graphs[DETECTOR], graphs[MASKS], model.label_space, model.preprocess, model.settings)
    before, after = (100 * (evaluate_model(each, read)["pq"] or 0.0) for each in (model, exported))
    if after < before - MOST_PQ_LOST:
        raise ModelError(
            f"exported, it loses {before - after:.2f} of the PQ of {before:.2f}, and {MOST_PQ_LOST} is the most",
            where=str(data) if isinstance(data, str | Path) else None,
            fix="Nothing was written. Take --precision fp16.",
        )
    return {"model": before, "exported": after, "photos": len(read.records)}


def _write(
    folder: Path,
    model: DetrForPanopticSegmentation,
    graphs: dict[str, bytes],
    precision: str,
    figures: dict[str, Any],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """All files; the record last, and until then there is none."""
    for name in (RECORD, ONE_GRAPH, "model.html"):  # an earlier export's, of which this one may have none
        (folder / name).unlink(missing_ok=True)
    model.save_settings(folder)
    if ONE_GRAPH in graphs:
        write_json(folder / "config.json", for_transformers_js(json.loads((folder / "config.json").read_bytes())))
    for name, content in graphs.items():
        write_bytes(folder / name, content)
    write_text(folder / "README.md", _readme(folder, model, precision, figures, sizes))
    names = [*graphs, "config.json", "preprocessor_config.json", "README.md"]
    space = model.label_space
    record = {
        "format": FORMAT,
        "precision": precision,
        "classes": [
            {
                "column": column,
                "name": category.name,
                "isthing": category.isthing,
                "color": list(category.color or default_color(label)),
            }
            for label, (category, column) in enumerate(zip(space, space.columns, strict=True))
        ],
        "sizes": [[width, height] for height, width in sizes],
        "figures": figures,
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
    }
    write_json(folder / RECORD, record)


def for_transformers_js(config: dict[str, Any]) -> dict[str, Any]:
    """A browser would ask for a file of 8 bits, model_quantized.onnx, unless the configuration names this one."""
    return {**config, "transformers.js_config": {"dtype": "fp32"}}


def files_for_transformers_js(checkpoint: Path) -> dict[str, bytes]:
    """What a repository of this checkpoint has besides, or in another form: the verified graph, and config.json."""
    check_installed()
    from ..model.modeling import DetrForPanopticSegmentation
    from .verify import verified_graphs

    model = DetrForPanopticSegmentation.from_pretrained(checkpoint)
    graphs, _, _ = verified_graphs(model, one_graph=True)
    config = for_transformers_js(json.loads((checkpoint / "config.json").read_bytes()))
    return {ONE_GRAPH: graphs[ONE_GRAPH], "config.json": (json.dumps(config, indent=2) + "\n").encode()}


def python_source() -> str:
    """The function that needs no torch, as it stands in README.md and in the documentation."""
    return Path(__file__).with_name("without_torch.py").read_text(encoding="utf-8").partition("\n\n")[2].strip()


def _readme(
    folder: Path,
    model: DetrForPanopticSegmentation,
    precision: str,
    figures: dict[str, Any],
    sizes: Sequence[tuple[int, int]],
) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    whats = {
        DETECTOR: "pixel_values → logits, pred_boxes, states, and what the masks share",
        MASKS: "states of K queries, and what they share → pred_masks, logits of K masks",
        ONE_GRAPH: "pixel_values → logits, pred_boxes, pred_masks of every query",
    }
    space = model.label_space
    kinds = f"{count_of(len(space.thing_labels), 'kind')} of things and {len(space.stuff_labels)} of stuff"
    against = {
        "fp16": "the model with its weights rounded to 16 bits",
        "int8": "the model, before the weights were stored in 8 bits",
    }
    names = {"two_graphs": "two graphs", "one_graph": "one graph"}
    data = ModelCardData(
        library_name="transformers.js" if "one_graph" in figures else "onnx",
        pipeline_tag="image-segmentation",
        tags=["panoptic-segmentation", "detr", "onnx", "hf-detr-panoptic"],
    )
    return render(
        ModelCard,
        data,
        __package__,
        "export_card.md.j2",
        name=folder.resolve().name,
        classes=kinds,
        files=[
            (name, what, f"{(folder / name).stat().st_size / 1e6:.1f} MB")
            for name, what in whats.items()
            if (folder / name).is_file()
        ],
        stored=_STORED[precision],
        figures=figures,
        differs=DIFFERS,
        against=against.get(precision, "the model"),
        sizes=", ".join(f"{width}×{height}" for height, width in sizes),
        compared=[(names[name], figures[name]) for name in names if name in figures],
        source=Markdown(python_source()),
        left_out=LEFT_OUT,
    )


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ModelError("is a file, not a folder", where=str(folder), fix="Give another --out.")
    if folder.is_dir() and not (folder / RECORD).is_file() and any(each.name != LOCK for each in folder.iterdir()):
        raise ModelError("the folder is not empty, and no exported model", where=str(folder), fix="Give a new --out.")


def check_installed() -> None:
    """Raises where the extra is not there."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise ModelError(f"writing ONNX needs {name}", fix=INSTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run's folder, or a checkpoint: a folder or on the Hub"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder, or one that was exported to before")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="how weights are stored (%(default)s); int8 wants --data",
    )
    parser.add_argument("--one-graph", action="store_true", help=f"also {ONE_GRAPH}, for transformers.js")
    parser.add_argument("--data", metavar="DATASET", help="measure PQ of model and graphs on it")
    parser.add_argument("--split", default="val", help="which part of --data (%(default)s)")
    parser.add_argument("--title", help=f"what stands above the page ({TITLE})")
    parser.add_argument("--no-page", action="store_true", help="no page that runs the graphs in a browser")
    parser.add_argument(
        "--runtime-file",
        metavar="FILE",
        help=f"the page's runtime, onnxruntime-web-{VERSION}.tgz; without, it is fetched once",
    )


def main(args: argparse.Namespace) -> int:
    """A model as ONNX, for machines without torch: verified in onnxruntime, or not written.

      hf-detr-panoptic export runs/site --out site-onnx
      hf-detr-panoptic export runs/site/final --out site-onnx --one-graph
      hf-detr-panoptic export runs/site --out site-onnx --precision int8 --data data/site

    --out then holds detector.onnx (a whole photo), masks.onnx (the queries that pass), the settings, README.md with
    the figures and thirty lines of Python, and model.html: one file that opens in any browser without a network (of a
    large model index.html, to be served with its folder). Needs: pip install "hf-detr-panoptic[export]".
    """
    done = export(
        args.model,
        args.out,
        precision=args.precision,
        one_graph=args.one_graph,
        data=args.data,
        split=args.split,
        say=print,
    )
    print(done)
    if not args.no_page:
        print(page_or_how(done.folder, title=args.title, runtime_file=args.runtime_file))
    print(f"next: hf-detr-panoptic predict {done.folder} PHOTOS --runtime onnx --out predictions")
    return 0
