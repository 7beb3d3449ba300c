"""A labeler over many photos: which model it is, batches planned and shared out, answers kept on disk."""

from __future__ import annotations

import argparse
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..dataset.copies import digest_of
from ..errors import HfDetrPanopticError, ImageError, LabelError, ModelError, RecipeError
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from ..parallel import progress_bar, read_ahead
from ..recipe import add_prepare_flags, prepare_settings
from ..settings import DEFAULT_MODEL, FLOOR, Prepare
from ..text import are, count_of
from .autolabels import AutoLabels
from .inputs import Photo, Problem, photo_bytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from ..model.modeling import DetrForPanopticSegmentation
    from ..preprocess import Preprocess
    from .inputs import Inputs

    Answers = tuple[list[PanopticMap], npt.NDArray[np.float32] | None]
    """The maps of a batch, and what `Labeler` calls features."""


class DetrLabeler:
    """A DETR with the settings that a night of labeling needs; photos of a call go through the model together."""

    def __init__(self, model: DetrForPanopticSegmentation, precision: str = "fp32") -> None:
        self.model = model
        self.precision = precision
        self._space = model.label_space
        self._fingerprint = model.fingerprint if precision == "fp32" else f"{model.fingerprint}-{precision}"
        self.features: npt.NDArray[np.float32] | None = None

    @property
    def label_space(self) -> LabelSpace:
        return self._space

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def preprocess(self) -> Preprocess:
        return self.model.preprocess

    @property
    def device(self) -> torch.device:
        return self.model.device

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]:
        photos = [self.ready(image) for image in images]
        if len({photo.pixel_values.shape for photo in photos}) == 1:
            maps, self.features = self.begin(photos, threshold)()
            return maps
        self.features = None  # of photos that the model sees in several sizes
        return self.model.segment(
            images, threshold=threshold, precision=self.precision, batch_size=max(1, len(images))
        )

    def ready(self, photo: Any) -> Ready:
        """As the model will see it: float [3, h, w], beside its own (height, width)."""
        from ..preprocess import as_pixels

        pixels = as_pixels(photo if hasattr(photo, "ndim") else open_image(photo, copied=False))
        return Ready(self.preprocess(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1])))

    def begin(self, photos: Sequence[Ready], threshold: float) -> Callable[[], Answers]:
        """Photos of one size through the model; maps and features are there when what comes back is called."""
        import torch

        from ..model.segment import begin_batch

        pooled: list[torch.Tensor] = []

        def pool(detection: Any) -> None:
            pooled.append(detection.encoder[0].float().mean(1))  # over all places of the encoder: [B, d]

        settings = self.model.settings.changed(threshold=threshold)
        values = torch.stack([photo.pixel_values for photo in photos])
        sizes = [photo.size for photo in photos]
        training = self.model.training
        self.model.eval()
        try:
            maps = begin_batch(self.model, values, sizes, settings, precision=self.precision, seen=pool)
        finally:
            self.model.train(training)
        return lambda: (maps(), pooled[0].cpu().numpy())


class Ready(NamedTuple):
    """A photo that waits for the model. pixel_values: float [3, h, w]; size: its own (height, width)."""

    pixel_values: torch.Tensor
    size: tuple[int, int]


def load_labeler(
    labeler: Any = DEFAULT_MODEL, stuff: Iterable[str] | None = None, precision: str = "fp32", device: Any = None
) -> Labeler:
    """A labeler from a checkpoint's folder or name, or from a model; what is a labeler already comes back as it is.

    `stuff` names its stuff classes where neither its configuration nor COCO can say.
    """
    from ..model.modeling import DetrForPanopticSegmentation

    if isinstance(labeler, DetrForPanopticSegmentation):
        return DetrLabeler(labeler, precision)
    if not isinstance(labeler, str | os.PathLike):
        return labeler  # type: ignore[no-any-return]
    family = _config_of(labeler).get("model_type")
    try:
        if family == "detr":
            loaded: Any = DetrForPanopticSegmentation.from_pretrained(labeler, stuff=stuff, output_loading_info=True)
            model, info = loaded
            if any(str(key).startswith("mask_head.") for key in info["missing_keys"]):
                raise ModelError(
                    "is a detection checkpoint: it knows boxes, and no masks",
                    where=str(labeler),
                    fix=f"Use {DEFAULT_MODEL}.",
                )
            return DetrLabeler(model.to(device or "cpu").eval(), precision)
        from ..model.universal import UniversalLabeler

        return UniversalLabeler.from_pretrained(labeler, stuff=stuff, precision=precision, device=device)
    except LabelError as error:
        raise _which_are_stuff(error, str(labeler)) from error


def labeler_space(labeler: Any, stuff: Iterable[str] | None = None) -> LabelSpace | None:
    """The classes of a labeler by its configuration alone, no weights; None where that cannot be had."""
    if not isinstance(labeler, str | os.PathLike):
        space = getattr(labeler, "label_space", None)
        return space if isinstance(space, LabelSpace) else None
    try:
        fields = _config_of(labeler)
    except ModelError:
        if Path(labeler).exists() or str(labeler) != DEFAULT_MODEL:
            raise
        return LabelSpace.coco()  # known by heart: a dry run needs no network
    try:
        return LabelSpace.from_config(fields, stuff=stuff)
    except LabelError as error:
        raise _which_are_stuff(error, str(labeler)) from error


def _config_of(labeler: str | os.PathLike[str]) -> Mapping[str, Any]:
    from transformers import PreTrainedConfig
    from transformers.utils.hub import cached_file

    from ..model.checkpoints import hub_arguments, readable

    hub = hub_arguments(labeler, {})
    try:
        if cached_file(str(labeler), "config.json", _raise_exceptions_for_missing_entries=False, **hub) is None:
            raise ModelError("there is no config.json", where=str(labeler), fix="A labeler is a folder with one.")
        with readable(str(labeler)):
            fields, _ = PreTrainedConfig.get_config_dict(str(labeler), **hub)
    except OSError as error:
        raise ModelError(
            f"the labeler cannot be found ({str(error).splitlines()[0]})",
            where=str(labeler),
            fix=f"Check the name; the default is {DEFAULT_MODEL}.",
        ) from error
    return fields


def _which_are_stuff(error: LabelError, where: str) -> LabelError:
    if "things or stuff" not in error.what:
        return error
    return LabelError(
        error.what, where=where, fix="Say which are stuff: --labeler-stuff sky,road (or '' if all are things)."
    )


logger = logging.getLogger(__name__)

_READERS = 4
_WRITERS = 2
_AHEAD = 2  # batches that are read before their turn; and as many wait to be finished


class Labeler(Protocol):
    """Anything that makes panoptic maps of photos. `fingerprint` tells weights and settings apart, for file names.

    One that has a `preprocess.output_size(height, width)` gets photos of different sizes in a batch where the model
    will see them in the same size; any other one gets photos of one size. One may have `features`: float [N, d], how
    alike the photos are that it segmented last (here the encoder's states, pooled); `next` goes by it.

    One may have `ready(photo)` and `begin(what ready gave, threshold)`, as `DetrLabeler` has: `label` calls the first
    where photos are read, and what the second gives back, `() → (maps, features)`, while the next batch is being seen.
    """

    @property
    def label_space(self) -> LabelSpace: ...

    @property
    def fingerprint(self) -> str: ...

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]: ...


@dataclass
class LabelingDone:
    """What a run did: photos that it labelled, that were there before, and that could not be labelled."""

    made: int = 0
    there: int = 0
    problems: list[Problem] = field(default_factory=list)


def labeler_settings(labeler: Labeler, threshold: float = FLOOR, batch_size: int = 4) -> dict[str, Any]:
    """Everything but the photo that decides an answer to its last bit: the name of a folder of `AutoLabels`.

    On a processor the number of threads is part of it: sums are split among them.
    """
    device = str(getattr(labeler, "device", "cpu")).partition(":")[0]
    settings = {
        "fingerprint": labeler.fingerprint,
        "threshold": threshold,
        "batch_size": batch_size,
        "device": device,
    }
    if device == "cpu":
        import torch

        settings["threads"] = torch.get_num_threads()
    return settings


def plan_batches(labeler: Labeler, photos: Sequence[Photo], batch_size: int) -> list[tuple[Photo, ...]]:
    """Batches of photos that the model sees in one size. Of equal files one stands for all."""
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}", fix="Give 1 or more.")
    by_size: dict[tuple[int, int], list[Photo]] = {}
    seen: set[str] = set()
    for photo in sorted(photos, key=lambda photo: photo.name):
        if photo.digest not in seen:
            seen.add(photo.digest)
            by_size.setdefault(size_in_model(labeler, photo.size), []).append(photo)
    return [tuple(same[i : i + batch_size]) for same in by_size.values() for i in range(0, len(same), batch_size)]


def size_in_model(labeler: Labeler, size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) in which the model sees a photo of this size: photos of one may share a batch."""
    output_size: Callable[[int, int], tuple[int, int]] | None = getattr(
        getattr(labeler, "preprocess", None), "output_size", None
    )
    return output_size(*size) if output_size else size


def label(
    labeler: Labeler,
    folder: Path,
    photos: Sequence[Photo],
    answers: AutoLabels,
    *,
    threshold: float = FLOOR,
    batch_size: int = 4,
    share: tuple[int, int] = (0, 1),
    progress: bool = False,
) -> LabelingDone:
    """Have every photo of this `share` (number, of how many) labelled; the answers are on disk when this returns.

    Memory does not grow with the number of photos. A photo that cannot be read any more is a problem in the result;
    the rest of its batch is labelled without it. Killed at any time, it continues where it was.
    """
    mine = plan_batches(labeler, photos, batch_size)[share[0] :: share[1]]
    done = LabelingDone()
    there = list(read_ahead(lambda batch: [answers.has(photo.digest) for photo in batch], mine, threads=_READERS))
    todo = [batch for batch, has in zip(mine, there, strict=True) if not all(has)]
    done.there = sum(map(sum, there))
    total = sum(map(len, mine))
    what = f"labeling, process {share[0] + 1} of {share[1]}" if share[1] > 1 else "labeling"
    bar = progress_bar(total=total, initial=total - sum(map(len, todo)), what=what, unit="image", show=progress)
    with ThreadPoolExecutor(_WRITERS) as writers, bar:
        finishing: deque[Future[int]] = deque()
        try:
            for batch in _opened(labeler, folder, todo, batch_size):
                done.problems += [item for item in batch if isinstance(item, Problem)]
                if readable := [item for item in batch if not isinstance(item, Problem)]:
                    answer = _begun(labeler, [item for _, item in readable], threshold, _names(readable))
                    seen = [photo for photo, _ in readable]
                    finishing.append(writers.submit(_finish, answers, seen, answer, _names(readable)))
                while len(finishing) > _AHEAD:
                    done.made += finishing.popleft().result()
                bar.update(len(batch))
            for finished in finishing:
                done.made += finished.result()
        except BaseException:
            # What has not begun is pointless now; without this it would all be waited for.
            writers.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def _opened(
    labeler: Labeler, folder: Path, batches: Sequence[tuple[Photo, ...]], batch_size: int
) -> Iterator[list[tuple[Photo, Any] | Problem]]:
    """The photos of each batch, decoded and, if the labeler can, made ready, while those before are in the model."""
    ready: Callable[[Any], Any] | None = getattr(labeler, "ready", None)
    photos = chain.from_iterable(batches)
    opened = read_ahead(partial(_open, folder, ready), photos, threads=_READERS, ahead=_AHEAD * batch_size)
    for batch in batches:
        yield list(islice(opened, len(batch)))


def _open(folder: Path, ready: Callable[[Any], Any] | None, photo: Photo) -> tuple[Photo, Any] | Problem:
    try:
        content = photo_bytes(folder, photo.name)
        if digest_of(content) != photo.digest:
            raise ImageError("the photo was changed while it was being labelled", fix="Run the same command again.")
        image = open_image(content)
        return photo, ready(image) if ready else image
    except HfDetrPanopticError as error:
        return Problem(photo.name, error.what, error.fix)


def _names(batch: Sequence[tuple[Photo, Any]]) -> str:
    return f"{batch[0][0].name}{f' and {len(batch) - 1} more' if len(batch) > 1 else ''}"


def _begun(labeler: Labeler, photos: list[Any], threshold: float, names: str) -> Callable[[], Answers]:
    """The model's part of a batch, done; what comes back does the rest, if there is any."""
    with _told_of_memory(len(photos), names):
        begin: Callable[[list[Any], float], Callable[[], Answers]] | None = getattr(labeler, "begin", None)
        if begin:
            return begin(photos, threshold)
        maps = labeler.segment(photos, threshold=threshold)
        features = getattr(labeler, "features", None)
        return lambda: (maps, features)


def _finish(answers: AutoLabels, photos: Sequence[Photo], answer: Callable[[], Answers], names: str) -> int:
    """Maps made and written while the next batch is in the model. Returns how many were not there before."""
    with _told_of_memory(len(photos), names):
        maps, offered = answer()
    if len(maps) != len(photos):
        raise ModelError(f"the labeler returned {len(maps)} maps for {len(photos)} photos", where=names)
    features = offered if offered is not None and len(offered) == len(maps) else [None] * len(maps)
    for photo, panoptic in zip(photos, maps, strict=True):
        if (panoptic.height, panoptic.width) != photo.size:
            raise ModelError(
                f"the labeler's map is {panoptic.width}×{panoptic.height}, the photo {photo.size[1]}×{photo.size[0]}",
                where=photo.name,
                fix="A labeler returns maps at the size of the upright photo.",
            )
    made = 0
    for photo, panoptic, of_photo in zip(photos, maps, features, strict=True):
        if not answers.has(photo.digest):
            answers.write(photo.digest, panoptic, of_photo)
            made += 1
    return made


@contextmanager
def _told_of_memory(count: int, names: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        raise ModelError(
            f"a batch of {count} does not fit into memory", where=names, fix="Use a smaller --batch-size."
        ) from error


@dataclass(frozen=True)
class LabelledPhotos:
    """Every photo that can be used, with the labeler's answers on disk."""

    inputs: Inputs
    photos: list[Photo]
    problems: list[Problem]
    answers: AutoLabels


def _compare_thresholds(labeler: Labeler, settings: Prepare) -> None:
    """A model of few photos is seldom as sure as COCO's, and at its threshold shows next to nothing."""
    config = getattr(getattr(labeler, "model", None), "config", None)
    own = (getattr(config, "hf_detr_panoptic", None) or {}).get("threshold")
    if isinstance(own, int | float) and own < settings.threshold:
        logger.warning(
            "%s remembers a threshold of %g: what it is less sure of than %g becomes void. --threshold %g keeps it",
            settings.labeler,
            own,
            settings.threshold,
            max(own, FLOOR),
        )


def label_photos(settings: Prepare, progress: bool = False, shard: tuple[int, int] = (0, 1)) -> LabelledPhotos | None:
    """Inputs read, photos looked at, each of them labelled by one process. None for all processes but the first.

    `shard` (number, of how many) is for machines that share nothing but a folder: each does its own part.
    """
    from accelerate import PartialState

    from ..parallel import guard_processes, results_of_all
    from .autolabels import AutoLabels
    from .inputs import Earlier, label_space, read_inputs, survey
    from .tiling import cut_up

    processes = guard_processes(timedelta(days=7))
    state = PartialState()
    first = state.is_main_process
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
    inputs = cut_up(settings, read_inputs(settings), progress and first)
    Earlier.of(settings.folder)  # raises where the folder is somebody else's: better now than after a night
    names = inputs.names[state.process_index :: processes]
    shares = results_of_all(lambda: survey(inputs.folder, names, progress=progress and first))
    photos = sorted((photo for part, _ in shares for photo in part), key=lambda photo: photo.name)
    problems = sorted((problem for _, part in shares for problem in part), key=lambda problem: problem.photo)
    if settings.strict:
        raise_first(problems)
    labeler = load_labeler(settings.labeler, settings.labeler_stuff, settings.precision, state.device)
    label_space(settings, labeler.label_space, inputs.custom)  # classes that cannot be joined: said before the work
    if first:
        _compare_thresholds(labeler, settings)
    answers = AutoLabels.open(
        settings.folder / "autolabels", labeler.label_space, labeler_settings(labeler, FLOOR, settings.batch_size)
    )
    share = (state.process_index * shard[1] + shard[0], processes * shard[1])
    done = results_of_all(
        lambda: label(
            labeler,
            inputs.folder,
            photos,
            answers,
            batch_size=settings.batch_size,
            share=share,
            progress=progress and first,
        )
    )
    if not first:
        return None
    failed = {problem.photo: problem for each in done for problem in each.problems}
    if settings.strict:
        raise_first(list(failed.values()))
    usable = [photo for photo in photos if photo.name not in failed]
    return LabelledPhotos(inputs, usable, [*problems, *failed.values()], answers)


def raise_first(problems: list[Problem]) -> None:
    """What --strict asks for."""
    from ..errors import ImageError

    for problem in problems:
        raise ImageError(problem.what, where=problem.where or problem.photo, fix=problem.fix)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prepare_flags(parser)
    parser.add_argument("--shard", metavar="I/N", help="the i-th of n machines: this part of the photos only")


def main(args: argparse.Namespace) -> int:
    """Only the labeling: every photo through the labeler, its answers kept where `prepare` and `overlay` find them.

      hf-detr-panoptic autolabel --images photos/ --out data/site
      hf-detr-panoptic autolabel --images photos/ --out /mnt/shared/site --shard 2/3    # the second of three machines

    With --annotations only the photos that `prepare` would use. Machines that share a folder and nothing else each
    take a shard: shards are told by number, so no machine waits for another, and none leaves a lock behind when it
    dies. What a machine left undone the next command makes up for, on any machine.
    """
    from ..errors import clear_errors
    from ..watch import watched
    from .inputs import as_files

    settings = prepare_settings(args)
    with watched(), clear_errors(settings.folder):
        settings = as_files(settings)
        labelled = label_photos(settings, progress=True, shard=_shard(args.shard))
    if labelled is None:
        return 0
    for problem in labelled.problems[:10]:
        print(problem)
    if args.shard:
        print(
            f"shard {args.shard} of {count_of(len(labelled.photos), 'photo')} is labelled: {labelled.answers.folder}"
        )
        print("next: when all shards are, hf-detr-panoptic prepare with the same settings, on one machine")
        return 0
    labelled.answers.sweep()
    print(f"{count_of(len(labelled.photos), 'photo')} {are(len(labelled.photos))} labelled: {labelled.answers.folder}")
    print(f"next: hf-detr-panoptic overlay --images {settings.images} --annotations MARKS --out {settings.folder}")
    return 0


def _shard(text: str | None) -> tuple[int, int]:
    """ "2/3" → (1, 3)."""
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise RecipeError(f"--shard cannot be {text!r}", fix="Write 2/3 for the second of three machines.")
    return int(number) - 1, int(count)
