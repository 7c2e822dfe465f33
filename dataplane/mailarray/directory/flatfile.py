"""A mailbox database in one flat file: for one machine, and for a few thousand accounts in a Secret.

The file is read again within a second of a change. A file with a bad line is refused as a whole, aloud, and the
accounts from before stay: mail for them is never bounced for a typing error. Called by SMTP listeners (`resolve`,
on the event loop for every RCPT) and access servers (`verify`). The file's format is in `accounts_file.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mailarray.contract.settings import DirectorySettings
from mailarray.directory import metrics
from mailarray.directory.accounts_file import AccountLine, AccountsError, AccountTable, parse
from mailarray.directory.addresses import split
from mailarray.directory.directory import Account, NotFound
from mailarray.directory.passwords import PasswordChecker
from mailarray.directory.resolving import Resolver

POLL_SECONDS = 1.0  # one stat a second costs nothing, and works where inotify does not (a mounted Secret)
MAX_FILE_SIZE = 64 << 20  # bytes; some 400,000 accounts, far beyond what a flat file is for

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]  # mtime_ns, size, inode


class DirectoryError(Exception):
    """The mailbox database cannot be used; the text is one sentence for a person."""


class FlatFileDirectory:
    """The `Directory` of a flat file."""

    def __init__(
        self,
        settings: DirectorySettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        checker: PasswordChecker | None = None,
    ) -> None:
        if settings.accounts_file is None:
            raise ValueError("the settings name no accounts_file")
        self._path = Path(settings.accounts_file)
        self._checker = checker or PasswordChecker(clock=clock)
        self._resolver = Resolver(settings.domains, self, self._checker)
        self._table = AccountTable()
        self._stamp: _Stamp | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.problem: str | None = None  # why the file as it is now is not used; None when it is

    async def start(self) -> None:
        """Read the file and watch it. Raises DirectoryError with one sentence when it cannot be used."""
        try:
            self._stamp, table = await asyncio.to_thread(self._read)
        except (OSError, AccountsError) as error:
            raise DirectoryError(self._sentence(error)) from error
        self._use(table)
        self._watcher = asyncio.create_task(self._watch(), name="accounts file")

    async def stop(self) -> None:
        """End the watch."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        self._checker.close()

    # -- Directory -------------------------------------------------------------------------------------
    def resolve(self, recipient: str) -> Account | NotFound:
        """See `Directory`."""
        return self._resolver.resolve(recipient)

    async def verify(self, login: str, password: str) -> Account | None:
        """See `Directory`."""
        return await self._resolver.verify(login, password)

    # -- resolving.Accounts ----------------------------------------------------------------------------
    def find(self, address: str) -> AccountLine | None:
        """The account of a canonical address or alias."""
        return self._table.find(address)

    def first(self) -> AccountLine | None:
        """The first account of the file."""
        return next(iter(self._table.accounts.values()), None)

    def borrowed_hash(self) -> str:
        """The first password hash of the file."""
        return next((a.password_hash for a in self._table.accounts.values() if a.password_hash), "")

    # -- the file --------------------------------------------------------------------------------------
    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> bool:
        """Look at the file once; True when new accounts were taken over. Never raises: the old ones stay."""
        try:
            if _stamp(self._path.stat()) == self._stamp:
                return False
            self._stamp, table = await asyncio.to_thread(self._read)
        except (OSError, AccountsError) as error:
            self._keep_old(self._sentence(error))
            return False
        self._use(table)
        metrics.RELOADS.labels("done").inc()
        log.info("accounts read again", extra={"file": str(self._path), "accounts": len(table.accounts)})
        return True

    def _keep_old(self, problem: str) -> None:
        if problem == self.problem:
            return  # said once
        self.problem = problem
        metrics.RELOADS.labels("refused").inc()
        log.error("accounts file refused, the old accounts stay", extra={"problem": problem})

    def _use(self, table: AccountTable) -> None:
        self._table = table
        self._resolver.forget()
        self.problem = None
        self._checker.forget_changed(self._current_hash)
        metrics.ACCOUNTS.set(len(table.accounts))
        for domain, mailbox in self._resolver.postmasters.items():
            local, mailbox_domain = split(mailbox or "")
            if mailbox and table.find(f"{local}@{mailbox_domain}") is None:
                log.warning("postmaster mailbox is not an account", extra={"domain": domain, "mailbox": mailbox})

    def _current_hash(self, address: str) -> str | None:
        line = self._table.accounts.get(address)
        return None if line is None else line.password_hash

    def _read(self) -> tuple[_Stamp, AccountTable]:
        with self._path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))  # before reading: a change meanwhile is seen at the next look
            self._stamp = stamp  # a bad file is read once, not every second
            raw = file.read(MAX_FILE_SIZE + 1)
        if len(raw) > MAX_FILE_SIZE:
            raise AccountsError(
                f"{self._path.name} is larger than {MAX_FILE_SIZE >> 20}Mi; a flat file is not for so many"
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise AccountsError(f"{self._path.name}:{line}: the line is not UTF-8; save the file as UTF-8") from None
        return stamp, parse(text, self._resolver.postmasters, self._path.name)

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{self._path} is not there; make it with `mailarray account add`"
        if isinstance(error, OSError):
            return f"{self._path} cannot be read: {error.strerror}"
        return str(error)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino
