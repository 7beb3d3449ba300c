"""What a run learns from and is measured on, and which of it each process sees, step by step."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, Sampler

from ..dataset.batches import EpochSampler, Row, collate
from ..dataset.transforms import rng_of
from ..dataset.validation import MARK_MORE
from ..errors import DatasetError, RecipeError
from ..images import image_size
from ..labels import LabelSpace
from ..parallel import read_ahead
from ..stage_settings import YOURS_AND_ALL, Stage
from ..text import and_more

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Both parts, in one label space. `on_train`: val is empty on disk, and here the photos of train that are known.

    See `dataset/validation.py`.
    """

    train: Sequence[Row]
    val: Sequence[Row]
    space: LabelSpace
    on_train: bool = False

    @property
    def by_name(self) -> dict[str, Sequence[Row]]:
        """As the dataset has them."""
        return {"train": self.train, "val": () if self.on_train else self.val}


def check_splits(splits: Splits, stages: Iterable[Stage]) -> None:
    """What would spoil a run of these stages later, said before it begins."""
    sides = {"train": splits.train, "val": splits.val}
    for name, rows in sides.items():
        if not len(rows):
            raise DatasetError(f"the split {name} is empty", fix=MARK_MORE)
    seen = {name: [segment.label for row in rows for segment in row.segments] for name, rows in sides.items()}
    for name, labels in seen.items():
        if not labels:
            raise DatasetError(
                f"no photo of the split {name} has a segment", fix="`hf-detr-panoptic check` shows what is in it."
            )
    for stage in stages:
        _check_metric(stage, splits)
        if stage.marked_share is not None and len(set(marked := carry_marks(splits.train))) == 1:
            logger.warning(
                "stages.%s.marked_share: %s of the %d training photos carries marks of yours, so each comes once",
                stage.name,
                "every one" if marked[0] else "none",
                len(marked),
            )
    learnt = set(seen["train"])
    absent = [category.name for label, category in enumerate(splits.space) if label not in learnt]
    if absent:
        logger.warning(
            "%d of %d classes have no segment to learn from: %s", len(absent), len(splits.space), and_more(absent)
        )


def check_sizes(rows: Sequence[Row]) -> None:
    """Raise for a photo of validation that is not as large as its map: else known when the first stage is trained.

    A photo of train is read in the first epoch.
    """
    for row, photo, png in read_ahead(lambda row: (row, image_size(row.photo), image_size(row.png)), rows):
        if photo != png:
            raise DatasetError(
                f"the upright photo is {photo[0]}×{photo[1]}, its map {png[0]}×{png[1]}",
                where=row.where,
                fix="`hf-detr-panoptic check` lists all that do not fit.",
            )


def _check_metric(stage: Stage, splits: Splits) -> None:
    """Things, stuff or the person's classes alone can be measured only where there are some; crowds do not count."""
    whole, _, group = str(stage.training_arguments["metric_for_best_model"]).rpartition("_")
    space = splits.space
    groups = {"things": space.thing_labels, "stuff": space.stuff_labels, "yours": space.custom_labels}
    if group in groups and not _has_any(splits.val, groups[group]):
        named = "classes that people mark" if group == "yours" else group
        raise RecipeError(
            f"the best checkpoint shall be found by its {named}, and the split val has none",
            where=f"stages.{stage.name}.metric_for_best_model",
            fix=f"Write `{whole.removeprefix('eval_')}`.",
        )


def measurable(metric: str, rows: Sequence[Row], space: LabelSpace) -> str:
    """The mean of the person's classes and all is that of all where nothing of the person's can be measured."""
    if not metric.endswith(YOURS_AND_ALL) or _has_any(rows, space.custom_labels):
        return metric
    return metric.removesuffix(YOURS_AND_ALL)


def _has_any(rows: Sequence[Row], labels: Container[int]) -> bool:
    return any(segment.label in labels and not segment.crowd for row in rows for segment in row.segments)


# A key of the dataset: (epoch, index), or with "filler" (epoch, index, True).
Key = tuple[Any, ...]

# Epochs that no run reaches: another augmentation for a photo that is seen twice in one.
_REPEATS_APART = 1_000_000


class RepeatSampler(EpochSampler):
    """Photos as often as their factor says, the same number each epoch: (epoch, index) pairs.

    Factors are brought to whole photos by systematic sampling: in a shuffled order, one draw every 1 on the cumulative
    sum. So each photo comes floor(factor) or ceil(factor) times, and a photo that comes twice is augmented twice.
    """

    def __init__(self, factors: Sequence[float], *, seed: int = 0) -> None:
        total = max(1, round(sum(factors)))
        super().__init__(total, seed=seed)
        self.factors = [factor * total / sum(factors) for factor in factors]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = rng_of(self.seed, self.epoch, "repeats")
        indices = list(range(len(self.factors)))
        rng.shuffle(indices)
        ahead = 1 - rng.random()  # how far the next draw is
        keys: list[tuple[int, int]] = []
        for index in indices:
            ahead -= self.factors[index]
            repeat = 0
            while ahead <= 0 and len(keys) < self.length:
                keys.append((self.epoch + repeat * _REPEATS_APART, index))
                ahead += 1
                repeat += 1
        while len(keys) < self.length:  # rounding left the last draw just beyond the end
            keys.append((self.epoch + _REPEATS_APART, indices[-1]))
        rng.shuffle(keys)
        return iter(keys)


class MarkedSampler(EpochSampler):
    """A share of every batch from photos that people marked, the rest from the others: (epoch, index) pairs.

    An epoch is as long as there are photos. Among its first n there are ⌊n · share⌋ marked ones for every n, so each
    run of n photos, whatever the batch and the processes, has n · share of them, rounded up or down. Either kind is
    dealt from a shuffled pack, which is shuffled anew when it is used up and goes on from epoch to epoch: all photos
    of a kind are seen equally often. One that comes twice in an epoch is augmented twice. Where all photos are of a
    kind each comes once.
    """

    def __init__(self, marked: Sequence[bool], share: float, *, seed: int = 0) -> None:
        super().__init__(len(marked), seed=seed)
        self.packs = {kind: [place for place, its in enumerate(marked) if its == kind] for kind in (True, False)}
        self.share = share if all(self.packs.values()) else float(any(marked))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        kinds = [math.floor((n + 1) * self.share) > math.floor(n * self.share) for n in range(self.length)]
        dealt = {kind: self._dealt(kind, kinds.count(kind)) for kind in self.packs}
        times: Counter[int] = Counter()
        keys = []
        for kind in kinds:
            place = next(dealt[kind])
            keys.append((self.epoch + times[place] * _REPEATS_APART, place))
            times[place] += 1
        return iter(keys)

    def _dealt(self, marked: bool, count: int) -> Iterator[int]:
        """The photos of a kind that this epoch's turn of `count` is."""
        size = len(self.packs[marked])
        pack: list[int] = []
        for turn in range(self.epoch * count, (self.epoch + 1) * count):
            if not pack or turn % size == 0:
                pack = list(self.packs[marked])
                rng_of(self.seed, "pack", marked, turn // size).shuffle(pack)
            yield pack[turn % size]


def carry_marks(rows: Sequence[Row]) -> list[bool]:
    """Which photos a person marked something on."""
    return [any(segment.source == "custom" for segment in row.segments) for row in rows]


def sampler_of(stage: Stage, rows: Sequence[Row], seed: int) -> EpochSampler:
    """In which order, and how often, a stage sees these photos."""
    if stage.marked_share is not None:
        return MarkedSampler(carry_marks(rows), stage.marked_share, seed=seed)
    if stage.repeat_factor is not None:
        # The labeler's classes do not count: one that it made up is rarer than all that are there.
        labels = [{segment.label for segment in row.segments if segment.source == "custom"} for row in rows]
        return RepeatSampler(repeat_factors(labels, stage.repeat_factor), seed=seed)
    return EpochSampler(len(rows), seed=seed)


def repeat_factors(labels: Sequence[set[int]], share: float) -> list[float]:
    """How often each photo should come, by the rarest of its classes: max(1, √(share / the class's share of photos)).

    `labels`: the classes of each photo. The rule is LVIS's.
    """
    photos = Counter(label for there in labels for label in there)
    factor = {label: max(1.0, math.sqrt(share * len(labels) / count)) for label, count in photos.items()}
    return [max((factor[label] for label in there), default=1.0) for there in labels]


class RankBatches(Sampler[list[Key]]):
    """The micro-batches of one process: every photo of an epoch once, whatever the number of processes.

    Micro-batch m of all processes together is the m-th run of `batch_size × processes` photos, so a step sees the
    same photos as one process with the same global batch. What is left at the end is shared out evenly; a process
    for which nothing is left gets a filler: a photo whose loss counts nothing, because every process must take part.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self.sampler = sampler
        self.size = batch_size  # a `batch_size` of None or 1 is what a DataLoader's own attribute means
        self.rank = rank
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / (self.size * self.processes))

    def __iter__(self) -> Iterator[list[Key]]:
        keys: list[Key] = list(self.sampler)
        together = self.size * self.processes
        for start in range(0, len(keys), together):
            chunk = keys[start : start + together]
            if len(chunk) == together:
                yield chunk[self.rank * self.size : (self.rank + 1) * self.size]
            else:
                yield share_of(chunk, self.rank, self.processes) or [(*chunk[0], True)]


def share_of(items: Sequence[Any], rank: int, processes: int) -> list[Any]:
    """A process's part of items that do not come out even; parts differ by one at most."""
    return list(items[rank * len(items) // processes : (rank + 1) * len(items) // processes])


class WithFillers(Dataset[dict[str, Any]]):
    """A dataset whose key may say that the item is a filler; the label then says so, too."""

    def __init__(self, dataset: Dataset[dict[str, Any]]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        item = self.dataset[key[:2]]
        return {**item, "labels": {**item["labels"], "filler": True}} if len(key) == 3 else item


def is_filler(batch: Mapping[str, Any]) -> bool:
    """Whether a batch is there only so that its process takes part."""
    return any(label.get("filler", False) for label in batch["labels"])


def collate_for_training(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `collate`; a function of a module, so that workers can be spawned with it."""
    return collate(items)
