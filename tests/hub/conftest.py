"""The Hub on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test folders are no packages, and the server is three modules

if TYPE_CHECKING:
    from hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub of the test's own; hub_server.py says what it can do."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server
