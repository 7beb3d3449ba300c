"""benchmarks/house.py on a package of seven files, every figure counted by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILES = {
    "__init__.py": "from .model.net import DetrForPanopticSegmentation",
    "cli.py": "COMMANDS = {'train': ('training', 'learns'), 'prepare': ('labeling.prepare', 'labels')}",
    "errors.py": "class Wrong(Exception): ...",
    "settings.py": """
from . import errors
class Marks:
    leakage: float = 0.5
    min_area: int = 64
    boxes: str = "refine"
    stuff: tuple = ()
    things: tuple = ()
class Recipe:
    data: "str" | Marks = "data"
""",
    "training.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .labeling.prepare import Rules
else:
    from tiny import settings
class PanopticTrainer:
    def train(self, rate): ...
""",
    "labeling/prepare.py": """
from ..settings import Marks
class Rules:
    leakage: float = 0.5
    min_area: int = 64
    boxes: str = "refine"
    stuff: tuple = ()
    things: tuple = ()
    count: int = 0
class Photo:
    boxes: str = ""
    stuff: tuple = ()
    things: tuple = ()
    min_area: int = 0
def label(rules):
    from ..model import net
    return rules.leakage
"""
    + "\n" * 20,
    "model/net.py": """
class DetrForPanopticSegmentation:
    def segment(self):
        import tiny.labeling.prepare
"""
    + "\n" * 20,
}


@pytest.fixture(scope="module")
def house(root: Path, tmp_path_factory: pytest.TempPathFactory):
    spec = importlib.util.spec_from_file_location("house", root / "benchmarks" / "house.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("site") / "tiny"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return module.House(folder)


def test_files_and_lines(house) -> None:
    assert len(house.lines) == 7
    assert sum(house.lines.values()) == 1 + 1 + 1 + 10 + 8 + 37 + 24
    assert house.large == ["labeling/prepare.py", "model/net.py"]


def test_imports_in_functions_count_and_those_for_types_do_not(house) -> None:
    assert house.imports == {
        "__init__.py": set(),
        "cli.py": {"training.py", "labeling/prepare.py"},
        "errors.py": set(),
        "settings.py": {"errors.py"},
        "training.py": {"settings.py"},
        "labeling/prepare.py": {"settings.py", "model/net.py"},
        "model/net.py": {"labeling/prepare.py"},
    }
    assert house.circles() == [["labeling/prepare.py", "model/net.py"]]
    assert house.with_one_importer() == ["model/net.py"]


def test_ways_from_the_command_line(house) -> None:
    assert house.way("train", "PanopticTrainer") == ["cli.py", "training.py"]
    assert house.way("prepare", "DetrForPanopticSegmentation") == ["cli.py", "labeling/prepare.py", "model/net.py"]
    assert house.way("train", "DetrForPanopticSegmentation") == []


def test_keys_and_what_is_declared_again(house) -> None:
    assert house.files_with("leakage") == ["labeling/prepare.py", "settings.py"]
    assert house.files_with("rate") == ["training.py"]
    twice = ["prepare.Rules", "settings.Marks"]  # Photo shares four names with them: by chance
    assert house.declared_again() == dict.fromkeys(("boxes", "leakage", "min_area", "stuff", "things"), twice)
