"""Who is let in: hard limits always, soft ones only when there is somewhere else to go, and then evenly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.contract.settings import SettingsError, SmtpLimits
from mailarray.smtp.replies import BUSY, BUSY_STORING, ELSEWHERE, Refusal
from mailarray.smtp.shedding import Door

LIMITS = SmtpLimits(max_connections=1000, soft_pending_bytes=1000)


def door(*, elsewhere: bool = True, limits: SmtpLimits = LIMITS) -> Door:
    made = Door(limits)
    made.elsewhere = elsewhere
    return made


@pytest.mark.parametrize(
    ("sessions", "pending", "elsewhere", "share", "refusal"),
    [
        (0, 0, True, 0.0, None),
        (900, 900, True, 0.0, None),
        (950, 0, True, 0.5, None),
        (0, 950, True, 0.5, None),
        (925, 975, True, 0.75, None),
        (1000, 0, True, 1.0, BUSY),
        (0, 1000, True, 1.0, ELSEWHERE),
        (0, 1001, True, 1.0, BUSY_STORING),
        (999, 0, False, 0.0, None),
        (0, 1001, False, 0.0, None),
        (1000, 0, False, 1.0, BUSY),
    ],
)
def test_the_first_connection(
    sessions: int, pending: int, elsewhere: bool, share: float, refusal: Refusal | None
) -> None:
    made = door(elsewhere=elsewhere)
    assert made.share(sessions, pending) == pytest.approx(share)
    assert made.refusal(sessions, pending) == refusal


def test_every_second_one_half_way() -> None:
    made = door()
    assert [made.refusal(950, 0) for _ in range(6)] == [None, ELSEWHERE] * 3


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999))))
def test_as_many_are_turned_away_as_the_shares_say(states: list[tuple[int, int]]) -> None:
    made = door()
    total, refused = 0.0, 0
    for sessions, pending in states:
        total += made.share(sessions, pending)
        refused += made.refusal(sessions, pending) is not None
        assert math.floor(total - 1e-6) <= refused <= math.floor(total + 1e-6)


@given(st.integers(0, 1100), st.integers(0, 1100), st.integers(0, 100), st.booleans())
def test_more_load_is_never_a_smaller_share(sessions: int, pending: int, more: int, elsewhere: bool) -> None:
    made = door(elsewhere=elsewhere)
    share = made.share(sessions, pending)
    assert 0.0 <= share <= made.share(sessions + more, pending) <= 1.0
    assert share <= made.share(sessions, pending + more) <= 1.0


@given(st.integers(0, 999), st.integers(0, 2000))
def test_alone_nobody_is_turned_away_below_the_hard_limit(sessions: int, pending: int) -> None:
    made = door(elsewhere=False)
    assert all(made.refusal(sessions, pending) is None for _ in range(3))


def test_a_hundred_per_cent_is_no_soft_limit() -> None:
    made = door(limits=SmtpLimits(max_connections=1000, soft_limit_percent=100))
    assert [made.refusal(999, 0) for _ in range(100)] == [None] * 100
    assert made.refusal(1000, 0) == BUSY


@pytest.mark.parametrize("percent", [0, 101, -1])
def test_odd_percentages_are_refused(percent: int) -> None:
    with pytest.raises(SettingsError, match="soft_limit_percent must be from 1 to 100"):
        SmtpLimits(soft_limit_percent=percent)
