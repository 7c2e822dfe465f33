"""Registration and expunge in SQLite: statements for the driver itself, since this is done for every message.

The caller has begun the transaction with BEGIN IMMEDIATE: there is no other writer until it ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from mailarray.catalog import duplicates
from mailarray.catalog.duplicates import Seen
from mailarray.catalog.registration import Ground, first_sights, refusal
from mailarray.catalog.rows import MessageRow, NotRegistered, Registered, Registration, SegmentFacts, TombstoneRow
from mailarray.model.ids import MessageId, VolumeId

T = TypeVar("T")

# Lists are looked up in pieces of this many, the last one padded, so that the driver keeps one prepared statement.
PIECE = 100
_MARKS = ",".join("?" * PIECE)

_GROUND = """
SELECT state.epoch, state.uidvalidity, volumes.counter,
       segments.number, segments.sealed_length, segments.cursor,
       segments.superseded_by IS NOT NULL OR EXISTS (SELECT 1 FROM superseded WHERE segment_id = ?1), state.open
FROM state LEFT JOIN segments ON segments.id = ?1 LEFT JOIN volumes ON volumes.id = ?2
"""
_KNOWN = f"SELECT id FROM messages WHERE id IN ({_MARKS})"
_DEAD = f"SELECT record, position FROM tombstones WHERE record IN ({_MARKS})"
_TAKE_UIDS = f"""
WITH t (address, count, bytes) AS (VALUES {",".join(["(?,?,?)"] * PIECE)})
UPDATE mailboxes SET uidnext = uidnext + t.count, used = used + t.bytes FROM t WHERE mailboxes.address = t.address
RETURNING mailboxes.address, mailboxes.id, mailboxes.uidnext
"""
_INSERT_MESSAGE = (
    'INSERT INTO messages (id, received_at, sender, size, checksum, segment, "offset") VALUES (?, ?, ?, ?, ?, ?, ?)'
)
_INSERT_LOCATION = """
INSERT OR IGNORE INTO locations (message, segment, "offset") SELECT ?1, ?2, ?3
WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = ?1 AND segment = ?2 AND "offset" = ?3)
"""
_INSERT_PLACEMENT = (
    "INSERT INTO placements (mailbox, uid, record, position, message, recipient) VALUES (?, ?, ?, ?, ?, ?)"
)
_INSERT_MAILBOX = "INSERT INTO mailboxes (address, uidnext, uidvalidity, used) VALUES (?, ?, ?, ?)"
_INSERT_TOMBSTONE = "INSERT OR IGNORE INTO tombstones (record, position, message, mailbox) VALUES (?, ?, ?, ?)"
_DELETE_PLACEMENTS = (
    "DELETE FROM placements WHERE mailbox = (SELECT id FROM mailboxes WHERE address = ?) "
    f"AND record IN ({_MARKS}) AND (record, position) IN (SELECT record, position FROM tombstones) RETURNING message"
)
_COUNT_DEAD = (
    "INSERT INTO segment_wear (segment, dead) "
    f"SELECT segment, sum(size) FROM messages WHERE id IN ({_MARKS}) GROUP BY segment "
    "ON CONFLICT (segment) DO UPDATE SET dead = dead + excluded.dead"
)
_SEEN = f"""
SELECT bucket, mailbox, hash, record, position, received_at, 0 FROM fingerprints
WHERE (bucket, mailbox, hash) IN (VALUES {",".join(["(?,?,?)"] * PIECE)})
"""
_PUT_SEEN = """
INSERT OR REPLACE INTO fingerprints (bucket, mailbox, hash, record, position, received_at)
VALUES (?, ?, ?, ?, ?, ?)
"""
_EXPUNGED = "SELECT 1 FROM tombstones WHERE record = ? AND position = ?"
_INSERT_DUPLICATE = """
INSERT OR IGNORE INTO duplicates
    (record, position, volume, mailbox, kept_record, kept_position, kept_expunged, text_length)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_SIZES = f"SELECT id, size FROM messages WHERE id IN ({_MARKS})"
_GIVE_BACK = "UPDATE mailboxes SET used = max(0, used - ?) WHERE address = ?"


def register(db: sqlite3.Connection, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
    """See `Catalog.register`."""
    segment, messages = registration.segment, registration.messages
    ground = Ground(*db.execute(_GROUND, (segment.id, volume)).fetchone())
    refused = refusal(ground, volume, registration)
    if refused is not None:
        return refused
    copies = 0
    number = ground.number if ground.number is not None else insert_segment(db, segment)
    if registration.tombstones:
        expunge(db, registration.tombstones)  # before the placements: a run may hold both
    if messages:
        fresh = first_sights(messages, set(_known(db, messages)))
        db.executemany(_INSERT_MESSAGE, [(m[0], m[1], m[2], m[5], m[6], number, m[4]) for m in fresh])
        if len(fresh) < len(messages):
            db.executemany(_INSERT_LOCATION, [(m[0], number, m[4]) for m in messages])
        placed = _place(db, fresh, ground.uidvalidity)
        window = registration.duplicate_window
        if window:
            since = 0 if ground.open else registration.duplicates_since
            copies = _find_copies(db, volume, duplicates.seen(placed, window, since), window)
    acknowledged = registration.end if registration.sealed_length is None else 0
    db.execute(
        "UPDATE segments SET cursor = ?, acknowledged = max(acknowledged, ?) WHERE number = ?",
        (registration.end, acknowledged, number),
    )
    (counter,) = db.execute(
        "UPDATE volumes SET counter = counter + 1 WHERE id = ? RETURNING counter", (volume,)
    ).fetchone()
    return Registered(counter, copies)


def _find_copies(db: sqlite3.Connection, volume: VolumeId, fresh: list[Seen], window: int) -> int:
    """See `duplicates`."""
    keys = [(bucket, one.mailbox, one.hash) for one in fresh for bucket in duplicates.buckets(one.bucket)]
    known = [
        Seen(*row) for piece in _pieces(keys) for row in db.execute(_SEEN, [value for key in piece for value in key])
    ]
    changed, found = duplicates.pairs(fresh, known, window)
    db.executemany(_PUT_SEEN, [one[:6] for one in changed])
    if found:
        lengths = {one.record: one.text_length for one in fresh}
        rows = []
        for mailbox, dropped, kept in found:
            expunged = db.execute(_EXPUNGED, kept).fetchone() is not None
            length = lengths[dropped[0]] if dropped[0] in lengths else lengths[kept[0]]
            rows.append((*dropped, volume, mailbox, *kept, expunged, length))
        db.executemany(_INSERT_DUPLICATE, rows)
    return len(found)


def expunge(db: sqlite3.Connection, tombstones: Sequence[TombstoneRow]) -> None:
    """Keep the tombstones, and remove the placements that they name (rule 21)."""
    by_mailbox: dict[str, set[bytes]] = {}
    for tombstone in tombstones:
        by_mailbox.setdefault(tombstone.mailbox, set()).add(tombstone.placement.record)
    db.executemany(
        _INSERT_TOMBSTONE, [(t.placement.record, t.placement.index, t.message, t.mailbox) for t in tombstones]
    )
    for mailbox, records in by_mailbox.items():
        gone = [
            message
            for piece in _pieces(records)
            for (message,) in db.execute(_DELETE_PLACEMENTS, (mailbox, *piece)).fetchall()
        ]
        if gone:
            sizes = {row[0]: row[1] for piece in _pieces(set(gone)) for row in db.execute(_SIZES, piece)}
            db.execute(_GIVE_BACK, (sum(sizes.get(message, 0) for message in gone), mailbox))
            _count_dead(db, gone)


def _count_dead(db: sqlite3.Connection, messages: Iterable[bytes]) -> None:
    """Where to look for room: each of those lost a placement, or never got one."""
    for piece in _pieces(messages):
        db.execute(_COUNT_DEAD, piece)


def insert_segment(db: sqlite3.Connection, segment: SegmentFacts) -> int:
    """A row, unsealed, with nothing registered; answers its number."""
    cursor = db.execute(
        "INSERT INTO segments (id, writer, incarnation, worker, copies, cursor, acknowledged) "
        "VALUES (?, ?, ?, ?, ?, 0, 0)",
        (segment.id, segment.writer, segment.incarnation, segment.worker, segment.copies),
    )
    number = cursor.lastrowid
    assert number is not None
    db.executemany(
        "INSERT INTO segment_members (segment, position, volume) VALUES (?, ?, ?)",
        [(number, position, member) for position, member in enumerate(segment.members)],
    )
    return number


def _known(db: sqlite3.Connection, messages: Sequence[MessageRow]) -> Iterator[MessageId]:
    """Ids that have a row. Those above the highest one cannot have: mostly that spares looking up any."""
    (highest,) = db.execute("SELECT max(id) FROM messages").fetchone()
    if highest is not None:
        suspects = [m[0] for m in messages if m[0] <= highest]
        for piece in _pieces(suspects):
            for (known,) in db.execute(_KNOWN, piece):
                yield known


def _dead(db: sqlite3.Connection, messages: Sequence[MessageRow]) -> set[tuple[bytes, int]]:
    """Placements that tombstones name. The highest one spares most look-ups here, too."""
    (highest,) = db.execute("SELECT max(record) FROM tombstones").fetchone()
    if highest is None:
        return set()
    suspects = [m[0] for m in messages if m[0] <= highest]
    return {row for piece in _pieces(suspects) for row in db.execute(_DEAD, piece)}


def _place(
    db: sqlite3.Connection, messages: Sequence[MessageRow], uidvalidity: int
) -> list[tuple[MessageRow, int, int]]:
    """Give out UIDs in the order of the records, and make the placements: message, position, mailbox's number."""
    dead = _dead(db, messages)
    wanted: dict[str, tuple[int, int]] = {}
    for message in messages:
        for position, delivery in enumerate(message[3]):
            if not dead or (message[0], position) not in dead:
                count, size = wanted.get(delivery[0], (0, 0))
                wanted[delivery[0]] = count + 1, size + message[5]
    boxes = _take_uids(db, wanted, uidvalidity)
    rows = []
    placed = []
    for message in messages:
        record = message[0]
        for position, (mailbox, recipient) in enumerate(message[3]):
            if not dead or (record, position) not in dead:
                box = boxes[mailbox]
                rows.append((box[0], box[1], record, position, record, None if recipient == mailbox else recipient))
                box[1] += 1
                placed.append((message, position, box[0]))
    db.executemany(_INSERT_PLACEMENT, rows)
    if dead:
        _count_dead(db, {record for record, _ in dead})
    return placed


def _take_uids(db: sqlite3.Connection, wanted: dict[str, tuple[int, int]], uidvalidity: int) -> dict[str, list[int]]:
    """Set UIDs aside in each mailbox and count its bytes, (UIDs, bytes), making those that are not there: address ->
    [id, first UID]."""
    boxes: dict[str, list[int]] = {}
    for piece in _pieces((address, *numbers) for address, numbers in wanted.items()):
        for address, box, uidnext in db.execute(_TAKE_UIDS, [value for row in piece for value in row]):
            boxes[address] = [box, uidnext - wanted[address][0]]
    for address in wanted.keys() - boxes.keys():
        count, size = wanted[address]
        box = db.execute(_INSERT_MAILBOX, (address, 1 + count, uidvalidity, size)).lastrowid
        assert box is not None
        boxes[address] = [box, 1]
    return boxes


def _pieces(values: Iterable[T]) -> Iterator[list[T]]:
    """In lists of exactly PIECE, the last one padded with its last value."""
    rest = list(values)
    for start in range(0, len(rest), PIECE):
        piece = rest[start : start + PIECE]
        yield piece + piece[-1:] * (PIECE - len(piece))
