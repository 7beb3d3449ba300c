"""What huggingface_hub, the network and the disk say, in one sentence of ours, without the token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HubError, is_of_a_full_disk

AGAIN = "Run the same command again: what is there is not sent again."

_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")


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
