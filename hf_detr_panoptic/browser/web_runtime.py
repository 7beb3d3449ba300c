"""ONNX Runtime Web: what a page runs graphs with. Its publisher's own build, pinned, fetched once and kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import urllib.request
import zlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from ..errors import HfDetrPanopticError
from ..files import write_bytes

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# Of the version above, as `npm view onnxruntime-web dist.integrity` gives it, and of the two files in it.
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_DIGESTS = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_MOST_BYTES = 100_000_000
_SECONDS = 60

LICENSE = """\
MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


class NoRuntimeError(HfDetrPanopticError):
    """The runtime is not at hand and cannot be had."""


@dataclass(frozen=True)
class WebRuntime:
    """The two files of a page, gzipped: its script, a module, and the WebAssembly that it starts."""

    script: bytes
    wasm: bytes


def web_runtime(file: str | Path | None = None) -> WebRuntime:
    """The runtime from the cache; else from `file`, the package's archive; else from the package registry."""
    if (kept := at_hand()) is not None:
        return kept
    found = _unpacked(*_given(Path(file))) if file is not None else _unpacked(_fetched(), ADDRESS)
    for name, content in found.items():
        write_bytes(cache_folder() / f"{name}.gz", gzip.compress(content, 9, mtime=0), shared=True)
    kept = at_hand()
    assert kept is not None
    return kept


def at_hand() -> WebRuntime | None:
    """The runtime from the cache, if it is there and whole; the network is never asked."""
    files = {name: cache_folder() / f"{name}.gz" for name in _DIGESTS}
    try:
        contents = {name: path.read_bytes() for name, path in files.items()}
        if any(_digest(gzip.decompress(content)) != _DIGESTS[name] for name, content in contents.items()):
            return None
    except (OSError, EOFError, zlib.error):
        return None
    return WebRuntime(contents[SCRIPT], contents[WASM])


def cache_folder() -> Path:
    """Where the runtime is kept: in $HF_DETR_PANOPTIC_CACHE, or beside what the Hub's client keeps."""
    from huggingface_hub import constants

    own = os.environ.get("HF_DETR_PANOPTIC_CACHE")
    return Path(own or Path(constants.HF_HOME) / "hf_detr_panoptic") / f"onnxruntime-web-{VERSION}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _given(file: Path) -> tuple[bytes, str]:
    try:
        return file.read_bytes(), str(file)
    except OSError as error:
        raise NoRuntimeError(
            f"cannot be read ({error.strerror})", where=str(file), fix=f"Give the file of {ADDRESS}."
        ) from error


def _fetched() -> bytes:
    elsewhere = f"Fetch {ADDRESS} where there is a network, and give it as --runtime-file."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise NoRuntimeError("the page's runtime is not here yet, and HF_HUB_OFFLINE is set", fix=elsewhere)
    try:
        with urllib.request.urlopen(ADDRESS, timeout=_SECONDS) as answer:
            content: bytes = answer.read(_MOST_BYTES)
            return content
    except OSError as error:  # URLError is one, a broken connection and a time-out, too
        reason = getattr(error, "reason", None) or error
        raise NoRuntimeError(f"the page's runtime cannot be fetched ({reason})", fix=elsewhere) from error


def _unpacked(archive: bytes, where: str) -> dict[str, bytes]:
    if f"sha512-{b64encode(hashlib.sha512(archive).digest()).decode()}" != INTEGRITY:
        raise NoRuntimeError(
            f"is not onnxruntime-web {VERSION} as it was published", where=where, fix=f"Fetch {ADDRESS} again."
        )
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        contents = {name: files.extractfile(f"package/dist/{name}") for name in _DIGESTS}
        return {name: content.read() for name, content in contents.items() if content is not None}
