"""detection → mask_head → finetune: rehearsed, run, resumed; each begins with the best of the one before."""

from __future__ import annotations

import copy
import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers import TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..dataset.batches import PanopticDataset, Row
from ..dataset.paste import labels_to_paste
from ..dataset.transforms import mirror_images
from ..dataset.validation import ON_TRAIN
from ..errors import DatasetError, HfDetrPanopticError, RecipeError, did_you_mean, says_a_full_disk
from ..evaluation.calibrate import Calibration, calibrate, shift_logits
from ..evaluation.evaluate import box_precision, panoptic_quality
from ..evaluation.table import MEASURED_ON
from ..files import read_json
from ..images import open_image
from ..labeling.schemes import origins
from ..labels import LabelSpace
from ..model.criterion import write_losses
from ..model.from_backbone import from_backbone
from ..model.modeling import DetrForPanopticSegmentation
from ..recipe import Recipe
from ..stage_settings import STAGES, Stage
from ..text import clock, count_of
from . import checkpoints
from .arguments import check_arguments, process_kept, slower_than_it_could, training_arguments
from .batch_size import fit_batch_size, halve_batch_size, ran_out_of_memory, training_memory_error, training_step
from .callbacks import (
    Cost,
    Interruption,
    Patience,
    ProgressLine,
    Results,
    StopOnSignal,
    Tracker,
    Tracking,
    Unchanged,
    device_name,
    peak_memory,
    write_environment,
)
from .run_folder import (
    StageEnd,
    begun_stages,
    check_folder,
    check_order,
    check_same_dataset,
    claim_folder,
    finished,
    stage_folder,
    stamps_of,
    write_dataset_record,
    write_metrics,
)
from .sampling import Splits, check_sizes, check_splits, collate_for_training
from .trainer import PanopticTrainer, load_strictly, parameter_groups, seed_of, trainable_line

STEPS = 3
PHOTOS_TO_JOIN_ON = 8


@dataclass(frozen=True)
class Estimate:
    """Seconds a step and an evaluation, GB of memory at the peak and of disk in the end."""

    stage: str
    steps: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    memory: float
    disk: float

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds

    def lines(self, folder: Path) -> list[str]:
        """What is printed: the cost, and a warning where the disk will not do."""
        lines = [
            f"{self.stage}: about {clock(self.seconds)} ({self.steps} steps of {self.step_seconds:.2f} s, "
            f"{self.evaluations} evaluations of {self.evaluation_seconds:.1f} s), "
            f"{self.memory:.1f} GB of memory, {self.disk:.1f} GB of disk"
        ]
        there = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
        free = shutil.disk_usage(there).free / 1e9
        if free < self.disk:
            lines.append(f"{self.stage}: only {free:.1f} GB are free in {there}: make room, or lower save_total_limit")
        return lines


def together(estimates: Sequence[Estimate], device: torch.device, price: float | None, refit: bool) -> str:
    """The hours of all stages, on what was measured; `price`: of one of its hours, in whatever money."""
    seconds = sum(estimate.seconds for estimate in estimates)
    again = sum(estimate.steps * estimate.step_seconds for estimate in estimates) if refit else 0.0
    processes = PartialState().num_processes
    where = device_name(device) if processes == 1 else f"{processes} × {device_name(device)}"
    line = f"together: about {clock(seconds + again)} on {where}"
    if refit:
        line += f", {clock(again)} of it for `refit`"
    if price is not None:
        line += f"; at {price:g} an hour {(seconds + again) / 3600 * price:.2f}"
    return line


def rehearse(trainer: PanopticTrainer, stages: int) -> Estimate:
    """Three real steps, and a little evaluation. Neither weights nor random state are other afterwards."""
    args, device = trainer.args, trainer.args.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        model = copy.deepcopy(trainer.model).to(device)  # type: ignore[arg-type]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        groups = parameter_groups(model, args.weight_decay, None)
        optimizer = torch.optim.AdamW(groups, lr=0.0) if groups else None
        seconds = []
        for batch in _first_batches(trainer):
            began = time.perf_counter()
            training_step(model, batch, args)
            if optimizer is not None:
                optimizer.step()
            seconds.append(time.perf_counter() - began)
        memory = peak_memory(device)
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e9
        learning = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad) / 1e9
        del optimizer
        model.zero_grad(set_to_none=True)
        few = trainer.eval_rows[: args.eval_batch_size * args.world_size]
        began = time.perf_counter()
        measure = panoptic_quality if model.with_masks else box_precision
        measure(model, few, args.eval_batch_size)
        evaluation = (time.perf_counter() - began) * len(trainer.eval_rows) / len(few)
    steps, per_epoch = total_steps(trainer)
    kept = (args.load_best_model_at_end + (trainer.keep_checkpoints or 10)) if args.save_strategy != "no" else 0
    return Estimate(
        stage=trainer.stage.name,
        steps=steps,
        step_seconds=min(seconds) * args.gradient_accumulation_steps,  # the first one warms caches up
        evaluations=_evaluations(trainer.stage, args, steps, per_epoch),
        evaluation_seconds=evaluation,
        memory=memory - (weights if device.type == "cuda" else 0.0),
        disk=kept * (weights + 2 * learning) + weights * (1 + 1 / stages),
    )


def total_steps(trainer: PanopticTrainer) -> tuple[int, int]:
    """Optimizer steps of the stage, and of an epoch."""
    per_epoch = trainer.steps_per_epoch
    most = trainer.args.max_steps
    return (most if most > 0 else -int(-trainer.args.num_train_epochs * per_epoch // 1)), per_epoch


def _evaluations(stage: Stage, args: TrainingArguments, steps: int, per_epoch: int) -> int:
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    if strategy == "epoch":
        ends = range(per_epoch, steps + per_epoch, per_epoch)
        return 1 + sum(stage.evaluates_after(min(end, steps), per_epoch, steps) for end in ends)
    every = steps + 1 if strategy == "no" else int(args.eval_steps or steps) or 1
    return 1 + steps // every


def _first_batches(trainer: PanopticTrainer) -> Iterator[dict[str, Any]]:
    """This process's first ones, as they will come; again from the start if an epoch has fewer."""
    loader = trainer.get_train_dataloader()
    first = list(islice(iter(loader.batch_sampler), STEPS))  # type: ignore[arg-type]
    for keys in islice(cycle(first), STEPS):
        yield collate_for_training([loader.dataset[key] for key in keys])


Say = Callable[[str], None]


_MAKE_ROOM = "Make room and run the same command: it resumes from the last checkpoint."


class Interrupted(HfDetrPanopticError):
    """A signal ended the run; a checkpoint says where it goes on."""

    def __init__(self, number: int, output: str) -> None:
        self.number = number
        super().__init__(
            f"ended by signal {number}; a checkpoint is saved", where=output, fix="The same command resumes."
        )


def run_stages(
    recipe: Recipe,
    splits: Splits,
    *,
    start: str | None = None,
    stop: str | None = None,
    estimate: bool = False,
    price: float | None = None,
    say: Say = print,
    at_stage_end: Callable[[StageEnd], None] | None = None,
    tracker: Tracker | None = None,
    first: Sequence[StageEnd] = (),
) -> list[StageEnd]:
    """Run what the recipe does not skip, from `start` to `stop`; finished stages of its folder are not run again.

    Returns every stage that is finished there, whenever it was: metrics.json is about all of them, and final/ is the
    last one. Every process of a launch calls this alike. `at_stage_end` is called on the main process, after each
    stage that was run here. With `estimate` every stage is only rehearsed, from the recipe's model: nothing is
    written; `price` is what an hour costs. `first`: the stages of the run that these repeat on all photos; figures and
    calibration are theirs.
    """
    state = PartialState()
    speak: Say = say if state.is_main_process else _silent
    chosen = chosen_stages(recipe, start, stop)
    check_splits(splits, chosen)
    check_sizes(splits.val)
    labels_to_paste(splits.space, recipe.augmentation.paste_classes)
    mirror_images(splits.space, recipe.augmentation.flip_pairs)
    check_arguments(chosen, state.device)
    if splits.on_train:
        speak(f"the dataset has no photos of validation: all is measured {ON_TRAIN} ({len(splits.val)} of them)")
    if estimate:
        with tempfile.TemporaryDirectory() as scratch:  # a Trainer makes its folder at once
            estimates = []
            for stage in chosen:
                loud = speak if stage is chosen[0] else None
                model = starting_model(recipe, splits.space, None, loud, splits.train)
                with process_kept():
                    estimates.append(_Stage(recipe, stage, splits, model, speak, Path(scratch)).estimate())
            speak(together(estimates, state.device, price, recipe.refit))
        return []
    with says_a_full_disk(Path(recipe.output), _MAKE_ROOM):
        check_folder(recipe)
        check_order(recipe.output, [stage.name for stage in chosen])
        begun = begun_stages(recipe.output)
        if begun:
            check_same_dataset(recipe.output, splits.by_name)
        state.wait_for_everyone()
        if state.is_main_process:
            claim_folder(recipe)
            if not begun:
                write_dataset_record(recipe.output, splits.by_name)
        state.wait_for_everyone()
        ends: list[StageEnd] = []
        interruption = Interruption()
        with interruption.listening():
            for stage in recipe.stages:
                end = finished(recipe.output, stage.name)
                if stage in chosen and end is None:
                    with process_kept():
                        end = _run(recipe, stage, splits, speak, interruption, ends, tracker, first)
                    if state.is_main_process:
                        write_metrics(recipe.output, [*ends, end])
                        if at_stage_end is not None:
                            at_stage_end(end)
                elif end is not None and stage in chosen:
                    speak(f"{stage.name}: finished before, taken from {end.folder}")
                if end is not None:
                    ends.append(end)
                if stage is recipe.stages.to_run[-1]:
                    break
        if state.is_main_process:
            copy_final(ends[-1], Path(recipe.output) / "final")
            write_metrics(recipe.output, ends)
        state.wait_for_everyone()
    return ends


def _run(
    recipe: Recipe,
    stage: Stage,
    splits: Splits,
    say: Say,
    interruption: Interruption,
    before: Sequence[StageEnd],
    tracker: Tracker | None,
    first: Sequence[StageEnd],
) -> StageEnd:
    """One stage; where memory runs out after all and the batch may shrink, it goes on from its last checkpoint."""
    begin = before[-1].folder if before else None
    while True:
        model = starting_model(recipe, splits.space, begin, say, splits.train)
        at_work = _Stage(recipe, stage, splits, model, say)
        try:
            return at_work.run(
                interruption, before, tracker, next((end for end in first if end.name == stage.name), None)
            )
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            halved = halve_batch_size(at_work.folder)
            # Other processes wait for this one's gradients, and will in vain: only alone can it go on by itself.
            if halved is None or PartialState().num_processes > 1:
                raise training_memory_error(stage.name, at_work.args, at_work.folder, halved) from error
        say(f"{stage.name}: memory ran out; it goes on with batches of {halved}")
        del model, at_work
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _forget_precision()


def starting_model(
    recipe: Recipe, space: LabelSpace, begin: Path | None, say: Say | None = None, rows: Sequence[Row] = ()
) -> DetrForPanopticSegmentation:
    """The best of the stage before, or the recipe's model with its classes carried over by name.

    `rows`: where joined classes learn from the first photos to be as sure as their members were.
    """
    torch.manual_seed(seed_of(recipe.seed, "start"))  # weights that the checkpoint does not have are drawn
    if begin is None:
        model, words = _first_model(recipe, space, rows)
        for sentence in (words, *_too_many_segments(model, rows)):
            if say is not None:
                say(sentence)
    else:
        model = DetrForPanopticSegmentation.from_pretrained(begin)
        if model.label_space != space:
            raise DatasetError(
                "the dataset's classes are not those of the stage before",
                where=str(begin),
                fix="Give the run another `output`: a stage cannot change its classes halfway.",
            )
    size = recipe.size
    if size.shortest_edge or size.longest_edge:
        shortest = size.shortest_edge or min(model.preprocess.shortest_edge or 800, size.longest_edge or 800)
        longest = size.longest_edge or round(shortest * 1333 / 800)
        model.image_processor = replace(
            model.preprocess, shortest_edge=shortest, longest_edge=longest, exact_size=None, fit_within=None
        )
    write_losses(recipe.losses, model.config)
    changes = {name: value for name, value in recipe.postprocess.to_dict().items() if value is not None}
    model.settings = model.settings.changed(**changes)
    return model


def _first_model(recipe: Recipe, space: LabelSpace, rows: Sequence[Row]) -> tuple[DetrForPanopticSegmentation, str]:
    """And where its weights come from, in words."""
    if not isinstance(recipe.model, str):
        return from_backbone(recipe.model, space)
    model = DetrForPanopticSegmentation.from_pretrained(recipe.model)
    before = _origins(recipe, model.label_space, space)
    joined = any(len(names) > 1 or new in model.label_space.names for new, names in before.items())
    photos = (open_image(row.photo) for row in rows[: PHOTOS_TO_JOIN_ON if joined else 0])
    return model, f"{recipe.model}: {model.carry_classes(space, origins=before, photos=photos)}"


def _too_many_segments(model: DetrForPanopticSegmentation, rows: Sequence[Row]) -> list[str]:
    queries = model.config.num_queries
    crowded = [row.where for row in rows if len(row.segments) > queries]
    if not crowded:
        return []
    return [
        f"{count_of(len(crowded), 'photo')} with more segments than this model can find ({queries}), {crowded[0]} "
        "first: no more are learnt. Prepare with --tile, or with fewer small things (--merge, --drop)"
    ]


def _origins(recipe: Recipe, source: LabelSpace, target: LabelSpace) -> dict[str, list[str]]:
    """What the classes of a dataset on this disk that `prepare` wrote are called by the model that it starts from."""
    custom = [category.name for category in target if category.source == "custom"]
    try:
        record = read_json(Path(str(recipe.prepared_folder or recipe.data)) / "prepare.json")
        return origins(record.get("settings") or {}, source, custom, record.get("relabelled", ()))
    except (HfDetrPanopticError, AttributeError, KeyError, TypeError, ValueError):  # none, or somebody else's
        return {}


def prepare_model(model: DetrForPanopticSegmentation, stage: Stage) -> None:
    """Freeze what the stage does not train, and say which losses it learns by."""
    if stage.name == "mask_head":
        model.freeze("detr", *(part for part in stage.freeze if part == "mask_head"))
    else:
        model.freeze(*stage.freeze, *(["mask_head"] if stage.name == "detection" else []))
    model.with_masks = stage.name != "detection"
    model.auxiliary_loss = stage.name != "mask_head"
    model.mask_query_threshold = stage.threshold if stage.mask_queries == "confident" else None


class _Stage:
    """One stage on its way: its model, its data, its Trainer."""

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        splits: Splits,
        model: DetrForPanopticSegmentation,
        say: Say,
        folder: Path | None = None,
    ) -> None:
        self.recipe, self.stage, self.splits, self.model, self.say = recipe, stage, splits, model, say
        self.folder = folder or stage_folder(recipe.output, stage.name)
        prepare_model(model, stage)
        self.trained = trainable_line(stage.name, model)
        say(self.trained)
        self.args = training_arguments(stage, PartialState().device, output_dir=self.folder, seed=recipe.seed)
        if hint := slower_than_it_could(stage, self.args):
            say(hint)
        if self.args.report_to:
            self.args.report_to = []  # one run in the tracker, not three: `Tracking` reports
        self.dataset = PanopticDataset(
            splits.train, model.preprocess, recipe.augmentation, seed=seed_of(recipe.seed, stage.name)
        )
        fit_batch_size(model, self.args, self.dataset, self.folder, say)

    def trainer(self, callbacks: Sequence[Any] = ()) -> PanopticTrainer:
        if self.stage.early_stopping is not None:
            callbacks = [Patience(self.stage.early_stopping), *callbacks]
        return PanopticTrainer(self.model, self.args, self.stage, self.dataset, self.splits.val, callbacks)

    def estimate(self) -> Estimate:
        try:
            estimate = rehearse(self.trainer(), len(self.recipe.stages.to_run))
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            raise training_memory_error(self.stage.name, self.args, self.folder, None) from error
        for line in estimate.lines(Path(self.recipe.output)):
            self.say(line)
        return estimate

    def run(
        self,
        interruption: Interruption,
        before: Sequence[StageEnd],
        tracker: Tracker | None,
        first: StageEnd | None,
    ) -> StageEnd:
        """Train, or go on; then evaluate the best and save it. Of a refit the figures are those of the first run."""
        main = PartialState().is_main_process
        images = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        stopping = StopOnSignal(interruption)
        rows = [row for end in before for row in end.rows]
        results = Results(Path(self.recipe.output) / "results.csv", self.stage.name, rows)
        unchanged = Unchanged(stamps_of(self.splits.by_name))
        callbacks: list[Any] = [stopping, unchanged, ProgressLine(self.stage.name, images), results]
        trainer = self.trainer(callbacks)
        if tracker is not None:
            name, steps = self.stage.name, sum(end.steps for end in before)
            trainer.add_callback(Tracking(tracker, name, steps, trainer.rows_per_class, trainer.few_maps))
        resumed = checkpoints.last_complete(self.folder)
        PartialState().wait_for_everyone()
        if main:
            checkpoints.rotate(self.folder, None, None)  # halves that a kill has left
            write_environment(self.recipe.output, self.args.device)
        if resumed is None:
            for line in rehearse(trainer, len(self.recipe.stages.to_run)).lines(self.folder):
                self.say(line)
        else:
            self.say(f"{self.stage.name}: resumed from {resumed}")
        trainer.cost = Cost(self.args.device, {} if resumed is None else checkpoints.read_marker(resumed))
        if resumed is not None and self._has_trained(trainer, resumed):
            trainer.stand_at(resumed)
            trainer.evaluate_what_is_due()
            self._take_best(trainer, resumed)
        else:
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        if stopping.stopped is not None:
            raise Interrupted(stopping.stopped, self.recipe.output)
        trainer.settle()
        result = self._measured(trainer) if first is None else first.result
        shifts = result.get("calibration") if first is not None and self._is_last else None
        if shifts and (shifts["no_object"] or shifts["yours"]):
            shift_logits(self.model, shifts["no_object"], shifts["yours"])
            self.model.settings = self.model.settings.changed(threshold=shifts["thresholds"][0])
        end = self._end(trainer, results, result)
        if main:
            self.model.save_pretrained(self.folder)
            end.mark()
        PartialState().wait_for_everyone()
        return end

    @property
    def _is_last(self) -> bool:
        return self.stage.name == self.recipe.stages.to_run[-1].name

    def _measured(self, trainer: PanopticTrainer) -> Mapping[str, Any]:
        """How good the best checkpoint is, calibrated if this is the last stage of a recipe that says so."""
        wanted = self._is_last and self.recipe.calibrate
        if wanted and self.splits.on_train:
            self.say(f"{self.stage.name}: not calibrated, for what was learnt from looks surer than it is")
        calibration = self._calibrated() if wanted and not self.splits.on_train else None
        trainer.measure()
        assert trainer.last_result is not None
        result = trainer.last_result if self.model.with_masks else {"pq": None, "box": trainer.last_result}
        if self.splits.on_train:
            result = {**result, MEASURED_ON: "train"}
        return result if calibration is None else {**result, "calibration": calibration.to_dict()}

    def _calibrated(self) -> Calibration:
        precision = "bf16" if self.args.bf16_full_eval else "fp32"
        # Photo by photo: of each there are more masks than an evaluation needs.
        calibration = calibrate(self.model, self.splits.val, batch_size=1, precision=precision)
        for line in calibration.lines():
            self.say(f"{self.stage.name}: {line}")
        return calibration

    def _has_trained(self, trainer: PanopticTrainer, resumed: Path) -> bool:
        """Whether all steps are taken, or patience had an end, and what was interrupted is what comes after.

        Trainer takes a step before it looks whether there is one left.
        """
        state = TrainerState.load_from_json(str(resumed / TRAINER_STATE_NAME))
        if state.global_step >= total_steps(trainer)[0]:
            return True
        patience = self.stage.early_stopping
        return patience is not None and Patience(patience).is_over(self.args, state.log_history)

    def _take_best(self, trainer: PanopticTrainer, resumed: Path) -> None:
        """As Trainer does it after the last step."""
        best = checkpoints.checkpoint_folder(self.folder, trainer.state.best_global_step or 0)
        wanted = self.args.load_best_model_at_end and checkpoints.is_complete(best)
        load_strictly(self.model, best if wanted else resumed)
        self.model.to(self.args.device)  # type: ignore[arg-type]
        trainer.average = None

    def _end(self, trainer: PanopticTrainer, results: Results, result: Mapping[str, Any]) -> StageEnd:
        history = trainer.state.log_history
        metric = str(self.args.metric_for_best_model).removeprefix("eval_")
        values = [(entry[f"eval_{metric}"], entry["epoch"]) for entry in history if f"eval_{metric}" in entry]
        sign = 1 if self.args.greater_is_better else -1
        best = max(reversed(values), key=lambda value: sign * value[0], default=(None, None))  # of equals the later
        return StageEnd(
            name=self.stage.name,
            folder=self.folder,
            result=result,
            metric=metric,
            best=best[0],
            last=values[-1][0] if values else None,
            best_epoch=best[1],
            steps=trainer.state.global_step,
            trained=self.trained,
            rows=tuple(results.rows(history)),
            **trainer.cost.so_far(),
        )


def chosen_stages(recipe: Recipe, start: str | None, stop: str | None) -> list[Stage]:
    """What the recipe does not skip, from `start` to `stop`."""
    for name in (start, stop):
        if name is not None and name not in STAGES:
            raise RecipeError(f"there is no stage {name!r}", fix=did_you_mean(name, STAGES))
    first = STAGES.index(start) if start else 0
    last = STAGES.index(stop) if stop else len(STAGES) - 1
    chosen = [stage for stage in recipe.stages.to_run if first <= STAGES.index(stage.name) <= last]
    if not chosen:
        raise RecipeError("no stage is left to run", fix="Look at --start and --stop, and at `skip` in the recipe.")
    return chosen


def _forget_precision() -> None:
    """Each stage may have its own; accelerate remembers the first one's."""
    AcceleratorState._reset_state(reset_partial_state=False)


def copy_final(end: StageEnd, final: Path) -> None:
    """final/ is the last stage's model: its files, not its checkpoints."""
    partial = final.with_name(".final.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in end.folder.iterdir():
        if path.is_file() and path.name != checkpoints.MARKER:
            shutil.copy2(path, partial / path.name)
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)


def _silent(text: str) -> None:
    """What other processes than the main one say."""
