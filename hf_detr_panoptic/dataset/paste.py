"""Copy-paste: things that a person marked on other training photos, pasted into a photo and its map."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as tvf

from ..errors import LabelError, did_you_mean
from ..images import open_image
from ..labels import LabelSpace
from ..panoptic_map import PanopticMap, Segment
from ..preprocess import Size
from ..settings import Augmentation
from .transforms import centres, mirror_images, mirrored, pixels_of

if TYPE_CHECKING:
    from .batches import Row

# What is left of a hidden segment says no more what it was where it is smaller than about six by six pixels.
LEAST_AREA = 40
# Draws for each thing that is to be pasted: one may touch its photo's border, be too large, or be of this very photo.
TRIES = 5


class Donor(NamedTuple):
    """A marked thing: its photo's place among the rows, and its id there."""

    place: int
    segment_id: int


class Donors:
    """The things that people marked on these rows, and how they are pasted into others of them.

    No crowd is one, nor what others than people marked. Whether a thing touches its photo's border only the map says:
    it is looked at when a thing is drawn, and nothing is kept from photo to photo.
    """

    def __init__(self, rows: Sequence[Row], augmentation: Augmentation) -> None:
        self.rows = rows
        self.augmentation = augmentation
        marked = [
            (segment.label, Donor(place, segment.id))
            for place, row in enumerate(rows)
            for segment in row.segments
            if segment.source == "custom" and not segment.crowd
        ]
        self.of_label: dict[int, list[Donor]] = {}
        if marked:
            space = rows[marked[0][1].place].map().space
            wanted = labels_to_paste(space, augmentation.paste_classes)
            for label in sorted({label for label, _ in marked} & wanted):
                self.of_label[label] = [donor for its, donor in marked if its == label]

    def paste(
        self, pixels: torch.Tensor, panoptic: PanopticMap, image_id: int | str, rng: random.Random
    ) -> tuple[torch.Tensor, PanopticMap]:
        """The photo, uint8 [3, H, W], and its map, with things before them or as they are: the draw decides.

        What comes later hides what came before. A segment of which fewer than LEAST_AREA pixels are left becomes void.
        """
        if not self.of_label or rng.random() >= self.augmentation.paste:
            return pixels, panoptic
        size = (panoptic.height, panoptic.width)
        drawn = [self._drawn(size, image_id, rng) for _ in range(rng.randint(1, self.augmentation.paste_most))]
        patches = [patch for patch in drawn if patch is not None]
        if not patches:
            return pixels, panoptic
        pixels, ids, segments = pixels.clone(), panoptic.ids.copy(), list(panoptic.segments)
        free = (new for new in itertools.count(1) if all(new != segment.id for segment in panoptic.segments))
        hidden: set[int] = set()
        for patch, new in zip(patches, free, strict=False):
            height, width = patch.mask.shape
            window = np.s_[patch.top : patch.top + height, patch.left : patch.left + width]
            hidden.update(np.unique(ids[window][patch.mask]).tolist())
            ids[window][patch.mask] = new
            mask = torch.from_numpy(np.ascontiguousarray(patch.mask))
            pixels[:, *window] = torch.where(mask, patch.pixels, pixels[:, *window])
            segments.append(replace(patch.segment, id=new))
        gone = [one for one in hidden if one and np.count_nonzero(ids == one) < LEAST_AREA]
        ids[np.isin(ids, gone)] = 0
        return pixels, PanopticMap(ids, [one for one in segments if one.id not in gone], panoptic.space)

    def _drawn(self, size: Size, image_id: int | str, rng: random.Random) -> _Patch | None:
        """A thing, placed on a photo of this size; its class is drawn first, so that rare ones come as often."""
        settings = self.augmentation
        for _ in range(TRIES):
            label = rng.choice(list(self.of_label))
            donor = rng.choice(self.of_label[label])
            scale, flip = rng.uniform(*settings.paste_scale), rng.random() < 0.5
            shift, aside = rng.uniform(-settings.paste_shift, settings.paste_shift), rng.random()
            row = self.rows[donor.place]
            if row.image_id == image_id:
                continue
            panoptic = row.map()
            left, top, width, height = panoptic.boxes()[donor.segment_id]
            right, bottom = left + width, top + height
            if not (left and top and right < panoptic.width and bottom < panoptic.height):
                continue
            scale *= size[0] / panoptic.height
            new = max(round(height * scale), 1), max(round(width * scale), 1)
            if new[0] > size[0] or new[1] > size[1]:
                continue
            rows, columns = top + centres(height, new[0]), left + centres(width, new[1])
            mask = panoptic.ids[rows][:, columns[::-1] if flip else columns] == donor.segment_id
            if not mask.any():
                continue
            cut = pixels_of(open_image(row.photo), panoptic, row.where)[:, top:bottom, left:right]
            cut = tvf.resize(cut, list(new), antialias=True)
            twins = mirror_images(panoptic.space, settings.flip_pairs) if flip else {}
            (segment,) = mirrored([panoptic.segment(donor.segment_id)], twins)
            # Things stand on the ground: how far down a thing reaches is what makes its place plausible.
            foot = round((bottom / panoptic.height + shift) * size[0])
            return _Patch(
                pixels=tvf.horizontal_flip(cut) if flip else cut,
                mask=mask,
                segment=segment,
                top=min(max(foot - new[0], 0), size[0] - new[0]),
                left=int(aside * (size[1] - new[1] + 1)),
            )
        return None


@dataclass(frozen=True)
class _Patch:
    """A thing, as tight as it is, and where it goes: pixels uint8 [3, h, w], mask bool [h, w]."""

    pixels: torch.Tensor
    mask: npt.NDArray[np.bool_]
    segment: Segment
    top: int
    left: int


def labels_to_paste(space: LabelSpace, names: Collection[str] | None) -> frozenset[int]:
    """The labels of these classes, which must be things; all things where no names are given."""
    if names is None:
        return space.thing_labels
    for name in names:
        if name not in space.names:
            raise LabelError(
                f"the dataset has no class {name!r}",
                where="augmentation.paste_classes",
                fix=did_you_mean(name, space.names),
            )
        if not space[space.index(name)].isthing:
            raise LabelError(f"{name!r} is stuff", where="augmentation.paste_classes", fix="Only things are pasted.")
    return frozenset(space.index(name) for name in names)
