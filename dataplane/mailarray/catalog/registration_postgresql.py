"""Registration and expunge in PostgreSQL: few statements with arrays, straight to asyncpg, for whole runs at once.

Isolation is READ COMMITTED with locks, always in this order, so that two transactions wait for each other seldom:
the gate (see `engine_postgresql`), the segment's row, messages by id, mailboxes by address, wear by segment, the
volume's row.
Tombstones are looked up in a statement that begins after the mailboxes are locked, and `expunge` writes them with
the mailboxes locked: so of a tombstone and a placement that come at once, the later one sees the earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from mailarray.catalog import duplicates
from mailarray.catalog.duplicates import Seen
from mailarray.catalog.registration import Ground, first_sights, refusal
from mailarray.catalog.rows import NotRegistered, Registered, Registration, SegmentFacts, TombstoneRow
from mailarray.model.ids import VolumeId

_GROUND = """
SELECT state.epoch, state.uidvalidity, volumes.counter,
       s.number, s.sealed_length, s.cursor,
       s.superseded IS TRUE OR EXISTS (SELECT 1 FROM superseded WHERE segment_id = $1), state.open
FROM state
LEFT JOIN LATERAL (
    SELECT number, sealed_length, cursor, superseded_by IS NOT NULL AS superseded
    FROM segments WHERE id = $1 FOR UPDATE
) AS s ON true
LEFT JOIN volumes ON volumes.id = $2
"""

# Lists go as one parameter each, packed into text or bytes: the driver looks long at every element of an array.
_INSERT_MESSAGES = """
INSERT INTO messages (id, received_at, sender, size, checksum, segment, "offset")
SELECT substring($1::bytea FROM (n * 16 - 15)::int FOR 16), received_at, sender, size, checksum, $7::bigint, "offset"
FROM ROWS FROM (
    unnest($2::text::bigint[]), json_array_elements_text($3::text::json),
    unnest($4::text::bigint[]), unnest($5::text::bigint[]), unnest($6::text::bigint[])
) WITH ORDINALITY AS t (received_at, sender, size, checksum, "offset", n)
ON CONFLICT DO NOTHING RETURNING id
"""

# Second sights (rule 16).
_INSERT_LOCATIONS = """
INSERT INTO locations (message, segment, "offset")
SELECT t.message, $1::bigint, t."offset" FROM unnest($2::bytea[], $3::bigint[]) AS t (message, "offset")
WHERE NOT EXISTS (
    SELECT 1 FROM messages AS m WHERE m.id = t.message AND m.segment = $1::bigint AND m."offset" = t."offset"
)
ON CONFLICT DO NOTHING
"""

# UIDs are set aside here: `uidnext` moves up by `count`, `used` by `bytes`, and the row stays locked.
_LOCK_MAILBOXES = """
INSERT INTO mailboxes AS m (address, uidnext, uidvalidity, used)
SELECT address, 1 + count, $3::bigint, bytes
FROM ROWS FROM (
    json_array_elements_text($1::text::json), unnest($2::text::bigint[]), unnest($4::text::bigint[])
) AS t (address, count, bytes)
ON CONFLICT (address) DO UPDATE SET uidnext = m.uidnext + excluded.uidnext - 1, used = m.used + excluded.used
RETURNING id, uidnext
"""

_FINISH = """
WITH placed AS (
    INSERT INTO placements (mailbox, uid, record, position, message, recipient)
    SELECT mailbox, uid, record, position, record, recipient
    FROM (
        SELECT mailbox, uid, substring($4::bytea FROM (n * 16 - 15)::int FOR 16) AS record, position, recipient
        FROM ROWS FROM (
            unnest($2::text::bigint[]), unnest($3::text::bigint[]),
            unnest($5::text::int[]), json_array_elements_text($6::text::json)
        ) WITH ORDINALITY AS u (mailbox, uid, position, recipient, n)
    ) AS t
    WHERE NOT EXISTS (
        SELECT 1 FROM tombstones WHERE tombstones.record = t.record AND tombstones.position = t.position
    )
    RETURNING 1
), moved AS (
    UPDATE segments SET cursor = $7, acknowledged = greatest(acknowledged, $8) WHERE number = $1
)
UPDATE volumes SET counter = counter + 1 WHERE id = $9 RETURNING counter, (SELECT count(*) FROM placed)
"""

# Placements that a tombstone kept from being made were counted when the mailboxes were locked, which is seldom.
_TAKE_BACK = """
UPDATE mailboxes AS m SET used = greatest(0, m.used - gone.bytes)
FROM (
    SELECT t.mailbox, sum(t.size)::bigint AS bytes
    FROM unnest($1::bigint[], $2::bytea[], $3::int[], $4::bigint[]) AS t (mailbox, record, position, size)
    JOIN tombstones ON tombstones.record = t.record AND tombstones.position = t.position
    GROUP BY t.mailbox
) AS gone
WHERE m.id = gone.mailbox
"""

_BURIED = """
SELECT t.record, t.position FROM unnest($1::bytea[], $2::int[]) AS t (record, position)
JOIN tombstones ON tombstones.record = t.record AND tombstones.position = t.position
"""
_SEEN = """
SELECT f.bucket, f.mailbox, f.hash, f.record, f.position, f.received_at
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS t (bucket, mailbox, hash)
JOIN fingerprints AS f ON f.bucket = t.bucket AND f.mailbox = t.mailbox AND f.hash = t.hash
"""
_PUT_SEEN = """
INSERT INTO fingerprints (bucket, mailbox, hash, record, position, received_at)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::int[], $6::bigint[])
ON CONFLICT (bucket, mailbox, hash) DO UPDATE
SET record = excluded.record, position = excluded.position, received_at = excluded.received_at
"""
_INSERT_DUPLICATE = """
INSERT INTO duplicates (record, position, volume, mailbox, kept_record, kept_position, kept_expunged, text_length)
SELECT $1::bytea, $2::int, $3::bytea, $4::bigint, $5::bytea, $6::int,
    EXISTS (SELECT 1 FROM tombstones WHERE record = $5::bytea AND position = $6::int), $7::bigint
ON CONFLICT DO NOTHING
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
_COUNT_DEAD = """
INSERT INTO segment_wear AS w (segment, dead)
SELECT segment, sum(size) FROM messages WHERE id {where} GROUP BY segment ORDER BY segment
ON CONFLICT (segment) DO UPDATE SET dead = w.dead + excluded.dead
"""
_DELETE_PLACEMENTS = f"""
WITH gone AS (
    DELETE FROM placements AS p
    USING mailboxes AS m, unnest($1::bytea[], $2::int[], $3::text[]) AS t (record, position, mailbox)
    WHERE m.address = t.mailbox AND p.mailbox = m.id AND p.record = t.record AND p.position = t.position
    RETURNING p.mailbox, p.message
), freed AS (
    UPDATE mailboxes AS m SET used = greatest(0, m.used - sums.bytes)
    FROM (
        SELECT gone.mailbox, sum(messages.size)::bigint AS bytes
        FROM gone JOIN messages ON messages.id = gone.message GROUP BY gone.mailbox
    ) AS sums
    WHERE m.id = sums.mailbox
)
{_COUNT_DEAD.format(where="IN (SELECT message FROM gone)")}
"""
_COUNT_UNPLACED = _COUNT_DEAD.format(
    where="= ANY ($1::bytea[]) AND EXISTS (SELECT 1 FROM tombstones WHERE record = id)"
)


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
        ids, received, senders, _, offsets, sizes, checksums, _ = zip(*rows, strict=True)
        packed = _numbers(received), json.dumps(senders), _numbers(sizes), _numbers(checksums), _numbers(offsets)
        new = await db.fetch(_INSERT_MESSAGES, b"".join(ids), *packed, number)
        if len(new) != len(registration.messages):
            news = {row[0] for row in new}
            fresh = [m for m in fresh if m[0] in news]
            every = registration.messages
            await db.execute(_INSERT_LOCATIONS, number, [m[0] for m in every], [m[4] for m in every])
    wanted: dict[str, tuple[int, int]] = {}  # UIDs and bytes of each mailbox
    for message in fresh:
        for delivery in message[3]:
            count, size = wanted.get(delivery[0], (0, 0))
            wanted[delivery[0]] = count + 1, size + message[5]
    for tombstone in registration.tombstones:
        wanted.setdefault(tombstone.mailbox, (0, 0))
    boxes = await _lock_mailboxes(db, wanted, ground.uidvalidity)
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
    counter, placed = await db.fetchrow(
        _FINISH,
        number,
        _numbers(mailboxes),
        _numbers(uids),
        b"".join(records),
        _numbers(positions),
        json.dumps(recipients),
        registration.end,
        registration.end if registration.sealed_length is None else 0,
        volume,
    )
    if placed < len(records):  # tombstones came before their messages
        await db.execute(_COUNT_UNPLACED, sorted(set(records)))
        counted = [message[5] for message in fresh for _ in message[3]]
        await db.execute(_TAKE_BACK, mailboxes, records, positions, counted)
    copies = 0
    window = registration.duplicate_window
    if window:
        made = [(message, position) for message in fresh for position in range(len(message[3]))]
        placements = [(message, position, box) for (message, position), box in zip(made, mailboxes, strict=True)]
        if placed < len(records):
            gone = {(row[0], row[1]) for row in await db.fetch(_BURIED, records, positions)}
            placements = [one for one in placements if (one[0].id, one[1]) not in gone]
        since = 0 if ground.open else registration.duplicates_since
        copies = await _find_copies(db, volume, duplicates.seen(placements, window, since), window)
    return Registered(counter, copies)


async def _find_copies(db: Any, volume: VolumeId, fresh: list[Seen], window: int) -> int:
    """See `duplicates`; the mailboxes are locked."""
    if not fresh:
        return 0
    keys = [(bucket, one.mailbox, one.hash) for one in fresh for bucket in duplicates.buckets(one.bucket)]
    known = [Seen(*row) for row in await db.fetch(_SEEN, *map(list, zip(*keys, strict=True)))]
    changed, found = duplicates.pairs(fresh, known, window)
    if changed:
        changed.sort()
        *columns, _ = map(list, zip(*changed, strict=True))
        await db.execute(_PUT_SEEN, *columns)
    lengths = {one.record: one.text_length for one in fresh}
    for mailbox, dropped, kept in found:
        length = lengths[dropped[0]] if dropped[0] in lengths else lengths[kept[0]]
        await db.execute(_INSERT_DUPLICATE, *dropped, volume, mailbox, *kept, length)
    return len(found)


async def expunge(db: Any, tombstones: Sequence[TombstoneRow]) -> None:
    """Keep the tombstones, and remove the placements that they name (rule 21). As `register`, under the shared gate."""
    uidvalidity = await db.fetchval("SELECT uidvalidity FROM state")
    await _lock_mailboxes(db, {tombstone.mailbox: (0, 0) for tombstone in tombstones}, uidvalidity)
    await _bury(db, tombstones)


async def _insert_segment(db: Any, segment: SegmentFacts) -> int:
    number: int | None = await db.fetchval(
        _INSERT_SEGMENT, segment.id, segment.writer, segment.incarnation, segment.worker, segment.copies
    )
    if number is None:
        raise SegmentRowAppeared
    await db.execute(_INSERT_MEMBERS, number, list(segment.members))
    return number


async def _lock_mailboxes(db: Any, wanted: dict[str, tuple[int, int]], uidvalidity: int) -> dict[str, list[int]]:
    """Lock (or make) the mailboxes' rows, set UIDs aside and count bytes: address -> [row number, first UID]."""
    if not wanted:
        return {}
    addresses = sorted(wanted)
    counts, sizes = zip(*(wanted[address] for address in addresses), strict=True)
    rows = await db.fetch(_LOCK_MAILBOXES, json.dumps(addresses), _numbers(counts), uidvalidity, _numbers(sizes))
    return {address: [row[0], row[1] - count] for address, count, row in zip(addresses, counts, rows, strict=True)}


async def _bury(db: Any, tombstones: Sequence[TombstoneRow]) -> None:
    ordered = sorted(tombstones, key=lambda t: t.placement)
    records = [t.placement.record for t in ordered]
    positions = [t.placement.index for t in ordered]
    mailboxes = [t.mailbox for t in ordered]
    await db.execute(_INSERT_TOMBSTONES, records, positions, [t.message for t in ordered], mailboxes)
    await db.execute(_DELETE_PLACEMENTS, records, positions, mailboxes)


def _numbers(values: Iterable[int]) -> str:
    """An array of numbers as PostgreSQL writes it."""
    return "{" + ",".join(map(str, values)) + "}"
