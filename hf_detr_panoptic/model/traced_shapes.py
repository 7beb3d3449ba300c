"""The table of a trace: which shapes DETR's seven moves go through, in the order of the moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..panoptic_map import PanopticMap
from ..text import count_of

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

MOVES = (
    "The backbone",
    "The encoded image",
    "The box embeddings",
    "The attention maps",
    "The mask head",
    "Masks, and which of them count",
    "The panoptic map",
)


@dataclass(frozen=True)
class TracedShape:
    """What one module gave out, or took in, during a forward.

    tensor: as it was seen, the batch first (in the mask head: the queries of all images); one_image: the part of it
    that belongs to one image; stride: how many pixels of the canvas a cell of it spans, None where it has no grid.
    """

    move: int
    what: str
    module: str
    tensor: Shape
    one_image: Shape
    stride: int | None
    tells: str


@dataclass(frozen=True)
class ComparedWork:
    """One module of the mask head in stock's forward, and when only the kept queries' masks are computed.

    None: it was not called.
    """

    module: str
    stock: Shape | None
    ours: Shape | None
    tells: str


def traced_shapes(
    seen: Shapes, canvas: tuple[int, int], results: Sequence[tuple[int, PanopticMap]]
) -> tuple[TracedShape, ...]:
    """seen: the recorded shapes by key; results: of each image how many queries were kept, and its map."""
    batch = len(results)
    rows: list[TracedShape] = []

    def add(move: int, what: str, module: str, key: str, tells: str) -> None:
        shape = seen[key]
        one = (shape[0] // batch, *shape[1:]) if module.startswith("mask_head") else shape[1:]
        stride = _stride(canvas, (shape[-2], shape[-1])) if len(shape) >= 4 else None
        rows.append(TracedShape(move, what, module, shape, one, stride, tells))

    backbone = "detr.model.backbone"
    levels = sorted(key for key in seen if key.startswith("level"))
    uses = dict(zip(levels[:3], ("stage 3", "stage 2", "stage 1"), strict=False))
    for place, key in enumerate(levels):
        tells = f"kept for {uses[key]} of the mask head" if key in uses else "goes on to the transformer"
        add(1, f"Res{place + 2}", f"{backbone}, level {place}", key, tells)

    model = "detr.model"
    add(2, "projected", f"{model}.input_projection", f"{model}.input_projection", "Res5 through a 1×1 convolution")
    add(2, "positions", f"{model}.position_embedding", f"{model}.position_embedding", "of this one grid only")
    add(2, "encoder's output", f"{model}.encoder", f"{model}.encoder", "one row a cell of the grid")
    add(2, "memory", "bbox_attention, 2nd input", "memory", "the same as a map: the encoded image")
    add(
        3, "object queries", f"{model}.query_position_embeddings", "object queries", "learned, the same for all photos"
    )
    add(3, "box embeddings", f"{model}.decoder", f"{model}.decoder", "what the decoder made of the queries")
    add(3, "class logits", "detr.class_labels_classifier", "detr.class_labels_classifier", 'the last is "no object"')
    add(3, "boxes", "detr.bbox_predictor", "detr.bbox_predictor", "centre and size; the mask head never sees them")
    add(4, "queries", "bbox_attention.q_proj", "bbox_attention.q_proj", "the box embeddings, projected")
    add(4, "attention", "bbox_attention", "bbox_attention", "one softmax over heads and cells together")
    add(
        5, "input", "mask_head.conv1, input", "mask_head.conv1:in", "projected beside attention: the one concatenation"
    )
    add(5, "conv1", "mask_head.conv1", "mask_head.conv1", "3×3, GroupNorm, ReLU")
    add(5, "conv2", "mask_head.conv2", "mask_head.conv2", "the same, to half of d")
    stages = sorted({key.split(".")[2] for key in seen if key.startswith("mask_head.fpn_stages.")})
    for number, stage in enumerate(stages, start=1):
        name = f"mask_head.fpn_stages.{stage}"
        level = f"Res{2 + len(stages) - number}"
        add(5, f"stage {number}, {level}", f"{name}.fpn_adapter", f"{name}.fpn_adapter", f"{level} through a 1×1")
        add(5, f"stage {number}, sum", f"{name}.refine, input", f"{name}.refine:in", f"{level} + upsampled: same size")
        add(5, f"stage {number}", name, name, "3×3, GroupNorm, ReLU")
    add(5, "output", "mask_head.output_conv", "mask_head.output_conv", "one channel a query")
    add(6, "masks", "pred_masks", "pred_masks", "logits, every query by itself")
    for place, (kept, map) in enumerate(results):
        name = "" if batch == 1 else f", image {place + 1}"
        mask = (kept, *seen["pred_masks"][2:])
        stride = _stride(canvas, (mask[-2], mask[-1]))
        rows.append(TracedShape(6, f"kept masks{name}", "choose_queries", mask, mask, stride, "surer than threshold"))
        size = (map.height, map.width)
        count = count_of(len(map.segments), "segment")
        rows.append(TracedShape(7, f"map{name}", "postprocess", size, size, None, f"the best mask a pixel: {count}"))
    return tuple(sorted(rows, key=lambda row: row.move))


def compared_work(stock: Shapes, ours: Shapes) -> tuple[ComparedWork, ...]:
    """The modules of the mask head that do the work, in order."""
    rows = [
        ("bbox_attention.q_proj", "once a query"),
        (
            "mask_head.conv1.conv",
            "ours: its part over the projected map once an image, its part over attention once a query",
        ),
        ("mask_head.conv1.norm", "once a query"),
        ("mask_head.conv2.norm", "once a query"),
    ]
    for stage in sorted({key.split(".")[2] for key in stock if key.startswith("mask_head.fpn_stages.")}):
        name = f"mask_head.fpn_stages.{stage}"
        rows += [
            (f"{name}.fpn_adapter", "stock: on a copy a query; ours: once an image"),
            (f"{name}.refine.conv", "ours: its part over the adapter's map once an image, the rest once a query"),
            (f"{name}.refine.norm", "once a query"),
        ]
    rows.append(("mask_head.output_conv", "once a query"))
    return tuple(ComparedWork(name, stock.get(name), ours.get(name), tells) for name, tells in rows)


def _stride(canvas: tuple[int, int], grid: tuple[int, int]) -> int:
    """A convolutional backbone of stride s gives ceil(n / s) cells for n pixels, and s is a power of two."""
    return 2 ** max(math.ceil(math.log2(pixels / cells)) for pixels, cells in zip(canvas, grid, strict=True))
