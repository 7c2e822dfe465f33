"""The sidecar's local index: which replicas on this volume hold a mailbox's mail. For the time without a catalog.

SQLite, rebuilt by a scan, synchronous=OFF: it may be deleted at any time and promises nothing. It is fed from the
metadata of batches every second in one transaction, and brought up to date before a question is answered, so an
answer covers every whole durable record of the volume (rule 20).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mailarray.journal.format import FormatError, MessageEntry
from mailarray.journal.scan import Batch, find_batch, read_batch
from mailarray.model.ids import SegmentId
from mailarray.tracking.shelf import Holding, Shelf

log = logging.getLogger(__name__)

FEED_INTERVAL = 1.0  # seconds between two transactions
FEED_RECORDS = 20_000  # records in one transaction, so that memory stays flat in a scan

_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (number INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, indexed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    mailbox TEXT NOT NULL, id BLOB NOT NULL, position INTEGER NOT NULL, segment INTEGER NOT NULL,
    offset INTEGER NOT NULL, length INTEGER NOT NULL, checksum INTEGER NOT NULL, received_at INTEGER NOT NULL,
    PRIMARY KEY (mailbox, id, position, segment)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (
    mailbox TEXT NOT NULL, record BLOB NOT NULL, position INTEGER NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (mailbox, record, position)) WITHOUT ROWID;
"""


class LocalIndex:
    """See the module."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._path = shelf.volume.path / "index.sqlite"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._database: sqlite3.Connection | None = None
        self._numbers: dict[SegmentId, int] = {}

    async def open(self) -> None:
        """Open, or begin anew when the file cannot be used."""
        await self._run(self._open)

    def _open(self) -> None:
        try:
            self._database = self._connect()
        except sqlite3.DatabaseError as error:
            log.warning("local index begun anew", extra={"reason": str(error)})
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._database = self._connect()
        for number, id, indexed in self._database.execute("SELECT number, id, indexed FROM segments"):
            self._numbers[SegmentId(id)] = number
            holding = self._shelf.holdings.get(SegmentId(id))
            if holding is not None and indexed <= holding.readable:
                holding.indexed = indexed

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")
        database.executescript(_SCHEMA)
        return database

    async def run(self) -> None:
        """Feed every second, until cancelled."""
        while True:
            await self.feed()
            await asyncio.sleep(FEED_INTERVAL)

    async def feed(self) -> None:
        """Bring the index up to date."""
        while await self._run(self._feed_some):
            pass

    async def mailbox(self, mailbox: str) -> dict[str, Any]:
        """Messages and tombstones of a mailbox, as contract.paths.MAILBOX says."""
        await self.feed()
        found: dict[str, Any] = await self._run(lambda: self._select(mailbox))
        return found

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
    def _feed_some(self) -> bool:
        """One transaction; answers whether there is more."""
        database = self._database
        if database is None:
            return False
        messages: list[tuple[Any, ...]] = []
        tombstones: list[tuple[Any, ...]] = []
        progress: list[tuple[int, int]] = []
        more = False
        for holding in self._shelf:
            if holding.indexed < holding.readable and holding.header is not None:
                if len(messages) + len(tombstones) >= FEED_RECORDS:
                    more = True
                    break
                number = self._number(database, holding.segment)
                more |= self._read(holding, number, messages, tombstones)
                progress.append((holding.indexed, number))
        if progress:
            with contextlib.closing(database.cursor()) as cursor:
                cursor.execute("BEGIN")
                cursor.executemany("INSERT OR IGNORE INTO messages VALUES (?,?,?,?,?,?,?,?)", messages)
                cursor.executemany("INSERT OR IGNORE INTO tombstones VALUES (?,?,?,?)", tombstones)
                cursor.executemany("UPDATE segments SET indexed = ? WHERE number = ?", progress)
                cursor.execute("COMMIT")
        return more

    def _number(self, database: sqlite3.Connection, segment: SegmentId) -> int:
        number = self._numbers.get(segment)
        if number is None:
            row = database.execute("INSERT INTO segments (id, indexed) VALUES (?, 0) RETURNING number", (segment,))
            number = self._numbers[segment] = int(row.fetchone()[0])
        return number

    def _read(
        self, holding: Holding, number: int, messages: list[tuple[Any, ...]], tombstones: list[tuple[Any, ...]]
    ) -> bool:
        assert holding.header is not None
        limit = holding.readable
        position = holding.indexed or holding.header.length
        fd = holding.fd(self._shelf.volume)
        while position < limit:
            if len(messages) + len(tombstones) >= FEED_RECORDS:
                holding.indexed = position
                return True
            try:
                batch = read_batch(fd, holding.segment, position, limit)
            except FormatError as error:
                log.error("damage skipped", extra={"segment": holding.segment.hex(), "reason": str(error)})
                position = find_batch(fd, holding.segment, position + 1, limit) or limit
                continue
            _rows(batch, number, messages, tombstones)
            position = batch.header.end
        holding.indexed = limit
        return False

    def _select(self, mailbox: str) -> dict[str, Any]:
        assert self._database is not None
        names = {number: id for id, number in self._numbers.items()}
        found = []
        for id, position, number, offset, length, checksum, received_at in self._database.execute(
            "SELECT id, position, segment, offset, length, checksum, received_at FROM messages WHERE mailbox = ?",
            (mailbox,),
        ):
            holding = self._shelf.holdings.get(names[number])
            if holding is None or holding.header is None or offset + length > holding.readable:
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
                    "members": [member.hex() for member in holding.header.members],
                }
            )
        rows = self._database.execute("SELECT record, position FROM tombstones WHERE mailbox = ?", (mailbox,))
        return {"messages": found, "tombstones": [f"{record.hex()}.{position}" for record, position in rows]}


def _rows(batch: Batch, number: int, messages: list[tuple[Any, ...]], tombstones: list[tuple[Any, ...]]) -> None:
    start = batch.header.bodies_offset
    for entry in batch.entries:
        if isinstance(entry, MessageEntry):
            id, received_at, _sender, deliveries, body_offset, length, checksum = entry
            for position, delivery in enumerate(deliveries):
                messages.append((delivery[0], id, position, number, start + body_offset, length, checksum, received_at))
        else:
            for placement, message, mailbox in entry.tombstones:
                tombstones.append((mailbox, placement.record, placement.index, message))
