"""Mail that no volume holds any more: exactly which messages, of which mailboxes.

A message is missing when each of its locations is in a segment whose holders, repaired copies included, are all lost.
Silence is not loss, and a drained volume may come back: neither makes a message missing. Called by `mailarray missing`
alone; it reads everything once, and it does so also while the catalog is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, select

from mailarray.catalog import schema
from mailarray.catalog.holders import PIECE, volume_count
from mailarray.model.ids import MessageId, PlacementId

_segments, _messages, _locations, _placements = (
    schema.segments,
    schema.messages,
    schema.locations,
    schema.placements,
)


class MissingMessage(NamedTuple):
    """One message in one mailbox that nobody can read any more."""

    mailbox: str
    uid: int
    placement: PlacementId
    message: MessageId
    received_at: int  # microseconds since 1970, UTC
    sender: str
    size: int  # bytes


class Missing(NamedTuple):
    """While the catalog is closed, volumes may still tell of further copies: then more is named than is missing."""

    catalog_open: bool
    messages: list[MissingMessage]  # by mailbox and UID


def missing(connection: Connection) -> Missing:
    """See `Catalog.missing`."""
    is_open = bool(connection.scalar(select(schema.state.c.open)))
    dead = _dead_segments(connection)
    gone = [] if not dead else list(_messages_only_in(connection, dead))
    return Missing(is_open, sorted(_placed(connection, gone)))


def _dead_segments(connection: Connection) -> set[int]:
    lost = select(schema.volumes.c.id).where(schema.volumes.c.lost)
    living = volume_count(lambda volume: volume.not_in(lost))
    return set(connection.scalars(select(_segments.c.number).where(living == 0, _segments.c.superseded_by.is_(None))))


def _messages_only_in(connection: Connection, dead: set[int]) -> Iterator[bytes]:
    numbers = sorted(dead)
    for start in range(0, len(numbers), PIECE):
        here = _messages.c.segment.in_(numbers[start : start + PIECE])
        further = dict[bytes, set[int]]()
        for message, segment in connection.execute(
            select(_locations.c.message, _locations.c.segment)
            .join(_messages, _messages.c.id == _locations.c.message)
            .where(here)
        ):
            further.setdefault(bytes(message), set()).add(segment)
        for message in connection.scalars(select(_messages.c.id).where(here)):
            if further.get(bytes(message), set()) <= dead:
                yield bytes(message)


def _placed(connection: Connection, messages: list[bytes]) -> Iterator[MissingMessage]:
    boxes = schema.mailboxes
    for start in range(0, len(messages), PIECE):
        for row in connection.execute(
            select(
                boxes.c.address,
                _placements.c.uid,
                _placements.c.record,
                _placements.c.position,
                _messages.c.id,
                _messages.c.received_at,
                _messages.c.sender,
                _messages.c.size,
            )
            .join_from(_placements, boxes, boxes.c.id == _placements.c.mailbox)
            .join(_messages, _messages.c.id == _placements.c.message)
            .where(_placements.c.message.in_(messages[start : start + PIECE]))
        ):
            placement = PlacementId(bytes(row.record), row.position)
            yield MissingMessage(
                row.address, row.uid, placement, MessageId(bytes(row.id)), row.received_at, row.sender, row.size
            )
