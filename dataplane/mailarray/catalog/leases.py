"""Mailbox locks: leases, which end by themselves by the database's clock, so that a dead holder blocks nobody long."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, bindparam, delete, literal_column, or_
from sqlalchemy.sql.dml import ReturningInsert

from mailarray.catalog import schema
from mailarray.catalog.sql import insert_for, once_for

_leases = schema.leases

# Seconds since 1970. The clock itself, not the begin of the transaction: that may have waited for a lock.
_CLOCKS: dict[str, ColumnElement[Any]] = {
    "postgresql": literal_column("extract(epoch FROM clock_timestamp())::double precision", Double),
    "sqlite": literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double),
}
_RELEASE = delete(_leases).where(_leases.c.mailbox == bindparam("of"), _leases.c.holder == bindparam("by"))


@once_for
def _acquire(dialect: str) -> ReturningInsert[Any]:
    now = _CLOCKS[dialect]
    statement = insert_for(dialect, _leases).values(
        mailbox=bindparam("mailbox"), holder=bindparam("holder"), expires=now + bindparam("seconds", type_=Double)
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_leases.c.mailbox],
        set_={"holder": new.holder, "expires": new.expires},
        where=or_(_leases.c.holder == new.holder, _leases.c.expires <= now),
    ).returning(_leases.c.holder)


def acquire_lease(connection: Connection, mailbox: str, holder: str, seconds: float) -> bool:
    """See `Catalog.acquire_lease`."""
    asked = {"mailbox": mailbox, "holder": holder, "seconds": seconds}
    result = connection.execute(_acquire(connection.dialect.name), asked)
    return result.one_or_none() is not None


def release_lease(connection: Connection, mailbox: str, holder: str) -> None:
    """See `Catalog.release_lease`."""
    connection.execute(_RELEASE, {"of": mailbox, "by": holder})
