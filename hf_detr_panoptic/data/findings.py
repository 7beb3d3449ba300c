"""What can be wrong with a COCO panoptic dataset, kind by kind: reading raises it, checking counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..errors import DatasetError

Tell = Callable[[str, str, str], None]  # kind, where, detail: what a parser calls when it meets something wrong


class Kind(NamedTuple):
    """`level` "error" spoils training or quality; "warning" is odd and may be meant."""

    level: str
    what: str
    fix: str


KINDS = {
    # the JSON by itself
    "unfinished": Kind("error", "the dataset was not written to its end", "Run the command that wrote it again."),
    "json-unreadable": Kind("error", "the JSON cannot be read", "Export it again, or restore it."),
    "json-shape": Kind("error", "the JSON is not COCO panoptic", "See the COCO panoptic format."),
    "categories": Kind("error", "the categories are wrong", "Give each category one id and one name."),
    "categories-differ": Kind("error", "splits have different categories", "Write all splits with the same list."),
    "category-kind": Kind("warning", "a category does not say thing or stuff", "Add isthing: 0 or 1."),
    "image-id-twice": Kind("error", "an image id is used twice", "Number the images anew."),
    "file-name-twice": Kind("error", "a file name is listed twice", "List each photo once."),
    "name-case": Kind("warning", "file names differ in case only", "Rename one: some file systems see one file."),
    "unsafe-name": Kind("error", "a file name leads out of the dataset", "Keep names relative, inside the folder."),
    "image-unannotated": Kind("error", "an image has no annotation", "Annotate it or take it off the list."),
    "annotation-twice": Kind("error", "an image is annotated twice", "Keep one annotation."),
    "annotation-orphan": Kind("error", "an annotation belongs to no image", "Add the image or drop it."),
    "segment-shape": Kind("error", "a segment's entry is malformed", "Write id, category_id and iscrowd as numbers."),
    "segment-id-twice": Kind("error", "a segment id is listed twice in an image", "Give each segment its own id."),
    "category-unknown": Kind("error", "a segment's category is not in the list", "Correct category_id."),
    "crowd-odd": Kind("warning", "iscrowd is not 0 or 1, or marks stuff", "Crowds are groups of things: use 0 or 1."),
    "score-odd": Kind("warning", "a score or a source makes no sense", "Scores run from 0 to 1."),
    # files
    "photo-missing": Kind("error", "a photo is missing", "Put it back, or take it off the list."),
    "png-missing": Kind("error", "a PNG is missing", "Put it back, or drop the annotation."),
    "photo-unreadable": Kind("error", "a photo cannot be read", "Replace it."),
    "png-unreadable": Kind("error", "a PNG cannot be read", "Write it again."),
    "png-mode": Kind("error", "a PNG is not RGB", "Save id maps as 8-bit RGB, id = R + 256·G + 256²·B."),
    "size": Kind("error", "JSON, PNG and photo differ in size", "Scale marks and photo together."),
    "photo-rotated": Kind("warning", "a photo is turned by EXIF", "Store photos upright: not every tool turns them."),
    "photo-extra": Kind("warning", "a photo is in no list", "Annotate it or take it away."),
    "png-extra": Kind("warning", "a PNG is in no list", "Take it away."),
    # pixels
    "id-unlisted": Kind("error", "an id in the PNG is not in the JSON", "List the segment, or paint it void (0)."),
    "id-absent": Kind("error", "a listed segment has no pixel", "Leave it out of the list."),
    "area-stale": Kind("error", "an area is not what the pixels say", "Count areas from the PNG."),
    "box-stale": Kind("error", "a box is not what the pixels say", "Take boxes from the PNG."),
    "instances-stale": Kind("error", "instances and panoptic JSON disagree", "Write both from the same pixels."),
    "stuff-twice": Kind("warning", "stuff of one class is several segments", "Fuse them: stuff has no instances."),
    "empty": Kind("warning", "an image has no segment", "Label it or leave it out."),
    "mostly-void": Kind("warning", "most of an image is void", "Lower the labeler's threshold, or leave it out."),
    "tiny": Kind("warning", "a segment is tiny", "Drop specks: set min_area."),
    "vanishing": Kind(
        "warning", "a segment is under one mask cell at training size", "It cannot be learnt: see tiny."
    ),
    # the whole
    "class-unused": Kind("warning", "a class has no segment", "Drop it, or label some."),
    "class-untrained": Kind("warning", "a class is in val or test, but not in train", "Split again."),
    "class-unmeasured": Kind("warning", "a class is in train, but not in val", "Split again, or label more photos."),
    "imbalance": Kind("warning", "classes are far from balanced", "Label more of the rare, or merge classes."),
    "copy-across": Kind("error", "the same photo is in two splits", "Split again: quality would be flattered."),
    "copy-within": Kind("warning", "the same photo is there twice", "Keep one."),
    "near-copy-across": Kind("warning", "nearly the same photo is in two splits", "Split again with groups."),
    "id-across": Kind("warning", "an image id is used in two splits", "Number images through all splits."),
}


def raise_errors(kind: str, where: str, detail: str) -> None:
    """The reader's way: an error stops, a warning passes."""
    if KINDS[kind].level == "error":
        fail(kind, where, detail)


def fail(kind: str, where: str, detail: str) -> NoReturn:
    raise FoundError(kind, where, detail)


class FoundError(DatasetError):
    """A finding as an exception; `kind` is its key in KINDS."""

    def __init__(self, kind: str, where: str, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(f"{KINDS[kind].what}: {detail}", where=where, fix=KINDS[kind].fix)

    def __reduce__(self) -> tuple[object, ...]:
        return FoundError, (self.kind, self.where, self.detail)
