"""Repaired copies beyond `copies`: which there are, and how one leaves (rule 25).

Invariants:

- One leaves a segment at a time, under the lock of the segment's row: its own row goes in the transaction that looks
  whether all on whose word it leaves stand there still, on `copies` hosts at least.
- Only a repaired copy leaves. Original members are for ever.
- That one left counts like a registration of its volume, so that a catalog restored to before is noticed (rule 19).
  Rows that such a catalog brings back, and that are true no more, are removed by the volume that they name.

Called by `tracking/giving_back.py` and `tracking/replica_rows.py` by way of `Catalog`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, bindparam, delete, select, update

from mailarray.catalog import schema
from mailarray.catalog.catalog import EpochPassed
from mailarray.catalog.holders import PIECE, count_told, members_of, replicas_of, volume_count
from mailarray.catalog.replicas import find_sealed
from mailarray.catalog.rows import ShortSegment
from mailarray.contract.server_names import host_of
from mailarray.model.ids import SegmentId, VolumeId

_segments, _replicas, _volumes = schema.segments, schema.segment_replicas, schema.volumes
_state, _wear = schema.state, schema.segment_wear

_STATE = select(_state.c.epoch, _state.c.open)
_LEFT = (
    select(
        _segments.c.number,
        _segments.c.sealed_length,
        _segments.c.cursor,
        _segments.c.copies,
        _segments.c.superseded_by,
    )
    .where(_segments.c.id == bindparam("segment"))
    .with_for_update()
)
_LEAVE = delete(_replicas).where(
    _replicas.c.segment_id == bindparam("segment"), _replicas.c.volume == bindparam("leaving")
)
_RELEASE = (
    update(_wear)
    .where(_wear.c.segment == bindparam("row"), _wear.c.compactor == bindparam("leaving"))
    .values(compactor=None)
)
_NAMES = select(_volumes.c.id, _volumes.c.server).where(
    _volumes.c.id.in_(bindparam("ids", expanding=True)), ~_volumes.c.lost, ~_volumes.c.retired
)
_COUNTER = select(_volumes.c.counter).where(_volumes.c.id == bindparam("volume"))
_ROWS_OF = (
    select(_replicas.c.segment_id)
    .join(_segments, _segments.c.id == _replicas.c.segment_id)
    .where(
        _replicas.c.volume == bindparam("volume"), _segments.c.sealed_length > 0, _segments.c.superseded_by.is_(None)
    )
)


def surplus_segments(connection: Connection, volume: VolumeId, counting: Collection[VolumeId]) -> list[ShortSegment]:
    """See `Catalog.surplus_segments`. By volumes: of two on one host one may go, and the caller knows the hosts."""
    here = select(_replicas.c.segment_id).where(_replicas.c.volume == volume)
    count = volume_count(lambda holder: holder.in_(counting))
    registered = _segments.c.cursor >= _segments.c.sealed_length
    return find_sealed(connection, counting, None, _segments.c.id.in_(here), registered, count > _segments.c.copies)[0]


def give_back(
    connection: Connection,
    segment: SegmentId,
    volume: VolumeId,
    length: int,
    staying: Collection[VolumeId],
    epoch: int,
) -> int | None:
    """See `Catalog.give_back`. A new epoch runs alone, so it cannot begin between this look and the end."""
    now = connection.execute(_STATE).one()
    if now.epoch != epoch:
        raise EpochPassed(f"what was asked in epoch {epoch} is void: it is over")
    row = connection.execute(_LEFT, {"segment": segment}).one_or_none()
    if not now.open or row is None or row.superseded_by is not None:
        return None
    if row.sealed_length != length or row.cursor < length:
        return None
    holders = {
        *members_of(connection, [row.number]).get(row.number, ()),
        *replicas_of(connection, [segment]).get(segment, ()),
    }
    if volume in staying or not holders.issuperset(staying):
        return None
    names = {bytes(of.id): of.server for of in connection.execute(_NAMES, {"ids": list(staying)})}
    if len(names) < len(set(staying)) or not all(names.values()):
        return None
    if len({host_of(name) for name in names.values()}) < row.copies:
        return None
    if not connection.execute(_LEAVE, {"segment": segment, "leaving": volume}).rowcount:
        return None
    connection.execute(_RELEASE, {"row": row.number, "leaving": volume})
    count_told(connection, volume)
    counter = connection.scalar(_COUNTER, {"volume": volume})
    return 0 if counter is None else int(counter)


def replicas_on(connection: Connection, volume: VolumeId) -> set[SegmentId]:
    """See `Catalog.replicas_on`."""
    return {SegmentId(bytes(id)) for id in connection.scalars(_ROWS_OF, {"volume": volume})}


def forget_replicas(connection: Connection, volume: VolumeId, segments: Collection[SegmentId]) -> None:
    """See `Catalog.forget_replicas`."""
    wanted = sorted(segments)
    removed = 0
    for start in range(0, len(wanted), PIECE):
        rows = _replicas.c.segment_id.in_(wanted[start : start + PIECE])
        removed += connection.execute(delete(_replicas).where(rows, _replicas.c.volume == volume)).rowcount
    if removed:
        count_told(connection, volume)
