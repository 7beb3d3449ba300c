"""The road's steps for who works with `datasets` and `transformers`: callables for `dataset.map` and for one photo.

    label = AutoLabel("facebook/detr-resnet-50-panoptic")
    photos = photos.map(label, batched=True, batch_size=4, features=label.features(photos.features))
    merge = MergeMarks(label.label_space, {1: "pipe", 2: "crack"}, marks="mask")
    photos = photos.map(merge, features=merge.features(photos.features))

A map is two columns, those of `load_panoptic`: `panoptic`, a PNG whose colours are segment ids, and `segments`. Every
callable takes a row, a batch of rows, or the values themselves, and can be pickled for `num_proc`. Give `map` the
`features`: what is read off a first batch without any segment would not fit the next.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .annotations.marks import Mark
from .errors import ImageError, LabelError, MapError, did_you_mean
from .images import open_image, open_lazily
from .labels import Category, LabelSpace
from .panoptic_map import Box, PanopticMap, Segment, boxes_of_ids, rgb_to_ids
from .settings import DEFAULT_MODEL, FLOOR, OverlayRules

if TYPE_CHECKING:
    import datasets
    import torch

    from .labeling.labeler import Labeler
    from .preprocess import Preprocess


class AutoLabel:
    """Photo → what a pretrained panoptic model sees on it.

        label(photo) → PanopticMap          label([photo, …]) → [PanopticMap, …]
        dataset.map(label, batched=True, batch_size=4, features=label.features(dataset.features))

    labeler: a checkpoint's folder or name, a model, or anything with `segment`. Of one that is named the weights are
    not pickled: each process of `map` loads them itself.
    stuff, precision, device: of a labeler that is named, see `load_labeler`; it runs on the processor unless told.
    image: the column of the photos; as a value a PIL image, an array [H, W, 3] of bytes, a file's bytes or its path.
    threshold: segments that the labeler is less sure of are void. The default keeps what `MergeMarks` may still use.
    Maps are at the size of the upright photo. The photos of a batch go through the model together, as far as they are
    of one size; what else is in a batch moves a logit in its last bits.
    """

    def __init__(
        self,
        labeler: Any = DEFAULT_MODEL,
        *,
        image: str = "image",
        threshold: float = FLOOR,
        stuff: Iterable[str] | None = None,
        precision: str = "fp32",
        device: Any = None,
    ) -> None:
        self.image = image
        self.threshold = threshold
        self._given = labeler
        self._options = {
            "stuff": None if stuff is None else tuple(stuff),
            "precision": precision,
            "device": device,
        }
        self._loaded: Labeler | None = None
        self._fingerprint = self.labeler.fingerprint  # `map` knows by the pickle what it has done before

    @property
    def labeler(self) -> Labeler:
        if self._loaded is None:
            from .labeling.labeler import load_labeler

            self._loaded = load_labeler(self._given, **self._options)
        return self._loaded

    @property
    def label_space(self) -> LabelSpace:
        return self.labeler.label_space

    def features(self, before: Mapping[str, Any] | None = None) -> datasets.Features:
        """The columns of a dataset that had `before`."""
        return _with_map(before, self.label_space)

    def __call__(self, photos: Any) -> Any:
        if isinstance(photos, Mapping) and self.image in photos:
            return _by_rows(self._rows, photos, (self.image,))
        if isinstance(photos, list | tuple):
            return self._maps(photos)
        return self._maps([photos])[0]

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [map_columns(scene) for scene in self._maps([row[self.image] for row in rows])]

    def _maps(self, photos: Sequence[Any]) -> list[PanopticMap]:
        from .labeling.labeler import size_in_model

        upright = [_photo(photo) for photo in photos]
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, photo in enumerate(upright):
            by_size.setdefault(size_in_model(self.labeler, (photo.height, photo.width)), []).append(index)
        maps: dict[int, PanopticMap] = {}
        for indices in by_size.values():
            segmented = self.labeler.segment([upright[index] for index in indices], threshold=self.threshold)
            maps.update(zip(indices, segmented, strict=True))
        return [_from_source(maps[index], "auto") for index in range(len(upright))]

    def __getstate__(self) -> dict[str, Any]:
        by_name = isinstance(self._given, str | Path)
        return self.__dict__ | ({"_loaded": None} if by_name else {})


class MergeMarks:
    """A labeler's map and what a person marked → the map with the marks on top, by the overlay rules.

        merge(auto_map, marks) → PanopticMap
        dataset.map(merge, features=merge.features(dataset.features))       # of one that `AutoLabel` has mapped

    auto: the labeler's classes. names: the person's, by the number that a mask or a `category_id` has for them.
    marks: the column with them. In it, and as a value, stand: an image of class numbers, where 0 is unmarked (or an
    integer array [H, W]); a list of COCO annotations (`category_id` with `segmentation` or `bbox`), such as
    `DetrImageProcessor` takes; a list of `Mark`; or None, where nobody marked anything.
    stuff: those of the names that are stuff. A name that the labeler has too is the same class, of the labeler's kind.
    instances: of the mask of a class each connected part is an object, or with "whole" all of it, as for stuff.
    """

    def __init__(
        self,
        auto: LabelSpace,
        names: Mapping[int, str],
        *,
        marks: str = "marks",
        stuff: Collection[str] = (),
        instances: str = "components",
        rules: OverlayRules | None = None,
    ) -> None:
        if instances not in ("components", "whole"):
            raise MapError(f"instances cannot be {instances!r}", fix="Write components, or whole.")
        self.auto = auto
        self.names = {int(number): name for number, name in names.items()}
        self.marks = marks
        self.stuff = tuple(stuff)
        self.whole = instances == "whole"
        self.rules = rules or OverlayRules()
        self.label_space = self._merged_space()

    def features(self, before: Mapping[str, Any] | None = None) -> datasets.Features:
        """The columns of a dataset that had `before`."""
        return _with_map(before, self.label_space)

    def __call__(self, auto: Any, marks: Any = None) -> Any:
        if isinstance(auto, PanopticMap):
            return self._merged(auto, marks, "the marks")
        columns = ("panoptic", "segments", self.marks)
        return _by_rows(self._rows, auto, columns, ("file_name", "image_id"))

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._row(row) for row in rows]

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        where = str(row.get("file_name") or row.get("image_id") or f"column {self.marks}")
        return map_columns(self._merged(map_of(row, self.auto), row[self.marks], where))

    def _merged(self, auto: PanopticMap, marks: Any, where: str) -> PanopticMap:
        from .labeling.overlay import overlay

        drawn = list(self._marks(marks, (auto.width, auto.height), where))
        return overlay(auto, drawn, self.label_space, rules=self.rules).map

    def _marks(self, marks: Any, size: tuple[int, int], where: str) -> Iterator[Mark]:
        from .annotations.coco import drawn_of
        from .annotations.colors import Table
        from .annotations.masks import drawn_classes
        from .annotations.shapes import Canvas, rasterised

        if marks is None:
            return
        if isinstance(marks, list | tuple):
            yield from (mark for mark in marks if isinstance(mark, Mark))
            entries = [entry for entry in marks if not isinstance(entry, Mark)]
            drawn = [
                drawn_of(entry, self.names, f"{where}, annotation {entry.get('id', number)}")
                for number, entry in enumerate(entries, start=1)
            ]
        else:
            ids, lossy = _numbers(marks, where)
            size = (ids.shape[1], ids.shape[0])  # another one than the photo's is told by the overlay
            table = Table({number: name for number, name in self.names.items() if number}, colored=False)
            drawn = list(drawn_classes(ids, table, lossy=lossy, stuff=self.stuff, whole=self.whole, where=where))
        for each in drawn:
            rle, box = rasterised(each.shape, Canvas(*size, *size), each.where)
            yield Mark(each.name, rle, box, each.crowd, each.where)

    def _merged_space(self) -> LabelSpace:
        from .annotations.marks import is_void_name

        for name in self.stuff:
            if name not in self.names.values():
                raise LabelError(f"stuff: {name!r} is none of the names", fix="List names that are marked.")
        kinds = {category.name: category.isthing for category in self.auto} | dict.fromkeys(self.stuff, False)
        named = dict.fromkeys(name for name in self.names.values() if not is_void_name(name))
        own = LabelSpace(Category(name, kinds.get(name, True)) for name in named)
        return self.auto.merged(own, stuff=self.stuff)


class BoxesFromMasks:
    """Masks → tight boxes, (x, y, width, height) in whole pixels: an object of one pixel is 1 × 1.

        boxes(panoptic_map) → {segment id: box}
        boxes(masks) → [box, …]             masks: bool or numbers [N, H, W]; a mask without a pixel is (0, 0, 0, 0)
        dataset.map(boxes, features=boxes.features(dataset.features))

    Rows get the columns `boxes` and `areas`, in the order of `segments`.
    """

    def features(self, before: Mapping[str, Any] | None = None) -> datasets.Features:
        """The columns of a dataset that had `before`."""
        from datasets import Features, Value

        return Features({**(before or {}), "boxes": [[Value("int32")]], "areas": [Value("int64")]})

    def __call__(self, masks: Any) -> Any:
        if isinstance(masks, PanopticMap):
            return masks.boxes()
        if isinstance(masks, Mapping):
            return _by_rows(self._rows, masks, ("panoptic", "segments"))
        stack = np.asarray(masks)
        if stack.ndim != 3:
            raise MapError(f"masks are [N, H, W], not {list(stack.shape)}", fix="Put a lone mask into a list.")
        nothing: Box = (0, 0, 0, 0)
        return [boxes_of_ids((mask != 0).astype(np.int32)).get(1, nothing) for mask in stack]

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        any_class = LabelSpace([Category("region", isthing=True)])  # only the pixels are asked for
        scenes = [
            PanopticMap(
                _ids_of(row["panoptic"]), [Segment(segment["id"], 0) for segment in row["segments"]], any_class
            )
            for row in rows
        ]
        return [
            {"boxes": [list(box) for box in scene.boxes().values()], "areas": list(scene.areas().values())}
            for scene in scenes
        ]


class DetrPanopticProcessor:
    """Photos, and maps if there are any → what the model takes, as `DetrImageProcessor` does for COCO panoptic.

        processor(photo or photos) → {pixel_values: float [B, 3, H, W], pixel_mask: [B, H, W]}
        processor(photos, maps) → the same, and labels: a list of dicts (see `data.transforms.make_labels`)
        dataset.with_transform(processor)       # with `data_collator=processor.collate` of a Trainer

    label_space: that of the rows' maps. Photos are turned upright; sizes may differ, padding is to the right and
    below. Boxes are derived from the pixels, relative to the photo without its padding. Rows without a column
    `panoptic` give no labels. Unlike stock, a photo whose map is void gives labels of length 0, not an error.
    """

    def __init__(
        self, label_space: LabelSpace | None = None, preprocess: Preprocess | None = None, *, image: str = "image"
    ) -> None:
        from .preprocess import Preprocess

        self.label_space = label_space
        self.preprocess = preprocess or Preprocess()
        self.image = image

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> DetrPanopticProcessor:
        """With the sizes and, unless another `label_space` is given, the classes of a checkpoint."""
        from transformers import DetrImageProcessor

        from .labeling.labeler import labeler_space
        from .preprocess import Preprocess

        if "label_space" not in options:
            options["label_space"] = labeler_space(name)
        return cls(preprocess=Preprocess.from_image_processor(DetrImageProcessor.from_pretrained(name)), **options)

    def __call__(self, images: Any, annotations: Any = None) -> dict[str, Any]:
        if isinstance(images, Mapping) and self.image in images:
            return _by_rows(self._rows, images, (self.image,), ("panoptic", "segments", "image_id", "incomplete"))
        photos = images if isinstance(images, list | tuple) else [images]
        if annotations is None:
            maps: Sequence[PanopticMap | None] = [None] * len(photos)
        else:
            maps = annotations if isinstance(annotations, list | tuple) else [annotations]
        if len(maps) != len(photos):
            raise MapError(f"{len(photos)} photos and {len(maps)} maps", fix="Give a map for each photo.")
        items = [self._item(photo, scene, n) for n, (photo, scene) in enumerate(zip(photos, maps, strict=True))]
        return self.collate(items)

    @staticmethod
    def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Items → a batch; in a Trainer with `remove_unused_columns=False`."""
        from .dataset.batches import collate
        from .preprocess import pad

        if all("labels" in item for item in items):
            return collate(items)
        batch = pad([item["pixel_values"] for item in items])
        return {"pixel_values": batch.pixel_values, "pixel_mask": batch.pixel_mask.bool()}

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if rows and "panoptic" in rows[0] and self.label_space is None:
            raise LabelError("the rows have maps, and nobody said of which classes", fix="Give the label_space.")
        return [
            self._item(
                row[self.image],
                map_of(row, self.label_space) if self.label_space is not None and "panoptic" in row else None,
                row.get("image_id", number),
                row.get("incomplete") or (),
            )
            for number, row in enumerate(rows)
        ]

    def _item(
        self, photo: Any, scene: PanopticMap | None, image_id: int | str, incomplete: Sequence[int] = ()
    ) -> dict[str, Any]:
        from .dataset.batches import PanopticDataset
        from .preprocess import as_pixels

        if scene is None:
            pixels: torch.Tensor = self.preprocess(as_pixels(_photo(photo)))
            return {"pixel_values": pixels}
        names = [scene.space[label].name for label in incomplete]
        shown = PanopticDataset([], self.preprocess)
        return shown.item(_photo(photo), scene, image_id, f"image {image_id}", incomplete=names)


# --- maps as columns


def map_columns(scene: PanopticMap) -> dict[str, Any]:
    """The map as `panoptic` and `segments`."""
    from .dataset.writer import encode_ids

    segments = [
        {"id": s.id, "label": s.label, "score": s.score, "source": s.source, "iscrowd": int(s.crowd)}
        for s in scene.segments
    ]
    return {"panoptic": encode_ids(scene.ids), "segments": segments}


def map_of(row: Mapping[str, Any], space: LabelSpace) -> PanopticMap:
    """The map of a row with `panoptic` and `segments`, whether its PNG is decoded or not."""
    segments = [
        Segment(s["id"], s["label"], s.get("score", 1.0), s.get("source", "custom"), bool(s.get("iscrowd", 0)))
        for s in row["segments"]
    ]
    return PanopticMap(_ids_of(row["panoptic"]), segments, space)


def _ids_of(panoptic: Any) -> npt.NDArray[np.int32]:
    if panoptic is None:
        raise MapError("a row has no map", fix="Leave such rows out, or label them: AutoLabel.")
    if isinstance(panoptic, Mapping):
        panoptic = panoptic.get("bytes") or Path(panoptic["path"]).read_bytes()
    return rgb_to_ids(np.asarray(panoptic if isinstance(panoptic, Image.Image) else open_lazily(panoptic)))


def _with_map(before: Mapping[str, Any] | None, space: LabelSpace) -> datasets.Features:
    from datasets import Features

    from .dataset.builder import panoptic_features

    columns = panoptic_features(space.names)
    return Features({**(before or {}), **{name: columns[name] for name in ("panoptic", "segments")}})


def _from_source(scene: PanopticMap, source: str) -> PanopticMap:
    return PanopticMap(scene.ids, [replace(segment, source=source) for segment in scene.segments], scene.space)


# --- rows, photos and masks as `datasets` hands them over


def _by_rows(
    work: Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]],
    given: Mapping[str, Any],
    needed: Sequence[str],
    welcome: Sequence[str] = (),
) -> dict[str, Any]:
    """The new columns of a row, or of a batch. Only these columns are read: others may hold photos to be decoded."""
    for name in needed:
        if name not in given:
            raise MapError(f"the rows have no column {name!r}", fix=did_you_mean(name, list(given)))
    columns = {name: given[name] for name in (*needed, *welcome) if name in given}
    if not isinstance(columns[needed[0]], list):  # one photo, one PNG
        return work([columns])[0]
    done = work([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
    return {name: [row[name] for row in done] for name in (done[0] if done else ())}


def _photo(photo: Any) -> Image.Image:
    """Upright and RGB."""
    if isinstance(photo, Mapping):  # an image column that is not decoded
        if not photo.keys() & {"bytes", "path"}:
            raise ImageError(f"no photo is under {', '.join(map(str, photo))}", fix="Name its column: image=…")
        photo = photo.get("bytes") or photo["path"]
    return open_image(Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo)


def _numbers(mask: Any, where: str) -> tuple[npt.NDArray[np.int32], bool]:
    """int32 [H, W], and whether they went through JPEG."""
    from .annotations.shapes import is_lossy, mask_values

    if isinstance(mask, np.ndarray):
        if mask.ndim != 2 or mask.dtype.kind not in "iub":
            raise MapError(f"a mask is whole numbers [H, W], not {mask.dtype} {list(mask.shape)}", where=where)
        return mask.astype(np.int32), False
    if isinstance(mask, Mapping):
        mask = mask.get("bytes") or Path(mask["path"])
    if isinstance(mask, Image.Image):
        png = io.BytesIO()
        mask.save(png, "PNG")
        return mask_values(png.getvalue(), where), mask.format == "JPEG"
    data = mask if isinstance(mask, bytes) else Path(mask).read_bytes()
    return mask_values(data, where), is_lossy(data)
