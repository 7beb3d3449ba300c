"""What a reader found on each photo, brought together with the photos that there are, matched by name."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..errors import AnnotationError, HfDetrPanopticError
from ..images import SUFFIXES, image_size, list_images
from ..text import count_of
from .marks import Annotations, Mark, MarkedPhoto, Skipped, Unmatched
from .shapes import Canvas, Rectangle, Several, Shape, rasterised
from .sources import is_inside


@dataclass(frozen=True)
class Match:
    """`photo` is relative to the photo folder; a smaller `rung` is a surer match."""

    photo: str
    rung: int


class PhotoIndex:
    """The photos that there are, to be found by the names that tools write.

    A name is tried as a relative path, as a base name that only one photo has, then as either with another suffix;
    then all of it again without regard to case. Names are compared after Unicode NFC: macOS stores "ü" as two.
    """

    def __init__(self, photos: Iterable[str]) -> None:
        self.photos = tuple(photos)

    @classmethod
    def of(cls, folder: Path) -> PhotoIndex:
        return cls(Path(photo).relative_to(folder).as_posix() for photo in list_images(folder))

    def find(self, name: str, near: Sequence[str] = ()) -> Match | None:
        """The photo that `name` means. Folders in `near` that have photos are searched first, and instead of the rest.

        With one folder a class, `img_001.jpg` of one class must never be taken for that of another.
        """
        searched = False
        for folder in near:
            if photos := self._below(folder):
                searched = True
                match = photos._find(f"{folder}/{name}", name) or (Match(name, 0) if name in photos else None)
                if match:
                    return match
        return None if searched else self._find(name, name)

    def __contains__(self, photo: str) -> bool:
        return photo in self._by_key[0].get(_key(photo), ())

    def among(self, name: str, near: Sequence[str] = ()) -> tuple[str, ...]:
        """The photos that `name` could mean, where there are several and `find` therefore picks none."""
        parts = [photos for folder in near if (photos := self._below(folder))] or [self]
        key = _key(stem_of(name)).casefold()
        return tuple(photo for photos in parts for photo in photos._by_key[-1].get(key, ()))

    def _find(self, path: str, name: str) -> Match | None:
        keys = _keys(path)
        # A photo of the named folder with another suffix is surer than one of the same name in another folder.
        order = (0, 2, 1, 3) if "/" in name else (0, 1, 2, 3)
        for rung, kind in enumerate([*order, *(kind + 4 for kind in order)]):
            hits = self._by_key[kind].get(keys[kind], ())
            if len(hits) == 1:
                return Match(hits[0], rung)
            if path in hits:  # two names that differ in their Unicode form only
                return Match(path, rung)
        return None

    @cached_property
    def _by_key(self) -> tuple[dict[str, list[str]], ...]:
        """For each kind of key (see `_keys`) the photos that have it."""
        kinds: tuple[dict[str, list[str]], ...] = tuple({} for _ in range(8))
        for photo in self.photos:
            for by_key, key in zip(kinds, _keys(photo), strict=True):
                by_key.setdefault(key, []).append(photo)
        return kinds

    def _below(self, folder: str) -> PhotoIndex | None:
        if folder not in self._parts:
            prefix = _key(folder) + "/"
            photos = [photo for photo in self.photos if _key(photo).startswith(prefix)] if folder else []
            self._parts[folder] = PhotoIndex(photos) if photos else None
        return self._parts[folder]

    @cached_property
    def _parts(self) -> dict[str, PhotoIndex | None]:
        return {}


def clean_name(name: object, where: str) -> str:
    """A photo's name as a relative path with "/"; names that lead elsewhere raise."""
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f"the photo's name is {name!r}", where=where, fix="Name the photo's file.")
    if not is_inside(name):
        raise AnnotationError(
            f"the photo's name {name!r} leads out of the photo folder",
            where=where,
            fix="Write names relative to the photo folder.",
        )
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def stem_of(name: str) -> str:
    """The base name without an image suffix."""
    return PurePosixPath(_stem(name)).name


def _keys(path: str) -> tuple[str, ...]:
    """The path, its base name, and either without the suffix; then the four of them regardless of case."""
    path = _key(path)
    base = PurePosixPath(path).name
    exact = (path, base, _stem(path), _stem(base))
    return (*exact, *(key.casefold() for key in exact))


def _stem(path: str) -> str:
    suffix = PurePosixPath(path).suffix
    return path[: -len(suffix)] if suffix.casefold() in SUFFIXES else path


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text)


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """One region as the file has it, before it meets its photo."""

    name: str
    shape: Shape
    where: str
    crowd: bool = False
    layer: float = 0.0
    source: str = "custom"


@dataclass
class Page:
    """What one file says of one photo.

    `drawn` may be lazy, and holds an error in place of what could not be read; `size` is (width, height) where the
    file tells it. `near` are the folders in which the photo is looked for first. `tagged`: see `MarkedPhoto`.
    `relative`: places are shares of the photo's sides, whatever its size.
    """

    photo: str
    where: str
    file: str
    drawn: Iterable[Drawn | AnnotationError]
    size: tuple[int, int] | None = None
    near: Sequence[str] = ()
    tagged: bool = False
    relative: bool = False


@dataclass(frozen=True)
class Note:
    """Something that was left out and harms no photo, such as polylines."""

    where: str
    what: str
    fix: str | None = None


Item = Page | AnnotationError | Note | Unmatched


class Lazy:
    """Regions that are read when their photo is drawn; an error on the way stands in their place."""

    def __init__(self, read: Callable[[], Iterable[Drawn | AnnotationError]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Drawn | AnnotationError]:
        try:
            yield from self._read()
        except AnnotationError as error:
            yield error


def grouped(shapes: Iterable[tuple[Hashable | None, Drawn] | AnnotationError]) -> list[Drawn | AnnotationError]:
    """Shapes of one group and class are parts of one object, as in CVAT's COCO export; None is no group."""
    drawn: list[Drawn | AnnotationError] = []
    groups: dict[tuple[Hashable, str], int] = {}
    for item in shapes:
        if isinstance(item, AnnotationError):
            drawn.append(item)
            continue
        group, mark = item
        index = len(drawn)
        if group is not None and not isinstance(mark.shape, Rectangle):
            index = groups.setdefault((group, mark.name), index)
        if index == len(drawn):
            drawn.append(mark)
        else:
            first = drawn[index]
            assert isinstance(first, Drawn)
            parts = first.shape.shapes if isinstance(first.shape, Several) else (first.shape,)
            drawn[index] = replace(first, shape=Several((*parts, mark.shape)), layer=max(first.layer, mark.layer))
    return drawn


class Desk:
    """Matches pages to photos, draws their marks, and sets aside what cannot be right.

    Without a photo folder each page stands for a photo of the name and size that its file tells.
    """

    def __init__(self, images: Path | None, *, strict: bool, rescale: bool) -> None:
        self.images = images
        self.index = PhotoIndex.of(images) if images is not None else None
        self.strict = strict
        self.rescale = rescale
        self._skipped: list[Skipped] = []
        self._unmatched: list[Unmatched] = []

    def assemble(self, items: Iterable[Item], format: str) -> Annotations:
        claims = self._claims(items)
        photos: list[MarkedPhoto] = []
        for photo, pages in claims.items():
            marked, problems = self._photo(photo, pages)
            if problems:
                self._set_aside(problems, photo)
            elif marked is not None:
                photos.append(marked)
        names = dict.fromkeys(mark.name for photo in photos for mark in photo.marks if not mark.void)
        marks = sum(len(photo.marks) for photo in photos)
        aside = len({row.photo for row in self._skipped if row.photo is not None})
        parts = [count_of(len(photos), "photo"), f"{count_of(marks, 'mark')} of {count_of(len(names), 'class')}"]
        parts += [f"{count_of(aside, 'photo')} set aside"] if aside else []
        parts += [f"{count_of(len(self._unmatched), 'name')} without a photo"] if self._unmatched else []
        if self._skipped:
            logger.warning(
                "%s set aside or left out, %s first: %s",
                count_of(len(self._skipped), "mark or photo", "marks or photos"),
                self._skipped[0].where,
                self._skipped[0].what,
            )
        if self._unmatched:
            first = self._unmatched[0]
            many = count_of(len(self._unmatched), "name")
            logger.warning("%s without a photo, %r first (%s)", many, first.name, first.why)
        return Annotations(
            tuple(photos),
            tuple(self._skipped),
            tuple(self._unmatched),
            tuple(names),
            format,
            f"{format}: {', '.join(parts)}",
        )

    def _claims(self, items: Iterable[Item]) -> dict[str, list[tuple[Match, Page]]]:
        claims: dict[str, list[tuple[Match, Page]]] = {}
        for item in items:
            match item:
                case Note():
                    self._skipped.append(Skipped(item.where, item.what, item.fix))
                case Unmatched():
                    self._unmatched.append(item)
                case AnnotationError():
                    self._set_aside([item], None)
                case Page():
                    try:
                        name = clean_name(item.photo, item.where)
                    except AnnotationError as error:
                        self._set_aside([error], None)
                        continue
                    if hit := self._find(name, item):
                        claims.setdefault(hit.photo, []).append((hit, item))
        return claims

    def _find(self, name: str, page: Page) -> Match | None:
        if self.index is None:
            # Files in folders of their own speak of photos of their own, but for the folder that CVAT and COCO use.
            beside = [] if name.startswith(tuple(page.near)) else [near for near in page.near if near != "annotations"]
            return Match("/".join([*beside[:1], name]), 0)
        if hit := self.index.find(name, page.near):
            return hit
        if self._is_link(name):  # one that stays inside would have been found
            self._set_aside([_leads_out(name, page)], None)
            return None
        among = self.index.among(name, page.near)
        why = "no such photo"
        if len(among) > 1:
            why = f"could be any of {len(among)} photos: {', '.join(among[:3])}{'…' if len(among) > 3 else ''}"
        self._unmatched.append(Unmatched(page.photo, page.where, why))
        return None

    def _is_link(self, name: str) -> bool:
        try:
            return self.images is not None and (self.images / name).is_symlink()
        except OSError:  # a name too long for any file
            return False

    def _photo(
        self, photo: str, pages: list[tuple[Match, Page]]
    ) -> tuple[MarkedPhoto | None, list[HfDetrPanopticError]]:
        chosen, problems = self._undisputed(photo, pages)
        marks: list[Mark] = []
        width = height = 0
        for page in chosen:
            try:
                canvas = self._canvas(photo, page, (width, height) if width else None)
            except HfDetrPanopticError as error:
                problems.append(error)
                continue
            width, height = canvas.width, canvas.height
            for item in page.drawn:
                if isinstance(item, AnnotationError):
                    problems.append(item)
                    continue
                try:
                    rle, box = rasterised(item.shape, canvas, item.where)
                except AnnotationError as error:
                    problems.append(error)
                else:
                    marks.append(Mark(item.name, rle, box, item.crowd, item.where, item.layer, item.source))
        tagged = any(page.tagged for page in chosen)
        return (MarkedPhoto(photo, width, height, tuple(marks), tagged) if chosen else None), problems

    def _undisputed(self, photo: str, pages: list[tuple[Match, Page]]) -> tuple[list[Page], list[HfDetrPanopticError]]:
        """Two names in one file cannot mean one photo: the surer match has it, and a rasterised is a problem."""
        surest: dict[str, int] = {}
        for match, page in pages:
            surest[page.file] = min(surest.get(page.file, match.rung), match.rung)
        chosen: list[Page] = []
        names: dict[str, str] = {}
        problems: list[HfDetrPanopticError] = []
        for match, page in pages:
            if match.rung > surest[page.file]:
                self._unmatched.append(
                    Unmatched(page.photo, page.where, f"{photo} would fit, but it is another one's")
                )
            elif names.setdefault(page.file, page.photo) != page.photo:
                problems.append(
                    AnnotationError(
                        f"'{names[page.file]}' and '{page.photo}' both seem to mean the photo {photo}",
                        where=page.where,
                        fix="Give the photos the paths that the annotations name.",
                    )
                )
            else:
                chosen.append(page)
        return chosen, problems

    def _canvas(self, photo: str, page: Page, known: tuple[int, int] | None) -> Canvas:
        size = known or (image_size(self.images / photo) if self.images is not None else page.size)
        if size is None:
            raise AnnotationError(
                "the file does not say how large the photo is", where=page.where, fix="Name the photo folder."
            )
        drawn = (1, 1) if page.relative else page.size or size
        if drawn == size or page.relative:
            return Canvas(*size, *drawn)
        what = f"the marks were drawn on {drawn[0]}×{drawn[1]}, the photo {photo} is {size[0]}×{size[1]}"
        if drawn == size[::-1]:
            raise AnnotationError(
                f"{what} when upright: the tool did not heed the orientation in the photo's EXIF data",
                where=page.where,
                fix="Turn the photo itself upright, and mark that one.",
            )
        across, down = size[0] / drawn[0], size[1] / drawn[1]
        # A resized photo's sides are rounded: both may be off by one pixel from the same factor.
        if abs(drawn[0] * down - size[0]) > 1.5 and abs(drawn[1] * across - size[1]) > 1.5:
            raise AnnotationError(
                what, where=page.where, fix="This is another photo, or a cropped one: find the right one."
            )
        if not self.rescale:
            raise AnnotationError(
                what, where=page.where, fix="The photo was resized: --rescale (rescale=True) fits the marks to it."
            )
        return Canvas(*size, *drawn)

    def _set_aside(self, problems: Sequence[HfDetrPanopticError], photo: str | None) -> None:
        if self.strict:
            first = problems[0]
            raise AnnotationError(first.what, where=first.where or photo, fix=first.fix) from first
        self._skipped += [Skipped(error.where or photo or "", error.what, error.fix, photo) for error in problems]


def _leads_out(name: str, page: Page) -> AnnotationError:
    return AnnotationError(
        f"the photo {name} is a link that leads out of the photo folder",
        where=page.where,
        fix="Copy the photo to where the link is.",
    )
