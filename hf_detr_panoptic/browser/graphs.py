"""DETR with its mask head as ONNX graphs: a detector for the whole photo, and masks for the queries that pass."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.checkpoints import quiet_transformers
from ..model.detector import detect, folded_trunk
from ..model.mask_head import shared_mask_features

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..model.modeling import DetrForPanopticSegmentation

OPSET = 18

# Two photos and three queries: an axis of length one would be taken for a constant.
_EXAMPLE = (2, 3, 192, 256)
_EXAMPLE_QUERIES = 3


class Detector(nn.Module):
    """pixel_values float [B, 3, H, W], unpadded → logits, pred_boxes, states, and what the mask head shares."""

    def __init__(self, model: DetrForPanopticSegmentation) -> None:
        super().__init__()
        self.detr, self.mask_head, self.bbox_attention = model.detr, model.mask_head, model.bbox_attention
        self.trunk = folded_trunk(model.detr.model.backbone, channels_last=False)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        found = detect(self.detr, pixel_values, backbone=self.trunk)
        shared = shared_mask_features(
            self.mask_head, self.bbox_attention, found.projected, found.memory, None, found.features
        )
        return found.logits, found.boxes, found.states, shared.keys, shared.conv1, *shared.stages


class Masks(nn.Module):
    """states float [B, K, d] and the detector's shared maps → mask logits [B, K, h, w].

    As in `model.mask_head`, but without the kernels for parities, which know how the sides of one photo halve.
    """

    def __init__(self, model: DetrForPanopticSegmentation) -> None:
        super().__init__()
        self.mask_head, self.bbox_attention = model.mask_head, model.bbox_attention

    def forward(self, states: Tensor, keys: Tensor, conv1: Tensor, *stages: Tensor) -> Tensor:
        head: Any = self.mask_head
        heads = keys.shape[1]
        queries = (self.bbox_attention.q_proj(states) * self.bbox_attention.scaling).unflatten(-1, (heads, -1))
        attention = torch.matmul(queries.transpose(1, 2), keys).transpose(1, 2)  # [B, K, heads, h * w]
        attention = attention.flatten(2).softmax(-1).unflatten(-1, (heads, conv1.shape[-2], conv1.shape[-1]))
        of_queries = F.conv2d(attention.flatten(0, 1), head.conv1.conv.weight[:, -heads:], padding=1)
        x = _of_each_query(head.conv1, of_queries, conv1)
        x = head.conv2(x)
        for stage, feature in zip(head.fpn_stages, stages, strict=True):
            enlarged = F.interpolate(x, size=feature.shape[-2:], mode="nearest")
            x = _of_each_query(stage.refine, F.conv2d(enlarged, stage.refine.conv.weight, padding=1), feature)
        masks: Tensor = head.output_conv(x).squeeze(1)
        return masks.unflatten(0, (keys.shape[0], -1))


def _of_each_query(block: Any, of_queries: Tensor, of_images: Tensor) -> Tensor:
    """of_queries: [B * K, C, h, w], of_images: [B, C, h, w] → norm and activation of their sum, [B * K, C, h, w]."""
    both = of_queries.unflatten(0, (of_images.shape[0], -1)) + of_images[:, None]
    normed: Tensor = block.activation(block.norm(both.flatten(0, 1)))
    return normed


def reference(model: DetrForPanopticSegmentation, precision: str = "fp32") -> DetrForPanopticSegmentation:
    """The model that graphs of this precision are made of and must equal: a copy, in float32 on the CPU.

    For fp16 its folded weights are rounded to what 16 bits hold, so that storing them so loses nothing more.
    """
    copy: Any = deepcopy(model)
    copy = copy.to("cpu", torch.float32).eval().requires_grad_(False)
    with quiet_transformers():
        copy.set_attn_implementation("eager")  # plain products, whatever kernel the model uses
    if precision == "fp16":
        copy.detr.model.backbone = folded_trunk(copy.detr.model.backbone, channels_last=False)
        for tensor in (*copy.parameters(), *copy.buffers()):
            if tensor.is_floating_point() and (rounded := tensor.half()).isfinite().all():
                tensor.copy_(rounded)
    return copy  # type: ignore[no-any-return]


def shared_names(stages: int = 3) -> list[str]:
    """What the detector hands to the masks, beside the states."""
    return ["shared_keys", "shared_conv1", *(f"shared_stage{number}" for number in range(1, stages + 1))]


def two_graphs(model: DetrForPanopticSegmentation) -> tuple[ModelProto, ModelProto]:
    """The detector and the masks of a `reference`, in float32."""
    names = shared_names(len(model.mask_head.fpn_stages))
    detector, masks = Detector(model).eval(), Masks(model).eval()
    photos = torch.zeros(_EXAMPLE)
    with torch.no_grad():
        shared = detector(photos)[3:]
        states = torch.zeros(len(photos), _EXAMPLE_QUERIES, model.config.d_model)
    maps = [{0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in names[1:]]
    return (
        _written(
            detector,
            {"pixel_values": photos},
            [{0: "batch", 2: "height", 3: "width"}],
            ["logits", "pred_boxes", "states", *names],
        ),
        _written(
            masks,
            dict(zip(["states", *names], [states, *shared], strict=True)),
            [{0: "batch", 1: "queries"}, {0: "batch", 3: "cells"}, *maps],
            ["pred_masks"],
        ),
    )


def one_graph(detector: ModelProto, masks: ModelProto) -> ModelProto:
    """pixel_values → logits, pred_boxes and pred_masks of every query, as transformers.js asks for."""
    from onnx import compose

    below = compose.add_prefix(masks, "masks.", rename_inputs=False, rename_outputs=False)
    handed = [(each.name, each.name) for each in masks.graph.input]
    return compose.merge_models(detector, below, handed, outputs=["logits", "pred_boxes", "pred_masks"])


# --- weights in fewer bits

# Smaller ones are left as they are: biases, norms, what the positions are made of.
_WORTH_STORING = 1024


def stored(graph: ModelProto, precision: str) -> ModelProto:
    """The graph with its weights stored in `precision`; all it computes stays float32.

    fp16: those that 16 bits hold exactly, which are those of a `reference`. int8: a whole number and a scale for each
    output channel. A session makes them float32 once, when it is loaded: no arithmetic of whole numbers is involved.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if precision == "fp32":
        return graph
    weights = {each.name: each for each in graph.graph.initializer}
    convolved = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    casts = []
    for name, tensor in weights.items():
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < _WORTH_STORING:
            continue
        values = numpy_helper.to_array(tensor)
        small = f"{name}.{precision}"
        if precision == "fp16":
            with np.errstate(over="ignore"):
                short = values.astype(np.float16)
            if not np.array_equal(short, values):
                continue
            casts.append(helper.make_node("Cast", [small], [name], to=TensorProto.FLOAT))
        else:
            others = tuple(
                axis for axis in range(values.ndim) if axis != (0 if name in convolved else values.ndim - 1)
            )
            scale = np.abs(values).max(others, keepdims=True) / np.float32(127)
            scale[scale == 0] = 1
            short = np.round(values / scale).astype(np.int8)
            graph.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            casts.append(helper.make_node("Cast", [small], [f"{name}.whole"], to=TensorProto.FLOAT))
            casts.append(helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]))
        tensor.CopyFrom(numpy_helper.from_array(short, small))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


# --- how they are written


def _written(
    module: nn.Module, inputs: dict[str, Tensor], free: Sequence[dict[int, str]], outputs: list[str]
) -> ModelProto:
    """free: of each input the axes that may have any length, with their names."""
    axes: list[Any] = [dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in free]
    named = list(inspect.signature(module.forward).parameters.values())
    if named[-1].kind is inspect.Parameter.VAR_POSITIONAL:  # star arguments are one argument
        axes = [*axes[: len(named) - 1], tuple(axes[len(named) - 1 :])]
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(axes),
            verbose=False,
        )
    assert program is not None  # only the older exporter gives none
    return _bare(program.model_proto, dict(zip(inputs, free, strict=True)))


def _bare(model: ModelProto, free: dict[str, dict[int, str]]) -> ModelProto:
    """Without the exporter's notes, a fifth of a small graph: they hold this machine's paths and source lines."""
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    sides = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)}
    called = {sides[name][axis].dim_param: word for name, names in free.items() for axis, word in names.items()}
    for side in filter(lambda side: side.dim_param, itertools.chain.from_iterable(sides.values())):
        side.dim_param = re.sub(r"\bs\d+\b", lambda found: called[found[0]], side.dim_param)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporter and scripts print and log about themselves."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
