"""Large photos cut into tiles, each a photo of its own with what of the marks lies in it: `prepare --tile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..dataset.copies import Fingerprint, fingerprint
from ..dataset.photos import encode_photo
from ..errors import DatasetError, HfDetrPanopticError
from ..images import image_size, open_image
from ..parallel import by_first, default_threads, progress_bar, read_ahead
from ..settings import Prepare
from ..text import count_of
from ..tiles import TILES, Tile, photo_of, rows_of_tiles
from .from_datasets import MARKER, write_changed
from .inputs import Inputs, Problem, photo_bytes

if TYPE_CHECKING:
    from ..annotations.marks import Mark, MarkedPhoto

VOID = "void"
THIN = 8  # pixels: a part that a border leaves of a mark is void where its box is thinner
_LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".heic", ".heif", ".hif", ".avif"})


@dataclass(frozen=True)
class _Cut:
    """A photo of (height, width) and its tiles: name → file and place; a small one is its own file, `whole`."""

    name: str
    size: tuple[int, int]
    tiles: Mapping[str, tuple[Path, Tile]]
    print: Fingerprint
    whole: bool


def cut_up(settings: Prepare, inputs: Inputs, progress: bool = False) -> Inputs:
    """The inputs with tiles in place of photos, in out/tiles; every process calls this, and the first one cuts.

    What lies there already is not touched, and what is of no photo any more goes.
    """
    if settings.tile is None:
        return inputs
    return by_first(lambda: _cut_up(settings, inputs, settings.folder / "tiles", progress))


def _cut_up(settings: Prepare, inputs: Inputs, folder: Path, progress: bool) -> Inputs:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise DatasetError(
            "the folder holds something else", where=str(folder), fix="Give --out another folder: this one is needed."
        )
    written = {write_changed(folder / MARKER, b"")}
    names: list[str] = []
    marked: dict[str, MarkedPhoto] = {}
    prints: dict[str, Fingerprint] = {}
    incomplete: set[str] = set()
    problems = list(inputs.problems)
    cut_photos = 0
    work = partial(_cut, settings, inputs.folder, folder)
    cuts = read_ahead(work, inputs.names, threads=min(2, default_threads()), ahead=2)
    for cut in progress_bar(cuts, total=len(inputs.names), what="cutting", show=progress, leave=False):
        if isinstance(cut, Problem):
            problems.append(cut)
            continue
        photo = inputs.marked.get(cut.name)
        if photo is not None and (photo.height, photo.width) != cut.size:
            what = "the photo was changed while it was being cut"
            problems.append(Problem(cut.name, what, "Run the same command again."))
            continue
        cut_photos += not cut.whole
        for name, (path, _) in cut.tiles.items():
            written.add(path)
            names.append(name)
            prints[name] = cut.print
            incomplete |= {name} if cut.name in inputs.incomplete else set()
        if photo is not None:
            places = {name: tile for name, (_, tile) in cut.tiles.items()}
            marked |= {cut.name: photo} if cut.whole else parted(photo, places, settings.min_area)
    for path in folder.rglob("*"):
        if path.is_file() and path not in written:
            path.unlink()
    return replace(
        inputs,
        names=tuple(names),
        marked=marked,
        problems=tuple(problems),
        incomplete=frozenset(incomplete),
        description=f"{inputs.description}; {count_of(cut_photos, 'photo')} cut into tiles, {len(names):,} in all",
        folder=folder,
        prints=prints,
    )


def _cut(settings: Prepare, photos: Path, folder: Path, name: str) -> _Cut | Problem:
    assert settings.tile is not None
    try:
        content = photo_bytes(photos, name)
        width, height = image_size(content)
        rows = rows_of_tiles((height, width), settings.tile, settings.overlap)
        seen = fingerprint(content)
        if len(rows) == len(rows[0]) == 1:
            return _Cut(name, (height, width), {name: (write_changed(folder / name, content), rows[0][0])}, seen, True)
        photo = open_image(content)
    except HfDetrPanopticError as error:
        return Problem(name, error.what, error.fix)
    kind, suffix = ("JPEG", ".jpg") if PurePosixPath(name).suffix.lower() in _LOSSY else ("PNG", ".png")
    tiles: dict[str, tuple[Path, Tile]] = {}
    for tile in (tile for row in rows for tile in row):
        part = photo.crop(tile.box)
        part.info = dict(photo.info)
        own = f"{name}{TILES}/{tile.top:05}_{tile.left:05}{suffix}"
        tiles[own] = write_changed(folder / own, encode_photo(part, kind)), tile
    return _Cut(name, (height, width), tiles, seen, False)


def whole_photos(marked: Iterable[MarkedPhoto]) -> list[MarkedPhoto]:
    """For who counts photos: the marks of a photo's tiles together, a mark once for each tile."""
    by_photo: dict[str, MarkedPhoto] = {}
    for tile in marked:
        name = photo_of(tile.photo) or tile.photo
        known = by_photo.get(name)
        by_photo[name] = tile if known is None else replace(known, marks=(*known.marks, *tile.marks))
    return list(by_photo.values())


def parted(photo: MarkedPhoto, tiles: Mapping[str, Tile], min_area: int) -> dict[str, MarkedPhoto]:
    """What of a photo's marks lies in each tile. A part keeps its pixels on both sides of a border; what a border
    leaves is void where it is thinner than `THIN` or has fewer than `min_area` pixels: nobody could name it."""
    marks: dict[str, list[Mark]] = {name: [] for name in tiles}
    for mark in photo.marks:
        for name, part in _parts(mark, tiles, min_area):
            marks[name].append(part)
    return {
        name: replace(photo, photo=name, width=tile.width, height=tile.height, marks=tuple(marks[name]))
        for name, tile in tiles.items()
    }


def _parts(mark: Mark, tiles: Mapping[str, Tile], min_area: int) -> Iterator[tuple[str, Mark]]:
    from pycocotools import mask as coco_mask

    x, y, width, height = mark.box
    pixels = None if mark.rle is None else coco_mask.decode(mark.rle)
    area = float(width * height) if pixels is None else int(pixels.sum())
    for name, tile in tiles.items():
        left, top, right, below = tile.box
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + width, right), min(y + height, below)
        if x0 >= x1 or y0 >= y1:
            continue
        if pixels is None:
            rle, box, own = None, (x0 - left, y0 - top, x1 - x0, y1 - y0), (x1 - x0) * (y1 - y0)
        else:
            part = np.asfortranarray(pixels[top:below, left:right])
            own = int(part.sum())
            if not own:
                continue
            rle = coco_mask.encode(part)
            box = tuple(coco_mask.toBbox(rle).tolist())
        sliver = own < area and (own < min_area or min(box[2:]) < THIN)
        yield name, replace(mark, name=VOID if sliver else mark.name, rle=rle, box=box)
