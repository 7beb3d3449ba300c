"""A labeler over many photos: in batches, while files are read and written; what is there already is not made again.

Batches are planned from the sorted full list before anything is skipped, and are the unit of resuming and of sharing:
what else is in a batch moves a logit in its last bits, so a photo must meet the same neighbours whatever was
interrupted and however many processes there are.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..data.near_copies import digest_of
from ..errors import HfDetrPanopticError, ImageError, ModelError
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap
from .autolabels import FLOOR, AutoLabels
from .photos import Photo, Problem, read_photo

if TYPE_CHECKING:
    from PIL import Image

_READERS = 4
_WRITERS = 2
_AHEAD = 2  # batches that are read before their turn; and as many wait to be written

Batch = tuple[Photo, ...]


class Labeler(Protocol):
    """Anything that makes panoptic maps of photos. `fingerprint` tells weights and settings apart, for file names.

    One that has a `preprocess.output_size(height, width)` gets photos of different sizes in a batch where the model
    will see them in the same size; any other one gets photos of one size.
    """

    @property
    def label_space(self) -> LabelSpace: ...

    @property
    def fingerprint(self) -> str: ...

    def segment(self, images: Any, threshold: float) -> list[PanopticMap]: ...


@dataclass
class Labelled:
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


def plan(labeler: Labeler, photos: Sequence[Photo], batch_size: int) -> list[Batch]:
    """Batches of photos that the model sees in one size. Of equal files one stands for all."""
    if batch_size < 1:
        raise ModelError(f"batch_size is {batch_size}", fix="Give 1 or more.")
    output_size: Callable[[int, int], tuple[int, int]] | None = getattr(
        getattr(labeler, "preprocess", None), "output_size", None
    )
    by_size: dict[tuple[int, int], list[Photo]] = {}
    seen: set[str] = set()
    for photo in sorted(photos, key=lambda photo: photo.name):
        if photo.digest not in seen:
            seen.add(photo.digest)
            size = output_size(*photo.size) if output_size else photo.size
            by_size.setdefault(size, []).append(photo)
    return [tuple(same[i : i + batch_size]) for same in by_size.values() for i in range(0, len(same), batch_size)]


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
) -> Labelled:
    """Have every photo of this `share` (number, of how many) labelled; the answers are on disk when this returns.

    Memory does not grow with the number of photos. A photo that cannot be read any more is a problem in the result;
    the rest of its batch is labelled without it. Killed at any time, it continues where it was.
    """
    mine = plan(labeler, photos, batch_size)[share[0] :: share[1]]
    done = Labelled()
    with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(_WRITERS) as writers:
        there = list(readers.map(lambda batch: [answers.has(photo.digest) for photo in batch], mine))
        todo = [batch for batch, has in zip(mine, there, strict=True) if not all(has)]
        done.there = sum(map(sum, there))
        total = sum(map(len, mine))
        bar = _bar(total, total - sum(map(len, todo)), share, progress)
        writing: deque[Future[None]] = deque()
        try:
            for batch in _opened(folder, todo, readers):
                readable = [item for item in batch if not isinstance(item, Problem)]
                done.problems += [item for item in batch if isinstance(item, Problem)]
                for photo, found in _segmented(labeler, readable, threshold):
                    if not answers.has(photo.digest):
                        writing.append(writers.submit(answers.write, photo.digest, found))
                        done.made += 1
                while len(writing) > _AHEAD * batch_size:
                    writing.popleft().result()
                bar.update(len(batch))
            for written in writing:
                written.result()
        except BaseException:
            # Reads and writes that have not begun are pointless now; without this they would all be waited for.
            readers.shutdown(wait=False, cancel_futures=True)
            writers.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            bar.close()
    return done


def _opened(
    folder: Path, batches: Sequence[Batch], readers: ThreadPoolExecutor
) -> Iterator[list[tuple[Photo, Image.Image] | Problem]]:
    """The photos of each batch, decoded while the batches before are in the model."""
    coming: deque[list[Future[tuple[Photo, Image.Image] | Problem]]] = deque()
    ahead = iter(batches)
    for _ in batches:
        while len(coming) <= _AHEAD and (following := next(ahead, None)) is not None:
            coming.append([readers.submit(_open, folder, photo) for photo in following])
        yield [future.result() for future in coming.popleft()]


def _open(folder: Path, photo: Photo) -> tuple[Photo, Image.Image] | Problem:
    try:
        content = read_photo(folder, photo.name)
        if digest_of(content) != photo.digest:
            raise ImageError("the photo was changed while it was being labelled", fix="Run the same command again.")
        return photo, open_image(content)
    except HfDetrPanopticError as error:
        return Problem(photo.name, error.what, error.fix)


def _segmented(
    labeler: Labeler, batch: Sequence[tuple[Photo, Image.Image]], threshold: float
) -> Iterator[tuple[Photo, PanopticMap]]:
    if not batch:
        return
    names = f"{batch[0][0].name}{f' and {len(batch) - 1} more' if len(batch) > 1 else ''}"
    try:
        maps = labeler.segment([image for _, image in batch], threshold=threshold)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "out of memory" not in str(error):
            raise
        raise ModelError(
            f"a batch of {len(batch)} does not fit into memory", where=names, fix="Use a smaller --batch-size."
        ) from error
    if len(maps) != len(batch):
        raise ModelError(f"the labeler returned {len(maps)} maps for {len(batch)} photos", where=names)
    for (photo, _), found in zip(batch, maps, strict=True):
        if (found.height, found.width) != photo.size:
            raise ModelError(
                f"the labeler's map is {found.width}×{found.height}, the photo {photo.size[1]}×{photo.size[0]}",
                where=photo.name,
                fix="A labeler returns maps at the size of the upright photo.",
            )
        yield photo, found


def _bar(total: int, initial: int, share: tuple[int, int], progress: bool) -> Any:
    """Done of all, images a second and the time that is left; a line a minute where nobody watches."""
    from tqdm import tqdm

    name = f"labeling, process {share[0] + 1} of {share[1]}" if share[1] > 1 else "labeling"
    often = 0.2 if sys.stderr.isatty() else 60.0
    return tqdm(
        total=total,
        initial=initial,
        desc=name,
        unit="image",
        mininterval=often,
        maxinterval=often,
        smoothing=0.05,
        disable=not progress,
    )
