"""From `spec.mx` to the planner's policy. Pure; called by the operator for each plan.

What contradicts itself is refused by the API server; a resource that came in before a rule was written must not stop
the planning of a whole cluster, so figures are put in order here, and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailarray.contract.resources.mailcluster import Mx
from mailarray_operator.mx.policy import MAX_PREFERENCE, External, Policy, Strategy


def policy_of(mx: Mx, preferences: Mapping[str, int]) -> Policy:
    """`preferences` by server, as its MailServer gives it."""
    least = max(1, mx.min_targets)
    return Policy(
        strategy=Strategy(mx.strategy),
        ttl=max(1, mx.ttl),
        min_targets=least,
        max_targets=max(least, mx.max_targets),
        external=tuple(External(e.hostname, min(max(0, e.preference), MAX_PREFERENCE)) for e in mx.external),
        preferences=dict(preferences),
    )
