"""DETR itself: backbone with folded norms, encoder, decoder, class and box heads; what the mask head needs of it."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.detr.modeling_detr import (
    DetrConvEncoder,
    DetrDecoder,
    DetrDecoderOutput,
    DetrForObjectDetection,
    DetrFrozenBatchNorm2d,
    DetrModel,
)

from ..errors import ModelError

# Folding reorders a few products: in float64 the maps agree to about 1e-14 of their largest value.
_SAME = 1e-9


@dataclass(frozen=True)
class _Pair:
    """A convolution and the frozen norm that takes its output, by their names in the trunk."""

    conv: str
    norm: str


@torch.no_grad()
@torch.inference_mode(False)  # what is made in there has no version, and `_pairs` asks for it
@torch.no_grad()
def folded_trunk(
    backbone: DetrConvEncoder, *, dtype: torch.dtype | None = None, channels_last: bool = True
) -> DetrConvEncoder:
    """A copy of `backbone` that gives the same maps with fewer passes; the original keeps its weights and keys.

    For inference: the copy is in eval mode, takes no gradient and does not follow later changes of the original.
    A norm is folded only where a probe image shows, in float64, that the maps stay the same. With `dtype` the copy
    expects its pixels in that type; nothing else about a call changes.
    """
    parameter = next(backbone.parameters())
    # Apple's GPUs have no float64, and what was cast on its way from one came as zeros, in silence (pytorch#197715).
    there = parameter.device if parameter.device.type == "cuda" else torch.device("cpu")
    trunk = _without_hooks(deepcopy(backbone)).eval().requires_grad_(False).to(there).double()
    first = next(module for module in trunk.modules() if isinstance(module, nn.Conv2d))
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, first.in_channels, 65, 97, dtype=torch.float64, generator=generator).to(there)
    _fold_where_same(trunk, _pairs(trunk, probe), probe, _maps(trunk, probe))
    trunk = trunk.to(dtype or parameter.dtype).to(parameter.device)
    return trunk.to(memory_format=torch.channels_last) if channels_last else trunk


def _without_hooks(trunk: DetrConvEncoder) -> DetrConvEncoder:
    """Of a model on several devices (`device_map`) each layer would send its input back to where it was."""
    if any(hasattr(module, "_hf_hook") for module in trunk.modules()):
        from accelerate.hooks import remove_hook_from_module

        trunk = cast(DetrConvEncoder, remove_hook_from_module(trunk, recurse=True))
    return trunk


def _frozen_norms() -> tuple[type[nn.Module], ...]:
    """What stock makes of a norm; and what timm does where the configuration says `freeze_batch_norm_2d`."""
    layers: Any = sys.modules.get("timm.layers")  # slow to import, and only a model that needs it is made of it
    return (DetrFrozenBatchNorm2d, FrozenBatchNorm2d, *([layers.FrozenBatchNormAct2d] if layers else []))


def _pairs(trunk: DetrConvEncoder, probe: Tensor) -> list[_Pair]:
    """Every frozen norm whose input is, untouched, the output of a convolution, both called once."""
    made: dict[int, tuple[str, Tensor, int]] = {}
    pairs: list[_Pair] = []
    calls: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(module, nn.Conv2d):
                made[id(output)] = (name, output, output._version)
            elif (maker := made.get(id(inputs[0]))) and maker[2] == inputs[0]._version:
                pairs.append(_Pair(maker[0], name))

        return module.register_forward_hook(seen)

    kinds: tuple[type[nn.Module], ...] = (nn.Conv2d, *_frozen_norms())
    watched = [watch(name, module) for name, module in trunk.named_modules() if isinstance(module, kinds)]
    _maps(trunk, probe)
    for handle in watched:
        handle.remove()
    fed = [pair.conv for pair in pairs]
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == fed.count(pair.conv) == 1]


def _fold_where_same(trunk: DetrConvEncoder, pairs: list[_Pair], probe: Tensor, maps: list[Tensor]) -> None:
    """Fold the pairs that leave the probe's maps as they were: all at once, else by halves."""
    if not pairs:
        return
    before = [(trunk.get_submodule(pair.conv), trunk.get_submodule(pair.norm)) for pair in pairs]
    for pair in pairs:
        _fold(trunk, pair)
    both = zip(_maps(trunk, probe), maps, strict=True)
    if all((now - then).abs().max() <= _SAME * then.abs().max() for now, then in both):
        return
    for pair, (conv, norm) in zip(pairs, before, strict=True):
        trunk.set_submodule(pair.conv, conv)
        trunk.set_submodule(pair.norm, norm)
    if len(pairs) > 1:
        middle = len(pairs) // 2
        _fold_where_same(trunk, pairs[:middle], probe, maps)
        _fold_where_same(trunk, pairs[middle:], probe, maps)


def _fold(trunk: DetrConvEncoder, pair: _Pair) -> None:
    conv = deepcopy(cast(nn.Conv2d, trunk.get_submodule(pair.conv)))
    norm: Any = deepcopy(trunk.get_submodule(pair.norm))
    activation = nn.Identity()
    if hasattr(norm, "act"):  # timm's; its dropout is none in eval mode
        activation, norm.act = norm.act, nn.Identity()
    # Scale and shift as the norm itself applies them, whatever its epsilon: they are its response to 1 and to 0.
    shape = (1, conv.out_channels, 1, 1)
    shift = norm(conv.weight.new_zeros(shape)).flatten()
    scale = norm(conv.weight.new_ones(shape)).flatten() - shift
    bias = torch.zeros_like(shift) if conv.bias is None else conv.bias
    conv.bias = nn.Parameter(bias * scale + shift, requires_grad=False)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    trunk.set_submodule(pair.conv, conv)
    trunk.set_submodule(pair.norm, activation)


def _maps(trunk: DetrConvEncoder, probe: Tensor) -> list[Tensor]:
    return [feature for feature, _ in trunk(probe, probe.new_ones(probe.shape[0], *probe.shape[-2:]))]


@dataclass(frozen=True)
class Detection:
    """What DETR makes of a batch.

    logits: [B, Q, C + 1]; boxes: [B, Q, 4] in the visible part; states: [B, Q, d], the decoder's last, normed;
    earlier_states: [L - 1, B, Q, d], those of the layers before, normed, or None where nobody asked;
    projected, memory: [B, d, h, w], what enters and leaves the encoder; valid: bool [B, h, w], or None where nothing
    is padded; features: the backbone's finer maps, from low to high resolution.
    """

    logits: Tensor
    boxes: Tensor
    states: Tensor
    earlier_states: Tensor | None
    projected: Tensor
    memory: Tensor
    valid: Tensor | None
    features: tuple[Tensor, ...]
    encoder: BaseModelOutput
    decoder: DetrDecoderOutput

    @property
    def recorded(self) -> dict[str, Any]:
        """Attentions and hidden states, where they were asked for, by their names in the model's output."""
        return {
            "decoder_hidden_states": self.decoder.hidden_states,
            "decoder_attentions": self.decoder.attentions,
            "cross_attentions": self.decoder.cross_attentions,
            "encoder_hidden_states": self.encoder.hidden_states,
            "encoder_attentions": self.encoder.attentions,
        }


def detect(
    detr: DetrForObjectDetection,
    pixel_values: Tensor,
    pixel_mask: Tensor | None = None,
    *,
    decoder_attention_mask: Tensor | None = None,
    encoder_outputs: BaseModelOutput | None = None,
    decoder_inputs_embeds: Tensor | None = None,
    backbone: nn.Module | None = None,
    all_layers: bool = False,
    **kwargs: Any,
) -> Detection:
    """Stock's own submodules in stock's order: logits and boxes are the same bits.

    `backbone` may stand in for its own. `all_layers` asks for `earlier_states`; attentions and hidden states of the
    decoder are not recorded then.
    """
    model: DetrModel = detr.model
    mask = pixel_mask
    if mask is None:
        mask = torch.ones(pixel_values.shape[0], *pixel_values.shape[-2:], device=pixel_values.device)
    maps = (backbone or model.backbone)(pixel_values, mask)
    feature, valid = maps[-1]
    projected = model.input_projection(feature)
    positions = model.position_embedding(
        shape=feature.shape, device=pixel_values.device, dtype=pixel_values.dtype, mask=valid
    )
    positions = positions.flatten(2).transpose(1, 2)
    # Without padding there is nothing to mask; a mask of ones would be looked at, and the host would wait for it.
    flat_valid = None if pixel_mask is None else valid.flatten(1)
    if encoder_outputs is None:
        encoder_outputs = model.encoder(
            inputs_embeds=projected.flatten(2).transpose(1, 2),
            attention_mask=flat_valid,
            spatial_position_embeddings=positions,
            **kwargs,
        )
    memory: Tensor = encoder_outputs[0]
    query_positions = model.query_position_embeddings.weight.unsqueeze(0).repeat(len(pixel_values), 1, 1)
    arguments = {
        "inputs_embeds": torch.zeros_like(query_positions) if decoder_inputs_embeds is None else decoder_inputs_embeds,
        "attention_mask": decoder_attention_mask,
        "spatial_position_embeddings": positions,
        "object_queries_position_embeddings": query_positions,
        "encoder_hidden_states": memory,
        "encoder_attention_mask": flat_valid,
    }
    if all_layers:
        decoder, earlier = _decode_all_layers(model.decoder, **arguments)
    else:
        decoder, earlier = model.decoder(**arguments, **kwargs), None
    states: Tensor = decoder[0]
    logits, boxes = classes_and_boxes(detr, states)
    return Detection(
        logits=logits,
        boxes=boxes,
        states=states,
        earlier_states=earlier,
        projected=projected,
        memory=memory.transpose(1, 2).reshape(projected.shape),
        valid=None if pixel_mask is None else valid,
        features=tuple(feature for feature, _ in reversed(maps[:-1][:3])),
        encoder=encoder_outputs,
        decoder=decoder,
    )


def classes_and_boxes(detr: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and boxes of the decoder's states, under autocast too in 32 bits: near 1, bf16 has steps of 1/256."""
    with torch.autocast(states.device.type, enabled=False):
        states = states.to(next(detr.bbox_predictor.parameters()).dtype)
        return detr.class_labels_classifier(states), detr.bbox_predictor(states).sigmoid()


def _decode_all_layers(
    decoder: DetrDecoder,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    spatial_position_embeddings: Tensor,
    object_queries_position_embeddings: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None,
) -> tuple[DetrDecoderOutput, Tensor]:
    """The stock decoder, and a normed copy of every layer's output but the last: [L - 1, B, Q, d].

    Stock's own way to these (`auxiliary_loss`) feeds the *normed* state to the next layer: another network.
    """
    query_mask = None
    if attention_mask is not None:
        query_mask = create_bidirectional_mask(
            config=decoder.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
    memory_mask = create_bidirectional_mask(
        config=decoder.config,
        inputs_embeds=inputs_embeds,
        attention_mask=encoder_attention_mask,
        encoder_hidden_states=encoder_hidden_states,
    )
    hidden = inputs_embeds
    normed = []
    for layer in decoder.layers:
        hidden = layer(
            hidden,
            query_mask,
            spatial_position_embeddings,
            object_queries_position_embeddings,
            encoder_hidden_states,
            encoder_attention_mask=memory_mask,
        )
        normed.append(decoder.layernorm(hidden))
    *earlier, last = normed
    return DetrDecoderOutput(last_hidden_state=last), torch.stack(earlier) if earlier else last.new_zeros(
        0, *last.shape
    )


def check_pixels(pixel_values: Tensor, pixel_mask: Tensor | None) -> None:
    if pixel_values.ndim != 4 or 0 in pixel_values.shape:
        what = "the batch is empty" if len(pixel_values) == 0 else f"pixel_values are {list(pixel_values.shape)}"
        raise ModelError(what, fix="Pass float [images, 3, height, width] with at least one image.")
    if not pixel_values.is_floating_point():
        raise ModelError(
            f"pixel_values are {pixel_values.dtype}", fix="Normalise the photos first: model.preprocess(photo)."
        )
    if pixel_mask is not None and pixel_mask.shape != (len(pixel_values), *pixel_values.shape[-2:]):
        raise ModelError(
            f"pixel_mask is {list(pixel_mask.shape)}, pixel_values {list(pixel_values.shape)}",
            fix="Pass a mask [images, height, width].",
        )


def check_finite(pixel_values: Tensor) -> None:
    # A sum is NaN or infinite as soon as one pixel is.
    if not torch.isfinite(pixel_values.detach().sum(dtype=torch.float32)):
        bad = (~torch.isfinite(pixel_values)).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise ModelError(
            f"pixel_values of image {', '.join(map(str, bad))} hold NaN or infinity", fix="Look at those photos."
        )
