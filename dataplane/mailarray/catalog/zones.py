"""Segments that would be lost with certain volumes: those of one zone, for example.

Invariant, as for `replicas.short_segments`: a segment that was looked at while it was sealed can be found only by
another set of volumes. So who looks again with the same set needs to see those that were found, and those that were
not sealed yet or came since.

Called by `tracking/spreading.py` by way of `Catalog.held_by_none_of`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, exists, func, or_, select

from mailarray.catalog import schema
from mailarray.catalog.catalog import LookedAt, ShortSegment, ShortSegments
from mailarray.catalog.holders import PIECE, facts_of, members_of, replicas_of
from mailarray.catalog.replicas import LATE_ROWS
from mailarray.model.ids import VolumeId

_segments, _members, _replicas = schema.segments, schema.segment_members, schema.segment_replicas


def held_by_none_of(
    connection: Connection, counting: Collection[VolumeId], others: Collection[VolumeId], before: LookedAt | None
) -> ShortSegments:
    """See `Catalog.held_by_none_of`."""
    newest = connection.scalar(select(func.max(_segments.c.number))) or 0
    if before is not None and (before.number > newest or len(before.short) > PIECE):
        before = None  # another table than it was, or so much that looking at all costs no more
    unseen = _segments.c.number > (0 if before is None else before.number)
    unsealed = select(func.min(_segments.c.number)).where(unseen, _segments.c.sealed_length.is_(None))
    first_unsealed = connection.scalar(unsealed) or newest + 1
    member = exists().where(_members.c.segment == _segments.c.number, _members.c.volume.in_(others))
    replica = exists().where(_replicas.c.segment_id == _segments.c.id, _replicas.c.volume.in_(others))
    rows = connection.execute(
        select(_segments)
        .where(unseen if before is None or not before.short else or_(unseen, _segments.c.id.in_(before.short)))
        .where(_segments.c.sealed_length > 0, _segments.c.superseded_by.is_(None), _segments.c.copies > 1)
        .where(~member, ~replica)
        .order_by(_segments.c.number)
    ).all()
    members = members_of(connection, [row.number for row in rows])
    replicas = replicas_of(connection, [bytes(row.id) for row in rows])
    counted = frozenset(counting)
    found = []
    for row in rows:
        original = members.get(row.number, ())
        every = (*original, *replicas.get(bytes(row.id), ()))
        holders = tuple(v for v in every if v in counted)
        found.append(ShortSegment(facts_of(row, original), row.sealed_length, holders, every))
    reached = max(0, min(newest + 1 - LATE_ROWS, first_unsealed) - 1)
    return ShortSegments(found, LookedAt(reached, tuple(s.facts.id for s in found)))
