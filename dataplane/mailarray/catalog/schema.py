"""The catalog's tables, once for SQLite and PostgreSQL. Statements elsewhere in this package are written against them.

Invariants:
- A message has one location in its own row and any more in `locations`; no placement without its message (rule 16).
- A placement whose id stands in `tombstones` does not exist (rule 21).
- `segments.cursor` <= `segments.sealed_length`, where there is one; rows up to the cursor are in (rules 17, 18).
- A segment that stands in `superseded` gets no rows any more, and `segments.superseded_by` says the same (rule 17).
- `mailboxes.uidnext` is above every UID that was ever given out in that mailbox.
- `mailboxes.used` is the sum of the sizes of its placements, or NULL when it was never counted (usage.py).
- `volumes.counter` only grows, and a lost volume stays lost (rule 19); a reset keeps both.

Ids are 16 raw bytes. Message ids begin with a time, so their B-trees grow at one end; that is why no surrogate
number stands in for them. Segments do have a number, since it is repeated in every location. Besides the primary
keys there are two indexes only (an address, a segment id): each further one would be paid for by every message.
This file describes the newest schema; what a database really has is made by `migrations`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

# SQLite numbers rows by itself only when the type is exactly INTEGER; PostgreSQL needs 64 bits.
_Number = BigInteger().with_variant(Integer(), "sqlite")


def _table(name: str, *columns: Column[object]) -> Table:
    """A table that SQLite keeps in its primary key's B-tree, without a second one for row numbers."""
    return Table(name, metadata, *columns, sqlite_with_rowid=False)


# One row. `uidvalidity` is what mailboxes made in this epoch get (RFC 9051 section 2.3.1.1).
state = _table(
    "state",
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
)

volumes = _table(
    "volumes",
    Column("id", LargeBinary, primary_key=True),
    Column("server", Text, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("caught_up_epoch", BigInteger, nullable=False),  # 0: never
    Column("retired", Boolean, nullable=False, server_default=false()),  # drained on purpose; may come back
)

beats = _table(
    "beats",
    Column("volume", LargeBinary, primary_key=True),
    Column("incarnation", LargeBinary, primary_key=True),
    Column("worker", Integer, primary_key=True),
    Column("counter", BigInteger, nullable=False),
)

segments = Table(
    "segments",
    metadata,
    Column("number", _Number, Identity(), primary_key=True),
    Column("id", LargeBinary, nullable=False, unique=True),
    Column("writer", LargeBinary, nullable=False),
    Column("incarnation", LargeBinary, nullable=False),
    Column("worker", Integer, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("sealed_length", BigInteger),
    Column("cursor", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),
    Column("superseded_by", LargeBinary),
)

segment_members = _table(
    "segment_members",
    Column("segment", _Number, ForeignKey(segments.c.number), primary_key=True),
    Column("position", Integer, primary_key=True),  # 0 is the writer
    Column("volume", LargeBinary, nullable=False),
)

# Repaired copies (see replicas.py). By id, not number: rows outlive a reset by a process that does not know them.
segment_replicas = _table(
    "segment_replicas",
    Column("segment_id", LargeBinary, primary_key=True),
    Column("volume", LargeBinary, primary_key=True),
)

# Segments that a compacted one stands for (see compaction.py), by id: most of them have no row any more. Numbered in
# the order in which they came, so that sidecars read only what is new.
superseded = Table(
    "superseded",
    metadata,
    Column("number", _Number, Identity(), primary_key=True),
    Column("segment_id", LargeBinary, nullable=False, unique=True),
    Column("by_id", LargeBinary, nullable=False),
)

# How worn a segment is: a hint that says where to look, no more. Only segments of which something was deleted.
segment_wear = _table(
    "segment_wear",
    Column("segment", BigInteger, primary_key=True, autoincrement=False),
    Column("dead", BigInteger, nullable=False),  # bytes of messages that lost a placement; a message may count often
    Column("compactor", LargeBinary),  # volume that compacts it
)

mailboxes = Table(
    "mailboxes",
    metadata,
    Column("id", _Number, Identity(), primary_key=True),
    Column("address", Text, nullable=False, unique=True),
    Column("uidnext", BigInteger, nullable=False),
    Column("uidvalidity", BigInteger, nullable=False),
    Column("used", BigInteger),  # bytes
)

messages = _table(
    "messages",
    Column("id", LargeBinary, primary_key=True),
    Column("received_at", BigInteger, nullable=False),  # microseconds since 1970, UTC
    Column("sender", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Column("segment", BigInteger, nullable=False),  # with `offset`: one location
    Column("offset", BigInteger, nullable=False),
)

# Further locations. Nearly all messages have one only, and a row here for each would cost a seventh of registering.
# No foreign keys among the big tables: they would be looked up once a row, and registration keeps them itself.
locations = _table(
    "locations",
    Column("message", LargeBinary, primary_key=True),
    Column("segment", BigInteger, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
)

placements = _table(
    "placements",
    Column("mailbox", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
    Column("position", Integer, nullable=False),  # of the mailbox in the record
    Column("message", LargeBinary, nullable=False),
    Column("recipient", Text),  # as the sender wrote it; NULL when it is the mailbox's address
    Column("flags", Integer, nullable=False, server_default=text("0")),
    Column("modseq", BigInteger, nullable=False, server_default=text("1")),
)

tombstones = _table(
    "tombstones",
    Column("record", LargeBinary, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("message", LargeBinary, nullable=False),
    Column("mailbox", Text, nullable=False),
)

# Deliveries seen within the last window or two, and copies that are to be dropped (see duplicates.py).
fingerprints = _table(
    "fingerprints",
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("mailbox", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, primary_key=True),
    Column("record", LargeBinary, nullable=False),
    Column("position", Integer, nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

duplicates = _table(
    "duplicates",
    Column("record", LargeBinary, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("volume", LargeBinary, nullable=False),  # that owes the tombstone
    Column("mailbox", BigInteger, nullable=False),
    Column("kept_record", LargeBinary, nullable=False),
    Column("kept_position", Integer, nullable=False),
    Column("kept_expunged", Boolean, nullable=False),
    Column("text_length", BigInteger, nullable=False),
)

leases = _table(
    "leases",
    Column("mailbox", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires", Double, nullable=False),  # seconds since 1970 by the database's clock
)
