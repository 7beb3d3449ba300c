"""The notebooks of examples/: what is committed can be looked at, and all of it runs, offline, in its own folder."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

PICTURES = {"quickstart.ipynb": 3, "gpu_quickstart.ipynb": 1}


@pytest.fixture(scope="module", params=PICTURES)
def path(request: pytest.FixtureRequest, root: Path) -> Path:
    return root / "examples" / request.param


@pytest.fixture(scope="module")
def committed(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def pictures(notebook: dict) -> list[Image.Image]:
    data = [output.get("data", {}) for cell in code_cells(notebook) for output in cell["outputs"]]
    found = [kinds["image/jpeg"] for kinds in data if "image/jpeg" in kinds]
    return [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in found]


def test_its_code_compiles(committed: dict) -> None:
    for cell in code_cells(committed):
        compile("".join(cell["source"]), cell["id"], "exec")


def test_the_committed_outputs_are_there_and_small(path: Path, committed: dict) -> None:
    cells = code_cells(committed)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    assert [picture.width > 200 for picture in pictures(committed)] == [True] * PICTURES[path.name]
    assert path.stat().st_size < 1_000_000
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds <= {"stream", "display_data", "execute_result"}, "no error, no traceback"


def test_nothing_of_a_machine_is_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"/(?:home|root|tmp|work|Users|private|var)/[\w.-]+", text) == []
    assert not re.search(r"[A-Z]:\\\\", text)


@pytest.mark.slow
def test_it_runs(root: Path, path: Path, tmp_path: Path, committed: dict) -> None:
    spec = importlib.util.spec_from_file_location("execute_notebook", root / "docs" / "execute_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fresh = module.executed(tmp_path, {"HF_HOME": str(tmp_path / "home")}, path.name)
    assert [cell["source"] for cell in code_cells(fresh)] == ["".join(c["source"]) for c in code_cells(committed)]
    assert [picture.size for picture in pictures(fresh)] == [picture.size for picture in pictures(committed)]
    quality = float(re.search(r"^PQ (\d\.\d+),", module.plain_text(fresh), flags=re.MULTILINE)[1])
    assert quality > 0.2, "the model has learnt next to nothing"
    assert (tmp_path / path.stem / "run" / "final" / "model.safetensors").is_file()
