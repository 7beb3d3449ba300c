"""COCO JSON as COCO has it and as CVAT writes it: instances (polygons, RLE, rectangles), and panoptic PNGs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from ..dataset.coco_panoptic import annotated, is_ours, listed_segments
from ..dataset.faults import KINDS
from ..errors import AnnotationError
from .pages import Drawn, Item, Lazy, Page
from .shapes import Polygons, Runs, Shape, box_of, checked_rle, mask_colors, mask_size, regions
from .sources import Source, class_name, entries, folder_of, number, ring, shown, size

MOST_CATEGORIES = 10_000


def is_instances(data: Any) -> bool:
    return isinstance(data, dict) and "images" in data and "annotations" in data and not is_panoptic(data)


def is_panoptic(data: Any) -> bool:
    """Whether the annotations hold segments instead of shapes."""
    listed = data.get("annotations") if isinstance(data, dict) else None
    return isinstance(listed, list) and any(isinstance(entry, dict) and "segments_info" in entry for entry in listed)


def read_instances(source: Source, name: str, data: Mapping[str, Any], *, from_cvat: bool = False) -> Iterator[Item]:
    """The photos of one file. Where CVAT wrote it `iscrowd` tells the encoding, not a crowd (cvat#7030)."""
    where = source.where(name)
    names = category_names(data, where)
    pages: dict[int | str, Page] = {}
    images = entries(data, "images", where)
    repeated = {known for known, count in Counter(entry_id(image.get("id")) for image in images).items() if count > 1}
    for index, image in enumerate(images):
        at = f"{where}, images[{index}]"
        try:
            page = image_page(source, name, image, at)
        except AnnotationError as error:
            yield error
            continue
        image_id = entry_id(image["id"])
        assert image_id is not None  # image_page has looked
        if image_id in repeated:
            page.drawn = [_twice("image", image_id, at)]
            yield page
            continue
        pages[image_id] = page
    seen: set[int | str] = set()
    drawn: dict[int | str, list[Drawn | AnnotationError]] = {image_id: [] for image_id in pages}
    listed = entries(data, "annotations", where)
    orphans: list[AnnotationError] = []
    for index, entry in enumerate(listed):
        image_id = entry_id(entry.get("image_id"))
        at = f"{where}, annotation {entry.get('id', f'number {index + 1}')}"
        if image_id in drawn and image_id is not None:
            try:
                _check_id(entry, seen, at)
                drawn[image_id].append(drawn_of(entry, names, at, from_cvat))
            except AnnotationError as error:
                drawn[image_id].append(error)
        elif image_id is None or image_id not in repeated:
            what = f"no image has the id {shown(entry.get('image_id'))}"
            orphans.append(AnnotationError(what, where=at, fix="Export it again."))
    if 2 * len(orphans) > len(listed):  # nearly all of the photos would be taken for empty
        raise AnnotationError(
            f"{len(orphans):,} of {len(listed):,} annotations belong to no image: {orphans[0].what}",
            where=orphans[0].where,
            fix="image_id must be the id of an entry in 'images', a number where that is a number: export it again.",
        )
    yield from orphans
    for image_id, page in pages.items():
        page.drawn = drawn[image_id]
        yield page


def category_names(data: Mapping[str, Any], where: str) -> dict[Any, str]:
    """Category id → name; ids may have gaps."""
    categories = entries(data, "categories", where)
    if len(categories) > MOST_CATEGORIES:
        raise AnnotationError(
            f"{len(categories):,} categories are no list of classes", where=where, fix="Leave those in that are used."
        )
    names: dict[Any, str] = {}
    for index, category in enumerate(categories):
        at = f"{where}, categories[{index}]"
        category_id = entry_id(category.get("id"))
        if category_id is None:
            raise AnnotationError(f"the id is {shown(category.get('id'))}, not a whole number or text", where=at)
        name = class_name(category.get("name"), at)
        if names.setdefault(category_id, name) != name:
            raise AnnotationError(
                f"the id {category_id} stands for '{names[category_id]}' already",
                where=at,
                fix="Give each category an id of its own.",
            )
    return names


def image_page(source: Source, name: str, image: Mapping[str, Any], at: str) -> Page:
    """A page for one entry of `images`, nothing drawn on it yet."""
    image_id = entry_id(image.get("id"))
    if image_id is None:
        raise AnnotationError(f"the id is {shown(image.get('id'))}", where=at, fix="Each image needs one.")
    if not isinstance(image.get("file_name"), str):
        raise AnnotationError(f"the file_name is {image.get('file_name')!r}", where=at, fix="Name the photo's file.")
    page = Page(_file_name(image["file_name"]), f"{source.where(name)}, image {image_id}", source.where(name), ())
    page.near = near(source, name)
    if image.get("width") is not None or image.get("height") is not None:
        try:
            page.size = size(image.get("width"), image.get("height"), page.where)
        except AnnotationError as error:
            raise AnnotationError(error.what, where=f"{page.where} '{image['file_name']}'", fix=error.fix) from None
    return page


def _file_name(name: str) -> str:
    """A web address, which Labelbox and others write, as the name of the file that one downloads from there."""
    if not name.startswith(("http://", "https://")):
        return name
    return PurePosixPath(unquote(urlsplit(name).path)).name or name


def near(source: Source, name: str) -> tuple[str, ...]:
    """Where the photos of a file lie, if they lie beside it: in the construction set each class has its own folder."""
    folder = folder_of(name)
    beside = "/".join(part for part in (source.near, folder) if part)
    return tuple(dict.fromkeys(folder for folder in (beside, folder) if folder))


def category_name(names: Mapping[Any, str], category_id: Any, where: str) -> str:
    known = entry_id(category_id)
    if known is None or known not in names:
        raise AnnotationError(f"no category has the id {shown(category_id)}", where=where, fix="Export it again.")
    return names[known]


def entry_id(value: Any) -> int | str | None:
    """An id: a text or a whole number, also as pandas writes it (1.0); None for anything else."""
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) in (int, str) else None


def is_crowd(value: Any, where: str) -> bool:
    """What `iscrowd` says: 0 or 1, in whatever way it is written."""
    word = str(value).strip().casefold()
    if word not in _CROWD:
        raise AnnotationError(f"iscrowd is {shown(value)}", where=where, fix="It is 0 or 1.")
    return _CROWD[word]


_CROWD = {"0": False, "0.0": False, "false": False, "none": False, "1": True, "1.0": True, "true": True}


def drawn_of(entry: Mapping[str, Any], names: Mapping[int, str], where: str, from_cvat: bool = False) -> Drawn:
    """One entry of `annotations`; `names` by category id."""
    name = category_name(names, entry.get("category_id"), where)
    crowd = is_crowd(entry.get("iscrowd"), where) and not from_cvat and "attributes" not in entry
    return Drawn(name, _shape(entry, where), where, crowd)


def _shape(entry: Mapping[str, Any], where: str) -> Shape:
    segmentation = entry.get("segmentation")
    if isinstance(segmentation, dict):
        return Runs(checked_rle(segmentation, where))
    if segmentation is not None and not isinstance(segmentation, list):
        raise AnnotationError(f"the segmentation is {shown(segmentation)}", where=where, fix="Export it again.")
    rings = [ring(part, where) for part in segmentation or () if part != []]
    if rings:
        return Polygons(rings)
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise AnnotationError("it has neither a segmentation nor a bbox", where=where, fix="Draw it again.")
    left, top, width, height = (number(side, "a side of the bbox", where) for side in box)
    attributes = entry.get("attributes")
    rotation = attributes.get("rotation", 0.0) if isinstance(attributes, dict) else 0.0
    return box_of(left, top, width, height, number(rotation, "the rotation", where))


def _check_id(entry: Mapping[str, Any], seen: set[int | str], where: str) -> None:
    if entry.get("id") is None:
        return  # nothing refers to it
    annotation_id = entry_id(entry["id"])
    if annotation_id is None:
        raise AnnotationError(f"the id is {shown(entry['id'])}", where=where, fix="Export it again.")
    if annotation_id in seen:
        raise _twice("annotation", annotation_id, where)
    seen.add(annotation_id)


def _twice(what: str, number: Any, where: str) -> AnnotationError:
    return AnnotationError(
        f"another {what} has the id {number} too",
        where=where,
        fix=f"Give each {what} an id of its own: one of the two may be a stray copy.",
    )


def read_panoptic(source: Source, name: str, data: Mapping[str, Any]) -> Iterator[Item]:
    """The photos of one file. Areas and boxes of the JSON are not believed: the pixels say them."""
    where = source.where(name)
    names = category_names(data, where)
    mine = [str(entry.get("name")) for entry in data.get("categories", ()) if entry.get("source") == "custom"]
    pages: dict[Any, Page] = {}
    for index, image in enumerate(entries(data, "images", where) if "images" in data else ()):
        at = f"{where}, images[{index}]"
        try:
            page = image_page(source, name, image, at)
            if image["id"] in pages:
                raise AnnotationError(f"another image has the id {image['id']} too", where=at)
            page.tagged = is_ours(data) and not image.get("incomplete")
            if is_ours(data) and image.get("incomplete"):
                page.only = tuple(name for name in mine if name not in image["incomplete"])
        except AnnotationError as error:
            yield error
            continue
        pages[image["id"]] = page
    for index, entry in enumerate(annotated(list(entries(data, "annotations", where)), where)):
        image_id = entry.image_id
        at = f"{where}, annotation of image {str(image_id)[:40]}"
        if image_id is None or ("images" in data and image_id not in pages):
            yield AnnotationError(
                f"the image of annotations[{index}] is not in 'images'", where=at, fix="Export it again."
            )
            continue
        if image_id not in pages:  # Cityscapes lists no images: the PNG is named after its photo
            pages[image_id] = Page(str(image_id), at, where, (), near=near(source, name))
        page = pages[image_id]
        try:
            if entry.wrong is not None:
                raise _wrong(entry.wrong[0], at, entry.wrong[1])
            png = _png(source, name, entry.png_name, at)
            page.size = page.size or mask_size(source.read(png), source.where(png))
        except AnnotationError as error:
            page.drawn = [error]
            continue
        page.drawn = Lazy(partial(_segment_drawn, source, png, entry.entries, names, at, page.size))
    for page in pages.values():
        yield page


def _segment_drawn(
    source: Source,
    png: str,
    segments: list[Any],
    names: Mapping[int, str],
    where: str,
    stated: tuple[int, int] | None,
) -> Iterator[Drawn | AnnotationError]:
    data = source.read(png)
    size = mask_size(data, source.where(png))
    if stated is not None and size != stated:
        raise AnnotationError(
            f"the PNG is {size[0]}×{size[1]}, the JSON says {stated[0]}×{stated[1]}",
            where=source.where(png),
            fix="Export it again: the two come from different versions.",
        )
    pixels = regions(mask_colors(data, source.where(png)))
    listed: set[int] = set()
    problems: list[AnnotationError] = []

    def tell(kind: str, at: str, detail: str) -> None:
        problems.append(_wrong(kind, at, detail))

    for segment in listed_segments(segments, names, where, tell):
        at = f"{where}, segment {segment['id']}"
        listed.add(segment["id"])
        if segment["id"] not in pixels:
            yield AnnotationError("it has no pixel in the PNG", where=at, fix="Take it off the list.")
        else:
            try:
                crowd = is_crowd(segment.get("iscrowd"), at)
            except AnnotationError as error:
                yield error
                continue
            name, source_of = names[segment["category_id"]], "auto" if segment.get("source") == "auto" else "custom"
            yield Drawn(name, Runs(pixels[segment["id"]]), at, crowd, source=source_of)
    yield from problems
    if not problems and (unlisted := sorted(pixels.keys() - listed)):
        yield AnnotationError(
            f"the PNG has {len(unlisted):,} id(s) that segments_info does not list, {unlisted[0]} first",
            where=where,
            fix="List them, or make their pixels 0 (void).",
        )


def _wrong(kind: str, where: str, detail: str) -> AnnotationError:
    return AnnotationError(f"{KINDS[kind].what}: {detail[:200]}", where=where, fix=KINDS[kind].fix)


def _png(source: Source, name: str, file_name: str, where: str) -> str:
    folder, stem = folder_of(name), PurePosixPath(name).stem
    path = source.first(f"{home}/{file_name}".strip("/") for home in (f"{folder}/{stem}", folder))
    if path is None:
        raise AnnotationError(
            f"the PNG {file_name} is missing", where=where, fix=f"Put it into a folder '{stem}' beside the JSON."
        )
    return path
