"""What can be wrong with a COCO panoptic dataset: each kind with its level, its words and its remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from ..errors import DatasetError
from .validation import MARK_MORE

Tell = Callable[[str, str, str], None]  # kind, where, detail: what a parser calls when it meets something wrong


class Fault(NamedTuple):
    """`level` "error" spoils training or quality; "warning" is odd and may be meant."""

    level: str
    what: str
    fix: str


KINDS = {
    # the JSON by itself
    "unfinished": Fault("error", "the dataset was not written to its end", "Run the command that wrote it again."),
    "json-unreadable": Fault("error", "the JSON cannot be read", "Export it again, or restore it."),
    "json-shape": Fault("error", "the JSON is not COCO panoptic", "See the COCO panoptic format."),
    "categories": Fault("error", "the categories are wrong", "Give each category one id and one name."),
    "categories-differ": Fault("error", "splits have different categories", "Write all splits with the same list."),
    "category-kind": Fault("warning", "a category does not say thing or stuff", "Add isthing: 0 or 1."),
    "image-id-twice": Fault("error", "an image id is used twice", "Number the images anew."),
    "file-name-twice": Fault("error", "a file name is listed twice", "List each photo once."),
    "name-case": Fault("warning", "file names differ in case only", "Rename one: some file systems see one file."),
    "unsafe-name": Fault("error", "a file name leads out of the dataset", "Keep names relative, inside the folder."),
    "image-unannotated": Fault("error", "an image has no annotation", "Annotate it or take it off the list."),
    "annotation-twice": Fault("error", "an image is annotated twice", "Keep one annotation."),
    "annotation-orphan": Fault("error", "an annotation belongs to no image", "Add the image or drop it."),
    "segment-shape": Fault("error", "a segment's entry is malformed", "Write id, category_id and iscrowd as numbers."),
    "segment-id-twice": Fault("error", "a segment id is listed twice in an image", "Give each segment its own id."),
    "category-unknown": Fault("error", "a segment's category is not in the list", "Correct category_id."),
    "crowd-odd": Fault("warning", "iscrowd is not 0 or 1, or marks stuff", "Crowds are groups of things: use 0 or 1."),
    "incomplete-odd": Fault(
        "error", "'incomplete' of an image is no list of the categories' names", "List names, or leave the key out."
    ),
    "score-odd": Fault("warning", "a score or a source makes no sense", "Scores run from 0 to 1."),
    # files
    "photo-missing": Fault("error", "a photo is missing", "Put it back, or take it off the list."),
    "png-missing": Fault("error", "a PNG is missing", "Put it back, or drop the annotation."),
    "photo-unreadable": Fault("error", "a photo cannot be read", "Replace it."),
    "png-unreadable": Fault("error", "a PNG cannot be read", "Write it again."),
    "png-mode": Fault("error", "a PNG is not RGB", "Save id maps as 8-bit RGB, id = R + 256·G + 256²·B."),
    "size": Fault("error", "JSON, PNG and photo differ in size", "Scale marks and photo together."),
    "photo-rotated": Fault("warning", "a photo is turned by EXIF", "Store it and its map upright: tools differ."),
    "photo-extra": Fault("warning", "a photo is in no list", "Annotate it or take it away."),
    "png-extra": Fault("warning", "a PNG is in no list", "Take it away."),
    # pixels
    "id-unlisted": Fault("error", "an id in the PNG is not in the JSON", "List the segment, or paint it void (0)."),
    "id-absent": Fault("error", "a listed segment has no pixel", "Leave it out of the list."),
    "area-stale": Fault("error", "an area is not what the pixels say", "Count areas from the PNG."),
    "box-stale": Fault("error", "a box is not what the pixels say", "Take boxes from the PNG."),
    "instances-stale": Fault("error", "instances and panoptic JSON disagree", "Write both from the same pixels."),
    "stuff-twice": Fault("warning", "stuff of one class is several segments", "Fuse them: stuff has no instances."),
    "empty": Fault("warning", "an image has no segment", "Label it or leave it out."),
    "mostly-void": Fault("warning", "most of an image is void", "Lower the labeler's threshold, or leave it out."),
    "tiny": Fault("warning", "a segment is tiny", "Drop specks: set min_area."),
    "vanishing": Fault(
        "warning", "a segment is under one mask cell at training size", "It cannot be learnt: see tiny."
    ),
    # the whole
    "class-unused": Fault("warning", "a class has no segment", "Drop it, or label some."),
    "class-untrained": Fault("warning", "a class is in val or test, but not in train", "Split again."),
    "incomplete-measured": Fault(
        "warning",
        "nobody may have looked at a photo that is measured on",
        "Its incomplete classes do not count there: look at it, or split again.",
    ),
    "val-empty": Fault("error", "val has no photo, and prepare.json does not say `validate_on: train`", MARK_MORE),
    "class-unmeasured": Fault("warning", "a class is in train, but not in val", "Split again, or label more photos."),
    "imbalance": Fault("warning", "classes are far from balanced", "Label more of the rare, or merge classes."),
    "one-background": Fault(
        "warning",
        "a class that people marked lies on one other class alone",
        "Pasted elsewhere it would teach what never is: leave it out of augmentation.paste_classes.",
    ),
    "left-and-right": Fault(
        "warning",
        "classes differ by their side alone, and training mirrors photos",
        "Write augmentation.flip_pairs, one: other; or flip: 0.",
    ),
    "copy-across": Fault("error", "the same photo is in two splits", "Split again: quality would be flattered."),
    "copy-within": Fault("warning", "the same photo is there twice", "Keep one."),
    "near-copy-across": Fault("warning", "nearly the same photo is in two splits", "Split again with groups."),
    "id-across": Fault("warning", "an image id is used in two splits", "Number images through all splits."),
}


def raise_errors(kind: str, where: str, detail: str) -> None:
    """The reader's way: an error stops, a warning passes."""
    if KINDS[kind].level == "error":
        fail(kind, where, detail)


def fail(kind: str, where: str, detail: str) -> NoReturn:
    raise FaultError(kind, where, detail)


class FaultError(DatasetError):
    """A finding as an exception; `kind` is its key in KINDS."""

    def __init__(self, kind: str, where: str, detail: str) -> None:
        self.kind = kind
        self.detail = detail
        super().__init__(f"{KINDS[kind].what}: {detail}", where=where, fix=KINDS[kind].fix)

    def __reduce__(self) -> tuple[object, ...]:
        return FaultError, (self.kind, self.where, self.detail)
