"""Deliveries seen lately, and copies that are to be dropped. Only adds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two tables that processes of the version before leave empty."""
    op.create_table(
        "fingerprints",
        sa.Column("bucket", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("mailbox", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "duplicates",
        sa.Column("record", sa.LargeBinary, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("volume", sa.LargeBinary, nullable=False),
        sa.Column("mailbox", sa.BigInteger, nullable=False),
        sa.Column("kept_record", sa.LargeBinary, nullable=False),
        sa.Column("kept_position", sa.Integer, nullable=False),
        sa.Column("kept_expunged", sa.Boolean, nullable=False),
        sa.Column("text_length", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
