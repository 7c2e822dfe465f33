"""A process's own copy of the accounts: one SQLite file, so that a million accounts cost little memory.

    PRAGMA user_version   the format, 1; set when the first copy is complete: 0 is no snapshot yet
    position              one row: revision and stamp of the database's history (rows.py), and any password hash
    account               address, hash, quota, enabled, created
    alias                 address, account

Invariants:
- The file always holds the accounts of one moment: a change is one SQLite transaction, its position in it. A writer
  that is killed leaves the moment before.
- It is only ever opened through SQLite: closing any other descriptor would drop the locks that the process has on it.
- Write-ahead logging: nobody who reads waits for the writer.
- Another history (the database was made anew, or restored) takes the place of this one only when it has at least half
  as many accounts, or a person said that it is right: a database that came up empty, or is still being filled, would
  have mail for everybody refused for good.
- It can be deleted at any time, and is made anew when it is damaged or of another format: the accounts are in the
  database.

Written by a keeper (`keeping.py`) alone; read by `SnapshotReader` in the same process or another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailarray.directory.rows import AccountRow, AliasRow, Position, TooFewAccounts

FORMAT = 1
FILE_MODE = 0o600  # password hashes are in it
BUSY_SECONDS = 5.0  # only the moment in which a connection is opened or closed is ever waited for
CACHE_KIB = 16 * 1024  # of the writer; filling a file in no order touches all its pages
FEWEST = 0.5  # of the accounts: a history with less is not followed; a restored backup never lacks so many
DUMP_ROWS = 1000  # rows that `dump` yields at a time

_TABLES = """
CREATE TABLE position (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, stamp INTEGER NOT NULL, hash TEXT NOT NULL);
CREATE TABLE account (
    address TEXT PRIMARY KEY, hash TEXT NOT NULL, quota INTEGER, enabled INTEGER NOT NULL, created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE alias (address TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID;
"""

_INDEX = "CREATE INDEX IF NOT EXISTS account_created ON account (created, address)"  # made when the table is full

T = TypeVar("T")


class SnapshotError(Exception):
    """The snapshot cannot be written; one sentence."""


class SnapshotWriter:
    """A `rows.Sink` that keeps the file. One at a time for a file; its work is done in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._sample = ""
        self._before = 0  # accounts that the history had which is about to be replaced; 0 when that is right
        self._closed = False

    async def position(self) -> Position | None:
        """Where the file stands; None when there is no snapshot. Raises SnapshotError."""
        return await self._do(self._position)

    async def begin(self, *, whole: bool, accepted: bool = False) -> None:
        """See `rows.Sink`."""
        await self._do(lambda: self._begin(whole, accepted))

    async def add(self, accounts: Sequence[AccountRow], aliases: Sequence[AliasRow]) -> None:
        """See `rows.Sink`."""
        await self._do(lambda: self._add(accounts, aliases))

    async def commit(self, position: Position) -> None:
        """See `rows.Sink`."""
        await self._do(lambda: self._commit(position))

    async def abandon(self) -> None:
        """See `rows.Sink`."""
        await self._do(self._abandon)

    async def close(self) -> None:
        """After what is under way; the file stays."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _do(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, step)

    # -- in the thread -----------------------------------------------------------------------------------
    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            self._disconnect()
            if damaged:
                self._remove()
                raise SnapshotError(f"the snapshot {self._path} was damaged ({error}) and is made anew") from error
            raise SnapshotError(f"the snapshot {self._path} cannot be written: {error}") from error
        except OSError as error:
            self._disconnect()
            raise SnapshotError(f"the snapshot {self._path} cannot be written: {error.strerror}") from error

    def _connection(self) -> sqlite3.Connection:
        if self._raw is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                os.mknod(self._path, FILE_MODE | stat.S_IFREG)  # unlike open, leaves no descriptor to close
            self._raw = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._raw.execute("PRAGMA journal_mode = WAL").fetchone()
            # Without a sync a power cut may lose the last changes, never mix them: they come again from the database.
            self._raw.execute("PRAGMA synchronous = NORMAL")
            self._raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return self._raw

    def _position(self) -> Position | None:
        return read_position(self._connection())

    def _begin(self, whole: bool, accepted: bool) -> None:
        raw = self._connection()
        raw.execute("BEGIN IMMEDIATE")
        self._sample, self._before = "", 0
        if whole:
            if not accepted and read_position(raw) is not None:
                self._before = _count(raw)
            for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                raw.execute(f'DROP TABLE "{name}"')
            for statement in _TABLES.split(";\n"):
                raw.execute(statement)
            raw.execute(f"PRAGMA user_version = {FORMAT}")
        else:
            self._sample = raw.execute("SELECT hash FROM position").fetchone()[0]

    def _add(self, accounts: Sequence[AccountRow], aliases: Sequence[AliasRow]) -> None:
        raw = self._connection()
        self._sample = self._sample or next((a.password_hash for a in accounts if a.password_hash), "")
        raw.executemany("DELETE FROM account WHERE address = ?", [(a.address,) for a in accounts if a.removed])
        raw.executemany(
            "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?)",
            [(a.address, a.password_hash, a.quota, a.enabled, a.created) for a in accounts if not a.removed],
        )
        raw.executemany("DELETE FROM alias WHERE address = ?", [(a.address,) for a in aliases if a.removed])
        raw.executemany(
            "INSERT OR REPLACE INTO alias VALUES (?, ?)", [(a.address, a.account) for a in aliases if not a.removed]
        )

    def _commit(self, position: Position) -> None:
        raw = self._connection()
        if self._before and (there := _count(raw)) < self._before * FEWEST:
            raise TooFewAccounts(
                f"the database's accounts have another history, and are {there} where there were {self._before}; "
                "restore the backup or import all accounts, or run `mailarray account accept` if so few are right"
            )
        raw.execute("INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?)", (*position, self._sample))
        raw.execute(_INDEX)
        raw.execute("COMMIT")

    def _abandon(self) -> None:
        if self._raw is not None and self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def _disconnect(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def connect_to_read(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """A connection that changes nothing. Raises sqlite3.Error, also when the file is not there."""
    # Not mode=ro: the first to open a file that a killed writer left has to replay its log.
    raw = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    raw.execute("PRAGMA query_only = ON")
    return raw


def read_position(raw: sqlite3.Connection) -> Position | None:
    """Where a file stands; None when it holds no snapshot of this format. Raises sqlite3.Error."""
    if raw.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        return None
    row = raw.execute("SELECT revision, stamp FROM position").fetchone()
    return None if row is None else Position(*row)


def _count(raw: sqlite3.Connection) -> int:
    return int(raw.execute("SELECT count(*) FROM account").fetchone()[0])


def dump(path: Path) -> Generator[Position | list[AccountRow] | list[AliasRow], None, None]:
    """A file's position, then its rows, all of one moment; nothing when there is no snapshot.

    Raises sqlite3.Error. Each step may run in another thread than the one before.
    """
    with contextlib.closing(connect_to_read(path, busy_seconds=BUSY_SECONDS)) as raw:
        raw.execute("BEGIN")
        position = read_position(raw)
        if position is None:
            return
        yield position
        accounts = raw.execute("SELECT address, hash, quota, enabled, created FROM account")
        while rows := accounts.fetchmany(DUMP_ROWS):
            yield [AccountRow(a, stored, quota, bool(on), made, False) for a, stored, quota, on, made in rows]
        aliases = raw.execute("SELECT address, account FROM alias")
        while names := aliases.fetchmany(DUMP_ROWS):
            yield [AliasRow(address, target, False) for address, target in names]
