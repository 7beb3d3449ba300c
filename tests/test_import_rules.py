"""The line of rooms, read off the imports: a room uses those before it and none after, and no files go in circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "hf_detr_panoptic"
LINE = [
    "text",
    "errors",
    "files",
    "parallel",
    "lock",
    "watch",
    "coco_categories",
    "labels",
    "images",
    "preprocess",
    "panoptic_map",
    "tiles",
    "checked",
    "training_fields",
    "settings",
    "stage_settings",
    "recipe",
    "recipe_to_edit",
    "pictures",
    "dataset",
    "annotations",
    "model",
    "evaluation",
    "labeling",
    "training",
    "browser",
    "predict",
    "report",
    "trace",
    "demo",
    "app",
    "hub",
    "processing",
    "road",
    "doctor",
    "cli",
]


def modules(root: Path) -> dict[str, Path]:
    """`dataset.check` → its file; a room's `__init__.py` is the room, the package's own is left out: it names all."""
    found = {}
    for path in (root / PACKAGE).rglob("*.py"):
        parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("", None)
    return found


def imported(path: Path, known: dict[str, Path], root: Path) -> Iterator[tuple[str, int]]:
    """Every module of ours that a file imports, at its top or inside a function, with the line; not for types."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = list(path.relative_to(root).parts[:-1])
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            ours = name.removeprefix(f"{PACKAGE}.")
            if ours != name:
                yield next((m for m in (ours, ours.rpartition(".")[0]) if m in known), ours), node.lineno


def against_the_line(root: Path) -> list[str]:
    known = modules(root)
    place = {room: number for number, room in enumerate(LINE)}
    found = []
    for module, path in sorted(known.items()):
        for other, line in imported(path, known, root):
            room, its = module.split(".")[0], other.split(".")[0]
            if other in known and place[its] > place[room]:
                found.append(f"{path.relative_to(root)}:{line} imports {other}")
    return found


def circle(root: Path) -> list[str]:
    """Files that import each other in a ring, if any do."""
    known = modules(root)
    graph = {module: {other for other, _ in imported(path, known, root)} - {module} for module, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_stands_in_the_line(root: Path) -> None:
    rooms = {module.split(".")[0] for module in modules(root)}
    assert rooms <= set(LINE)


def test_no_room_uses_a_later_one(root: Path) -> None:
    assert against_the_line(root) == []


def test_no_files_import_each_other(root: Path) -> None:
    assert circle(root) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("dataset/check.py", "from ..model import modeling"),
        ("model/modeling.py", "import hf_detr_panoptic.labeling.overlay"),
        ("labels.py", "from .panoptic_map import PanopticMap"),
        ("labeling/overlay.py", "def f():\n    from ..training.train import run_recipe"),
        ("evaluation/metric/metric.py", "from hf_detr_panoptic.report.report import write_report"),
        ("doctor.py", "from . import cli"),
    ],
)
def test_a_use_of_a_later_room_is_found(tmp_path: Path, file: str, line: str) -> None:
    later = ("model/modeling", "labeling/overlay", "panoptic_map", "training/train", "report/report", "cli")
    for name in (*later, file.removesuffix(".py")):
        path = (tmp_path / PACKAGE / name).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / PACKAGE / file).write_text(line)
    assert len(against_the_line(tmp_path)) == 1


@pytest.mark.parametrize(
    ("last", "ring"), [("from .a import x", 3), ("if TYPE_CHECKING:\n    from .a import x", 0), ("import torch", 0)]
)
def test_a_circle_is_found(tmp_path: Path, last: str, ring: int) -> None:
    room = tmp_path / PACKAGE / "dataset"
    room.mkdir(parents=True)
    (room / "a.py").write_text("def f():\n    from . import b")
    (room / "b.py").write_text(last)
    assert len(circle(tmp_path)) == ring
