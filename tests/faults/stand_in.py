"""The stand-in Hub in a process of its own: one that commands are forked off may start no thread.

As a program it answers each line that it is told: `clear` takes all repositories away, `digests` lists their files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HUB = Path(__file__).parents[1] / "hub"


class StandIn:
    """Started before huggingface_hub is imported, which reads the environment once."""

    def __init__(self, home: Path) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        home.mkdir(parents=True, exist_ok=True)
        pipes["stderr"] = (home / "hub.log").open("w")  # of whom it lost when they were killed
        path = os.pathsep.join([str(HUB), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(home)], env=os.environ | {"PYTHONPATH": path}, **pipes
        )
        variables = json.loads(self._answer())
        os.environ.pop("HF_HUB_OFFLINE", None)
        os.environ.update(variables)

    def clear(self) -> None:
        self._ask("clear")

    def files(self) -> dict[str, bytes]:
        """`kind/name/revision/path` → the digest of the file."""
        return {name: digest.encode() for name, digest in self._ask("digests").items()}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def main() -> None:
    from hub_server import HubServer

    with HubServer() as hub:
        told = hub.environment(Path(sys.argv[1]))
        print(json.dumps({name: value for name, value in told.items() if name.startswith(("HF_", "NO_"))}), flush=True)
        for line in sys.stdin:
            if line.strip() == "clear":
                with hub.lock:
                    hub.repositories.clear()
                print("{}", flush=True)
                continue
            with hub.lock:
                digests = {
                    f"{kind}/{name}/{branch}/{path}": hashlib.sha256(content).hexdigest()
                    for (kind, name), repository in hub.repositories.items()
                    for branch in repository.branches
                    for path, content in hub.files(name, branch, kind).items()
                }
            print(json.dumps(digests), flush=True)


if __name__ == "__main__":
    main()
