"""A plan: which server stands in which band and under which name, and why.

Invariants
- `members` are sorted by name; the targets follow from them alone, so a plan that was read back publishes the same.
- Equality is about members, TTL and staleness; the decisions only tell how this plan came from the one before.

Made by `planning`, kept by the operator between two plans, rendered by `rendering`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One server. Times are seconds on the planner's clock."""

    server: str
    band: int | None  # index into the bands; None: not published, remembered only
    preference: int = 0  # of its MX record; 0 when not published
    slot: str = ""  # the name that it shares with others, like 10-3; "" when it has its own
    external: bool = False
    since: float = 0.0  # of its last change
    spent: float | None = None  # of its last change that used the budget
    returned: float | None = None  # of its last return to the best band
    wanted: float | None = None  # since when its load asks for another band
    level: int = 0  # how often its dwell was doubled
    ratio: float = 0.0  # its load when it last stood back, in loads of its peers; 0: it never did
    reason: str = ""  # of its last change


@dataclass(frozen=True, slots=True)
class Target:
    """One name in the MX records."""

    preference: int
    servers: tuple[str, ...]  # sorted; more than one when they share the name
    slot: str = ""  # of the shared name
    external: bool = False  # then the server is the hostname


@dataclass(frozen=True, slots=True)
class Decision:
    """What was done with a server, or what was to be done and waits: then `before` and `after` are equal."""

    server: str
    before: int | None  # band
    after: int | None
    reason: str  # CamelCase, one of `reasons`
    message: str  # one sentence


@dataclass(frozen=True, slots=True)
class MxPlan:
    """Of one array, or of its access servers."""

    ttl: int
    members: tuple[Member, ...] = ()
    stale: bool = False  # no report was fresh: this is the plan before
    decisions: tuple[Decision, ...] = field(default=(), compare=False)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Best first. Empty only when there is no server at all."""
        shared: dict[tuple[int, str], list[str]] = defaultdict(list)
        own: list[Target] = []
        for member in self.members:
            if member.band is None:
                continue
            if member.slot:
                shared[member.preference, member.slot].append(member.server)
            else:
                own.append(Target(member.preference, (member.server,), external=member.external))
        own += [Target(preference, tuple(sorted(names)), slot) for (preference, slot), names in shared.items()]
        return tuple(sorted(own, key=lambda target: (target.preference, target.servers)))

    @property
    def changes(self) -> tuple[Decision, ...]:
        """The decisions that changed something."""
        return tuple(decision for decision in self.decisions if decision.before != decision.after)
