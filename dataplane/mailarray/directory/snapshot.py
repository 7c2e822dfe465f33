"""A mailbox database answered from a snapshot file, whoever keeps that up to date.

RCPT asks on the event loop: two or three pages of a local file, which the system has in memory. A server that starts
with the database away uses the snapshot it has; without any it says DirectoryUnavailable, never that an account is not
there. The file may be replaced or deleted meanwhile: a second later the new one is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from mailarray.contract.settings import DirectorySettings
from mailarray.directory import metrics
from mailarray.directory.accounts_file import AccountLine
from mailarray.directory.directory import Account, DirectoryUnavailable, NotFound
from mailarray.directory.passwords import PasswordChecker
from mailarray.directory.resolving import Resolver
from mailarray.directory.snapshot_file import connect_to_read, read_position

POLL_SECONDS = 1.0  # how long a changed account may go unnoticed among the remembered recipients
BUSY_SECONDS = 0.05  # the event loop waits no longer; a reader waits only while somebody opens or closes the file
CACHE_KIB = 4 * 1024  # the inner pages of a file of a million accounts; the rest is in the system's cache

log = logging.getLogger(__name__)

_SELECT = "SELECT address, CASE WHEN enabled THEN hash ELSE '' END, quota FROM account"


class SnapshotReader:
    """Lookups in one snapshot file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw: sqlite3.Connection | None = None
        self._seen: tuple[int, int, int] | None = None  # device and inode of the file, SQLite's count of its changes
        self.usable = False

    def refresh(self) -> bool:
        """Look at the file; True when it is another one than at the last look, or has changed."""
        before, was_usable = self._seen, self.usable
        try:
            status = self._path.stat()
            if self._raw is None or before is None or before[:2] != (status.st_dev, status.st_ino):
                self.close()
                self._raw = connect_to_read(self._path, busy_seconds=BUSY_SECONDS)
                self._raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            changes = int(self._raw.execute("PRAGMA data_version").fetchone()[0])
            self._seen = (status.st_dev, status.st_ino, changes)
            self.usable = read_position(self._raw) is not None
        except FileNotFoundError:
            self.close()
        except (OSError, sqlite3.Error) as error:
            if not _is_busy(error):
                log.error("snapshot cannot be read", extra={"file": str(self._path), "reason": str(error)})
                self.close()
        return (self._seen, self.usable) != (before, was_usable)

    def find(self, address: str) -> AccountLine | None:
        """See `resolving.Accounts`."""
        row = self._one(f"{_SELECT} WHERE address = ?", address)
        if row is None:
            row = self._one(f"{_SELECT} WHERE address = (SELECT account FROM alias WHERE address = ?)", address)
        return None if row is None else AccountLine(row[0], row[1], (), row[2])

    def first(self) -> AccountLine | None:
        """The oldest account."""
        row = self._one(f"{_SELECT} ORDER BY created, address LIMIT 1")
        return None if row is None else AccountLine(row[0], row[1], (), row[2])

    def borrowed_hash(self) -> str:
        """See `resolving.Accounts`."""
        row = self._one("SELECT hash FROM position")
        return "" if row is None else str(row[0])

    def close(self) -> None:
        """Let go of the file."""
        raw, self._raw = self._raw, None
        self._seen, self.usable = None, False
        if raw is not None:
            with contextlib.suppress(sqlite3.Error):
                raw.close()

    def _one(self, query: str, *values: str) -> tuple[str, str, int | None] | None:
        if self._raw is None or not self.usable:
            raise DirectoryUnavailable("there is no snapshot of the accounts yet")
        try:
            row: tuple[str, str, int | None] | None = self._raw.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise DirectoryUnavailable(f"the snapshot of the accounts cannot be read: {error}") from error
        return row


class SnapshotDirectory:
    """The `Directory` of a snapshot file."""

    def __init__(
        self,
        settings: DirectorySettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        checker: PasswordChecker | None = None,
    ) -> None:
        if settings.snapshot_file is None:
            raise ValueError("the settings name no snapshot_file")
        self._path = settings.snapshot_file
        self._reader = SnapshotReader(Path(settings.snapshot_file))
        self._checker = checker or PasswordChecker(clock=clock)
        self._resolver = Resolver(settings.domains, self._reader, self._checker)
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what there is, and watch it."""
        self.refresh()
        if not self._reader.usable:
            log.warning("no snapshot of the accounts yet, recipients are put off", extra={"file": self._path})
        self._watcher = asyncio.create_task(self._watch(), name="accounts snapshot")

    async def stop(self) -> None:
        """End the watch."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        self._checker.close()
        self._reader.close()

    def resolve(self, recipient: str) -> Account | NotFound:
        """See `Directory`."""
        return self._resolver.resolve(recipient)

    async def verify(self, login: str, password: str) -> Account | None:
        """See `Directory`."""
        return await self._resolver.verify(login, password)

    def refresh(self) -> None:
        """Look at the file once; never raises."""
        was_usable = self._reader.usable
        if self._reader.refresh():
            self._resolver.forget()
            metrics.RELOADS.labels("done").inc()
        if self._reader.usable != was_usable:
            log.info("snapshot of the accounts", extra={"file": self._path, "usable": self._reader.usable})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.refresh()


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
