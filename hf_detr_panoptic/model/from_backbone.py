"""A start without a DETR checkpoint: a backbone of timm with pretrained weights, under a fresh transformer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import DetrConfig
from transformers.utils.hub import cached_file

from ..errors import ModelError, did_you_mean
from ..files import read_json
from ..labels import LabelSpace
from ..preprocess import Preprocess
from ..settings import FromBackbone
from ..text import and_more, count_of
from .checkpoints import check_finite_weights, hub_arguments, quiet_transformers, readable, strengthen_attention
from .modeling import DetrForPanopticSegmentation
from .parts import MAPS

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.pth", "*.pt", "*.bin")

# The figure: README of DE-DETRs.
HONEST = (
    "A fresh transformer wants hundreds of epochs or many photos: on the 3,000 of Cityscapes DETR from scratch "
    "reaches 11.7 box AP in 300 epochs. Start from a DETR checkpoint where you can."
)


@dataclass(frozen=True)
class Backbone:
    """model: timm's, giving maps at `out_indices`; live_norms: whether its norms do more than stock's frozen ones."""

    model: nn.Module
    out_indices: list[int]
    live_norms: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    said: str


def from_backbone(start: FromBackbone, space: LabelSpace) -> tuple[DetrForPanopticSegmentation, str]:
    """The model, its transformer and heads drawn from torch's random state; and where the rest is from, in words."""
    backbone = load_backbone(start)
    config = DetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": start.backbone,
            "features_only": True,
            "out_indices": backbone.out_indices,
            "use_pretrained_backbone": False,
            # Stock freezes a norm by putting its own in its place, with an epsilon of 1e-5 and without the activation
            # that many of timm's norms hold. What timm has frozen stays as it is.
            "freeze_batch_norm_2d": backbone.live_norms,
        },
        num_queries=start.queries,
        d_model=start.width,
        encoder_layers=start.layers,
        decoder_layers=start.layers,
        encoder_ffn_dim=8 * start.width,
        decoder_ffn_dim=8 * start.width,
    )
    with quiet_transformers():
        model = DetrForPanopticSegmentation(config, space)
    _draw_as_the_paper(model)
    strengthen_attention(model)
    trunk: nn.Module = model.detr.model.backbone.model
    weights = {name: tensor for name, tensor in backbone.model.state_dict().items() if name in trunk.state_dict()}
    trunk.load_state_dict(weights)
    model.image_processor = Preprocess(mean=backbone.mean, std=backbone.std)
    known, every = (sum(p.numel() for p in part.parameters()) for part in (trunk, model))
    fresh = f"the other {(every - known) / 1e6:.3g} M of {every / 1e6:.3g} M weights start fresh"
    return model, f"{start.backbone}: {backbone.said}; {fresh}. {HONEST}"


def load_backbone(start: FromBackbone) -> Backbone:
    """The backbone with its weights, every one found; of what is left over only a classifier's is left aside."""
    name = start.backbone
    if not timm.is_model(name):
        raise ModelError(
            f"timm has no backbone {name!r}",
            where="model.backbone",
            fix=did_you_mean(name, timm.list_models(), "`timm.list_models()` lists them."),
        )
    with readable(name, "timm cannot make a backbone of it", "Take another one, such as resnet50."):
        whole = timm.create_model(name)
        features: Any = timm.create_model(name, features_only=True)
        levels: list[int] = features.feature_info.reduction()
    out_indices = [levels.index(stride) for stride in (4, 8, 16, 32) if stride in levels]
    if len(out_indices) < MAPS:
        raise ModelError(
            f"the backbone makes photos {', '.join(map(str, sorted(set(levels))))} times smaller, and DETR's mask "
            "head needs 4, 8, 16 and 32",
            where=name,
            fix="Take another one, such as resnet50.",
        )
    file, config = _files(start)
    with readable(str(file), "the weights cannot be read"):
        content = timm.models.load_state_dict(str(file), weights_only=True)
        state = {str(key): tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    left = _check(whole, state, name, file)
    overlay = {"state_dict": state, "custom_load": False}
    with readable(str(file), "timm cannot put these weights into the backbone"), _quiet_timm():
        model: Any = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, out_indices=out_indices
        )
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, 160, 224))
    except Exception as error:
        fix = "Take another one, such as resnet50."
        raise ModelError(f"it takes photos of one size alone ({error})", where=name, fix=fix) from error
    check_finite_weights(model, str(file))
    known = {_content(tensor) for tensor in state.values()}
    if not all(_content(tensor) in known for tensor in model.parameters()):
        raise ModelError("timm has left weights out", where=str(file), fix="Please report this, with timm's version.")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    said = f"weights of {file}" if start.weights else f"timm's weights, from {hub_name(name)}"
    if left:
        said += f", without its classifier ({and_more(left)})"
    cfg: Mapping[str, Any] = {**model.pretrained_cfg, **config}
    return Backbone(
        model,
        out_indices,
        any(type(norm) is not nn.BatchNorm2d or norm.eps != 1e-5 for norm in norms),
        _three(cfg["mean"]),
        _three(cfg["std"]),
        said,
    )


def _files(start: FromBackbone) -> tuple[Path, Mapping[str, Any]]:
    """The file of weights, and what the config.json beside it says of how photos were prepared."""
    if start.weights is None:
        name = hub_name(start.backbone)
        if name is None:
            raise ModelError(
                f"timm has no weights of {start.backbone} on the Hub",
                where="model.backbone",
                fix="Give `weights:`, a file, or take another backbone.",
            )
        try:
            hub = hub_arguments(name, {})
        except ModelError as error:
            fix = f"Connect once and run `hf download {name}`; or give `weights:`, a file or a folder that is here."
            raise ModelError(error.what, where="model.backbone", fix=fix) from error
        with readable(name, "the weights cannot be fetched", "Try again, or give `weights:`, a file that is here."):
            file, config = (cached_file(name, part, **hub) for part in ("model.safetensors", "config.json"))
        return Path(str(file)), _prepared_as(Path(str(config)))
    path = start.weights
    if path.is_file():
        return path, {}
    for pattern in _WEIGHTS:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = and_more([file.name for file in found])
            raise ModelError(f"there are several: {names}", where=str(path), fix="Name one of them in model.weights.")
        if found:
            return found[0], _prepared_as(path / "config.json")
    raise ModelError("there is no file of weights", where=str(path), fix="Name a .safetensors or .pth file.")


def hub_name(backbone: str) -> str | None:
    """Where timm has its weights of a backbone."""
    cfg = timm.get_pretrained_cfg(backbone)
    return None if cfg is None or not cfg.hf_hub_id else str(cfg.hf_hub_id)


def _prepared_as(config: Path) -> Mapping[str, Any]:
    if not config.is_file():
        return {}
    content = read_json(config, ModelError)
    cfg = content.get("pretrained_cfg", content) if isinstance(content, dict) else {}
    said = {key: cfg.get(key) for key in ("mean", "std")} if isinstance(cfg, dict) else {}
    return {key: value for key, value in said.items() if _are_three_numbers(value)}


def _are_three_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(number) in (int, float) for number in value)


def _check(whole: nn.Module, state: Mapping[str, Tensor], name: str, file: Path) -> list[str]:
    """Raise unless every weight of the backbone is there; returns the names of a classifier that is left over."""
    wanted = whole.state_dict()
    cfg: Mapping[str, Any] = getattr(whole, "pretrained_cfg", None) or {}
    heads = cfg.get("classifier") or ()
    classifier = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    needed = {key for key in wanted if not key.startswith(classifier) and not key.endswith("num_batches_tracked")}
    given = {key: tensor.shape for key, tensor in state.items()}
    shared = needed & given.keys()
    wrong = {
        "missing": sorted(needed - given.keys()),
        "unknown": sorted(key for key in given if key not in wanted and not key.endswith("num_batches_tracked")),
        "of another size": [
            f"{key} {list(given[key])}, not {list(wanted[key].shape)}"
            for key in sorted(shared)
            if given[key] != wanted[key].shape
        ],
    }
    if any(wrong.values()):
        text = "; ".join(
            f"{count_of(len(keys), 'tensor')} {what}: {and_more(keys, 3)}" for what, keys in wrong.items() if keys
        )
        raise ModelError(
            f"the weights are not those of timm's {name} ({text})",
            where=str(file),
            fix="Give a file with timm's names, such as its own model.safetensors, or the backbone that it is of.",
        )
    return sorted(key for key in given if key.startswith(classifier))


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """It warns of what is left over, which is looked at here."""
    log = logging.getLogger("timm")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _content(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), float(tensor.detach().double().sum())


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


@torch.no_grad()
def _draw_as_the_paper(model: DetrForPanopticSegmentation) -> None:
    """As DETR's own code draws them; transformers draws all from a fiftieth, and then queries begin alike."""
    detr = model.detr.model
    for parameter in [*detr.encoder.parameters(), *detr.decoder.parameters()]:
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    nn.init.normal_(detr.query_position_embeddings.weight)
