"""The one statement that SQLAlchemy spells differently for the two databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_for(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """INSERT with ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def upsert(
    connection: Connection, table: Table, row: Mapping[str, Any], changes: Sequence[str]
) -> postgresql.Insert | sqlite.Insert:
    """Insert the row, or set those columns of the one with the same primary key."""
    statement = insert_for(connection, table).values(**row)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_={name: statement.excluded[name] for name in changes}
    )
