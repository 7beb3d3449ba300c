"""Who may know whom, read off the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "hf_detr_panoptic"
GROUND = {"errors", "labels", "coco_categories", "panoptic_map", "images", "preprocess"}
FLOOR = dict.fromkeys(GROUND, 0) | dict.fromkeys(("data", "model", "evaluation", "visual", "demo"), 1)
FLOOR |= dict.fromkeys(("labeling", "training"), 2) | dict.fromkeys(("app", "hub", "steps"), 3)
FLOOR |= {"cli": 4, "__main__": 4}
KNOWS = {"labeling": {"data"}, "training": {"data", "model", "evaluation"}}
GROUND_KNOWS = {
    "errors": set(),
    "coco_categories": set(),
    "labels": {"errors", "coco_categories"},
    "panoptic_map": {"errors", "labels"},
    "images": {"errors"},
    "preprocess": {"errors"},
}


def may_know(room: str, other: str) -> bool:
    if room == other:
        return True
    if room in GROUND:
        return other in GROUND_KNOWS[room]
    if FLOOR[room] == 1:
        return other in GROUND
    if FLOOR[room] == 2:
        return other in GROUND | KNOWS[room]
    return FLOOR[other] <= FLOOR[room]


def room_of(module: str) -> str:
    """`hf_detr_panoptic.data.check` → `data`, to which `dataset` belongs."""
    room = module.split(".")[1]
    return "data" if room == "dataset" else room


def imports(path: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Every module of ours that a file imports, at its top or inside a function, and the line."""
    package = list(path.relative_to(root).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == PACKAGE:
                for alias in node.names:
                    yield f"{PACKAGE}.{alias.name}", node.lineno
            elif module.split(".")[0] == PACKAGE:
                yield module, node.lineno


def broken_rules(root: Path) -> list[str]:
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if module == PACKAGE:
            continue  # the lazy front door names every room
        for imported, line in imports(path, root):
            if "." not in imported or room_of(imported) not in FLOOR:
                continue  # the package itself, or one of its public names
            if not may_know(room_of(module), room_of(imported)):
                found.append(f"{path.relative_to(root)}:{line} imports {imported}")
    return found


def test_every_room_keeps_to_its_floor(root: Path) -> None:
    assert broken_rules(root) == []


def test_every_room_is_on_a_floor(root: Path) -> None:
    rooms = {path.stem for path in (root / PACKAGE).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "dataset"} <= set(FLOOR)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/check.py", "from ..model import modeling"),
        ("model/modeling.py", "import hf_detr_panoptic.data.check"),
        ("labels.py", "from .panoptic_map import PanopticMap"),
        ("labeling/overlay.py", "def f():\n    from ..training.arguments import find_recipe"),
        ("evaluation/metric/metric.py", "from hf_detr_panoptic.visual.draw import draw"),
        ("steps/doctor.py", "from .. import cli"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / PACKAGE / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(broken_rules(tmp_path)) == 1
