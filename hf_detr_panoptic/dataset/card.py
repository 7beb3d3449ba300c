"""Cards: Markdown in which a person's words come out as text, whatever they hold; and the card of a dataset."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..labels import LabelSpace

if TYPE_CHECKING:
    import jinja2
    from huggingface_hub import CardData, RepoCard

# A file of the reader's own: an index or an address that nobody here holds could one day serve anything.
PACKAGE = f"hf_detr_panoptic-{__version__}-py3-none-any.whl"
MARKER = "<!-- written by `hf-detr-panoptic prepare`: take this line away, and the file is yours -->"

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "@": "&#64;"}
_MARKUP = frozenset("\\`*_[]~|#!^")
_ADDRESS = re.compile(r"(?<=www)\.|(?<=http):(?=//)|(?<=https):(?=//)|(?<=ftp):(?=//)", re.IGNORECASE)
_KEPT_FORMATS = "\u200c\u200d"  # join letters and emoji; the rest of their kind hide or turn text
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
_SOURCES = {"custom": "marked by people", "auto": "added by the labeler", "model": "predicted by a model"}


class Markdown(str):
    """Markdown already: a template takes it as it is, and any other value as text."""


def text(words: object, most: int = 80) -> Markdown:
    """Words on one line, at most so many characters, that Markdown and HTML show as they are and nothing else."""
    if isinstance(words, Markdown):
        return words
    line = plain_line(words, most)
    links = {match.start() for match in _ADDRESS.finditer(line)}  # the Hub makes links of bare addresses
    return Markdown("".join(f"&#{ord(mark)};" if at in links else _escaped(mark) for at, mark in enumerate(line)))


def plain_line(words: object, most: int = 80) -> str:
    """Words on one line, at most so many characters, without what is invisible or cannot be written as UTF-8."""
    kept = "".join(_visible(mark) for mark in str(words))
    line = " ".join(kept.split())
    return (line if len(line) <= most else line[: most - 1].rstrip() + "…") or "?"


def code(words: object, most: int = 200) -> Markdown:
    """Words in a code span."""
    inner = plain_line(words, most).replace("|", "∣")  # a table splits at | even in code
    ticks = "`" * (max((len(run) for run in re.findall("`+", inner)), default=0) + 1)
    space = " " if inner.startswith("`") or inner.endswith("`") else ""
    return Markdown(f"{ticks}{space}{inner}{space}{ticks}")


def listed(words: Iterable[object]) -> Markdown:
    """Words with commas between them."""
    return Markdown(", ".join(map(text, words)))


def _escaped(mark: str) -> str:
    return f"\\{mark}" if mark in _MARKUP else _ENTITIES.get(mark, mark)


def _visible(mark: str) -> str:
    kind = unicodedata.category(mark)
    if kind == "Cs":
        return "\ufffd"
    if kind in ("Cc", "Zl", "Zp"):
        return " "
    return "" if kind == "Cf" and mark not in _KEPT_FORMATS else mark


def render(kind: type[RepoCard], data: CardData, package: str, template: str, /, **values: Any) -> str:
    """A README.md: `data` as the YAML that the Hub reads, and the package's template..

    The template shows every value through `text`, unless it is `Markdown`.
    """
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    body = _environment().from_string(source).render(values)
    return str(kind.from_template(data, template_str="---\n{{ card_data }}\n---\n\n{{ body }}", body=body))


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "listed": listed, "markdown": Markdown}
    return environment


# Without it `datasets.load_dataset(FOLDER)` takes every PNG for a photo, id maps too, and folders for classes.
_PHOTOS_ALONE = {
    "config_name": "default",
    "data_files": [{"split": "photos", "path": "images/**"}],
    "drop_labels": True,
}


@dataclass(frozen=True)
class Contents:
    """What a card says of a dataset. photos: split → how many; prepared: prepare.json; incomplete: photos on which
    nobody may have looked for some classes.

    segments: (split, class, source) → how many; the split is "" where nobody counted by split.
    """

    space: LabelSpace
    photos: Mapping[str, int] = field(default_factory=dict)
    segments: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    incomplete: int = 0

    @classmethod
    def read(cls, folder: Path, prepared: Mapping[str, Any]) -> Contents:
        """Of what `load_panoptic` reads."""
        from .rows import load_panoptic

        loaded = load_panoptic(folder)
        names = loaded.label_space.names
        segments = Counter[tuple[str, str, str]]()
        for split, rows in loaded.items():
            for row in rows.select_columns(["segments"]):
                segments.update(
                    (str(split), names[segment["label"]], segment["source"]) for segment in row["segments"]
                )
        incomplete = sum(
            bool(row["incomplete"])
            for rows in loaded.values()
            if "incomplete" in rows.column_names
            for row in rows.select_columns(["incomplete"])
        )
        photos = {str(split): len(rows) for split, rows in loaded.items()}
        return cls(loaded.label_space, photos, segments, prepared, incomplete)

    def count(self, split: str | None = None, name: str | None = None, source: str | None = None) -> int:
        """Segments of a split, a class and a source, where they are named."""
        wanted = (split, name, source)
        return sum(
            number
            for key, number in self.segments.items()
            if all(want is None or want == have for want, have in zip(wanted, key, strict=True))
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.prepared.get("settings") or {}

    @property
    def shares(self) -> dict[str, float] | None:
        """Of all pixels: custom, auto and void; None where nobody counted them."""
        pixels = (self.prepared.get("counts") or {}).get("pixels") or {}
        if not (total := sum(pixels.values())):
            return None
        custom, auto = pixels.get("custom", 0) / total, pixels.get("auto", 0) / total
        return {"custom": custom, "auto": auto, "void": 1 - custom - auto}


def dataset_card(contents: Contents, name: str, *, repository: str | None = None, license: str | None = None) -> str:
    """README.md of a dataset: beside the COCO files that `prepare` wrote, or of the `repository` with its Parquet."""
    from huggingface_hub import DatasetCard, DatasetCardData

    total = sum(contents.photos.values())
    parquet = [{"split": split, "path": f"data/{split}-*"} for split in contents.photos]
    published: dict[str, Any] = {
        "license": license,
        "pretty_name": name,
        "size_categories": [_SIZES[min(max(len(str(total)) - 3, 0), len(_SIZES) - 1)]],
        "configs": [{"config_name": "default", "data_files": parquet}],
    }
    data = DatasetCardData(
        task_categories=["image-segmentation"],
        tags=["panoptic-segmentation", "coco-panoptic", "hf-detr-panoptic"],
        **(published if repository else {"configs": [_PHOTOS_ALONE]}),
    )
    return render(
        DatasetCard,
        data,
        __package__,
        "dataset_card.md.j2",
        contents=contents,
        name=name,
        repository=repository and Markdown(repository),
        license=license,
        marked=[category.name for category in contents.space if category.source == "custom"],
        fingerprint=(contents.prepared.get("labeler") or {}).get("fingerprint"),
        sources={source: words for source, words in _SOURCES.items() if contents.count(source=source)},
        package=Markdown(PACKAGE),
        marker=Markdown(MARKER),
    )
