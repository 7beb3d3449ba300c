"""What came of it, counted while it is written: for the summary, the card and prepare.json."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...labels import LabelSpace

if TYPE_CHECKING:
    from ...data.writer import EncodedMap
    from ...labeling.overlay import Overlay


@dataclass
class Tally:
    """photos: part → photos; segments: (class, source) → segments; pixels: by fate, see `overlay.FATES`;
    dropped: (reason, "mark" or "auto") → how many; boxes: what became of rectangles."""

    space: LabelSpace
    photos: Counter[str] = field(default_factory=Counter)
    segments: Counter[tuple[str, str]] = field(default_factory=Counter)
    area: Counter[tuple[str, str]] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    mixed: int = 0

    def add(self, part: str, merged: Overlay, encoded: EncodedMap) -> None:
        self.photos[part] += 1
        self.pixels.update(merged.pixels)
        self.boxes.update(merged.boxes)
        for drop in merged.dropped:
            self.dropped[drop.reason, "auto" if drop.where.startswith("auto segment ") else "mark"] += 1
        for segment in encoded.segments:
            key = self.space[segment["category_id"] - 1].name, segment["source"]
            self.segments[key] += 1
            self.area[key] += segment["area"]

    def to_dict(self) -> dict[str, Any]:
        used = [name for name in self.space.names if self.segments[name, "custom"] or self.segments[name, "auto"]]
        return {
            "photos": dict(sorted(self.photos.items())),
            "mixed": self.mixed,
            "segments": {
                name: {
                    source: self.segments[name, source] for source in ("custom", "auto") if self.segments[name, source]
                }
                for name in used
            },
            "pixels": {fate: count for fate, count in self.pixels.items() if count},
            "dropped": {f"{whose}: {reason}": n for (reason, whose), n in sorted(self.dropped.items())},
            "rectangles": {by: count for by, count in sorted(self.boxes.items()) if count},
        }

    @property
    def shares(self) -> dict[str, float]:
        """Of all pixels: custom, auto and void."""
        total = max(sum(self.pixels.values()), 1)
        custom, auto = self.pixels["custom"], self.pixels["auto"]
        return {"custom": custom / total, "auto": auto / total, "void": (total - custom - auto) / total}

    def __str__(self) -> str:
        photos = ", ".join(f"{part} {count}" for part, count in sorted(self.photos.items(), key=_part))
        lines = [f"{sum(self.photos.values())} photos: {photos}"]
        if self.mixed:
            lines.append(f"and {self.mixed} photos of another dataset, in train")
        lines.append("pixels: " + ", ".join(f"{share:.1%} {whose}" for whose, share in self.shares.items()))
        void = {fate: n for fate, n in self.pixels.items() if fate not in ("custom", "auto") and n}
        if void:
            whole = sum(void.values())
            causes = ", ".join(
                f"{fate} {n / whole:.0%}" for fate, n in sorted(void.items(), key=lambda item: -item[1])
            )
            lines.append(f"void because of: {causes}")
        names = [name for name in self.space.names if self.segments[name, "custom"] or self.segments[name, "auto"]]
        names.sort(key=lambda name: (-self.segments[name, "custom"], -self.segments[name, "auto"], name))
        width = max([len(name) for name in names[:_MOST]] + [5])
        lines.append(f"{'class':<{width}}  {'custom':>7} {'auto':>7} {'pixels':>7}")
        total = max(sum(self.pixels.values()), 1)
        for name in names[:_MOST]:
            pixels = self.area[name, "custom"] + self.area[name, "auto"]
            counts = f"{self.segments[name, 'custom']:>7} {self.segments[name, 'auto']:>7}"
            lines.append(f"{name:<{width}}  {counts} {pixels / total:>7.1%}")
        if len(names) > _MOST:
            lines.append(f"… and {len(names) - _MOST} more classes")
        if self.dropped:
            reasons = ", ".join(f"{n} {reason} ({whose})" for (reason, whose), n in sorted(self.dropped.items()))
            lines.append(f"segments that are not in the result: {reasons}")
        if any(self.boxes.values()):
            lines.append("rectangles: " + ", ".join(f"{n} {by}" for by, n in sorted(self.boxes.items()) if n))
        return "\n".join(lines)


_MOST = 25


def _part(item: tuple[str, int]) -> int:
    return ("train", "val", "test").index(item[0])
