"""One plan: load reports, the plan before, the policy and the time in; the next plan out.

Invariants
- Pure: the same input gives the same plan, in whatever order the reports come. Time only comes in.
- Never empty while there is a server, or was one: when no report is fresh, nothing is known, and the last plan stays.
- What leaves at once goes first (`leaving`), then what load or turns ask for (`wishes`) and is let through (`gate`).

Called by the operator every few seconds and by the simulation. 500 servers take a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mailarray_operator.mx import reasons
from mailarray_operator.mx.gate import let_through
from mailarray_operator.mx.leaving import come_and_go
from mailarray_operator.mx.naming import name_all
from mailarray_operator.mx.policy import Policy
from mailarray_operator.mx.published import Decision, MxPlan
from mailarray_operator.mx.reports import LoadReport, by_server
from mailarray_operator.mx.seats import set_table
from mailarray_operator.mx.wishes import wishes


def plan(reports: Iterable[LoadReport], previous: MxPlan | None, policy: Policy, now: float) -> MxPlan:
    """`reports` has every server that there is, also lost ones; who is missing was removed."""
    heard = by_server(reports)
    published = previous is not None and any(member.band is not None for member in previous.members)
    if previous is not None and published and not any(r.is_fresh(now, policy.stale_after) for r in heard.values()):
        message = f"no server was heard of for {policy.stale_after:.0f} s; the last plan stays"
        return replace(previous, stale=True, decisions=(Decision("", None, None, reasons.STALE, message),))
    table = set_table(heard, previous, policy, now)
    come_and_go(table, first=not published)
    let_through(table, wishes(table))
    name_all(table)
    return table.plan()
