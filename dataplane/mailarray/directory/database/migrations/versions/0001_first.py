"""The first schema."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SCHEMA = "accounts"
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables, and revision 0."""
    op.create_table(
        "account",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("password_hash", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("quota", sa.BigInteger),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("revision", _NUMBER, nullable=False),
        schema=_SCHEMA,
    )
    op.create_index("account_revision", "account", ["revision"], schema=_SCHEMA)
    op.create_table(
        "alias",
        sa.Column("address", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("revision", _NUMBER, nullable=False),
        schema=_SCHEMA,
    )
    op.create_index("alias_revision", "alias", ["revision"], schema=_SCHEMA)
    op.create_index("alias_account", "alias", ["account"], schema=_SCHEMA)
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", _NUMBER, nullable=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        schema=_SCHEMA,
    )
    revisions = op.create_table(
        "revisions",
        sa.Column("revision", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("stamp", sa.BigInteger, nullable=False),
        schema=_SCHEMA,
    )
    stamp = secrets.randbits(63)
    op.bulk_insert(state, [{"id": 1, "revision": 0, "stamp": stamp}])
    op.bulk_insert(revisions, [{"revision": 0, "stamp": stamp}])
