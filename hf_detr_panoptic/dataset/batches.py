"""From a dataset to batches: items by (epoch, index), so that what is drawn depends on nothing else; collation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from ..images import open_image
from ..panoptic_map import PanopticMap, Segment
from ..preprocess import Preprocess, pad
from ..settings import Augmentation
from .paste import Donors
from .transforms import Draw, make_labels, mirror_images, mirrored, pixels_of, rng_of


class Row(Protocol):
    """One photo with its map: a `Record` of a folder, or a `StoredRow` of Parquet."""

    @property
    def image_id(self) -> int | str: ...
    @property
    def where(self) -> str: ...
    @property
    def photo(self) -> Path | bytes: ...
    @property
    def png(self) -> Path | bytes: ...
    @property
    def segments(self) -> Sequence[Segment]: ...
    @property
    def incomplete(self) -> tuple[str, ...]:
        """The classes that nobody may have looked for on this photo: what lacks a mark may be one of them."""

    def map(self) -> PanopticMap: ...


class PanopticDataset(Dataset[dict[str, Any]]):
    """Photos and targets, ready for the model: `dataset[epoch, index]`, or `dataset[index]` for epoch 0.

    An item has `pixel_values`, float32 [3, h, w], and `labels` (see `make_labels`). What an augmentation draws depends
    on (seed, epoch, image id) alone. What is pasted, if anything is, comes from other rows of these.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        preprocess: Preprocess | None = None,
        augmentation: Augmentation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.preprocess = preprocess or Preprocess()
        self.augmentation = (augmentation or Augmentation.none()).for_size(
            self.preprocess.shortest_edge or 800, self.preprocess.longest_edge
        )
        self.seed = seed
        self.donors = Donors(rows, self.augmentation) if self.augmentation.paste else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        row = self.rows[index]
        panoptic = row.map()
        known_in = getattr(row, "known_in", ())  # Parquet has no such column: there all of it is incomplete
        draft = self._drawn(panoptic, row.image_id, epoch).reduction if self.augmentation.draft else 1
        photo = open_image(row.photo, draft=1 if self.donors is not None else draft)  # what is pasted is not drafted
        return self.item(photo, panoptic, row.image_id, row.where, epoch, row.incomplete, known_in)

    def _drawn(self, panoptic: PanopticMap, image_id: int | str, epoch: int) -> Draw:
        rng = rng_of(self.seed, epoch, image_id)
        return Draw.of(self.augmentation, panoptic.height, panoptic.width, self.preprocess, rng)

    def item(
        self,
        photo: Image.Image,
        panoptic: PanopticMap,
        image_id: int | str,
        where: str,
        epoch: int = 0,
        incomplete: Sequence[str] = (),
        known_in: Sequence[Sequence[float]] = (),
    ) -> dict[str, Any]:
        """What `dataset[epoch, index]` is for a row of these; `incomplete`: the classes not looked for on it, but in
        the boxes (x, y, width, height) `known_in`."""
        draw = self._drawn(panoptic, image_id, epoch)
        reduced = photo.info.get("draft", 1)
        pixels = pixels_of(photo, panoptic, where, reduced)
        if self.donors is not None:
            rng = rng_of(self.seed, epoch, image_id, "paste")
            pixels, panoptic = self.donors.paste(pixels, panoptic, image_id, rng)
        ids = draw.ids(panoptic.ids)
        twins = mirror_images(panoptic.space, self.augmentation.flip_pairs) if draw.flip else {}
        unknown = [panoptic.space.index(name) for name in incomplete]
        return {
            "pixel_values": draw.on(reduced).photo(pixels, self.preprocess),
            "labels": make_labels(
                ids,
                mirrored(panoptic.segments, twins),
                image_id=image_id,
                where=where,
                incomplete=[twins.get(label, label) for label in unknown],
                things=panoptic.space.thing_labels,
                known_in=draw.boxes(known_in),
            ),
        }


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs, shuffled by (seed, epoch).

    Worker processes hold a copy of the dataset from before the first epoch, and persistent ones never see another: so
    the epoch travels with the index. accelerate's `set_epoch` reaches it and its shards share the pairs out; only
    after `skip_first_batches` in several processes it does not get through, so that whoever resumes calls both.
    """

    def __init__(self, length: int, *, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.length))
        rng_of(self.seed, self.epoch, "order").shuffle(order)
        epoch = self.epoch
        return ((epoch, index) for index in order)


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items → one batch, padded to the right and below.

    `pixel_values` float32 [B, 3, H, W], `pixel_mask` bool [B, H, W], `labels` a list of dicts whose maps stay as
    large as their photos: `valid_size` says so.
    """
    # What a worker hands over is copied into shared memory, page by fresh page: stock's int64 mask would be a third.
    batch = pad([item["pixel_values"] for item in items])
    return {
        "pixel_values": batch.pixel_values,
        "pixel_mask": batch.pixel_mask.bool(),
        "labels": _packed([item["labels"] for item in items]),
    }


def _packed(labels: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same, the small tensors of a kind side by side in one storage.

    A worker hands every storage over as an open file, of which a process may often hold no more than 1,024.
    """
    packed = [dict(label) for label in labels]
    for dtype in (torch.int64, torch.float32):
        owners = [
            (label, key)
            for label in packed
            for key, value in label.items()
            if isinstance(value, torch.Tensor) and value.dtype == dtype
        ]
        values = [label[key] for label, key in owners]
        parts = torch.cat([value.reshape(-1) for value in values]).split([value.numel() for value in values])
        for (label, key), value, part in zip(owners, values, parts, strict=True):
            label[key] = part.view(value.shape)
    return packed
