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
from .cvat import is_cvat, read_cvat
from .labelme import is_labelme, is_labelme_xml, read_labelme, read_labelme_xml
from .marks import Annotations, Mark, MarkedPhoto, Skipped, Unmatched
from .masks import mask_names, read_masks
from .pages import Desk, Item, Note
from .sources import Source, folder_of, open_source
from .voc import labelmaps, read_cvat_masks, voc_folders, voc_values

__all__ = ["FORMATS", "Annotations", "Mark", "MarkedPhoto", "Skipped", "Unmatched", "read_annotations"]

FORMATS = get_args(Format)


def read_annotations(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    *,
    format: str | None = None,
    strict: bool = False,
    instances: Literal["components", "whole"] = "components",
    pattern: str | None = None,
    values: Mapping[int, str] | None = None,
    stuff: Collection[str] = (),
    rescale: bool = False,
) -> Annotations:
    """Read what a person marked on the photos in `images`: a file, a folder or a zip, nothing of which is changed.

    The content tells the format; `format` overrules it: one of `FORMATS`, where "cvat" also means that `iscrowd` in a
    COCO file tells the encoding. A photo of which anything cannot be read is set aside in `skipped`, or with `strict`
    raises. Without `images` each photo has the name and the size that the annotations tell.

    `pattern` and `values` say what mask files show (see `mask_names.Names` and `mask_files.read_masks`). In the mask
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
    if format in (None, "cvat") and (maps := labelmaps(source)):
        drawn = (read_cvat_masks(source, folder_of(name), stuff=stuff, whole=whole) for name in maps)
        return desk.assemble(chain(refused, chain.from_iterable(drawn)), "CVAT segmentation mask")
    pages, kinds = ([], set()) if format == "masks" else _documents(source, desk, format)
    if kinds:
        return desk.assemble(chain(refused, pages), " and ".join(sorted(kinds)))
    if format in (None, "cvat") and (folders := voc_folders(source)):
        table = voc_values(values, source.where(folders[0]))
        drawn = (read_cvat_masks(source, name, stuff=stuff, whole=whole, values=table) for name in folders)
        return desk.assemble(chain(refused, chain.from_iterable(drawn)), "VOC segmentation mask")
    if format not in (None, "masks"):
        raise AnnotationError(f"no annotations of the format '{format}' found", where=str(path))
    files = mask_names(source, _photo_folder(Path(path), photos))
    among_photos = photos is not None and photos.resolve() == Path(path).resolve()
    if not files or (among_photos and pattern is None):
        raise AnnotationError(
            "no annotations found" + ("" if files else ", nor mask images"),
            where=str(path),
            fix="COCO JSON, CVAT's exports, LabelMe files and mask images are read. "
            "Masks that lie among the photos need a pattern.",
        )
    masks = read_masks(
        source,
        files,
        desk.index,
        pattern=pattern,
        values=values,
        stuff=stuff,
        whole=whole,
        among_photos=among_photos,
    )
    return desk.assemble(chain(refused, pages, masks), "mask files")


def _documents(source: Source, desk: Desk, format: str | None) -> tuple[list[Item], set[str]]:
    """What the JSON and XML files of a source tell, and their formats. Foreign files are noted, if others are read."""
    items: list[Item] = []
    kinds: set[str] = set()
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
        else:
            kinds.add(kind)
            items.extend(pages)
    return [*items, *foreign], kinds


def _document(source: Source, name: str, desk: Desk, format: str | None) -> tuple[str | None, Iterator[Item]]:
    """The format of one file by its content, and its pages."""
    wanted = format or "any"
    content = source.read(name)
    if name.lower().endswith(".xml") or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        root = source.xml(name, content)
        if is_cvat(root) and wanted in ("any", "cvat"):
            return "CVAT XML", read_cvat(source, name, root, desk.index)
        if is_labelme_xml(root) and wanted in ("any", "labelme"):
            return "LabelMe XML", read_labelme_xml(source, name, root)
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
