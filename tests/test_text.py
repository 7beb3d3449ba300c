"""Words for how many, how long and what share."""

from __future__ import annotations

import math

import pytest

from hf_detr_panoptic.text import and_more, clock, count_of, duration, first_lines, percent


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "photo", "0 photos"),
        (1, "photo", "1 photo"),
        (2, "class", "2 classes"),
        (1234, "box", "1,234 boxes"),
        (1, "class", "1 class"),
    ],
)
def test_count_of(number: int, noun: str, expected: str) -> None:
    assert count_of(number, noun) == expected


def test_a_plural_of_its_own() -> None:
    assert count_of(3, "query", "queries") == "3 queries"
    assert count_of(1, "query", "queries") == "1 query"


def test_some_of_many_names() -> None:
    assert and_more([]) == ""
    assert and_more("abc", most=3) == "a, b, c"
    assert and_more("abcd", most=3) == "a, b, c and 1 more"
    assert and_more((number for number in range(2000)), most=2) == "0, 1 and 1,998 more"


def test_first_lines() -> None:
    assert first_lines(["a", "b"], 2) == ["a", "b"]
    assert first_lines(["a", "b", "c"], 2) == ["a", "b", "… and 1 more"]
    assert first_lines(iter("abcd"), 1, "more classes") == ["a", "… and 3 more classes"]


def test_percent() -> None:
    assert percent(0.12345) == "12.3"
    assert percent(1) == "100.0"
    assert percent(None) == "n/a"
    assert percent(None, "–") == "–"


@pytest.mark.parametrize(
    ("seconds", "words", "digits"),
    [
        (0, "0 s", "0:00:00"),
        (59.6, "1 min 00 s", "0:01:00"),
        (200, "3 min 20 s", "0:03:20"),
        (3599, "59 min 59 s", "0:59:59"),
        (7509, "2 h 05 min", "2:05:09"),
    ],
)
def test_how_long(seconds: float, words: str, digits: str) -> None:
    assert duration(seconds) == words
    assert clock(seconds) == digits


def test_a_time_that_nobody_can_say() -> None:
    assert clock(math.inf) == clock(math.nan) == "?"
