"""The page's JavaScript in Node, beside Python: one process for all cases of a test."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_detr_panoptic.browser

ROOM = Path(hf_detr_panoptic.browser.__file__).parent
_DRIVER = """
import { readFileSync } from "node:fs";
const kinds = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array, int64: BigInt64Array };
const given = JSON.parse(readFileSync(0, "utf8"), (key, value) => (value?.dtype
  ? new kinds[value.dtype](new Uint8Array(Buffer.from(value.base64, "base64")).buffer) : value));
const told = (key, value) => (ArrayBuffer.isView(value) ? {
  dtype: value.constructor.name.replace("Array", "").replace("Clamped", "").toLowerCase(),
  base64: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64"),
} : value);
process.stdout.write(JSON.stringify(await run(given), told));
"""


def _packed(array: np.ndarray) -> dict[str, str]:
    return {"dtype": str(array.dtype), "base64": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}


def _unpacked(value: dict[str, Any]) -> Any:
    return np.frombuffer(base64.b64decode(value["base64"]), dtype=value["dtype"]) if "base64" in value else value


@pytest.fixture
def node() -> Callable[[str, Any], Any]:
    """`node(script, given)` → what `run(given)` of the script returns. Arrays are typed arrays there, and flat."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("there is no node here; tests/browser runs the same scripts in Chromium")

    def ran(script: str, given: Any) -> Any:
        done = subprocess.run(
            [program, "--input-type=module", "-e", script.replace('from "./', f'from "{ROOM.as_uri()}/') + _DRIVER],
            input=json.dumps(given, default=_packed),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout, object_hook=_unpacked)

    return ran
