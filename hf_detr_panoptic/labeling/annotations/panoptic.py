"""COCO panoptic: a JSON and a folder of PNGs whose colours are segment ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ...errors import AnnotationError
from .coco import category_name, category_names, image_page, near
from .pages import Drawn, Found, Lazy, Page
from .pixels import mask_colors, mask_size, regions
from .shapes import Runs
from .sources import Source, folder_of, is_inside
from .values import entries


def read_panoptic(source: Source, name: str, data: Mapping[str, Any]) -> Iterator[Found]:
    """The photos of one file. Areas and boxes of the JSON are not believed: the pixels say them."""
    where = source.where(name)
    names = category_names(data, where)
    pages: dict[Any, Page] = {}
    for place, image in enumerate(entries(data, "images", where) if "images" in data else ()):
        at = f"{where}, images[{place}]"
        try:
            page = image_page(source, name, image, at)
            if image["id"] in pages:
                raise AnnotationError(f"another image has the id {image['id']} too", where=at)
        except AnnotationError as error:
            yield error
            continue
        pages[image["id"]] = page
    done: set[Any] = set()
    for place, entry in enumerate(entries(data, "annotations", where)):
        image_id = entry.get("image_id")
        at = f"{where}, annotation of image {str(image_id)[:40]}"
        if type(image_id) not in (int, str) or ("images" in data and image_id not in pages) or image_id in done:
            twice = type(image_id) in (int, str) and image_id in done
            what = "is described twice" if twice else "is not in 'images'"
            problem = AnnotationError(f"the image of annotations[{place}] {what}", where=at, fix="Export it again.")
            if twice:
                pages[image_id].drawn = [problem]
            else:
                yield problem
            continue
        done.add(image_id)
        file_name = entry.get("file_name")
        if image_id not in pages:  # Cityscapes lists no images: the PNG is named after its photo
            pages[image_id] = Page(str(image_id), at, where, (), near=near(source, name))
        page = pages[image_id]
        try:
            png = _png(source, name, file_name, at)
            page.size = page.size or mask_size(source.read(png), source.where(png))
        except AnnotationError as error:
            page.drawn = [error]
            continue
        page.drawn = Lazy(partial(_drawn, source, png, entry, names, at, page.size))
    for page in pages.values():
        yield page


def _drawn(
    source: Source,
    png: str,
    entry: Mapping[str, Any],
    names: Mapping[int, str],
    where: str,
    told: tuple[int, int] | None,
) -> Iterator[Drawn | AnnotationError]:
    data = source.read(png)
    size = mask_size(data, source.where(png))
    if told is not None and size != told:
        raise AnnotationError(
            f"the PNG is {size[0]}×{size[1]}, the JSON says {told[0]}×{told[1]}",
            where=source.where(png),
            fix="Export it again: the two come from different versions.",
        )
    found = regions(mask_colors(data, source.where(png)))
    seen: set[int] = set()
    for segment in entries(entry, "segments_info", where):
        segment_id = segment.get("id")
        at = f"{where}, segment {str(segment_id)[:40]}"
        if type(segment_id) is not int or segment_id not in found:
            yield AnnotationError("it has no pixel in the PNG", where=at, fix="Take it off the list.")
        elif segment_id in seen:
            yield AnnotationError("it is listed twice", where=at, fix="List each segment once.")
        else:
            seen.add(segment_id)
            name = category_name(names, segment.get("category_id"), at)
            yield Drawn(name, Runs(found[segment_id]), at, bool(segment.get("iscrowd", 0)))
    if unlisted := sorted(found.keys() - seen):
        yield AnnotationError(
            f"the PNG has {len(unlisted):,} id(s) that segments_info does not list, {unlisted[0]} first",
            where=where,
            fix="List them, or make their pixels 0 (void).",
        )


def _png(source: Source, name: str, file_name: Any, where: str) -> str:
    if not isinstance(file_name, str) or not is_inside(file_name):
        raise AnnotationError(
            f"the PNG's name {str(file_name)[:80]!r} does not lie in the folder of PNGs",
            where=where,
            fix="Write names relative to the folder that is called like the JSON.",
        )
    folder, stem = folder_of(name), PurePosixPath(name).stem
    places = (f"{folder}/{stem}", folder)
    found = source.first(f"{place}/{file_name}".strip("/") for place in places)
    if found is None:
        raise AnnotationError(
            f"the PNG {file_name} is missing", where=where, fix=f"Put it into a folder '{stem}' beside the JSON."
        )
    return found
