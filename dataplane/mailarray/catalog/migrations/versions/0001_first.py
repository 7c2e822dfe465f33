"""The first schema."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _clustered(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(name, *columns, sqlite_with_rowid=False)


def upgrade() -> None:
    """Make all tables, and the one row of `state`."""
    state = op.create_table(
        "state",
        _key("id", sa.Integer),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("uidvalidity", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    # UIDVALIDITY is a time, so that a catalog made anew never repeats an older one's.
    op.bulk_insert(state, [{"id": 1, "epoch": 1, "open": False, "uidvalidity": int(time.time())}])
    _clustered(
        "volumes",
        _key("id", sa.LargeBinary),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("lost", sa.Boolean, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("caught_up_epoch", sa.BigInteger, nullable=False),
    )
    _clustered(
        "beats",
        _key("volume", sa.LargeBinary),
        _key("incarnation", sa.LargeBinary),
        _key("worker", sa.Integer),
        sa.Column("counter", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "segments",
        sa.Column("number", _NUMBER, sa.Identity(), primary_key=True),
        sa.Column("id", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("writer", sa.LargeBinary, nullable=False),
        sa.Column("incarnation", sa.LargeBinary, nullable=False),
        sa.Column("worker", sa.Integer, nullable=False),
        sa.Column("copies", sa.Integer, nullable=False),
        sa.Column("sealed_length", sa.BigInteger),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("acknowledged", sa.BigInteger, nullable=False),
        sa.Column("superseded_by", sa.LargeBinary),
    )
    _clustered(
        "segment_members",
        sa.Column("segment", _NUMBER, sa.ForeignKey("segments.number"), primary_key=True, autoincrement=False),
        _key("position", sa.Integer),
        sa.Column("volume", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mailboxes",
        sa.Column("id", _NUMBER, sa.Identity(), primary_key=True),
        sa.Column("address", sa.Text, nullable=False, unique=True),
        sa.Column("uidnext", sa.BigInteger, nullable=False),
        sa.Column("uidvalidity", sa.BigInteger, nullable=False),
    )
    _clustered(
        "messages",
        _key("id", sa.LargeBinary),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
    )
    _clustered(
        "locations",
        _key("message", sa.LargeBinary),
        _key("segment", sa.BigInteger),
        _key("offset", sa.BigInteger),
    )
    _clustered(
        "placements",
        _key("mailbox", sa.BigInteger),
        _key("uid", sa.BigInteger),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("recipient", sa.Text),
        sa.Column("flags", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("modseq", sa.BigInteger, nullable=False, server_default=sa.text("1")),
    )
    _clustered(
        "tombstones",
        _key("record", sa.LargeBinary),
        _key("position", sa.Integer),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("mailbox", sa.Text, nullable=False),
    )
    _clustered(
        "leases",
        _key("mailbox", sa.Text),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Rows that change with every batch: room on their pages keeps the updates off the indexes (HOT).
        for table in ("mailboxes", "segments", "volumes"):
            op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
