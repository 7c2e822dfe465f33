"""Repaired copies beyond a segment's members; volumes that were drained on purpose. Only adds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A table, and a column whose default suits processes that do not know it."""
    op.create_table(
        "segment_replicas",
        sa.Column("segment_id", sa.LargeBinary, primary_key=True, autoincrement=False),
        sa.Column("volume", sa.LargeBinary, primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.add_column("volumes", sa.Column("retired", sa.Boolean, nullable=False, server_default=sa.false()))
