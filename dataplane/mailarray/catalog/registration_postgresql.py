"""Registration and expunge in PostgreSQL: few statements with arrays, straight to asyncpg, for whole runs at once.

Isolation is READ COMMITTED with locks, always in this order, so that two transactions wait for each other seldom:
the gate (see `engine_postgresql`), the segment's row, messages by id, mailboxes by address, the volume's row.
Tombstones are looked up in a statement that begins after the mailboxes are locked, and `expunge` writes them with
the mailboxes locked: so of a tombstone and a placement that come at once, the later one sees the earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from mailarray.catalog.catalog import NotRegistered, Registered, Registration, SegmentFacts, TombstoneRow
from mailarray.catalog.registration import Ground, first_sights, refusal
from mailarray.model.ids import VolumeId

_GROUND = """
SELECT state.epoch, state.uidvalidity, volumes.counter,
       s.number, s.sealed_length, s.cursor, s.superseded
FROM state
LEFT JOIN LATERAL (
    SELECT number, sealed_length, cursor, superseded_by IS NOT NULL AS superseded
    FROM segments WHERE id = $1 FOR UPDATE
) AS s ON true
LEFT JOIN volumes ON volumes.id = $2
"""

_INSERT_MESSAGES = """
INSERT INTO messages (id, received_at, sender, size, checksum)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT DO NOTHING RETURNING id
"""

# UIDs are set aside here: `uidnext` moves up by `count`, and the row stays locked.
_LOCK_MAILBOXES = """
INSERT INTO mailboxes AS m (address, uidnext, uidvalidity)
SELECT address, 1 + count, $3::bigint FROM unnest($1::text[], $2::bigint[]) AS t (address, count)
ON CONFLICT (address) DO UPDATE SET uidnext = m.uidnext + excluded.uidnext - 1
RETURNING id, uidnext
"""

_FINISH = """
WITH located AS (
    INSERT INTO locations (message, segment, "offset", length)
    SELECT message, $1, "offset", length
    FROM unnest($2::bytea[], $3::bigint[], $4::bigint[]) AS t (message, "offset", length)
    ON CONFLICT DO NOTHING
), placed AS (
    INSERT INTO placements (mailbox, uid, record, position, message, recipient)
    SELECT mailbox, uid, record, position, record, recipient
    FROM unnest($5::bigint[], $6::bigint[], $7::bytea[], $8::int[], $9::text[])
         AS t (mailbox, uid, record, position, recipient)
    WHERE NOT EXISTS (
        SELECT 1 FROM tombstones WHERE tombstones.record = t.record AND tombstones.position = t.position
    )
), moved AS (
    UPDATE segments SET cursor = $10, acknowledged = greatest(acknowledged, $11) WHERE number = $1
)
UPDATE volumes SET counter = counter + 1 WHERE id = $12 RETURNING counter
"""

_INSERT_SEGMENT = """
INSERT INTO segments (id, writer, incarnation, worker, copies, cursor, acknowledged)
VALUES ($1, $2, $3, $4, $5, 0, 0) ON CONFLICT DO NOTHING RETURNING number
"""
_INSERT_MEMBERS = """
INSERT INTO segment_members (segment, position, volume)
SELECT $1, position - 1, volume FROM unnest($2::bytea[]) WITH ORDINALITY AS t (volume, position)
"""

_INSERT_TOMBSTONES = """
INSERT INTO tombstones (record, position, message, mailbox)
SELECT * FROM unnest($1::bytea[], $2::int[], $3::bytea[], $4::text[]) ON CONFLICT DO NOTHING
"""
_DELETE_PLACEMENTS = """
DELETE FROM placements AS p
USING mailboxes AS m, unnest($1::bytea[], $2::int[], $3::text[]) AS t (record, position, mailbox)
WHERE m.address = t.mailbox AND p.mailbox = m.id AND p.record = t.record AND p.position = t.position
"""


class SegmentRowAppeared(Exception):
    """Another transaction made the segment's row just now: do it all again."""


async def register(db: Any, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
    """See `Catalog.register`. `db` is asyncpg's connection, in a transaction that has the gate's shared lock."""
    segment = registration.segment
    ground = Ground(*await db.fetchrow(_GROUND, segment.id, volume))
    refused = refusal(ground, volume, registration)
    if refused is not None:
        return refused
    number = ground.number if ground.number is not None else await _insert_segment(db, segment)
    fresh = first_sights(registration.messages, set())
    if fresh:
        # Everyone inserts in the order of ids: two runs with the same messages wait, and do not deadlock.
        rows = sorted(fresh, key=itemgetter(0))
        columns = ([m[column] for m in rows] for column in (0, 1, 2, 5, 6))
        new = {row[0] for row in await db.fetch(_INSERT_MESSAGES, *columns)}
        if len(new) != len(fresh):
            fresh = [m for m in fresh if m[0] in new]
    counts: dict[str, int] = {}
    for message in fresh:
        for delivery in message[3]:
            counts[delivery[0]] = counts.get(delivery[0], 0) + 1
    for tombstone in registration.tombstones:
        counts.setdefault(tombstone.mailbox, 0)
    boxes = await _lock_mailboxes(db, counts, ground.uidvalidity)
    if registration.tombstones:
        await _bury(db, registration.tombstones)
    mailboxes, uids, records, positions, recipients = [], [], [], [], []
    for message in fresh:
        for position, (mailbox, recipient) in enumerate(message[3]):
            box = boxes[mailbox]
            mailboxes.append(box[0])
            uids.append(box[1])
            records.append(message[0])
            positions.append(position)
            recipients.append(None if recipient == mailbox else recipient)
            box[1] += 1
    counter = await db.fetchval(
        _FINISH,
        number,
        [m[0] for m in registration.messages],
        [m[4] for m in registration.messages],
        [m[5] for m in registration.messages],
        mailboxes,
        uids,
        records,
        positions,
        recipients,
        registration.end,
        registration.end if registration.sealed_length is None else 0,
        volume,
    )
    return Registered(counter)


async def expunge(db: Any, tombstones: Sequence[TombstoneRow]) -> None:
    """Keep the tombstones, and remove the placements that they name (rule 21). As `register`, under the shared gate."""
    uidvalidity = await db.fetchval("SELECT uidvalidity FROM state")
    await _lock_mailboxes(db, {tombstone.mailbox: 0 for tombstone in tombstones}, uidvalidity)
    await _bury(db, tombstones)


async def _insert_segment(db: Any, segment: SegmentFacts) -> int:
    number: int | None = await db.fetchval(
        _INSERT_SEGMENT, segment.id, segment.writer, segment.incarnation, segment.worker, segment.copies
    )
    if number is None:
        raise SegmentRowAppeared
    await db.execute(_INSERT_MEMBERS, number, list(segment.members))
    return number


async def _lock_mailboxes(db: Any, counts: dict[str, int], uidvalidity: int) -> dict[str, list[int]]:
    """Lock (or make) the mailboxes' rows and set UIDs aside: address -> [row number, first UID]."""
    if not counts:
        return {}
    addresses = sorted(counts)
    wanted = [counts[address] for address in addresses]
    rows = await db.fetch(_LOCK_MAILBOXES, addresses, wanted, uidvalidity)
    return {address: [row[0], row[1] - count] for address, count, row in zip(addresses, wanted, rows, strict=True)}


async def _bury(db: Any, tombstones: Sequence[TombstoneRow]) -> None:
    ordered = sorted(tombstones, key=lambda t: t.placement)
    records = [t.placement.record for t in ordered]
    positions = [t.placement.index for t in ordered]
    mailboxes = [t.mailbox for t in ordered]
    await db.execute(_INSERT_TOMBSTONES, records, positions, [t.message for t in ordered], mailboxes)
    await db.execute(_DELETE_PLACEMENTS, records, positions, mailboxes)
