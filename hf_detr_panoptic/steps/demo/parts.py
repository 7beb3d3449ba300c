"""The parts of the demo: which of them are done, what they took and what they found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import HfDetrPanopticError

_STATE = "demo.json"


class Parts:
    """What is done of the demo, with seconds and figures; `demo.json` remembers it."""

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        self.folder, self.told = folder, dict(told)
        self.done: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, folder: Path, told: Mapping[str, Any]) -> Parts:
        """Begin, or go on; raises where the folder is somebody else's, or of other settings."""
        parts = cls(folder, told)
        parts._go_on()
        return parts

    def _go_on(self) -> None:
        state = self.folder / _STATE
        if not state.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise HfDetrPanopticError(
                    "is there, and is no demo", where=str(self.folder), fix="Give another --out."
                )
            self._write()
            return
        try:
            content = json.loads(state.read_bytes())
            before, self.done = content["settings"], content["parts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HfDetrPanopticError(f"cannot be read ({error})", where=str(state), fix=_AFRESH) from error
        now = json.loads(json.dumps(self.told))
        changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
        if changed:
            raise HfDetrPanopticError(
                f"the demo there has other settings: {', '.join(changed)}", where=str(self.folder), fix=_AFRESH
            )

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """One part, unless it is done; its figures are kept."""
        title = f"── {_TITLES[name]} "
        if name in self.done:
            print(f"{title}(done before)")
            return
        print(title + "─" * max(0, 78 - len(title)), flush=True)
        began = time.perf_counter()
        figures = work()
        self.done[name] = {"seconds": round(time.perf_counter() - began, 1), "figures": figures}
        self._write()
        print(f"{self.done[name]['seconds']:.0f} s\n", flush=True)

    def figures(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.done[name]["figures"]
        return found

    def finish(self) -> dict[str, Any]:
        """figures.json: no seconds in it, so that the same seed gives the same bytes."""
        figures = {name: part["figures"] for name, part in self.done.items()}
        _write_json(self.folder / "figures.json", {"settings": self.told, **figures})
        return figures

    def _write(self) -> None:
        _write_json(self.folder / _STATE, {"settings": self.told, "parts": self.done})


_AFRESH = "Give another --out, or take that folder away."
_TITLES = {
    "photos": "1  photos of a site, your marks on some classes",
    "labels": "2  the teacher labels the rest, your marks go on top",
    "merged": "3  how right are the merged labels?",
    "training": "4  three stages",
    "held-out": "5  how good is the model, on photos that nobody learnt from?",
    "pictures": "6  pictures and reports",
}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
