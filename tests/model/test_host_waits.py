"""How often a step asks the device for a value, and so waits: counted without one, by where each tensor would be.

Parameters and the pixels of a batch count as being there, and so does whatever is computed from them or is sent to a
`torch.device`. What is asked inside transformers is counted apart: it is not ours to mend.
"""

from __future__ import annotations

import traceback
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from made import SHAPES, shapes, tiny_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

import hf_detr_panoptic
from hf_detr_panoptic import DetrForPanopticSegmentation
from hf_detr_panoptic.dataset.batches import collate
from hf_detr_panoptic.dataset.transforms import make_labels
from hf_detr_panoptic.model import postprocess, targets
from hf_detr_panoptic.model.segment import segment_batch
from hf_detr_panoptic.preprocess import as_pixels

ASKS = {"cpu", "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "is_nonzero"}
ASKS |= {"nonzero", "argwhere", "masked_select", "unique", "bincount", "equal", "allclose"}
MOST = 3
OURS, THEIRS = (str(Path(package.__file__).parent) for package in (hf_detr_panoptic, transformers))


class Waits(TorchFunctionMode):
    """ours, theirs: what was asked → how often; sends: what the host saw arrive; doubles: what has 64 bits there.

    A copy from memory that is not pinned is waited for unless `non_blocking` says no. Apple's GPUs have no float64.
    """

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.ours: Counter[str] = Counter()
        self.theirs: Counter[str] = Counter()
        self.sends: Counter[str] = Counter()
        self.doubles: Counter[str] = Counter()
        self._there: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self.send(*there)

    def send(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            self._there[id(tensor)] = tensor

    def is_there(self, value: Any) -> bool:
        return isinstance(value, Tensor) and self._there.get(id(value)) is value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        given = list(_flat((args, kwargs)))
        from_there = any(map(self.is_there, given))
        sent = any(isinstance(value, torch.device) for value in given)
        fetched = name == "to" and "cpu" in [value for value in given if isinstance(value, str)]
        out = func(*args, **kwargs)
        made = name in ("tensor", "as_tensor")
        if sent and not from_there and (made or (name == "to" and not kwargs.get("non_blocking"))):
            self.sends[_where(name)[0]] += 1
        if from_there or sent:
            self.doubles.update(_where(name)[0] for value in _flat(out) if _is_double(value))
        if from_there and (name in ASKS or fetched or self._by_mask(name, args)):
            self._count(name)
            if name in ("cpu", "to", "numpy", "tolist", "item"):
                return out.view_as(out) if isinstance(out, Tensor) else out
        if from_there or sent:
            if sent and name == "to" and not from_there:
                out = out.view_as(out)  # what stays on the host is another tensor
            self.send(*(value for value in _flat(out) if isinstance(value, Tensor)))
        return out

    def _by_mask(self, name: str, args: Any) -> bool:
        """Whether it is asked how many are true: picked by a mask, or `where` with nothing to choose from."""
        if name == "where" and len(args) == 1:
            return True
        picks = [value for value in _flat(args[1:2]) if isinstance(value, Tensor)]
        masked = any(value.dtype == torch.bool and self.is_there(value) for value in picks)
        return masked and (name == "__getitem__" or (name == "__setitem__" and isinstance(args[2], Tensor)))

    def _count(self, name: str) -> None:
        where, theirs = _where(name)
        (self.theirs if theirs else self.ours)[where] += 1


def _where(name: str) -> tuple[str, bool]:
    """Who called it, and whether that is in transformers."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith((OURS, THEIRS))]
    theirs = bool(frames) and frames[-1].filename.startswith(THEIRS)
    return f"{name} in {frames[-1].name}" if frames else name, theirs


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list | set):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def batch() -> dict[str, Any]:
    """Two photos of two sizes: one is padded."""
    items = []
    for index, size in enumerate(((64, 96), (72, 64))):
        photo, truth = shapes(index, *size)
        pixels = (as_pixels(photo).float() / 255 - 0.5) / 0.25
        items.append(
            {
                "pixel_values": pixels,
                "labels": make_labels(truth.ids.copy(), truth.segments, image_id=index, things={0, 1}),
            }
        )
    return collate(items)


@contextmanager
def counted(model: DetrForPanopticSegmentation, *there: Tensor) -> Iterator[Waits]:
    with Waits(*model.parameters(), *model.buffers(), *there) as waits:
        yield waits


FROZEN = {"detection": ("mask_head", "stem", "layer1"), "mask_head": ("detr",), "finetune": ("stem", "layer1")}


@pytest.mark.parametrize("stage", FROZEN)
def test_a_training_step_waits_at_most_three_times(stage: str) -> None:
    model = tiny_model(SHAPES).train()
    model.freeze(*FROZEN[stage])
    model.with_masks = stage != "detection"
    inputs = batch()
    model(**inputs)  # what is made once, such as the folded backbone, is not asked again
    maps = [label["panoptic"] for label in inputs["labels"]]
    with counted(model, inputs["pixel_values"], inputs["pixel_mask"], *maps) as waits:
        loss = model(**inputs).loss
        loss.backward()
    assert loss.isfinite()
    assert 1 <= waits.ours.total() <= MOST, waits.ours  # the matching, in any case
    assert not waits.sends
    assert not waits.doubles


def test_labels_that_are_all_there_come_over_at_once_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other trainers send every tensor. Odd lengths before wide types: bytes must not begin where they cannot."""
    label = {
        "class_labels": torch.tensor([1, 0, 3]),
        "boxes": torch.tensor([[0.5, 0.5, 0.1, 1.0]] * 3, dtype=torch.float64) / 3,
        "iscrowd": torch.tensor([False, True, False]),
        "scores": torch.tensor([0.5, 1.0, 0.25], dtype=torch.bfloat16),
        "image_id": torch.tensor(2**53 + 1),
    }
    real = torch.Tensor.cpu
    fetched = []
    monkeypatch.setattr(targets, "_is_here", lambda tensor: tensor.numel() == 0)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: fetched.append(tensor.dtype) or real(tensor))
    given = [value for value in label.values() if value.numel()]
    near = targets._fetched(given)
    assert fetched == [torch.uint8]
    for one, other in zip(near, given, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("fill", ["argmax", "void"])
def test_a_photo_waits_four_times(fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking the way of a GPU: whether the folded backbone holds, which queries pass, their areas, the map."""
    monkeypatch.setattr(postprocess, "_far", lambda device: True)
    model = tiny_model(SHAPES).eval()
    photo, _ = shapes(0, 64, 96)
    settings = model.settings.changed(threshold=0.0, fill=fill)
    pixels = model.preprocess(as_pixels(photo))[None]
    segment_batch(model, pixels, [(64, 96)], settings)  # what is made once, such as the folded backbone
    with counted(model) as waits:
        (found,) = segment_batch(model, pixels, [(64, 96)], settings)
    assert len(found.segments) > 7
    assert waits.ours.total() == 4, waits.ours
    assert not waits.doubles
    assert waits.sends == Counter({"to in detection": 1})  # the pixels themselves


def test_the_counter_sees_what_waits() -> None:
    """By hand: what is computed from a device tensor and asked for waits; what was fetched once does not again."""
    there, here = torch.arange(4.0), torch.arange(4.0)
    with Waits(there) as waits:
        sums = (there * 2).sum()
        assert float(here.sum()) == 6
        assert waits.ours.total() == waits.theirs.total() == 0
        host = sums.cpu()
        assert host.item() == 12
        assert (there > 1)[:2].tolist() == [False, False]
        assert len(there[there > 1]) == 2
        assert here.to(torch.device("cpu")).sum().item() == 6
        assert float(here.sum()) == 6
    assert waits.ours == Counter({"cpu": 1, "tolist": 1, "__getitem__": 1, "item": 1})
