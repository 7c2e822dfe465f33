"""Counts for status and metrics."""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, select

from mailarray.catalog import schema
from mailarray.catalog.holders import ByHolders, living
from mailarray.catalog.rows import CatalogCounts

_segments = schema.segments
_LIVE = _segments.c.superseded_by.is_(None)
_SHORT = ByHolders(
    living,
    lambda holders: (
        select(func.count())
        .select_from(_segments)
        .where(_segments.c.sealed_length > 0, _LIVE, holders < _segments.c.copies)
    ),
)


def counts(connection: Connection) -> CatalogCounts:
    """See `Catalog.counts`."""
    unsealed = select(func.count()).select_from(_segments).where(_segments.c.sealed_length.is_(None), _LIVE)
    wear = schema.segment_wear.c
    dead = select(func.sum(wear.dead)).join_from(schema.segment_wear, _segments, _segments.c.number == wear.segment)
    dead = dead.where(_LIVE)
    return CatalogCounts(
        messages=_count(connection, schema.messages),
        placements=_count(connection, schema.placements),
        segments=connection.scalar(select(func.count()).select_from(_segments).where(_LIVE)) or 0,
        unsealed_segments=connection.scalar(unsealed) or 0,
        under_replicated_segments=connection.scalar(_SHORT.of(connection)) or 0,
        tombstones=_count(connection, schema.tombstones),
        dead_bytes=int(connection.scalar(dead) or 0),
    )


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
