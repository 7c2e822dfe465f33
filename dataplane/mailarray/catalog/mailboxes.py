"""What access servers read: a mailbox with everything needed to fetch its messages (patent, figure 6)."""

from __future__ import annotations

from sqlalchemy import Connection, select

from mailarray.catalog import schema
from mailarray.catalog.catalog import Location, MailboxEntry
from mailarray.catalog.sealing import PIECE, members_of
from mailarray.catalog.volumes import ensure_open
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId

_p, _m, _l = schema.placements.c, schema.messages.c, schema.locations.c

_ENTRIES = (
    select(
        _p.uid,
        _p.record,
        _p.position,
        _p.message,
        _m.size,
        _m.checksum,
        _m.received_at,
        _l.segment,
        _l.offset,
        _l.length,
    )
    .join_from(schema.placements, schema.messages, _m.id == _p.message)
    .join(schema.locations, _l.message == _p.message)
    .order_by(_p.uid, _l.segment, _l.offset)
)


def mailbox(connection: Connection, address: str) -> list[MailboxEntry]:
    """See `Catalog.mailbox`."""
    ensure_open(connection)
    box = connection.scalar(select(schema.mailboxes.c.id).where(schema.mailboxes.c.address == address))
    if box is None:
        return []
    rows = connection.execute(_ENTRIES.where(_p.mailbox == box)).all()
    segments = _segments(connection, {row[7] for row in rows})
    entries: list[MailboxEntry] = []
    last = None
    for uid, record, position, message, size, checksum, received_at, segment, offset, length in rows:
        segment_id, members = segments[segment]
        location = Location(segment_id, offset, length, members)
        if uid == last:  # another location of the same message (rule 16)
            entries[-1] = entries[-1]._replace(locations=(*entries[-1].locations, location))
            continue
        last = uid
        entries.append(
            MailboxEntry(
                uid,
                PlacementId(record, position),
                MessageId(message),
                size,
                checksum,
                received_at,
                (location,),
            )
        )
    return entries


def _segments(connection: Connection, numbers: set[int]) -> dict[int, tuple[SegmentId, tuple[VolumeId, ...]]]:
    members = members_of(connection, numbers)
    every = list(numbers)
    found: dict[int, tuple[SegmentId, tuple[VolumeId, ...]]] = {}
    for start in range(0, len(every), PIECE):
        rows = connection.execute(
            select(schema.segments.c.number, schema.segments.c.id).where(
                schema.segments.c.number.in_(every[start : start + PIECE])
            )
        )
        for number, segment in rows:
            found[number] = (SegmentId(bytes(segment)), members.get(number, ()))
    return found
