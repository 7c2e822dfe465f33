"""Whose mail stood in bytes that nobody can read any more: asked when every replica of them is damaged, never else."""

from __future__ import annotations

from sqlalchemy import Connection, select

from mailarray.catalog import schema
from mailarray.model.ids import MessageId, SegmentId

_messages, _placements, _boxes, _segments = schema.messages, schema.placements, schema.mailboxes, schema.segments


def messages_within(
    connection: Connection, segment: SegmentId, start: int, end: int
) -> list[tuple[MessageId, tuple[str, ...]]]:
    """See `Catalog.messages_within`. Scans: no index leads from places to messages, nor from these to mailboxes."""
    number = select(_segments.c.number).where(_segments.c.id == segment).scalar_subquery()
    rows = connection.execute(
        select(_messages.c.id, _boxes.c.address)
        .join(_placements, _placements.c.message == _messages.c.id)
        .join(_boxes, _boxes.c.id == _placements.c.mailbox)
        .where(_messages.c.segment == number, _messages.c.offset < end, _messages.c.offset + _messages.c.size > start)
        .order_by(_messages.c.id, _boxes.c.address)
    )
    found: dict[MessageId, list[str]] = {}
    for id, address in rows:
        found.setdefault(MessageId(bytes(id)), []).append(address)
    return [(id, tuple(mailboxes)) for id, mailboxes in found.items()]
