"""What a report shows, as plain values: whoever joins the rooms fills them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pictures.draw import Color


@dataclass(frozen=True)
class Thumbnail:
    """An encoded picture: `content` of `kind` ("webp"), `size` as (width, height)."""

    caption: str
    content: bytes
    size: tuple[int, int]
    kind: str = "webp"


@dataclass(frozen=True)
class PhotoCard:
    """A photo in the gallery. `labels`: the classes on it; `reasons`: why it stands where it stands.

    `kinds`: one short word for each reason, to filter by.
    """

    title: str
    part: str
    thumbnails: tuple[Thumbnail, ...]
    labels: tuple[int, ...]
    reasons: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    figure: str | None = None


@dataclass(frozen=True)
class Advice:
    """What to do next, and the command that does it, if there is one."""

    text: str
    command: str | None = None


@dataclass(frozen=True)
class Part:
    """A split: photos, segments, and pixels by who knows them."""

    photos: int
    segments: int
    custom: int
    auto: int
    void: int

    def shares(self) -> list[tuple[str, float, str]]:
        """Of the pixels, each with its words and its CSS class."""
        whole = max(1, self.custom + self.auto + self.void)
        return [
            ("marked by hand", self.custom / whole, "custom"),
            ("added by the labeler", self.auto / whole, "auto"),
            ("void: nobody knows", self.void / whole, "void"),
        ]


@dataclass(frozen=True)
class DatasetClass:
    """A class of a dataset. custom, auto: its segments; share: of all known pixels; photos: by split."""

    name: str
    isthing: bool
    color: Color
    custom: int
    auto: int
    share: float
    photos: Mapping[str, int]

    @property
    def held_out(self) -> float | None:
        """The share of its photos that is not in train; None where no photo shows it."""
        everything = sum(self.photos.values())
        return (everything - self.photos.get("train", 0)) / everything if everything else None


@dataclass(frozen=True)
class Remark:
    """One kind of thing that is wrong ("error") or odd ("warning"), how often, and the first places."""

    level: str
    what: str
    fix: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two photos that are the same, or nearly; `bits` of 256 apart."""

    first: str
    first_part: str
    second: str
    second_part: str
    exact: bool
    bits: int

    @property
    def leak(self) -> bool:
        """In two splits: the model is asked what it has learned by heart."""
        return self.first_part != self.second_part


@dataclass(frozen=True)
class SkippedPhoto:
    """What is not in the dataset, and why."""

    photo: str
    what: str
    fix: str = ""


@dataclass(frozen=True)
class DatasetPage:
    """A dataset. Lists may be cut: the totals say how long they were."""

    name: str
    classes: Sequence[DatasetClass]
    parts: Mapping[str, Part]
    cards: Sequence[PhotoCard] = ()
    remarks: Sequence[Remark] = ()
    pairs: Sequence[Pair] = ()
    pairs_total: int = 0
    skipped: Sequence[SkippedPhoto] = ()
    skipped_total: int = 0
    settings: Sequence[tuple[str, str]] = ()
    advice: Sequence[Advice] = ()
    notes: Sequence[str] = ()
    version: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of a chart: (epoch, value) points; percent: values are fractions of 1."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class StageReport:
    """A stage, finished or on its way. `losses`: the whole one, then its parts.

    seconds and memory_mb are None where the run did not write them down.
    """

    name: str
    metric: str
    best: float | None
    best_epoch: float | None
    last: float | None
    steps: int
    losses: Sequence[Curve]
    quality: Sequence[Curve]
    finished: bool = True
    seconds: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True)
class Score:
    """PQ, SQ and RQ, or AP, AP50 and AP75, over `n` classes, as fractions; None where there is nothing."""

    name: str
    values: tuple[float | None, float | None, float | None]
    n: int


@dataclass(frozen=True)
class RunClass:
    """How well a class is seen. train_photos is None where the dataset was not at hand."""

    name: str
    isthing: bool
    color: Color
    custom: bool
    pq: float | None
    sq: float | None
    rq: float | None
    found: int
    invented: int
    missed: int
    box_ap: float | None = None
    mask_ap: float | None = None
    train_photos: int | None = None


@dataclass(frozen=True)
class ConfusionTable:
    """Segments by true (row) and predicted (column) class, those missed by row, those invented by column."""

    names: Sequence[str]
    matched: Sequence[Sequence[int]]
    missed: Sequence[int]
    invented: Sequence[int]

    def by_trouble(self) -> list[int]:
        """The classes that either side has, those mixed up most first."""
        columns = [sum(column) for column in zip(*self.matched, strict=True)]
        trouble = [sum(row) + columns[n] - 2 * row[n] for n, row in enumerate(self.matched)]
        counts = [sum(row) + columns[n] + self.missed[n] + self.invented[n] for n, row in enumerate(self.matched)]
        return sorted((n for n, count in enumerate(counts) if count), key=lambda n: -trouble[n])


@dataclass(frozen=True)
class RunPage:
    """A training run. `quality_name` is what PQ may be called; `measured` and `pictured` say on which photos."""

    name: str
    quality_name: str
    scores: Sequence[Score]
    precision: Mapping[str, Sequence[Score]]
    classes: Sequence[RunClass]
    stages: Sequence[StageReport]
    mixed: ConfusionTable | None = None
    cards: Sequence[PhotoCard] = ()
    measured: str = ""
    pictured: str = ""
    environment: Sequence[tuple[str, str]] = ()
    settings: str = ""
    advice: Sequence[Advice] = ()
    notes: Sequence[str] = ()
    version: str = ""
