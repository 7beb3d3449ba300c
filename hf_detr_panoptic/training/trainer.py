"""`PanopticTrainer`: a Trainer whose checkpoints load, whose processes add up, and whose evaluation is PQ."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..dataset.batches import Row
from ..errors import ModelError, RecipeError
from ..evaluation.evaluate import box_precision, eval_metrics, panoptic_quality
from ..images import open_image
from ..model.criterion import Denominators, losses_of
from ..model.modeling import DetrForPanopticSegmentation
from ..model.targets import count_targets
from ..panoptic_map import PanopticMap
from ..parallel import begin_worker, end_workers_at_exit
from ..stage_settings import Stage
from . import checkpoints
from .batch_size import evaluation_memory_error, ran_out_of_memory
from .callbacks import Cost
from .sampling import RankBatches, WithFillers, collate_for_training, is_filler, measurable, sampler_of


def parameter_groups(model: nn.Module, weight_decay: float, backbone_learning_rate: float | None) -> list[Any]:
    """The parameters that train, the backbone's last; frozen ones are in no group. All decay, as in the paper."""
    rest: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    backbone: dict[str, Any] = {"params": [], "weight_decay": weight_decay}
    if backbone_learning_rate is not None:
        backbone["lr"] = backbone_learning_rate
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (backbone if "backbone" in name else rest)["params"].append(parameter)
    return [group for group in (rest, backbone) if group["params"]]


def dropping_rate(warmup_steps: int, drop_step: int | None, left: float) -> Callable[[int], float]:
    """The factor of the learning rates before each optimizer step: a linear rise, 1, and what is left once dropped."""

    def factor(step: int) -> float:
        risen = min(1.0, (step + 1) / (warmup_steps + 1))
        return risen * (left if drop_step is not None and step >= drop_step else 1.0)

    return factor


def drop_schedule(
    optimizer: torch.optim.Optimizer, warmup_steps: int, drop_step: int | None, left: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler for `dropping_rate`."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, dropping_rate(warmup_steps, drop_step, left))


def trainable_line(name: str, model: nn.Module) -> str:
    """ "mask_head: 1.33 M of 42.9 M trained"."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return f"{name}: {_millions(trained)} of {_millions(sum(p.numel() for p in model.parameters()))} trained"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M"


# Of a checkpoint: the weights that the optimizer works on, beside model.safetensors with the average.
RAW_WEIGHTS = "weights_in_training.safetensors"


class WeightAverage:
    """average ← decay · average + (1 − decay) · weights after each step; early on the decay is smaller.

    While few steps are behind it the average would be mostly the start: the decay is at most (1 + n) / (10 + n).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.average[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the average for weights."""
        raw = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        _copy(self.average, model)
        try:
            yield
        finally:
            _copy(raw, model)

    def settle(self, model: nn.Module) -> None:
        """For good."""
        _copy(self.average, model)

    def save_raw(self, model: nn.Module, folder: Path) -> None:
        """The weights in training, to a checkpoint whose model is the average."""
        save_file({name: p.detach().cpu().contiguous() for name, p in _trained(model)}, folder / RAW_WEIGHTS)

    def restore(self, model: nn.Module, folder: Path) -> None:
        """From a checkpoint whose model was just loaded: that is the average, and the raw weights lie beside it."""
        if not (folder / RAW_WEIGHTS).is_file():
            raise ModelError(
                "the checkpoint has no weights in training beside their average",
                where=str(folder),
                fix="It was made without `ema`: take the setting back to resume, or start the stage anew.",
            )
        self.average = {name: parameter.detach().clone() for name, parameter in _trained(model)}
        _copy(load_file(folder / RAW_WEIGHTS), model)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _copy(weights: dict[str, Tensor], model: nn.Module) -> None:
    for name, parameter in _trained(model):
        parameter.copy_(weights[name])


# Photos that a tracker is shown after each evaluation.
FEW = 4


class PanopticTrainer(Trainer):
    """One stage. The model comes frozen as the stage wants it (`stages.prepare_model`); the rest is here.

    train_dataset: a `PanopticDataset`; eval_rows: what is evaluated, at the photos' own size. `last_result` is the
    last evaluation, whole.
    """

    model: DetrForPanopticSegmentation

    def __init__(
        self,
        model: DetrForPanopticSegmentation,
        args: TrainingArguments,
        stage: Stage,
        train_dataset: Dataset[dict[str, Any]],
        eval_rows: Sequence[Row],
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.stage = stage
        self.eval_rows = eval_rows
        self.last_result: dict[str, Any] | None = None
        self.cost = Cost(args.device, {})
        self.keep_checkpoints = args.save_total_limit
        # Trainer would remove the old checkpoint before the new one counts, and the last one after an interruption.
        args.save_total_limit = None
        if args.metric_for_best_model is not None:
            args.metric_for_best_model = measurable(args.metric_for_best_model, eval_rows, model.label_space)
        self._losses: dict[str, torch.Tensor] = {}
        self._steps_since_log = 0
        self._batches: RankBatches | None = None
        self._loader: DataLoader[Any] | None = None
        if args.n_gpu > 1:
            raise RecipeError(
                f"one process sees {args.n_gpu} GPUs, and nn.DataParallel cannot carry DETR's labels",
                fix="Start one process a GPU: `accelerate launch`, or `hf-detr-panoptic train`, which does it itself.",
            )
        super().__init__(
            model=model,
            args=args,
            train_dataset=WithFillers(train_dataset),
            eval_dataset=eval_rows,  # type: ignore[arg-type]
            data_collator=collate_for_training,
            callbacks=[_Steps(self), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise RecipeError(
                "FSDP and DeepSpeed are not supported",
                fix="DETR fits on one GPU: use a plain multi-GPU configuration.",
            )
        self.average = WeightAverage(model, stage.ema) if stage.ema is not None else None
        for name, value in stage.length(self.steps_per_epoch).items() if stage.min_steps else ():
            setattr(args, name, value)

    # --- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's batches. accelerate would fill the last one up with photos that were seen already."""
        dataset: Any = self.train_dataset
        args = self.args
        sampler = sampler_of(self.stage, dataset.dataset.rows, seed_of(args.seed, self.stage.name))
        # Not `_train_batch_size`, which some versions take from the checkpoint: a resume may have smaller batches.
        self._batches = RankBatches(sampler, args.train_batch_size, args.process_index, args.world_size)
        if len(sampler) == 0:
            raise RecipeError("there is no photo to train on", fix="Give the dataset a split called train.")
        workers = args.dataloader_num_workers
        if workers:
            end_workers_at_exit()
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            worker_init_fn=begin_worker,
            pin_memory=args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=workers > 0 and args.dataloader_persistent_workers,
            multiprocessing_context=(getattr(args, "dataloader_multiprocessing_context", None) or None)
            if workers
            else None,
            in_order=getattr(args, "dataloader_in_order", True),
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            generator=torch.Generator().manual_seed(args.seed),
        )
        return self._loader

    def end_workers(self) -> None:
        """Of a loader that the garbage collector finds the queues are closed first: each worker is waited for 5 s."""
        coming = getattr(self._loader, "_iterator", None)
        if coming is not None:
            coming._shutdown_workers()

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """The photos of an epoch, of all processes."""
        return len(self._batches.sampler) if self._batches else super().num_examples(dataloader)

    def set_epoch(self, epoch: int) -> None:
        """Called as each epoch begins. Workers hold a copy of the dataset: the epoch travels with each index."""
        if self._batches is not None:
            self._batches.set_epoch(epoch)

    # --- the loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """`Denominators` of the whole step: of all micro-batches and of all processes."""
        if not batch_samples:
            return None
        config = self.model.config
        counts = [n for batch in batch_samples if not is_filler(batch) for n in count_targets(batch["labels"])]
        denominators = Denominators.of(counts, config.num_queries, losses_of(config))
        return denominators.summed_over_ranks(self.args.device)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Pixels and maps go to the device; what is small is read on the host, and would have to come back."""

        def moved(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
            there = {name: values[name].to(self.args.device, non_blocking=True) for name in names if name in values}
            return {**values, **there}

        labels = [moved(label, ("panoptic", "masks")) for label in inputs["labels"]]
        return {**moved(inputs, ("pixel_values", "pixel_mask")), "labels": labels}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        filler = is_filler(inputs)
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = outputs["loss"]
        if filler:
            loss = loss * 0
        else:
            for name, value in outputs["loss_dict"].items():
                if name.startswith("loss_") and not name[-1].isdigit():
                    self._losses[name] = self._losses.get(name, 0) + value.detach()
        return (loss, outputs) if return_outputs else loss

    def count_step(self) -> None:
        """Called after each optimizer step."""
        self._steps_since_log += 1
        if self.average is not None:
            self.average.update(self.model, self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the parts of the loss, as means over the steps since the last time."""
        if "loss" in logs and self._steps_since_log:
            logs |= self._loss_parts()
        super().log(logs, start_time)

    def _loss_parts(self) -> dict[str, float]:
        names = ["loss_ce", "loss_bbox", "loss_giou"] + (["loss_mask", "loss_dice"] if self.model.with_masks else [])
        zero = torch.zeros((), device=self.args.device)
        sums = torch.stack([torch.as_tensor(self._losses.get(name, zero)).float() for name in names])
        means = self.accelerator.reduce(sums, "mean") / self._steps_since_log
        self._losses, self._steps_since_log = {}, 0
        return dict(zip(names, means.tolist(), strict=True))

    # --- optimizer and schedule

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.args.weight_decay, self.stage.backbone_learning_rate)
            if not groups:
                raise RecipeError(
                    "nothing is left to train", where=f"stages.{self.stage.name}.freeze", fix="Freeze fewer parts."
                )
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.stage.lr_drop is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            drop = self.stage.drop_step(num_training_steps, self.steps_per_epoch)
            warmup = self.args.get_warmup_steps(num_training_steps)
            left = self.stage.lr_drop_to
            self.lr_scheduler = drop_schedule(optimizer or self.optimizer, warmup, drop, left)  # type: ignore[arg-type]
            self._created_lr_scheduler = True
        return self.lr_scheduler

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; the last one of an epoch may have fewer micro-batches."""
        batches = self._batches or self.get_train_dataloader().batch_sampler
        return math.ceil(len(batches) / self.args.gradient_accumulation_steps)  # type: ignore[arg-type]

    # --- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Box AP while masks mean nothing yet, PQ from then on; `last_result` has all of it."""
        metrics = eval_metrics("maps" if self.model.with_masks else "boxes", self.measure(eval_dataset))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self, rows: Sequence[Row] | None = None) -> dict[str, Any]:
        """What `evaluate` does, without telling anybody."""
        precision = "bf16" if self.args.bf16_full_eval else "fp32"
        quality = panoptic_quality if self.model.with_masks else box_precision
        try:
            with self._averaged():
                self.last_result = quality(self.model, rows or self.eval_rows, self.args.eval_batch_size, precision)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            raise evaluation_memory_error(self.stage.name, self.args) from error
        return self.last_result

    def rows_per_class(self) -> Sequence[dict[str, Any]]:
        """Of the last evaluation."""
        rows: Sequence[dict[str, Any]] = (self.last_result or {}).get("per_class", ())
        return rows

    def few_maps(self) -> list[tuple[Row, PanopticMap]]:
        """Some of the photos that are evaluated, always the same, and what the model makes of them now."""
        if not self.model.with_masks:
            return []
        every = max(1, len(self.eval_rows) // FEW)
        rows = [self.eval_rows[index] for index in range(0, len(self.eval_rows), every)][:FEW]
        with self._averaged():
            maps = self.model.segment((open_image(row.photo) for row in rows), batch_size=1)
        return list(zip(rows, maps, strict=True))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of equals the later: while PQ is still 0 everywhere, the longer trained one is the better start."""
        before = self.state.best_metric
        better: bool = super()._determine_best_metric(metrics, trial)
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        if not better and before is not None and metrics.get(name) == before:
            self.state.best_global_step = self.state.global_step
            return True
        return better

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.average.applied(self.model) if self.average is not None else contextlib.nullcontext()

    # --- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As ever, and then the marker by which it counts; only then older ones go."""
        output = Path(str(self.args.output_dir))
        folder = checkpoints.checkpoint_folder(output, self.state.global_step)
        if self.args.should_save:
            checkpoints.unmark(folder)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        cost = self.cost.so_far()
        if self.args.should_save:
            checkpoints.mark_complete(folder, stage=self.stage.name, step=self.state.global_step, **cost)
            checkpoints.rotate(output, self.keep_checkpoints, self.state.best_global_step)
        self.accelerator.wait_for_everyone()

    def stand_at(self, checkpoint: Path) -> None:
        """Be where training was when it saved this, without going on from there."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_from_checkpoint(str(checkpoint))
        self.model.to(self.args.device)  # type: ignore[arg-type]

    def evaluate_what_is_due(self) -> None:
        """The evaluation after the last step, where it was interrupted; it may find the best checkpoint."""
        done = [entry["step"] for entry in self.state.log_history if any(key.startswith("eval_") for key in entry)]
        if self.args.eval_strategy != "no" and self.state.global_step not in done:
            self._determine_best_metric(self.evaluate(), None)

    def settle(self) -> None:
        """After training: the average, if no best checkpoint has brought it, becomes the model."""
        if self.average is not None:
            self.average.settle(self.model)
            self.average = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with self._averaged():
            super()._save(output_dir, state_dict)
        if self.average is not None and self.args.should_save:
            self.average.save_raw(self.model, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Strictly: Trainer reads old key names into new ones and leaves the mask head as it was."""
        load_strictly(self.model, Path(resume_from_checkpoint))
        if self.average is not None:
            self.average.restore(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_strictly(self.model, Path(str(self.state.best_model_checkpoint)))
        self.average = None  # what was loaded is the average


def load_strictly(model: DetrForPanopticSegmentation, folder: Path) -> None:
    """A checkpoint's weights into a model, every one of them."""
    loaded = type(model).from_pretrained(folder, dtype=model.dtype).state_dict()
    try:
        model.load_state_dict(loaded, strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"the checkpoint is of another model ({error})",
            where=str(folder),
            fix="Resume with the recipe that it was made with, or give the run another `output`.",
        ) from error


def seed_of(*key: object) -> int:
    """A seed for (seed, stage, step, rank), unlike that of any neighbour."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _Steps(TrainerCallback):
    """What must happen around every step, whatever else is listening.

    Dropout draws from torch's global generator, and so do data loaders, evaluation and whatever ran before a resume:
    seeded anew before each optimizer step, a resumed run draws what an undisturbed one does.
    """

    def __init__(self, trainer: PanopticTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.best_global_step:
            # A resumed state holds a path from when it was saved; the run's folder may have moved since.
            folder = checkpoints.checkpoint_folder(args.output_dir, state.best_global_step)
            state.best_model_checkpoint = str(folder) if checkpoints.is_complete(folder) else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_workers()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # `state.epoch` is a fraction while an epoch is under way: a resume begins inside one.
        self.trainer.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(seed_of(args.seed, self.trainer.stage.name, state.global_step, args.process_index))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stage, per_epoch = self.trainer.stage, self.trainer.steps_per_epoch
        # A signal ends an epoch in its middle, where an undisturbed run evaluates nothing.
        midway = state.global_step % per_epoch != 0 and state.global_step < state.max_steps
        if midway or not stage.evaluates_after(state.global_step, per_epoch, state.max_steps):
            control.should_evaluate = control.should_save = False
        # An evaluation's row has losses, however few steps there were since the last.
        control.should_log |= control.should_evaluate

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.count_step()
        control.should_log |= control.should_evaluate
