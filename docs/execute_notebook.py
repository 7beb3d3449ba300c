"""Executes a notebook of examples/ in a scratch folder and writes its outputs into the file; tests execute them too.

python docs/execute_notebook.py [quickstart.ipynb]
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


def executed(
    folder: Path, environment: Mapping[str, str] | None = None, name: str = "quickstart.ipynb"
) -> nbformat.NotebookNode:
    """A copy with fresh outputs; an error in a cell raises. The kernel works in `folder`, offline."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **(environment or {})})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _small(cell.outputs)
            cell.metadata.pop("execution", None)  # when each cell ran
    notebook.metadata.pop("language_info", None)
    return notebook


def _small(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Without progress bars, what is printed as one piece, and of each picture the JPEG alone."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
            continue
        if "image/jpeg" in output.get("data", {}):
            output.data.pop("image/png", None)
        kept.append(output)
    return kept


def plain_text(notebook: nbformat.NotebookNode) -> str:
    """All that its cells print."""
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(
        re.sub(r"\x1b\[[0-9;]*m", "", output.get("text") or output.get("data", {}).get("text/plain", ""))
        for output in shown
    )


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else "quickstart.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        fresh = executed(Path(scratch), name=given)
    nbformat.write(fresh, EXAMPLES / given)
    print(plain_text(fresh))
