"""Alembic's entry: run by `upgrade` with an open connection, never from a command line."""

from __future__ import annotations

from alembic import context

from mailarray.catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
