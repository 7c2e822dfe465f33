"""Conditions: a list-map by type, of which nothing moves unless it is true anew.

Invariants
- `lastTransitionTime` changes only when `status` does; so a status that says the same comes out equal, and is not
  written again.
- An event is due only for a (status, reason) that the observed status does not have; so it is told once.

Called by all that make a status. Knows no resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.reasons import EVENTS

Kind = Literal["MailCluster", "MailServer", "MirrorPair"]
MAX_NAMED = 3  # names in a sentence; a person reads the rest in the status


@dataclass(frozen=True, slots=True)
class Condition:
    """What a condition says, without its history."""

    type: str
    status: bool
    reason: str
    message: str  # a sentence that says what to do, when something is to be done


def timestamp(now: datetime) -> str:
    """RFC 3339 with whole seconds, as Kubernetes writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions_of(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By type; what cannot be read is left out."""
    found = status.get("conditions")
    if not isinstance(found, list | tuple):  # as JSON gives it; asking for Sequence costs ten times as much
        return {}
    return {str(c.get("type")): c for c in found if isinstance(c, dict)}


def merge(
    observed: Mapping[str, Any], said: Iterable[Condition], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The new list, from the observed status and what is to be said."""
    before = conditions_of(observed)
    merged: list[dict[str, Any]] = []
    for condition in said:
        status = "True" if condition.status else "False"
        old = before.get(condition.type)
        since = old.get("lastTransitionTime") if old is not None and old.get("status") == status else None
        merged.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": since or timestamp(now),
            }
        )
    return merged


def events(kind: Kind, name: str, observed: Mapping[str, Any], said: Iterable[Condition]) -> list[Event]:
    """Events for conditions that say something new."""
    before = conditions_of(observed)
    due: list[Event] = []
    for condition in said:
        type_ = EVENTS.get(condition.reason)
        if type_ is None:
            continue
        old = before.get(condition.type)
        status = "True" if condition.status else "False"
        told = any((event.reason, event.message) == (condition.reason, condition.message) for event in due)
        if not told and (old is None or (old.get("status"), old.get("reason")) != (status, condition.reason)):
            due.append(Event(kind, name, type_, condition.reason, condition.message))
    return due


def names(given: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(given[:MAX_NAMED])
    return shown if len(given) <= MAX_NAMED else f"{shown} and {len(given) - MAX_NAMED} more"


def servers(count: int) -> str:
    """A number of servers in words."""
    return "1 server" if count == 1 else f"{count} servers"
