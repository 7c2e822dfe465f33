"""How many servers each group has: a person's wish, and which servers may drain for it.

Invariants
- A StatefulSet whose replicas are not the recorded ones was scaled by somebody. That wish is written to the MailServer
  before the StatefulSet changes, so an operator that is killed between the two finds the same wish again.
- Nothing of ours leaves fewer than `copies` servers: neither by the numbers asked for (refused aloud, nothing stops),
  nor by the servers that serve now (a drain waits), nor when others are Lost meanwhile (a drain is taken back).
- Only the highest ordinals of a group drain, and replicas are lowered only past servers that are Drained, or that
  never held anything: no volume of theirs is known, and they never were in the table, or their claim never was bound.

Called by `deciding`. Judges servers by `servers.ServerView`; the states themselves are `drain.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from mailarray.contract.mirroring_table import MirroringTable, Server
from mailarray_operator.plan import drain as draining
from mailarray_operator.plan.conditions import Condition
from mailarray_operator.plan.conditions import servers as servers_in_words
from mailarray_operator.plan.drain import Drain, State
from mailarray_operator.plan.mx_status import LEAVE_MAX_TTL, leave_limit
from mailarray_operator.plan.observation import Group, Mx
from mailarray_operator.plan.servers import ServerView

MAX_REPLICAS: Final = 1000  # of a MailServer, as its CRD says; a larger wish is cut to it


@dataclass(frozen=True, slots=True)
class Scale:
    """What is asked of a group, before anything drains."""

    wanted: int  # servers that the person wants
    standing: int  # servers that there are, or shall be at once
    wish: int | None = None  # to be written to the MailServer
    held_back: Condition | None = None  # why there is no server yet


@dataclass(slots=True)
class Fleet:
    """A group on its way through one decision."""

    name: str
    scale: Scale
    servers: Sequence[ServerView]  # by ordinal, `scale.standing` of them
    drains: dict[int, Drain] = field(default_factory=dict)
    empty: frozenset[int] = frozenset()  # ordinals that never held anything
    refused: str = ""  # why nothing drains: a sentence
    waiting: str = ""  # what the next drain waits for: a sentence
    replicas: int = 0

    @property
    def shrinking(self) -> int:
        """Servers that shall go."""
        return self.scale.standing - self.scale.wanted


def scale_of(group: Group, in_table: int, held_back: Condition | None = None) -> Scale:
    """Read the wish; `in_table` is one more than the highest ordinal of the group in the table, and `held_back` why it
    gets no server yet."""
    found = group.stateful_set
    if held_back is not None and group.spec is not None:
        return Scale(group.spec.replicas, 0, held_back=held_back)
    if group.spec is None:  # nothing is known to be wanted: all stays
        standing = in_table if found is None else found.replicas
        return Scale(standing, standing)
    wanted = group.spec.replicas
    if found is None:
        return Scale(wanted, max(wanted, in_table))
    if found.recorded is None or found.recorded == found.replicas:
        return Scale(wanted, max(wanted, found.replicas))
    wish = min(found.replicas, MAX_REPLICAS)
    return Scale(wish, max(wish, found.recorded), None if wish == wanted else wish)


def fleet_of(group: Group, scale: Scale, servers: Sequence[ServerView], table: Mapping[str, Server] | None) -> Fleet:
    """A group with the drains that it persisted and that are still wanted."""
    found = group.stateful_set
    persisted = draining.parse(found.drain) if found is not None else {}
    drains = {o: d for o, d in persisted.items() if scale.wanted <= o < scale.standing}
    empty = frozenset(s.ordinal for s in servers[scale.wanted :] if _never_held_anything(s, table))
    return Fleet(group.resource.name, scale, servers, drains, empty, replicas=scale.standing)


@dataclass(frozen=True, slots=True)
class Senders:
    """Whether senders still find a server in DNS."""

    mx: Mx | None  # None: not known yet
    planned: bool = False  # then: there was a plan, so any server may be named

    def wait(self, server: str) -> float:
        """Seconds that a drain of it may have to wait before it refuses mail."""
        if self.mx is None:
            return leave_limit(int(LEAVE_MAX_TTL)) if self.planned else 0.0
        return leave_limit(self.mx.ttl) if server in self.mx.named else 0.0

    def forgot(self, server: str, now: datetime) -> bool:
        """Whether DNS has not named it for a TTL."""
        if self.mx is None or server in self.mx.named:
            return False
        return now.timestamp() - self.mx.gone.get(server, 0.0) >= self.mx.ttl


def decide_drains(
    cluster: str,
    fleets: Sequence[Fleet],
    copies: int,
    table: MirroringTable | None,
    now: datetime,
    senders: Senders = Senders(None),
) -> None:
    """Refuse, begin, advance, take back; sets `drains`, `refused`, `waiting` and `replicas` of each fleet."""
    shrinking = [fleet for fleet in fleets if fleet.shrinking > 0]
    if not shrinking:
        return
    shrinking.sort(key=lambda fleet: (not fleet.drains, fleet.name))  # what has begun goes before what has not
    _refuse(fleets, shrinking, copies, cluster)
    _take_back(fleets, shrinking, copies)
    _begin(fleets, shrinking, copies, now, senders)
    rows = {} if table is None else {server.name: server for server in table.servers}
    for fleet in shrinking:
        for ordinal, drain in fleet.drains.items():
            view = fleet.servers[ordinal]
            known = rows.get(view.name)
            done = draining.is_done(view.sidecar, view.writer, known, table.generation if table is not None else 0)
            word = None if view.sidecar is None else done
            fleet.drains[ordinal] = draining.advance(drain, now, word, senders.forgot(view.name, now))
        _stop(fleet)


def _refuse(fleets: Sequence[Fleet], shrinking: Sequence[Fleet], copies: int, cluster: str) -> None:
    left = sum(fleet.scale.standing for fleet in fleets)
    for fleet in shrinking:
        after = left - fleet.shrinking
        if after >= copies:
            left = after
            continue
        fleet.drains.clear()
        enough = fleet.scale.wanted + copies - after
        kept = "1 copy" if copies == 1 else f"{copies} copies"
        fleet.refused = (
            f"replicas {fleet.scale.wanted} would leave {servers_in_words(after)} for {kept} of each message; "
            f"keep at least {enough}, or lower spec.storage.copies of {cluster}; until then nothing is stopped"
        )


def _take_back(fleets: Sequence[Fleet], shrinking: Sequence[Fleet], copies: int) -> None:
    """Drains that began when there were enough servers, of which too many are Lost by now."""
    if not any(fleet.drains for fleet in shrinking):
        return
    alive = sum(v.phase != "Lost" for fleet in fleets for v in fleet.servers if v.ordinal not in fleet.drains)
    for fleet in reversed(shrinking):
        for ordinal in sorted(fleet.drains):
            if alive >= copies:
                return
            if (
                fleet.servers[ordinal].phase != "Lost"
                and draining.step(fleet.drains[ordinal], draining.Word.UNWANTED) is None
            ):
                del fleet.drains[ordinal]
                alive += 1


def _begin(fleets: Sequence[Fleet], shrinking: Sequence[Fleet], copies: int, now: datetime, senders: Senders) -> None:
    serving = sum(v.phase == "Serving" for fleet in fleets for v in fleet.servers if v.ordinal not in fleet.drains)
    for fleet in shrinking:
        if fleet.refused:
            continue
        for ordinal in range(fleet.scale.standing - 1, fleet.scale.wanted - 1, -1):
            view = fleet.servers[ordinal]
            if ordinal in fleet.drains or ordinal in fleet.empty:
                continue
            after = serving - (view.phase == "Serving")
            if after < copies:
                fleet.waiting = (
                    f"{view.name} drains as soon as {servers_in_words(copies)} besides those that drain serve; "
                    f"now it would be {after}"
                )
                break
            serving = after
            fleet.drains[ordinal] = draining.begin(now, senders.wait(view.name))


def _stop(fleet: Fleet) -> None:
    """Lower replicas past those that may stop, from the top."""
    if fleet.refused:
        return
    while fleet.replicas > fleet.scale.wanted:
        top = fleet.replicas - 1
        drain = fleet.drains.get(top)
        if top not in fleet.empty and (drain is None or drain.state is not State.DRAINED):
            return
        fleet.drains.pop(top, None)
        fleet.replicas = top


def _never_held_anything(view: ServerView, table: Mapping[str, Server] | None) -> bool:
    if view.sidecar is not None or view.volume:
        return False
    if view.claims and all(claim.capacity == 0 and not claim.lost for _, claim in view.claims):
        return True  # there never was a disk
    return table is not None and view.name not in table
