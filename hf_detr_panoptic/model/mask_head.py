"""DETR's mask head, exact, for the queries that are wanted and at a fraction of the work.

Everything here runs on the parameters of stock `DetrMaskHeadSmallConv` and `DetrMHAttentionMap` and adds none.
Nothing in the head mixes queries, so any subset of them is exact. What is left is made cheap by linearity:

- the first convolution splits into a part over the image's features, once an image, and a part over the attention
  maps, once a query;
- conv(adapter(fpn) + upsample(x)) = conv(adapter(fpn)), once an image, + conv(upsample(x)), once a query;
- a 3×3 convolution after nearest ×2 upsampling equals four 2×2 convolutions, one for each parity of the output's row
  and column, on the small map: 4/9 of the products and no enlarged input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.detr.modeling_detr import (
    DetrConvBlock,
    DetrFPNFusionStage,
    DetrMaskHeadSmallConv,
    DetrMHAttentionMap,
)

from ..errors import ModelError

# Floats that one chunk of queries may hold in its largest map. On a CPU it should stay in the cache; elsewhere only
# the memory matters.
_CHUNK_FLOATS = {"cpu": 3_500_000}
_CHUNK_FLOATS_ELSEWHERE = 100_000_000


@dataclass(frozen=True)
class SharedMaskFeatures:
    """What the mask head needs of each image, whichever queries are asked for.

    keys: [B, heads, d / heads, h * w]; valid: bool [B, 1, 1, h * w] or None where nothing is padded;
    conv1: [B, d + heads, h, w], the first convolution over the projected features, bias included;
    stages: conv(adapter(fpn)) of each stage, [B, C, H, W] from low to high resolution, bias included.
    """

    keys: Tensor
    valid: Tensor | None
    conv1: Tensor
    stages: tuple[Tensor, ...]

    @property
    def mask_size(self) -> tuple[int, int]:
        height, width = self.stages[-1].shape[-2:]
        return height, width


def shared_mask_features(
    mask_head: DetrMaskHeadSmallConv,
    bbox_attention: DetrMHAttentionMap,
    projected: Tensor,
    memory: Tensor,
    valid: Tensor | None,
    fpn: Sequence[Tensor],
) -> SharedMaskFeatures:
    """The mask head's work that does not depend on the query.

    projected: [B, d, h, w], the features that enter the encoder; memory: [B, d, h, w], those that leave it;
    valid: bool [B, h, w], False on padding; fpn: the backbone's three finer maps, from low to high resolution.
    """
    _check_plain(mask_head, bbox_attention)
    batch, channels, height, width = memory.shape
    key_weight = bbox_attention.k_proj.weight[:, :, None, None]
    keys = F.conv2d(memory, key_weight, bbox_attention.k_proj.bias)
    conv1 = mask_head.conv1.conv
    stages = []
    for stage, feature in zip(_stages(mask_head), fpn, strict=True):
        adapted = stage.fpn_adapter(fast_layout(feature))
        stages.append(fast_layout(stage.refine.conv(adapted)))
    return SharedMaskFeatures(
        keys=keys.reshape(batch, -1, bbox_attention.head_dim, height * width),
        valid=None if valid is None else valid.reshape(batch, 1, 1, height * width),
        conv1=fast_layout(F.conv2d(fast_layout(projected), conv1.weight[:, :channels], conv1.bias, padding=1)),
        stages=tuple(stages),
    )


def _check_plain(mask_head: DetrMaskHeadSmallConv, bbox_attention: DetrMHAttentionMap) -> None:
    """Raise where a layer is more than its weight: LoRA, a hook that makes the weight anew, a quantized layer.

    These layers are read, not called, so that it would be passed over in silence.
    """
    layers: dict[str, tuple[nn.Module, type[nn.Module]]] = {
        "bbox_attention.k_proj": (bbox_attention.k_proj, nn.Linear)
    }
    blocks = {"conv1": mask_head.conv1, "conv2": mask_head.conv2}
    blocks |= {f"refinement {number}": stage.refine for number, stage in enumerate(_stages(mask_head), start=1)}
    layers |= {f"mask_head, {name}": (block.conv, nn.Conv2d) for name, block in blocks.items()}
    for name, (layer, plain) in layers.items():
        if type(layer).forward is not plain.forward or layer._forward_pre_hooks:
            raise ModelError(
                f"{name} is wrapped ({type(layer).__name__}), and only its weight would be used",
                fix="Leave mask_head and bbox_attention out of what is wrapped (LoRA: `exclude_modules`), or merge it "
                "into the weights before.",
            )


def owners_of(counts: Sequence[int]) -> Tensor:
    """How many queries each image has → the image of each, int64 [K] on the host."""
    return torch.tensor([image for image, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)


def masks_for(
    mask_head: DetrMaskHeadSmallConv,
    bbox_attention: DetrMHAttentionMap,
    shared: SharedMaskFeatures,
    queries: Tensor,
    images: Tensor,
    chunk: int | None = None,
) -> Tensor:
    """Mask logits [K, H, W] of the chosen queries: decoder states [K, d], query k of image `images[k]` (int64 [K]).

    Any order, any number an image, none too: the result stays in the graph of every parameter. `chunk` bounds how
    many queries are worked on at once; by itself it follows from the size of the maps.
    """
    owners: list[int] = images.tolist()
    order = sorted(range(len(owners)), key=owners.__getitem__)
    if order == list(range(len(owners))):
        return _masks_in_order(mask_head, bbox_attention, shared, queries, owners, chunk)
    there = torch.tensor(order, device=queries.device)
    owners = [owners[index] for index in order]
    return _masks_in_order(mask_head, bbox_attention, shared, queries[there], owners, chunk)[there.argsort()]


def dense_masks(
    mask_head: DetrMaskHeadSmallConv,
    bbox_attention: DetrMHAttentionMap,
    shared: SharedMaskFeatures,
    queries: Tensor,
    chunk: int | None = None,
) -> Tensor:
    """Mask logits [B, Q, H, W] of every query; queries: [B, Q, d]."""
    batch, count = queries.shape[:2]
    owners = [image for image in range(batch) for _ in range(count)]
    masks = _masks_in_order(mask_head, bbox_attention, shared, queries.flatten(0, 1), owners, chunk)
    return masks.view(batch, count, *masks.shape[-2:])


def _masks_in_order(
    mask_head: DetrMaskHeadSmallConv,
    bbox_attention: DetrMHAttentionMap,
    shared: SharedMaskFeatures,
    queries: Tensor,
    owners: list[int],
    chunk: int | None,
) -> Tensor:
    """Masks [K, H, W] of queries [K, d] that are sorted by the image they belong to."""
    if not owners:
        return _no_masks(mask_head, bbox_attention, shared, queries)
    kernels = _query_kernels(mask_head, shared)
    queries = bbox_attention.q_proj(queries) * bbox_attention.scaling
    chunks = chunks_of(owners, chunk or _chunk_size(shared), few_launches(queries.device))
    return torch.cat(
        [_masks_of(mask_head, kernels, shared, queries[own[0].start : own[-1].stop], own) for own in chunks]
    )


def _masks_of(
    mask_head: DetrMaskHeadSmallConv,
    kernels: _Kernels,
    shared: SharedMaskFeatures,
    queries: Tensor,
    own: list[Part],
) -> Tensor:
    """Mask logits [k, H, W] of projected and scaled queries [k, d]; `own` says which image's they are."""
    conv1 = _of_their_images(shared.conv1, own)
    attention = fast_layout(_attention(shared, queries, own).unflatten(-1, conv1.shape[-2:]))
    x = _normed(mask_head.conv1, F.conv2d(attention, kernels.attention, padding=1).add_(conv1))
    x = _normed(mask_head.conv2, F.conv2d(x, kernels.conv2, mask_head.conv2.conv.bias, padding=1))
    for stage, kernel, feature in zip(_stages(mask_head), kernels.stages, shared.stages, strict=True):
        size = (feature.shape[-2], feature.shape[-1])
        enlarged = _conv_of_upsampled(x, kernel, stage.refine.conv.weight, size)
        x = _normed(stage.refine, enlarged + _of_their_images(feature, own))
    return mask_head.output_conv(x).squeeze(1)


def _of_their_images(maps: Tensor, own: list[Part]) -> Tensor:
    """What each query needs of [B, ...]: [...] where all are of one image, else [k, ...]."""
    if len(own) == 1:
        return maps[own[0].image]
    # Not `maps[images]`, whose gradient would be summed one query after the other.
    each = maps.unbind()
    return torch.cat([each[part.image].expand(part.length, *maps.shape[1:]) for part in own])


def _attention(shared: SharedMaskFeatures, queries: Tensor, own: list[Part]) -> Tensor:
    """Attention [k, heads, h * w]; one softmax over heads and places together, as in the paper's mask head."""
    keys = _of_their_images(shared.keys, own)
    each = queries.unflatten(-1, (shared.keys.shape[1], -1))
    if len(own) == 1:
        logits = torch.matmul(each.transpose(0, 1), keys).transpose(0, 1)
    else:
        logits = torch.matmul(each[:, :, None], keys)[:, :, 0]
    if shared.valid is not None:
        valid = _of_their_images(shared.valid, own)  # [1, 1, h * w], or [k, 1, 1, h * w]
        logits = logits.masked_fill(~valid.reshape(-1, 1, valid.shape[-1]), torch.finfo(logits.dtype).min)
    return logits.flatten(1).softmax(-1).view(logits.shape)


def _normed(block: DetrConvBlock, x: Tensor) -> Tensor:
    """Norm and activation of a block whose convolution gave `x`."""
    x = block.norm(x)
    # In place, also for autograd: the norm's backward needs its input, not its output.
    return F.relu_(x) if isinstance(block.activation, nn.ReLU) else block.activation(x)


def _conv_of_upsampled(x: Tensor, kernel: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """3×3 convolution [k, C, H, W] of `x` [k, c, h, w] after nearest upsampling to `size`.

    `kernel` is `weight` for the four parities, or, where the size does not double, `weight` itself.
    """
    if kernel.shape[-1] == 3:
        return F.conv2d(_upsampled(x, size), kernel, padding=1)
    blocks = F.conv2d(x, kernel, padding=1)
    k, channels, rows, columns = blocks.shape
    channels //= 4
    # Block p holds the output's rows 2p-1 and 2p: the outermost row and column on each side are beyond the map.
    if blocks.is_contiguous(memory_format=torch.channels_last):
        blocks = blocks.permute(0, 2, 3, 1).reshape(k, rows, columns, 2, 2 * channels).transpose(2, 3)
        out = blocks.reshape(k, 2 * rows, 2 * columns, channels).permute(0, 3, 1, 2)
    else:
        blocks = blocks.reshape(k, 2, 2, channels, rows, columns).permute(0, 3, 4, 1, 5, 2)
        out = blocks.reshape(k, channels, 2 * rows, 2 * columns)
    out = out[:, :, 1 : 1 + size[0], 1 : 1 + size[1]]
    # To 2n-1, nearest picks the same sources as to 2n and stops one short: only the last row and column see that.
    if size[0] % 2:
        tail = _upsampled(x[:, :, -2:], (3, size[1]))[:, :, 1:]
        out[:, :, -1:] = F.conv2d(F.pad(tail, (1, 1, 0, 1)), weight)
    if size[1] % 2:
        tail = _upsampled(x[..., -2:], (size[0], 3))[..., 1:]
        out[..., -1:] = F.conv2d(F.pad(tail, (0, 1, 1, 1)), weight)
    return out


def _upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")


@dataclass(frozen=True)
class _Kernels:
    """Kernels that run once a query: conv1 over the attention maps, conv2, each stage's (see `_conv_of_upsampled`)."""

    attention: Tensor
    conv2: Tensor
    stages: list[Tensor]


def _query_kernels(mask_head: DetrMaskHeadSmallConv, shared: SharedMaskFeatures) -> _Kernels:
    heads = shared.keys.shape[1]
    stages = []
    below = shared.conv1.shape[-2:]
    for stage, feature in zip(_stages(mask_head), shared.stages, strict=True):
        size = feature.shape[-2:]
        pairs = zip(below, size, strict=True)
        doubles = all(small < large and large in (2 * small, 2 * small - 1) for small, large in pairs)
        weight = stage.refine.conv.weight
        stages.append(fast_layout(_parity_kernel(weight) if doubles else weight))
        below = size
    return _Kernels(
        attention=fast_layout(mask_head.conv1.conv.weight[:, -heads:]),
        conv2=fast_layout(mask_head.conv2.conv.weight),
        stages=stages,
    )


def _parity_kernel(weight: Tensor) -> Tensor:
    """3×3 kernels [o, c, 3, 3] as 2×2 ones [4 * o, c, 2, 2]: for the output's rows 2p-1 and 2p, and so by column."""
    return torch.stack([torch.stack(_parities(rows, 3)) for rows in _parities(weight, 2)]).flatten(0, 2)


def _parities(weight: Tensor, dim: int) -> list[Tensor]:
    first, second, third = weight.unbind(dim)
    return [torch.stack([first + second, third], dim), torch.stack([first, second + third], dim)]


def _stages(mask_head: DetrMaskHeadSmallConv) -> list[DetrFPNFusionStage]:
    return cast(list[DetrFPNFusionStage], list(mask_head.fpn_stages))


class Part(NamedTuple):
    """Neighbours that belong to one image, `start` to `stop`."""

    image: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def few_launches(device: torch.device) -> bool:
    """Whether images are worked on together: a CPU keeps one in its cache, others wait for what they are told."""
    return device.type != "cpu"


def chunks_of(owners: Sequence[int], most: int, together: bool) -> Iterator[list[Part]]:
    """What is worked on at once: up to `most` neighbours of one image, or, `together`, of several.

    owners: the image of each, those of one image side by side.
    """
    chunk: list[Part] = []
    start = 0
    for stop in range(1, len(owners) + 1):
        full = stop - (chunk[0].start if chunk else start) == most
        ends = stop == len(owners)
        if ends or full or owners[stop] != owners[start]:
            chunk.append(Part(owners[start], start, stop))
            start = stop
            if ends or full or not together:
                yield chunk
                chunk = []


def _chunk_size(shared: SharedMaskFeatures) -> int:
    largest = max(feature[0].numel() for feature in shared.stages)
    return max(1, _CHUNK_FLOATS.get(shared.conv1.device.type, _CHUNK_FLOATS_ELSEWHERE) // largest)


def fast_layout(x: Tensor) -> Tensor:
    """Channels last on a CPU, where its convolutions and norms are faster so; elsewhere as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def _no_masks(
    mask_head: DetrMaskHeadSmallConv, bbox_attention: DetrMHAttentionMap, shared: SharedMaskFeatures, queries: Tensor
) -> Tensor:
    """Masks [0, H, W] that give every parameter and input a zero gradient (a rank without targets under DDP)."""
    parts = [*mask_head.parameters(), *bbox_attention.parameters(), shared.keys, shared.conv1, *shared.stages, queries]
    zero = torch.stack([part.sum() * 0 for part in parts]).sum()
    return queries.new_zeros(0, *shared.mask_size) + zero
