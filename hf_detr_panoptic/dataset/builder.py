"""A COCO panoptic dataset for `datasets`: a builder class, and a loading script for datasets before version 4.

    builder = PanopticBuilder(data_dir="data/site")            # any version
    builder.download_and_prepare(num_proc=2)
    dataset = builder.as_dataset()                             # or builder.as_streaming_dataset("train")

    load_dataset("builder.py", data_dir="data/site", trust_remote_code=True)    # version 3

Loaded as a script, the file is copied away from its package, to where torch may be missing: it needs nothing but
`datasets` and Pillow, has no relative import, and keeps each import on one line, as version 3 finds them by a pattern.
It reads our own layout and COCO's. `load_panoptic` knows more layouts and checks every entry.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets

SPLIT_NAMES = {"val": "validation"}
_SHARDS = 64  # what processes or streaming workers can share out


def panoptic_features(names: Iterable[str], whole_ids: bool = True) -> datasets.Features:
    """The columns; labels count from 0 in the order of `names`. `whole_ids`: image ids are numbers, not texts."""
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64" if whole_ids else "string"),
            "file_name": datasets.Value("string"),
            "panoptic": datasets.Value("binary"),
            "segments": [
                {
                    "id": datasets.Value("int32"),
                    "label": datasets.ClassLabel(names=list(names)),
                    "score": datasets.Value("float64"),
                    "source": datasets.Value("string"),
                    "iscrowd": datasets.Value("int8"),
                }
            ],
        }
    )


def annotation_fingerprint(jsons: Iterable[Path], pngs: Iterable[Path]) -> str:
    """Changes with any annotation: the content of the JSON files, and name, size and time of the id maps."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(jsons):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    for path in sorted(pngs):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class PanopticBuilder(datasets.GeneratorBasedBuilder):
    """`data_dir` is the dataset's folder; as a script beside the data it can be left out."""

    VERSION = datasets.Version("1.0.0")
    DEFAULT_WRITER_BATCH_SIZE = 100  # photos embedded in Parquet are large, and an Arrow array ends at 2 GiB

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        # A cache of datasets is found by this hash, and would ignore edited annotations without them in it.
        folder = kwargs.get("data_dir") or kwargs.get("base_path")
        seen = self._fingerprint(Path(folder)) if folder and Path(folder).is_dir() else ""
        super().__init__(*args, hash=hashlib.blake2b(f"{hash}{seen}".encode(), digest_size=16).hexdigest(), **kwargs)

    def _fingerprint(self, folder: Path) -> str:
        jsons = _panoptic_jsons(folder)
        return annotation_fingerprint(jsons, (png for path in jsons for png in path.with_suffix("").rglob("*.png")))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description="Photos and their COCO panoptic maps.")

    def _read(self) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
        """The names of the classes, and the rows of each split: paths for pixels, all else as in the columns."""
        folder = Path(self.config.data_dir or self.base_path or "")
        return read_folder(folder)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        names, splits = self._read()
        ids = [row["image_id"] for rows in splits.values() for row in rows]
        whole = all(isinstance(value, int) for value in ids)
        if not whole:
            splits = {k: [{**row, "image_id": str(row["image_id"])} for row in rows] for k, rows in splits.items()}
        self.info.features = panoptic_features(names, whole)
        return [
            datasets.SplitGenerator(name=split_title(name), gen_kwargs={"shards": _shards(rows)})
            for name, rows in splits.items()
        ]

    def _generate_examples(self, shards: list[list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in itertools.chain.from_iterable(shards):
            columns = {key: row[key] for key in ("image_id", "file_name", "segments")}
            yield str(row["image_id"]), {**columns, "image": row["photo"], "panoptic": Path(row["png"]).read_bytes()}


def split_title(split: str) -> str:
    """The name of a split in `datasets`, which spells val out and allows letters, digits and underscores."""
    return SPLIT_NAMES.get(split, re.sub(r"\W", "_", split))


def read_folder(folder: Path) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """Names and rows of annotations/panoptic_*.json, in our layout or COCO's."""
    jsons = _panoptic_jsons(folder)
    if not jsons:
        raise FileNotFoundError(f"{folder}: no panoptic_*.json is here or in annotations/. Give data_dir=.")
    names: list[str] = []
    splits: dict[str, list[dict[str, Any]]] = {}
    for path in jsons:
        if (path.parent / ".incomplete").exists():
            raise ValueError(f"{path}: the dataset was not written to its end. Run the command that wrote it again.")
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
        found = [str(category["name"]) for category in content["categories"]]
        if names and found != names:
            raise ValueError(f"{path}: its categories are not those of {jsons[0].name}. Write both with the same.")
        names = found
        split = re.sub(r"20\d\d$", "", path.stem[len("panoptic_") :])
        splits[split] = list(_rows(folder, path, content))
    return names, splits


def _panoptic_jsons(folder: Path) -> list[Path]:
    """train, val, test, then any other."""
    order = ["train", "val", "test"]
    found = [*folder.glob("annotations/panoptic_*.json"), *folder.glob("panoptic_*.json")]
    ranks = {path: next((n for n, name in enumerate(order) if f"_{name}" in path.stem), 3) for path in found}
    return sorted(found, key=lambda path: (ranks[path], path.name))


def _rows(folder: Path, path: Path, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    labels = {category["id"]: label for label, category in enumerate(content["categories"])}
    images = {image["id"]: image["file_name"] for image in content["images"]}
    stem = path.stem[len("panoptic_") :]
    homes = [folder / name for name in ("images", f"images/{stem}", stem, ".")]
    homes = [home for home in homes if home.is_dir()]
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        where = f"{path.name}, image {image_id}"
        if image_id not in images:
            raise ValueError(f"{where}: an annotation belongs to no image. Add the image or drop it.")
        name = images[image_id]
        segments = []
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in labels:
                raise ValueError(f"{where}, segment {segment['id']}: its category is not in the list.")
            segments.append(
                {
                    "id": segment["id"],
                    "label": labels[segment["category_id"]],
                    "score": float(segment.get("score", 1.0)),
                    "source": segment.get("source", "custom"),
                    "iscrowd": int(segment.get("iscrowd", 0)),
                }
            )
        yield {
            "image_id": image_id,
            "file_name": name,
            "photo": _found(homes, name, where),
            "png": _found([path.with_suffix("")], annotation["file_name"], where),
            "segments": segments,
        }


def _found(homes: list[Path], name: str, where: str) -> str:
    for home in homes:
        path = home / name
        if path.is_file():
            if not path.resolve().is_relative_to(home.resolve()):
                raise ValueError(f"{where}: {name} leads out of the dataset. Keep names relative, inside the folder.")
            return str(path.absolute())
    raise FileNotFoundError(f"{where}: {name} is missing. Put it back, or take it off the list.")


def _shards(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """In order, as even as they come: datasets shares the outer list out among processes."""
    size = max(-(-len(rows) // _SHARDS), 1)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
