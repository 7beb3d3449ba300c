"""The head of a card: YAML that the Hub reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import CardData


def with_front_matter(data: CardData, body: str) -> bytes:
    """A README.md, of what the Hub reads and what people read."""
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{body}".encode()


def checked_license(license: str | None) -> str | None:
    """The licence as the Hub writes it; whether it is one that it knows, it says when the card arrives."""
    if license is not None and not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", license):
        raise HubError(
            f"{license!r} is not how the Hub writes a licence",
            where="license",
            fix="Write an id such as apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0 or other.",
        )
    return license
