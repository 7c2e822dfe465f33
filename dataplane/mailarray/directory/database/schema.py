"""The accounts' tables, as the newest migration leaves them.

Invariants:
- Every change happens in a transaction that holds the row of `state` (`changes.py`), so revisions are committed in
  their order: who has seen revision n has missed nothing up to n.
- A row carries the revision that changed it last. What was removed stays as a row with `removed`, without its secrets:
  that is how a snapshot hears of it.
- `revisions` keeps a random stamp for each revision. A database that was restored from a backup, or made anew, gives
  the same numbers out again, but not the same stamps: who finds its own stamp gone reads everything again.
- An address is one account or one alias, never both; kept by `changes.py` under the row of `state`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table, Text, false, text, true

SCHEMA = "accounts"
VERSION_TABLE = "version"

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(schema=SCHEMA)

account = Table(
    "account",
    metadata,
    Column("address", Text, primary_key=True),  # canonical
    Column("password_hash", Text, nullable=False, server_default=text("''")),  # argon2; empty: no login
    Column("quota", BigInteger),  # bytes
    Column("enabled", Boolean, nullable=False, server_default=true()),  # false: mail is taken, nobody can log in
    Column("created", BigInteger, nullable=False),  # seconds since 1970
    Column("changed", BigInteger, nullable=False),  # seconds since 1970
    Column("removed", Boolean, nullable=False, server_default=false()),
    Column("revision", _NUMBER, nullable=False),
    Index("account_revision", "revision"),
)

alias = Table(
    "alias",
    metadata,
    Column("address", Text, primary_key=True),  # canonical
    Column("account", Text, nullable=False),  # address of the account
    Column("removed", Boolean, nullable=False, server_default=false()),
    Column("revision", _NUMBER, nullable=False),
    Index("alias_revision", "revision"),
    Index("alias_account", "account"),
)

# One row, id 1: the newest revision. Locked by every change.
state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", _NUMBER, nullable=False),
    Column("stamp", BigInteger, nullable=False),
)

# At most one row, id 1: when a person said last that this history is to be followed though it has few accounts.
accepted = Table(
    "accepted",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),  # seconds since 1970
)

revisions = Table(
    "revisions",
    metadata,
    Column("revision", _NUMBER, primary_key=True, autoincrement=False),
    Column("stamp", BigInteger, nullable=False),
)
