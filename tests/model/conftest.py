"""Tiny random models of every kind of backbone, and targets for them."""

from __future__ import annotations

from itertools import pairwise

import made
import pytest
import torch
from made import SPACE
from transformers import DetrForSegmentation


@pytest.fixture
def space():
    return SPACE


@pytest.fixture
def tiny_config():
    """A factory of configurations: `tiny_config("timm", num_queries=7)`."""

    def make(backbone="timm", space=SPACE, **changes):
        return made.tiny_config(space, backbone, **{"encoder_layers": 2, "decoder_layers": 3, **changes})

    return make


def shaken(model, seed=0):
    """Weights that matter: at their starting values all queries come out alike, and many mistakes would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            if name.endswith("running_var"):
                tensor.copy_(noise.square() + 0.5)
            elif tensor.ndim < 2:
                tensor.add_(0.2 * noise)
            elif "query_position" in name:
                tensor.copy_(noise)
            elif tensor.ndim == 2:
                tensor.copy_(noise * 1.5 / tensor.shape[1] ** 0.5)
        detr = model.detr.model
        image = torch.randn(1, 3, 96, 96, generator=generator)
        feature = detr.backbone(image, torch.ones(1, 96, 96))[-1][0]
        # What enters the encoder varies from place to place as much as from channel to channel.
        projected = detr.input_projection(feature).flatten(2)
        detr.input_projection.weight.div_(projected.std())
        detr.input_projection.weight.div_((projected / projected.std()).std(-1).mean())
        detr.input_projection.bias.sub_(detr.input_projection(feature).mean((0, 2, 3)))
    return model


@pytest.fixture
def stock_model(tiny_config):
    """A factory of stock models, in eval mode."""

    def make(backbone="timm", **changes):
        torch.manual_seed(0)
        return shaken(DetrForSegmentation(tiny_config(backbone, **changes)).eval())

    return make


@pytest.fixture
def pixels():
    def make(*shape, seed=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(
            torch.get_default_dtype()
        )

    return make


@pytest.fixture
def labels():
    """A factory of targets: `labels([2, 3], (96, 128))` for two images; an id map beside the equivalent masks."""

    def make(counts, size, num_labels=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        made = []
        for count in counts:
            # Vertical stripes: every pixel has an owner.
            edges = torch.linspace(0, size[1], count + 1).round().long().tolist()
            ids = torch.zeros(size, dtype=torch.int32)
            for place in range(count):
                ids[:, edges[place] : edges[place + 1]] = place + 1
            boxes = [[(a + b) / 2 / size[1], 0.5, (b - a) / size[1], 1.0] for a, b in pairwise(edges)]
            made.append(
                {
                    "class_labels": torch.randint(0, num_labels, (count,), generator=generator),
                    "boxes": torch.tensor(boxes, dtype=torch.get_default_dtype()).reshape(-1, 4),
                    "panoptic": ids,
                    "segment_ids": torch.arange(1, count + 1),
                }
            )
        return made

    return make


@pytest.fixture
def with_masks():
    """The same targets in Hugging Face's form, which stock understands."""

    def convert(labels):
        return [
            {
                "class_labels": label["class_labels"],
                "boxes": label["boxes"],
                "masks": (label["panoptic"][None] == label["segment_ids"][:, None, None]).to(label["boxes"].dtype),
            }
            for label in labels
        ]

    return convert


@pytest.fixture
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
