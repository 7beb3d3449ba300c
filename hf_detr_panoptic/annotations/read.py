"""Whatever a person drew, in whatever tool, read into `Mark`s."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ..errors import AnnotationError, did_you_mean
from ..images import SUFFIXES
from ..settings import Format
from .coco import is_instances, is_panoptic, read_instances, read_panoptic
from .colors import Values, as_values
from .cvat import is_cvat, read_cvat
from .foreign import refusal
from .labelme import is_labelme, is_labelme_xml, read_labelme, read_labelme_xml
from .marks import Annotations, Mark, MarkedPhoto, Skipped, Unmatched
from .masks import mask_names, read_masks
from .pages import Desk, Item, Note, Page, PhotoIndex
from .sources import Source, folder_of, open_source
from .voc import is_voc, labelmaps, read_voc, read_voc_boxes, voc_folders, voc_table
from .yolo import read_yolo, yolo_labels, yolo_names

__all__ = ["FORMATS", "Annotations", "Mark", "MarkedPhoto", "Skipped", "Unmatched", "read_annotations"]

FORMATS = get_args(Format)
VOC_BOXES = "VOC boxes"


def read_annotations(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    *,
    format: str | None = None,
    strict: bool = False,
    instances: Literal["components", "whole"] = "components",
    pattern: str | None = None,
    values: Values | Path | None = None,
    stuff: Collection[str] = (),
    rescale: bool = False,
) -> Annotations:
    """Read what a person marked on the photos in `images`: a file, a folder or a zip, nothing of which is changed.

    The content tells the format; `format` overrules it: one of `FORMATS`, where "cvat" also means that `iscrowd` in a
    COCO file tells the encoding. A photo of which anything cannot be read is set aside in `skipped`, or with `strict`
    raises. Without `images` each photo has the name and the size that the annotations tell.

    `pattern` and `values` (or the file that holds them) say what mask files show (see `masks.Names` and `read_masks`),
    and `values` what YOLO's numbers mean. In the mask
    of a whole class each connected part is an object, unless the class is among `stuff` or `instances` is "whole".
    `rescale` fits marks to photos that were resized since.
    """
    if format is not None and format not in FORMATS:
        raise AnnotationError(f"the format '{format}' is not known", fix=did_you_mean(format, FORMATS))
    if instances not in ("components", "whole"):
        raise AnnotationError(
            f"instances cannot be {instances!r}", fix=did_you_mean(instances, ("components", "whole"))
        )
    photos = None if images is None else Path(images)
    desk = Desk(photos, strict=strict, rescale=rescale)
    source = open_source(Path(path), photos)
    whole = instances == "whole"
    refused: list[Item] = list(source.refused)
    table = as_values(values)
    voc = voc_folders(source) if format in (None, "cvat", "voc") else []
    maps = [folder_of(name) for name in labelmaps(source)] if voc else []
    pages, kinds = ([], set()) if format == "masks" else _documents(source, desk, format, bool(voc))
    if kinds and maps:
        raise AnnotationError(
            f"two formats: {' and '.join(sorted(kinds))}, and masks with a labelmap.txt",
            where=str(path),
            fix="Give one of the two, or say --format: both may mark the same things.",
        )
    if kinds:
        return desk.assemble(chain(refused, pages), " and ".join(sorted(kinds)))
    if voc:
        tables = {folder: voc_table(source, folder, table) for folder in maps or voc}
        drawn = [read_voc(source, folder, each, stuff=stuff, whole=whole) for folder, each in tables.items()]
        kind = "CVAT segmentation mask" if maps else "VOC segmentation mask"
        return desk.assemble(chain(refused, chain.from_iterable(drawn)), kind)
    photo_folder = _photo_folder(Path(path), photos)
    if format in (None, "yolo") and (labels := yolo_labels(source, desk.index)):
        items = read_yolo(source, labels, yolo_names(source, table), photo_folder)
        return desk.assemble(chain(refused, items), "YOLO")
    if format not in (None, "masks"):
        raise AnnotationError(f"no annotations of the format '{format}' found", where=str(path))
    files = mask_names(source, photo_folder)
    among_photos = photos is not None and photos.resolve() == Path(path).resolve()
    foreign = refusal(source) if format is None else None
    if foreign is not None or (source.refused and not files):
        raise foreign or source.refused[0]
    if not files or (among_photos and pattern is None):
        raise AnnotationError(
            "no annotations found" + ("" if files else ", nor mask images"), where=str(path), fix=_NOTHING
        )
    masks = read_masks(
        source,
        files,
        desk.index,
        pattern=pattern,
        values=table,
        stuff=stuff,
        whole=whole,
        among_photos=among_photos,
    )
    return desk.assemble(chain(refused, pages, masks), "mask files")


_NOTHING = (
    "COCO JSON, CVAT's exports, LabelMe, VOC, YOLO and mask images are read; prepare --dry-run says what is there. "
    "Masks that lie among the photos need a pattern."
)


def _documents(source: Source, desk: Desk, format: str | None, has_masks: bool) -> tuple[list[Item], set[str]]:
    """What the JSON and XML files of a source tell, and their formats. Foreign files are noted, if others are read.

    `has_masks`: where Pascal VOC's masks are, its boxes say less of the same objects."""
    items: list[Item] = []
    told: dict[str, str] = {}
    kinds: dict[str, str] = {}
    foreign: list[Note] = []
    panoptic = {name for name in source.names if PurePosixPath(name).name.startswith("panoptic")}
    for name in source.names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES:
            continue
        if suffix not in (".json", ".xml") and len(source.names) > 1:
            continue
        folder, base = str(PurePosixPath(name).parent), PurePosixPath(name).name
        twin = str(PurePosixPath(folder, base.replace("instances", "panoptic", 1)))
        if base.startswith("instances") and twin in panoptic and format in (None, "coco-panoptic"):
            foreign.append(Note(source.where(name), f"left out: {twin} tells the same and more"))
            continue
        kind, pages = _document(source, name, desk, format)
        if kind is None:
            foreign.append(Note(source.where(name), "this is no annotation file of a known format", None))
        elif kind != VOC_BOXES or not has_masks:
            kinds.setdefault(kind, source.where(name))
            found = list(pages)
            items.extend(found)
            for page in found:
                if isinstance(page, Page) and format is None and desk.index is not None:
                    _not_told_twice(desk.index, page, kind, told, kinds)
    return [*items, *foreign], set(kinds)


def _not_told_twice(index: PhotoIndex, page: Page, kind: str, told: dict[str, str], kinds: Mapping[str, str]) -> None:
    """One export in two formats would mark everything twice."""
    hit = index.find(page.photo, page.near)
    other = kind if hit is None else told.setdefault(hit.photo, kind)
    if hit is not None and other != kind:
        raise AnnotationError(
            f"two formats speak of {hit.photo}: {other} ({kinds[other]}) and {kind} ({kinds[kind]})",
            where=page.where,
            fix="Give one of the two files, or say --format: both would mark everything twice.",
        )


def _document(source: Source, name: str, desk: Desk, format: str | None) -> tuple[str | None, Iterator[Item]]:
    """The format of one file by its content, and its pages."""
    wanted = format or "any"
    content = source.read(name)
    if not name.lower().endswith((".xml", ".json")) and content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"<", b"{"):
        return None, iter(())  # unknown is not broken
    if name.lower().endswith(".xml") or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        root = source.xml(name, content)
        if is_cvat(root) and wanted in ("any", "cvat"):
            return "CVAT XML", read_cvat(source, name, root, desk.index)
        if is_labelme_xml(root) and wanted in ("any", "labelme"):
            return "LabelMe XML", read_labelme_xml(source, name, root)
        if is_voc(root) and wanted in ("any", "voc"):
            return VOC_BOXES, read_voc_boxes(source, name, root)
        return None, iter(())
    data = source.json(name, content)
    if is_panoptic(data) and wanted in ("any", "coco-panoptic"):
        return "COCO panoptic", read_panoptic(source, name, data)
    if is_instances(data) and wanted in ("any", "coco", "cvat"):
        return "COCO instances", read_instances(source, name, data, from_cvat=format == "cvat")
    if is_labelme(data) and wanted in ("any", "labelme"):
        return "LabelMe", read_labelme(source, name, data)
    return None, iter(())


def _photo_folder(path: Path, images: Path | None) -> str | None:
    """The photos' folder as a name in the source, where it lies inside."""
    if images is None or not path.is_dir():
        return None
    inside, outside = images.resolve(), path.resolve()
    return inside.relative_to(outside).as_posix() if inside != outside and inside.is_relative_to(outside) else None
