"""Segments that compacted ones stand for, and how worn segments are. Only adds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two tables."""
    op.create_table(
        "superseded",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
        sa.Column("segment_id", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("by_id", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "segment_wear",
        sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("dead", sa.BigInteger, nullable=False),
        sa.Column("compactor", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
