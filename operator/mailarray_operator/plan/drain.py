"""Draining one server: a table of states, persisted as JSON in an annotation of the StatefulSet.

Invariants
- A server's mail is elsewhere before the server stops: it becomes Drained only by its own word, given for the very
  table that the cluster holds now, in which it stands as Draining. Silence proves nothing.
- What is persisted is never needed for safety: a lost annotation costs time, since all follows anew from
  MailServer.spec.replicas, the table and the servers' reports. It keeps waits, and the word of a server that is gone.

Called by `scaling`, which decides who may drain at all.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mailarray.contract.mirroring_table import Server
from mailarray_operator.plan.conditions import timestamp


class State(enum.Enum):
    """How far a server is."""

    LEAVING = "Leaving"  # the MX records leave it out, and resolvers forget it; it still takes mail
    DRAINING = "Draining"  # takes nothing new, and its segments are copied to others
    DRAINED = "Drained"  # others hold all of it; may stop


class Word(enum.Enum):
    """What can be observed of a server that drains."""

    WAITED = "the time to leave is over, or DNS has forgotten it"
    DONE = "it says that others hold all of it"
    NOT_DONE = "it says that others do not hold all of it"
    UNWANTED = "it shall stay, by the person's wish or since too few others live"


TRANSITIONS: Final[Mapping[tuple[State, Word], State | None]] = {
    (State.LEAVING, Word.WAITED): State.DRAINING,
    (State.DRAINING, Word.DONE): State.DRAINED,
    (State.DRAINED, Word.NOT_DONE): State.DRAINING,  # another one lost its volume while this one waited for its turn
    (State.LEAVING, Word.UNWANTED): None,
    (State.DRAINING, Word.UNWANTED): None,
    (State.DRAINED, Word.UNWANTED): None,
}  # a word that is not here changes nothing; None: the server serves again


@dataclass(frozen=True, slots=True)
class Drain:
    """The persisted state of one server."""

    state: State
    not_before: datetime | None = None  # Leaving: until when caches of its MX record may live


def begin(now: datetime, wait: float = 0.0) -> Drain:
    """A server begins to drain; at most `wait` seconds pass before it refuses mail, 0 while no MX record names it."""
    return Drain(State.LEAVING, now + timedelta(seconds=wait) if wait > 0 else None)


def advance(drain: Drain, now: datetime, done: bool | None, forgotten: bool = False) -> Drain:
    """As far as what is observed carries it. `done` is the server's word; None: it says nothing now. `forgotten`: DNS
    has not named it for a TTL, so nobody comes any more; when DNS cannot be asked, the time that was set is the limit.
    """
    if drain.state is State.LEAVING and (forgotten or drain.not_before is None or now >= drain.not_before):
        drain = step(drain, Word.WAITED) or drain
    if done is not None:
        drain = step(drain, Word.DONE if done else Word.NOT_DONE) or drain
    return drain


def step(drain: Drain, word: Word) -> Drain | None:
    """One row of the table."""
    if (drain.state, word) not in TRANSITIONS:
        return drain
    state = TRANSITIONS[drain.state, word]
    return None if state is None else Drain(state)


def is_done(
    sidecar: Mapping[str, Any] | None, writer: Mapping[str, Any] | None, server: Server | None, gen: int
) -> bool:
    """Whether a server says, of the table with generation `gen` in which it stands as `server`, that it is empty."""
    if sidecar is None or server is None or not server.draining:
        return False
    generation, drain = sidecar.get("table_generation"), sidecar.get("drain")
    if not isinstance(generation, int) or generation < gen or not isinstance(drain, Mapping):
        return False
    return drain.get("done") is True and (writer is None or writer.get("at_rest") is not False)


def dump(drains: Mapping[int, Drain]) -> str:
    """The annotation: "" when nothing drains."""
    if not drains:
        return ""
    raw: dict[str, dict[str, str]] = {}
    for ordinal, drain in sorted(drains.items()):
        raw[str(ordinal)] = {"state": drain.state.value}
        if drain.not_before is not None:
            raw[str(ordinal)]["notBefore"] = timestamp(drain.not_before)
    return json.dumps(raw, separators=(",", ":"))


def parse(text: str) -> dict[int, Drain]:
    """What `dump` made; whatever cannot be read is left out, and is decided anew."""
    if not text:
        return {}
    drains: dict[int, Drain] = {}
    try:
        for ordinal, entry in json.loads(text).items():
            until = entry.get("notBefore")
            moment = None if until is None else datetime.fromisoformat(until).astimezone(UTC)
            drains[int(ordinal)] = Drain(State(entry["state"]), moment)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return drains
