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

import torch
from torch import Tensor

from ..dataset.card import Markdown, render
from ..errors import HfDetrPanopticError, ModelError, clear_errors, did_you_mean
from ..evaluation.evaluate import evaluate_model, loaded_model
from ..files import write_bytes, write_json, write_text
from ..labels import default_color
from ..lock import LOCK, locked
from ..model.postprocess import Kept
from ..text import count_of
from .page import TITLE, page_or_how
from .runtime import DETECTOR, FORMAT, INSTALL, MASKS, RECORD, OnnxModel, run, session
from .web_runtime import VERSION

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..model.modeling import DetrForPanopticSegmentation
    from ..preprocess import Preprocess

ONE_GRAPH = "onnx/model.onnx"

PRECISIONS = ("fp16", "fp32", "int8")
_STORED = {
    "fp32": "Weights are float32.",
    "fp16": "Weights are stored in 16 bits; all arithmetic is float32.",
    "int8": "Weights are stored in 8 bits with a scale for each channel; all arithmetic is float32.",
}

# Of the range of what is compared. Sums in another order differ by about a tenth of this.
LIMIT = 1e-5
MOST_PQ_LOST = 0.3  # in percent

# How the maps of transformers.js differ from ours; it stands on cards, too.
DIFFERS = (
    "Its maps are its own: it resizes photos without antialiasing and enlarges small ones, leaves stuff of one class "
    "in pieces, and gives every pixel to some mask."
)
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
    _check_installed()
    folder = Path(out)
    _check_free(folder)
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


def verified_graphs(
    model: DetrForPanopticSegmentation,
    precision: str = "fp16",
    *,
    one_graph: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, bytes], dict[str, Any], list[tuple[int, int]]]:
    """(graphs by file name, figures, sizes compared at). What differs from the model raises."""
    from . import graphs as writing

    _check_installed()
    import onnxruntime

    reference = writing.reference(model, precision)
    sizes = _sizes(model.preprocess)
    figures: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
    written: dict[str, bytes] = {}

    def compared(name: str, graph: ModelProto) -> bytes:
        """What is compared; that of int8 is no model's equal, so that its graph is compared before."""
        plain = graph.SerializeToString() if precision == "int8" else b""
        written[name] = writing.stored(graph, precision).SerializeToString()
        return plain or written[name]

    say("writing the detector and the masks")
    graphs = _as_graphs(reference)
    whole = writing.one_graph(*graphs) if one_graph else None
    detector, masks = map(compared, (DETECTOR, MASKS), graphs)
    say("comparing them with the model, in onnxruntime")
    space, preprocess, settings = reference.label_space, reference.preprocess, reference.settings
    pair = OnnxModel(detector, masks, space, preprocess, settings)
    figures["two_graphs"] = _compare(reference, sizes, pair.detect, pair.masks)
    if whole is not None:
        say("comparing the graph for transformers.js")
        both = session(compared(ONE_GRAPH, whole), ONE_GRAPH)
        figures["one_graph"] = _compare(
            reference,
            sizes,
            lambda pixels: run(both, {"pixel_values": pixels}),
            lambda found, image, queries: found["pred_masks"][image, queries],
        )
    return written, figures, sizes


def _as_graphs(model: DetrForPanopticSegmentation) -> tuple[ModelProto, ModelProto]:
    """What a backbone does that no graph for every size can say, torch raises in many ways."""
    from . import graphs as writing

    try:
        return writing.two_graphs(model)
    except HfDetrPanopticError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise ModelError(
            f"the model cannot be written as ONNX ({type(error).__name__}: {(lines or [''])[0][:200]})",
            where=f"backbone {_backbone(model)}",
            fix="Backbones that work: ResNets, also dilated. Use this one with torch.",
        ) from error


def _backbone(model: DetrForPanopticSegmentation) -> str:
    config = model.config.backbone_config
    return str(getattr(config, "backbone", None) or getattr(config, "model_type", "of an unknown kind"))


def _sizes(preprocess: Preprocess) -> list[tuple[int, int]]:
    """Height and width of what is compared: a wide photo, a high one, and a smaller one whose sides halve unevenly."""
    height, width = preprocess.output_size(960, 1280)
    return [(height, width), (width, height), (height * 3 // 4 | 1, width * 5 // 8 | 1)]


def _pictures(preprocess: Preprocess, count: int, height: int, width: int) -> Tensor:
    """Normalised random photos [count, 3, height, width]: large areas with noise on them."""
    random = torch.Generator().manual_seed(height * 10_000 + width)
    areas = torch.rand(count, 3, height // 24 + 2, width // 24 + 2, generator=random)
    smooth = torch.nn.functional.interpolate(areas, (height, width), mode="bilinear")
    noisy = smooth * 235 + torch.rand(count, 3, height, width, generator=random) * 20
    return preprocess.normalize(noisy.to(torch.uint8))


@torch.no_grad()
def _compare(
    reference: DetrForPanopticSegmentation,
    sizes: Sequence[tuple[int, int]],
    detect: Callable[[Tensor], dict[str, Tensor]],
    masks_of: Callable[[dict[str, Tensor], int, Tensor], Tensor],
) -> dict[str, float]:
    """The largest difference from the model of logits, boxes and masks, each as a share of its range."""
    worst = dict.fromkeys(("logits", "boxes", "masks"), 0.0)

    def note(what: str, found: Tensor, expected: Tensor, size: tuple[int, int]) -> None:
        span = 1.0 if what == "boxes" else float(expected.max() - expected.min())
        same_shape = found.shape == expected.shape
        share = float((found - expected).abs().max()) / (span or 1.0) if same_shape else float("inf")
        if not share <= LIMIT:
            raise ModelError(
                f"in onnxruntime {what} differ by {share:.1e} of their range at {size[1]}×{size[0]} pixels, and "
                f"{LIMIT:g} is rounding",
                where=f"backbone {_backbone(reference)}",
                fix="Nothing was written. Use this model with torch.",
            )
        worst[what] = max(worst[what], share)

    for number, (height, width) in enumerate(sizes):
        size = (height, width)
        # Of the smallest two at a time: a batch is one more axis that must be free.
        pixels = _pictures(reference.preprocess, 2 if number == len(sizes) - 1 else 1, height, width)
        expected = reference(pixels, output_masks=False)
        try:
            found = detect(pixels)
        except Exception as error:
            raise ModelError(
                f"the graph does not run at {width}×{height} pixels ({str(error).splitlines()[0][:200]})",
                where=f"backbone {_backbone(reference)}",
                fix="Nothing was written. Use this model with torch.",
            ) from error
        note("logits", found["logits"], expected.logits, size)
        note("boxes", found["pred_boxes"], expected.pred_boxes, size)
        for image, (kept, masks) in enumerate(reference.chosen_masks(pixels, _surest)):
            for queries in (kept.queries, kept.queries[:1]):
                note("masks", masks_of(found, image, queries), masks[: len(queries)], size)
    return worst


def _surest(logits: Tensor, most: int = 8) -> list[Kept]:
    """The queries of each image that are least "no object", whatever threshold they pass."""
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    best = scores.topk(min(most, scores.shape[1])).indices.sort().values
    return [
        Kept(queries, tuple(labels[image, queries].tolist()), tuple(scores[image, queries].tolist()))
        for image, queries in enumerate(best)
    ]


def _pq(
    model: DetrForPanopticSegmentation, graphs: dict[str, bytes], data: Any, split: str, say: Callable[[str], None]
) -> dict[str, float]:
    """In percent. Raises where the graphs are worse than may be."""
    from ..dataset.coco_panoptic import PanopticSplit, read_split

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


def _check_installed() -> None:
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
