"""Mailbox locks: leases, which end by themselves by the database's clock, so that a dead holder blocks nobody long."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, delete, literal_column, or_

from mailarray.catalog import schema
from mailarray.catalog.sql import insert_for

_leases = schema.leases

# Seconds since 1970. The clock itself, not the begin of the transaction: that may have waited for a lock.
_CLOCKS: dict[str, ColumnElement[Any]] = {
    "postgresql": literal_column("extract(epoch FROM clock_timestamp())::double precision", Double),
    "sqlite": literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double),
}


def acquire_lease(connection: Connection, mailbox: str, holder: str, seconds: float) -> bool:
    """See `Catalog.acquire_lease`."""
    now = _CLOCKS[connection.dialect.name]
    statement = insert_for(connection.dialect.name, _leases).values(
        mailbox=mailbox, holder=holder, expires=now + seconds
    )
    result = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[_leases.c.mailbox],
            set_={"holder": statement.excluded.holder, "expires": statement.excluded.expires},
            where=or_(_leases.c.holder == holder, _leases.c.expires <= now),
        ).returning(_leases.c.holder)
    )
    return result.one_or_none() is not None


def release_lease(connection: Connection, mailbox: str, holder: str) -> None:
    """See `Catalog.release_lease`."""
    connection.execute(delete(_leases).where(_leases.c.mailbox == mailbox, _leases.c.holder == holder))
