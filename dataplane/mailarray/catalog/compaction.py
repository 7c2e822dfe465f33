"""Compaction: how worn segments are, what is dead, and which segments others stand for (rules 16, 17, 21 to 24).

Invariants:

- A segment in `superseded` registers nothing any more, whether it has a row or not. It stands there for ever: somebody
  may have dropped it.
- A message loses its last location only when tombstones name every placement of its record. What this catalog happens
  to know of placements decides nothing.
- Locations are removed by message id, in pieces, by a sidecar that still has the segment: no index leads from a segment
  to its messages, since every message would pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, or_, select, update

from mailarray.catalog import schema
from mailarray.catalog.catalog import EpochPassed
from mailarray.catalog.holders import PIECE, count_told, not_holders
from mailarray.catalog.rows import SegmentFacts, Superseded, WornSegment
from mailarray.catalog.sealing import relocate, segments
from mailarray.catalog.sql import Insert, insert_for, once_for
from mailarray.model.ids import MessageId, PlacementId, SegmentId, VolumeId

WORN_AT_ONCE = 1000  # a sidecar compacts one at a time, and asks again

_segments, _members, _replicas = schema.segments, schema.segment_members, schema.segment_replicas
_messages, _locations, _tombstones = schema.messages, schema.locations, schema.tombstones
_superseded, _wear = schema.superseded, schema.segment_wear

_WORN = (
    select(_segments.c.id, _wear.c.dead, _wear.c.compactor)
    .join_from(_wear, _segments, _segments.c.number == _wear.c.segment)
    .where(
        _segments.c.superseded_by.is_(None),
        _segments.c.sealed_length > 0,
        _segments.c.cursor >= _segments.c.sealed_length,
        _wear.c.dead * 100 >= _segments.c.sealed_length * bindparam("percent"),
        or_(
            select(_members.c.segment)
            .where(_members.c.segment == _segments.c.number, _members.c.volume == bindparam("volume"))
            .correlate(_segments)
            .exists(),
            select(_replicas.c.volume)
            .where(_replicas.c.segment_id == _segments.c.id, _replicas.c.volume == bindparam("volume"))
            .correlate(_segments)
            .exists(),
        ),
    )
    .order_by(_segments.c.id)
    .limit(WORN_AT_ONCE)
)
_SUPERSEDED_SINCE = select(_superseded).where(_superseded.c.number > bindparam("after")).order_by(_superseded.c.number)
_SUPERSEDERS = select(_superseded).where(_superseded.c.segment_id.in_(bindparam("ids", expanding=True)))
_EPOCH = select(schema.state.c.epoch)
_THIS = select(_segments).where(_segments.c.id == bindparam("segment"))
_NUMBER = select(_segments.c.number).where(_segments.c.id == bindparam("of")).scalar_subquery()
_NUMBERS = select(_segments.c.number, _segments.c.id).where(_segments.c.id.in_(bindparam("ids", expanding=True)))
_MINE = (_segments.c.id == bindparam("of"), _segments.c.superseded_by.is_not(None))
_TO_FORGET = select(_segments.c.number).where(*_MINE).with_for_update()
_NOTE = (
    update(_wear)
    .where(_wear.c.segment == _NUMBER, _wear.c.dead == bindparam("seen"))
    .values(dead=bindparam("now_dead"))
)
_CLAIM = (
    update(_wear)
    .where(
        _wear.c.segment.in_(bindparam("numbers", expanding=True)),
        or_(
            _wear.c.compactor.is_(None),
            _wear.c.compactor == bindparam("volume"),
            _wear.c.compactor.in_(not_holders()),
        ),
    )
    .values(compactor=bindparam("volume"))
    .returning(_wear.c.segment)
)
_TOMBSTONED = select(_tombstones.c.record, _tombstones.c.position).where(
    _tombstones.c.record.in_(bindparam("records", expanding=True))
)
_BURIED = (
    select(_tombstones.c.record, func.count())
    .where(_tombstones.c.record.in_(bindparam("records", expanding=True)))
    .group_by(_tombstones.c.record)
)
_SUPERSEDE = (
    update(_segments)
    .where(_segments.c.id.in_(bindparam("ids", expanding=True)), _segments.c.superseded_by.is_(None))
    .values(superseded_by=bindparam("by"))
)
_LEAVE = delete(_locations).where(
    _locations.c.message.in_(bindparam("ids", expanding=True)), _locations.c.segment == bindparam("left")
)
_HERE = (
    select(_messages.c.id)
    .where(_messages.c.id.in_(bindparam("ids", expanding=True)), _messages.c.segment == bindparam("left"))
    .order_by(_messages.c.id)
    .with_for_update()
)
_DELETE = delete(_messages).where(_messages.c.id.in_(bindparam("ids", expanding=True)))
_BACK = update(_segments).where(*_MINE).values(cursor=0)
_UNWORN = delete(_wear).where(_wear.c.segment == select(_segments.c.number).where(*_MINE).scalar_subquery())


@once_for
def _stands_for(dialect: str) -> Insert:
    return (
        insert_for(dialect, _superseded)
        .values(segment_id=bindparam("segment_id"), by_id=bindparam("by_id"))
        .on_conflict_do_nothing()
    )


def worn_segments(connection: Connection, volume: VolumeId, percent: int) -> list[WornSegment]:
    """See `Catalog.worn_segments`."""
    rows = connection.execute(_WORN, {"volume": volume, "percent": percent}).all()
    states = segments(connection, [SegmentId(bytes(row.id)) for row in rows])
    return [
        WornSegment(
            states[SegmentId(bytes(row.id))],
            row.dead,
            None if row.compactor is None else VolumeId(bytes(row.compactor)),
        )
        for row in rows
    ]


def note_wear(connection: Connection, segment: SegmentId, seen: int, dead: int) -> None:
    """See `Catalog.note_wear`."""
    connection.execute(_NOTE, {"of": segment, "seen": seen, "now_dead": dead})


def claim(connection: Connection, wanted: Sequence[SegmentId], volume: VolumeId) -> set[SegmentId]:
    """See `Catalog.claim_compaction`."""
    numbers = {row.number: row.id for row in connection.execute(_NUMBERS, {"ids": list(wanted)})}
    granted = connection.scalars(_CLAIM, {"numbers": list(numbers), "volume": volume})
    return {SegmentId(bytes(numbers[number])) for number in granted}


def tombstoned(connection: Connection, records: Sequence[bytes]) -> set[PlacementId]:
    """See `Catalog.tombstoned`."""
    found = set()
    for start in range(0, len(records), PIECE):
        rows = connection.execute(_TOMBSTONED, {"records": list(records[start : start + PIECE])})
        found |= {PlacementId(bytes(record), position) for record, position in rows}
    return found


def supersede(
    connection: Connection, output: SegmentFacts, length: int, inputs: Sequence[SegmentId], epoch: int
) -> bool:
    """See `Catalog.supersede`. Runs alone: no registration of an input is under way beside it."""
    if connection.scalar(_EPOCH) != epoch:
        raise EpochPassed(f"epoch {epoch} is over")
    row = connection.execute(_THIS, {"segment": output.id}).one_or_none()
    if row is None or row.sealed_length != length or row.cursor < length or row.superseded_by is not None:
        return False
    for start in range(0, len(inputs), PIECE):
        piece = list(inputs[start : start + PIECE])
        rows = [{"segment_id": segment, "by_id": output.id} for segment in piece]
        connection.execute(_stands_for(connection.dialect.name), rows)
        connection.execute(_SUPERSEDE, {"ids": piece, "by": output.id})
    count_told(connection, output.writer)
    return True


def superseded_since(connection: Connection, number: int) -> list[Superseded]:
    """See `Catalog.superseded_since`. Numbers are given out by transactions that run alone, so none comes late."""
    rows = connection.execute(_SUPERSEDED_SINCE, {"after": number})
    return [Superseded(row.number, SegmentId(bytes(row.segment_id)), SegmentId(bytes(row.by_id))) for row in rows]


def stands_for(connection: Connection, wanted: Sequence[SegmentId]) -> dict[SegmentId, SegmentId]:
    """See `Catalog.stands_for`."""
    heads: dict[SegmentId, SegmentId] = {}
    open_ends = {segment: segment for segment in wanted}
    while open_ends:
        above = _superseders(connection, list(set(open_ends.values())))
        heads.update({segment: at for segment, at in open_ends.items() if at not in above and at != segment})
        open_ends = {segment: above[at] for segment, at in open_ends.items() if at in above}
    return heads


def _superseders(connection: Connection, ids: Sequence[SegmentId]) -> dict[SegmentId, SegmentId]:
    found = {}
    for start in range(0, len(ids), PIECE):
        rows = connection.execute(_SUPERSEDERS, {"ids": list(ids[start : start + PIECE])})
        found.update({SegmentId(bytes(row.segment_id)): SegmentId(bytes(row.by_id)) for row in rows})
    return found


def forget_locations(
    connection: Connection, segment: SegmentId, records: Sequence[tuple[MessageId, int]]
) -> list[MessageId]:
    """See `Catalog.forget_locations`."""
    number = connection.scalar(_TO_FORGET, {"of": segment})
    if number is None:
        return []
    placements = dict(records)
    ids = sorted(placements)
    kept: list[MessageId] = []
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        connection.execute(_LEAVE, {"ids": piece, "left": number})
        here = connection.scalars(_HERE, {"ids": piece, "left": number}).all()
        rest = relocate(connection, here)
        buried = {bytes(record): count for record, count in connection.execute(_BURIED, {"records": rest})}
        dead = [m for m in rest if 0 < placements[MessageId(bytes(m))] <= buried.get(bytes(m), 0)]
        connection.execute(_DELETE, {"ids": dead})
        kept += [MessageId(bytes(m)) for m in rest if m not in set(dead)]
    return kept


def forgotten(connection: Connection, segment: SegmentId) -> None:
    """See `Catalog.forgotten`."""
    connection.execute(_BACK, {"of": segment})
    connection.execute(_UNWORN, {"of": segment})
