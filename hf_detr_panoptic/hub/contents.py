"""What goes up: the model's own files and nothing else of a folder, a recipe without this machine in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import yaml

from ..errors import HubError

Content = bytes | Path
Files = dict[str, Content]
Kind = Literal["model", "dataset", "space"]

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
MODEL_FILES = ("config.json", "preprocessor_config.json", *WEIGHTS, "model.safetensors.index.json")
# Other weights than those that come now: transformers would load them instead, or beside.
OLD_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
OLD_DATA = ("*.parquet", "data/*.parquet")

_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_TEXT = (".json", ".yaml", ".csv", ".md", ".py", ".txt")


@dataclass(frozen=True)
class Upload:
    """One commit: what a revision of a repository holds afterwards.

    files: path in the repository → content. replaces: patterns of paths that go unless they are among `files`.
    holds: a pattern; a repository that holds files but none of these is somebody's other work.
    """

    repository: str
    files: Mapping[str, Content]
    title: str
    kind: Kind = "model"
    revision: str = "main"
    replaces: tuple[str, ...] = ()
    holds: str = "config.json"
    sdk: str | None = None

    @property
    def place(self) -> str:
        return self.repository if self.kind == "model" else f"{self.kind} {self.repository}"

    @property
    def where(self) -> str:
        return self.place if self.revision == "main" else f"{self.place}, branch {self.revision}"

    @property
    def size(self) -> int:
        return sum(size_of(content) for content in self.files.values())

    def outdated(self, there: Iterable[str]) -> list[str]:
        """Which of the files there go."""
        return [
            path
            for path in there
            if path not in self.files and any(fnmatch(path, pattern) for pattern in self.replaces)
        ]


def size_of(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def model_files(folder: Path, within: Path) -> Files:
    """A model's folder without checkpoints, optimizer, RNG, markers and whatever else lies there.

    Nothing that a link leads to outside of `within` is taken.
    """
    found = {path.name: path for path in sorted(folder.iterdir()) if _is_any_of(path.name, MODEL_FILES)}
    for name in ("config.json", "preprocessor_config.json"):
        if name not in found:
            raise HubError(f"there is no {name}", where=str(folder), fix="Train the stage again, or restore the file.")
    weights = [path for name, path in found.items() if _is_any_of(name, WEIGHTS)]
    if not weights:
        raise HubError("there are no weights", where=str(folder), fix="Train the stage again.")
    for path in found.values():
        if not path.resolve().is_relative_to(within.resolve()):
            raise HubError("the file lies outside of the run", where=str(path), fix="Replace the link by the file.")
    for path in weights:
        _check_whole(path)
    return dict(found)


def _check_whole(weights: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise HubError(
            f"the weights are damaged or cut off ({error})", where=str(weights), fix="Train the stage again."
        ) from error


def _is_any_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def stage_card(stage: str, repository: str, license: str | None) -> bytes:
    """The README of a stage's branch."""
    meta = {"library_name": "transformers", "pipeline_tag": "image-segmentation"}
    meta |= {"license": license} if license else {}
    trained = {
        "detection": "Classes and boxes are trained. The mask head is not: do not use its masks.",
        "mask_head": "The mask head is trained on top of the frozen detection model.",
        "finetune": "Everything is trained once more at a lower rate.",
    }
    return f"""---
{yaml.safe_dump(meta, sort_keys=False)}---

# {repository}, stage {stage}

One of the three stages of a panoptic DETR. {trained.get(stage, "")}
The finished model, with its card, is on the branch `main`.

```python
from transformers import DetrForSegmentation

model = DetrForSegmentation.from_pretrained("{repository}", revision="{stage}")
```
""".encode()


# Keys whose texts are names of classes or a pattern, whatever they look like.
_NO_PATHS: tuple[str, ...] = (
    "labels",
    "keep",
    "drop",
    "merge",
    "rename",
    "things",
    "stuff",
    "labeler_stuff",
    "priority",
)
_NO_PATHS += ("group_pattern", "pattern", "values")


def without_places(data: Any, here: Path, people: Iterable[str]) -> Any:
    """A recipe's plain data with every path relative, and without the names of people in it.

    A path below `here` stays as it is seen from there; of any other its last part is left.
    """
    names = {name.casefold() for name in people}
    if isinstance(data, Mapping):
        return {key: value if key in _NO_PATHS else without_places(value, here, names) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_places(value, here, names) for value in data]
    return _relative(data, here, names) if isinstance(data, str) else data


def _relative(text: str, here: Path, names: set[str]) -> str:
    path = PureWindowsPath(text) if re.match(r"[A-Za-z]:[\\/]|\\\\", text) else PurePosixPath(text)
    parts = path.parts
    if path.is_absolute() or text.startswith("~"):
        if len(parts) > 2 and parts[1] in ("home", "Users"):
            names = names | {parts[2].casefold()}
        parts = parts[len(here.parts) :] if path.is_relative_to(here) else parts[-1:]
    elif not (".." in parts or Path(text).exists()):
        return text  # a name of the Hub, or no path at all
    told = [place for place, part in enumerate(parts) if part == ".." or part.casefold() in names]
    return "/".join(parts[told[-1] + 1 :] if told else parts) or "."


def check_secrets(files: Mapping[str, Content], token: str | None) -> None:
    """Raise if a token of the Hub stands in a text that would go up."""
    for path, content in files.items():
        if not path.endswith(_TEXT):
            continue
        text = content if isinstance(content, bytes) else content.read_bytes()
        if _TOKEN.search(text) or (token and token.encode() in text):
            raise HubError("a token of the Hub stands in it", where=path, fix="Take it out, and revoke that token.")
