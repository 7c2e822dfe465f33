"""Segments that would be lost with certain volumes: those of one zone, for example.

Called by `tracking/spreading.py` by way of `Catalog.held_by_none_of`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, or_, select

from mailarray.catalog import schema
from mailarray.catalog.catalog import LookedAt, ShortSegment, ShortSegments
from mailarray.catalog.holders import PIECE, facts_of, holder_count, members_of, replicas_of
from mailarray.catalog.replicas import newest_number, reached_number
from mailarray.model.ids import VolumeId

_segments, _members, _replicas = schema.segments, schema.segment_members, schema.segment_replicas


def held_by_none_of(
    connection: Connection, counting: Collection[VolumeId], others: Collection[VolumeId], before: LookedAt | None
) -> ShortSegments:
    """See `Catalog.held_by_none_of`."""
    newest = newest_number(connection)
    if before is not None and (before.number > newest or len(before.short) > PIECE):
        before = None  # as in `replicas.short_segments`
    unseen = _segments.c.number > (0 if before is None else before.number)
    reached = reached_number(connection, newest, unseen)
    wanted = unseen if before is None or not before.short else or_(unseen, _segments.c.id.in_(before.short))
    elsewhere = holder_count(_members.c.volume.in_(others), _replicas.c.volume.in_(others))
    rows = connection.execute(
        select(_segments)
        .where(wanted, _segments.c.sealed_length > 0, _segments.c.superseded_by.is_(None), elsewhere == 0)
        .where(_segments.c.copies > 1)
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
    return ShortSegments(found, LookedAt(reached, tuple(s.facts.id for s in found)))
