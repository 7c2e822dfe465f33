"""Tells what an MX plan changed, as events of the MailServers. Only after the plan is kept: steering.py calls it.

Refuses to flood: of one plan so many changes are told one by one, and the rest in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailarray_operator.cluster.events import Poster
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.mx_inputs import Inputs
from mailarray_operator.mx import Decision, reasons
from mailarray_operator.plan.decisions import Event

EVENTS_A_PLAN = 20  # servers of a lost zone are told in one sentence
WARNINGS: Final = frozenset({reasons.LOST, reasons.NOT_ACCEPTING, reasons.KEPT_FOR_MINIMUM})


async def post(poster: Poster, key: Key, inputs: Inputs, changes: Sequence[Decision], now: float) -> None:
    """One event a change, of the MailServer, or of the MailCluster when that is gone. Raises ApiError, NotLeader."""
    namespace, cluster = key
    for change in changes[:EVENTS_A_PLAN]:
        candidate = inputs.servers.get(change.server)
        group = candidate.group if candidate is not None else change.server.rpartition("-")[0]
        uid = inputs.group_uids.get(group)
        type_ = "Warning" if change.reason in WARNINGS else "Normal"
        note = f"MX: {change.message}"
        if uid is not None:
            event = Event("MailServer", group, type_, change.reason, note)  # type: ignore[arg-type]
        else:
            uid = inputs.uid
            event = Event("MailCluster", cluster, type_, change.reason, note)  # type: ignore[arg-type]
        await poster.post(namespace, uid, event, now)
    if len(changes) > EVENTS_A_PLAN:
        more, last = len(changes) - EVENTS_A_PLAN, changes[-1]
        note = f"MX: {more} more servers changed their place in the same plan, the last one because: {last.message}"
        event = Event("MailCluster", cluster, "Normal", last.reason, note)
        await poster.post(namespace, inputs.uid, event, now)
