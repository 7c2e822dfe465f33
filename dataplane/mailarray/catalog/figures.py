"""Counts for status and metrics."""

from __future__ import annotations

from sqlalchemy import Connection, Table, func, select

from mailarray.catalog import schema
from mailarray.catalog.catalog import CatalogCounts
from mailarray.catalog.holders import living_holders

_segments = schema.segments


def counts(connection: Connection) -> CatalogCounts:
    """See `Catalog.counts`."""
    live = _segments.c.superseded_by.is_(None)
    unsealed = select(func.count()).select_from(_segments).where(_segments.c.sealed_length.is_(None), live)
    short = (
        select(func.count())
        .select_from(_segments)
        .where(_segments.c.sealed_length > 0, live, living_holders(connection) < _segments.c.copies)
    )
    wear = schema.segment_wear.c
    dead = select(func.sum(wear.dead)).join_from(schema.segment_wear, _segments, _segments.c.number == wear.segment)
    dead = dead.where(live)
    return CatalogCounts(
        messages=_count(connection, schema.messages),
        placements=_count(connection, schema.placements),
        segments=connection.scalar(select(func.count()).select_from(_segments).where(live)) or 0,
        unsealed_segments=connection.scalar(unsealed) or 0,
        under_replicated_segments=connection.scalar(short) or 0,
        tombstones=_count(connection, schema.tombstones),
        dead_bytes=int(connection.scalar(dead) or 0),
    )


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
