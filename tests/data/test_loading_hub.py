"""`load_panoptic("person/site")` through the real client, against a stand-in for the Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import pytest

from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.data.coco_panoptic import read_split
from hf_detr_panoptic.data.parquet import write_parquet

pytestmark = pytest.mark.slow  # each load is a new Python that imports everything
SHA = "5" * 40
LOAD = """
import hashlib, json, sys
from hf_detr_panoptic import load_panoptic
from hf_detr_panoptic.data.loading import rows_of
loaded = load_panoptic("person/site")
rows = rows_of(loaded["train"], loaded.label_space)
print(json.dumps({
    "splits": {name: len(split) for name, split in loaded.items()},
    "things": [[c.name, c.isthing, c.source] for c in loaded.label_space],
    "photos": [hashlib.sha256(row.photo).hexdigest() for row in rows],
    "maps": [hashlib.sha256(row.map().ids.tobytes()).hexdigest() for row in rows],
}))
"""


class Hub(BaseHTTPRequestHandler):
    """The few addresses that reading one dataset repository takes."""

    root: Path

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send(json.dumps([entry for entry in self.files() if entry["path"] in asked]).encode())

    def files(self) -> list[dict[str, object]]:
        found = sorted(path for path in self.root.rglob("*") if path.is_file())
        return [
            {"type": "file", "path": path.relative_to(self.root).as_posix(), "size": path.stat().st_size, "oid": SHA}
            for path in found
        ]

    def below(self, folder: str, deep: bool) -> Iterator[dict[str, object]]:
        """What lies in a folder; its sub-folders' files too if `deep`."""
        place = self.root / folder
        for sub in sorted(path for path in place.rglob("*") if path.is_dir() and (deep or path.parent == place)):
            yield {"type": "directory", "path": sub.relative_to(self.root).as_posix(), "size": 0, "oid": SHA}
        for entry in self.files():
            path = self.root / str(entry["path"])
            if path.parent == place or (deep and path.is_relative_to(place)):
                yield entry

    def answer(self, body: bool = True) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/datasets/person/site/tree/"):
            folder = path.removeprefix("/api/datasets/person/site/tree/").partition("/")[2]
            deep = "recursive=true" in self.path.lower()
            self.send(json.dumps(list(self.below(folder, deep))).encode())
        elif path.startswith("/api/datasets/person/site"):
            siblings = [{"rfilename": entry["path"]} for entry in self.files()]
            self.send(json.dumps({"id": "person/site", "sha": SHA, "siblings": siblings, "private": False}).encode())
        elif path.startswith("/datasets/person/site/resolve/"):
            file = self.root / path.removeprefix("/datasets/person/site/resolve/").partition("/")[2]
            if file.is_file():
                self.send(file.read_bytes(), body)
            else:
                self.send(b"", body, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.send(b"", body, 404, {"X-Error-Code": "RepoNotFound"})

    def send(self, content: bytes, body: bool = True, status: int = 200, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = hashlib.sha256(content).hexdigest()
        headers = {"Content-Length": str(len(content)), "ETag": f'"{etag}"', "X-Repo-Commit": SHA, **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def repository(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_parquet(load_panoptic(dataset), tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def hub(repository: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"root": repository}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load(hub: str, home: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **changes}
    return subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, env=environment)


def test_a_name_on_the_hub(hub: str, dataset: Path, tmp_path: Path) -> None:
    done = load(hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["splits"] == {"train": 3, "validation": 2}
    assert found["things"] == [["pipe", True, "custom"], ["crack", True, "custom"], ["sky", False, "auto"]]
    records = read_split(dataset)
    assert found["photos"] == [hashlib.sha256(record.photo.read_bytes()).hexdigest() for record in records]
    assert found["maps"] == [hashlib.sha256(record.map().ids.tobytes()).hexdigest() for record in records]
    again = load(hub, tmp_path / "home", HF_HUB_OFFLINE="1")  # from the cache, as on a machine without network
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout) == found


def test_a_repository_without_a_label_space(hub: str, repository: Path, tmp_path: Path) -> None:
    (repository / "label_space.json").unlink()
    done = load(hub, tmp_path / "home")
    assert "does not say whether pipe, crack, sky are things or stuff" in done.stderr
