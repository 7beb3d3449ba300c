"""Graphs of a model, compared with it in onnxruntime at three sizes before anybody gets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import HfDetrPanopticError, ModelError
from ..model.postprocess import Kept
from . import graphs as writing
from .folder import DETECTOR, MASKS, ONE_GRAPH
from .runtime import OnnxModel, run, session

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..model.modeling import DetrForPanopticSegmentation
    from ..preprocess import Preprocess

# Of the range of what is compared. Sums in another order differ by about a tenth of this.
LIMIT = 1e-5
# In a deep model with steep attention that alone can be more. What is above LIMIT may be TIMES as far from the model
# in float64 as torch in float32 is (1.6 was the most seen, benchmarks/RESULTS.md); but no farther than MOST.
TIMES, MOST = 3, 1e-4


def verified_graphs(
    model: DetrForPanopticSegmentation,
    precision: str = "fp16",
    *,
    one_graph: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, bytes], dict[str, Any], list[tuple[int, int]]]:
    """(graphs by file name, figures, sizes compared at). What differs from the model raises."""
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
    if "swin" in _backbone(
        model
    ):  # asked for any size, torch 2.14 reckons with their padding without coming to an end
        raise ModelError(
            "the model cannot be written as ONNX (shifted windows, which are padded differently for every size)",
            where=f"backbone {_backbone(model)}",
            fix="Backbones that work: ResNets, also dilated. Use this one with torch.",
        )
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
) -> dict[str, Any]:
    """The largest difference from the model of logits, boxes and masks, each as a share of its range.

    Where one is above LIMIT, `from_float64` has how far from the model in float64 torch is, and the graph.
    """
    figures: dict[str, Any] = dict.fromkeys(("logits", "boxes", "masks"), 0.0)
    for number, (height, width) in enumerate(sizes):
        # Of the smallest two at a time: a batch is one more axis that must be free.
        pixels = _pictures(reference.preprocess, 2 if number == len(sizes) - 1 else 1, height, width)
        expected, kept = _answers(reference, pixels)
        try:
            answered = detect(pixels)
            masks = [masks_of(answered, image, queries) for image, queries in _asked(kept)]
            found = {"logits": answered["logits"], "boxes": answered["pred_boxes"], "masks": torch.cat(masks)}
        except Exception as error:
            raise ModelError(
                f"the graph does not run at {width}×{height} pixels ({str(error).splitlines()[0][:200]})",
                where=f"backbone {_backbone(reference)}",
                fix="Nothing was written. Use this model with torch.",
            ) from error
        exact: dict[str, Tensor] = {}
        for what, value in found.items():
            share = _share(what, value, expected[what])
            if not share <= LIMIT:
                if not exact:
                    exact, _ = _answers(deepcopy(reference).double(), pixels.double(), kept)
                away = {"torch": _share(what, expected[what], exact[what]), "graph": _share(what, value, exact[what])}
                if not away["graph"] <= min(MOST, TIMES * away["torch"]):
                    raise ModelError(
                        f"in onnxruntime {what} differ by {share:.1e} of their range at {width}×{height} pixels, and "
                        f"{LIMIT:g} is rounding (from float64 the graph is {away['graph']:.1e} away, torch "
                        f"{away['torch']:.1e})",
                        where=f"backbone {_backbone(reference)}",
                        fix="Nothing was written. Use this model with torch.",
                    )
                before = figures.setdefault("from_float64", {}).get(what, {})
                figures["from_float64"][what] = {who: max(far, before.get(who, 0.0)) for who, far in away.items()}
            figures[what] = max(figures[what], share)
    return figures


def _answers(
    model: DetrForPanopticSegmentation, pixels: Tensor, kept: list[Kept] | None = None
) -> tuple[dict[str, Tensor], list[Kept]]:
    """What the model says of photos, its masks in the order of `_asked`; of the queries `kept`, else of its surest."""
    found = model(pixels, output_masks=False)
    chosen = model.chosen_masks(pixels, lambda logits: kept or _surest(logits))
    masks = torch.cat([each for _, masks in chosen for each in (masks, masks[:1])])
    return {"logits": found.logits, "boxes": found.pred_boxes, "masks": masks}, [each for each, _ in chosen]


def _asked(kept: list[Kept]) -> list[tuple[int, Tensor]]:
    """Of each image all its queries, and then the first alone: their number must be free."""
    return [(image, queries) for image, each in enumerate(kept) for queries in (each.queries, each.queries[:1])]


def _share(what: str, found: Tensor, expected: Tensor) -> float:
    """The largest difference, of the range of what is expected; boxes are shares already."""
    if found.shape != expected.shape:
        return float("inf")
    span = 1.0 if what == "boxes" else float(expected.max() - expected.min())
    return float((found - expected).abs().max()) / (span or 1.0)


def _surest(logits: Tensor, most: int = 8) -> list[Kept]:
    """The queries of each image that are least "no object", whatever threshold they pass."""
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)
    best = scores.topk(min(most, scores.shape[1])).indices.sort().values
    return [
        Kept(queries, tuple(labels[image, queries].tolist()), tuple(scores[image, queries].tolist()))
        for image, queries in enumerate(best)
    ]
