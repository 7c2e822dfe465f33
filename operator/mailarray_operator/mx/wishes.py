"""Which servers ought to change their band, by the strategy asked for; `gate` says which of them may.

Invariants
- A load that is not known asks for nothing.
- A server that is away from the best band gets hardly any mail, so its own low load says little: one that had to stand
  back again soon after its return comes back only when its load would be low with the mail its peers have, or after
  a long time.
- The table of turns and the draw by chance depend on time and names alone, not on when plans were made.

Called by `planning`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

from mailarray_operator.mx import reasons
from mailarray_operator.mx.policy import Policy, Strategy
from mailarray_operator.mx.published import Member
from mailarray_operator.mx.seats import Table


@dataclass(frozen=True, slots=True)
class Wish:
    """A change that is asked for."""

    server: str
    band: int
    reason: str
    message: str
    urgency: float  # those with more go first
    needs_room: bool = False
    places: int | None = None  # how many may stand back at a time
    ratio: float = 0.0  # its load in loads of its peers


def wishes(table: Table) -> list[Wish]:
    """Most urgent first, then by name. Remembers in the table since when a load asks for a change."""
    strategy = table.policy.strategy
    found: list[Wish] = []
    serving = [m for m in list(table.members.values()) if _takes_part(table, m)]
    resting = _resting(table, [m.server for m in serving if not m.external])
    peers = Peers([load for m in table.in_best() if (load := table.load(m.server)) is not None])
    for member in serving:
        refusing = _refuses(table, member.server)
        wish: Wish | None = None
        if refusing:
            wish = _away(table, member)
        elif strategy is Strategy.LOAD and member.band == 0:
            wish = _down(table, member, peers)
        elif strategy is Strategy.LOAD:
            wish = _up(table, member, peers)
        elif member.band is not None:
            wish = _in_turn(table, member, resting)
        wanted = member.wanted if member.wanted is not None else table.now
        if wish is None:
            if member.wanted is not None:
                table.members[member.server] = replace(member, wanted=None)
            continue
        if wish.reason in _BY_LOAD:
            table.members[member.server] = replace(member, wanted=wanted)
            if table.now - wanted < table.policy.confirm:
                continue
        found.append(wish)
    return sorted(found, key=lambda wish: (-wish.urgency, wish.server))


_BY_LOAD = frozenset({reasons.LOADED, reasons.RECOVERED, reasons.NOT_ACCEPTING})


class Peers:
    """The loads of the best band."""

    def __init__(self, loads: list[float]) -> None:
        self._loads = sorted(loads)

    def median(self, without: float | None = None) -> float | None:
        """Of all, or of all but one with that load. None: there are no others."""
        loads, skip = self._loads, len(self._loads)
        if without is not None:
            skip = bisect_left(loads, without)
        count = len(loads) - (without is not None)
        if count <= 0:
            return None

        def at(index: int) -> float:
            return loads[index] if index < skip else loads[index + 1]

        return at(count // 2) if count % 2 else (at(count // 2 - 1) + at(count // 2)) / 2


def _takes_part(table: Table, member: Member) -> bool:
    report = table.reports.get(member.server)
    return member.band is not None and report is not None and not report.leaves


def _refuses(table: Table, server: str) -> bool:
    return table.load(server) is not None and not table.reports[server].accepts


def _away(table: Table, member: Member) -> Wish | None:
    if member.band == table.policy.last:
        return None
    message = f"{member.server} refuses mail, and goes to the worst band"
    return Wish(member.server, table.policy.last, reasons.NOT_ACCEPTING, message, 3.0)


def _down(table: Table, member: Member, peers: Peers) -> Wish | None:
    load, policy = table.load(member.server), table.policy
    typical = peers.median(load) if load is not None and not member.external else peers.median()
    if load is None or typical is None or load < policy.high or load < typical + policy.margin:
        return None
    ratio = load / max(typical, 0.01)
    message = f"{member.server} has a load of {load:.2f} where its peers have {typical:.2f}, and stands back"
    return Wish(member.server, 1, reasons.LOADED, message, 1.0 + load, needs_room=True, ratio=ratio)


def _up(table: Table, member: Member, peers: Peers) -> Wish | None:
    load, policy = table.load(member.server), table.policy
    if load is None or load > policy.low or not table.serves(member.server):
        return None
    if member.reason == reasons.JOINING:
        message = f"{member.server} serves, and comes into the best band"
        return Wish(member.server, 0, reasons.JOINED, message, 0.0)
    typical = peers.median()
    away = table.now - member.since
    if member.level and member.ratio and typical is not None and away < policy.forget:
        expected = member.ratio * typical
        if expected > policy.low:
            message = (
                f"{member.server} is idle where it stands, but would have a load of {expected:.2f} in the best band"
            )
            table.wait(member.server, reasons.STILL_SLOW, message)
            return None
    message = f"{member.server} has a load of {load:.2f}, and returns to the best band"
    return Wish(member.server, 0, reasons.RECOVERED, message, 0.0)


def _in_turn(table: Table, member: Member, resting: frozenset[str]) -> Wish | None:
    if not table.serves(member.server) and not member.external:
        return None
    rests = member.server in resting
    if rests == (member.band != 0):
        return None
    if rests:
        words = {Strategy.ROUND_TABLE: (reasons.TURN, "in its turn"), Strategy.RANDOM: (reasons.CHANCE, "by chance")}
        reason, how = words[table.policy.strategy]
        return Wish(member.server, 1, reason, f"{member.server} stands back {how}", 0.0, places=len(resting))
    # Returns go before, since they make place.
    message = f"{member.server} has its place in the best band by strategy {table.policy.strategy}"
    return Wish(member.server, 0, reasons.STRATEGY, message, 1.0)


def _resting(table: Table, servers: list[str]) -> frozenset[str]:
    policy = table.policy
    if policy.strategy not in (Strategy.ROUND_TABLE, Strategy.RANDOM):
        return frozenset()
    # A turn changes those that rest and those that rested: the budget holds both.
    count = min(int(len(servers) * policy.resting), policy.changes(len(servers)) // 2)
    return frozenset(_turn(servers, count, policy, table.now))


def _turn(servers: list[str], count: int, policy: Policy, now: float) -> Iterator[str]:
    turn = int(now // policy.dwell)
    ring = sorted(servers)
    if policy.strategy is Strategy.ROUND_TABLE:
        return (ring[(turn * count + place) % len(ring)] for place in range(count))
    drawn = sorted(ring, key=lambda name: blake2b(f"{policy.seed}/{turn}/{name}".encode(), digest_size=8).digest())
    return iter(drawn[:count])
