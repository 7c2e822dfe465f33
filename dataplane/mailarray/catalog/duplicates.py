"""Messages that were delivered twice because the sender never heard our 250: found when they are registered.

Two placements in one mailbox are the same delivery when their messages have the same fingerprint (Message-ID, length
and checksum of the text), the same sender and the same recipient, and were received within the window of each other.

Invariants, so that of two copies never both are dropped:

- Of two copies only the one with the higher record id may ever be dropped, whoever finds them, in whatever order they
  are registered, in whatever epoch: two catalogs that know nothing of each other decide alike. So the lowest of any
  number of copies is never dropped.
- Registration drops nothing: it makes both placements, and a row in `duplicates`, which the volume that registered owes
  (`tracking/deduplicating.py`) and which a crash does not forget; every other volume owes it too once that one is lost
  or was emptied. Before the copy goes by a journalled tombstone, the one that stays is there, or had been expunged
  before the copy was registered.
- While the catalog is closed, only what was received within the last window is looked at: older copies were dropped
  long ago, by tombstones that a rebuild finds, but a restored database has forgotten what was owed.

    fingerprints   (bucket, mailbox, hash) -> record, position, received_at       the lowest record of that delivery
    bucket         received_at / window: what is past the window is removed by the bucket, without an index of its own

All placements of one mailbox are registered one after another (its row is locked), so none slips by another. This file
decides; `registration_sqlite` and `registration_postgresql` fetch and write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, exists, select, tuple_, update

from mailarray.catalog import schema
from mailarray.catalog.holders import not_holders
from mailarray.catalog.mailboxes import segments_by_number
from mailarray.catalog.rows import Duplicate, Held, Location, MessageRow
from mailarray.model.ids import MessageId, PlacementId, VolumeId

_HASH_BYTES = 16
_LENGTH_BYTES = 8  # of a fingerprint: the text's length comes first

_duplicates, _fingerprints = schema.duplicates, schema.fingerprints
_messages, _locations, _placements, _boxes = schema.messages, schema.locations, schema.placements, schema.mailboxes

_OWED = (
    select(_duplicates, _boxes.c.address)
    .join(_boxes, _boxes.c.id == _duplicates.c.mailbox)
    .where((_duplicates.c.volume == bindparam("by")) | _duplicates.c.volume.in_(not_holders()))
    .order_by(_duplicates.c.record, _duplicates.c.position)
    .limit(bindparam("at_most"))
)
_OWED_FROM = _OWED.where(
    tuple_(_duplicates.c.record, _duplicates.c.position) >= tuple_(bindparam("record"), bindparam("position"))
)
_PAST = delete(_fingerprints).where(_fingerprints.c.bucket < bindparam("first"))


class Seen(NamedTuple):
    """A placement, as the table of fingerprints knows it."""

    bucket: int
    mailbox: int
    hash: bytes
    record: bytes
    position: int
    received_at: int
    text_length: int = 0  # of one just made


class Pair(NamedTuple):
    """Two placements of one delivery."""

    mailbox: int
    dropped: tuple[bytes, int]  # the higher one
    kept: tuple[bytes, int]


def hash_of(message: MessageRow, recipient: str) -> bytes:
    """What a delivery is known by within its mailbox."""
    envelope = f"{message.sender}\0{recipient}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(message.fingerprint + envelope, digest_size=_HASH_BYTES).digest()


def seen(placed: Iterable[tuple[MessageRow, int, int]], window: int, since: int = 0) -> list[Seen]:
    """(message, position, mailbox's number) of placements just made -> those that can be told apart, received since."""
    return [
        Seen(
            m.received_at // window,
            box,
            hash_of(m, m.deliveries[position][1]),
            m.id,
            position,
            m.received_at,
            int.from_bytes(m.fingerprint[:_LENGTH_BYTES], "big"),
        )
        for m, position, box in placed
        if m.fingerprint and m.received_at >= since
    ]


def buckets(bucket: int) -> tuple[int, int, int]:
    """Those in which a placement received within the window can stand."""
    return bucket - 1, bucket, bucket + 1


def pairs(fresh: Sequence[Seen], known: Iterable[Seen], window: int) -> tuple[list[Seen], list[Pair]]:
    """What is to be put in the table, in the place of what is there, and which placements are copies of which."""
    table: dict[tuple[int, int, bytes], Seen] = {(k.bucket, k.mailbox, k.hash): k for k in known}
    changed: dict[tuple[int, int, bytes], Seen] = {}
    found: list[Pair] = []
    for one in fresh:
        for bucket in buckets(one.bucket):
            other = table.get((bucket, one.mailbox, one.hash))
            if other is None or abs(other.received_at - one.received_at) > window:
                continue
            low, high = sorted((one, other), key=lambda s: (s.record, s.position))
            if (low.record, low.position) != (high.record, high.position):
                found.append(Pair(one.mailbox, (high.record, high.position), (low.record, low.position)))
        key = (one.bucket, one.mailbox, one.hash)
        if key not in table or one.record < table[key].record:
            table[key] = changed[key] = one
    return list(changed.values()), found


def owed(connection: Connection, volume: VolumeId, limit: int, first: PlacementId | None) -> list[Duplicate]:
    """See `Catalog.owed_duplicates`."""
    wanted: dict[str, object] = {"by": volume, "at_most": limit}
    if first is None:
        rows = connection.execute(_OWED, wanted).all()
    else:
        rows = connection.execute(_OWED_FROM, {**wanted, "record": first.record, "position": first.index}).all()
    return [
        Duplicate(
            row.address,
            row.text_length,
            _held(connection, row, row.record, row.position),
            _held(connection, row, row.kept_record, row.kept_position),
            row.kept_expunged,
        )
        for row in rows
    ]


def _held(connection: Connection, row: Row[tuple[object, ...]], record: bytes, position: int) -> Held:
    """A placement of a message's own record: its id is the record's."""
    there = exists().where(
        _placements.c.mailbox == row.mailbox, _placements.c.record == record, _placements.c.position == position
    )
    found = connection.execute(select(_messages, there.label("there")).where(_messages.c.id == record)).one_or_none()
    placement = PlacementId(bytes(record), position)
    if found is None:
        return Held(placement, MessageId(bytes(record)), False, 0, 0, ())
    further = connection.execute(select(_locations).where(_locations.c.message == record)).all()
    places = {(found.segment, found.offset), *((one.segment, one.offset) for one in further)}
    by_number = segments_by_number(connection, {number for number, _ in places})
    locations = tuple(
        Location(by_number[number][0], offset, found.size, by_number[number][1]) for number, offset in sorted(places)
    )
    return Held(placement, MessageId(bytes(record)), bool(found.there), found.size, found.checksum, locations)


def settle(connection: Connection, placement: PlacementId, instead: PlacementId | None) -> None:
    """See `Catalog.settle_duplicate`. A lower one still, so that of any number of copies the lowest is left alone."""
    this = connection.execute(
        select(_duplicates).where(_duplicates.c.record == placement.record, _duplicates.c.position == placement.index)
    ).one_or_none()
    if instead is not None and this is not None:
        connection.execute(
            update(_duplicates)
            .where(
                _duplicates.c.mailbox == this.mailbox,
                _duplicates.c.kept_record == placement.record,
                _duplicates.c.kept_position == placement.index,
            )
            .values(kept_record=instead.record, kept_position=instead.index, kept_expunged=this.kept_expunged)
        )
    connection.execute(
        delete(_duplicates).where(_duplicates.c.record == placement.record, _duplicates.c.position == placement.index)
    )


def forget(connection: Connection, before: int, window: int) -> int:
    """See `Catalog.forget_fingerprints`."""
    return connection.execute(_PAST, {"first": before // window - 1}).rowcount
