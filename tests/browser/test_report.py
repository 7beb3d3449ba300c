"""The report as a browser shows it: names as text, pictures when they are near, keys, phones and paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_detr_panoptic.demo.scenes import scene
from hf_detr_panoptic.pictures.draw import class_color, draw
from hf_detr_panoptic.report.report import AT_ONCE, dataset_report, run_report
from hf_detr_panoptic.report.thumbnails import Thumbnails
from hf_detr_panoptic.report.values import (
    Advice,
    ConfusionTable,
    Curve,
    DatasetClass,
    DatasetPage,
    Pair,
    Part,
    PhotoCard,
    Remark,
    RunClass,
    RunPage,
    Score,
    StageReport,
    Thumbnail,
)

EVIL = "<script>document.title = 'run'</script>"
TITLES = ["a\"quoted' photo.jpg", "🏗️👷🏽‍♀️.jpg", "two\nlines.jpg", "<img src=x onerror=\"document.title='run'\">.jpg"]
MANY = 2000


def cards(count: int) -> list[PhotoCard]:
    """Scenes with their truth, as large as so many may be; every third has the class `EVIL`."""
    sizes = Thumbnails(count)
    pictures: list[tuple[Thumbnail, tuple[int, ...]]] = []
    for index in range(min(count, 8)):
        seen = scene(3, index, (320, 240))
        labels = {segment.label for segment in seen.truth.segments}
        pictures.append((sizes.encode("labels", draw(seen.photo, seen.truth, legend=False)), tuple(sorted(labels))))
    listed = []
    for place in range(count):
        thumbnail, labels = pictures[place % len(pictures)]
        if place >= len(TITLES):
            thumbnail = replace(thumbnail, content=thumbnail.content + b"\0" * (sizes.share - len(thumbnail.content)))
        title = TITLES[place] if place < len(TITLES) else f"site/{place}.jpg"
        own = (*labels, len(NAMES) - 1) if place % 3 == 0 else labels
        part, reason = ("val", "much void") if place % 5 == 0 else ("train", "low score")
        listed.append(PhotoCard(title, part, (thumbnail,), own, (f"{reason}, {EVIL}",), (reason,)))
    return listed


SPACE = scene(3, 0, (64, 48)).truth.space
NAMES = [*SPACE.names, EVIL]
CLASSES = [
    DatasetClass(name, True, class_color(SPACE, min(label, 15)), 3, 9, 1 / len(NAMES), {"train": 5, "val": 2})
    for label, name in enumerate(NAMES)
]


def a_dataset(count: int) -> DatasetPage:
    return DatasetPage(
        name=EVIL,
        classes=CLASSES,
        parts={"train": Part(5, 60, 10, 80, 10), "val": Part(2, 20, 10, 80, 10)},
        cards=cards(count),
        remarks=[Remark("warning", "a segment is tiny", "Drop specks.", 2, (EVIL,))],
        pairs=[Pair(TITLES[0], "train", TITLES[1], "val", True, 0)],
        pairs_total=1,
        advice=[Advice("Look at the first photos.", "hf-detr-panoptic export-review site review.zip")],
        version="0",
    )


def a_run() -> RunPage:
    curve = Curve("PQ", tuple((epoch, 0.6 - 0.5 / epoch) for epoch in range(1, 9)))
    stage = StageReport("finetune", "pq", 0.54, 8, 0.54, 80, [curve], [curve, replace(curve, name="SQ")])
    rows = [
        RunClass(name, True, CLASSES[label].color, True, label / 20, 0.8, label / 16, label, 2, 3, 0.1, 0.2, 12)
        for label, name in enumerate(NAMES)
    ]
    size = len(NAMES)
    matched = (np.eye(size, dtype=int) * 9 + (np.arange(size * size).reshape(size, size) % 7 == 1)).tolist()
    three = [
        replace(
            card,
            thumbnails=tuple(replace(card.thumbnails[0], caption=c) for c in ("truth", "prediction", "difference")),
        )
        for card in cards(6)
    ]
    return RunPage(
        name="run",
        quality_name="panoptic quality",
        scores=[Score("all", (0.5, 0.8, 0.6), size)],
        precision={"box": [Score("all", (0.3, 0.5, 0.3), size)]},
        classes=rows,
        stages=[stage],
        mixed=ConfusionTable(NAMES, matched, [1] * size, [2] * size),
        cards=three,
        settings="model: x\nstages:\n  detection: {}\n",
        version="0",
    )


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "report.html"
    path.write_text(dataset_report(a_dataset(30)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "report.html"
    path.write_text(run_report(a_run()), encoding="utf-8")
    return path


DECODED = "() => [...document.images].filter(image => image.complete && image.naturalWidth).length"
WIDTHS = ("clientWidth", "scrollWidth")
SHOWN = "() => [...document.querySelectorAll('.card')].filter(card => card.checkVisibility()).length"


def test_names_are_shown_as_text(open_page, few: Path) -> None:
    page = open_page(few)
    assert page.title() == f"{EVIL} · dataset, COCO panoptic"  # and no script has put another there
    assert page.inner_text("h1") == EVIL
    titles = page.locator(".card h3 bdi").all_text_contents()
    assert not page.is_visible("text=Without scripts")
    assert titles[:4] == [title.replace("\n", "\\n") for title in TITLES]
    assert page.locator(".card script, .card img[src=x]").count() == 0
    assert EVIL in page.locator("#classes").inner_text()
    assert page.locator("select[name=class] option").all_text_contents()[1] == f"{EVIL} (10)"


def test_two_thousand_photos_are_decoded_near_the_window_alone(open_page, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(dataset_report(a_dataset(MANY)), encoding="utf-8")
    assert 30e6 < path.stat().st_size < 40e6  # each picture as large as it may ever be
    page = open_page(path)
    assert page.evaluate("() => document.images.length") == MANY
    assert page.evaluate(DECODED) <= AT_ONCE
    page.evaluate("() => document.querySelector('#photo-1500').scrollIntoView()")
    page.wait_for_function("() => document.querySelector('#photo-1500 img').naturalWidth > 0")
    assert page.evaluate(DECODED) < 100
    page.select_option("select[name=kind]", "much void")
    assert page.inner_text("#shown") == "400 of 2,000 photos"
    assert page.evaluate(DECODED) < 150


def test_choosing(open_page, few: Path) -> None:
    page = open_page(few)
    assert page.evaluate(SHOWN) == 30
    page.click("#classes tbody tr:last-child a")
    assert page.inner_text("#shown") == "10 of 30 photos"
    assert page.evaluate(SHOWN) == 10
    page.select_option("select[name=part]", "val")
    assert page.inner_text("#shown") == "2 of 30 photos"  # 0 and 15
    page.select_option("select[name=class]", "")
    page.select_option("select[name=part]", "")
    assert page.inner_text("#shown") == "30 photos"


def test_a_photo_enlarged_by_keys(open_page, few: Path) -> None:
    page = open_page(few)
    page.focus("#photo-1 button")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").get_attribute("open") is not None
    assert page.inner_text("#viewer h3 bdi") == TITLES[0]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer h3 bdi") == TITLES[1]
    assert page.inner_text("#place") == "2 of 30"
    page.click("#viewer [data-step='-1']")
    assert page.inner_text("#viewer h3 bdi") == TITLES[0]
    assert page.locator("#viewer [data-step='-1']").is_disabled()
    page.click("#viewer [data-step='1']")
    assert page.inner_text("#viewer h3 bdi") == TITLES[1]
    close, text = (page.locator(place).bounding_box() for place in ("#close", "#large"))
    assert close["y"] + close["height"] <= text["y"]  # it covers nothing
    small, large = (page.locator(place).bounding_box()["width"] for place in ("#photo-2 img", "#viewer img"))
    assert large > 1.5 * small
    page.keyboard.press("Escape")
    assert page.locator("#viewer").get_attribute("open") is None
    assert page.evaluate("() => document.activeElement.closest('.card').id") == "photo-2"


def test_tables_sort_by_a_click_and_by_keys(open_page, run: Path) -> None:
    page = open_page(run)
    figures = (
        "() => [...document.querySelectorAll('#classes tbody tr')].map(row => Number(row.cells[2].dataset.value))"
    )
    assert page.evaluate(figures) == sorted(page.evaluate(figures))
    page.click("#classes th:nth-child(3) button")
    assert page.evaluate(figures) == sorted(page.evaluate(figures), reverse=True)
    page.focus("#classes th:nth-child(1) button")
    page.keyboard.press("Enter")
    names = "() => [...document.querySelectorAll('#classes tbody tr')].map(row => row.cells[0].innerText.trim())"
    assert page.evaluate(names)[0] == EVIL
    page.keyboard.press("Enter")
    assert page.evaluate(names)[-1] == EVIL
    assert page.locator("#classes [aria-sort]").count() == 1


@pytest.mark.parametrize("kind", ["few", "run"])
def test_a_laptop_shows_the_class_table_whole(kind: str, open_page, request) -> None:
    page = open_page(request.getfixturevalue(kind))
    shown, whole = (page.evaluate(f"() => document.querySelector('#classes .wide').{name}") for name in WIDTHS)
    assert shown == whole


@pytest.mark.parametrize("kind", ["few", "run"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(kind: str, width: int, open_page, screenshot, request) -> None:
    page = open_page(request.getfixturevalue(kind), width=width)
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    screenshot(page, f"report-{kind}-{width}")
    page.emulate_media(color_scheme="dark")
    numbers = "name => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number)"
    ink, paper = page.evaluate(f"() => ['color', 'backgroundColor'].map({numbers})")
    assert sum(ink) > 600 > 150 > sum(paper)


def test_on_paper_are_the_first_photos_and_no_controls(open_page, few: Path) -> None:
    page = open_page(few)
    page.select_option("select[name=kind]", "low score")  # 24 of 30
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(SHOWN) == AT_ONCE
    page.wait_for_function(
        "() => [...document.querySelectorAll('.card')].filter(card => card.checkVisibility())"
        ".every(card => card.querySelector('img').naturalWidth > 0)"
    )
    assert not page.is_visible("nav")
    assert not page.is_visible("#choices")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").count(b"/Type /Page\n") < 12


def test_without_scripts_the_first_photos_are_there(browser, few: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(few.as_uri())
    assert page.locator("img[src]").count() == AT_ONCE
    assert page.is_visible("text=Without scripts only the first")
    assert page.locator("img[data-at]").count() == 30 - AT_ONCE
    context.close()
