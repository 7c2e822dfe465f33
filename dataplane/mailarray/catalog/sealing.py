"""Segments: their rows, and the compare-and-set on their length (rules 8, 13 and 14)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, bindparam, case, delete, or_, select, update
from sqlalchemy.sql.dml import ReturningInsert

from mailarray.catalog import schema
from mailarray.catalog.catalog import EpochPassed, SealRefused
from mailarray.catalog.holders import PIECE, count_told, facts_of, members_of, replicas_of
from mailarray.catalog.rows import SegmentFacts, SegmentState
from mailarray.catalog.sql import insert_for, once_for
from mailarray.catalog.usage import take_out
from mailarray.model.ids import SegmentId, VolumeId

_segments, _members = schema.segments, schema.segment_members
_replicas, _volumes = schema.segment_replicas, schema.volumes
_messages, _locations = schema.messages, schema.locations

_EPOCH = select(schema.state.c.epoch)
_BY_ID = select(_segments).where(_segments.c.id.in_(bindparam("ids", expanding=True))).order_by(_segments.c.number)
_UNSEALED = (
    select(_segments)
    .where(
        _segments.c.sealed_length.is_(None),
        _segments.c.superseded_by.is_(None),  # nobody seals what a restored catalog does not know to be sealed
        _segments.c.number.in_(select(_members.c.segment).where(_members.c.volume == bindparam("member"))),
    )
    .order_by(_segments.c.number)
)
_LENGTHS = (
    select(_segments.c.number, _segments.c.sealed_length, _segments.c.acknowledged)
    .where(_segments.c.id == bindparam("segment"))
    .with_for_update()
)
_SEAL = update(_segments).where(_segments.c.number == bindparam("row")).values(sealed_length=bindparam("length"))
_INSERT_MEMBERS = _members.insert()
_OTHERS = select(_locations).where(_locations.c.message.in_(bindparam("ids", expanding=True)))
_MOVE = (
    update(_messages)
    .where(_messages.c.id == bindparam("message"))
    .values(segment=bindparam("to_segment"), offset=bindparam("to_offset"))
)
_MOVED = delete(_locations).where(
    _locations.c.message == bindparam("message"),
    _locations.c.segment == bindparam("to_segment"),
    _locations.c.offset == bindparam("to_offset"),
)


@once_for
def _insert(dialect: str) -> ReturningInsert[Any]:
    superseded = schema.superseded
    by = select(superseded.c.by_id).where(superseded.c.segment_id == bindparam("same")).scalar_subquery()
    names = ("id", "writer", "incarnation", "worker", "copies", "sealed_length")
    return (
        insert_for(dialect, _segments)
        .values(**{name: bindparam(name) for name in names}, cursor=0, acknowledged=0, superseded_by=by)
        .on_conflict_do_nothing()
        .returning(_segments.c.number)
    )


def segments(connection: Connection, ids: Sequence[SegmentId]) -> dict[SegmentId, SegmentState]:
    """See `Catalog.segments`."""
    states: dict[SegmentId, SegmentState] = {}
    for start in range(0, len(ids), PIECE):
        states.update(_states(connection, _BY_ID, {"ids": ids[start : start + PIECE]}))
    return states


def unsealed_segments(connection: Connection, member: VolumeId) -> list[SegmentState]:
    """See `Catalog.unsealed_segments`."""
    return list(_states(connection, _UNSEALED, {"member": member}).values())


def _states(
    connection: Connection, asked: Select[Any], parameters: Mapping[str, object]
) -> dict[SegmentId, SegmentState]:
    rows = connection.execute(asked, parameters).all()
    members = members_of(connection, [row.number for row in rows])
    replicas = replicas_of(connection, [bytes(row.id) for row in rows])
    return {
        SegmentId(bytes(row.id)): SegmentState(
            facts=facts_of(row, members.get(row.number, ())),
            sealed_length=row.sealed_length,
            cursor=row.cursor,
            acknowledged=row.acknowledged,
            superseded=row.superseded_by is not None,
            replicas=replicas.get(bytes(row.id), ()),
        )
        for row in rows
    }


def propose_seal(connection: Connection, segment: SegmentFacts, length: int, epoch: int) -> int:
    """See `Catalog.propose_seal`. A new epoch runs alone, so it cannot begin between this look and the end."""
    if connection.scalar(_EPOCH) != epoch:
        raise EpochPassed(f"the proposal was made in epoch {epoch}, which is over")
    inserted = connection.execute(
        _insert(connection.dialect.name),
        {
            "id": segment.id,
            "writer": segment.writer,
            "incarnation": segment.incarnation,
            "worker": segment.worker,
            "copies": segment.copies,
            "sealed_length": length,
            "same": segment.id,
        },
    ).scalar_one_or_none()
    if inserted is not None:
        connection.execute(
            _INSERT_MEMBERS,
            [{"segment": inserted, "position": i, "volume": member} for i, member in enumerate(segment.members)],
        )
        count_told(connection, segment.writer)
        return length
    row = connection.execute(_LENGTHS, {"segment": segment.id}).one()
    if row.sealed_length is not None:
        return int(row.sealed_length)
    if length < row.acknowledged:
        raise SealRefused(
            f"segment {segment.id.hex()} cannot be sealed at {length}: "
            f"its writer acknowledged it up to {row.acknowledged}"
        )
    connection.execute(_SEAL, {"row": row.number, "length": length})
    count_told(connection, segment.writer)
    return length


def lower_seal(
    connection: Connection, segment: SegmentId, sealed_length: int, length: int, asked: Collection[VolumeId]
) -> bool:
    """See `Catalog.lower_seal`. Runs alone, and may scan: it happens when mail is lost, never otherwise."""
    if length > sealed_length:
        raise ValueError(f"{length} is not below {sealed_length}")
    copies = select(_replicas.c.volume).join(_volumes, _volumes.c.id == _replicas.c.volume)
    copies = copies.where(_replicas.c.segment_id == segment, ~_volumes.c.lost)
    if {bytes(volume) for volume in connection.scalars(copies)} - set(asked):
        return False  # it may be whole: a drained volume, as a rule stopped, or a copy that was made meanwhile
    number = connection.scalar(
        update(_segments)
        .where(_segments.c.id == segment, _segments.c.sealed_length == sealed_length)
        .values(
            sealed_length=length,
            cursor=_at_most(_segments.c.cursor, length),
            acknowledged=_at_most(_segments.c.acknowledged, length),
        )
        .returning(_segments.c.number)
    )
    if number is None:
        return False
    columns = _locations.c
    sizes = select(_messages.c.size).where(_messages.c.id == columns.message).scalar_subquery()
    connection.execute(delete(_locations).where(columns.segment == number, _past(columns.offset, sizes, length)))
    gone = connection.scalars(
        select(_messages.c.id).where(_messages.c.segment == number, _past(_messages.c.offset, _messages.c.size, length))
    ).all()
    for start in range(0, len(gone), PIECE):
        rest = relocate(connection, gone[start : start + PIECE])  # those with no place left go (rule 16)
        take_out(connection, rest)
        connection.execute(delete(schema.placements).where(schema.placements.c.message.in_(rest)))
        connection.execute(delete(_messages).where(_messages.c.id.in_(rest)))
    return True


def _past(offset: ColumnElement[Any], size: Any, length: int) -> ColumnElement[bool]:
    return or_(offset >= length, offset + size > length)


def relocate(connection: Connection, ids: Sequence[bytes]) -> list[bytes]:
    """Those messages lost the location in their own row: another one takes its place. Answers those without one."""
    others = {row.message: row for row in connection.execute(_OTHERS, {"ids": list(ids)})}
    for message, row in others.items():
        place = {"message": message, "to_segment": row.segment, "to_offset": row.offset}
        connection.execute(_MOVE, place)
        connection.execute(_MOVED, place)
    return [message for message in ids if message not in others]


def _at_most(column: Column[Any], limit: int) -> ColumnElement[Any]:
    return case((column > limit, limit), else_=column)
