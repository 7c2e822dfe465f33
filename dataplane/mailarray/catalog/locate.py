"""Where one message lies, for the person who asks: its mailboxes, its segments and the servers that hold them.

Called by `mailarray locate` alone. It reads, and it does so also while the catalog is closed: half an answer that says
what is missing helps a person, where a reader of mail must not see one (rule 19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from mailarray.catalog import schema
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId

_placements, _messages, _locations = schema.placements, schema.messages, schema.locations
_segments, _members, _volumes = schema.segments, schema.segment_members, schema.volumes
_repairs = schema.segment_replicas


@dataclass(frozen=True, slots=True)
class Holder:
    """A volume with a copy."""

    volume: VolumeId
    server: str  # "" when the volume never checked in
    lost: bool
    role: str  # "writer", "mirror": a member from the start, "repaired": copied there later
    retired: bool  # drained on purpose


@dataclass(frozen=True, slots=True)
class Place:
    """The body in one segment."""

    segment: SegmentId
    offset: int  # of the body
    sealed: bool
    copies: int  # that were wanted when the segment was begun
    superseded: bool
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class MailboxPlace:
    """The message in one mailbox."""

    mailbox: str
    uid: int
    placement: PlacementId


@dataclass(frozen=True, slots=True)
class Located:
    """Everything that the catalog knows of one message."""

    message: MessageId
    received_at: int  # microseconds since 1970, UTC
    sender: str
    size: int  # bytes of the body
    mailboxes: tuple[MailboxPlace, ...]
    deleted_from: tuple[str, ...]  # mailboxes that it was expunged from
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """`message` is None when the catalog does not know the id; that counts only while it is open."""

    catalog_open: bool
    message: Located | None


def locate(connection: Connection, record: bytes) -> Answer:
    """By message id, or by the id of the record that placed the message in a mailbox (the first part of a UIDL)."""
    is_open = bool(connection.scalar(select(schema.state.c.open)))
    row = _message(connection, record)
    if row is None:
        placed = connection.scalar(select(_placements.c.message).where(_placements.c.record == record).limit(1))
        row = None if placed is None else _message(connection, placed)
    if row is None:
        return Answer(is_open, None)
    return Answer(
        is_open,
        Located(
            MessageId(bytes(row.id)),
            row.received_at,
            row.sender,
            row.size,
            _mailboxes(connection, row.id),
            _deleted_from(connection, row.id),
            _places(connection, row),
        ),
    )


def _message(connection: Connection, message: bytes) -> Row[tuple[Any, ...]] | None:
    return connection.execute(select(_messages).where(_messages.c.id == message)).one_or_none()


def _mailboxes(connection: Connection, message: bytes) -> tuple[MailboxPlace, ...]:
    # No index leads from a message to its placements: every message would pay for it (a B-tree on PostgreSQL a fifth
    # of its registration, on SQLite a twentieth of the CPU). A person can wait for a scan.
    boxes = schema.mailboxes
    rows = connection.execute(
        select(boxes.c.address, _placements.c.uid, _placements.c.record, _placements.c.position)
        .join_from(_placements, boxes, boxes.c.id == _placements.c.mailbox)
        .where(_placements.c.message == message)
        .order_by(boxes.c.address, _placements.c.uid)
    )
    return tuple(MailboxPlace(address, uid, PlacementId(bytes(record), at)) for address, uid, record, at in rows)


def _deleted_from(connection: Connection, message: bytes) -> tuple[str, ...]:
    named = schema.tombstones.c
    rows = connection.scalars(select(named.mailbox).where(named.message == message).distinct().order_by(named.mailbox))
    return tuple(rows)


def _places(connection: Connection, message: Row[tuple[Any, ...]]) -> tuple[Place, ...]:
    further = connection.execute(
        select(_locations.c.segment, _locations.c.offset)
        .where(_locations.c.message == message.id)
        .order_by(_locations.c.segment, _locations.c.offset)
    ).all()
    found = [(message.segment, message.offset), *((number, offset) for number, offset in further)]
    return tuple(_place(connection, number, offset) for number, offset in found)


def _place(connection: Connection, number: int, offset: int) -> Place:
    segment = connection.execute(select(_segments).where(_segments.c.number == number)).one()
    return Place(
        SegmentId(bytes(segment.id)),
        offset,
        segment.sealed_length is not None,
        segment.copies,
        segment.superseded_by is not None,
        (*_members_of(connection, number, bytes(segment.writer)), *_repaired(connection, bytes(segment.id))),
    )


def _members_of(connection: Connection, number: int, writer: bytes) -> Sequence[Holder]:
    rows = connection.execute(_holder_of(_members).where(_members.c.segment == number).order_by(_members.c.position))
    return [_holder(row, "writer" if bytes(row[0]) == writer else "mirror") for row in rows]


def _repaired(connection: Connection, segment: bytes) -> Sequence[Holder]:
    rows = connection.execute(_holder_of(_repairs).where(_repairs.c.segment_id == segment).order_by(_volumes.c.server))
    return [_holder(row, "repaired") for row in rows]


def _holder_of(table: Table) -> Select[tuple[Any, ...]]:
    """Its volumes, with what is known of them."""
    known = (_volumes.c.server, _volumes.c.lost, _volumes.c.retired)
    return select(table.c.volume, *known).join_from(table, _volumes, _volumes.c.id == table.c.volume, isouter=True)


def _holder(row: Row[tuple[Any, ...]], role: str) -> Holder:
    return Holder(VolumeId(bytes(row[0])), row.server or "", bool(row.lost), role, bool(row.retired))
