"""How long work takes still: by what was seen go, and never by what was not."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from mailarray.contract.time_left import told
from mailarray.tracking.time_left import WINDOW, Estimate, TimeLeft


def seen(*looks: tuple[float, int]) -> int | None:
    estimate = Estimate()
    for now, left in looks:
        estimate.see(left, now)
    return estimate.seconds()


def test_the_pace_of_what_went_tells_the_time() -> None:
    assert seen((0, 1000), (5, 900), (10, 800)) == 40


def test_nothing_is_told_too_early_and_of_no_work() -> None:
    assert seen() is None
    assert seen((0, 1000)) is None
    assert seen((0, 1000), (1, 900)) is None
    assert seen((0, 1000), (10, 500), (20, 0)) is None


def test_the_last_while_counts_and_not_the_whole_time() -> None:
    slow = [(t * 5.0, 100_000 - t) for t in range(200)]  # one byte in 5 s
    start, left = slow[-1]
    fast = [(start + t * 5.0, left - 500 * t) for t in range(1, 30)]  # 100 a second
    seconds = seen(*slow, *fast)
    assert seconds is not None and seconds == pytest.approx(fast[-1][1] / 100, rel=0.05)


def test_what_stands_still_for_a_while_has_no_time() -> None:
    went = [(0.0, 1000), (10.0, 500)]
    assert seen(*went, *((10 + t * 5.0, 500) for t in range(1, 10))) is not None
    assert seen(*went, *((10 + t * 5.0, 500) for t in range(1, int(WINDOW / 5) + 3))) is None


def test_work_that_is_found_on_the_way_makes_it_longer_and_not_slower() -> None:
    assert seen((0, 1000), (5, 900), (10, 800), (10, 1800)) == 90


def test_new_work_begins_anew() -> None:
    assert seen((0, 1000), (5, 0), (100, 500)) is None
    assert seen((0, 1000), (5, 0), (100, 500), (105, 400)) == 20


def sample(metric: str, work: str) -> float | None:
    return REGISTRY.get_sample_value(metric, {"work": work})


def test_status_and_metrics_say_the_same_and_forget_what_nobody_knows() -> None:
    progress: dict[str, Any] = {"bytes_left": 1000, "done": False}
    held: list[dict[str, Any] | None] = [None]
    time_left = TimeLeft({"test": lambda: held[0]})
    time_left.look(0.0)
    assert time_left.show("test") is None and sample("mailarray_seconds_left", "test") is None
    held[0] = progress
    time_left.look(1.0)
    assert time_left.show("test") == {**progress, "seconds_left": None}
    progress["bytes_left"] = 500
    time_left.look(11.0)
    assert time_left.show("test") == {**progress, "seconds_left": 10}
    assert (sample("mailarray_seconds_left", "test"), sample("mailarray_bytes_left", "test")) == (10.0, 500.0)
    progress |= {"bytes_left": 0, "done": True}
    assert time_left.show("test") == {**progress, "seconds_left": None}
    time_left.look(12.0)
    assert (sample("mailarray_seconds_left", "test"), sample("mailarray_bytes_left", "test")) == (None, 0.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""), (float("inf"), ""), (True, ""), (-1, ""), (0, "1m"), (59, "1m"), (61, "2m"), (600, "10m"),
        (601, "15m"), (3400, "1h"), (3601, "1h30m"), (7201, "2h30m"), (40_000, "12h"), (260_000, "73h"),
    ],
)  # fmt: skip
def test_it_is_told_in_rough_steps(seconds: object, words: str) -> None:
    assert told(seconds) == words
