"""What is known of one server when a plan is made: its own word on its load, and the operator's word on its state.

Invariant: the order in which reports come, and reports of a server that come twice, make no difference.

Made by the operator from what servers answer on their internal port. What load means is said in `docs/mx.md`; here it
is a number from 0, idle, to 1, at a limit, beyond which mail is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of a server, as the operator sees it."""

    SERVING = "Serving"
    JOINING = "Joining"  # new, or back from being lost: not yet in service
    DRAINING = "Draining"  # shall go
    LOST = "Lost"  # not heard of for too long


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One server. `at` tells how old `load` and `accepts` are; `state` is the operator's own and never stale."""

    server: str  # a server of the array, or the hostname of an external one
    load: float  # 0 to 1
    at: float  # seconds, on the same clock as the planner's `now`
    state: State = State.SERVING
    accepts: bool = True  # False: it refuses all mail, for example with a full disk

    @property
    def leaves(self) -> bool:
        return self.state in (State.LOST, State.DRAINING)

    def is_fresh(self, now: float, stale_after: float) -> bool:
        return now - self.at <= stale_after and not math.isnan(self.load)


def by_server(reports: Iterable[LoadReport]) -> dict[str, LoadReport]:
    """The newest report of each server, in the order of their names, with loads inside of 0 to 1."""
    newest: dict[str, LoadReport] = {}
    for report in reports:
        old = newest.get(report.server)
        if old is None or _rank(report) > _rank(old):
            newest[report.server] = report
    return {name: _clamped(newest[name]) for name in sorted(newest)}


def _rank(report: LoadReport) -> tuple[float, bool, float, bool, State]:
    known = not math.isnan(report.load)
    return report.at, known, report.load if known else 0.0, not report.accepts, report.state


def _clamped(report: LoadReport) -> LoadReport:
    if math.isnan(report.load) or 0.0 <= report.load <= 1.0:
        return report
    return LoadReport(report.server, min(max(report.load, 0.0), 1.0), report.at, report.state, report.accepts)
