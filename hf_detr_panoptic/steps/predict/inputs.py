"""What `predict` is given: photos by file or folder, and a dataset that may know their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...data.coco_panoptic import Record, read_dataset
from ...errors import HfDetrPanopticError, ImageError
from ...images import list_images
from ...labels import LabelSpace


@dataclass(frozen=True)
class FoundPhoto:
    """A photo and the name it goes by, with "/": unique among those that were given."""

    name: str
    path: Path


def find_photos(
    given: Sequence[str | Path], besides: Path | None = None
) -> tuple[list[FoundPhoto], list[HfDetrPanopticError]]:
    """The photos of files and folders, each once, and what is wrong with what was given.

    Pictures in `besides` are left out: what was drawn last time is not a photo.
    """
    found: dict[Path, str] = {}
    names: set[str] = set()
    problems: list[HfDetrPanopticError] = []
    written = besides.resolve() if besides else None
    for each in given:
        path = Path(each)
        try:
            photos = list_images(path) if path.is_dir() else [path]
        except ImageError as error:
            problems.append(error)
            continue
        for photo in photos:
            real = photo.resolve()
            if real in found or (written and path.is_dir() and real.is_relative_to(written)):
                continue
            name = photo.relative_to(path).as_posix() if path.is_dir() else photo.name
            found[real] = _free(name, real, names)
            names.add(found[real])
    if not found and not problems:
        raise ImageError("there is no photo", where=", ".join(map(str, given)), fix="Give photos, or their folder.")
    return [FoundPhoto(name, path) for path, name in found.items()], problems


class Truth:
    """A dataset's records, by the names of their photos."""

    def __init__(self, records: Sequence[Record], space: LabelSpace) -> None:
        self.records = records
        self.space = space
        self._by_name: dict[str, set[int]] = {}
        for place, record in enumerate(records):
            for name in filter(None, (record.file_name, record.original_file)):
                for key in (name, PurePosixPath(name).name, PurePosixPath(name).stem):
                    self._by_name.setdefault(key, set()).add(place)

    def of(self, name: str) -> Record | None:
        """The record of a photo; None where no name, or more than one photo, fits."""
        for key in (name, PurePosixPath(name).name, PurePosixPath(name).stem):
            places = self._by_name.get(key, set())
            if len(places) == 1:
                return self.records[next(iter(places))]
        return None


def find_truth(dataset: str | Path | None) -> Truth | None:
    """All splits of a dataset together."""
    if dataset is None:
        return None
    splits = read_dataset(dataset)
    return Truth([record for split in splits.values() for record in split], next(iter(splits.values())).space)


def _free(name: str, path: Path, taken: set[str]) -> str:
    """The name, with as many of its folders before it as tell it from the others."""
    parts = path.parts[1:]
    for depth in range(len(PurePosixPath(name).parts) + 1, len(parts) + 1):
        if name not in taken:
            break
        name = "/".join(parts[-depth:])
    return name
