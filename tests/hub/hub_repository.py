"""Repositories as the stand-in Hub keeps them, and the Hub's rules about files and cards."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LARGE = ("*.safetensors", "*.bin", "*.parquet", "*.arrow", "*.whl", "*.zip", "*.pt", "*.npz")
SDKS = ("gradio", "docker", "static")
LICENSES = {
    "apache-2.0",
    "mit",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc0-1.0",
    "openrail",
    "other",
    "unknown",
}


@dataclass(frozen=True)
class Blob:
    """A file's content, and whether it went through LFS."""

    content: bytes
    large: bool = False

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: Mapping[str, Blob]
    parent: str | None = None


@dataclass
class Repository:
    """Branches of commits, and the LFS objects that lie beside them."""

    kind: str
    name: str
    private: bool = False
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, branch: str, files: Mapping[str, Blob], title: str) -> Commit:
        parent = self.branches.get(branch)
        text = json.dumps([title, parent, len(self.commits), {path: blob.etag for path, blob in files.items()}])
        made = Commit(hashlib.sha1(text.encode()).hexdigest(), title, dict(files), parent)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        self.status, self.message, self.code, self.more = status, message, code, more


def is_large(path: str, sample: bytes, size: int = 0) -> bool:
    name = path.rpartition("/")[2]
    return size > 10_000_000 or b"\0" in sample or any(fnmatch.fnmatch(name, pattern) for pattern in LARGE)


def card_problems(content: str, kind: str) -> list[str]:
    """What the Hub would say against a README's front matter: the part of its rules that people run into."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    problems = []
    texts = ["license", "license_name", "pipeline_tag", "library_name", "pretty_name", "title", "sdk", "app_file"]
    problems += [f'"{key}" must be a string' for key in texts if key in data and not isinstance(data[key], str)]
    if "license" in data and str(data["license"]) not in LICENSES:
        problems.append(f'"license" must be one of {sorted(LICENSES)}')
    for key in ("tags", "datasets", "metrics"):
        values = data.get(key, [])
        if not all(isinstance(value, str) for value in ([values] if isinstance(values, str) else values)):
            problems.append(f'"{key}" must be a list of strings')
    for entry in data.get("model-index", []):
        for result in entry.get("results", [{}]):
            missing = {"task", "dataset", "metrics"} - result.keys()
            problems += [f'"model-index" result lacks {key}' for key in sorted(missing)]
    for entry in data.get("widget") or []:
        if not isinstance(entry, dict) or not isinstance(entry.get("src", ""), str):
            problems.append('"widget" must be a list of mappings')
    if kind == "space" and data.get("sdk") not in SDKS:
        problems.append(f'"sdk" must be one of {SDKS}')
    return problems


def entry_of(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(blob.content),
        "oid": blob.oid,
        "blobId": blob.oid,
    }
    if blob.large:
        entry["lfs"] = {"oid": blob.sha256, "sha256": blob.sha256, "size": len(blob.content), "pointerSize": 130}
    return entry


def entries_below(commit: Commit, folder: str, deep: bool, must_exist: bool = True) -> Iterator[dict[str, Any]]:
    """Folders and files in a folder, as the Hub lists them."""
    start = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in commit.files.items() if path.startswith(start)}
    if folder and must_exist and not inside:
        raise Refused(404, f"{folder} does not exist on this revision", "EntryNotFound")
    parents = {str(parent) for path in inside for parent in Path(path).parents} - {".", folder}
    for path in sorted(parents):
        if path.startswith(start) and (deep or "/" not in path.removeprefix(start)):
            yield {"type": "directory", "path": path, "size": 0, "oid": commit.oid}
    for path, blob in inside.items():
        if deep or "/" not in path.removeprefix(start):
            yield entry_of(path, blob)
