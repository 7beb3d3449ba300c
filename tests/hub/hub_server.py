"""A stand-in for the Hugging Face Hub on this machine, for the real huggingface_hub client. Tests use it so:

    def test_it(hub, tmp_path):                       # the fixture of tests/hub/conftest.py: a HubServer, started
        done = hub.python("from huggingface_hub import ...", home=tmp_path)      # a fresh Python, an empty cache,
        assert done.returncode == 0, done.stderr      # HF_ENDPOINT and a token that may write
        done = hub.cli("push", run, "anna/site", home=tmp_path)         # `hf-detr-panoptic push …` likewise
        assert hub.files("anna/site", revision="detection").keys() == {...}      # path → bytes
        assert hub.files("anna/data", kind="dataset")["README.md"].startswith(b"---")

`home` keeps the cache: another `home` is another machine. `hub.python(..., token=None)` is nobody, `token="hf_…"` some
wrong one; `hub.environment(home)` are the variables for a program that the test starts itself. `hub.add(name, files)`
puts a repository there without a client. The account `anna` (and the organisation `site-office`) belong to
`hub.token`; `hub.reader` may only read.

Faults: `hub.break_at(7)` drops the connection in the middle of the seventh request from now, and every one after it
until `hub.heal()`; `hub.break_at(2, 429, lasting=False)` answers that one alone with a status; `"lost"` does what is
asked and never says so; `"silent"` never answers; `method=` and `path=` (a regular expression) count only some
requests. `hub.requests` is the log; `hub.sent` is the name (sha256) of every large file that came in whole, in order.
`hub.leaks()` lists requests with a token anywhere but in its header.

Not here: Xet (HF_HUB_DISABLE_XET=1 is set), multipart uploads, pull requests, pages of long lists.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_answers import Handler, Request
from hub_repository import LARGE, Blob, Repository, is_large


@dataclass
class Fault:
    at: int
    what: int | str
    lasting: bool
    method: str
    path: str
    seen: int = 0
    hits: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        self.seen += 1
        struck = self.seen >= self.at if self.lasting else self.seen == self.at
        self.hits += struck
        return struck


class HubServer:
    """The Hub: `with HubServer() as hub:`."""

    def __init__(self) -> None:
        self.token, self.reader = "hf_" + "Write" * 7, "hf_" + "Read4" * 7
        self.user, self.organisations = "anna", ("site-office",)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.sent: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        # Asked often whether to stop: the default of half a second would be what most tests take.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def add(
        self, name: str, files: Mapping[str, bytes] | None = None, kind: str = "model", private: bool = False
    ) -> Repository:
        """A new repository with its first commit, and a second with `files`, if there are any."""
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        first = {".gitattributes": Blob("".join(f"{p} filter=lfs diff=lfs merge=lfs -text\n" for p in LARGE).encode())}
        repository.commit("main", first, "initial commit")
        if files:
            blobs = {path: Blob(content, is_large(path, content)) for path, content in files.items()}
            repository.objects |= {blob.sha256: blob.content for blob in blobs.values() if blob.large}
            repository.commit("main", first | blobs, "files")
        return repository

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Path → content of a revision, without .gitattributes."""
        commit = self.repositories[kind, name].at(revision)
        assert commit is not None, f"{name} has no revision {revision}"
        return {path: blob.content for path, blob in commit.files.items() if path != ".gitattributes"}

    def break_at(
        self, number: int, what: int | str = "drop", *, lasting: bool = True, method: str = ".*", path: str = ""
    ) -> Fault:
        """From the `number`-th of the matching requests on (or that one alone): a status, drop, lost or silent."""
        fault = Fault(number, what, lasting, method, path)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def leaks(self) -> list[Request]:
        return [request for request in self.requests if request.leaked]

    def environment(self, home: Path, token: str | None = "", **changes: str) -> dict[str, str]:
        """Variables for a program that shall see this Hub: everything of this machine's own Hub is taken out."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
        kept |= {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        kept |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if token is not None:
            kept["HF_TOKEN"] = token or self.token
        return kept | changes

    def python(
        self, code: str, *words: object, home: Path, token: str | None = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh Python. Its waits between two tries of a request take no time."""
        code = f"import time\ntime.sleep = lambda seconds: None\n{code}"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            capture_output=True,
            text=True,
            env=self.environment(home, token, **changes),
            timeout=600,
        )

    def cli(
        self, *words: object, home: Path, token: str | None = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """`hf-detr-panoptic …` in a fresh Python."""
        code = "import sys\nfrom hf_detr_panoptic.cli import main\nsys.exit(main(sys.argv[1:]))"
        return self.python(code, *words, home=home, token=token, **changes)
