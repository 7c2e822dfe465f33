"""Repaired copies: volumes that hold a whole sealed segment beyond its original members, and what is short of copies.

Invariants (rules 8 and 13):

- A replica stands here only for a sealed segment that was held up to L when it was told, on a volume that is neither
  lost nor an original member. It never takes part in agreeing on L.
- A lost or retired volume is no holder, whatever rows it has: rows are not removed, since nothing may depend on it.
- A segment that was looked at while it was sealed can become short only by another set of counting volumes. So who
  looks again with the same set needs to see those that were short, and those that were not sealed yet or came since.

Rows name the segment by its id: a process of the version before, which resets the catalog without knowing this table,
leaves rows that are still true.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, or_, select

from mailarray.catalog import schema
from mailarray.catalog.holders import PIECE, ByHolders, count_told, counted, facts_of, members_of, replicas_of
from mailarray.catalog.rows import LookedAt, NamedSegments, ShortSegment, ShortSegments
from mailarray.catalog.sql import Insert, insert_for, once_for
from mailarray.model.ids import SegmentId, VolumeId

# Rows of PostgreSQL may appear out of their order, when transactions run side by side: so many are looked at again.
LATE_ROWS = 1000

_segments, _members, _replicas, _volumes = (
    schema.segments,
    schema.segment_members,
    schema.segment_replicas,
    schema.volumes,
)

_TO_COPY = (
    select(_segments.c.number, _segments.c.sealed_length, _segments.c.superseded_by)
    .where(_segments.c.id == bindparam("segment"))
    .with_for_update()
)
_LOST = select(_volumes.c.lost).where(_volumes.c.id == bindparam("volume"))
_POSITION = select(_members.c.position).where(
    _members.c.segment == bindparam("row"), _members.c.volume == bindparam("volume")
)
_UNSEEN = _segments.c.number > bindparam("seen")
_NEWEST = select(func.max(_segments.c.number))
_FIRST_UNSEALED = select(func.min(_segments.c.number)).where(
    _UNSEEN,
    _segments.c.sealed_length.is_(None),
    _segments.c.superseded_by.is_(None),  # a restored catalog may have such a row unsealed for ever, and nobody looks
)
_NAMED = (
    select(_segments.c.id)
    .join(_members, _members.c.segment == _segments.c.number)
    .where(
        _UNSEEN,
        _members.c.volume == bindparam("member"),
        _segments.c.sealed_length > 0,
        _segments.c.superseded_by.is_(None),
    )
)


@once_for
def _insert(dialect: str) -> Insert:
    columns: dict[str, Any] = {name: bindparam(name) for name in ("segment_id", "volume")}
    return insert_for(dialect, _replicas).values(columns).on_conflict_do_nothing()


def add_replica(connection: Connection, segment: SegmentId, volume: VolumeId, length: int) -> bool:
    """See `Catalog.add_replica`."""
    row = connection.execute(_TO_COPY, {"segment": segment}).one_or_none()
    if row is None or row.sealed_length != length or row.superseded_by is not None:
        return False
    lost = connection.scalar(_LOST, {"volume": volume})
    if lost is None or lost:
        return False
    if connection.scalar(_POSITION, {"row": row.number, "volume": volume}) is None:
        insert = _insert(connection.dialect.name)
        added = connection.execute(insert, {"segment_id": segment, "volume": volume}).rowcount
        if added:
            count_told(connection, volume)
    return True


class Look:
    """Sealed segments, not superseded, of which all that is true: the statements, made once where they can be."""

    def __init__(self, *which: ColumnElement[bool]) -> None:
        every = select(_segments).where(_segments.c.sealed_length > 0, _segments.c.superseded_by.is_(None), *which)
        self.unseen = every.where(_UNSEEN).order_by(_segments.c.number)
        seen_short = _segments.c.id.in_(bindparam("short", expanding=True))
        self.again = every.where(or_(_UNSEEN, seen_short)).order_by(_segments.c.number)


_SHORT = ByHolders(counted, lambda holders: Look(holders < _segments.c.copies))


def short_segments(
    connection: Connection, counting: Collection[VolumeId], before: LookedAt | None = None
) -> ShortSegments:
    """See `Catalog.short_segments`."""
    return _find(connection, counting, before, _SHORT.of(connection), {"counting": list(counting)})


def find_sealed(
    connection: Connection, counting: Collection[VolumeId], before: LookedAt | None, *which: ColumnElement[bool]
) -> ShortSegments:
    """Sealed segments, not superseded, of which all that is true; `before` as in `Catalog.short_segments`."""
    return _find(connection, counting, before, Look(*which), {})


def _find(
    connection: Connection,
    counting: Collection[VolumeId],
    before: LookedAt | None,
    look: Look,
    parameters: dict[str, object],
) -> ShortSegments:
    newest = _newest(connection)
    if before is not None and (before.number > newest or len(before.short) > PIECE):
        before = None  # another table than it was, or so much that looking at all costs no more
    seen = 0 if before is None else before.number
    reached = _reached(connection, newest, seen)
    if before is None or not before.short:
        rows = connection.execute(look.unseen, {**parameters, "seen": seen}).all()
    else:
        rows = connection.execute(look.again, {**parameters, "seen": seen, "short": list(before.short)}).all()
    members = members_of(connection, [row.number for row in rows])
    replicas = replicas_of(connection, [bytes(row.id) for row in rows])
    counts = frozenset(counting)
    found = []
    for row in rows:
        original = members.get(row.number, ())
        every = (*original, *replicas.get(bytes(row.id), ()))
        holders = tuple(v for v in every if v in counts)
        found.append(ShortSegment(facts_of(row, original), row.sealed_length, holders, every))
    return ShortSegments(found, LookedAt(reached, tuple(s.facts.id for s in found)))


def named_segments(connection: Connection, member: VolumeId, after: int) -> NamedSegments:
    """See `Catalog.named_segments`."""
    newest = _newest(connection)
    seen = after if after <= newest else 0
    found = connection.scalars(_NAMED, {"seen": seen, "member": member})
    return NamedSegments([SegmentId(bytes(id)) for id in found], _reached(connection, newest, seen))


def _newest(connection: Connection) -> int:
    return connection.scalar(_NEWEST) or 0


def _reached(connection: Connection, newest: int, seen: int) -> int:
    """Rows up to the answer change no more, as far as they are sealed or not."""
    unsealed = connection.scalar(_FIRST_UNSEALED, {"seen": seen})
    return max(0, min(newest + 1 - LATE_ROWS, newest + 1 if unsealed is None else unsealed) - 1)
