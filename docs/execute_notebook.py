"""Executes examples/quickstart.ipynb in a scratch folder and writes its outputs into the file; a test executes it too.

python docs/execute_notebook.py
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def executed(folder: Path, environment: Mapping[str, str] | None = None) -> nbformat.NotebookNode:
    """A copy with fresh outputs; an error in a cell raises. The kernel works in `folder`, offline."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
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
    with tempfile.TemporaryDirectory() as scratch:
        fresh = executed(Path(scratch))
    nbformat.write(fresh, NOTEBOOK)
    print(plain_text(fresh))
