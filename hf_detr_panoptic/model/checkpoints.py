"""Checkpoints and configurations, loaded strictly; and classes carried over from one label space to another."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import torch
from torch import Tensor, nn
from transformers import DetrConfig, PreTrainedConfig
from transformers.models.detr.modeling_detr import DetrForSegmentation
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from ..errors import HfDetrPanopticError, LabelError, ModelError
from ..labels import Category, LabelSpace
from ..preprocess import Preprocess
from ..text import and_more, count_of

# Arguments of `from_pretrained` that say where and how to look for files.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)

_SECONDS_FOR_A_HANDSHAKE = 3.0


def hub_arguments(name: str | os.PathLike[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `arguments` that is about finding files; with `local_files_only` where the Hub is out of reach.

    A folder needs no network. A name of the Hub that is neither reachable nor in the cache is an error at once:
    transformers itself retries for half a minute and then says something general.
    """
    chosen = {key: arguments[key] for key in HUB_ARGUMENTS if arguments.get(key) is not None}
    if Path(name).is_dir():
        return chosen
    if Path(name).is_file() or str(name).count("/") > 1 or str(name).startswith((".", "/", "~")):
        raise ModelError(
            f"'{name}' is not a folder", fix="Give the folder that `save_pretrained` wrote, or a name of the Hub."
        )
    if "/" not in str(name) and _is_a_backbone(str(name)):
        raise ModelError(
            f"'{name}' is a backbone, not a DETR",
            fix="Start from facebook/detr-resnet-50-panoptic; or write `model: "
            f"{{backbone: {name}}}` in a recipe, for a fresh transformer on top of it.",
        )
    if not chosen.get("local_files_only") and not chosen.get("proxies") and not _hub_answers():
        chosen["local_files_only"] = True
    if chosen.get("local_files_only") and cached_file(str(name), "config.json", **_quietly(chosen)) is None:
        raise ModelError(
            f"the Hugging Face Hub cannot be reached, and '{name}' is not in the cache",
            fix=f"Connect once and run `hf download {name}`; or copy that folder here and give its path; or name "
            "another model, one that is here; or set HF_ENDPOINT to a mirror. (HF_HUB_OFFLINE=1 also means that the "
            "Hub is not asked.)",
        )
    return chosen


def _is_a_backbone(name: str) -> bool:
    import timm  # slow

    return bool(timm.is_model(name))


def read_config(name: str | os.PathLike[str], hub: Mapping[str, Any], changes: Mapping[str, Any]) -> DetrConfig:
    """The configuration of a DETR checkpoint, with some fields changed; of any other model family an error."""
    try:
        file = cached_file(str(name), "config.json", **_quietly(hub))
    except OSError as error:  # what transformers makes of the Hub's 404
        raise ModelError(
            f"the checkpoint cannot be found ({str(error).splitlines()[0]})",
            where=str(name),
            fix="Check the name; a private one needs `hf auth login`.",
        ) from error
    if file is None:
        final = Path(name) / "final"
        fix = f"Give {final}." if (final / "config.json").is_file() else "A checkpoint is a folder with one."
        raise ModelError("there is no config.json", where=str(name), fix=fix)
    with readable(str(name)):
        fields, _ = PreTrainedConfig.get_config_dict(str(name), **hub)
    family = fields.get("model_type")
    if family != "detr":
        raise ModelError(
            f"the checkpoint is a {family or 'model of an unknown family'}, not a DETR",
            where=str(name),
            fix="Start from facebook/detr-resnet-50-panoptic, or another checkpoint whose config.json says "
            '"model_type": "detr".',
        )
    config = DetrConfig.from_dict(_with_plain_backbone({**fields, **changes}))
    check_rates(config.to_dict(), str(name))
    return config


def check_rates(fields: Mapping[str, Any], where: str) -> None:
    """Raise where a rate of dropout is none: torch says so with the first photo, after a folder was looked through."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            check_rates(value, where)
        elif str(key).endswith(("dropout", "dropout_prob", "layerdrop", "drop_path_rate")):
            if value is None or (isinstance(value, int | float) and 0 <= value <= 1):
                continue
            raise ModelError(
                f"config.json says {key}: {str(value)[:60]}",
                where=where,
                fix="Write a number from 0 to 1, or copy or download the checkpoint again.",
            )


def other_classes(
    config: DetrConfig, given: Mapping[str, Any], stuff: Iterable[str] | None = None
) -> LabelSpace | None:
    """The space that `id2label` or `num_labels` ask for where it has another size; else they only name the columns."""
    if not given:
        return None
    before = len(config.id2label or ())
    wanted = range(given.get("num_labels") or before)
    id2label = given.get("id2label") or {label: f"LABEL_{label}" for label in wanted}
    names = [name for _, name in sorted((int(label), str(name)) for label, name in id2label.items())]
    if len(names) == before:
        if "id2label" in given:
            config.id2label = dict(enumerate(names))
            config.label2id = {name: label for label, name in enumerate(names)}
        return None
    coco = {category.name: category.isthing for category in LabelSpace.coco()}
    chosen = set(stuff or ())
    things = [name not in chosen and (stuff is not None or coco.get(name, True)) for name in names]
    return LabelSpace(Category(name, isthing) for name, isthing in zip(names, things, strict=True))


def space_in_any_case(config: DetrConfig) -> LabelSpace:
    """The checkpoint's classes; all of them things where nobody can say."""
    try:
        return LabelSpace.from_config(config)
    except LabelError:
        return LabelSpace.from_config(config, stuff=())


def check_everything_found(
    info: Mapping[str, Any], mask_head: set[str], where: str, sizes_may_differ: bool = False
) -> bool:
    """Raise unless every weight found its place; whether all of `mask_head` was missing: a detection checkpoint.

    Where `sizes_may_differ`, weights of another size start fresh, as in transformers.
    """
    missing = set(info["missing_keys"])
    detection = mask_head <= missing
    lists = {
        "missing": sorted(missing - mask_head if detection else missing),
        "unknown": sorted(key for key in info["unexpected_keys"] if not key.endswith("num_batches_tracked")),
        "of another size": [
            f"{key} {list(shape)}, not {list(wanted)}" for key, shape, wanted in sorted(info["mismatched_keys"])
        ],
        "unreadable": [str(message) for message in info.get("error_msgs") or []],
    }
    if sizes_may_differ and lists["of another size"]:
        logger.warning("of another size, and start fresh: %s", and_more(lists.pop("of another size")))
    if any(lists.values()):
        text = "; ".join(f"{len(keys)} {what}: {and_more(keys)}" for what, keys in lists.items() if keys)
        raise ModelError(
            f"the weights do not fit the model ({text})",
            where=where,
            fix="The config.json and the weights must be of one checkpoint: was one of them edited or half copied?",
        )
    return detection


def read_preprocess(name: str | os.PathLike[str], hub: Mapping[str, Any]) -> Preprocess:
    """How the checkpoint's photos are prepared: its preprocessor_config.json, or DETR's own where it has none."""
    from transformers import DetrImageProcessor

    if cached_file(str(name), "preprocessor_config.json", **_quietly(hub)) is None:
        return Preprocess()
    fields, _ = DetrImageProcessor.get_image_processor_dict(str(name), **hub)
    return Preprocess.from_image_processor(fields)


def check_finite_weights(model: nn.Module, where: str) -> None:
    """Raise where a weight is NaN or infinite: such a model finds nothing, and says so nowhere."""
    bad = [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(
            f"{count_of(len(bad), 'tensor')} of weights with NaN or infinity: {and_more(bad)}",
            where=where,
            fix="Its training diverged, or the file is damaged: take an earlier checkpoint.",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its table of missing keys: ours says the same in a sentence, or raises."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


@contextmanager
def readable(
    where: str,
    what: str = "the checkpoint cannot be loaded",
    fix: str = "One of its files is damaged, cut off or of another program: copy or download it again.",
) -> Iterator[None]:
    """Whatever libraries raise over damaged files becomes one error; and their tables of missing keys stay away."""
    try:
        with quiet_transformers():
            yield
    except (HfDetrPanopticError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and "unexpected keyword" in str(error):
            raise  # the caller's own argument
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(f"{what} ({type(error).__name__}: {lines[0][:200]})", where=where, fix=fix) from error


def _with_plain_backbone(fields: dict[str, Any]) -> dict[str, Any]:
    """Older configurations name a timm backbone in loose keys: gathered, so that nobody asks the network about it.

    The backbone's own pretrained weights are never wanted: the checkpoint holds them.
    """
    backbone = fields.get("backbone_config")
    loose = fields.get("backbone")
    if backbone is None and isinstance(loose, str) and fields.get("use_timm_backbone", True):
        extra = fields.get("backbone_kwargs") or {}
        backbone = {
            "model_type": "timm_backbone",
            "backbone": loose,
            "num_channels": extra.get("in_chans", extra.get("num_channels", fields.get("num_channels", 3))),
            "features_only": True,
            "out_indices": list(extra.get("out_indices", [1, 2, 3, 4])),
        }
        if fields.get("dilation"):
            backbone["output_stride"] = extra.get("output_stride", 16)
        for key in ("backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"):
            fields.pop(key, None)
    if isinstance(backbone, dict) and backbone.get("model_type") == "timm_backbone":
        backbone = {**backbone, "use_pretrained_backbone": False}
    if backbone is not None:
        fields["backbone_config"] = backbone
    return fields


def _hub_answers() -> bool:
    """Can a connection to the Hub (or to the proxy in front of it) be opened, within seconds?"""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    host = address.hostname or ""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        address = urlsplit(proxy)
    target = (address.hostname or "", address.port or (443 if address.scheme == "https" else 80))
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(target, timeout=_SECONDS_FOR_A_HANDSHAKE).close()
        except OSError:
            return
        answered.set()

    # In a thread: a name server that is not there can hold `create_connection` far longer than its timeout.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(_SECONDS_FOR_A_HANDSHAKE)
    return answered.is_set()


def _quietly(hub: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `cached_file` so that an absent file is None."""
    return {
        **hub,
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }


logger = logging.getLogger(__name__)

# Attention is spread over heads × height × width, so it enters the mask head about a thousand times weaker than the
# features beside it, and a new head hardly notices it: it learns boxes of texture, not objects. A hundred times larger
# weights on those channels made a small new head learn; a trained head has found its own scale and is left alone.
ATTENTION_SCALE = 100.0

# How a detection checkpoint's keys are called inside a panoptic model, for `from_pretrained(key_mapping=…)`.
DETECTION_KEYS = {r"^(model|class_labels_classifier|bbox_predictor)\.": r"detr.\1."}


@dataclass(frozen=True)
class Carried:
    """What became of the classes: names whose rows were kept, names that are new, names that are gone."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def __str__(self) -> str:
        kept = count_of(len(self.kept), "class")
        text = f"carried {kept}, {len(self.new)} new{': ' if self.new else ''}{', '.join(self.new)}"
        return f"{text}; {len(self.gone)} left behind" if self.gone else text


@torch.no_grad()
def carry_classes(
    model: DetrForSegmentation,
    source: LabelSpace,
    target: LabelSpace,
    origins: Mapping[str, Sequence[str]] | None = None,
    states: Tensor | None = None,
) -> Carried:
    """Replace the class head by one for `target`, and write `target` into the configuration.

    Rows of names that stay, and the no-object row, are copied bit by bit. A new class starts as the mean of the
    source's rows of its kind (all things, or all stuff): for every query its logit is the average one, so it never
    takes more of the probability than the average class did, and it already tells objects from background.

    `origins`: name → what it is called in the source, where that is something else. A name that was given away
    is a new class, where it is one still. For a class that several were joined in see `_joined`; `states`: float
    [N, d], what the class head is given on some photos (`query_states`).
    """
    detr = model.detr
    old: nn.Linear = detr.class_labels_classifier
    if max(source.columns) >= old.out_features - 1:
        raise ModelError(
            f"the label space reads class column {max(source.columns)}, the checkpoint has {old.out_features - 1}",
            fix="Hand over the label space of the checkpoint itself.",
        )
    if target.columns != tuple(range(len(target))):
        target = LabelSpace(target.categories)
    given_away = {old for new, names in (origins or {}).items() for old in names if old != new}
    before = {name: [name] if name in source.names and name not in given_away else [] for name in target.names}
    for name in before:
        before[name] += [old for old in (origins or {}).get(name, ()) if old in source.names and old != name]
    rows = torch.cat([old.weight, old.bias[:, None]], 1)
    new_rows = torch.stack(
        [*(_row(rows, name, before[name], source, target, states) for name in target.names), rows[-1]]
    )
    new = nn.Linear(old.in_features, len(target) + 1, device=old.weight.device, dtype=old.weight.dtype)
    new.weight.copy_(new_rows[:, :-1])
    new.bias.copy_(new_rows[:, -1])
    new.requires_grad_(old.weight.requires_grad)
    new.train(old.training)
    detr.class_labels_classifier = new
    _write_labels(model, target)
    carried = Carried(
        kept=tuple(name for name in target.names if before[name]),
        new=tuple(name for name in target.names if not before[name]),
        gone=tuple(name for name in source.names if not any(name in names for names in before.values())),
    )
    logger.info("%s", carried)
    return carried


@torch.no_grad()
def strengthen_attention(model: DetrForSegmentation, factor: float = ATTENTION_SCALE) -> None:
    """Scale what a *fresh* mask head makes of its attention channels: see `ATTENTION_SCALE`."""
    model.mask_head.conv1.conv.weight[:, -model.config.encoder_attention_heads :] *= factor


def _row(
    rows: Tensor, name: str, before: Sequence[str], source: LabelSpace, target: LabelSpace, states: Tensor | None
) -> Tensor:
    """A class's weights and bias [d + 1]: its own, what it was before joined, or, if new, the mean of its kind."""
    known = [source.columns[source.index(old)] for old in before]
    if known:
        return rows[known[0]] if len(known) == 1 else _joined(rows, known, states, source.columns)
    isthing = target[target.index(name)].isthing
    alike = [column for column, other in zip(source.columns, source, strict=True) if other.isthing == isthing]
    return rows[alike or list(source.columns)].float().mean(0).to(rows.dtype)


def _joined(rows: Tensor, members: Sequence[int], states: Tensor | None, classes: Sequence[int]) -> Tensor:
    """One row [d + 1] for several: as probable as they were together, or as near to that as a row can be.

    That is the log of their summed exponentials, which is no linear function of the query. With `states` it is fitted
    by least squares there. Without, wherever one member is meant the others are taken to be as improbable as the
    average class: the sum of the rows, less that average for each but one. By
    `benchmarks/joined_classes.py` the fit on 8 photos keeps PQ within 0.2 points of what the old maps had, the sum
    within 4. The mean of the rows, with or without log n, loses 4 to 10, and half of the groups lose all of their
    segments: what is one member by far is not the others at all.
    """
    home, rows = rows, rows.cpu()  # not every device has float64
    chosen = rows[list(members)].double()
    others = [column for column in classes if column not in members]
    start = chosen.sum(0) - (len(chosen) - 1) * rows[others].double().mean(0) if others else chosen.mean(0)
    if states is not None:
        inputs = torch.nn.functional.pad(states.cpu().double(), (0, 1), value=1.0)
        missing = torch.logsumexp(inputs @ chosen.T, 1) - inputs @ start
        ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
        start = start + torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ missing)
    return start.to(home.dtype).to(home.device)


@torch.no_grad()
def query_states(model: Any, photos: Iterable[Any]) -> Tensor:
    """float [N, d]: what the class head of a `DetrForPanopticSegmentation` is given on these photos."""
    seen: list[Tensor] = []
    head: nn.Linear = model.detr.class_labels_classifier
    hook = head.register_forward_pre_hook(lambda module, given: seen.append(given[0].flatten(0, -2).cpu()))
    training = model.training
    model.eval()
    try:
        model.segment(photos, batch_size=1)
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(seen)


def _write_labels(model: DetrForSegmentation, space: LabelSpace) -> None:
    fields = space.to_config()
    remembered = getattr(model.config, "hf_detr_panoptic", None) or {}
    fields["hf_detr_panoptic"] = {**remembered, **fields["hf_detr_panoptic"]}
    for key, value in fields.items():
        setattr(model.config, key, value)
