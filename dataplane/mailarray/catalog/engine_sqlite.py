"""The catalog in one SQLite file, shared by all processes of one machine.

One thread owns the connection that writes, a few others those that read: write-ahead logging lets readers go on
while one process writes. A thread of one's own costs less than a driver that sends every statement to another
thread. Writers of several processes take turns by BEGIN IMMEDIATE.

Never open a file that exists other than through SQLite, not even to look at it: when any descriptor of a file is
closed, POSIX drops all locks that the process has on it, SQLite's too; another process then takes itself for the
last one, throws the log away, and transactions that were committed are gone.

The file is group-writable as far as the umask allows; SQLite gives its -wal and -shm files the same mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.pool import StaticPool

from mailarray.catalog import migrations, registration_sqlite
from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.engine import CALL_SECONDS, T
from mailarray.catalog.rows import NotRegistered, Registered, Registration, TombstoneRow
from mailarray.model.ids import VolumeId

FILE_MODE = 0o660
BUSY_SECONDS = 5.0  # to wait for other processes' transactions; they take milliseconds, a checkpoint a second at most
READERS = 2  # connections for reading at the same time; each costs its own page cache
WRITER_CACHE_KIB = 16 * 1024  # the last pages of some thousands of mailboxes
READER_CACHE_KIB = 2 * 1024
# Pages are copied from the log back into the file once this many are in it: a page that every batch changes is copied
# once for many batches. 32 MiB.
CHECKPOINT_PAGES = 8192
# While others write, a checkpoint never quite reaches the log's end, and the log cannot begin anew: past this size
# the writer makes them wait for it.
LOG_LIMIT = 128 * 1024 * 1024
_COMMITS_PER_LOOK = 64
_TURN_SECONDS = 0.002  # between two tries for a turn to write; SQLite's own back-off goes up to 0.1 s and starves

_creating = threading.Lock()


class _Worker:
    """One connection and the thread that owns it. Methods that begin with `_` run in that thread."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path = path
        self._writes = writes
        self._thread = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="catalog-write" if writes else "catalog-read"
        )
        self._raw: sqlite3.Connection | None = None
        self._connection: Connection | None = None
        self._commits = 0
        self._deadline = 0.0

    async def run(self, operation: Callable[[Connection], T], seconds: float) -> T:
        """Run in a transaction. Raises CatalogUnavailable."""
        deadline = time.monotonic() + seconds
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, operation, deadline)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(future)
        except TimeoutError:
            self._interrupt()
            future.add_done_callback(_forget)
            raise CatalogUnavailable(f"the catalog did not answer within {seconds:g} s") from None
        except asyncio.CancelledError:
            future.add_done_callback(_forget)
            raise

    async def close(self) -> None:
        """After the calls under way."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def _interrupt(self) -> None:
        raw = self._raw
        if raw is not None:
            raw.interrupt()  # the one method that another thread may call

    def _transact(self, operation: Callable[[Connection], T], deadline: float) -> T:
        if time.monotonic() > deadline:
            raise CatalogUnavailable("the catalog is too busy")
        try:
            connection = self._connection or self._connect()
            self._begin(deadline)
            try:
                result = operation(connection)
                self._end("COMMIT")
            except BaseException:
                self._end("ROLLBACK")
                raise
            if self._writes:
                self._watch_log()
        except (sqlite3.Error, sqlalchemy.exc.DBAPIError, OSError) as error:
            self._disconnect()
            reason = getattr(error, "orig", None) or error
            raise CatalogUnavailable(f"the catalog {self._path} failed: {reason}") from error
        return result

    def _begin(self, deadline: float) -> None:
        assert self._raw is not None
        if not self._writes:
            self._raw.execute("BEGIN")
            return
        give_up = min(deadline, time.monotonic() + BUSY_SECONDS)
        while True:
            try:
                self._raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > give_up:
                    raise
            time.sleep(_TURN_SECONDS * random.uniform(0.5, 1.5))

    def _end(self, how: str) -> None:
        assert self._raw is not None and self._connection is not None
        if self._raw.in_transaction:  # SQLite itself has rolled back after some errors
            self._raw.execute(how)
        self._connection.rollback()  # tells SQLAlchemy only: the driver has nothing left to roll back

    def _connect(self) -> Connection:
        raw = connect(self._path, writes=self._writes)
        engine = sqlalchemy.create_engine(
            "sqlite://",
            creator=lambda: raw,
            poolclass=StaticPool,
            isolation_level="AUTOCOMMIT",  # transactions are begun and ended here, not by SQLAlchemy
            pool_reset_on_return=None,
        )
        self._raw, self._connection = raw, engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        raw, self._raw = self._raw, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()  # else SQLAlchemy finds it closed one day, and logs a traceback about that
            connection.close()
        if raw is not None:
            raw.close()

    def _watch_log(self) -> None:
        """Cut the log when it has grown past its limit. A reader may be in the way: then the next look tries again."""
        assert self._raw is not None
        self._commits += 1
        if self._commits % _COMMITS_PER_LOOK:
            return
        try:
            size = os.stat(f"{self._path}-wal").st_size  # noqa: PTH116
        except FileNotFoundError:
            return
        if size > LOG_LIMIT:
            self._raw.execute("PRAGMA busy_timeout = 200")
            self._raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._raw.execute("PRAGMA busy_timeout = 0")


class SqliteEngine:
    """The engine for `sqlite:///path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = _Worker(path, writes=True)
        self._readers = [_Worker(path, writes=False) for _ in range(READERS)]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for reader in self._readers:
            self._idle.put_nowait(reader)

    async def read(self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS) -> T:
        """See `Engine`."""
        try:
            async with asyncio.timeout(seconds):
                reader = await self._idle.get()
        except TimeoutError:
            raise CatalogUnavailable("the catalog is too busy") from None
        try:
            return await reader.run(operation, seconds)
        finally:
            self._idle.put_nowait(reader)

    async def write(
        self, operation: Callable[[Connection], T], seconds: float = CALL_SECONDS, *, alone: bool = False
    ) -> T:
        """See `Engine`; a writer is always alone."""
        return await self._writer.run(operation, seconds)

    async def register(self, volume: VolumeId, registration: Registration) -> Registered | NotRegistered:
        """See `Engine`."""
        return await self.write(lambda connection: registration_sqlite.register(_raw(connection), volume, registration))

    async def expunge(self, tombstones: Sequence[TombstoneRow]) -> None:
        """See `Engine`."""
        await self.write(lambda connection: registration_sqlite.expunge(_raw(connection), tombstones))

    async def migrate(self) -> None:
        """See `Engine`; SQLite changes tables within transactions, so the turn to write is the lock."""
        if not await self.read(migrations.is_current):
            await self.write(migrations.upgrade_if_needed)

    async def close(self) -> None:
        """See `Engine`."""
        await asyncio.gather(*(worker.close() for worker in (self._writer, *self._readers)))


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Open the file as every connection of this package must. Raises sqlite3.Error or OSError."""
    _create(path)
    raw = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _set_journal_mode(raw)
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB if writes else READER_CACHE_KIB}")
        raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if writes:
            raw.execute("PRAGMA busy_timeout = 0")  # _begin has its own way to wait
        else:
            raw.execute("PRAGMA query_only = ON")
    except BaseException:
        raw.close()
        raise
    return raw


def _create(path: Path) -> None:
    """Make the file when it is not there, since SQLite would make it without the group's write permission."""
    # The lock: no thread of this process connects while our descriptor is open, see the top of this file.
    with _creating, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def _set_journal_mode(raw: sqlite3.Connection) -> None:
    """Write-ahead logging. The first change of it may answer "locked" at once while another process does the same."""
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > give_up:
                raise
        time.sleep(_TURN_SECONDS)


def _is_busy(error: sqlite3.Error) -> bool:
    """Whether another process was in the way, also with recovering the log: the low byte says so."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


F = TypeVar("F")


def _forget(future: asyncio.Future[F]) -> None:
    """Nobody waits for it any more: mark its error as seen."""
    if not future.cancelled():
        future.exception()
