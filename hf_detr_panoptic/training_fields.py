"""The fields of the installed `TrainingArguments`, read from its source: importing it costs seconds and torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Union

from .errors import RecipeError

# Fields that are no more: what to write instead. Asked only where the installed version does not have them.
GONE = {
    "warmup_ratio": "Write `warmup_steps: {value}`: below 1 it is a share of the run.",
    "evaluation_strategy": "Write `eval_strategy: {value}`.",
    "overwrite_output_dir": "Leave it out: a run resumes its own folder; for a new one give another `output`.",
    "save_safetensors": "Leave it out: every checkpoint is safetensors.",
    "logging_dir": "Leave it out: trackers write into the run's folder.",
    "group_by_length": "Leave it out: photos have no length.",
    "no_cuda": "Write `use_cpu: {value}`.",
    "per_gpu_train_batch_size": "Write `per_device_train_batch_size: {value}`.",
    "per_gpu_eval_batch_size": "Write `per_device_eval_batch_size: {value}`.",
    "fp16_backend": "Leave it out, and say `fp16: true` or `bf16: true`.",
}

_SEED = "Write `seed` at the top of the recipe: the whole run has one."
_PUSH = "Trainer's own push stays off. Write a `push` block at the top of the recipe."
_LOOP = "Leave it out: the training loop needs its own value here."
_RESUME = "Leave it out: every checkpoint can be resumed from, exactly."
_TEXT = "Leave it out: it is for language models."

# Fields of TrainingArguments that are not a stage's to choose, and why.
OURS = {
    "output_dir": "Write `output` at the top of the recipe; each stage has its folder in there.",
    "seed": _SEED,
    "data_seed": _SEED,
    "push_to_hub": _PUSH,
    "resume_from_checkpoint": "Run the same command again: it resumes by itself.",
} | dict.fromkeys(
    ("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"), _PUSH
)
OURS["fp16_full_eval"] = "Leave it out: evaluations are in 32 bits, or with `bf16_full_eval: true` in bf16."
OURS |= dict.fromkeys(("save_only_model", "ignore_data_skip"), _RESUME)
OURS |= dict.fromkeys(
    (
        "dataloader_drop_last",
        "average_tokens_across_devices",
        "remove_unused_columns",
        "label_names",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "batch_eval_metrics",
        "include_for_metrics",
        "prediction_loss_only",
        "greater_is_better",
        "do_train",
        "do_eval",
        "do_predict",
        "local_rank",
    ),
    _LOOP,
)
OURS |= dict.fromkeys(
    (
        "label_smoothing_factor",
        "neftune_noise_alpha",
        "use_cache",
        "use_liger_kernel",
        "liger_kernel_config",
        "include_num_input_tokens_seen",
        "length_column_name",
        "train_sampling_strategy",
    ),
    _TEXT,
)


@dataclass(frozen=True)
class TrainingField:
    """One field of TrainingArguments: its type as plain data has it, and its default as written."""

    annotation: Any
    default: str


@functools.cache
def training_fields() -> Mapping[str, TrainingField]:
    """Name → field, of the transformers that is installed; neither it nor torch is imported."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.origin:
        raise RecipeError("transformers is not installed", fix="Run `pip install transformers`.")
    folder = Path(spec.origin).parent
    tree = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    words = _enums(tree) | _enums(ast.parse((folder / "trainer_utils.py").read_text(encoding="utf-8")))
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return MappingProxyType(
        {
            node.target.id: TrainingField(_annotation(node.annotation, words), _default(node.value))
            for node in body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _is_field(node)
        }
    )


def _is_field(node: ast.AnnAssign) -> bool:
    if "ClassVar" in ast.unparse(node.annotation):
        return False
    return not any(keyword.arg == "init" for keyword in getattr(node.value, "keywords", ()))


def _enums(tree: ast.Module) -> dict[str, list[str]]:
    """Class name → the texts that it holds."""
    return {
        node.name: [
            line.value.value
            for line in node.body
            if isinstance(line, ast.Assign)
            and isinstance(line.value, ast.Constant)
            and isinstance(line.value.value, str)
        ]
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(base) for base in node.bases)
    }


def _annotation(node: ast.expr, words: Mapping[str, list[str]]) -> Any:
    parts = list(_parts(node))
    choices = [words[name] for name in map(ast.unparse, parts) if words.get(name)]
    if choices:  # "SchedulerType | str": the text must be one of the enum's all the same
        return Literal[tuple(choices[0])]  # type: ignore[return-value]
    return Union[tuple(_plain_type(part) for part in parts)]  # noqa: UP007


def _parts(node: ast.expr) -> list[ast.expr]:
    """The alternatives of a type, whichever way it is written."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _parts(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.BinOp):
        return [*_parts(node.left), *_parts(node.right)]
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).split(".")[-1]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Optional":
            return [*_parts(node.slice), ast.Constant(None)]
        if outer == "Union":
            return [part for entry in inner for part in _parts(entry)]
    return [node]


def _plain_type(node: ast.expr) -> Any:
    text = ast.unparse(node)
    if text == "list[str]":
        return list[str]
    simple = {"int": int, "float": float, "bool": bool, "str": str, "None": None, "list": list, "dict": dict}
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).split(".")[-1]
        if outer == "Literal":
            return Literal[ast.literal_eval(node.slice)]  # type: ignore[misc]
        return simple.get(outer.lower(), Any)
    return simple.get(text, Any)


def _default(node: ast.expr | None) -> str:
    for keyword in getattr(node, "keywords", ()):
        if keyword.arg == "default":
            node = keyword.value
        elif keyword.arg == "default_factory":
            return "[]" if ast.unparse(keyword.value) == "list" else "{}"
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "" if node is None else ast.unparse(node)
