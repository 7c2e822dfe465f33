"""When a person accepted a history that has few accounts. Versions before do not look at it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SCHEMA = "accounts"


def upgrade() -> None:
    """Add the table, empty."""
    op.create_table(
        "accepted",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        schema=_SCHEMA,
    )
