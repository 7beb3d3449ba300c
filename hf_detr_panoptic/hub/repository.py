"""Repositories of the Hub: what goes up, looked at first, made where it is missing, then one commit a revision.

What is there already is not sent again, so a broken push goes on where it broke when it is run again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from ..errors import HubError, is_of_a_full_disk

Content = bytes | Path
Files = dict[str, Content]
RepositoryKind = Literal["model", "dataset", "space"]

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
MODEL_FILES = ("config.json", "preprocessor_config.json", *WEIGHTS, "model.safetensors.index.json")
# Other weights than those that come now: transformers would load them instead, or beside.
OLD_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
OLD_DATA = ("*.parquet", "data/*.parquet")

_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_TEXT = (".json", ".yaml", ".csv", ".md", ".py", ".txt")

PATIENCE_S = 120.0
AGAIN = "Run the same command again: what is there is not sent again."

# What a repository that is new, or only described, may hold.
_MADE_BY_THE_HUB = (".gitattributes", ".gitignore", "LICENSE", "README.md", "index.html", "style.css")
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")


@dataclass(frozen=True)
class Upload:
    """One commit: what a revision of a repository holds afterwards.

    files: path in the repository → content. replaces: patterns of paths that go unless they are among `files`.
    holds: a pattern; a repository that holds files but none of these is somebody's other work.
    """

    repository: str
    files: Mapping[str, Content]
    title: str
    kind: RepositoryKind = "model"
    revision: str = "main"
    replaces: tuple[str, ...] = ()
    holds: str = "config.json"
    sdk: str | None = None

    @property
    def full_name(self) -> str:
        return self.repository if self.kind == "model" else f"{self.kind} {self.repository}"

    @property
    def where(self) -> str:
        return self.full_name if self.revision == "main" else f"{self.full_name}, branch {self.revision}"

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
    by_name = {path.name: path for path in sorted(folder.iterdir()) if _is_any_of(path.name, MODEL_FILES)}
    for name in ("config.json", "preprocessor_config.json"):
        if name not in by_name:
            raise HubError(f"there is no {name}", where=str(folder), fix="Train the stage again, or restore the file.")
    weights = [path for name, path in by_name.items() if _is_any_of(name, WEIGHTS)]
    if not weights:
        raise HubError("there are no weights", where=str(folder), fix="Train the stage again.")
    check_inside(by_name.values(), within)
    for path in weights:
        _check_whole(path)
    return dict(by_name)


def check_inside(paths: Iterable[Path], within: Path) -> None:
    """Raise where a link leads out of `within`: somebody else may have made the run, and its links."""
    for path in paths:
        if not path.resolve().is_relative_to(within.resolve()):
            raise HubError("the file lies outside of the run", where=str(path), fix="Replace the link by the file.")


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


# Keys whose texts are names of classes or a pattern, whatever they look like.
_NAMES = ("labels", "keep", "drop", "merge", "rename", "things", "stuff", "labeler_stuff", "priority")
_NO_PATHS = (*_NAMES, "group_pattern", "pattern", "values")

# The name and the password or token of an address.
_SIGNED_IN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/?#\s]*@", re.IGNORECASE)


def without_private_paths(data: Any, here: Path, people: Iterable[str]) -> Any:
    """A recipe's plain data with every path relative, and without the names of people in it.

    A path below `here` stays as it is seen from there; of any other its last part is left.
    """
    names = {name.casefold() for name in people}
    if isinstance(data, Mapping):
        return {
            key: value if key in _NO_PATHS else without_private_paths(value, here, names)
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return [without_private_paths(value, here, names) for value in data]
    return _relative(data, here, names) if isinstance(data, str) else data


def _relative(text: str, here: Path, names: set[str]) -> str:
    text = _SIGNED_IN.sub(r"\1", text)
    path = PureWindowsPath(text) if re.match(r"[A-Za-z]:[\\/]|\\\\", text) else PurePosixPath(text)
    parts = path.parts
    if path.is_absolute() or text.startswith("~"):
        if len(parts) > 2 and parts[1] in ("home", "Users"):
            names = names | {parts[2].casefold()}
        parts = parts[len(here.parts) :] if path.is_relative_to(here) else parts[-1:]
    elif not (".." in parts or Path(text).exists()):
        return text  # a name of the Hub, or no path at all
    telling = [index for index, part in enumerate(parts) if part == ".." or part.casefold() in names]
    return "/".join(parts[telling[-1] + 1 :] if telling else parts) or "."


def check_secrets(files: Mapping[str, Content], token: str | None) -> None:
    """Raise if a token of the Hub stands in a text that would go up."""
    for path, content in files.items():
        if not path.endswith(_TEXT):
            continue
        text = content if isinstance(content, bytes) else content.read_bytes()
        if _TOKEN.search(text) or (token and token.encode() in text):
            raise HubError("a token of the Hub stands in it", where=path, fix="Take it out, and revoke that token.")


def check_name(name: str) -> None:
    """Raise unless this is `user/name` as the Hub wants it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).split(":")[0].rstrip(".")
        raise HubError(f"'{name}' is no name of a repository ({reason})", fix="Write user/name.") from None
    if not re.fullmatch(r"[^/]+/[^/]+", name):
        raise HubError(f"'{name}' is no name of a repository: it does not say whose", fix=f"Write user/{name}.")


@dataclass(frozen=True)
class ExistingRepository:
    """A repository as it was found."""

    private: bool
    files: tuple[str, ...]
    model_type: str | None


class Hub:
    """The Hub, as one signed-in account sees it."""

    def __init__(self) -> None:
        self.account = Account()

    def sign_in(self) -> None:
        """Raises where there is no token, or none that may write."""
        from huggingface_hub import get_token
        from huggingface_hub.constants import is_offline_mode

        if is_offline_mode():
            raise HubError(
                "the Hub is not asked, because HF_HUB_OFFLINE is set",
                fix="Unset it to push; `--dry-run` works without a network.",
            )
        if not get_token():
            raise HubError(
                "nobody is signed in to the Hub: there is no token",
                fix="Run `hf auth login`, or set HF_TOKEN to a token that may write.",
            )
        with explained("the account", self.account):
            account = self._api.whoami()
        organisations = tuple(str(entry["name"]) for entry in account.get("orgs") or [])
        self.account = Account(str(account["name"]), organisations)
        if ((account.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
            raise HubError(
                f"the token of {self.account.user} may only read",
                fix="Make one that may write, at huggingface.co/settings/tokens, and run `hf auth login`.",
            )

    def make_ready(self, uploads: Sequence[Upload], *, private: bool) -> None:
        """Every repository looked at, then the missing ones made: nothing is made if one of them is refused."""
        from huggingface_hub import get_token

        token = get_token()
        by_name: dict[tuple[RepositoryKind, str], Upload] = {}
        for upload in uploads:
            check_name(upload.repository)
            check_secrets(upload.files, token)
            other = by_name.setdefault((upload.kind, upload.repository), upload)
            if other.sdk != upload.sdk or (other is not upload and other.revision == upload.revision):
                raise HubError("two things would go to one repository", where=upload.full_name, fix="Give two names.")
        missing = [upload for upload in by_name.values() if not self._is_ready(upload, private)]
        for upload in missing:
            self._create(upload, private)

    def send(self, upload: Upload) -> bool:
        """One commit that holds all of it; False if the revision was like that before."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token

        check_secrets(upload.files, get_token())
        with explained(upload.where, self.account):
            self._make_branch(upload)
            target = {"repo_id": upload.repository, "repo_type": upload.kind, "revision": upload.revision}
            before = self._api.repo_info(**target)
            outdated = upload.outdated(sibling.rfilename for sibling in before.siblings or [])
            commit = self._api.create_commit(
                **target,
                operations=[
                    *(CommitOperationAdd(path, content) for path, content in upload.files.items()),
                    *(CommitOperationDelete(path, is_folder=False) for path in outdated),
                ],
                commit_message=upload.title,
                parent_commit=before.sha,
            )
            return bool(commit.oid != before.sha)

    def address(self, upload: Upload) -> str:
        """Where people see it."""
        branch = "" if upload.revision == "main" else f"/tree/{upload.revision}"
        return (
            f"{self._api.endpoint}/{'' if upload.kind == 'model' else upload.kind + 's/'}{upload.repository}{branch}"
        )

    @property
    def _api(self) -> Any:  # its overloads do not take keywords that were put together
        from huggingface_hub import HfApi, get_session

        get_session().timeout = PATIENCE_S  # by default it waits for ever; the session is a new one now and then
        return HfApi(library_name="hf-detr-panoptic")

    def _is_ready(self, upload: Upload, private: bool) -> bool:
        """Whether the repository is there, and may take this."""
        existing = self._existing(upload)
        if existing is None:
            if upload.repository.split("/")[0] not in self.account.names:
                raise self.account.no_rights(upload.full_name)
            return False
        if private and not existing.private:
            raise HubError(
                "the repository is public, and this push is private",
                where=upload.full_name,
                fix="Push with `--public` (`private: false` in a recipe), or make it private in its settings.",
            )
        content = [path for path in existing.files if path not in _MADE_BY_THE_HUB]
        other = f"a {existing.model_type} model" if existing.model_type not in (None, "detr") else None
        if other is None and content and not any(fnmatch(path, upload.holds) for path in content):
            other = f"something else, such as {content[0]}"
        if other:
            raise HubError(
                f"the name is taken: the repository holds {other}", where=upload.full_name, fix="Choose another name."
            )
        return True

    def _existing(self, upload: Upload) -> ExistingRepository | None:
        from huggingface_hub.errors import RepositoryNotFoundError

        with explained(upload.full_name, self.account):
            try:
                info = self._api.repo_info(repo_id=upload.repository, repo_type=upload.kind)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 404:
                    return None
                raise
        files = tuple(sibling.rfilename for sibling in info.siblings or [])
        config: dict[str, Any] = getattr(info, "config", None) or {}
        return ExistingRepository(bool(info.private), files, config.get("model_type"))

    def _create(self, upload: Upload, private: bool) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        with explained(upload.full_name, self.account):
            try:
                self._api.create_repo(
                    upload.repository, repo_type=upload.kind, private=private, space_sdk=upload.sdk, exist_ok=False
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                raise HubError(
                    "the name is taken, by a repository that this account does not see",
                    where=upload.full_name,
                    fix="Choose another name.",
                ) from error

    def _make_branch(self, upload: Upload) -> None:
        """From the repository's first commit: what main holds is not the branch's."""
        if upload.revision == "main":
            return
        target = {"repo_id": upload.repository, "repo_type": upload.kind}
        if upload.revision in {branch.name for branch in self._api.list_repo_refs(**target).branches}:
            return
        first = self._api.list_repo_commits(**target)[-1].commit_id
        self._api.create_branch(**target, branch=upload.revision, revision=first, exist_ok=True)


@dataclass(frozen=True)
class Account:
    """Who is signed in; the names under which it may write."""

    user: str = ""
    organisations: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, *self.organisations)

    def no_rights(self, where: str) -> HubError:
        return HubError(
            f"{self.user or 'this account'} may not write there",
            where=where,
            fix=f"Push to a repository of {' or '.join(filter(None, self.names)) or 'your own'}, "
            "or sign in with a token that may: `hf auth login`.",
        )


@contextmanager
def explained(where: str, account: Account) -> Iterator[None]:
    """Every failure inside becomes a HubError."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except HubError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__  # an upload that failed in a thread of its own
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(cause, where, account) from None
        raise _failure(cause, where) from None


def _refusal(error: Any, where: str, account: Account) -> HubError:
    """An answer of the Hub's that is not yes."""
    status = error.response.status_code
    if status == 401:
        return HubError(
            "the Hub does not accept the token",
            where=where,
            fix="Run `hf auth login` with one that is valid; HF_TOKEN, where it is set, comes first.",
        )
    if status == 403:
        return account.no_rights(where)
    if status == 404:
        return HubError("the repository or its branch is gone, or not to be seen", where=where, fix=AGAIN)
    if status in (409, 412):
        return HubError("somebody else changed the repository meanwhile", where=where, fix=AGAIN)
    if status == 429:
        return HubError("the Hub asks to wait: too many requests", where=where, fix=f"Wait some minutes. {AGAIN}")
    if status >= 500:
        return HubError(f"the Hub has a problem of its own ({status})", where=where, fix=f"Wait a little. {AGAIN}")
    said = _without_token(str(error.server_message or "").strip().split("\n")[0].rstrip("."))
    return HubError(f"the Hub refuses this ({status}{': ' if said else ''}{said})", where=where, fix=AGAIN)


def _failure(error: BaseException, where: str) -> HubError:
    """No answer of the Hub's: the network, this machine, or a card that is refused before anything is sent."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    said = _without_token(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        if type(error).__name__ in _UNREACHABLE:
            what = f"the Hub cannot be reached at {constants.ENDPOINT}"
            return HubError(what, where=where, fix=f"Look at the network, HTTPS_PROXY and HF_ENDPOINT. {AGAIN}")
        return HubError(f"the connection to the Hub broke ({said})", where=where, fix=AGAIN)
    if type(error).__module__.startswith("hf_xet"):  # an OSError too, though no file of ours is meant
        return HubError(f"the upload broke ({said})", where=where, fix=AGAIN)
    if isinstance(error, OSError):
        if is_of_a_full_disk(error, Path()):
            return HubError("the disk is full", where=where, fix=f"Make room. {AGAIN}")
        return HubError(f"a file cannot be read ({said})", where=where, fix="Look at the folder and its rights.")
    if "metadata in README.md" in said:
        said = said.partition("README.md.")[2].strip(" -")
        return HubError(f"the Hub does not take the card ({said})", where=where, fix="Is the licence one of its ids?")
    return HubError(f"the upload failed ({said})", where=where, fix=AGAIN)


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "…") if token else text
