"""Alembic's entry: run by `upgrade_if_needed` with an open connection, never from a command line."""

from __future__ import annotations

from alembic import context

from mailarray.directory.database.schema import SCHEMA, VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
