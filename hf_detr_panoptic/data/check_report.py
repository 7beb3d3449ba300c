"""What `check` found, as a table for a person and as JSON for a program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..labels import LabelSpace
from .findings import KINDS
from .near_copies import Fingerprint

_EXAMPLES = 5
_ROWS = 60


@dataclass
class Finding:
    """One kind of disagreement: how often, and the first few places."""

    kind: str
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def level(self) -> str:
        return KINDS[self.kind].level

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        shown = [f"{where}: {detail}" if where else detail for where, detail in self.examples[:3]]
        more = [f"… and {self.count - len(shown)} more"] if self.count > len(shown) else []
        return "\n".join(
            [f"{kind.level} {self.kind} ({self.count}): {kind.what}. {kind.fix}", *indented(shown + more)]
        )


@dataclass
class SplitStatistics:
    """images: photos listed; segments, pixels, in_images: label → count; void: pixels that nobody knows."""

    images: int = 0
    void: int = 0
    segments: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    in_images: Counter[int] = field(default_factory=Counter)


@dataclass
class Report:
    """The findings by kind and the statistics by split. `ok` says whether there is no error; warnings do not count.

    prints: the fingerprint of each photo that can be read.
    """

    folder: str
    space: LabelSpace | None = None
    findings: dict[str, Finding] = field(default_factory=dict)
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    prints: dict[Path, Fingerprint] = field(default_factory=dict)

    def tell(self, kind: str, where: str, detail: str) -> None:
        finding = self.findings.setdefault(kind, Finding(kind))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append((where, detail))

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings.values())

    def of_level(self, level: str) -> list[Finding]:
        return [self.findings[kind] for kind in KINDS if kind in self.findings and KINDS[kind].level == level]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; the same for the same dataset."""
        return {
            "folder": self.folder,
            "ok": self.ok,
            "findings": [
                {
                    "kind": finding.kind,
                    "level": finding.level,
                    "what": KINDS[finding.kind].what,
                    "fix": KINDS[finding.kind].fix,
                    "count": finding.count,
                    "examples": [{"where": where, "detail": detail} for where, detail in finding.examples],
                }
                for level in ("error", "warning")
                for finding in self.of_level(level)
            ],
            "splits": {
                name: {
                    "images": split.images,
                    "segments": split.segments.total(),
                    "pixels": split.pixels.total(),
                    "void": split.void,
                }
                for name, split in self.splits.items()
            },
            "classes": [
                {
                    "name": category.name,
                    "isthing": category.isthing,
                    **{
                        name: {
                            "images": split.in_images[label],
                            "segments": split.segments[label],
                            "pixels": split.pixels[label],
                        }
                        for name, split in self.splits.items()
                    },
                }
                for label, category in enumerate(self.space or ())
            ],
        }

    def __str__(self) -> str:
        lines = [self.folder]
        for name, split in self.splits.items():
            everything = split.pixels.total() + split.void
            void = f", {split.void / everything:.1%} void" if everything else ""
            lines.append(f"{name}: {split.images} photos, {split.segments.total()} segments{void}")
        lines += ["", *self._class_table()]
        errors, warnings = self.of_level("error"), self.of_level("warning")
        lines += ["", *(str(finding) for finding in errors + warnings)]
        found = [
            f"{sum(f.count for f in group)} {noun} of {len(group)} kind{'s' if len(group) != 1 else ''}"
            for noun, group in (("errors", errors), ("warnings", warnings))
            if group
        ]
        lines.append(" and ".join(found) if found else "nothing to report: JSON, PNG and photos agree")
        return "\n".join(lines)

    def _class_table(self) -> list[str]:
        """Photos, segments and share of the pixels of each class, by split; the most frequent first."""
        used = Counter[int]()
        for split in self.splits.values():
            used.update(split.segments)
        if self.space is None or not used:
            return []
        width = max(len(self.space[label].name) for label in used)
        columns = "".join(f"{name + ' photos':>15}{'segments':>10}{'pixels':>8}" for name in self.splits)
        lines = [f"{'class':<{width}}  kind {columns}"]
        for label, _ in used.most_common(_ROWS):
            category = self.space[label]
            cells = "".join(
                f"{split.in_images[label]:>15}{split.segments[label]:>10}"
                f"{split.pixels[label] / max(1, split.pixels.total()):>8.1%}"
                for split in self.splits.values()
            )
            lines.append(f"{category.name:<{width}}  {'thing' if category.isthing else 'stuff'}{cells}")
        if len(used) > _ROWS:
            lines.append(f"… and {len(used) - _ROWS} more classes: see the JSON report")
        return lines


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
