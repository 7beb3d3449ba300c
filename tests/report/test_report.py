"""The whole page: complete, closed to the network, and text wherever a name could be markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from hf_detr_panoptic.report.report import AT_ONCE, dataset_report, run_report
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
    SkippedPhoto,
    StageReport,
    Thumbnail,
)

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\n&amp;"
SHOWN = EVIL.replace("\n", "\\n")
PICTURE = Thumbnail(EVIL, b"RIFF", (4, 3))


class Page(HTMLParser):
    """Tags and texts of a page, and what is left open."""

    VOID = ("meta", "img", "br", "input")

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def a_card(place: int = 0) -> PhotoCard:
    return PhotoCard(f"{EVIL}{place}", "train", (PICTURE, PICTURE), (0,), (EVIL,), (EVIL,), EVIL)


def a_dataset(cards: int = 2) -> DatasetPage:
    return DatasetPage(
        name=EVIL,
        classes=[
            DatasetClass(EVIL, True, (1, 2, 3), 4, 5, 0.75, {"train": 8, "val": 2}),
            DatasetClass("sky", False, (9, 9, 9), 0, 6, 0.25, {"train": 6, "val": 0}),
        ],
        parts={"train": Part(8, 12, 100, 200, 100), "val": Part(2, 3, 10, 30, 10)},
        cards=[a_card(place) for place in range(cards)],
        remarks=[Remark("error", EVIL, EVIL, 7, (EVIL,))],
        pairs=[Pair(EVIL, "train", "b.jpg", "val", False, 12)],
        pairs_total=1,
        skipped=[SkippedPhoto(EVIL, EVIL, EVIL)],
        skipped_total=900,
        settings=[(EVIL, EVIL)],
        advice=[Advice(EVIL, EVIL)],
        notes=[EVIL],
        version="0",
    )


def a_run(cards: int = 2) -> RunPage:
    seen = RunClass(EVIL, True, (1, 2, 3), True, 0.4, 0.8, 0.5, 3, 2, 4, 0.31, 0.29, 12)
    return RunPage(
        name=EVIL,
        quality_name="agreement with the labeler",
        scores=[Score("all", (0.4, 0.8, 0.5), 2), Score(EVIL, (None, None, None), 0)],
        precision={"box": [Score("all", (0.31, 0.5, 0.3), 1)]},
        classes=[
            seen,
            replace(seen, name="sky", pq=0.9, isthing=False),
            RunClass("x", True, (0, 0, 0), True, None, None, None, 0, 0, 0),
        ],
        stages=[
            StageReport(
                EVIL,
                "box_ap",
                0.5,
                2,
                0.4,
                30,
                [Curve(EVIL, ((1, 2.0), (2, 1.0)))],
                [Curve("pq", ((1, 0.1),))],
                True,
                3700,
                2048,
            )
        ],
        mixed=ConfusionTable([EVIL, "sky", "x"], [[3, 2, 0], [0, 5, 0], [0, 0, 0]], [4, 1, 0], [2, 0, 0]),
        cards=[a_card(place) for place in range(cards)],
        measured=EVIL,
        pictured=EVIL,
        environment=[(EVIL, EVIL)],
        settings="a: 1\nb: <2>",
        advice=[Advice(EVIL, EVIL)],
        notes=[EVIL],
        version="0",
    )


@pytest.mark.parametrize("text", [dataset_report(a_dataset(14)), run_report(a_run(14))], ids=["dataset", "run"])
def test_names_are_text_and_nothing_is_loaded(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["text/plain", None]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.count("img") == 28
    assert all((attributes.get("src") or "data:").startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert not any(attributes.get("href", "#").startswith(("http", "//")) for _, attributes in page.tags)  # type: ignore[union-attr]
    assert not re.search(r"https?://", text)
    everything = "".join(part for parts in page.texts.values() for part in parts)
    assert everything.count(SHOWN) > 20


def test_only_its_own_script_may_run() -> None:
    text = dataset_report(a_dataset())
    policy = next(attributes["content"] for _, attributes in Page(text).tags if attributes.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)


def test_the_dataset_says_its_numbers() -> None:
    page = Page(dataset_report(a_dataset()))
    assert [SHOWN, "thing", "4", "5", "75.0%", "8", "2", "20%"] in page.rows
    assert ["sky", "stuff", "0", "6", "25.0%", "6", "0", "0%"] in page.rows
    assert page.texts["b"][:2] == ["10", "15"]
    said = "".join(part for parts in page.texts.values() for part in parts)
    assert "marked by hand 25.0%" in said
    assert "void: nobody knows 20.0%" in said
    assert "The first 1 of 900; skipped.csv has all." in said
    assert "12 of 256 bits apart" in said


def test_the_run_says_its_numbers() -> None:
    page = Page(run_report(a_run()))
    assert [SHOWN, "thing", "40.0", "80.0", "50.0", "3", "4", "2", "31.0", "29.0", "12"] in page.rows
    ranked = [row[0] for row in page.rows if len(row) == 11 and row[1] in ("thing", "stuff")]
    assert ranked == [SHOWN, "sky"]  # the weakest first
    assert [SHOWN, "3", "2", "4"] in page.rows  # true, as itself, as sky, missed
    assert ["invented", "2", "·", ""] in page.rows
    said = "".join(part for parts in page.texts.values() for part in parts)
    assert "Agreement with the labeler" in page.texts["h2"]
    assert "best box AP 50.0 at epoch 2, last 40.0, 30 steps, 1 h 01 min, 2.0 GB at most" in said
    assert page.texts["b"][:3] == ["40.0%", "–", "31.0%"]
    # One table of all measures, whichever group has which.
    assert ["", "classes", "PQ", "SQ", "RQ", "box AP", "box AP50", "box AP75"] in page.rows
    assert ["all", "2", "40.0", "80.0", "50.0", "31.0", "50.0", "30.0"] in page.rows
    assert [SHOWN, "0", *"––––––"] in page.rows
    assert "1 more are on neither side" in said
    assert page.texts["pre"] == ["a: 1\nb: <2>"]


def test_a_stage_without_evaluations_says_how_it_ended() -> None:
    ended = replace(a_run().stages[0], best=None, best_epoch=None, quality=[])
    said = run_report(replace(a_run(), stages=[ended, replace(ended, last=None, losses=[])]))
    assert "<p>box AP 40.0 at its end, 30 steps, 1 h 01 min, 2.0 GB at most</p>" in said
    assert "<p>30 steps, 1 h 01 min, 2.0 GB at most</p>" in said
    assert said.count("<figure>") == 1
    measured = run_report(replace(a_run(), stages=[replace(ended, metric="pq_yours_and_all")]))
    assert "<p>mean PQ of your classes and all 40.0 at its end, 30 steps" in measured
    assert said.count("No curve was written down.") == 1


def test_classes_are_numbered_as_on_the_pictures() -> None:
    card = replace(a_card(), labels=(1, 0))
    said = dataset_report(replace(a_dataset(), cards=[card]))
    assert f"<b>1</b>&nbsp;{escape(SHOWN)}, <b>2</b>&nbsp;sky</p>" in said


def test_pictures_beyond_the_first_wait_as_lines_of_text() -> None:
    cards = [replace(a_card(place), thumbnails=(replace(PICTURE, content=b"%d" % place),)) for place in range(20)]
    page = Page(dataset_report(replace(a_dataset(), cards=cards)))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["data-at"] for image in images if "data-at" in image] == [str(n) for n in range(20 - AT_ONCE)]
    assert sum("src" in image for image in images) == AT_ONCE
    stored = page.texts["script"][0].split("\n")
    assert base64.b64decode(stored[3].removeprefix("webp;base64,")) == b"%d" % (AT_ONCE + 3)


def test_paper_shows_as_many_cards_as_have_pictures() -> None:
    assert f".card:nth-child(n + {AT_ONCE + 1} of" in dataset_report(a_dataset())


def test_empty_pages_say_so() -> None:
    nothing = dataset_report(DatasetPage("d", [], {}))
    for words in ("There is no photo to show", "Nothing was skipped", "No photo is there twice", "Nothing: lists"):
        assert words in nothing
    assert "Nothing was written down" in run_report(RunPage("r", "panoptic quality", [], {}, [], []))
