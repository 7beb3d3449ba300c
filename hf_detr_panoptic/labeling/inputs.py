"""What a person has, before a model is asked: photos, marks, classes, and what an earlier run decided."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..dataset.copies import Fingerprint, fingerprint
from ..errors import DatasetError, HfDetrPanopticError, ImageError, LabelError, did_you_mean
from ..files import read_json
from ..images import check_weight, image_size, list_images
from ..labels import Category, LabelSpace
from ..parallel import progress_bar, read_ahead
from ..settings import Prepare
from ..text import are, count_of, is_text

if TYPE_CHECKING:
    import datasets

    from ..annotations.read import Annotations, MarkedPhoto
    from .schemes import Scheme


@dataclass(frozen=True)
class Photo:
    """A readable photo: its name in the photo folder, with "/", and its upright (height, width)."""

    name: str
    size: tuple[int, int]
    fingerprint: Fingerprint

    @property
    def digest(self) -> str:
        """Of the file's bytes: two photos of one digest are one photo."""
        return self.fingerprint.digest


@dataclass(frozen=True)
class Problem:
    """Something that keeps a photo out of the dataset; a row of skipped.csv."""

    photo: str
    what: str
    fix: str | None = None
    where: str | None = None

    def __str__(self) -> str:
        where = " in ".join(dict.fromkeys(filter(None, (self.photo, self.where))))
        return f"{where}: {self.what.rstrip('.')}.{f' {self.fix}' if self.fix else ''}"


def survey(
    folder: Path, names: Sequence[str], workers: int | None = None, progress: bool = False
) -> tuple[list[Photo], list[Problem]]:
    """Look at every photo once, in order. What cannot be decoded to its end is a problem, not an error."""
    photos: list[Photo] = []
    problems: list[Problem] = []
    seen = read_ahead(partial(_look, folder), names, threads=workers)
    for outcome in progress_bar(seen, total=len(names), what="looking at the photos", show=progress, leave=False):
        (photos if isinstance(outcome, Photo) else problems).append(outcome)  # type: ignore[arg-type]
    return photos, problems


def _look(folder: Path, name: str) -> Photo | Problem:
    try:
        if not is_text(name):
            raise ImageError("its name is not UTF-8", fix="Rename it.")
        content = photo_bytes(folder, name)
        seen = fingerprint(content)
        width, height = image_size(content)
        return Photo(name, (height, width), seen)
    except HfDetrPanopticError as error:
        return Problem(name, error.what, error.fix)


def photo_bytes(folder: Path, name: str) -> bytes:
    """The file's bytes."""
    check_weight(folder / name, name)
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot be read ({error.strerror})", where=name, fix="Check that it is there, and its permissions."
        ) from error


_SNAPSHOT = ".earlier.json"
_ELSEWHERE = "Give --out a new folder: what a person has is never overwritten."


@dataclass(frozen=True)
class Earlier:
    """Of each photo that was in the dataset, by the name that the person knows it by."""

    parts: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    incomplete: Sequence[str] = ()

    @property
    def shared_out(self) -> dict[str, str]:
        """The parts of the photos that a split decided on: an incomplete one went to train without being asked."""
        return {name: part for name, part in self.parts.items() if name not in set(self.incomplete)}

    @classmethod
    def of(cls, out: Path) -> Earlier:
        """As the dataset tells, or, where a run was killed while it wrote, as it was before that run."""
        snapshot = out / "annotations" / _SNAPSHOT
        if snapshot.is_file():
            return cls(**_json(snapshot))
        from ..dataset.coco_panoptic import UNFINISHED, is_ours
        from ..dataset.writer import SPLITS, finish_moving

        finish_moving(out / "annotations")

        parts: dict[str, str] = {}
        stored: dict[str, str] = {}
        ids: dict[str, int] = {}
        incomplete: list[str] = []
        for part in SPLITS:
            path = out / "annotations" / f"panoptic_{part}.json"
            if not path.is_file():
                continue
            content = _json(path)
            if not is_ours(content):
                raise DatasetError("another program wrote this dataset", where=str(path), fix=_ELSEWHERE)
            for image in content["images"]:
                name = image.get("original_file", image["file_name"])
                parts[name], stored[name], ids[name] = part, image["file_name"], image["id"]
                if image.get("incomplete"):
                    incomplete.append(name)
        images = out / "images"
        if not parts and not (out / "annotations" / UNFINISHED).exists() and images.is_dir() and any(images.iterdir()):
            raise DatasetError(
                "the folder holds photos that are no dataset of ours", where=str(images), fix=_ELSEWHERE
            )
        return cls(parts, stored, ids, incomplete)

    def remember(self, out: Path) -> None:
        """Before anything is written: until `forget`, this is what a run goes by."""
        from ..files import write_bytes

        content = {"parts": dict(self.parts), "stored": dict(self.stored), "ids": dict(self.ids)}
        content |= {"incomplete": list(self.incomplete)}
        write_bytes(out / "annotations" / _SNAPSHOT, json.dumps(content).encode())

    @staticmethod
    def forget(out: Path) -> None:
        (out / "annotations" / _SNAPSHOT).unlink(missing_ok=True)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path, DatasetError, "Restore it, or write to a new folder.")
    if not isinstance(content, dict):
        raise DatasetError("is no dataset of ours", where=str(path), fix=_ELSEWHERE)
    return content


@dataclass(frozen=True)
class Inputs:
    """`names`: the photos that are to be used, in order; `marked`: those of them that have annotations, even none
    but an empty list; `unannotated`: the photos that have not, used or not; `problems`: what else is left out;
    `incomplete`: the used photos that nobody may have looked at; `folder`: where the photos lie; `prints`: where they
    are tiles, what the photo looks like that each was cut from."""

    names: tuple[str, ...]
    marked: Mapping[str, MarkedPhoto]
    unannotated: tuple[str, ...]
    problems: tuple[Problem, ...]
    custom: tuple[str, ...]
    description: str
    folder: Path
    incomplete: frozenset[str] = frozenset()
    prints: Mapping[str, Fingerprint] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of all marks: what the annotations said, whatever file said it."""
        digest = hashlib.sha256()
        for name, photo in sorted(self.marked.items()):
            marks = [
                (mark.name, mark.rle and mark.rle["counts"].decode("ascii"), mark.box, mark.crowd)
                + ((mark.layer,) if mark.layer else ())
                for mark in photo.marks
            ]
            digest.update(json.dumps([name, photo.width, photo.height, marks]).encode())
        return digest.hexdigest()[:16]


def as_files(
    settings: Prepare,
    dataset: datasets.Dataset | datasets.DatasetDict | None = None,
    folder: Path | None = None,
) -> Prepare:
    """The settings with files in place of a dataset, which is given or which `images` names: in out/source, or in
    `folder`. Every process calls this, and the first one unpacks."""
    from ..annotations.colors import as_values
    from .from_datasets import load, names_a_dataset, places_of, unpack

    if dataset is None and not names_a_dataset(settings.images):
        return settings
    if dataset is None and settings.images.is_dir():
        check_folders(settings)
    from ..parallel import by_first, guard_processes

    guard_processes(timedelta(days=7))
    unpacked = by_first(
        lambda: unpack(
            load(settings.images) if dataset is None else dataset,
            folder or settings.folder / "source",
            masks=settings.annotations is None,
            mask_column=settings.mask_column,
            values=as_values(settings.values),
            within=places_of(settings.images) if dataset is None else None,
        )
    )
    return settings.changed(
        images=unpacked.images,
        annotations=settings.annotations or unpacked.annotations,
        values=settings.values or unpacked.values,
    )


def read_inputs(settings: Prepare) -> Inputs:
    """Read the annotations and find their photos. Raises where nothing is left to work on."""
    check_folders(settings)
    everything = [path.relative_to(settings.images).as_posix() for path in list_images(settings.images)]
    if not everything:
        raise DatasetError("there is no photo in the folder", where=str(settings.images), fix="Check --images.")
    if settings.annotations is None:
        return Inputs(
            tuple(everything),
            {},
            tuple(everything),
            (),
            (),
            "no annotations: every photo as the labeler sees it",
            settings.images,
        )
    from ..annotations.read import read_annotations

    read = read_annotations(
        settings.annotations,
        settings.images,
        format=settings.format,
        strict=settings.strict,
        instances=settings.instances,  # type: ignore[arg-type]
        pattern=settings.pattern,
        values=settings.values,
        stuff=settings.stuff,
        rescale=settings.rescale,
    )
    folder = f"{settings.images}/"
    problems = [Problem(row.photo or "", row.what, row.fix, row.where.removeprefix(folder)) for row in read.skipped]
    problems += [
        Problem(row.name, row.why, "Put the photo into the folder, or correct its name.", row.where)
        for row in read.unmatched
    ]
    aside = {row.photo for row in read.skipped if row.photo is not None}
    marked = {photo.photo: _by_people(photo) for photo in read.photos}
    custom = tuple(dict.fromkeys(mark.name for photo in marked.values() for mark in photo.marks if not mark.void))
    of_labeler = sum(len(photo.marks) - len(marked[photo.photo].marks) for photo in read.photos)
    description = read.description
    if of_labeler:
        description += f"; {count_of(of_labeler, 'segment')} that a labeler added {are(of_labeler)} no marks"
    photos = _without_masks(everything, read, settings)
    unannotated = tuple(name for name in photos if name not in marked and name not in aside)
    looked_at = _looked_at(settings, marked, unannotated, everything)
    taken = unannotated if settings.unannotated != "skip" else ()
    wanted = {*marked, *taken}
    if isinstance(settings.looked_at, Path):  # somebody looked and saw nothing: as good as an empty list of marks
        wanted |= looked_at.intersection(unannotated)
    names = tuple(name for name in photos if name in wanted)
    if not names:
        raise DatasetError(
            f"none of the {len(everything)} photos can be used ({description})",
            where=str(settings.images),
            fix=f"First: {problems[0]}" if problems else "Is this the folder whose photos were marked?",
        )
    left_out = tuple(name for name in unannotated if name not in wanted)
    incomplete = frozenset(names) - looked_at if custom else frozenset()
    return Inputs(names, marked, left_out, tuple(problems), custom, description, settings.images, incomplete)


def _by_people(photo: MarkedPhoto) -> MarkedPhoto:
    """Without what a labeler added, where the annotations are a dataset of ours."""
    return replace(photo, marks=tuple(mark for mark in photo.marks if mark.source != "auto"))


def _looked_at(
    settings: Prepare, marked: Mapping[str, MarkedPhoto], unannotated: Sequence[str], everything: Sequence[str]
) -> set[str]:
    """The photos on which what is unmarked is none of the person's classes."""
    if settings.looked_at == "all":
        return set(everything)
    looked_at = {name for name, photo in marked.items() if photo.marks or photo.tagged}
    if isinstance(settings.looked_at, Path):
        return looked_at | listed_photos(settings.looked_at, everything)
    return looked_at | set(unannotated if settings.unannotated == "auto" else ())


def listed_photos(path: Path, photos: Iterable[str]) -> set[str]:
    """The photos that a text file names, one a line; a name that none of them has is an error."""
    from ..annotations.pages import PhotoIndex

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DatasetError(
            f"the list of photos that were looked at cannot be read ({why})",
            where=str(path),
            fix="Give all, marked, or a text file with a photo's name on each line.",
        ) from error
    index = PhotoIndex(photos)
    found = set()
    for number, name in enumerate(map(str.strip, lines), start=1):
        hit = index.find(name.replace("\\", "/")) if name else None
        if hit is not None:
            found.add(hit.photo)
        elif name:
            raise DatasetError(
                f"there is no photo {name[:200]!r}",
                where=f"{path}, line {number}",
                fix=did_you_mean(name, index.photos),
            )
    return found


def check_folders(settings: Prepare) -> None:
    """The dataset must not be written over what a person has."""
    images, out = settings.images.resolve(), settings.folder.resolve()
    if not settings.images.is_dir():
        list_images(settings.images)  # says what is wrong with it
    if settings.annotations is not None and not settings.annotations.exists():
        raise DatasetError(
            "there is no such file or folder", where=str(settings.annotations), fix="Check --annotations."
        )
    if out.is_file():
        raise DatasetError("is a file", where=str(settings.folder), fix="Give --out a folder.")
    ours = [out / name for name in ("images", "annotations", "autolabels", "tiles")]
    if out == images or out.is_relative_to(images):
        raise DatasetError(
            "the dataset would lie in the folder of the photos",
            where=str(settings.folder),
            fix="Give --out another folder: what a person has is never changed.",
        )
    sources = {"photos": images, "annotations": settings.annotations and settings.annotations.resolve()}
    for what, path in sources.items():
        if path is not None and any(path == folder or path.is_relative_to(folder) for folder in ours):
            raise DatasetError(
                f"the {what} lie where the dataset would be written",
                where=str(path),
                fix="Give --out another folder: what a person has is never changed.",
            )


def _without_masks(everything: Sequence[str], read: Annotations, settings: Prepare) -> list[str]:
    """The photos alone: not the masks that lie in the same folder."""
    from ..annotations.masks import Names
    from ..annotations.pages import PhotoIndex

    named = {photo.photo for photo in read.photos} | {row.photo for row in read.skipped if row.photo}
    annotations, images = settings.annotations, settings.images.resolve()
    assert annotations is not None
    annotations = annotations.resolve()
    masks: set[str] = set()
    if annotations.is_dir() and annotations != images and annotations.is_relative_to(images):
        inside = annotations.relative_to(images).as_posix()
        masks |= {name for name in everything if name.startswith(f"{inside}/")}
    if annotations == images and settings.pattern is not None:
        names = Names(settings.pattern, PhotoIndex(everything))
        masks |= {name for name in everything if names.read(name) is not None}
    if "panoptic" in read.format or "segmentation mask" in read.format:
        # Id maps beside the photos, or in a folder beside the JSON.
        stems = {PurePosixPath(name).with_suffix("").as_posix() for name in named}
        masks |= {
            name
            for name in everything
            if name.endswith(".png")
            and (PurePosixPath(name).with_suffix("").as_posix() in stems or PurePosixPath(name).parent.name in _MAPS)
        }
        if annotations.is_file() and (pngs := annotations.with_suffix("")).is_relative_to(images):
            inside = pngs.relative_to(images).as_posix()
            masks |= {name for name in everything if name.startswith(f"{inside}/")}
    return [name for name in everything if name in named or name not in masks]


_MAPS = ("SegmentationClass", "SegmentationObject")


def label_space(settings: Prepare, labeler: LabelSpace, custom: Sequence[str]) -> tuple[Scheme, LabelSpace]:
    """What becomes of the labeler's classes, and the dataset's label space: those, then the person's own."""
    from .schemes import Scheme, scheme

    asked = {*settings.drop, *settings.rename, *(name for names in settings.merge.values() for name in names)}
    mine = next((name for name in sorted(asked) if name in custom and name not in labeler.names), None)
    if mine is not None:
        raise LabelError(
            f"'{mine}' is a class of yours, and merge, rename and drop are about the labeler's",
            fix="Change its name where you drew it.",
        )
    ready = scheme(settings.scheme, labeler, leave={*custom, *asked})
    merge = dict(ready.merge)
    for group, members in settings.merge.items():
        merge[group] = (*merge.get(group, ()), *members)
    orders = Scheme(
        settings.keep,
        settings.drop,
        merge,
        settings.rename,
        settings.things,
        tuple(dict.fromkeys((*(name for name in ready.stuff if name not in settings.things), *settings.stuff))),
    )
    fates = {new for new in orders.mapping(labeler).values() if new is not None}
    plain = Scheme(
        orders.keep,
        orders.drop,
        orders.merge,
        orders.rename,
        tuple(name for name in orders.things if name in fates),
        tuple(name for name in orders.stuff if name in fates),
    )
    kinds = {category.name: category.isthing for category in plain.space(labeler, LabelSpace([]))}
    decided = dict.fromkeys(settings.stuff, False) | dict.fromkeys(settings.things, True)
    own = LabelSpace(Category(name, decided.get(name, kinds.get(name, True))) for name in custom)
    space = orders.space(labeler, own)
    if not space:
        raise LabelError("no class is left", fix="Keep some, or mark some.")
    return orders, space


def mark_counts(inputs: Inputs) -> Counter[str]:
    """Marks of each custom class."""
    return Counter(mark.name for photo in inputs.marked.values() for mark in photo.marks if not mark.void)
