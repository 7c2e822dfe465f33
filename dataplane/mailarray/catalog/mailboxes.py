"""What access servers read: a mailbox with everything needed to fetch its messages (patent, figure 6)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from mailarray.catalog import schema
from mailarray.catalog.catalog import CatalogClosed
from mailarray.catalog.holders import PIECE, replicas_of
from mailarray.catalog.rows import Location, MailboxEntry
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId

_p, _m, _l = schema.placements.c, schema.messages.c, schema.locations.c
_s, _sm = schema.segments.c, schema.segment_members.c

_ENTRIES = (
    select(_p.uid, _p.record, _p.position, _p.message, _m.size, _m.checksum, _m.received_at, _m.segment, _m.offset)
    .join_from(schema.placements, schema.messages, _m.id == _p.message)
    .where(_p.mailbox == bindparam("box"))
    .order_by(_p.uid)
)
_FURTHER = (
    select(_l.message, _l.segment, _l.offset)
    .join_from(schema.placements, schema.locations, _l.message == _p.message)
    .where(_p.mailbox == bindparam("box"))
)
_MEMBERS = (
    select(_s.number, _s.id, _sm.volume)
    .join_from(schema.segments, schema.segment_members, _sm.segment == _s.number)
    .where(_s.number.in_(bindparam("numbers", expanding=True)))
    .order_by(_s.number, _sm.position)
)
_BOX = select(
    schema.state.c.open,
    select(schema.mailboxes.c.id).where(schema.mailboxes.c.address == bindparam("address")).scalar_subquery(),
)


def mailbox(connection: Connection, address: str) -> list[MailboxEntry]:
    """See `Catalog.mailbox`."""
    is_open, box = connection.execute(_BOX, {"address": address}).one()
    if not is_open:
        raise CatalogClosed("the catalog has not heard from all volumes yet")
    if box is None:
        return []
    rows = connection.execute(_ENTRIES, {"box": box}).all()
    further: dict[bytes, set[tuple[int, int]]] = {}
    for message, segment, offset in connection.execute(_FURTHER, {"box": box}):
        further.setdefault(message, set()).add((segment, offset))
    numbers = {row[7] for row in rows} | {segment for places in further.values() for segment, _ in places}
    segments = segments_by_number(connection, numbers)
    entries = []
    for uid, record, position, message, size, checksum, received_at, segment, offset in rows:
        name, members = segments[segment]
        places: tuple[Location, ...] = (Location(name, offset, size, members),)
        if message in further:
            places += tuple(
                Location(segments[number][0], at, size, segments[number][1]) for number, at in sorted(further[message])
            )
        placement = PlacementId(record, position)
        entries.append(MailboxEntry(uid, placement, MessageId(message), size, checksum, received_at, places))
    return entries


def segments_by_number(connection: Connection, numbers: set[int]) -> dict[int, tuple[SegmentId, tuple[VolumeId, ...]]]:
    """Their ids, members and repaired copies, by number."""
    every = list(numbers)
    found: dict[int, tuple[SegmentId, tuple[VolumeId, ...]]] = {}
    for start in range(0, len(every), PIECE):
        for number, segment, volume in connection.execute(_MEMBERS, {"numbers": every[start : start + PIECE]}):
            members = found[number][1] if number in found else ()
            found[number] = (SegmentId(segment), (*members, VolumeId(volume)))
    copies = replicas_of(connection, [segment for segment, _ in found.values()])
    if copies:
        return {number: (id, members + copies.get(id, ())) for number, (id, members) in found.items()}
    return found
