"""Whether a run may be registered: the ground that it names, against what the catalog says (rules 17 and 18).

One decision for both databases, without any statement in it; `registration_sqlite` and `registration_postgresql`
fetch the ground, ask here, and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailarray.catalog.rows import MessageRow, NotRegistered, Registration
from mailarray.model.ids import MessageId, VolumeId


class Ground(NamedTuple):
    """What the catalog says at the begin of the transaction; the segment's fields are None when it has no row."""

    epoch: int
    uidvalidity: int
    counter: int | None  # of the registering volume; None when it has not checked in
    number: int | None
    sealed_length: int | None
    cursor: int | None
    superseded: bool | None
    open: bool  # to readers


def refusal(ground: Ground, volume: VolumeId, registration: Registration) -> NotRegistered | None:
    """Why the run must not be registered, or None."""
    cursor = ground.cursor or 0
    # A volume without a row checked in with another state of the database, one that was restored since.
    if ground.epoch != registration.epoch or ground.counter is None:
        return NotRegistered("epoch", cursor)
    if ground.superseded:
        return NotRegistered("superseded", cursor)
    if registration.sealed_length is None:
        if volume != registration.segment.writer:  # only the writer's sidecar knows what was acknowledged
            return NotRegistered("sealed", cursor)
        if ground.sealed_length is not None and registration.end > ground.sealed_length:
            return NotRegistered("sealed", cursor)
    elif ground.sealed_length != registration.sealed_length or registration.end > registration.sealed_length:
        return NotRegistered("sealed", cursor)
    if cursor != registration.start:
        return NotRegistered("cursor", cursor)
    return None


def first_sights(messages: Sequence[MessageRow], known: set[MessageId]) -> list[MessageRow]:
    """Those whose id is neither known nor seen before in the same run (rule 16), in order."""
    if not known and len({message.id for message in messages}) == len(messages):
        return list(messages)
    seen = set(known)
    fresh = []
    for message in messages:
        if message.id not in seen:
            seen.add(message.id)
            fresh.append(message)
    return fresh
