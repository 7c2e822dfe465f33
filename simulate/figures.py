"""The figures that the planner is held to, and how each is counted. Written to `summary.json`; a test asserts them.

`most_in` counts over every window of that length, wherever it begins, not over whole hours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from mailarray_operator.mx import LoadReport, MxPlan, Policy, Strategy, plan
from simulate.model import Outcome
from simulate.traces import CROWD, SLOW

Outcomes = Mapping[str, Mapping[Strategy, Outcome]]  # by name of the trace

HOUR, TEN_MINUTES = 3600.0, 600.0  # seconds
SERVERS = 500  # of the plan that is timed
MAX_DEFERRED = 0.1  # of what RoundTable defers
MAX_CHANGES_AN_HOUR, MAX_CHANGES_IN_TEN_MINUTES = 4, 2
MAX_PLAN_SECONDS = 0.050


def most_in(times: Iterable[float], window: float) -> int:
    """The most of the times that lie within any window of that length."""
    ordered = sorted(times)
    most, first = 0, 0
    for last, at in enumerate(ordered):
        while at - ordered[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def changes_of(outcome: Outcome) -> dict[str, list[float]]:
    """When each server changed its band."""
    times: dict[str, list[float]] = {}
    for at, decision in outcome.changes:
        times.setdefault(decision.server, []).append(at)
    return times


def seconds_for_a_plan(servers: int = SERVERS, rounds: int = 15) -> tuple[float, float]:
    """Median and longest of some plans, each with one server in ten loaded; the only figure that varies."""
    policy, now, taken = Policy(), 1_000_000.0, []
    made: MxPlan | None = None
    for turn in range(rounds):
        now += 5.0
        reports = [LoadReport(f"mx-{n:04}", 1.0 if n % 10 == turn % 10 else 0.5, now) for n in range(servers)]
        began = time.perf_counter()
        made = plan(reports, made, policy, now)
        taken.append(time.perf_counter() - began)
    taken.sort()
    return taken[len(taken) // 2], taken[-1]


def figures(outcomes: Outcomes) -> dict[str, Any]:
    """Each with what was measured, what is allowed, and whether it holds."""
    slow, crowd = outcomes[SLOW.name], outcomes[CROWD.name]
    by_load = slow[Strategy.LOAD]
    name = f"mx-{by_load.trace.slow[0]:03}"
    # Static with equal preferences is a round table at which nobody rests: the stricter comparison.
    equal = min(slow[Strategy.ROUND_TABLE].deferred_share, slow[Strategy.STATIC].deferred_share)
    ratio = by_load.deferred_share / equal
    an_hour = most_in(changes_of(by_load).get(name, []), HOUR)
    ten = {server: most_in(times, TEN_MINUTES) for server, times in changes_of(crowd[Strategy.LOAD]).items()}
    median, longest = seconds_for_a_plan()
    return {
        "slowServer": {
            "what": "first attempts answered 421/451 with Load, in parts of those with RoundTable or equal preferences",
            "load": by_load.deferred_share,
            "roundTable": slow[Strategy.ROUND_TABLE].deferred_share,
            "equalPreferences": slow[Strategy.STATIC].deferred_share,
            "measured": ratio,
            "allowed": MAX_DEFERRED,
            "holds": ratio <= MAX_DEFERRED,
        },
        "slowServerChanges": {
            "what": "changes of the slow server's band in any hour",
            "measured": an_hour,
            "allowed": MAX_CHANGES_AN_HOUR,
            "holds": an_hour <= MAX_CHANGES_AN_HOUR,
        },
        "flashCrowdChanges": {
            "what": "changes of any server's band in any 10 minutes around a flash crowd",
            "measured": max(ten.values(), default=0),
            "allowed": MAX_CHANGES_IN_TEN_MINUTES,
            "holds": max(ten.values(), default=0) <= MAX_CHANGES_IN_TEN_MINUTES,
        },
        "planSeconds": {
            "what": f"seconds for one plan of {SERVERS} servers: median; the longest beside it",
            "measured": round(median, 4),
            "longest": round(longest, 4),
            "allowed": MAX_PLAN_SECONDS,
            "holds": median < MAX_PLAN_SECONDS,
        },
    }


def summary(outcome: Outcome) -> dict[str, Any]:
    """One trace with one strategy."""
    times = changes_of(outcome)
    return {
        "messages": outcome.messages,
        "firstAttemptsDeferred": outcome.deferred_share,
        "firstAttemptsWithoutConnection": outcome.first_nothing / outcome.messages,
        "putOff": outcome.put_off,
        "delivered": outcome.delivered,
        "changes": len(outcome.changes),
        "changesAnHour": len(outcome.changes) * HOUR / outcome.trace.seconds,
        "mostChangesOfAServerInTenMinutes": max((most_in(t, TEN_MINUTES) for t in times.values()), default=0),
        "fewestTargets": outcome.fewest_targets,
    }
