"""The servers on their way through one plan: a table that the steps of `planning` change, each in its turn.

Invariants
- Servers are gone through in the order of their names, so nothing depends on the order of reports.
- Every change is written down with its reason by `move`; there is no other way to change a band.

Refuses nothing; whether a change may be made is decided by its callers, `leaving` and `gate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mailarray_operator.mx import reasons
from mailarray_operator.mx.policy import Policy
from mailarray_operator.mx.published import Decision, Member, MxPlan
from mailarray_operator.mx.reports import LoadReport, State

MAX_RATIO = 10.0  # beyond that a server is not slow but broken, and more says nothing


@dataclass(slots=True)
class Table:
    """All servers, the reports of them, and what was decided so far."""

    policy: Policy
    now: float
    reports: Mapping[str, LoadReport]
    members: dict[str, Member]
    decisions: list[Decision] = field(default_factory=list)

    def own(self) -> Iterator[Member]:
        """Published servers of the array."""
        return (m for m in self.members.values() if m.band is not None and not m.external)

    def in_best(self) -> list[Member]:
        return [m for m in self.own() if m.band == 0]

    def serves(self, server: str) -> bool:
        return self.reports[server].state is State.SERVING

    def load(self, server: str) -> float | None:
        """None: not known."""
        report = self.reports.get(server)
        if report is None or not report.is_fresh(self.now, self.policy.stale_after):
            return None
        return report.load

    def move(self, server: str, band: int | None, reason: str, message: str, *, ratio: float = 0.0) -> None:
        """Change the band of a server, and remember what later plans go by. `ratio`: its load in its peers' loads."""
        old = self.members[server]
        self.decisions.append(Decision(server, old.band, band, reason, message))
        if old.band == band:
            self.members[server] = replace(old, reason=reason)
            return
        spent = old.spent if reason in reasons.FORCED else self.now
        new = replace(old, band=band, reason=reason, since=self.now, spent=spent, wanted=None)
        if band == 0:
            new = replace(new, returned=None if old.band is None else self.now)
        elif old.band == 0 and reason in reasons.FAILINGS:
            again = old.returned is not None and self.now - old.returned < self.policy.forget
            before, level = (old.ratio, old.level + 1) if again else (0.0, 0)
            new = replace(new, level=level, ratio=max(min(ratio, MAX_RATIO), before))
        self.members[server] = new

    def wait(self, server: str, reason: str, message: str) -> None:
        """Write down that a change was wanted, and why it waits."""
        band = self.members[server].band
        self.decisions.append(Decision(server, band, band, reason, message))

    def plan(self) -> MxPlan:
        return MxPlan(
            self.policy.ttl,
            tuple(self.members[name] for name in sorted(self.members)),
            decisions=tuple(self.decisions),
        )


def set_table(reports: Mapping[str, LoadReport], previous: MxPlan | None, policy: Policy, now: float) -> Table:
    """The table as the previous plan left it, with bands that this policy has."""
    known = {} if previous is None else {m.server: m for m in previous.members}
    return Table(policy, now, reports, {name: _fit(member, policy) for name, member in known.items()})


def _fit(member: Member, policy: Policy) -> Member:
    if member.band is None or member.band <= policy.last:
        return member
    return replace(member, band=policy.last)
