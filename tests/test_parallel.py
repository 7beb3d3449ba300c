"""Threads that read ahead, and the progress bar. The guard is tested in `test_doctor`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hf_detr_panoptic.parallel import progress_bar, read_ahead, results_of_all


def test_in_order_whoever_is_first() -> None:
    """The first item waits until the second one is done."""
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(60)
        elif item == 1:
            second.set()
        return item * item

    assert list(read_ahead(work, range(50), threads=2)) == [item * item for item in range(50)]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 5), (4, 2)])
def test_few_are_taken_ahead(threads: int, ahead: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(100):
            taken += 1
            yield item

    given = 0
    for _ in read_ahead(lambda item: item, items(), threads=threads, ahead=ahead):
        given += 1
        assert taken <= given + ahead
    assert (given, taken) == (100, 100)


def test_an_error_comes_in_its_turn_and_the_rest_is_dropped() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise OSError("a torn file")
        return item

    reading = read_ahead(work, range(1000), threads=2, ahead=4)
    assert [next(reading) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="a torn file"):
        next(reading)
    assert len(begun) <= 8


def test_who_stops_early_waits_for_nothing_that_has_not_begun() -> None:
    begun = []
    free = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item:
            assert free.wait(60)
        return item

    reading = read_ahead(work, range(1000), threads=1, ahead=50)
    assert next(reading) == 0
    threading.Timer(0.05, free.set).start()
    reading.close()
    assert len(begun) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_nothing_to_read() -> None:
    assert list(read_ahead(str, [])) == []


def test_a_bar_around_items_and_one_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(iter("abc"), total=3, what="reading", show=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    with progress_bar(total=2, what="drawing") as bar:
        bar.update(2)
    assert "drawing: 100%" in capsys.readouterr().err


def test_one_process_has_one_result_and_its_own_error() -> None:
    assert results_of_all(lambda: 7) == [7]
    with pytest.raises(ZeroDivisionError):
        results_of_all(lambda: 1 // 0)
