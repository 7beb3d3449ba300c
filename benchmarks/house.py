"""How the house is built: files, imports, settings.

  python benchmarks/house.py                  # this checkout
  python benchmarks/house.py BEFORE AFTER     # two package folders, a column each

All rows but the last two are read from the source. An import counts wherever it stands, in functions too, but not
under TYPE_CHECKING. The package's front door, which knows every public name, imports nothing here; the table of
commands in `cli.py` does.

import circles: groups of files that reach each other through imports.
one importer: files over 20 lines that a single other file imports, the commands' own files left out.
from cli: files on the shortest way from `cli.py` by the command's own file to the file of the class.
files with the key: with a field, an attribute, a parameter or a keyword of that name.
settings declared again: settings are the fields of `Recipe` and of the classes in its annotations. Another class, or a
  table at the top of a file, that has five names of such a class repeats it, and counts as one from then on.
to load a recipe: files of which a function runs in `Recipe.load`.
for a photo in prepare: files with a function that runs more often when there are six more photos, until the dataset is
  written. The marks are COCO's; a stand-in takes the place of the model, whose own files do not count.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from measure import print_table

HERE = Path(__file__).resolve().parents[1] / "hf_detr_panoptic"
WAYS = {"train": "PanopticTrainer", "prepare": "DetrForPanopticSegmentation"}
KEYS = ("leakage", "collisions", "unannotated", "crop_sides", "repeat_factor", "mask_queries")
SMALL = 20  # lines: up to here a file is a signpost
REPEATS = 5  # fewer names in common come about by chance
PHOTOS, MORE = 2, 6


class House:
    """A package folder, read. A file goes by its path in there."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        texts = {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.py")}
        self.lines = {file: len(texts[file].splitlines()) for file in sorted(texts)}
        self.trees = {file: ast.parse(texts[file]) for file in self.lines}
        self.modules = {file.removesuffix(".py").removesuffix("__init__").strip("/"): file for file in self.lines}
        self.large = [file for file, lines in self.lines.items() if lines > SMALL]

    @cached_property
    def commands(self) -> dict[str, str]:
        """Command → its file, from a table in `cli.py`: each value, or its first entry, is a module's name."""
        found = {}
        for table in (node for node in ast.walk(self.trees["cli.py"]) if isinstance(node, ast.Dict)):
            for key, value in zip(table.keys, table.values, strict=True):
                word = str(getattr(value.elts[0] if isinstance(value, ast.Tuple) else value, "value", None))
                for room in ("", "steps/"):  # where commands once stood
                    module = room + word.partition(":")[0].strip(".").replace(".", "/")
                    if isinstance(key, ast.Constant) and module in self.modules:
                        found[key.value] = self.modules[module]
        return found

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """File → the files that it imports."""
        graph = {file: set(self._imported(file)) - {file} for file in self.trees}
        graph["__init__.py"] = set()
        graph["cli.py"] |= set(self.commands.values())
        return graph

    def _imported(self, file: str) -> Iterator[str]:
        for node in _running(self.trees[file]):
            names: list[tuple[str, str]] = []  # a module, and what stands for it if there is no such
            if isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = (self.name, *Path(file).parts[: -node.level]) if node.level else ()
                base = ".".join([*above, *([node.module] if node.module else [])])
                names = [(f"{base}.{alias.name}", base) for alias in node.names]
            for name in names:
                ours = [part.replace(".", "/").partition("/") for part in name]
                known = [self.modules[rest] for top, _, rest in ours if top == self.name and rest in self.modules]
                yield from known[:1]

    def reached(self, start: str) -> dict[str, str]:
        """Every file that imports lead to from this one, and the file before it on a shortest way."""
        before: dict[str, str] = {}
        coming = deque([start])
        while coming:
            file = coming.popleft()
            new = sorted(self.imports[file] - before.keys())
            before |= dict.fromkeys(new, file)
            coming += new
        return before

    def circles(self) -> list[list[str]]:
        reached = {file: self.reached(file).keys() for file in self.imports}
        groups = {
            frozenset(o for o in files if file in reached[o]) for file, files in reached.items() if file in files
        }
        return sorted(map(sorted, groups))

    def with_one_importer(self) -> list[str]:
        importers = Counter(file for files in self.imports.values() for file in files)
        return [file for file in self.large if importers[file] == 1 and file not in self.commands.values()]

    def way(self, command: str, name: str) -> list[str]:
        """From `cli.py` by the command's file to the file that defines the class; empty where there is none."""
        start, end = self.commands.get(command, ""), next((f for f, cls in self._classes() if cls.name == name), "")
        before = self.reached(start) if start else {}
        if end not in {start, *before}:
            return []
        way = [end]
        while way[0] != start:
            way.insert(0, before[way[0]])
        return ["cli.py", *way]

    def files_with(self, key: str) -> list[str]:
        return [file for file, tree in self.trees.items() if any(key == _named(node) for node in ast.walk(tree))]

    def declared_again(self) -> dict[str, list[str]]:
        """Setting → the classes and tables that declare it, where there are several."""
        classes = {(file, cls.name): _fields(cls) for file, cls in self._classes()}
        tables = {(file, name): keys for file, tree in self.trees.items() for name, keys in _tables(tree)}
        declared = {key: set(names) for key, names in (classes | tables).items()}
        settings, coming = set(), [key for key in classes if key[1] == "Recipe"]
        while coming:
            one = coming.pop()
            if one not in settings:
                settings.add(one)
                inner = {word for annotation in classes.get(one, {}).values() for word in _words(annotation)}
                near = [key for key in classes if key[1] in inner]
                coming += [key for key in near if key[0] == one[0]] or near
                coming += [key for key, names in declared.items() if len(names & declared[one]) >= REPEATS]
        found: dict[str, set[str]] = defaultdict(set)
        for one, other in combinations(sorted(settings), 2):
            both = declared[one] & declared[other]
            for name in both if len(both) >= REPEATS else ():
                found[name] |= {f"{Path(file).stem}.{cls}" for file, cls in (one, other)}
        return {name: sorted(found[name]) for name in sorted(found)}

    def _classes(self) -> Iterator[tuple[str, ast.ClassDef]]:
        for file, tree in self.trees.items():
            yield from ((file, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below that is there when the program runs."""
    types_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in node.orelse if types_only else ast.iter_child_nodes(node):
        yield child
        yield from _running(child)


def _named(node: ast.AST) -> str | None:
    for kind, name in ((ast.Attribute, "attr"), (ast.keyword, "arg"), (ast.arg, "arg")):
        if isinstance(node, kind):
            return getattr(node, name)
    return getattr(node.target, "id", None) if isinstance(node, ast.AnnAssign) else None


def _fields(cls: ast.ClassDef) -> dict[str, ast.expr]:
    return {_named(node) or "": node.annotation for node in cls.body if isinstance(node, ast.AnnAssign)}


def _words(annotation: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _tables(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """The dictionaries at the top of a file, by name, and their keys as settings are spelled; no mere translations."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            pairs = zip(node.value.keys, node.value.values, strict=True)
            words = (key.value for key, value in pairs if isinstance(key, ast.Constant) and not _is_text(value))
            yield ast.unparse(target), {str(word).replace("-", "_") for word in words}


# --- what a running package tells


def followed(folder: Path) -> dict[str, list[str]]:
    """The files that work for a recipe and for a photo, found out in a process of its own."""
    paths = os.pathsep.join([str(folder.resolve().parent), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, __file__, "--follow", str(folder.resolve())], {"PYTHONPATH": paths}
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def follow(folder: Path) -> dict[str, list[str]]:
    from hf_detr_panoptic import Recipe

    recipe = calls(folder, lambda: Recipe.load("construction"))
    prepared(folder, PHOTOS)  # what happens the first time alone
    few, many = prepared(folder, PHOTOS), prepared(folder, PHOTOS + MORE)
    photo = {function[0] for function, count in many.items() if count > few[function]}
    return {"to load a recipe": sorted({file for file, _ in recipe}), "for a photo in prepare": sorted(photo)}


def calls(folder: Path, work: Callable[[], object], end: Path | None = None) -> Counter[tuple[str, str]]:
    """How often each function of the package runs, in all threads, until the work is done or a file `end` is there."""
    counted: Counter[tuple[str, str]] = Counter()

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:  # no module and no body of a class
            path = Path(code.co_filename)
            if path.is_relative_to(folder) and not (end and end.exists()):
                counted[path.relative_to(folder).as_posix(), code.co_qualname] += 1

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return counted


def prepared(folder: Path, photos: int) -> Counter[tuple[str, str]]:
    """`calls` of `prepare` for so many photos with one mark each."""
    import numpy as np
    from PIL import Image

    from hf_detr_panoptic import LabelSpace, PanopticMap, Segment, prepare

    def segment(images: list[Any], threshold: float = 0.5) -> list[Any]:
        one = [Segment(1, label=0, score=0.9, source="auto")]
        return [PanopticMap(np.ones((photo.height, photo.width), np.int32), one, space) for photo in images]

    space = LabelSpace.coco()
    stand_in = SimpleNamespace(segment=segment, label_space=space, fingerprint="stand-in")
    with tempfile.TemporaryDirectory() as name:
        site, out = Path(name), Path(name, "out")
        (site / "photos").mkdir()
        images, marks = [], []
        for number in range(1, photos + 1):
            photo = Image.effect_mandelbrot((96, 72), (-2, -1, number / 10, 1), 50).convert("RGB")
            photo.save(site / "photos" / f"{number}.jpg")
            images.append({"id": number, "file_name": f"{number}.jpg", "width": 96, "height": 72})
            mark = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": [9, 9, 30, 30]}
            marks.append(mark | {"segmentation": [[9, 9, 39, 9, 39, 39, 9, 39]]})
        content = {"images": images, "annotations": marks, "categories": [{"id": 1, "name": "pipe"}]}
        (site / "marks.json").write_text(json.dumps(content))
        work = partial(prepare, site / "photos", out, site / "marks.json", labeler=stand_in)
        return calls(folder, work, end=out / "prepare.json")


# --- the table


def figures(house: House) -> dict[str, object]:
    """Row → a number, or what there is to count."""
    lines = house.lines
    return {
        "Python files": len(lines),
        f"files over {SMALL} lines": len(house.large),
        "lines": sum(lines.values()),
        "their median": round(statistics.median(lines[file] for file in house.large)),
        "largest files": " ".join(map(str, sorted(lines.values(), reverse=True)[:5])),
        "import circles": [" ↔ ".join(circle) for circle in house.circles()],
        "one importer": house.with_one_importer(),
        **{f"from cli to {name}": house.way(command, name) for command, name in WAYS.items()},
        **{f"files with the key {key}": house.files_with(key) for key in KEYS},
        "settings declared again": [f"{key}: {', '.join(at)}" for key, at in house.declared_again().items()],
    }


def main(words: list[str]) -> None:
    if words[:1] == ["--follow"]:
        print(json.dumps(follow(Path(words[1]))))
        return
    folders = [Path(word) for word in words] or [HERE]
    columns = [figures(House(folder)) | followed(folder) for folder in folders]
    names = ["before", "after"] if len(folders) == 2 else ["this checkout"]
    shown = [[row, *(len(c[row]) if isinstance(c[row], list) else c[row] for c in columns)] for row in columns[0]]
    print_table(["", *names], shown)
    for row in columns[0]:
        for name, column in zip(names, columns, strict=True):
            if isinstance(column[row], list) and column[row]:
                print(f"\n{row}, {name}:")
                print(
                    textwrap.fill(
                        "; ".join(column[row]),
                        119,
                        initial_indent="  ",
                        subsequent_indent="  ",
                        break_on_hyphens=False,
                    )
                )


if __name__ == "__main__":
    main(sys.argv[1:])
