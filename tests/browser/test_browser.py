"""The fixtures themselves: a browser that hides errors would make every other test of a page worthless."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

VIEWPORT = "<meta name=viewport content='width=device-width'>"  # without it a phone shows a page 980 wide


def written(folder: Path, body: str) -> Path:
    path = folder / "a page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>ö</title>{VIEWPORT}{body}")
    return path


def test_a_good_page_has_no_complaints_and_can_be_photographed(open_page, screenshot, complaints, tmp_path):
    path = written(tmp_path, "<body><script>document.body.append(1 + 1)</script>")
    for width in (1280, 400):
        page = open_page(path, width=width)
        assert page.title() == "ö"
        assert page.inner_text("body") == "2"
        assert page.evaluate("innerWidth") == width
        with Image.open(screenshot(page, "page")) as picture:
            assert picture.width == (1280 if width == 1280 else 800)  # a phone has two dots a pixel
    assert complaints == []


def test_errors_are_collected(open_page, complaints, tmp_path):
    button = """<button onclick="console.error('told'); thrown()">wrong</button>"""
    page = open_page(written(tmp_path, button))
    with page.expect_event("pageerror"):
        page.click("button")
    assert [complaint.split()[0] for complaint in complaints] == ["console:", "script:"]
    complaints.clear()


def test_asking_the_network_is_a_complaint(open_page, complaints, tmp_path):
    page = open_page(written(tmp_path, "<img src='https://example.org/a.png'>"))
    page.wait_for_load_state()
    assert "asks the network: https://example.org/a.png" in complaints
    assert any("ERR_NAME_NOT_RESOLVED" in complaint for complaint in complaints)
    complaints.clear()
