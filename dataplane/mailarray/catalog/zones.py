"""Segments that would be lost with certain volumes: those of one zone, for example.

Invariant, as for `replicas.short_segments`, which shares the look (`replicas.find_sealed`): a segment that was looked
at while it was sealed can be found only by another set of volumes. So who looks again with the same set needs to see
those that were found, and those that were not sealed yet or came since.

Called by `tracking/spreading.py` by way of `Catalog.held_by_none_of`.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, exists

from mailarray.catalog import schema
from mailarray.catalog.replicas import find_sealed
from mailarray.catalog.rows import LookedAt, ShortSegments
from mailarray.model.ids import VolumeId

_segments, _members, _replicas = schema.segments, schema.segment_members, schema.segment_replicas


def held_by_none_of(
    connection: Connection, counting: Collection[VolumeId], others: Collection[VolumeId], before: LookedAt | None
) -> ShortSegments:
    """See `Catalog.held_by_none_of`."""
    member = exists().where(_members.c.segment == _segments.c.number, _members.c.volume.in_(others))
    replica = exists().where(_replicas.c.segment_id == _segments.c.id, _replicas.c.volume.in_(others))
    return find_sealed(connection, counting, before, _segments.c.copies > 1, ~member, ~replica)
