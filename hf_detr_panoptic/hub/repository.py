"""Repositories of the Hub: looked at first, made where they are missing, then one commit a revision.

What is there already is not sent again, so a broken push goes on where it broke when it is run again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from ..errors import HubError
from .contents import Kind, Upload, check_secrets
from .refusals import Account, explained

PATIENCE_S = 120.0

# What a repository that is new, or only described, may hold.
_MADE_BY_THE_HUB = (".gitattributes", ".gitignore", "LICENSE", "README.md", "index.html", "style.css")


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
class Seen:
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
        by_place: dict[tuple[Kind, str], Upload] = {}
        for upload in uploads:
            check_name(upload.repository)
            check_secrets(upload.files, token)
            other = by_place.setdefault((upload.kind, upload.repository), upload)
            if other.sdk != upload.sdk or (other is not upload and other.revision == upload.revision):
                raise HubError("two things would go to one repository", where=upload.place, fix="Give two names.")
        missing = [upload for upload in by_place.values() if not self._is_ready(upload, private)]
        for upload in missing:
            self._create(upload, private)

    def send(self, upload: Upload) -> bool:
        """One commit that holds all of it; False if the revision was like that before."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token

        check_secrets(upload.files, get_token())
        with explained(upload.where, self.account):
            self._make_branch(upload)
            place = {"repo_id": upload.repository, "repo_type": upload.kind, "revision": upload.revision}
            before = self._api.repo_info(**place)
            outdated = upload.outdated(sibling.rfilename for sibling in before.siblings or [])
            commit = self._api.create_commit(
                **place,
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
        seen = self._seen(upload)
        if seen is None:
            if upload.repository.split("/")[0] not in self.account.names:
                raise self.account.no_rights(upload.place)
            return False
        if private and not seen.private:
            raise HubError(
                "the repository is public, and this push is private",
                where=upload.place,
                fix="Push with `--public` (`private: false` in a recipe), or make it private in its settings.",
            )
        content = [path for path in seen.files if path not in _MADE_BY_THE_HUB]
        other = f"a {seen.model_type} model" if seen.model_type not in (None, "detr") else None
        if other is None and content and not any(fnmatch(path, upload.holds) for path in content):
            other = f"something else, such as {content[0]}"
        if other:
            raise HubError(
                f"the name is taken: the repository holds {other}", where=upload.place, fix="Choose another name."
            )
        return True

    def _seen(self, upload: Upload) -> Seen | None:
        from huggingface_hub.errors import RepositoryNotFoundError

        with explained(upload.place, self.account):
            try:
                info = self._api.repo_info(repo_id=upload.repository, repo_type=upload.kind)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 404:
                    return None
                raise
        files = tuple(sibling.rfilename for sibling in info.siblings or [])
        config: dict[str, Any] = getattr(info, "config", None) or {}
        return Seen(bool(info.private), files, config.get("model_type"))

    def _create(self, upload: Upload, private: bool) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        with explained(upload.place, self.account):
            try:
                self._api.create_repo(
                    upload.repository, repo_type=upload.kind, private=private, space_sdk=upload.sdk, exist_ok=False
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                raise HubError(
                    "the name is taken, by a repository that this account does not see",
                    where=upload.place,
                    fix="Choose another name.",
                ) from error

    def _make_branch(self, upload: Upload) -> None:
        """From the repository's first commit: what main holds is not the branch's."""
        if upload.revision == "main":
            return
        place = {"repo_id": upload.repository, "repo_type": upload.kind}
        if upload.revision in {branch.name for branch in self._api.list_repo_refs(**place).branches}:
            return
        first = self._api.list_repo_commits(**place)[-1].commit_id
        self._api.create_branch(**place, branch=upload.revision, revision=first, exist_ok=True)
