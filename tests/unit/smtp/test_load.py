"""The definition of load, and its smoothing: what docs/load.md promises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.smtp.load import (
    FALL_SECONDS,
    FORGET_SECONDS,
    RISE_SECONDS,
    Figures,
    Parts,
    Smoothed,
    load,
    parts,
    smooth,
    warn_level,
)

MIB = 1 << 20
GIB = 1 << 30

IDLE = Figures(
    sessions=0,
    max_connections=1000,
    pending_bytes=0,
    pending_limit=64 * MIB,
    commit_seconds=None,
    commit_limit=1.0,
    loop_share=0.0,
    disk_free=90 * GIB,
    disk_size=100 * GIB,
    reserve=64 * MIB,
)
FIGURES = st.builds(
    Figures,
    sessions=st.integers(0, 1200),
    max_connections=st.integers(1, 1000),
    pending_bytes=st.integers(0, 100 * MIB),
    pending_limit=st.integers(1, 64 * MIB),
    commit_seconds=st.none() | st.floats(0, 100),
    commit_limit=st.floats(0.1, 10),
    loop_share=st.floats(0, 1.5),
    disk_free=st.integers(0, 100 * GIB),
    disk_size=st.integers(GIB, 100 * GIB),
    reserve=st.integers(0, GIB),
)
WORSE: dict[
    str, Callable[[Figures], st.SearchStrategy[Any]]
] = {  # figure -> strategy of something that is at least as bad
    "sessions": lambda f: st.integers(f.sessions, 2000),
    "pending_bytes": lambda f: st.integers(f.pending_bytes, GIB),
    "commit_seconds": lambda f: st.floats(f.commit_seconds or 0.0, 1000),
    "loop_share": lambda f: st.floats(f.loop_share, 2),
    "disk_free": lambda f: st.integers(0, f.disk_free),
}
TIMES = st.floats(0, 1e4)


CALM = Parts()


def at(**changes: Any) -> float:
    return load(parts(dataclasses.replace(IDLE, **changes)))


def test_idle_is_zero_and_every_limit_is_one() -> None:
    assert parts(IDLE) == Parts()
    assert at(sessions=1000) == at(pending_bytes=64 * MIB) == at(loop_share=1.0) == at(disk_free=64 * MIB) == 1.0
    assert at(commit_seconds=1.0) == 1.0
    assert load(Parts(), refusing=True) == 1.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sessions": 250}, 0.25),
        ({"pending_bytes": 16 * MIB}, 0.25),
        ({"commit_seconds": 0.005}, 0.0),
        ({"commit_seconds": 0.01}, 0.0),
        ({"commit_seconds": 0.1}, 0.5),
        ({"commit_seconds": 0.02, "commit_limit": 0.2}, 0.5),
        ({"loop_share": 0.7}, 0.7),
        ({"disk_free": GIB}, 0.0),
        ({"disk_free": (GIB + 64 * MIB) // 2}, 0.5),
        ({"disk_free": 1, "reserve": 0}, 0.0),
        ({"disk_free": 0, "reserve": 0}, 1.0),
        ({"sessions": 400, "loop_share": 0.5, "commit_seconds": 0.05}, 0.5),
    ],
)
def test_values(change: dict[str, object], expected: float) -> None:
    assert at(**change) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "reserve", "expected"),
    [(100 * GIB, 64 * MIB, GIB), (5 * GIB, 64 * MIB, GIB // 2), (GIB // 2, 64 * MIB, 128 * MIB), (GIB, 0, 0)],
)
def test_warn_level(size: int, reserve: int, expected: int) -> None:
    assert warn_level(size, reserve) == pytest.approx(expected)


@given(st.data(), FIGURES, st.sampled_from(sorted(WORSE)))
def test_worse_is_never_less(data: st.DataObject, figures: Figures, name: str) -> None:
    change: dict[str, Any] = {name: data.draw(WORSE[name](figures))}
    worse = dataclasses.replace(figures, **change)
    before, after = parts(figures), parts(worse)
    assert all(0.0 <= old <= new <= 1.0 for old, new in zip(before, after, strict=True))
    assert load(before) <= load(after)


def smoothed(values: Parts = CALM, time: float = 0.0) -> Smoothed:
    return Smoothed(time, values)


@given(FIGURES, FIGURES, TIMES)
def test_smoothing_stays_between_and_moves_toward(before: Figures, now: Figures, passed: float) -> None:
    start = smoothed(parts(before))
    after = smooth(start, now, 0.0, passed)
    for old, new, moved in zip(start.parts, parts(now), after.parts, strict=True):
        assert min(old, new) - 1e-12 <= moved <= max(old, new) + 1e-12
    assert smooth(start, now, 0.0, 1e6).parts == pytest.approx(parts(now), abs=1e-6)


@given(FIGURES, FIGURES, TIMES, st.floats(0, 1))
def test_looking_more_often_changes_nothing(before: Figures, now: Figures, passed: float, part: float) -> None:
    start = smoothed(parts(before))
    once = smooth(start, now, 50.0, passed)
    twice = smooth(smooth(start, now, 50.0, passed * part), now, 50.0, passed)
    assert twice.parts == pytest.approx(once.parts, abs=1e-9)
    assert twice.accepted_per_second == pytest.approx(once.accepted_per_second)


def test_trouble_is_believed_sooner_than_calm() -> None:
    full, half = dataclasses.replace(IDLE, loop_share=1.0), 1 - math.exp(-1)
    assert smooth(smoothed(), full, 0.0, RISE_SECONDS).parts.loop == pytest.approx(half)
    assert smooth(smoothed(Parts(loop=1.0)), IDLE, 0.0, RISE_SECONDS).parts.loop > 0.7
    assert smooth(smoothed(Parts(loop=1.0)), IDLE, 0.0, FALL_SECONDS).parts.loop == pytest.approx(1 - half)


def test_who_commits_nothing_proves_nothing_about_its_disk() -> None:
    slow = smoothed(Parts(commit=0.8, loop=0.8))
    quiet = smooth(slow, IDLE, 0.0, FORGET_SECONDS).parts
    quick = smooth(slow, dataclasses.replace(IDLE, commit_seconds=0.001), 0.0, FORGET_SECONDS).parts
    assert quiet.commit == pytest.approx(0.8 / math.e)
    assert quick.commit < 0.02 and quiet.loop < 0.02


def test_one_slow_commit_does_not_move_a_band() -> None:
    slow = dataclasses.replace(IDLE, commit_seconds=0.5)
    assert smooth(smoothed(), slow, 0.0, 1.0).parts.commit < 0.2


def test_a_clock_that_stands_still() -> None:
    assert smooth(smoothed(Parts(loop=0.5), 10.0), IDLE, 9.0, 10.0).parts == Parts(loop=0.5)
