"""Pages in a real browser: Chromium, driven by Playwright.

A page that complains, or asks the network, fails its test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "Install a browser (Debian: apt-get install chromium) and the tests' packages (pip install -e '.[dev]')."
FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-dev-shm-usage",
    # Nothing outside this machine answers, on a machine with a network as on one without.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
PATIENCE = 60_000  # milliseconds until a wait gives up: CI's processors are busy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")  # not longer: while it lives, Playwright's event loop runs in the tests' own thread
def browser() -> Iterator[Any]:
    """Playwright's Browser. Where there is none, tests are skipped by hand and fail in CI."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed")
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if program is None:
            _missing("there is no Chromium")
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}. {INSTALL}", pytrace=False)
    pytest.skip(f"{what}. {INSTALL}")


@pytest.fixture
def complaints() -> list[str]:
    """What went wrong in the pages of this test: errors in the console, failed or outward requests.

    Must be empty when the test ends; a test that means an error clears it.
    """
    return []


@pytest.fixture
def open_page(browser: Any, complaints: list[str]) -> Iterator[Callable[..., Any]]:
    """`open_page(address, width=1280, height=900)` → Playwright's Page. An address is a URL or a file's path.

    Each page has a session of its own, as two people have. A page no wider than 500 is a phone: it has a touch screen.
    """
    contexts = []

    def opened(address: str | Path = "about:blank", width: int = 1280, height: int = 900) -> Any:
        phone = width <= 500
        context = browser.new_context(
            viewport={"width": width, "height": height},
            has_touch=phone,
            is_mobile=phone,
            device_scale_factor=2 if phone else 1,
            accept_downloads=True,
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        _listen(page, complaints)
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """An empty page, as wide as a laptop's."""
    return open_page()


@pytest.fixture
def screenshot(tmp_path: Path) -> Callable[..., Path]:
    """`screenshot(page, "name")` → the PNG of the whole page; in $SCREENSHOTS, if set, for a person to look at."""

    def taken(page: Any, name: str, **settings: Any) -> Path:
        folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(**{"path": path, "full_page": True, "animations": "disabled", **settings})
        return path

    return taken


def _listen(page: Any, complaints: list[str]) -> None:
    def console(message: Any) -> None:
        if message.type == "error":
            complaints.append(f"console: {message.text} ({message.location.get('url')})")

    def request(request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https") and address.hostname not in ("127.0.0.1", "localhost"):
            complaints.append(f"asks the network: {request.url}")

    def failed(request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # what a download, or leaving the page, does to a request
            complaints.append(f"failed: {request.url} ({request.failure})")

    page.on("console", console)
    page.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    page.on("request", request)
    page.on("requestfailed", failed)
