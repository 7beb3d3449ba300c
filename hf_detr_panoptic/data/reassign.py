"""Move photos between the splits of a dataset of ours, in place: JSON entries and PNGs change sides, photos stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .coco_panoptic import GENERATOR, load_json, read_dataset
from .findings import fail, raise_errors
from .layouts import UNFINISHED
from .writer import SPLITS, write_lists


def reassign(folder: str | Path, assignment: Mapping[str, str]) -> dict[str, int]:
    """`assignment`: the photo's name in images/ → part, for every photo. Returns the number of photos of each split.

    PNGs are in both places before any JSON changes and leave the old one after all have: a crash loses nothing, and
    `annotations/.incomplete` tells of it.
    """
    folder = Path(folder)
    home = folder / "annotations"
    content = {name: _ours(split.files.json) for name, split in read_dataset(folder).items()}  # every entry is checked
    first = next(iter(content.values()))
    sides = [part for part in SPLITS if part != "test" or part in content or part in assignment.values()]
    lists: dict[str, dict[str, list[Any]]] = {part: {"images": [], "annotations": [], "boxes": []} for part in sides}
    moves: list[tuple[Path, Path]] = []
    for name, panoptic in content.items():
        boxes = _ours(home / f"instances_{name}.json")
        files = {image["id"]: image["file_name"] for image in panoptic["images"]}
        unknown = sorted(set(files.values()) - assignment.keys())
        if unknown:
            raise DatasetError(f"{unknown[0]} is assigned to no split", where=str(folder))
        side = {image_id: assignment[file_name] for image_id, file_name in files.items()}
        for kind, entries in (("images", panoptic["images"]), ("annotations", panoptic["annotations"])):
            for entry in entries:
                lists[side[entry["id" if kind == "images" else "image_id"]]][kind].append(entry)
        for place, entry in enumerate(boxes.get("annotations", ())):
            if not isinstance(entry, dict) or entry.get("image_id") not in side:
                fail("instances-stale", f"instances_{name}.json, annotations[{place}]", "it belongs to no image")
            lists[side[entry["image_id"]]]["boxes"].append(entry)
        moves += [
            (home / f"panoptic_{name}" / entry["file_name"], home / f"panoptic_{target}" / entry["file_name"])
            for entry in panoptic["annotations"]
            if (target := side[entry["image_id"]]) != name
        ]
    if moves:
        _carry_out(home, first, lists, moves)
    return {part: len(found["images"]) for part, found in lists.items()}


def _carry_out(
    home: Path,
    first: Mapping[str, Any],
    lists: Mapping[str, Mapping[str, list[Any]]],
    moves: Sequence[tuple[Path, Path]],
) -> None:
    for old, new in moves:
        new.parent.mkdir(parents=True, exist_ok=True)
        part = new.with_name(f".{new.name}.part")
        shutil.copyfile(old, part)
        part.replace(new)
    (home / UNFINISHED).touch()
    for split, found in lists.items():
        by_image = {entry["image_id"]: entry for entry in found["annotations"]}
        found["images"].sort(key=lambda image: image["id"])
        annotations = [by_image[image["id"]] for image in found["images"] if image["id"] in by_image]
        found["boxes"].sort(key=lambda entry: (entry["image_id"], entry["id"]))
        numbered = [{**entry, "id": place} for place, entry in enumerate(found["boxes"], start=1)]
        for kind, entries in (("panoptic", annotations), ("instances", numbered)):
            lines = (map(json.dumps, part) for part in (found["images"], entries))
            write_lists(home / f"{kind}_{split}.json", first["info"], first["categories"], *lines)
    (home / UNFINISHED).unlink()
    for old, _ in moves:
        old.unlink()


def _ours(path: Path) -> dict[str, Any]:
    content = load_json(path, raise_errors) or {}
    info = content.get("info")
    if not (isinstance(info, dict) and info.get("generator") == GENERATOR):
        raise DatasetError(
            "another program wrote this dataset",
            where=str(path),
            fix="Give --out a new folder: what a person has is never changed.",
        )
    return content
