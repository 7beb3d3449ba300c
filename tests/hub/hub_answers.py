"""What the stand-in Hub answers: the addresses that huggingface_hub, datasets, evaluate and transformers ask."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repository import SDKS, Blob, Commit, Refused, Repository, card_problems, entries_below, entry_of, is_large

if TYPE_CHECKING:
    from hub_server import HubServer


@dataclass
class Request:
    method: str
    path: str
    size: int
    signed: bool
    leaked: bool
    status: int | str = "unanswered"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits 40 ms for the other side
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def do(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.query = parse_qs(address.query)
        signature = self.headers.get("Authorization", "").removeprefix("Bearer ")
        with self.hub.lock:
            request = Request(self.command, self.path, 0, bool(signature), False)
            self.hub.requests.append(request)
            strikes = [fault.what for fault in self.hub.faults if fault.strikes(self.command, path)]
        what = strikes[0] if strikes else None
        if what == "drop":
            request.status = "dropped"
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            self.drop()
            return
        body = self.body()
        request.size = len(body)
        secrets = [token.encode() for token in {self.hub.token, self.hub.reader, signature} if token]
        request.leaked = any(secret in body or secret in self.path.encode() for secret in secrets)
        if what == "silent":
            request.status = "silent"
            self.hub.closing.wait()
            self.drop()
            return
        try:
            if isinstance(what, int):
                raise Refused(what, {429: "Too many requests"}.get(what, f"the Hub says {what}"))
            with self.hub.lock:
                status, headers, content = self.answer(path, body, signature)
        except Refused as refusal:
            status, content = refusal.status, json.dumps({"error": refusal.message, **refusal.more}).encode()
            headers = {"X-Error-Message": refusal.message, "X-Error-Code": refusal.code}
            headers = {name: value for name, value in headers.items() if value}
        if what == "lost":
            request.status = "lost"
            self.drop()
            return
        request.status = status
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do  # noqa: N815

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def drop(self) -> None:
        """As when a cable is pulled: the other side sees a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/whoami-v2":
            return self.json(self.whoami(token))
        if path == "/api/validate-yaml":
            asked = json.loads(body)
            problems = card_problems(asked["content"], asked.get("repoType", "model"))
            said = json.dumps({"errors": [{"message": problem} for problem in problems], "warnings": []})
            return (400 if problems else 200), {}, said.encode()
        if path == "/api/repos/create":
            return self.json(self.create(json.loads(body), token))
        if match := re.fullmatch(r"/_lfs/(\w+)/([^/]+/[^/]+)/(\w+)(/verify)?", path):
            return self.large_file(self.hub.repositories[match[1], match[2]], match[3], bool(match[4]), body)
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            repository = self.found(match[1] or "model", match[2], token, write=True)
            return self.json(self.batch(repository, json.loads(body)))
        if match := re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/(?:resolve|raw)/([^/]+)/(.+)", path):
            repository = self.found(match[1] or "model", match[2], token)
            return self.file(self.revision(repository, match[3]), match[4])
        if match := re.fullmatch(
            r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([\w-]+)(?:/([^/]+)(?:/(.+))?)?)?", path
        ):
            kind, name, verb, revision, rest = match.groups()
            write = verb in ("preupload", "commit", "branch")
            repository = self.found(kind, name, token, write)
            return self.about(repository, verb or "revision", revision or "main", rest or "", body)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def whoami(self, token: str) -> dict[str, Any]:
        if token not in (self.hub.token, self.hub.reader):
            raise Refused(401, "Invalid credentials in Authorization header" if token else "Unauthorized")
        role = "write" if token == self.hub.token else "read"
        orgs = [{"type": "org", "name": name} for name in self.hub.organisations]
        access = {"type": "access_token", "accessToken": {"displayName": "here", "role": role}}
        return {"type": "user", "id": "1", "name": self.hub.user, "fullname": "Anna", "orgs": orgs, "auth": access}

    def may_write(self, name: str, token: str) -> None:
        self.whoami(token)
        owner = name.partition("/")[0]
        if token == self.hub.reader:
            raise Refused(403, "You must use a write token to do this")
        if owner not in (self.hub.user, *self.hub.organisations):
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')

    def found(self, kind: str, name: str, token: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get((kind, name))
        if token:
            self.whoami(token)
        owner = name.partition("/")[0]
        insider = bool(token) and owner in (self.hub.user, *self.hub.organisations)
        if repository is None or (repository.private and not insider):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        if write:
            self.may_write(name, token)
        return repository

    def create(self, asked: Mapping[str, Any], token: str) -> dict[str, Any]:
        kind, name = asked.get("type", "model"), f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        self.may_write(name, token)
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repositories:
            raise Refused(409, f"You already created this {kind} repo", url=url)
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise Refused(400, f"sdk must be one of {SDKS}")
        private = asked.get("private") or asked.get("visibility") == "private"
        # The Hub puts a page into a new static Space.
        page = {"index.html": b"<!doctype html>", "style.css": b""} if asked.get("sdk") == "static" else {}
        self.hub.add(name, page, kind=kind, private=bool(private)).sdk = asked.get("sdk")
        return {"url": url, "name": name, "id": name}

    def revision(self, repository: Repository, name: str) -> Commit:
        commit = repository.at(name)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return commit

    def large_file(
        self, repository: Repository, oid: str, verify: bool, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if verify:
            if oid not in repository.objects:
                raise Refused(404, "no such object")
        elif hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content is not what was announced")
        else:
            repository.objects[oid] = body
            self.hub.sent.append(oid)
        return self.json({})

    def batch(self, repository: Repository, asked: Mapping[str, Any]) -> dict[str, Any]:
        objects = []
        for entry in asked["objects"]:
            known: dict[str, Any] = {"oid": entry["oid"], "size": entry["size"]}
            if entry["oid"] not in repository.objects:
                href = f"{self.hub.url}/_lfs/{repository.kind}/{repository.name}/{entry['oid']}"
                known["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(known)
        return {"transfer": "basic", "objects": objects}

    def file(self, commit: Commit, path: str) -> tuple[int, dict[str, str], bytes]:
        blob = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return 200, headers, blob.content
        start, end = int(asked[1]), int(asked[2] or len(blob.content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.content)}"
        return 206, headers, blob.content[start : end + 1]

    def about(
        self, repository: Repository, verb: str, revision: str, rest: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if verb == "branch":
            return self.json(self.branch(repository, revision, json.loads(body or b"{}")))
        if verb == "refs":
            names = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": o} for n, o in repository.branches.items()]
            return self.json({"branches": names, "tags": [], "converts": [], "pullRequests": []})
        commit = self.revision(repository, revision)
        if verb == "commits":
            entries = [
                {"id": c.oid, "title": c.title, "message": "", "date": "2026-11-21T12:00:00.000Z", "authors": []}
                for c in repository.history(revision)
            ]
            return self.json(entries)
        if verb == "preupload":
            return self.json({"files": [self.mode(commit, entry) for entry in json.loads(body)["files"]]})
        if verb == "commit":
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            return self.json(self.commit(repository, revision, lines))
        if verb == "tree":
            deep = self.query.get("recursive", ["false"])[0].lower() == "true"
            return self.json(list(entries_below(commit, rest, deep)))
        if verb == "paths-info":
            form = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            every = {entry["path"]: entry for entry in entries_below(commit, "", True, must_exist=False)}
            return self.json([every[path.strip("/")] for path in form if path.strip("/") in every])
        if verb == "revision":
            return self.json(self.info(repository, commit))
        raise Refused(404, f"nothing is known about {verb}")

    def branch(self, repository: Repository, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        if self.command == "DELETE":
            del repository.branches[name]
            return {}
        if name in repository.branches:
            raise Refused(409, f"Reference already exists: refs/heads/{name}")
        repository.branches[name] = self.revision(repository, asked.get("startingPoint", "main")).oid
        return {}

    def mode(self, commit: Commit, entry: Mapping[str, Any]) -> dict[str, Any]:
        before = commit.files.get(entry["path"])
        large = is_large(entry["path"], base64.b64decode(entry.get("sample", "")), entry["size"])
        known = None if before is None or before.large != large else before.etag
        return {
            "path": entry["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
            "oid": known,
        }

    def commit(self, repository: Repository, branch: str, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if branch not in repository.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files, title = dict(self.revision(repository, branch).files), ""
        for line in lines:
            value, path = line["value"], line["value"].get("path", "")
            if line["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                files[path] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in repository.objects:
                    raise Refused(400, f"the LFS object of {path} has not been uploaded")
                files[path] = Blob(repository.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                files = {name: blob for name, blob in files.items() if not name.startswith(path.strip("/") + "/")}
        made = repository.commit(branch, files, title)
        return {
            "success": True,
            "commitOid": made.oid,
            "commitUrl": f"{self.hub.url}/{repository.name}/commit/{made.oid}",
        }

    def info(self, repository: Repository, commit: Commit) -> dict[str, Any]:
        detailed = "blobs" in self.query
        siblings = []
        for path, blob in commit.files.items():
            siblings.append({"rfilename": path} | (entry_of(path, blob) if detailed else {}))
        fields = {"id": repository.name, "sha": commit.oid, "private": repository.private, "tags": [], "downloads": 0}
        config = commit.files.get("config.json")
        if repository.kind == "model" and config is not None:
            fields["config"] = {"model_type": json.loads(config.content).get("model_type")}
        fields |= {"lastModified": "2026-11-21T12:00:00.000Z", "gated": False, "disabled": False, "likes": 0}
        return fields | {"siblings": siblings} | ({"sdk": repository.sdk} if repository.kind == "space" else {})

    @staticmethod
    def json(content: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, json.dumps(content).encode()
