"""The sidecar's local index: which replicas on this volume hold a mailbox's mail. For the time without a catalog.

SQLite, rebuilt by a scan: it may be deleted at any time, and one that is damaged is begun anew. A row packs all records
of one mailbox in one stretch of a segment, since a row a record costs more than the catalog itself. A stretch is
indexed when its segment is quiet or the stretch is long, and always before a question is answered, so an answer covers
every whole durable record of the volume (rule 20).

Invariant: what `segments.indexed` says is indexed is there, after a power cut too. So the order of writes is kept
(synchronous=NORMAL: syncs when the log is brought home, none for each stretch); the last stretches may be gone together
with their `indexed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from mailarray.journal.format import FormatError, MessageEntry, TombstonesEntry
from mailarray.journal.scan import Batch, find_batch, read_batch
from mailarray.model.ids import SegmentId
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

FEED_INTERVAL = 1.0  # seconds between two looks at what is quiet
LONG_STRETCH = 32 * 1024 * 1024  # bytes indexed at the latest: what a first question without a catalog waits for
STEP_RECORDS = 2000  # records indexed before others get their turn

_SCHEMA_VERSION = 2  # 1 had the same tables, and kept no order of writes
_LOG_PAGES = 8192  # 32 MiB of log until it is brought home: two syncs then
_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (number INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, indexed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stretches (
    mailbox TEXT NOT NULL, segment INTEGER NOT NULL, start INTEGER NOT NULL, records BLOB NOT NULL,
    PRIMARY KEY (mailbox, segment, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (
    mailbox TEXT NOT NULL, record BLOB NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (mailbox, record, position)) WITHOUT ROWID;
"""
_RECORD = struct.Struct(">16sHQQIQ")  # record id, index of the mailbox in it, body offset, length, CRC, received at


class LocalIndex:
    """See the module."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._path = shelf.volume.path / "index.sqlite"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._database: sqlite3.Connection | None = None
        self._numbers: dict[SegmentId, int] = {}
        self._seen: dict[SegmentId, int] = {}  # readable length at the last look, to tell what is quiet

    async def open(self) -> None:
        """Open, or begin anew when the file cannot be used."""
        await self._run(self._open)

    def _open(self) -> None:
        try:
            self._database = self._connect()
            rows = self._database.execute("SELECT number, id, indexed FROM segments").fetchall()
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)
            return
        for number, id, indexed in rows:
            self._numbers[SegmentId(id)] = number
            holding = self._shelf.holdings.get(SegmentId(id))
            if holding is not None and indexed <= holding.readable:
                holding.indexed = indexed

    def _begin_anew(self, error: Exception) -> None:
        log.warning("local index begun anew", extra={"reason": str(error)})
        self._clear()
        self._database = self._connect_anew()

    def _connect_anew(self) -> sqlite3.Connection:
        try:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return self._connect()
        except (sqlite3.DatabaseError, OSError) as error:  # a full disk: reads go on, from an index in memory
            log.error("local index kept in memory", extra={"reason": str(error)})
            return self._connect(":memory:")

    def _connect(self, path: str = "") -> sqlite3.Connection:
        database = sqlite3.connect(path or self._path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        if database.execute("PRAGMA user_version").fetchone()[0] not in (0, _SCHEMA_VERSION):
            raise sqlite3.DatabaseError("it was made by another version")
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        return database

    async def run(self) -> None:
        """Index what is quiet or long, until cancelled."""
        while True:
            try:
                await self._feed_quiet()
            except (sqlite3.Error, OSError) as error:  # a full disk; what is missing is indexed when it has room
                log.error("local index not fed", extra={"reason": str(error)})
                if _is_damage(error):
                    await self._run(partial(self._begin_anew, error))
            await asyncio.sleep(FEED_INTERVAL)

    async def _feed_quiet(self) -> None:
        for holding in self._shelf:
            readable = holding.readable
            quiet = self._seen.get(holding.segment) == readable
            if holding.indexed < readable and (quiet or readable - holding.indexed >= LONG_STRETCH):
                await self._feed(holding)
            self._seen[holding.segment] = readable

    async def _feed(self, holding: Holding) -> None:
        limit = holding.readable
        while holding.indexed < limit and holding.header is not None and self._is_here(holding):
            await self._run(lambda: self._index_stretch(holding, limit))

    def _is_here(self, holding: Holding) -> bool:
        return self._shelf.holdings.get(holding.segment) is holding

    async def mailbox(self, mailbox: str) -> dict[str, Any]:
        """Messages and tombstones of a mailbox, as contract.paths.MAILBOX says. Raises OSError."""
        try:
            return await self._list(mailbox)
        except sqlite3.Error as error:
            if _is_damage(error):
                await self._run(partial(self._begin_anew, error))
            else:  # a full disk must not keep anybody from reading
                log.error("local index moved to memory", extra={"reason": str(error)})
                await self._run(self._move_to_memory)
            return await self._list(mailbox)

    async def _list(self, mailbox: str) -> dict[str, Any]:
        await self._feed_all()
        found: dict[str, Any] = await self._run(lambda: self._select(mailbox))
        return found

    async def _feed_all(self) -> None:
        for holding in self._shelf:
            await self._feed(holding)

    async def forget(self, holding: Holding) -> None:
        """A segment that was dropped or given back is not offered any more; nobody here reads its file when this
        returns."""
        holding.indexed = 1 << 62  # as far as it ever will be
        try:
            await self._run(lambda: self._forget(holding.segment))
        except sqlite3.Error as error:  # its rows are never offered, since it is on the shelf no more
            log.error("local index not cleaned", extra={"reason": str(error)})

    async def close(self) -> None:
        """Close the database."""
        await self._run(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- in the index's thread -------------------------------------------------------------------------
    def _index_stretch(self, holding: Holding, limit: int) -> None:
        """Up to STEP_RECORDS records in one transaction."""
        database = self._database
        if database is None or holding.header is None or not self._is_here(holding):
            return
        start = position = holding.indexed or holding.header.length
        fd = holding.fd(self._shelf.volume)
        mailboxes: dict[str, list[bytes]] = defaultdict(list)
        tombstones: list[tuple[str, bytes, int]] = []
        records = 0
        while position < limit and records < STEP_RECORDS:
            try:
                batch = read_batch(fd, holding.segment, position, limit)
            except FormatError as error:
                log.error("damage skipped", extra={"segment": holding.segment.hex(), "reason": str(error)})
                position = find_batch(fd, holding.segment, position + 1, limit) or limit
                continue
            _gather(batch, mailboxes, tombstones)
            records += len(batch.entries)
            position = batch.header.end
        number = self._number(database, holding.segment)
        with contextlib.closing(database.cursor()) as cursor, _transaction(cursor):
            cursor.executemany(
                "INSERT OR REPLACE INTO stretches VALUES (?,?,?,?)",
                ((mailbox, number, start, b"".join(packed)) for mailbox, packed in mailboxes.items()),
            )
            cursor.executemany("INSERT OR IGNORE INTO tombstones VALUES (?,?,?)", tombstones)
            cursor.execute("UPDATE segments SET indexed = ? WHERE number = ?", (position, number))
        holding.indexed = position

    def _forget(self, segment: SegmentId) -> None:
        """Its tombstones stay: they are kept for ever, and stand in the segment that took its place (rule 22)."""
        number = self._numbers.pop(segment, None)
        if self._database is None or number is None:
            return
        with contextlib.closing(self._database.cursor()) as cursor, _transaction(cursor):
            cursor.execute("DELETE FROM stretches WHERE segment = ?", (number,))
            cursor.execute("DELETE FROM segments WHERE number = ?", (number,))

    def _move_to_memory(self) -> None:
        self._clear()
        self._database = self._connect(":memory:")

    def _clear(self) -> None:
        """Nothing is indexed."""
        self._close()
        self._numbers.clear()
        for holding in self._shelf:
            holding.indexed = 0

    def _number(self, database: sqlite3.Connection, segment: SegmentId) -> int:
        number = self._numbers.get(segment)
        if number is None:
            row = database.execute("INSERT INTO segments (id, indexed) VALUES (?, 0) RETURNING number", (segment,))
            number = self._numbers[segment] = int(row.fetchone()[0])
        return number

    def _select(self, mailbox: str) -> dict[str, Any]:
        assert self._database is not None
        names = {number: id for id, number in self._numbers.items()}
        found = []
        rows = self._database.execute("SELECT segment, records FROM stretches WHERE mailbox = ?", (mailbox,))
        for number, packed in rows:
            holding = self._shelf.holdings.get(names[number])
            if holding is None or holding.header is None:
                continue
            members = [member.hex() for member in holding.header.members]
            for id, position, offset, length, checksum, received_at in _RECORD.iter_unpack(packed):
                if offset + length > holding.readable:
                    continue  # past a remembered L: it was never acknowledged
                found.append(
                    {
                        "placement": f"{id.hex()}.{position}",
                        "message": id.hex(),
                        "segment": names[number].hex(),
                        "offset": offset,
                        "length": length,
                        "checksum": checksum,
                        "received_at": received_at,
                        "members": members,
                    }
                )
        rows = self._database.execute("SELECT record, position FROM tombstones WHERE mailbox = ?", (mailbox,))
        return {"messages": found, "tombstones": [f"{record.hex()}.{position}" for record, position in rows]}


def _is_damage(error: Exception) -> bool:
    """What is on the disk is no good index; not that the disk is full, or fails just now (OperationalError)."""
    return type(error) is sqlite3.DatabaseError


@contextlib.contextmanager
def _transaction(cursor: sqlite3.Cursor) -> Iterator[None]:
    cursor.execute("BEGIN")
    try:
        yield
        cursor.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):
            cursor.execute("ROLLBACK")
        raise


def _gather(batch: Batch, mailboxes: dict[str, list[bytes]], tombstones: list[tuple[str, bytes, int]]) -> None:
    start = batch.header.bodies_offset
    for entry in batch.entries:
        if isinstance(entry, MessageEntry):
            id, received_at, _sender, deliveries, body_offset, length, checksum, _fingerprint = entry
            for position, delivery in enumerate(deliveries):
                packed = _RECORD.pack(id, position, start + body_offset, length, checksum, received_at)
                mailboxes[delivery[0]].append(packed)
        elif isinstance(entry, TombstonesEntry):
            for placement, _message, mailbox in entry.tombstones:
                tombstones.append((mailbox, placement.record, placement.index))
