"""What a photo becomes in DETR panoptic, module by module: shapes and maps, by hooks on stock's own forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers.models.detr.modeling_detr import DetrForSegmentation

from ..errors import ModelError
from ..labels import LabelSpace
from ..model.detector import check_finite, check_pixels, detect
from ..model.mask_head import masks_for, owners_of
from ..model.postprocess import Kept, choose_queries, postprocess, valid_cells, without_duplicates
from ..panoptic_map import PanopticMap
from ..settings import Postprocess
from ..text import count_of

if TYPE_CHECKING:
    from ..model.modeling import DetrForPanopticSegmentation

Array = npt.NDArray[np.float32]
Sizes = tuple[int, ...]
Shapes = Mapping[str, Sizes]

MOVES = (
    "The backbone",
    "The encoded image",
    "The box embeddings",
    "The attention maps",
    "The mask head",
    "Masks, and which of them count",
    "The panoptic map",
)

# Stock copies the backbone's maps once a query. This many floats of a copied map are held at a time.
_SLICE_FLOATS = 2**26
_PIXELS_ASKED = 20_000  # of a segment, about which query it came from


@dataclass(frozen=True)
class TracedShape:
    """What one module gave out, or took in, during a forward.

    tensor: as it was seen, the batch first (in the mask head: the queries of all images); one_image: the part of it
    that belongs to one image; stride: how many pixels of the canvas a cell of it spans, None where it has no grid.
    """

    move: int
    what: str
    module: str
    tensor: Sizes
    one_image: Sizes
    stride: int | None
    tells: str


@dataclass(frozen=True)
class ComparedWork:
    """One module of the mask head in stock's forward, and when only the kept queries' masks are computed.

    None: it was not called.
    """

    module: str
    stock: Sizes | None
    ours: Sizes | None
    tells: str


@dataclass(frozen=True)
class TracedImage:
    """The maps of one image. Q queries, M heads, d channels; h × w is Res5's grid.

    levels: [C, …] each, Res2 first; projected, memory: [d, h, w]; self_attention: [h, w, h, w], the encoder's last,
    its heads averaged: from where, to where; cross_attention: [Q, h, w], the decoder's last, averaged;
    attention: [Q, M, h, w], the mask head's own; growth: [Q, …], the mean over channels after each step of the head;
    masks: [Q, …] logits; boxes: [Q, 4], centre and size as shares of the photo; scores, labels: [Q], of the best
    class; kept: the queries that passed; queries: of each segment of `map` the query that made it (of fused stuff the
    one that won most of its pixels).
    """

    levels: tuple[Array, ...]
    projected: Array
    memory: Array
    self_attention: Array
    cross_attention: Array
    attention: Array
    growth: tuple[tuple[str, Array], ...]
    masks: Array
    boxes: Array
    scores: Array
    labels: tuple[int, ...]
    kept: tuple[int, ...]
    map: PanopticMap
    queries: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """One batch's way through a model.

    work: what stock's modules of the mask head give out, and what they give out when masks are computed for the kept
    queries only; difference: the largest between the masks of the two, None where nothing was kept.
    """

    canvas: tuple[int, int]
    shapes: tuple[TracedShape, ...]
    work: tuple[ComparedWork, ...]
    difference: float | None
    settings: Postprocess
    images: tuple[TracedImage, ...]


@torch.no_grad()
def trace(
    model: DetrForPanopticSegmentation,
    pixel_values: Tensor,
    pixel_mask: Tensor | None = None,
    *,
    photo_sizes: Sequence[tuple[int, int]] | None = None,
    settings: Postprocess | None = None,
) -> Trace:
    """pixel_values: float [B, 3, H, W]; pixel_mask: [B, H, W], 1 where the photo is.

    Stock's forward runs with all its queries; the mask head takes them in slices, because it copies every map of the
    backbone once a query. Then the kept queries run through our mask head, to compare. `photo_sizes` are the sizes of
    the maps, by default the photos' own on the canvas; `settings` are by default the model's.
    """
    check_pixels(pixel_values, pixel_mask)
    check_finite(pixel_values)
    if pixel_mask is not None and not pixel_mask.flatten(1).any(1).all():
        raise ModelError("pixel_mask has an image without a pixel", fix="Mark with 1 where each photo is.")
    settings = settings or model.settings
    pixels = pixel_values.to(model.device, model.dtype)
    mask = None if pixel_mask is None else pixel_mask.to(model.device)
    training = model.training
    model.eval()
    model._take_auxiliary_flag()
    try:
        stock = _Recorder(model)
        with stock.everything(), _head_in_slices(model):
            output: Any = DetrForSegmentation.forward(model, pixels, mask)
        ours = _Recorder(model)
        kept = choose_queries(output.logits, model.label_space, settings.threshold)
        with ours.shapes_of_outputs():
            masks = _masks_of_kept(model, pixels, mask, kept)
    finally:
        model.train(training)
    wanted = torch.cat([every[chosen.queries] for every, chosen in zip(output.pred_masks, kept, strict=True)])
    valid = _valid_sizes(pixels, mask)
    images = tuple(
        _image(
            model, stock, output, index, kept[index], settings, canvas=_canvas(pixels), valid=valid[index], size=size
        )
        for index, size in enumerate(photo_sizes or valid)
    )
    stock.shapes["pred_masks"] = tuple(output.pred_masks.shape)
    return Trace(
        canvas=_canvas(pixels),
        shapes=_traced_shapes(stock.shapes, _canvas(pixels), [(len(image.kept), image.map) for image in images]),
        work=_compared_work(stock.shapes, ours.shapes),
        difference=float((masks - wanted).abs().max()) if masks is not None else None,
        settings=settings,
        images=images,
    )


def _traced_shapes(
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
    for number, key in enumerate(levels):
        tells = f"kept for {uses[key]} of the mask head" if key in uses else "goes on to the transformer"
        add(1, f"Res{number + 2}", f"{backbone}, level {number}", key, tells)

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
    for index, (kept, panoptic) in enumerate(results):
        name = "" if batch == 1 else f", image {index + 1}"
        mask = (kept, *seen["pred_masks"][2:])
        stride = _stride(canvas, (mask[-2], mask[-1]))
        rows.append(TracedShape(6, f"kept masks{name}", "choose_queries", mask, mask, stride, "surer than threshold"))
        size = (panoptic.height, panoptic.width)
        count = count_of(len(panoptic.segments), "segment")
        rows.append(TracedShape(7, f"map{name}", "postprocess", size, size, None, f"the best mask a pixel: {count}"))
    return tuple(sorted(rows, key=lambda row: row.move))


def _compared_work(stock: Shapes, ours: Shapes) -> tuple[ComparedWork, ...]:
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


def attention_of(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Mean over heads [B, q, k] of an attention of the transformer, from what enters it, positions already added.

    Computed here, because the fused kernels keep no weights.
    """
    batch, count = queries.shape[:2]
    q = module.q_proj(queries).view(batch, count, -1, module.head_dim).transpose(1, 2)  # type: ignore[operator]
    k = module.k_proj(keys).view(batch, keys.shape[1], -1, module.head_dim).transpose(1, 2)  # type: ignore[operator]
    mean = torch.zeros(batch, count, keys.shape[1], dtype=q.dtype, device=q.device)
    for head in range(q.shape[1]):  # one at a time: all heads of a large grid do not fit
        logits = q[:, head] @ k[:, head].transpose(1, 2) * module.scaling
        if mask is not None:
            bias = mask[:, 0]
            logits = logits.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else logits + bias
        mean += logits.softmax(-1) / q.shape[1]
    return mean


class _Recorder:
    """Shapes and maps that pass through the modules of a model. A module's calls add up along the first axis."""

    def __init__(self, model: DetrForPanopticSegmentation) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._values: dict[str, list[Tensor]] = {}
        self._model = model
        self._keeping = False

    def value(self, key: str) -> Tensor:
        return torch.cat(self._values[key])

    def keep(self, key: str, tensor: Tensor) -> None:
        self._values.setdefault(key, []).append(tensor)

    def see(self, key: str, tensor: Tensor) -> None:
        rows = self.shapes.get(key, (0,))[0]
        self.shapes[key] = (rows + tensor.shape[0], *tensor.shape[1:])

    @contextmanager
    def shapes_of_outputs(self) -> Iterator[None]:
        """While it lasts: the shapes that leave the heads and the modules of the mask head."""
        with self._hooked(
            module.register_forward_hook(self._outputs(name))
            for name, module in self._model.named_modules()
            if name in _WATCHED or name.startswith(("mask_head.", "bbox_attention"))
        ):
            yield

    @contextmanager
    def everything(self) -> Iterator[None]:
        """While it lasts: also what enters, and the maps themselves."""
        detr = self._model.detr.model
        encoder, decoder = detr.encoder.layers[-1].self_attn, detr.decoder.layers[-1].encoder_attn
        self._keeping = True
        handles = [
            detr.backbone.register_forward_hook(self._backbone),
            detr.decoder.register_forward_pre_hook(self._decoder, with_kwargs=True),
            encoder.register_forward_pre_hook(self._self_attention, with_kwargs=True),
            decoder.register_forward_pre_hook(self._cross_attention, with_kwargs=True),
            self._model.bbox_attention.register_forward_pre_hook(self._memory),
            *(
                module.register_forward_pre_hook(self._inputs(name))
                for name, module in self._model.named_modules()
                if name == "mask_head.conv1" or name.endswith(".refine")
            ),
        ]
        with self.shapes_of_outputs(), self._hooked(handles):
            yield

    @contextmanager
    def _hooked(self, handles: Iterable[Any]) -> Iterator[None]:
        handles = list(handles)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _outputs(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        grown = name in _GROWN or (name.startswith("mask_head.fpn_stages.") and name.count(".") == 2)

        def seen(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor: Tensor = output if isinstance(output, Tensor) else output[0]
            self.see(name, tensor)
            if grown and self._keeping:
                self.keep(name, tensor.mean(1))
            elif name in _KEPT and self._keeping:
                self.keep(name, tensor)

        return seen

    def _inputs(self, name: str) -> Callable[[nn.Module, Any], None]:
        def seen(module: nn.Module, inputs: Any) -> None:
            self.see(f"{name}:in", inputs[0])

        return seen

    def _backbone(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for level, (feature, _) in enumerate(output):
            self.see(f"level{level}", feature)
            self.keep(f"level{level}", feature)

    def _decoder(self, module: nn.Module, inputs: Any, words: dict[str, Any]) -> None:
        self.see("object queries", words["object_queries_position_embeddings"])

    def _self_attention(self, module: nn.Module, inputs: Any, words: dict[str, Any]) -> None:
        positions = words["hidden_states"] + words["position_embeddings"]
        self.keep("self_attention", attention_of(module, positions, positions, words["attention_mask"]))

    def _cross_attention(self, module: nn.Module, inputs: Any, words: dict[str, Any]) -> None:
        queries = words["hidden_states"] + words["position_embeddings"]
        positions = words["key_value_states"] + words["encoder_position_embeddings"]
        self.keep("cross_attention", attention_of(module, queries, positions, words["attention_mask"]))

    def _memory(self, module: nn.Module, inputs: Any) -> None:
        self.see("memory", inputs[1])
        self.keep("memory", inputs[1])


_WATCHED = {
    "detr.model.input_projection",
    "detr.model.position_embedding",
    "detr.model.encoder",
    "detr.model.decoder",
    "detr.class_labels_classifier",
    "detr.bbox_predictor",
}
_GROWN = {"mask_head.conv2": "conv2"}
_KEPT = {"detr.model.input_projection", "bbox_attention"}


@contextmanager
def _head_in_slices(model: DetrForPanopticSegmentation) -> Iterator[None]:
    """Stock's mask head, whole and unchanged, but called for a few queries at a time; it mixes none of them."""
    head = model.mask_head
    stock = head.forward

    def in_slices(features: Tensor, attention_masks: Tensor, fpn_features: Sequence[Tensor]) -> Tensor:
        largest = max(feature[0].numel() for feature in (features, *fpn_features))
        count = max(1, _SLICE_FLOATS // largest)
        masks = []
        for image, maps in enumerate(attention_masks):
            own = features[image : image + 1], [feature[image : image + 1] for feature in fpn_features]
            masks += [stock(own[0], part[None], own[1]) for part in maps.split(count)]
        return torch.cat(masks)

    head.forward = in_slices  # type: ignore[assignment]
    try:
        yield
    finally:
        del head.forward


def _masks_of_kept(
    model: DetrForPanopticSegmentation, pixels: Tensor, mask: Tensor | None, kept: list[Kept]
) -> Tensor | None:
    """What `segment` computes of masks."""
    detection = detect(model.detr, pixels, mask, backbone=model._fast.backbone(model, model.dtype))
    if not any(map(len, kept)):
        return None
    states = torch.cat([own[chosen.queries] for own, chosen in zip(detection.states, kept, strict=True)])
    owners = owners_of([len(chosen) for chosen in kept])
    return masks_for(model.mask_head, model.bbox_attention, model._shared(detection), states, owners)


def _image(
    model: DetrForPanopticSegmentation,
    stock: _Recorder,
    output: Any,
    index: int,
    kept: Kept,
    settings: Postprocess,
    *,
    canvas: tuple[int, int],
    valid: tuple[int, int],
    size: tuple[int, int],
) -> TracedImage:
    space = model.label_space
    masks = output.pred_masks[index]
    queries = len(masks)
    panoptic = postprocess(kept, masks[kept.queries], space, size, settings, canvas_size=canvas, valid_size=valid)
    own_masks = masks[kept.queries][(slice(None), *valid_cells(masks.shape[-2:], canvas, valid))]
    staying = without_duplicates(kept, own_masks, space, settings)
    memory = stock.value("memory")[index]
    h, w = memory.shape[-2:]
    scores, labels = _best_classes(output.logits[index], space)
    own = slice(index * queries, (index + 1) * queries)
    steps = [
        *(_GROWN.items()),
        *((f"mask_head.fpn_stages.{stage}", f"stage {stage + 1}") for stage in range(len(model.mask_head.fpn_stages))),
    ]
    levels = sum(key.startswith("level") for key in stock.shapes)
    return TracedImage(
        levels=tuple(_array(stock.value(f"level{level}")[index]) for level in range(levels)),
        projected=_array(stock.value("detr.model.input_projection")[index]),
        memory=_array(memory),
        self_attention=_array(stock.value("self_attention")[index]).reshape(h, w, h, w),
        cross_attention=_array(stock.value("cross_attention")[index]).reshape(queries, h, w),
        attention=_array(stock.value("bbox_attention")[index]),
        growth=tuple((name, _array(stock.value(key)[own])) for key, name in steps),
        masks=_array(masks),
        boxes=_array(output.pred_boxes[index]),
        scores=_array(scores),
        labels=tuple(labels.tolist()),
        kept=tuple(kept.queries.tolist()),
        map=panoptic,
        queries=_queries_of_segments(panoptic, kept.at(staying), _array(own_masks[staying])),
    )


def _best_classes(logits: Tensor, space: LabelSpace) -> tuple[Tensor, Tensor]:
    """Of each query the probability and the label of its best class, "no object" aside."""
    columns = torch.tensor(space.columns, dtype=torch.int64, device=logits.device)
    scores, labels = logits.float().softmax(-1)[:, columns].max(-1)
    return scores, labels


def _queries_of_segments(panoptic: PanopticMap, kept: Kept, masks: Array) -> tuple[int, ...]:
    """Of each segment the kept query of its class that won most of its pixels. masks: [K, …] over the map."""
    queries = []
    for segment in panoptic.segments:
        same = [index for index, label in enumerate(kept.labels) if label == segment.label]
        pixels = np.flatnonzero(panoptic.mask(segment.id))
        pixels = pixels[:: max(1, len(pixels) // _PIXELS_ASKED)]
        winners = _bilinear(masks[same], pixels, (panoptic.height, panoptic.width)).argmax(0)
        queries.append(int(kept.queries[same[np.bincount(winners).argmax()]]))
    return tuple(queries)


def _bilinear(masks: Array, pixels: npt.NDArray[np.int64], size: tuple[int, int]) -> Array:
    """[K, h, w] → [K, P], the values that resizing to `size` gives at those pixels (counted along the rows)."""
    whole, parts = [], []
    for at, pixels_along, cells in zip(np.divmod(pixels, size[1]), size, masks.shape[1:], strict=True):
        source = ((at + 0.5) * (cells / pixels_along) - 0.5).clip(0, cells - 1)
        whole.append((source.astype(np.int64), (source.astype(np.int64) + 1).clip(max=cells - 1)))
        parts.append(source % 1)
    (top, bottom), (left, right) = whole
    upper = masks[:, top, left] * (1 - parts[1]) + masks[:, top, right] * parts[1]
    lower = masks[:, bottom, left] * (1 - parts[1]) + masks[:, bottom, right] * parts[1]
    values: Array = upper * (1 - parts[0]) + lower * parts[0]
    return values


def _valid_sizes(pixels: Tensor, mask: Tensor | None) -> list[tuple[int, int]]:
    if mask is None:
        return [_canvas(pixels)] * len(pixels)
    return [(int(own.any(1).sum()), int(own.any(0).sum())) for own in mask.bool()]


def _canvas(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2], pixels.shape[-1]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array
