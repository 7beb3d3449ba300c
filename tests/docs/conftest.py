"""The pages as their tests see them: blocks, links, headings; and a small world in which documented commands run.

The first line of a block says what becomes of it:

    # run by our tests            in a scratch folder with small photos and a tiny model in place of the large one
    # parsed by our tests         every word of a command, every key of a recipe; nothing is run
    # compiled by our tests       Python: compiled, and its imports resolved
    # not run by our tests: why   Python of other projects

A `text` block right after a block that is run shows what that prints, to the letter.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = "# run by our tests"
PARSED = "# parsed by our tests"
COMPILED = "# compiled by our tests"
FOREIGN = "# not run by our tests"


@dataclass(frozen=True)
class Block:
    """A fenced block. `prints` is the text block right after it."""

    page: str
    line: int
    language: str
    text: str
    prints: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def marker(self) -> str:
        first = self.text.partition("\n")[0].strip()
        return next((known for known in (RUN, PARSED, COMPILED, FOREIGN) if first.startswith(known)), "")

    @property
    def commands(self) -> list[list[str]]:
        """Its lines as words, without comments and leading VARIABLE=value."""
        found = [shlex.split(line, comments=True) for line in self.text.replace("\\\n", " ").splitlines()]
        stripped = [words[next((n for n, word in enumerate(words) if "=" not in word), 0) :] for words in found]
        return [words for words in stripped if words]

    @property
    def ours(self) -> list[list[str]]:
        """Those of its commands that start something of this repository."""
        return [words for words in self.commands if _is_ours(words)]


def _is_ours(words: list[str]) -> bool:
    script = words[1] if len(words) > 1 else ""
    return (
        words[0] in ("hf-detr-panoptic", "make")
        or (words[0] == "python" and script.startswith(("examples/", "benchmarks/", "docs/")))
        or (words[0] in ("accelerate", "torchrun") and any(w.startswith(("examples/", "hf_detr")) for w in words))
    )


def blocks_of(page: str) -> list[Block]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number, line.removeprefix("```").strip()
            continue
        start, language = opened
        found.append(Block(page, start, language, "\n".join(lines[start : number - 1]) + "\n"))
        opened = None
    assert opened is None, f"{page}: the block of line {opened} is not closed"
    return [_with_output(block, found[place + 1 :], lines) for place, block in enumerate(found)]


def _with_output(block: Block, after: list[Block], lines: list[str]) -> Block:
    end = block.line + block.text.count("\n") + 1
    follows = bool(after) and after[0].language == "text" and not "".join(lines[end : after[0].line - 1]).strip()
    return Block(block.page, block.line, block.language, block.text, after[0].text) if follows else block


def prose_of(page: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def _cases() -> dict[str, list[object]]:
    """Argument of a test → what it is run with."""
    run = [page for page in PAGES if any(block.marker == RUN for block in BLOCKS if block.page == page)]
    return {
        "page": list(PAGES),
        "block": list(BLOCKS),
        "shell_block": [block for block in BLOCKS if block.language == "bash" and block.ours],
        "python_block": [block for block in BLOCKS if block.language == "python"],
        "yaml_block": [block for block in BLOCKS if block.language == "yaml"],
        "page_that_runs": list(run),
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, values in _cases().items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values, ids=str)


@pytest.fixture(scope="session")
def prose():
    return prose_of


@pytest.fixture(scope="session")
def blocks():
    return BLOCKS


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of, small: photos, marks, models under their Hub names, a dataset and a run.

    `facebook/detr-resnet-50-panoptic` is a folder here, with a tiny random DETR in it.
    """
    from made import save_tiny_labeler

    from hf_detr_panoptic.cli import main
    from hf_detr_panoptic.demo.scenes import CUSTOM
    from hf_detr_panoptic.labels import LabelSpace

    folder = tmp_path_factory.mktemp("world")
    _photos_and_marks(folder)
    save_tiny_labeler(folder / "facebook" / "detr-resnet-50-panoptic")
    save_tiny_labeler(folder / "runs" / "site" / "final", LabelSpace.coco().merged(CUSTOM))
    words = ["--images", "photos", "--annotations", "export.zip", "--labeler", "facebook/detr-resnet-50-panoptic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["prepare", *words, "--out", "data/site"]) == 0
    for name in ("examples", "training_args"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def scratch(world: Path, page_that_runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world for one page, with the YAML files that the page shows, as the working directory."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder, symlinks=True)
    if page_that_runs == "docs/your-own-photos.md":  # it makes its own
        shutil.rmtree(folder / "data")
    write_shown_files(folder, page_that_runs)
    monkeypatch.chdir(folder)
    return folder


def write_shown_files(folder: Path, page: str) -> list[Path]:
    """YAML blocks whose first line is a file's name, such as `# my-site.yaml`, as files."""
    written = []
    for block in BLOCKS:
        name = re.match(r"# ([\w-]+\.yaml)\b", block.text)
        if block.page == page and block.language == "yaml" and name:
            path = folder / name[1]
            path.write_text(block.text, encoding="utf-8")
            written.append(path)
    return written


@pytest.fixture
def shown_files():
    return write_shown_files


def _photos_and_marks(folder: Path) -> None:
    """`photos/`, `new_photos/`, photo.jpg; export.zip: the scenes' custom classes as CVAT's COCO 1.0 has them."""
    from hf_detr_panoptic.demo.scenes import CUSTOM, scene

    for name in ("photos", "new_photos"):
        (folder / name).mkdir()
    images, annotations = [], []
    for place in range(12):
        made = scene(seed=1, index=place, size=(128, 96))
        name = f"site{place // 3}_{place:04}.jpg"
        made.photo.save(folder / "photos" / name, quality=92)
        images.append({"id": place + 1, "file_name": name, "width": 128, "height": 96})
        for segment in made.truth.segments:
            category = made.truth.space[segment.label]
            if category.source != "custom":
                continue
            mask = made.truth.mask(segment.id)
            counts = _uncompressed(mask)
            entry = {"id": len(annotations) + 1, "image_id": place + 1, "iscrowd": 1, "area": int(mask.sum())}
            entry["attributes"] = {"occluded": False}
            entry["category_id"] = CUSTOM.index(category.name) + 1
            entry["segmentation"] = {"size": [96, 128], "counts": counts}
            entry["bbox"] = list(made.truth.boxes()[segment.id])
            annotations.append(entry)
    categories = [{"id": place, "name": name, "supercategory": ""} for place, name in enumerate(CUSTOM.names, start=1)]
    told = {"images": images, "annotations": annotations, "categories": categories}
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        archive.writestr("annotations/instances_default.json", json.dumps(told))
    for place in range(2):
        scene(seed=2, index=place, size=(128, 96)).photo.save(folder / "new_photos" / f"new_{place}.jpg")
    shutil.copy(folder / "new_photos" / "new_0.jpg", folder / "photo.jpg")


def _uncompressed(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs down the columns, the first one of zeros."""
    runs = [(value, len(list(run))) for value, run in itertools.groupby(mask.T.reshape(-1).tolist())]
    return [0] * runs[0][0] + [length for _, length in runs]
