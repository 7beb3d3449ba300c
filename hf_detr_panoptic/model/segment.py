"""Photos in, panoptic maps out: the detector for all, masks for the queries that pass."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import ModelError, did_you_mean
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..preprocess import Photo, Preprocess, as_pixels
from ..settings import Postprocess
from ..tiles import segment_in_tiles
from .detector import Detection, detect, folded_trunk
from .mask_head import masks_for, owners_of, shared_mask_features
from .postprocess import Kept, KeptMasks, choose_queries, postprocess

if TYPE_CHECKING:
    from .modeling import DetrForPanopticSegmentation


logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")

# Photos that wait for others of their size; beyond this the fullest batch goes first.
_MOST_WAITING = 16

# The integers that are as wide as a weight of so many bytes.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


# A shape of batch is recorded when it has come so often before; each recording keeps the memory that it works in.
_COMES_BACK = 2
_MOST_RECORDED = 4


class FastCopies:
    """The folded backbone of a model, made when first wanted, remade when a weight changed, gone with `clear`.

    Not a module: its weights are no parameters of the model and never reach a checkpoint. On an NVIDIA GPU DETR's
    thousand launches, which take the host several times as long as the device, become one: a CUDA graph for each shape
    of batch that comes often.
    """

    def __init__(self) -> None:
        self._made: dict[torch.dtype, tuple[object, nn.Module]] = {}
        self._recorded: dict[object, _Recorded | int] = {}

    def backbone(self, model: DetrForPanopticSegmentation, dtype: torch.dtype) -> nn.Module:
        original = model.detr.model.backbone
        state = _state(original)
        made = self._made.get(dtype)
        if made is None or made[0] != state:
            made = self._made[dtype] = (state, folded_trunk(original, dtype=dtype))
        return made[1]

    def detection(self, model: DetrForPanopticSegmentation, pixel_values: Tensor, precision: str) -> Detection:
        """`detect` of normalised photos without padding. What it gives may change with the next call."""
        dtype = torch.bfloat16 if precision == "bf16" else model.dtype
        pixels = pixel_values.to(model.device, dtype, memory_format=torch.channels_last)
        backbone = self.backbone(model, dtype)

        def run(pixels: Tensor) -> Detection:
            # Under a cache the weights' casts would be made once, and a recording would not see them change.
            with _autocast(pixels.device, precision, cache_enabled=False):
                return detect(model.detr, pixels, backbone=backbone)

        form = _form(model) if pixels.device.type == "cuda" else None
        if form is None:
            return run(pixels)
        key = (tuple(pixels.shape), dtype, _switches())
        known = self._recorded.pop(key, 0)
        if isinstance(known, _Recorded) and not (known.form == form and known.backbone is backbone):
            known = 0
        if known == _COMES_BACK:
            known = _record(run, pixels, form, backbone) or -1
        while len(self._recorded) >= _MOST_RECORDED:
            self._recorded.pop(next(iter(self._recorded)))  # what came longest ago
        self._recorded[key] = known if isinstance(known, _Recorded) or known < 0 else known + 1
        return known.replayed(pixels) if isinstance(known, _Recorded) else run(pixels)

    def clear(self) -> None:
        self._made.clear()
        self._recorded.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> FastCopies:
        return FastCopies()

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}, "_recorded": {}}


@dataclass(frozen=True)
class _Recorded:
    """A CUDA graph of DETR for one shape of batch, with the memory that it reads and writes.

    form, backbone: what it was recorded of; where those are others now, it is out of date.
    """

    graph: torch.cuda.CUDAGraph
    pixels: Tensor
    detection: Detection
    form: object
    backbone: nn.Module

    def replayed(self, pixels: Tensor) -> Detection:
        self.pixels.copy_(pixels)
        self.graph.replay()
        return self.detection


def _record(run: Callable[[Tensor], Detection], pixels: Tensor, form: object, backbone: nn.Module) -> _Recorded | None:
    """None where something in there cannot be recorded."""
    kept = pixels.clone(memory_format=torch.preserve_format)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(pixels.device)
    stream.wait_stream(torch.cuda.current_stream(pixels.device))
    try:
        with torch.cuda.stream(stream):
            run(kept)  # cuDNN chooses, cuBLAS takes its memory
        torch.cuda.current_stream(pixels.device).wait_stream(stream)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            detection = run(kept)
    except RuntimeError as error:
        logger.info("the detector is not recorded: %s", error)
        torch.cuda.synchronize(pixels.device)
        return None
    return _Recorded(graph, kept, detection, form, backbone)


def _form(model: DetrForPanopticSegmentation) -> object | None:
    """What a recording of DETR stands on, beside the backbone: its modules and where their weights lie.

    None where it cannot be recorded: a replay runs no hook, and knows one device.
    """
    detr = model.detr
    own = {id(module) for module in detr.model.backbone.modules()}
    modules = [module for module in detr.modules() if id(module) not in own]
    if any(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook") for module in modules):
        return None
    tensors = [tensor for module in modules for tensor in (*module._parameters.values(), *module._buffers.values())]
    if any(tensor is not None and tensor.device != model.device for tensor in tensors):
        return None
    return [id(module) for module in modules], [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _switches() -> object:
    """What decides which kernels are recorded, and whether what is recorded may be written to outside of there."""
    rounding = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return *rounding, torch.is_inference_mode_enabled()


class Segmenter(Protocol):
    """Whatever finds queries and their masks: a model, or its graphs in another runtime."""

    training: bool

    @property
    def label_space(self) -> LabelSpace: ...

    @property
    def preprocess(self) -> Preprocess: ...

    def chosen_masks(
        self, pixel_values: Tensor, choose: Callable[[Tensor], list[Kept]], precision: str = "fp32"
    ) -> list[tuple[Kept, Tensor]]: ...

    def train(self, mode: bool = True) -> Any: ...


def segment(
    model: Segmenter,
    images: Any,
    settings: Postprocess,
    *,
    precision: str = "fp32",
    batch_size: int = 4,
    tile: int | None = None,
    overlap: int | None = None,
) -> list[PanopticMap]:
    """See `DetrForPanopticSegmentation.segment`."""
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}", fix="Give 1 or more.")
    if tile is not None:
        each = partial(segment, model, settings=settings, precision=precision, batch_size=batch_size)
        joined = []
        for photo in _photos(images):
            size = (photo.height, photo.width) if isinstance(photo, Image.Image) else as_pixels(photo).shape[-2:]
            joined.append(
                segment_in_tiles(
                    photo, (size[0], size[1]), each, model.label_space, tile, overlap, batch_size=batch_size
                )
            )
        return joined
    maps: dict[int, PanopticMap] = {}
    training = model.training
    model.train(False)
    try:
        for indices, sizes, pixel_values in _batches(model, _photos(images), batch_size):
            made = segment_batch(model, pixel_values, sizes, settings, precision=precision)
            maps.update(zip(indices, made, strict=True))
    finally:
        if training:
            model.train()
    return [maps[index] for index in range(len(maps))]


def segment_batch(
    model: Segmenter,
    pixel_values: Tensor,
    photo_sizes: list[tuple[int, int]],
    settings: Postprocess,
    *,
    precision: str = "fp32",
) -> list[PanopticMap]:
    """Normalised photos [B, 3, H, W] that need no padding → their maps at their own (height, width)."""
    return begin_batch(model, pixel_values, photo_sizes, settings, precision=precision)()


@torch.no_grad()
def begin_batch(
    model: Segmenter,
    pixel_values: Tensor,
    photo_sizes: list[tuple[int, int]],
    settings: Postprocess,
    *,
    precision: str = "fp32",
    **watching: Any,
) -> Callable[[], list[PanopticMap]]:
    """As `segment_batch`, in two: the model has done its part, and what comes back makes the maps, on any thread.

    `watching` is for the model's `chosen_masks`."""
    if precision not in PRECISIONS:
        raise ModelError(f"precision is {precision!r}", fix=did_you_mean(precision, PRECISIONS))
    space = model.label_space
    choose = partial(choose_queries, space=space, threshold=settings.threshold)
    each = model.chosen_masks(pixel_values, choose, precision, **watching)

    @torch.no_grad()
    def maps() -> list[PanopticMap]:
        return [
            postprocess(chosen, masks, space, size, settings)
            for (chosen, masks), size in zip(each, photo_sizes, strict=True)
        ]

    return maps


@torch.no_grad()
def keep_masks(model: DetrForPanopticSegmentation, photo: Any, floor: float = 0.3) -> KeptMasks:
    """One photo through the model once → what its maps at every threshold from `floor` on are made of.

    photo: a PIL image, an array [H, W, 3] or a tensor [3, H, W] of bytes, or a path.
    """
    settings = model.settings.changed(threshold=floor)
    training = model.training
    model.eval()
    try:
        ((_, (size,), pixel_values),) = _batches(model, _photos([photo]), batch_size=1)
        choose = partial(choose_queries, space=model.label_space, threshold=floor)
        ((chosen, masks),) = chosen_masks(model, pixel_values, choose)
    finally:
        if training:
            model.train()
    return KeptMasks(chosen, masks.float().cpu(), model.label_space, size, settings, floor)


def chosen_masks(
    model: DetrForPanopticSegmentation,
    pixel_values: Tensor,
    choose: Callable[[Tensor], list[Kept]],
    precision: str = "fp32",
    seen: Callable[[Detection], object] | None = None,
) -> list[tuple[Kept, Tensor]]:
    """See `DetrForPanopticSegmentation.chosen_masks`."""
    device = model.device
    detection = model._fast.detection(model, pixel_values, precision)
    if seen is not None:
        seen(detection)
    with _autocast(device, precision):
        kept = choose(detection.logits)
        masks: Tensor | None = None
        counts = [len(queries) for queries in kept]
        if sum(counts):
            shared = shared_mask_features(
                model.mask_head, model.bbox_attention, detection.projected, detection.memory, None, detection.features
            )
            images = owners_of(counts)
            queries = torch.cat([chosen.queries for chosen in kept])
            at = torch.stack([images, queries]).to(device, non_blocking=True)
            states = detection.states[at[0], at[1]]
            masks = masks_for(model.mask_head, model.bbox_attention, shared, states, images)
    each = masks.split(counts) if masks is not None else [detection.logits.new_zeros(0, 1, 1)] * len(kept)
    return list(zip(kept, each, strict=True))


def fingerprint(model: DetrForPanopticSegmentation) -> str:
    """Of all that decides what a photo's map will be, but for the machine and the number of threads."""
    return fingerprint_of(
        model,
        {
            "classes": [(category.name, category.isthing) for category in model.label_space],
            "columns": model.label_space.columns,
            "preprocess": asdict(model.preprocess),
            "settings": model.settings.to_dict(),
        },
    )


def fingerprint_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """Of every weight, its name, type and shape, and of settings."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


_FILES: Any = (str, os.PathLike, Image.Image, bytes, io.IOBase)


def _photos(images: Any) -> Iterator[Photo]:
    """One or many, opened as they are needed."""
    one = isinstance(images, _FILES) or getattr(images, "ndim", 0) in (2, 3)
    many: Iterable[Any] = [images] if one else images
    try:
        each = iter(many)
    except TypeError:
        fix = "Give a PIL image, an array, a tensor, a path, bytes, or a list."
        raise ModelError(f"{type(images).__name__} is not a photo", fix=fix) from None
    for image in each:
        yield open_image(image, copied=False) if isinstance(image, _FILES) else image


def _batches(
    model: Segmenter, photos: Iterator[Photo], batch_size: int
) -> Iterator[tuple[list[int], list[tuple[int, int]], Tensor]]:
    """(indices, photo sizes, pixel values) of photos with equal size after resizing: nothing is ever padded."""
    waiting: dict[tuple[int, ...], list[tuple[int, tuple[int, int], Tensor]]] = {}

    def batch(key: tuple[int, ...]) -> tuple[list[int], list[tuple[int, int]], Tensor]:
        indices, sizes, values = zip(*waiting.pop(key), strict=True)
        return list(indices), list(sizes), torch.stack(values)

    for index, photo in enumerate(photos):
        pixels = as_pixels(photo)
        values = model.preprocess(pixels)
        key = tuple(values.shape)
        waiting.setdefault(key, []).append((index, (pixels.shape[-2], pixels.shape[-1]), values))
        if len(waiting[key]) == batch_size:
            yield batch(key)
        elif sum(map(len, waiting.values())) > max(_MOST_WAITING, batch_size):
            yield batch(max(waiting, key=lambda size: len(waiting[size])))
    for key in list(waiting):
        yield batch(key)


def _autocast(device: torch.device, precision: str, cache_enabled: bool = True) -> AbstractContextManager[Any]:
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=cache_enabled)


def _state(module: nn.Module) -> object:
    """Changes whenever a weight does.

    Fused optimizers and writes to `.data` leave a tensor's version as it was, and inference tensors have none: what
    the bits add up to tells there. Versions see what a sum does not, such as two filters that change places.
    """
    tensors = [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
    versions = [(tensor.data_ptr(), None if tensor.is_inference() else tensor._version) for tensor in tensors]
    bits = [tensor.view(_BITS[tensor.element_size()]).flatten() for tensor in tensors]
    if tensors[0].device.type != "cpu":  # a copy costs less there than a launch for each tensor
        kinds = {each.dtype for each in bits}
        bits = [torch.cat([each for each in bits if each.dtype is kind]) for kind in sorted(kinds, key=str)]
    return versions, torch.stack([each.sum(dtype=torch.int64) for each in bits]).tolist()
