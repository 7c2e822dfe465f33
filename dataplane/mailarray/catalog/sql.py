"""The one statement that SQLAlchemy spells differently for the two databases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache as once_for

from sqlalchemy import Table, bindparam
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_for(dialect: str, table: Table) -> Insert:
    """INSERT with ON CONFLICT, for the database of that name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@once_for
def upsert(dialect: str, table: Table, changes: Sequence[str]) -> Insert:
    """Insert a row, given with the call, or set those columns of the one with the same primary key."""
    statement = insert_for(dialect, table).values({column.name: bindparam(column.name) for column in table.columns})
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={name: statement.excluded[name] for name in changes}
    )


__all__ = ["Insert", "insert_for", "once_for", "upsert"]
